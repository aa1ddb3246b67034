// What lies over the chart: the crosshair with its time and price, the view's highest and lowest
// price, and the legend with the exact figures of the candle at the crosshair.

import { candleAt } from "./candles.js";
import { element, shortTime, viewClock } from "./format.js";

export const MARGIN = { l: 8, r: 66, t: 8, b: 38 };
/** Where prices and volumes are drawn, as parts of the plot's height from below. */
export const DOMAINS = { price: [0.24, 1], volume: [0, 0.2] };
export const SHADES = {
  "gap": { name: "gap", text: "gap (not downloaded)" },
  "not requested": { name: "never", text: "not requested" },
  "no trades": { name: "quiet", text: "no trades" },
  "before the first trade": { name: "quiet", text: "before the first trade" },
};
const LEGEND = [
  ["open", "open"], ["high", "high"], ["low", "low"], ["close", "close"], ["vwap", "vwap"],
  ["volume", "volume"], ["buy_volume", "taker buy"], ["sell_volume", "taker sell"], ["count", "trades"],
];

const box = document.getElementById("chart");
const cross = document.getElementById("cross");
const legend = document.getElementById("legend");
const [upright, level] = [cross.querySelector("i"), cross.querySelector("b")];
const [timeTag, valueTag] = cross.querySelectorAll("span");
const extremes = { high: document.getElementById("high-mark"), low: document.getElementById("low-mark") };

// The candles, the view, and the ranges of prices and volumes that are drawn.
let shown = { candles: null, view: { since: 0, until: 1 }, prices: null, most: 0, extent: null };
let cursor = null;
let cursorY = null;
let pinned = null;

/**
 * Start: `pickExtreme(kind, candles, index)` is called when the `high` or `low` of the view is
 * chosen, with the candle that has it.
 */
export function startMarks(pickExtreme) {
  for (const [kind, button] of Object.entries(extremes)) {
    button.addEventListener("click", () => pickExtreme(kind, shown.candles, shown.extent[`${kind}At`]));
  }
}

/** Place everything over other candles, or another view or other ranges of them. */
export function showMarks(drawn) {
  shown = { ...shown, ...drawn };
  placeCross();
  placeExtremes();
  showLegend(shown.candles ? shownIndex() : -1);
}

/** Keep the crosshair at a time while the mouse is elsewhere; null for nowhere. */
export function pin(ms) {
  pinned = ms;
  pointAt(cursor, cursorY);
}

/** Move the crosshair to a time, or away by null; `clientY` is where the mouse is. */
export function pointAt(ms, clientY = null) {
  cursor = ms;
  cursorY = ms === null ? null : clientY;
  placeCross();
  if (shown.candles) showLegend(shownIndex());
}

export function clearMarks() {
  cursor = cursorY = pinned = null;
  showMarks({ candles: null, extent: null });
}

// --- places --------------------------------------------------------------------------------------

const plotHeight = () => Math.max(box.clientHeight - MARGIN.t - MARGIN.b, 1);
export const plotWidth = () => Math.max(box.clientWidth - MARGIN.l - MARGIN.r, 1);

export function timeAt(clientX) {
  const { since, until } = shown.view;
  const part = (clientX - box.getBoundingClientRect().left - box.clientLeft - MARGIN.l) / plotWidth();
  return since + Math.min(Math.max(part, 0), 1) * (until - since);
}

function xOf(ms) {
  const { since, until } = shown.view;
  return MARGIN.l + ((ms - since) / (until - since)) * plotWidth();
}

function yOfPrice(price) {
  const [low, high] = shown.prices;
  const [bottom, top] = DOMAINS.price;
  const part = bottom + ((price - low) / (high - low)) * (top - bottom);
  return MARGIN.t + (1 - part) * plotHeight();
}

/** The price or the volume at a height of the plot, as text; "" between and beside the two. */
function valueAt(y) {
  if (!shown.prices) return "";
  const part = 1 - (y - MARGIN.t) / plotHeight();
  const within = ([bottom, top]) => (part < bottom || part > top ? null : (part - bottom) / (top - bottom));
  const [price, volume] = [within(DOMAINS.price), within(DOMAINS.volume)];
  const [low, high] = shown.prices;
  if (price !== null) return (low + price * (high - low)).toFixed(shown.candles.decimals);
  return volume === null ? "" : Number((volume * shown.most).toPrecision(4)).toString();
}

// --- crosshair -----------------------------------------------------------------------------------

/** The time under the mouse, or else the pinned one in the middle of its candle. */
export function crossTime() {
  const { candles } = shown;
  if (cursor !== null || pinned === null || !candles) return cursor;
  const open = candles.time[candleAt(candles, pinned)];
  return open <= pinned && pinned < open + candles.width ? open + candles.width / 2 : pinned;
}

/** When the candle opens that the mouse is over; null if it is elsewhere. */
export function candleUnderMouse() {
  const { candles } = shown;
  return cursor === null || !candles?.time.length ? null : candles.time[candleAt(candles, cursor)];
}

/** The candle whose figures are shown: that of the crosshair, or else the last one. */
function shownIndex() {
  const at = crossTime();
  return at === null ? shown.candles.time.length - 1 : candleAt(shown.candles, at);
}

/** When the candle at a time opens, as text; the time itself where there is no candle. */
function openText(at) {
  const { candles, view } = shown;
  const open = candles.time[candleAt(candles, at)];
  const isInside = open <= at && at < open + candles.width;
  return isInside ? shortTime(open, candles.width) : viewClock(at, view.until - view.since);
}

function placeCross() {
  const at = crossTime();
  const { candles, view } = shown;
  cross.hidden = !candles || at === null || at < view.since || at > view.until;
  if (!cross.hidden) placeTags(at);
  clearTicks();
}

function placeTags(at) {
  const x = xOf(at);
  upright.style.left = `${x}px`;
  timeTag.textContent = openText(at);
  const half = timeTag.offsetWidth / 2;
  timeTag.style.left = `${Math.min(Math.max(x, half), box.clientWidth - half)}px`;
  level.hidden = valueTag.hidden = cursorY === null;
  if (cursorY === null) return;
  const y = cursorY - box.getBoundingClientRect().top - box.clientTop;
  level.style.top = valueTag.style.top = `${y}px`;
  valueTag.textContent = valueAt(y);
  valueTag.hidden = !valueTag.textContent;
}

/** Hide the axes' texts that the crosshair's time and price would half cover. */
function clearTicks() {
  const tags = [timeTag, valueTag].map((tag) => tag.getBoundingClientRect());
  for (const tick of box.querySelectorAll(".xtick text, .ytick text, .y2tick text")) {
    const { left, right, top, bottom } = tick.getBoundingClientRect();
    const isCovered = tags.some((tag) =>
      tag.width && left < tag.right && right > tag.left && top < tag.bottom && bottom > tag.top);
    tick.style.visibility = isCovered ? "hidden" : "";
  }
}

// --- highest and lowest --------------------------------------------------------------------------

/** Write the highest and the lowest price beside their candles, on the side that has space. */
function placeExtremes() {
  const { candles, view, extent, prices } = shown;
  for (const [kind, mark] of Object.entries(extremes)) {
    mark.hidden = !candles || !extent || !prices;
    if (mark.hidden) continue;
    const index = extent[`${kind}At`];
    const at = candles.time[index] + candles.width / 2;
    const x = Math.min(Math.max(xOf(at), MARGIN.l), MARGIN.l + plotWidth());
    const isLeft = x > box.clientWidth / 2;
    const text = `${kind} ${candles.texts[kind][index]}`;
    mark.textContent = isLeft ? `${text} →` : `← ${text}`;
    mark.title = `${shortTime(candles.time[index], candles.width)} UTC: go to the trade`;
    mark.style.left = isLeft ? "" : `${x + 2}px`;
    mark.style.right = isLeft ? `${box.clientWidth - x + 2}px` : "";
    mark.style.top = `${yOfPrice(extent[kind])}px`;
  }
}

// --- legend --------------------------------------------------------------------------------------

/** The shade at a time, which the nearest candle does not contain. */
function shadeAt(at, nearest) {
  const open = shown.candles.time[nearest];
  if (open <= at && at < open + shown.candles.width) return undefined;
  return shown.candles.shades.find(([, since, until]) => since <= at && at < until);
}

/** Show the exact figures of a candle, or which kind of shade the crosshair is at; -1 for none. */
function showLegend(index) {
  legend.replaceChildren();
  const { candles } = shown;
  if (index < 0 || !candles) return;
  const at = crossTime();
  const shade = at === null ? undefined : shadeAt(at, index);
  const add = (label, text, field) => {
    const value = element("dd", {}, text);
    value.dataset.field = field;
    legend.append(element("div", {}, label && element("dt", {}, label), value));
  };
  if (shade) {
    add(null, `${shortTime(at - (at % 1000))} UTC, ${SHADES[shade[0]].text}`, "time");
    return;
  }
  const note = candles.incomplete.has(index) ? ", incomplete" : "";
  const label = at === null ? "last candle:" : null;
  add(label, `${shortTime(candles.time[index], candles.width)} UTC, ${candles.interval}${note}`, "time");
  for (const [field, label] of LEGEND) add(label, candles.texts[field][index] || "none", field);
}
