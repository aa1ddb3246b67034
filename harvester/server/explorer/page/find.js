// Finds a single trade by its price, exactly: the first or last above or below a price, and the
// trade at the highest or lowest price of a candle.

import { get, Latest, runSql } from "./api.js";
import { nextOpen } from "./candles.js";
import { count, iso } from "./format.js";

const form = document.getElementById("find");
const which = document.getElementById("find-which");
const price = document.getElementById("find-price");
const note = document.getElementById("found");
const latest = new Latest();

/**
 * Start: `pair()` returns the name of the chosen pair, `goTo(ms)` shows a time in the chart, and
 * `unpick()` closes what was shown of another one.
 */
export function startFind(pair, goTo, unpick) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const limit = typedPrice();
    if (limit) {
      find(pair(), which.value, limit, goTo);
      return;
    }
    latest.cancel();
    say(`${price.value || "nothing"} is no price: give digits such as 60000, or 60k`, { isWrong: true });
    unpick();
  });
}

/** Go to the trade at the highest or lowest price of the view, which a candle has. */
export async function findExtreme(pair, kind, candles, index, goTo) {
  const limits = [candles.time[index], nextOpen(candles, index)].map(sqlTime);
  const condition = `price = ${candles.texts[kind][index]} AND time >= ${limits[0]} AND time < ${limits[1]}`;
  await show(`${kind === "high" ? "highest" : "lowest"} price of the view`, async (signal) =>
    await trade(tradeQuery(pair, condition, "time, tie"), signal), goTo);
}

/** Forget what was found of another pair. */
export function clearFind() {
  latest.cancel();
  say("");
}

function say(text, { isWrong = false } = {}) {
  note.textContent = text;
  note.className = isWrong ? "lacking" : "";
}

/** The price that is typed, in digits without separators of thousands; "" if it is none. */
export function typedPrice() {
  const text = price.value.replace(/[\s_']/g, "");
  // A comma may be one of thousands, but 1,5 is not 15.
  const plain = /^\d{1,3}(,\d{3})+(\.|$)/.test(text) ? text.replaceAll(",", "") : text;
  const [, thousands, rest = ""] = /^(\d{1,12})(?:\.(\d{1,3}))?k$/i.exec(plain) ?? [];
  if (thousands) return String(Number(thousands + rest.padEnd(3, "0")));
  return /^\d{1,15}(\.\d{1,10})?$/.test(plain) ? plain : "";
}

/** A text as SQL writes it. */
export const quoted = (text) => `'${text.replaceAll("'", "''")}'`;

/** A query for the first trade that meets a condition. */
export function tradeQuery(pair, condition, order) {
  return `SELECT time, price, volume, side FROM trades\n` +
    `WHERE pair = ${quoted(pair)} AND ${condition}\nORDER BY ${order} LIMIT 1`;
}

/** A query for the last trade that meets a condition: sorting backwards would take several times as long. */
function lastTradeQuery(pair, condition) {
  const latestTime = `SELECT max(time) FROM trades WHERE pair = ${quoted(pair)} AND ${condition}`;
  return tradeQuery(pair, `${condition} AND time = (${latestTime})`, "tie DESC");
}

export const sqlTime = (ms) => `TIMESTAMP '${iso(ms).replace("T", " ").replace(".000", "").replace("Z", "")}'`;

async function find(pair, wanted, limit, goTo) {
  const [end, side] = wanted.split(" ");
  const condition = `price ${side === "above" ? ">" : "<"} ${limit}`;
  const query = end === "first" ? tradeQuery(pair, condition, "time, tie") : lastTradeQuery(pair, condition);
  await show(`${wanted} ${limit}`, async (signal) => {
    const [found, coverage, oldest] = await Promise.all([
      trade(query, signal),
      get("coverage", { pair }, signal),
      get("trades", { pair, place: "oldest", count: 1 }, signal),
    ]);
    return found && { ...found, caution: caution(end, found, coverage, oldest.trades[0]) };
  }, goTo);
}

/** Search, go to the trade that was found, and write what it is. */
async function show(title, search, goTo) {
  say("searching");
  try {
    const answer = await latest.run(async (signal) => ({ found: await search(signal) }));
    if (!answer) return;
    const { found } = answer;
    if (!found) {
      say(`${title}: no stored trade`);
      return;
    }
    const side = { buy: ", taker buy", sell: ", taker sell" }[found.side] ?? "";
    say(`${title}: ${found.time.replace("T", " ").replace("Z", "")} UTC at ${found.price}, ` +
      `volume ${found.volume}${side}${found.caution ?? ""}`);
    goTo(found.ms);
  } catch (fault) {
    say(fault.message, { isWrong: true });
  }
}

async function trade(query, signal) {
  const { rows: [row] } = await runSql(query, "json", signal);
  if (!row) return null;
  const [time, found, volume, side] = row;
  return { time, price: found, volume, side, ms: Date.parse(time) };
}

/** Warn if unstored time before a first trade, or after a last one, may contain another match. */
function caution(end, found, stored, oldest) {
  if (end === "first" && found.time === oldest.time && found.price === oldest.price) {
    return stored.is_first_known
      ? "; the first trade of all: there is no earlier price"
      : "; the first stored trade; earlier prices are not known";
  }
  const { coverage, coverage_count: parts } = stored;
  const before = coverage.filter(({ since }) => since === "start" || Date.parse(since) <= found.ms).length;
  const missing = end === "first"
    ? before - (coverage[0]?.since === "start" ? 1 : 0)
    : Math.max(parts - before, 0);
  if (!missing) return "";
  const [where, other] = end === "first" ? ["before", "an earlier"] : ["after", "a later"];
  return `; ${count(missing, "range")} ${where} it ${missing === 1 ? "is" : "are"} not stored: ` +
    `there ${other} trade may be missing`;
}
