// The SQL tab: runs a query, shows its rows exactly, draws them, and downloads them.

import { Latest, runSql } from "./api.js";
import { quoted, sqlTime, tradeQuery, typedPrice } from "./find.js";
import { colour, count, element, escaped, iso, onTimeClick, plotLayout, timeButton } from "./format.js";

const MORE_ROWS = 300;
const COLOURS = ["up", "down", "stored", "gap", "unknown"];

const panel = document.getElementById("panel-sql");
const text = document.getElementById("sql-text");
const note = document.getElementById("sql-note");
const table = document.getElementById("sql-table");
const plot = document.getElementById("sql-plot");
const button = (name) => document.getElementById(`sql-${name}`);
const latest = new Latest();
let result = null;
let stated = "";

// By name, the query for a pair: `seen` has its last trade, a price and the minute of the crosshair.
const EXAMPLES = {
  "daily candles": ({ name, yearAgo }) => `FROM ohlc(${name}, '1d', since := TIMESTAMP '${yearAgo}')`,
  "first above a price": ({ pair, price }) => tradeQuery(pair, `price > ${price}`, "time, tie"),
  "highest and lowest price": ({ name }) =>
    `(SELECT 'highest' AS what, price, time FROM trades WHERE pair = ${name} ORDER BY price DESC, time, tie LIMIT 1)\n` +
    "UNION ALL\n" +
    `(SELECT 'lowest', price, time FROM trades WHERE pair = ${name} ORDER BY price, time, tie LIMIT 1)`,
  "a minute by taker side": ({ name, minute }) =>
    "SELECT side, sum(volume) AS volume, sum(price * volume) AS value, count(*) AS trades\n" +
    `FROM trades WHERE pair = ${name}\n` +
    `  AND time >= ${sqlTime(minute)} AND time < ${sqlTime(minute + 6e4)}\nGROUP BY side`,
  "volume by year and side": ({ name }) =>
    "SELECT year, side, sum(volume) AS volume, count(*) AS trades\n" +
    `FROM trades WHERE pair = ${name} GROUP BY year, side ORDER BY year, side`,
  "largest trades": ({ name }) =>
    `SELECT time, price, volume, side FROM trades WHERE pair = ${name}\nORDER BY volume DESC LIMIT 20`,
};

/**
 * Start: `changed(text)` is called when a query is run, `seen()` returns what examples are about:
 * the `pair` of `pairNamed`, and the time `at` the crosshair or null; `goTo(ms)` shows a time of
 * the result in the chart.
 */
export function startSql(changed, seen, goTo) {
  onTimeClick(table, goTo);
  text.addEventListener("input", markOld);
  button("examples").append(...Object.keys(EXAMPLES).map((name) => {
    const insert = element("button", { type: "button" }, name);
    insert.addEventListener("click", () => {
      text.value = example(name, seen());
      markOld();
      text.focus();
    });
    return insert;
  }));
  const start = () => {
    changed(text.value);
    run();
  };
  button("run").addEventListener("click", start);
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start();
  });
  button("cancel").addEventListener("click", () => {
    latest.cancel();
    finish("cancelled");
  });
  button("chart").addEventListener("click", chart);
  button("csv").addEventListener("click", () => download("csv"));
  button("parquet").addEventListener("click", () => download("parquet"));
  table.parentElement.addEventListener("scroll", ({ target }) => {
    if (target.scrollTop + target.clientHeight > target.scrollHeight - 200) addRows();
  });
}

/** Show a query of the address if it is a new one, or suggest one for what is `seen`. */
export function showSql(query, seen) {
  // Only another query of the address replaces what is being typed.
  if (query && query !== stated) text.value = query;
  stated = query;
  if (!text.value) text.value = example("daily candles", seen);
  markOld();
}

/** Grey out the result of another query than the one in the box. */
function markOld() {
  panel.classList.toggle("old", Boolean(result) && result.query !== text.value);
}

/** An example for a pair; its candles are those of a year, as all of them may take long. */
function example(name, { pair, at }) {
  const last = Date.parse(pair?.last ?? new Date().toISOString());
  const moment = at ?? last;
  return EXAMPLES[name]({
    pair: pair?.pair ?? "",
    name: quoted(pair?.pair ?? ""),
    yearAgo: iso(last - 365 * 864e5).slice(0, 10),
    price: typedPrice() || "60000",
    minute: moment - (moment % 6e4),
  });
}

export const sqlTexts = () => result?.copy;

async function run() {
  const begun = performance.now();
  button("cancel").disabled = false;
  button("run").disabled = true;
  note.textContent = "running";
  plot.hidden = true;
  try {
    const query = text.value;
    const answer = await latest.run((signal) => runSql(query, "json", signal));
    if (!answer) return;
    result = { ...answer, query };
    draw();
    const more = (answer.is_cut ? ", and there are more: the explorer shows the first" : "") +
      (answer.has_cut_values ? "; long values are cut" : "");
    finish(`${count(answer.rows.length, "row")} in ${((performance.now() - begun) / 1000).toFixed(2)} s${more}`);
  } catch (fault) {
    result = null;
    table.replaceChildren();
    finish(fault.message);
  }
}

function finish(message) {
  note.textContent = message;
  markOld();
  button("cancel").disabled = true;
  button("run").disabled = false;
  for (const name of ["chart", "csv", "parquet"]) button(name).disabled = !result?.rows.length;
}

function draw() {
  const header = result.columns.map((column) =>
    element("th", { className: column.is_number ? "number" : "" }, column.name, element("small", {}, column.type)));
  table.replaceChildren(element("thead", {}, element("tr", {}, ...header)), element("tbody"));
  table.parentElement.scrollTop = 0;
  addRows();
  // On a low screen the result would come below what is visible.
  table.parentElement.scrollIntoView({ block: "nearest" });
}

/** Add the next rows to the table: ten thousand at once would block the page. */
function addRows() {
  const body = table.tBodies[0];
  if (!result || !body) return;
  const rows = result.rows.slice(body.rows.length, body.rows.length + MORE_ROWS);
  body.append(...rows.map((row) =>
    element("tr", {}, ...row.map((value, index) => cell(value, result.columns[index])))));
}

function cell(value, column) {
  if (value === null) return element("td", { className: "null" }, "null");
  if (!column.type.startsWith("timestamp")) {
    return element("td", { className: column.is_number ? "number" : "", title: value }, value);
  }
  return element("td", {}, timeButton(value));
}

// --- chart this ----------------------------------------------------------------------------------

function chart() {
  const names = result.columns.map((column) => column.name.toLowerCase());
  const values = (index) => result.rows.map((row) => row[index]);
  const indexes = names.map((_, index) => index);
  const timeIndex = indexes.find((index) => /^(timestamp|date)/.test(result.columns[index].type)) ?? -1;
  const numeric = indexes.filter((index) => result.columns[index].is_number);
  // Over time if there is a time, else over the first text, else over the number of the row.
  const across = timeIndex >= 0 ? timeIndex : indexes.find((index) => !numeric.includes(index));
  const x = across === undefined
    ? result.rows.map((_, index) => index + 1)
    : values(across).map(escaped);
  const ohlc = ["open", "high", "low", "close"].map((name) => names.indexOf(name));
  const traces = ohlc.every((index) => index >= 0)
    ? [candleTrace(x, ohlc.map(values))]
    : numeric.map((index, order) => ({
      x, y: values(index), mode: "lines+markers", marker: { size: 3 },
      line: { color: colour(COLOURS[order % COLOURS.length]), width: 1.3 },
    }));
  if (!traces.length) {
    note.textContent = "there is no column with numbers to draw";
    return;
  }
  plot.hidden = false;
  const layout = plotLayout((axis) => ({
    margin: { l: 60, r: 10, t: 10, b: 30 }, dragmode: "zoom",
    xaxis: { ...axis, type: timeIndex >= 0 ? "date" : undefined, rangeslider: { visible: false } },
    yaxis: { ...axis },
  }));
  Plotly.react(plot, traces, layout, { displayModeBar: false, responsive: true });
}

function candleTrace(x, [open, high, low, close]) {
  const side = (name) => ({ line: { color: colour(name), width: 1 }, fillcolor: colour(name) });
  return { type: "candlestick", x, open, high, low, close, increasing: side("up"), decreasing: side("down") };
}

// --- download ------------------------------------------------------------------------------------

async function download(format) {
  try {
    const { blob, name, notes } = await runSql(result.query, format);
    const link = element("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    if (notes) note.textContent = `${name}: ${notes}`;
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (fault) {
    note.textContent = fault.message;
  }
}
