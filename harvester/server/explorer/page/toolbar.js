// The tools above the chart: intervals, buttons that move the view, and a date to go to.

import { element, iso, whole } from "./format.js";
import { GENTLE_NOTCH, NOTCH, panned, zoomed } from "./gestures.js";
import { change, state } from "./state.js";

const INTERVALS = ["auto", "1s", "5s", "15s", "1m", "5m", "15m", "1h", "4h", "1d", "1w"];
const LATEST_MS = Date.UTC(2100, 0, 1);

const byId = (id) => document.getElementById(id);
const wheel = byId("wheel");

/**
 * Start: `view()` returns the visible range, `showWhole()` and `showNewest()` show all of it and
 * its end, and `problem(text)` shows what is wrong.
 */
export function startTools({ view, showWhole, showNewest, problem }) {
  const typed = element("input", { placeholder: "7m", ariaLabel: "Another interval, such as 7m" });
  const choose = (interval) => change({ interval });
  byId("interval").append(...INTERVALS.map((name) => {
    const button = element("button", { type: "button", textContent: name });
    button.addEventListener("click", () => choose(name));
    return button;
  }), typed, element("span", { id: "interval-note", className: "faint", role: "status" }));
  typed.addEventListener("change", () => typed.value.trim() && choose(typed.value.trim()));
  const buttons = {
    whole: showWhole,
    earlier: () => move(panned(view(), -0.5)),
    later: () => move(panned(view(), 0.5)),
    closer: () => move(zoomed(view(), 0.5)),
    wider: () => move(zoomed(view(), 2)),
    "newest-view": showNewest,
    wheel: () => change({ wheel: state.wheel ? "" : "gentle" }),
  };
  for (const [id, run] of Object.entries(buttons)) byId(id).addEventListener("click", run);
  byId("jump").addEventListener("submit", (event) => {
    event.preventDefault();
    jumpTo(byId("jump-time").value.trim(), problem);
  });
}

/** Show a range, within the times that there are. */
export function move({ since, until }, options = {}) {
  change({ since: Math.max(since, 0), until: Math.min(Math.max(until, 1000), LATEST_MS) }, options);
}

/** Show how far a notch of the wheel zooms. */
export function markWheel() {
  wheel.textContent = `wheel ×${state.wheel ? GENTLE_NOTCH : NOTCH}`;
  wheel.setAttribute("aria-pressed", Boolean(state.wheel));
}

/** Show which interval is drawn, and which one was asked for; without candles, only the latter. */
export function markInterval(candles) {
  const box = byId("interval");
  for (const button of box.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button.textContent === state.interval);
    button.classList.toggle("drawn", button.textContent === candles?.interval);
  }
  box.dataset.interval = candles?.interval ?? "";
  box.querySelector("input").value = INTERVALS.includes(state.interval) ? "" : state.interval;
  byId("interval-note").textContent =
    candles?.is_coarser ? `${candles.requested} is too short here: ${candles.interval} is drawn` : "";
  const left = candles?.unstored_left_out;
  byId("live").textContent = left ? `${whole(left)} short parts that are not stored are not drawn` : "";
}

/** Go to a year, a month, a day, an hour or a minute: the shorter the text, the wider the view. */
function jumpTo(text, problem) {
  const [, date, clock] =
    /^(\d{4}(?:-\d{2}(?:-\d{2})?)?)(?:[ T](\d{2}(?::\d{2}(?::\d{2}(?:\.\d{1,3})?)?)?)(?: ?UTC|Z)?)?$/.exec(text) ?? [];
  const isDate = clock === undefined;
  const isWhole = isDate || date?.length === 10;
  const time = Date.parse(isDate ? date : `${date}T${clock.length === 2 ? `${clock}:00` : clock}Z`);
  // The browser reads 31 February as a day of March.
  const isReal = !Number.isNaN(time) && iso(time).startsWith(date);
  if (!isWhole || !isReal) {
    problem(`${text} is no date or time: give one such as 2021, 2021-03 or 2021-03-13 12:30 (UTC)`);
    return;
  }
  const length = date.length + (isDate ? 0 : 1 + clock.length);
  change({ since: time, until: endOf(time, length), at: isDate ? null : time });
}

/** When the year, month, day, hour or two minutes end that begin at a time, by the length of its text. */
function endOf(time, length) {
  const date = new Date(time);
  if (length <= 4) return date.setUTCFullYear(date.getUTCFullYear() + 1);
  if (length <= 7) return date.setUTCMonth(date.getUTCMonth() + 1);
  return time + (length <= 10 ? 864e5 : length <= 16 ? 36e5 : 12e4);
}
