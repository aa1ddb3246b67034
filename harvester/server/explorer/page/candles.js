// The candles of an answer: exact texts for people, and floats to draw them.

import { intervalMs } from "./format.js";

export const PRICES = ["open", "high", "low", "close", "vwap"];
export const VOLUMES = ["volume", "buy_volume", "sell_volume"];

/**
 * Read an answer of `candles`: each column is one text with a space between values. Nothing was
 * traded before `firstMs`, if that is known.
 */
export function readCandles(answer, firstMs = NaN) {
  const split = (text) => (text === "" ? [] : text.split(" "));
  const texts = { count: split(answer.count) };
  const numbers = {};
  for (const name of [...PRICES, ...VOLUMES]) {
    texts[name] = answer.time === "" ? [] : answer[name].split(" ");
    numbers[name] = texts[name].map((text) => (text === "" ? NaN : Number(text)));
  }
  const time = split(answer.time).map(Number);
  return {
    ...answer,
    time,
    texts,
    numbers,
    width: intervalMs(answer.interval),
    decimals: Math.max(0, ...texts.close.map((text) => (text.split(".")[1] ?? "").length)),
    incomplete: new Set(answer.incomplete),
    shades: answer.shades.map(([kind, since, until]) =>
      [kind === "no trades" && until <= firstMs ? "before the first trade" : kind, since, until]),
    sinceMs: Date.parse(answer.since),
    untilMs: Date.parse(answer.until),
  };
}

/** The index of the candle that contains a time; without one, of the nearest. -1 if there is none. */
export function candleAt(candles, ms) {
  const { time } = candles;
  let low = 0;
  let high = time.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (time[middle] <= ms) low = middle + 1;
    else high = middle;
  }
  const before = low - 1;
  if (before < 0) return time.length ? 0 : -1;
  const isNextNearer = low < time.length && time[low] - ms < ms - (time[before] + candles.width);
  return isNextNearer ? low : before;
}

/** When the next candle opens: until then no other trade than a candle's own was made. */
export const nextOpen = (candles, index) => candles.time[index + 1] ?? candles.untilMs;

/**
 * Of the candles between two times, the lowest and the highest price, which candle first has each,
 * and the highest volume; null if there is none.
 */
export function extent(candles, since, until) {
  const found = { low: Infinity, high: -Infinity, most: 0, lowAt: -1, highAt: -1 };
  const { low, high, volume } = candles.numbers;
  candles.time.forEach((open, index) => {
    if (open + candles.width <= since || open >= until) return;
    if (low[index] < found.low) [found.low, found.lowAt] = [low[index], index];
    if (high[index] > found.high) [found.high, found.highAt] = [high[index], index];
    found.most = Math.max(found.most, volume[index]);
  });
  return found.lowAt < 0 ? null : found;
}
