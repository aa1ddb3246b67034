// Wheel, clicks and keys in the chart, as views and times.

import { candleAt } from "./candles.js";
import { crossTime, pointAt, timeAt } from "./crosshair.js";

// A plain notch of a wheel goes from twelve years to a minute in eight; the gentle one is usual.
export const NOTCH = 8;
export const GENTLE_NOTCH = 1.25;
const NOTCH_PIXELS = 50;
const TRACKPAD_FACTOR = 2;
const PINCH_FACTOR = 8;
const WHEEL_PAUSE_MS = 250;
const DOUBLE_CLICK_MS = 400;
const DOUBLE_CLICK_FACTOR = 1 / 4;
const CLICK_PIXELS = 4;
const NARROWEST_MS = 1000;
const REST_MS = 300;

const box = document.getElementById("chart");

let handlers = {};
let wheelAt = -Infinity;
let isNotched = true;
let press = null;

/** Wait until no button is pressed in the chart: drawing it anew ends a drag that has just begun. */
export const released = () => press?.ended;

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

/**
 * Start; of `given`, `drawn()` returns the candles and the view that are drawn, and `isGentle()`
 * whether the wheel zooms gently. The others are called: `moved(view)` after zoom and pan,
 * `picked(ms)` when a candle is chosen, `rested()` when the mouse rests with the crosshair at
 * another candle, and `whole()`, `newest()` and `unpicked()` by their keys.
 */
export function startGestures(given) {
  handlers = given;
  box.addEventListener("wheel", readWheel, { passive: false });
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
  box.addEventListener("keydown", readKey);
  trackClicks();
}

// --- wheel ---------------------------------------------------------------------------------------

function readWheel(event) {
  event.preventDefault();
  const { candles, view } = handlers.drawn();
  if (!candles) return;
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    handlers.moved(panned(view, Math.max(-1, Math.min(1, event.deltaX / 400))));
    return;
  }
  handlers.moved(zoomed(view, wheelFactor(event), timeAt(event.clientX)));
}

/** How far an event zooms: by notches of a wheel, or by the pixels of a trackpad. */
function wheelFactor(event) {
  const isPixels = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL;
  // The first event of a movement tells which it is: a trackpad's later ones may be as long.
  if (event.timeStamp - wheelAt > WHEEL_PAUSE_MS) {
    isNotched = !isPixels || Math.abs(event.deltaY) >= NOTCH_PIXELS;
  }
  wheelAt = event.timeStamp;
  // A pinch on a trackpad arrives as a wheel with Ctrl.
  const isGentle = event.ctrlKey || event.metaKey || handlers.isGentle();
  if (isNotched) return (isGentle ? GENTLE_NOTCH : NOTCH) ** Math.sign(event.deltaY);
  return (event.ctrlKey ? PINCH_FACTOR : TRACKPAD_FACTOR) ** (event.deltaY / 100);
}

// --- clicks --------------------------------------------------------------------------------------

/** A click without a drag picks its time; a second one zooms in there. */
function trackClicks() {
  let down = null;
  let last = { at: -Infinity, x: 0, y: 0 };
  const isNear = (x, y, event) => Math.hypot(event.clientX - x, event.clientY - y) < CLICK_PIXELS;
  box.addEventListener("pointerdown", (event) => {
    down = event.target.closest("button") ? null : [event.clientX, event.clientY];
    if (event.button === 0) press ??= newPress();
  }, true);
  for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, endPress, true);
  window.addEventListener("pointerup", (event) => {
    const { candles, view } = handlers.drawn();
    const isClick = down && candles && isNear(...down, event);
    down = null;
    if (!isClick) return;
    const isDouble = event.timeStamp - last.at < DOUBLE_CLICK_MS && isNear(last.x, last.y, event);
    last = isDouble ? { at: -Infinity, x: 0, y: 0 } : { at: event.timeStamp, x: event.clientX, y: event.clientY };
    if (isDouble) {
      handlers.moved(zoomed(view, DOUBLE_CLICK_FACTOR, timeAt(event.clientX)));
      return;
    }
    pointAt(timeAt(event.clientX), event.clientY);
    pick();
  }, true);
}

function newPress() {
  const begun = {};
  begun.ended = new Promise((end) => (begun.end = end));
  return begun;
}

function endPress() {
  // Later, as the drag itself ends by an event behind this one.
  if (press) setTimeout(press.end);
  press = null;
}

/** Pick the candle at the crosshair; where there is none, its time to the second. */
function pick() {
  const { candles } = handlers.drawn();
  const at = crossTime();
  if (at === null) return;
  const open = candles.time[candleAt(candles, at)];
  const isInside = open <= at && at < open + candles.width;
  handlers.picked(isInside ? open : Math.floor(at / 1000) * 1000);
}

// --- keys ----------------------------------------------------------------------------------------

function readKey(event) {
  const { candles, view } = handlers.drawn();
  if (!candles || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target !== box && event.key === "Enter") return;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step && event.shiftKey) moveCross(step);
  else if (step) handlers.moved(panned(view, step / 4));
  else if (event.key === "+" || event.key === "=") handlers.moved(zoomed(view, 1 / 2, crossTime() ?? undefined));
  else if (event.key === "-") handlers.moved(zoomed(view, 2, crossTime() ?? undefined));
  else if (event.key === "Home") handlers.whole();
  else if (event.key === "End") handlers.newest();
  else if (event.key === "Enter") pick();
  else if (event.key === "Escape") handlers.unpicked();
  else return;
  event.preventDefault();
}

function moveCross(step) {
  const { candles } = handlers.drawn();
  const last = candles.time.length - 1;
  const from = crossTime() === null ? last + 1 : candleAt(candles, crossTime());
  const index = Math.max(0, Math.min(last, from + step));
  if (index <= last) pointAt(candles.time[index] + candles.width / 2);
}
