// The page: connects the address, the list of pairs, the chart and the tabs.

import { get, Latest } from "./api.js";
import { readCandles } from "./candles.js";
import { showCandle, startCandle } from "./candle.js";
import { clearChart, drawn, plotly, setBusy, showCandles, showView, startChart } from "./chart.js";
import { clearCompare, showCompare, startCompare } from "./compare.js";
import { clearCopied, startCopying } from "./copying.js";
import { clearFind, findExtreme, startFind } from "./find.js";
import { iso, viewText } from "./format.js";
import { clearGaps, showGaps, showMissing, startGaps } from "./gaps.js";
import { panned, released, startGestures } from "./gestures.js";
import { candleUnderMouse, pin, startMarks } from "./crosshair.js";
import { allPairs, markPair, pairNamed, showOverview, showPairs, startPairs } from "./pairs.js";
import { showSql, sqlTexts, startSql } from "./sql.js";
import { change, onChange, state } from "./state.js";
import { markInterval, markWheel, move, startTools } from "./toolbar.js";
import { clearTrades, showTrades, startTrades, tradesPaged, tradeTexts } from "./trades.js";

const SETTLE_MS = 40;
const LIVE_MS = 2000;
const AROUND_MS = 3.5 * 36e5;
const TABS = ["trades", "sql", "gaps", "compare"];

const byId = (id) => document.getElementById(id);
const latest = new Latest();
let candles = null;
let waiting = 0;
let seenVersion = "";

// --- the view ------------------------------------------------------------------------------------

/** The visible range: that of the address, or everything that is stored of the pair. */
function view() {
  if (state.since !== null) return { since: state.since, until: state.until };
  const found = pairNamed(state.pair);
  if (!found?.first) return { since: Date.now() - 864e5, until: Date.now() };
  const [first, last] = [Date.parse(found.first), Date.parse(found.last)];
  const space = Math.max((last - first) * 0.01, 1000);
  return { since: Math.round(first - space), until: Math.round(last + space) };
}

const showWhole = () => change({ since: null, until: null });

function showNewest() {
  const { since, until } = view();
  const end = Date.parse(pairNamed(state.pair)?.last ?? new Date());
  const width = until - since;
  change({ since: Math.round(end - width * 0.95), until: Math.round(end + width * 0.05) });
}

/** When the very first trade of a pair was; NaN if an earlier one may not be stored. */
function firstTrade(pair) {
  const found = pairNamed(pair);
  return found?.is_first_known ? Date.parse(found.first) : NaN;
}

/** Load the candles of the view; the ones that are drawn stay meanwhile. */
async function load({ isLive = false } = {}) {
  clearTimeout(waiting);
  const { pair, interval } = state;
  const shown = view();
  setBusy(true);
  try {
    const params = { pair, interval, since: iso(shown.since), until: iso(shown.until) };
    const answer = await latest.run(async (signal) => {
      const [found] = await Promise.all([get("candles", params, signal), plotly]);
      await released();
      return found;
    });
    if (!answer) return;
    const found = (candles = readCandles(answer, firstTrade(pair)));
    showProblem("");
    await showCandles(found, view());
    // Other candles, or another pair, may have come while these were drawn.
    if (candles !== found) return;
    markInterval(candles);
    showCandle(candles, state.at);
    showMissing(candles, shown);
    byId("view-text").textContent = viewText(shown);
    if (!document.body.dataset.ready) performance.mark("drawn");
    document.body.dataset.ready = "true";
    // The archive may grow while the reader is at another page of trades.
    if (followsView() && !(isLive && state.tab === "trades" && tradesPaged())) showTab();
  } catch (fault) {
    failed(fault);
  } finally {
    setBusy(latest.isBusy);
  }
}

/** Load soon: a wheel that turns moves the view several times. */
function loadSoon() {
  clearTimeout(waiting);
  waiting = setTimeout(load, SETTLE_MS);
}

function failed(fault) {
  showProblem(fault.message);
}

function showProblem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

/** Show the hours around a time, minute by minute, with the crosshair and the figures at it. */
function goTo(time, more = {}) {
  change({ since: time - AROUND_MS, until: time + AROUND_MS, at: time, interval: "auto", ...more });
  byId("chart").scrollIntoView({ block: "nearest" });
}

/** Go to a trade that was found by its price, and show it among its neighbours. */
const goToTrade = (time) => goTo(time, { tab: "trades" });

const unpicked = () => change({ at: null });

/** What the examples of SQL are about. */
const seen = () => ({ pair: pairNamed(state.pair), at: state.at });

/** Whether the tab shows what is in the view: it is filled once its candles are there. */
function followsView() {
  return state.tab === "compare" || (state.tab === "trades" && state.at === null);
}

// --- tabs ----------------------------------------------------------------------------------------

function startTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  for (const tab of tabs) {
    tab.addEventListener("click", () => change({ tab: tab.dataset.tab }));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
  }
}

async function showTab() {
  for (const name of TABS) {
    byId(`panel-${name}`).hidden = name !== state.tab;
    byId(`tab-${name}`).setAttribute("aria-selected", name === state.tab);
    byId(`tab-${name}`).tabIndex = name === state.tab ? 0 : -1;
  }
  if (!candles && followsView()) return;
  const { pair } = state;
  try {
    if (state.tab === "trades") await showTrades(state.pair, state.at ?? candleUnderMouse(), view().until);
    else if (state.tab === "sql") showSql(state.sql, seen());
    else if (state.tab === "gaps") await showGaps(state.pair, showRange);
    else await showCompare(state.pair, state.other, allPairs(), view());
  } catch (fault) {
    if (pair === state.pair) failed(fault);
  }
}

/** Show a range of coverage, with a part of it as space around; without a start, from the first trade on. */
function showRange(since, until, part = 0.2) {
  const first = Date.parse(pairNamed(state.pair)?.first ?? iso(until));
  // What reaches back to 1970 may end before the first trade, or have none.
  const from = since ?? Math.min(first, until - 864e5);
  const space = part && Math.max((until - from) * part, 1000);
  move({ since: Math.round(from - space), until: Math.round(until + space) });
}

// --- live ----------------------------------------------------------------------------------------

/** Where the archive grows, the newest candle moves, and a view that shows the end follows it. */
async function follow() {
  try {
    if (!document.hidden) await (state.pair && allPairs().length ? followPair(state.pair) : startPair());
  } catch {
    // The next turn tries again; a view that is asked for shows the error.
  }
  setTimeout(follow, LIVE_MS);
}

async function followPair(pair) {
  const { version } = await get("version", { pair });
  // Without candles, those of another version than the one that was tried are asked for once.
  if (pair !== state.pair || version === (candles?.version ?? seenVersion)) return;
  seenVersion = version;
  const before = Date.parse(pairNamed(pair)?.last);
  const found = await get("pairs");
  showPairs(found);
  if (pair !== state.pair) return;
  const after = Date.parse(pairNamed(pair)?.last);
  if (state.since !== null && before <= state.until && after > state.until) {
    move(panned(view(), (after - before) / (state.until - state.since)), { isStep: false });
  }
  await load({ isLive: true });
  if (pair === state.pair && state.tab === "gaps") await showTab();
}

// --- start ---------------------------------------------------------------------------------------

function update(now, before) {
  const isOther = now.pair !== before.pair;
  const isMoved = now.since !== before.since || now.until !== before.until;
  if (isOther) forgetPair();
  showPair();
  markWheel();
  pin(now.at);
  if (isOther || now.interval !== before.interval) load();
  else if (isMoved) {
    showView(view());
    loadSoon();
  }
  // In another view, the candle of another interval may be shown: it comes with the answer.
  if (now.at === null || (now.at !== before.at && !isMoved)) showCandle(candles, now.at);
  const isSameTab = ["tab", "at", "other", "sql"].every((name) => now[name] === before[name]);
  if (!isSameTab || (isOther && !followsView())) showTab();
}

/** Empty all that shows the former pair: its figures must not stand under another name. */
function forgetPair() {
  candles = null;
  seenVersion = "";
  clearChart();
  clearTrades();
  clearGaps();
  clearCompare();
  clearFind();
  showCandle(null, null);
  showMissing(null);
  showProblem("");
  markInterval(null);
  byId("view-text").textContent = "";
  clearCopied();
}

function showPair() {
  byId("pair-name").textContent = pairNamed(state.pair)?.name ?? state.pair;
  document.title = `${pairNamed(state.pair)?.name ?? state.pair}, harvester explorer`;
  markPair(state.pair);
  showOverview(state.pair, view());
}

async function start() {
  startPairs(
    (pair) => change({ pair, at: null }),
    (ms) => {
      const { since, until } = view();
      const { first, last } = pairNamed(state.pair) ?? {};
      if (!first) return;
      const width = Math.min(until - since, (Date.parse(last) - Date.parse(first)) / 8);
      move({ since: Math.round(ms - width / 2), until: Math.round(ms + width / 2) });
    });
  startChart(move);
  startMarks((...extreme) => findExtreme(state.pair, ...extreme, goToTrade));
  startGestures({
    drawn,
    isGentle: () => Boolean(state.wheel),
    moved: move,
    picked: (at) => change({ at, tab: state.tab === "sql" ? "sql" : "trades" }),
    unpicked,
    rested: () => state.tab === "trades" && state.at === null && showTab(),
    whole: showWhole,
    newest: showNewest,
  });
  startTools({ view, showWhole, showNewest, problem: showProblem });
  markWheel();
  startFind(() => state.pair, goToTrade, unpicked);
  startCandle(unpicked);
  startCopying({ candles: () => candles?.copy, trades: tradeTexts, query: sqlTexts });
  startTabs();
  startTrades(failed, goToTrade);
  startSql((sql) => change({ sql }), seen, goTo);
  startGaps(() => change({ tab: "gaps" }));
  startCompare((other) => change({ other }));
  onChange(update);
  document.querySelector(".skip").addEventListener("click", (event) => {
    // The part of the address after # is the state.
    event.preventDefault();
    byId("chart").focus();
  });
  await startPair({ isFirst: true }).catch(failed);
  setTimeout(follow, LIVE_MS);
}

/** Show the pairs, and the one of the address or else the busiest; later, once there are any. */
async function startPair({ isFirst = false } = {}) {
  showPairs(await get("pairs"));
  if (!isFirst && !allPairs().length) return;
  showProblem("");
  if (!state.pair && allPairs().length) {
    const busiest = allPairs().reduce((most, pair) => (pair.trades > most.trades ? pair : most));
    change({ pair: busiest.pair }, { isStep: false });
  } else if (state.pair) {
    showPair();
    pin(state.at);
    load();
    if (!followsView()) showTab();
  }
}

start();
