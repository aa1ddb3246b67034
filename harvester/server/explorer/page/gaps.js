// What is missing: of the view in a line, and of a pair in the tab with its coverage in detail, the
// latest runs, and the last repair.

import { get, Latest } from "./api.js";
import { count, duration, element, shortTime, size, whole } from "./format.js";

const panel = document.getElementById("panel-gaps");
const line = document.getElementById("missing");
const COMPLETE = "complete, no gaps";
const latest = new Latest();

let seen = { since: 0, until: 1 };
let isAsked = false;
let marked = "";

/** Start; `open()` is called when the line about the view is chosen. */
export function startGaps(open) {
  document.getElementById("tab-gaps").addEventListener("click", () => {
    isAsked = true;
  });
  line.addEventListener("click", () => {
    isAsked = true;
    open();
    if (!panel.hidden) markYears();
  });
}

/** Say whether anything is missing in the view of the candles; without candles, nothing. */
export function showMissing(candles, view) {
  line.hidden = !candles;
  if (!candles) return;
  seen = { since: Math.max(view.since, candles.sinceMs), until: Math.min(view.until, candles.untilMs, candles.now) };
  const parts = (kind) => candles.shades
    .filter(([of, since, until]) => of === kind && since < seen.until && until > seen.since)
    .map(([, since, until]) => [Math.max(since, seen.since), Math.min(until, seen.until)]);
  const gaps = parts("gap");
  const length = gaps.reduce((sum, [since, until]) => sum + until - since, 0);
  const shorter = candles.unstored_left_out ? `, and ${whole(candles.unstored_left_out)} shorter parts` : "";
  const text = view.since < candles.now
    ? missing(seen, gaps.length, length, parts("not requested")) + shorter
    : "the future";
  line.textContent = `this view: ${text}`;
  line.title = `${text} (a click shows each year)`;
  line.className = `link ${kindOf(text)}`;
  markYears();
}

/** The class of a text of `missing`, for its colour. */
const kindOf = (text) => (text === COMPLETE ? "complete" : /\d gap/.test(text) ? "lacking" : "faint");

/** What is missing between two times: gaps, and parts that were not requested, in order. */
function missing({ since, until }, gaps, length, notRequested) {
  const time = (ms) => shortTime(ms - (ms % 1000), 864e5);
  const texts = gaps ? [`${count(gaps, "gap")}, ${duration(length)}${gaps > 1 ? " in all" : ""}`] : [];
  const [[first, firstEnd] = [NaN, NaN], last] = [notRequested[0], notRequested.at(-1)];
  if (first <= since && firstEnd >= until) return "not requested";
  const between = notRequested.filter(([start, end]) => start > since && end < until);
  if (first <= since) texts.push(`not requested before ${time(firstEnd)}`);
  if (between.length === 1) texts.push(`not requested from ${time(between[0][0])} to ${time(between[0][1])}`);
  else if (between.length) texts.push(`${whole(between.length)} parts not requested`);
  if (last?.[1] >= until) texts.push(`stored until ${time(last[0])}, not requested from then on`);
  if (texts.length && !gaps) texts.push("no gaps");
  return texts.join("; ") || COMPLETE;
}

/** Forget the coverage of another pair. */
export function clearGaps() {
  latest.cancel();
  marked = "";
  panel.replaceChildren();
}

/** Show the coverage of a pair; `go(since, until)` moves the chart to a range. */
export async function showGaps(pair, go) {
  const found = await latest.run((signal) => get("coverage", { pair }, signal));
  if (!found) return;
  const rollups = Object.entries(found.rollups).map(([level, count]) => `${level}: ${count}`);
  const facts = {
    trades: whole(found.trades),
    "first trade": found.first ?? "none",
    "last trade": found.last ?? "none",
    files: `${whole(found.files)}, ${size(found.bytes)}`,
    "roll-ups": rollups.join(", ") || "none",
    "stored until": found.stored_until ?? "nothing is stored",
    gaps: found.gap_count ? whole(found.gap_count) : "none in what was requested",
    "last repair": repair(found),
  };
  const list = element("dl", { className: "facts" });
  for (const [name, text] of Object.entries(facts)) {
    list.append(element("dt", {}, name), element("dd", {}, text));
  }
  const parts = [];
  const add = (title, content) => parts.push(element("h3", {}, title), content);
  add("By year", years(found, go));
  add("In all", list);
  if (found.damaged.length) add("Damage", element("pre", {}, found.damaged.join("\n")));
  if (found.gap_count) add("Gaps: requested, but not stored", ranges(found.gaps, found.gap_count, go));
  add("Stored", ranges(found.coverage, found.coverage_count, go));
  add("Latest runs", runs(found.runs));
  panel.replaceChildren(...parts);
  markYears();
}

/** Verifying alone writes no run record. */
function repair({ pair, repaired }) {
  if (!repaired) return `not on record; to check the files: harvester verify ${pair}`;
  return `${repaired.begun}: ${repaired.error ?? runState(repaired)}`;
}

function runState(run) {
  if (run.state !== "ended") return run.state;
  if (run.exit_status === null) return run.error ? "failed" : "ended";
  return run.exit_status === 0 ? "done" : `exit status ${run.exit_status}`;
}

/** Of each year, the latest first, whether anything is missing. */
function years(found, go) {
  const rows = found.years.toReversed().map((year) => {
    const [since, end] = [Date.UTC(year.year, 0, 1), Date.UTC(year.year + 1, 0, 1)];
    const until = Math.min(end, found.now);
    const parts = year.not_requested.map((part) => [Date.parse(part.since), Date.parse(part.until)]);
    const more = year.not_requested_count > parts.length ? ", and more" : "";
    const text = missing({ since, until }, year.gaps, year.gap_s * 1000, parts) + more;
    return [year.year, element("span", { className: kindOf(text) }, text), shower(() => go(since, end, 0))];
  });
  const shown = table(["year", "coverage", ""], rows);
  shown.id = "years";
  return shown;
}

/** Highlight the years in view; scroll to them if the reader asked or they changed. */
function markYears() {
  const rows = [...panel.querySelectorAll("#years tbody tr")];
  const [first, last] = [seen.since, seen.until - 1].map((ms) => new Date(ms).getUTCFullYear());
  const isInView = (row) => first <= Number(row.cells[0].textContent) && Number(row.cells[0].textContent) <= last;
  for (const row of rows) row.classList.toggle("here", isInView(row));
  const row = rows.find(isInView);
  if (!row || panel.hidden) return;
  // Below the chart the whole page would move, also while the chart is dragged.
  const isBeside = panel.scrollHeight > panel.clientHeight;
  const year = row.cells[0].textContent;
  if (isAsked || (isBeside && year !== marked)) row.scrollIntoView({ block: "nearest" });
  [isAsked, marked] = [false, year];
}

function shower(go) {
  const button = element("button", { type: "button", title: "Show in the chart" }, "show");
  button.addEventListener("click", go);
  return button;
}

function ranges(parts, count, go) {
  const rows = parts.map(({ since, until }) => {
    const range = [since === "start" ? null : Date.parse(since), Date.parse(until)];
    return [since, until, shower(() => go(...range))];
  });
  const more = count > parts.length ? `and ${whole(count - parts.length)} more` : "";
  return element("div", {}, table(["from", "to", ""], rows), more);
}

function runs(found) {
  if (!found.length) return element("p", { className: "faint" }, "no run is on record");
  return table(["command", "began", "ended", "state", "trades", "error"],
    found.map((run) => [run.command, run.begun, run.ended ?? "", runState(run), whole(run.trades), run.error ?? ""]));
}

function table(header, rows) {
  const row = (kind, cells) => element("tr", {}, ...cells.map((cell) => element(kind, {}, cell)));
  return element("div", { className: "grid" }, element("table", {},
    element("thead", {}, row("th", header)), element("tbody", {}, ...rows.map((cells) => row("td", cells)))));
}
