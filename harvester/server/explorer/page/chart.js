// The chart of candles, vwap and volume: draws an answer in a view, and moves when it is dragged.

import { extent } from "./candles.js";
import { colour, plotLayout } from "./format.js";
import { clearMarks, DOMAINS, MARGIN, plotWidth, SHADES, showMarks } from "./crosshair.js";

const LABELS = 4;
// Space above and below the candles, as a part of their height: there the extremes are written.
const SPACE = 0.08;
const ROUNDING = 1e-9;
// The vwap is drawn over candles of at least this width: it would cover narrower ones.
const VWAP_PIXELS = 3;

const box = document.getElementById("chart");
const plot = document.getElementById("plot");

/** Plotly's script takes a while: the data is asked for meanwhile. */
export const plotly = new Promise((ready, fail) => {
  const settle = () => (window.Plotly ? ready() : fail(new Error("plotly.min.js can't be loaded")));
  const script = document.getElementById("plotly");
  // It may be there already; once the page is complete, it will not come.
  if (window.Plotly || document.readyState === "complete") settle();
  for (const event of ["load", "error"]) script.addEventListener(event, settle);
});

let candles = null;
let view = { since: 0, until: 1 };
let moved = () => {};

/** Start: `given(view)` is called when the chart is dragged, or a part of it is selected. */
export function startChart(given) {
  moved = given;
  new ResizeObserver(() => {
    if (!candles) return;
    showMarks({});
    // The texts of the axes come later.
    Plotly.Plots.resize(plot).then(() => showMarks({}));
  }).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

/** What is drawn: the candles, which are null for none, and the view. */
export const drawn = () => ({ candles, view });

/** Draw candles in a view once `plotly` is loaded; what was drawn before stays until now. */
export async function showCandles(found, shown) {
  candles = found;
  view = shown;
  await draw();
}

/** Move to a view with the candles that are there; those that come into view are loaded later. */
export function showView(shown) {
  view = shown;
  if (candles) Plotly.relayout(plot, axes());
  markView();
}

/** Forget the candles of another pair. */
export function clearChart() {
  candles = null;
  window.Plotly?.purge(plot);
  clearMarks();
}

export function setBusy(isBusy) {
  document.getElementById("busy").hidden = !isBusy;
  box.setAttribute("aria-busy", isBusy);
}

// --- drawing -------------------------------------------------------------------------------------

async function draw() {
  if (!candles) return;
  const layout = plotLayout((axis) => ({
    margin: MARGIN,
    barmode: "stack",
    bargap: 0.25,
    dragmode: "pan",
    hovermode: false,
    shapes: shapes(),
    annotations: labels(),
    xaxis: { ...axis, type: "date", rangeslider: { visible: false }, anchor: "y2" },
    yaxis: { ...axis, side: "right", domain: DOMAINS.price, fixedrange: true, exponentformat: "none" },
    yaxis2: { ...axis, side: "right", domain: DOMAINS.volume, fixedrange: true, rangemode: "tozero" },
  }));
  const ranges = axes();
  for (const [path, range] of Object.entries(ranges)) layout[path.split(".")[0]].range = range;
  const drawing = candles;
  // Purging a plot removes its events, but not its class.
  const isNew = !plot.on;
  const options = { displayModeBar: false, scrollZoom: false, doubleClick: false };
  const done = Plotly.react(plot, traces(), layout, options);
  if (isNew) {
    plot.on("plotly_relayout", readRange);
    plot.on("plotly_relayouting", followDrag);
  }
  await done;
  if (candles !== drawing) return;
  box.dataset.interval = candles.interval;
  box.dataset.candles = candles.time.length;
  document.getElementById("vwap-key").hidden = !hasWideCandles();
  markView();
}

/** Place the crosshair, the extremes and the legend over what is drawn. */
function markView() {
  const found = candles && extent(candles, view.since, view.until);
  showMarks({ candles, view, extent: found, prices: found && priceRange(found), most: found ? mostVolume(found) : 0 });
}

function traces() {
  const { time, numbers, texts, width } = candles;
  const x = time.map((open) => open + width / 2);
  const spaced = widthSetter(x, width);
  const unknown = numbers.volume.map((all, index) => {
    const rest = all - numbers.buy_volume[index] - numbers.sell_volume[index];
    return rest > all * ROUNDING ? rest : 0;
  });
  const marked = [...candles.incomplete].filter((index) => texts.low[index] !== undefined);
  const bar = (y, name) => ({
    type: "bar", x: spaced.x, y: [...y, ...spaced.none], yaxis: "y2", marker: { color: colour(name) },
  });
  const price = (name) => [...numbers[name], ...spaced.none];
  return [
    {
      type: "candlestick", x: spaced.x,
      open: price("open"), high: price("high"), low: price("low"), close: price("close"),
      increasing: { line: { color: colour("up"), width: 1 }, fillcolor: colour("up") },
      decreasing: { line: { color: colour("down"), width: 1 }, fillcolor: colour("down") },
      whiskerwidth: 0,
    },
    {
      type: "scatter", mode: "lines", ...vwapLine(x), line: { color: colour("vwap"), width: 1 },
      visible: hasWideCandles(),
    },
    {
      type: "scatter", mode: "markers",
      x: marked.map((index) => x[index]), y: marked.map((index) => numbers.high[index]),
      marker: { symbol: "circle-open", size: 8, color: colour("ink") },
    },
    bar(numbers.buy_volume, "up"),
    bar(numbers.sell_volume, "down"),
    // Where all sides are known, bars without height would only take time.
    ...(unknown.some((volume) => volume > 0) ? [bar(unknown, "unknown")] : []),
  ];
}

/** Plotly makes candles as wide as the least distance of two: an empty one sets it if need be. */
function widthSetter(x, width) {
  const isClose = x.some((at, index) => index > 0 && at - x[index - 1] < width * 1.5);
  return isClose || !x.length ? { x, none: [] } : { x: [...x, x.at(-1) + width], none: [null] };
}

/** Whether a line across the candles would leave them visible. */
const hasWideCandles = () => (candles.width / (view.until - view.since)) * plotWidth() >= VWAP_PIXELS;

/** The vwap as a line that breaks where candles are missing. */
function vwapLine(x) {
  const line = { x: [], y: [] };
  x.forEach((at, index) => {
    if (index > 0 && at - x[index - 1] > candles.width * 1.5) {
      line.x.push(at);
      line.y.push(null);
    }
    line.x.push(at);
    line.y.push(candles.numbers.vwap[index]);
  });
  return line;
}

function shapes() {
  const narrowest = ((view.until - view.since) / plotWidth()) * 2;
  return candles.shades.map(([kind, since, until]) => ({
    type: "rect", xref: "x", yref: "paper", y0: 0, y1: 1, layer: "below", line: { width: 0 },
    x0: since, x1: Math.max(until, since + narrowest), fillcolor: colour(`${SHADES[kind].name}-shade`),
  }));
}

function labels() {
  const least = (view.until - view.since) / 12;
  return candles.shades
    .map(([kind, since, until]) => [kind, Math.max(since, view.since), Math.min(until, view.until)])
    .filter(([, since, until]) => until - since > least)
    .sort((one, other) => other[2] - other[1] - (one[2] - one[1]))
    .slice(0, LABELS)
    .map(([kind, since, until]) => ({
      x: (since + until) / 2, y: 0.97, xref: "x", yref: "paper", text: SHADES[kind].text, showarrow: false,
      font: { color: colour("ink"), size: 12 },
    }));
}

/** Ranges of all axes: prices and volumes follow the visible time. */
function axes() {
  const ranges = { "xaxis.range": [view.since, view.until] };
  const found = extent(candles, view.since, view.until);
  if (found) {
    ranges["yaxis.range"] = priceRange(found);
    ranges["yaxis2.range"] = [0, mostVolume(found)];
  }
  return ranges;
}

function priceRange({ low, high }) {
  const space = (high - low || Math.abs(high) * 0.001 || 1) * SPACE;
  return [low - space, high + space];
}

const mostVolume = ({ most }) => most * 1.05 || 1;

// --- dragging ------------------------------------------------------------------------------------

/** The view of Plotly's event; null if it changes no time. */
function viewOf(changed) {
  const ends = [changed["xaxis.range[0]"], changed["xaxis.range[1]"]];
  if (ends.includes(undefined)) return null;
  const dayOnly = (text) => (typeof text === "string" && text.length === 10 ? `${text} 00:00` : text);
  const time = (end) => (typeof end === "number" ? end : Date.parse(`${dayOnly(end).replace(" ", "T")}Z`));
  const [since, until] = ends.map((end) => Math.round(time(end)));
  return { since, until };
}

function readRange(changed) {
  const dragged = viewOf(changed);
  if (dragged) moved(dragged);
}

/** While the chart is dragged, what lies over it moves too. */
function followDrag(changed) {
  const dragged = viewOf(changed);
  if (dragged) showMarks({ view: dragged });
}
