// The candle that was picked, with all its exact figures in one place.

import { candleAt } from "./candles.js";
import { difference, element, shortTime, whole } from "./format.js";
import { SHADES } from "./crosshair.js";

const card = document.getElementById("candle");
const title = document.getElementById("candle-title");
const figures = document.getElementById("candle-figures");

/** Start; `unpick()` is called when the figures are closed. */
export function startCandle(unpick) {
  document.getElementById("candle-close").addEventListener("click", unpick);
}

/**
 * Show the candle that contains a time; null hides the figures. Without that time among the
 * candles, the figures that are there stay: they have their own time and interval.
 */
export function showCandle(candles, at) {
  if (at === null) {
    card.hidden = true;
    figures.replaceChildren();
    return;
  }
  if (!candles || at < candles.sinceMs || at >= candles.untilMs) return;
  const wasHidden = card.hidden;
  card.hidden = false;
  const index = candleAt(candles, at);
  const open = candles.time[index];
  if (index < 0 || at < open || at >= open + candles.width) {
    const [kind] = candles.shades.find(([, since, until]) => since <= at && at < until) ?? ["no trades"];
    title.textContent = `${shortTime(at)} UTC: ${SHADES[kind].text}`;
    figures.replaceChildren();
  } else {
    const note = candles.incomplete.has(index) ? ", incomplete" : "";
    title.textContent = `${shortTime(open, candles.width)} UTC, ${candles.interval}${note}`;
    figures.replaceChildren(...rows(candles, index));
  }
  if (wasHidden) card.scrollIntoView({ block: "nearest" });
}

function rows({ texts }, index) {
  const text = (name) => texts[name][index] || "0";
  const [volume, bought, sold] = ["volume", "buy_volume", "sell_volume"].map(text);
  const shown = {
    open: text("open"), high: text("high"), low: text("low"), close: text("close"),
    vwap: text("vwap"), trades: whole(Number(text("count"))),
    volume, "side unknown": difference(volume, bought, sold), "taker buy": bought, "taker sell": sold,
  };
  const share = (name) => name.startsWith("taker") && Number(volume) > 0
    ? element("dd", { className: "share" }, `${((Number(shown[name]) / Number(volume)) * 100).toFixed(1)} %`)
    : null;
  return Object.entries(shown).map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value), share(name)));
}
