// What the page shows, as the part of its address after `#`: a view can be shared, and "back" works.

import { iso } from "./format.js";

const DEFAULTS = {
  pair: "", since: null, until: null, interval: "auto", tab: "trades", at: null, other: "", sql: "", wheel: "",
};
const TIMES = ["since", "until", "at"];
const GESTURE_MS = 800;

const listeners = [];
let changedAt = 0;

/** The present state; change it by `change` only. Times are UNIX milliseconds or null. */
export let state = read();

/** Call `listener(state, before)` after each change, also by "back". */
export function onChange(listener) {
  listeners.push(listener);
}

/** Change some fields. Changes in quick succession, as by a wheel, are one step of "back". */
export function change(fields, { isStep = true } = {}) {
  const now = performance.now();
  const before = state;
  const after = { ...state, ...fields };
  // This fails for what is no time, which must not become the state.
  const address = `#${write(after)}`;
  state = after;
  if (address === location.hash) return;
  const isNew = isStep && now - changedAt > GESTURE_MS;
  history[isNew ? "pushState" : "replaceState"](null, "", address);
  if (isStep) changedAt = now;
  notify(before);
}

function notify(before) {
  for (const listener of listeners) listener(state, before);
}

function read() {
  const params = new URLSearchParams(location.hash.slice(1));
  const found = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) if (params.has(name)) found[name] = params.get(name);
  for (const name of TIMES) {
    const time = found[name] === null ? NaN : Date.parse(found[name]);
    found[name] = Number.isNaN(time) ? null : time;
  }
  if (!(found.since < found.until)) found.since = found.until = null;
  return found;
}

function write(fields) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    if (value === null || value === DEFAULTS[name]) continue;
    params.set(name, TIMES.includes(name) ? iso(value) : value);
  }
  return params.toString();
}

window.addEventListener("popstate", () => {
  const before = state;
  state = read();
  changedAt = 0;
  notify(before);
});
