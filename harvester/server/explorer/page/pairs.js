// The list of pairs with their coverage, and the strip of the chosen pair, which is a way to move.

import { count, element, shortTime, size, whole } from "./format.js";

const list = document.getElementById("pairs");
const search = document.getElementById("search");
const overview = document.getElementById("coverage");
const NAMES = { s: "stored", g: "gap", n: "not requested" };

let answer = { pairs: [] };
let chosen = "";
let choosePair = () => {};

/** Start: `choose(pair)` when a pair is clicked, `jump(ms)` when a place in the strip is. */
export function startPairs(choose, jump) {
  choosePair = choose;
  search.addEventListener("input", showList);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") list.querySelector("button")?.click();
  });
  overview.addEventListener("click", (event) => {
    const box = overview.getBoundingClientRect();
    const { since, until } = axis();
    jump(since + ((event.clientX - box.left) / box.width) * (until - since));
  });
}

/** Show what the archive has. */
export function showPairs(found) {
  answer = found;
  document.getElementById("archive").textContent = found.archive;
  showList();
}

export function markPair(pair) {
  chosen = pair;
  for (const button of list.querySelectorAll("button")) {
    button.setAttribute("aria-current", button.dataset.pair === pair);
  }
}

export const pairNamed = (pair) => answer.pairs.find((found) => found.pair === pair);
export const allPairs = () => answer.pairs;

/** Show the coverage of a pair, with the years, and where the view lies in it. */
export function showOverview(pair, view) {
  const found = pairNamed(pair);
  overview.replaceChildren();
  if (!found) return;
  const { since, until } = axis();
  const place = (ms) => Math.min(Math.max((ms - since) / (until - since), 0), 1) * 100;
  const shown = element("div", { className: "window" });
  shown.style.left = `${place(view.since)}%`;
  shown.style.width = `max(4px, ${place(view.until) - place(view.since)}%)`;
  overview.append(strip(found.strip), shown, ...years(since, until, place));
  overview.setAttribute("aria-label", `Coverage of ${found.name}, ${stripText(found)}`);
}

const axis = () => ({ since: Date.parse(answer.since), until: Date.parse(answer.until) });

function years(since, until, place) {
  const [first, last] = [new Date(since).getUTCFullYear() + 1, new Date(until).getUTCFullYear()];
  const step = Math.ceil((last - first + 1) / Math.max(1, Math.floor(overview.clientWidth / 48)));
  const labels = [];
  for (let year = first; year <= last; year += Math.max(step, 1)) {
    const label = element("span", { className: "year", textContent: year });
    label.style.left = `${Math.min(place(Date.UTC(year, 0, 1)), 96)}%`;
    labels.push(label);
  }
  return labels.length ? labels : [dateLabel(since, "left"), dateLabel(until, "right")];
}

function dateLabel(ms, side) {
  const label = element("span", { className: "year", textContent: new Date(ms).toISOString().slice(0, 10) });
  label.style[side] = 0;
  return label;
}

function showList() {
  const wanted = bare(search.value);
  const shown = answer.pairs.filter(
    (pair) => bare(pair.pair).includes(wanted) || bare(pair.name).includes(wanted));
  list.replaceChildren(...shown.map((pair) => entry(pair)));
  if (!shown.length) {
    const text = answer.pairs.length
      ? "no pair has this in its name"
      : "the archive is empty: harvester backfill XBT/USD";
    list.append(element("li", { className: "faint" }, text));
  }
  markPair(chosen);
}

/** A name as it is compared: BTC finds XBT, as everywhere in harvester. */
function bare(text) {
  return text.toUpperCase().replace(/[-/_: ]/g, "").replace("BTC", "XBT").replace("DOGE", "XDG");
}

function entry(pair) {
  const altname = pair.name === pair.pair ? null : element("span", { className: "altname" }, pair.pair);
  const button = element("button", { type: "button" },
    element("div", { className: "name" },
      element("strong", {}, pair.name), altname, element("span", {}, size(pair.bytes))),
    strip(pair.strip),
    element("div", { className: "dates faint" },
      element("span", {}, pair.first ? `${pair.first.slice(0, 10)} to ${pair.last.slice(0, 10)}` : "no trades"),
      element("span", {}, `${whole(pair.trades)} trades`)));
  button.dataset.pair = pair.pair;
  button.title = stripText(pair);
  button.addEventListener("click", () => choosePair(pair.pair));
  return element("li", {}, button);
}

function stripText(pair) {
  const gaps = pair.gaps ? count(pair.gaps, "gap") : "no gaps";
  const end = pair.stored_until ? `stored until ${shortTime(Date.parse(pair.stored_until))}` : "nothing is stored";
  return `${end}, ${gaps}; strips from ${shortTime(axis().since)} to ${shortTime(axis().until)}`;
}

/** Runs of equal letters as parts of a bar. */
function strip(letters) {
  const bar = element("div", { className: "strip" });
  for (const run of letters.match(/(.)\1*/g) ?? []) {
    const part = element("span", { className: run[0], title: NAMES[run[0]] });
    part.style.flex = run.length;
    bar.append(part);
  }
  return bar;
}
