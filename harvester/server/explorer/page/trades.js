// The trades around the crosshair, page by page in the exchange's order.

import { get, Latest } from "./api.js";
import { element, onTimeClick, shortTime, timeButton, whole } from "./format.js";

const COUNT = 100;
const COLUMNS = ["time", "price", "volume", "side", "order_type", "trade_id", "misc"];
const NUMBERS = ["price", "volume", "trade_id"];

const table = document.getElementById("trades-table");
const note = document.getElementById("trades-note");
const latest = new Latest();
let shown = { rows: [], at: null, copy: null };
let pair = "";
let fail = () => {};
let hasPaged = false;

/** Start; `failed(fault)` shows an error, and `goTo(ms)` shows a time in the chart. */
export function startTrades(failed, goTo) {
  fail = failed;
  onTimeClick(table, goTo);
  const button = (id, place) =>
    document.getElementById(id).addEventListener("click", () => {
      const asked = place();
      if (!pair || !asked) return;
      hasPaged = true;
      load(asked, null);
    });
  // Where no row is shown, nothing is earlier, and all trades are later.
  const next = (side, row, otherwise) => (row ? `${side}:${row.time_ns}.${row.tie}` : otherwise);
  button("trades-oldest", () => "oldest");
  button("trades-newest", () => "newest");
  button("trades-before", () => next("before", shown.rows[0], null));
  button("trades-after", () => next("after", shown.rows.at(-1), "oldest"));
}

/** Show the trades around a time; without one, the last trades before the end of the view. */
export function showTrades(shownPair, at, until) {
  hasPaged = false;
  pair = shownPair;
  return load(at === null ? `before:${until}000000.0` : `at:${new Date(at).toISOString()}`, at);
}

export const tradeTexts = () => shown.copy;

/** Whether the reader has gone to another page since trades were shown. */
export const tradesPaged = () => hasPaged;

/** Forget the trades of another pair. */
export function clearTrades() {
  latest.cancel();
  hasPaged = false;
  pair = "";
  shown = { rows: [], at: null, copy: null };
  table.replaceChildren();
  note.textContent = "";
}

async function load(place, at) {
  try {
    const answer = await latest.run((signal) => get("trades", { pair, place, count: COUNT }, signal));
    if (!answer) return;
    if (!answer.trades.length && shown.rows.length) {
      note.textContent = "there are no more trades in this direction";
      return;
    }
    shown = { rows: answer.trades, at, copy: answer.copy };
    draw();
  } catch (fault) {
    fail(fault);
  }
}

function draw() {
  const title = (name) => (name === "time" ? "time (UTC)" : name.replace("_", " "));
  const header = element("tr", {}, ...COLUMNS.map((name) =>
    element("th", { className: NUMBERS.includes(name) ? "number" : "" }, title(name))));
  const rows = shown.rows.map((trade) => element("tr", {}, ...COLUMNS.map((name) => cell(trade, name))));
  table.replaceChildren(element("thead", {}, header), element("tbody", {}, ...rows));
  note.textContent = `${whole(shown.rows.length)} trades; point at the chart for others`;
  if (shown.at === null) return;
  const first = shown.rows.findIndex((trade) => BigInt(trade.time_ns) >= BigInt(shown.at) * 1000000n);
  if (first < 0) return;
  rows[first].className = "here";
  const box = table.parentElement;
  box.scrollTop = rows[first].offsetTop - box.clientHeight / 3;
  note.textContent = `${whole(shown.rows.length)} trades around ${shortTime(shown.at)}`;
}

function cell(trade, name) {
  const value = trade[name];
  const className = name === "side" ? value ?? "" : NUMBERS.includes(name) ? "number" : "";
  const text = value === null ? "" : String(value);
  const shownTime = () => timeButton(value, value.replace("T", " ").replace("Z", ""));
  return element("td", { className }, name === "time" ? shownTime() : text);
}
