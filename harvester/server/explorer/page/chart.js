// The chart of candles, vwap and volume: draws an answer, and turns wheel, drag and keys into views.

import { candleAt, extent } from "./candles.js";
import { colour, plotLayout, shortTime } from "./format.js";

const MARGIN = { l: 8, r: 66, t: 8, b: 38 };
const WHEEL_FACTOR = 8;
const NARROWEST_MS = 1000;
const REST_MS = 300;
const LABELS = 4;
const SHADES = { "not downloaded": "gap", "not requested": "never", "no trades": "quiet" };
const LEGEND = [
  ["open", "open"], ["high", "high"], ["low", "low"], ["close", "close"], ["vwap", "vwap"],
  ["volume", "volume"], ["buy_volume", "buy"], ["sell_volume", "sell"], ["count", "trades"],
];

const box = document.getElementById("chart");
const plot = document.getElementById("plot");
const cross = document.getElementById("cross");
const legend = document.getElementById("legend");

/** Plotly's script takes a while: the data is asked for meanwhile. */
export const plotly = new Promise((ready, fail) => {
  const script = Object.assign(document.createElement("script"), { src: "plotly/plotly.min.js" });
  script.addEventListener("load", ready);
  script.addEventListener("error", () => fail(new Error("plotly.min.js can't be loaded")));
  document.head.append(script);
});

let candles = null;
let view = { since: 0, until: 1 };
let handlers = {};
let cursor = null;
let pinned = null;

/**
 * Start: `moved(view)` is called after zoom and pan, `picked(ms)` when a candle is chosen, and
 * `rested()` when the mouse rests, with the crosshair at another candle.
 */
export function startChart(given) {
  handlers = given;
  box.addEventListener("wheel", zoomByWheel, { passive: false });
  let resting = 0;
  box.addEventListener("pointermove", (event) => {
    pointAt(timeAt(event.clientX), event.clientY);
    clearTimeout(resting);
    resting = setTimeout(() => handlers.rested(), REST_MS);
  });
  box.addEventListener("pointerleave", () => {
    clearTimeout(resting);
    pointAt(null);
  });
  box.addEventListener("keydown", byKey);
  trackClicks();
  new ResizeObserver(() => candles && Plotly.Plots.resize(plot)).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

/** Draw candles in a view once `plotly` is loaded; what was drawn before stays until now. */
export async function showCandles(found, shown) {
  candles = found;
  view = shown;
  await draw();
}

/** Keep the crosshair at a time while the mouse is elsewhere; null for nowhere. */
export function pin(ms) {
  pinned = ms;
  pointAt(cursor);
}

/** Move to a view with the candles that are there; those that come into view are loaded later. */
export function showView(shown) {
  view = shown;
  if (candles) Plotly.relayout(plot, axes());
  placeCross();
}

/** When the candle opens that the mouse is over; null if it is elsewhere. */
export function candleUnderMouse() {
  return cursor === null || !candles?.time.length ? null : candles.time[candleAt(candles, cursor)];
}

/** Forget the candles of another pair. */
export function clearChart() {
  candles = null;
  cursor = pinned = null;
  window.Plotly?.purge(plot);
  showLegend(-1);
}

export function setBusy(isBusy) {
  document.getElementById("busy").hidden = !isBusy;
  box.setAttribute("aria-busy", isBusy);
}

/** A view zoomed about a time: a factor below 1 zooms in. */
export function zoomed(shown, factor, about = (shown.since + shown.until) / 2) {
  const width = Math.max((shown.until - shown.since) * factor, NARROWEST_MS);
  const since = about - ((about - shown.since) / (shown.until - shown.since)) * width;
  return { since: Math.round(since), until: Math.round(since + width) };
}

/** A view moved by a part of its width. */
export function panned(shown, part) {
  const step = Math.round((shown.until - shown.since) * part);
  return { since: shown.since + step, until: shown.until + step };
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
    yaxis: { ...axis, side: "right", domain: [0.24, 1], fixedrange: true, exponentformat: "none" },
    yaxis2: { ...axis, side: "right", domain: [0, 0.2], fixedrange: true, rangemode: "tozero" },
  }));
  const ranges = axes();
  for (const [path, range] of Object.entries(ranges)) layout[path.split(".")[0]].range = range;
  const drawn = candles;
  // Purging a plot removes its events, but not its class.
  const isNew = !plot.on;
  const options = { displayModeBar: false, scrollZoom: false, doubleClick: false };
  const drawing = Plotly.react(plot, traces(), layout, options);
  if (isNew) plot.on("plotly_relayout", readPan);
  await drawing;
  if (candles !== drawn) return;
  box.dataset.interval = candles.interval;
  box.dataset.candles = candles.time.length;
  placeCross();
  showLegend(shownIndex());
}

function traces() {
  const { time, numbers, texts, width } = candles;
  const x = time.map((open) => open + width / 2);
  const spaced = widthSetter(x, width);
  const unknown = numbers.volume.map((all, index) =>
    Math.max(0, all - numbers.buy_volume[index] - numbers.sell_volume[index]));
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
    { type: "scatter", mode: "lines", ...vwapLine(x), line: { color: colour("vwap"), width: 1 } },
    {
      type: "scatter", mode: "markers",
      x: marked.map((index) => x[index]), y: marked.map((index) => numbers.high[index]),
      marker: { symbol: "circle-open", size: 8, color: colour("ink") },
    },
    bar(numbers.buy_volume, "up"),
    bar(numbers.sell_volume, "down"),
    bar(unknown, "unknown"),
  ];
}

/** Plotly makes candles as wide as the least distance of two: an empty one sets it if need be. */
function widthSetter(x, width) {
  const isClose = x.some((at, index) => index > 0 && at - x[index - 1] < width * 1.5);
  return isClose || !x.length ? { x, none: [] } : { x: [...x, x.at(-1) + width], none: [null] };
}

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
    x0: since, x1: Math.max(until, since + narrowest), fillcolor: colour(`${SHADES[kind]}-shade`),
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
      x: (since + until) / 2, y: 0.97, xref: "x", yref: "paper", text: kind, showarrow: false,
      font: { color: colour("ink"), size: 12 },
    }));
}

/** Ranges of all axes: prices and volumes follow the visible time. */
function axes() {
  const ranges = { "xaxis.range": [view.since, view.until] };
  const found = extent(candles, view.since, view.until);
  if (found) {
    const space = (found.high - found.low || Math.abs(found.high) * 0.001 || 1) * 0.06;
    ranges["yaxis.range"] = [found.low - space, found.high + space];
    ranges["yaxis2.range"] = [0, found.most * 1.05 || 1];
  }
  return ranges;
}

// --- the mouse and the keyboard ------------------------------------------------------------------

const plotWidth = () => Math.max(box.clientWidth - MARGIN.l - MARGIN.r, 1);

function timeAt(clientX) {
  const part = (clientX - box.getBoundingClientRect().left - box.clientLeft - MARGIN.l) / plotWidth();
  return view.since + Math.min(Math.max(part, 0), 1) * (view.until - view.since);
}

function zoomByWheel(event) {
  event.preventDefault();
  if (!candles) return;
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    handlers.moved(panned(view, Math.max(-1, Math.min(1, event.deltaX / 400))));
    return;
  }
  // A notch of a wheel is a factor of 8, so that years become a minute in eight; a trackpad sends
  // small steps.
  const notches = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY / 100 : Math.sign(event.deltaY);
  const factor = WHEEL_FACTOR ** Math.max(-1, Math.min(1, notches));
  handlers.moved(zoomed(view, factor, timeAt(event.clientX)));
}

function readPan(changed) {
  const since = changed["xaxis.range[0]"];
  if (since === undefined) return;
  const time = (text) => (typeof text === "number" ? text : Date.parse(`${text.replace(" ", "T")}Z`));
  const dayOnly = (text) => (typeof text === "string" && text.length === 10 ? `${text} 00:00` : text);
  const [from, to] = [since, changed["xaxis.range[1]"]].map((end) => Math.round(time(dayOnly(end))));
  handlers.moved({ since: from, until: to });
}

/** A click without a drag picks its time. */
function trackClicks() {
  let down = null;
  box.addEventListener("pointerdown", (event) => (down = [event.clientX, event.clientY]), true);
  window.addEventListener("pointerup", (event) => {
    const isClick = down && Math.hypot(event.clientX - down[0], event.clientY - down[1]) < 4;
    if (isClick && candles) {
      pointAt(timeAt(event.clientX), event.clientY);
      pick();
    }
    down = null;
  }, true);
}

function pick() {
  const index = crossTime() === null ? -1 : candleAt(candles, crossTime());
  if (index >= 0) handlers.picked(candles.time[index]);
}

function byKey(event) {
  if (!candles || event.ctrlKey || event.altKey || event.metaKey) return;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step && event.shiftKey) moveCross(step);
  else if (step) handlers.moved(panned(view, step / 4));
  else if (event.key === "+" || event.key === "=") handlers.moved(zoomed(view, 1 / 2, crossTime() ?? undefined));
  else if (event.key === "-") handlers.moved(zoomed(view, 2, crossTime() ?? undefined));
  else if (event.key === "Home") handlers.whole();
  else if (event.key === "End") handlers.newest();
  else if (event.key === "Enter") pick();
  else return;
  event.preventDefault();
}

function moveCross(step) {
  const last = candles.time.length - 1;
  const from = crossTime() === null ? last + 1 : candleAt(candles, crossTime());
  const index = Math.max(0, Math.min(last, from + step));
  if (index <= last) pointAt(candles.time[index] + candles.width / 2);
}

// --- crosshair and legend ------------------------------------------------------------------------

function pointAt(ms, clientY = null) {
  cursor = ms;
  cross.querySelector("b").hidden = clientY === null;
  if (clientY !== null) cross.querySelector("b").style.top = `${clientY - box.getBoundingClientRect().top}px`;
  placeCross();
  if (candles) showLegend(shownIndex());
}

/** The time under the mouse, or else the pinned one in the middle of its candle. */
function crossTime() {
  if (cursor !== null || pinned === null || !candles) return cursor;
  const open = candles.time[candleAt(candles, pinned)];
  return open <= pinned && pinned < open + candles.width ? open + candles.width / 2 : pinned;
}

/** The candle whose figures are shown: that of the crosshair, or else the last one. */
function shownIndex() {
  const at = crossTime();
  return at === null ? candles.time.length - 1 : candleAt(candles, at);
}

function placeCross() {
  const at = crossTime();
  cross.hidden = !candles || at === null || at < view.since || at > view.until;
  if (cross.hidden) return;
  const part = (at - view.since) / (view.until - view.since);
  cross.querySelector("i").style.left = `${MARGIN.l + part * plotWidth()}px`;
}

/** The shade at a time, which the nearest candle does not contain. */
function shadeAt(at, nearest) {
  const open = candles.time[nearest];
  if (open <= at && at < open + candles.width) return undefined;
  return candles.shades.find(([, since, until]) => since <= at && at < until);
}

/** Show the exact figures of a candle, or which kind of shade the crosshair is at; -1 for none. */
function showLegend(index) {
  legend.replaceChildren();
  if (index < 0 || !candles) return;
  const at = crossTime();
  const shade = at === null ? undefined : shadeAt(at, index);
  const add = (label, text, field) => {
    const value = document.createElement("dd");
    value.textContent = text;
    value.dataset.field = field;
    const row = document.createElement("div");
    if (label) row.append(Object.assign(document.createElement("dt"), { textContent: label }));
    row.append(value);
    legend.append(row);
  };
  if (shade) {
    add("", `${shortTime(at - (at % 1000))} UTC, ${shade[0]}`, "time");
    return;
  }
  const note = candles.incomplete.has(index) ? ", incomplete" : "";
  add("", `${shortTime(candles.time[index], candles.width)} UTC, ${candles.interval}${note}`, "time");
  for (const [field, label] of LEGEND) add(label, candles.texts[field][index] || "none", field);
}
