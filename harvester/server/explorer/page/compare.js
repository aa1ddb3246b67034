// The tab that overlays two pairs: closes of both, each in percent of its first one in the view.

import { get, Latest } from "./api.js";
import { readCandles } from "./candles.js";
import { colour, element, escaped, iso, plotLayout } from "./format.js";

const plot = document.getElementById("compare-plot");
const select = document.getElementById("other");
const note = document.getElementById("compare-note");
const latest = new Latest();

/** Start; `chosen(pair)` is called when another pair is selected. */
export function startCompare(chosen) {
  select.addEventListener("change", () => chosen(select.value));
}

/** Forget the lines of another pair. */
export function clearCompare() {
  latest.cancel();
  window.Plotly?.purge(plot);
  note.textContent = "";
}

/** Overlay a pair and another one; without another, the first different pair is taken. */
export async function showCompare(pair, other, pairs, view) {
  const others = pairs.filter((found) => found.pair !== pair && found.first);
  select.replaceChildren(...others.map((found) => element("option", { value: found.pair }, found.name)));
  if (!select.options.length) {
    note.textContent = "the archive has no other pair with trades";
    return;
  }
  if (others.some((found) => found.pair === other)) select.value = other;
  const names = [pair, select.value];
  const range = { since: iso(view.since), until: iso(view.until) };
  const answers = await latest.run((signal) =>
    Promise.all(names.map((name) => get("candles", { pair: name, ...range }, signal))));
  if (!answers) return;
  const shown = names.map((name) => pairs.find((found) => found.pair === name)?.name ?? name);
  draw(shown, answers.map(readCandles), view);
}

function draw(names, both, view) {
  const lines = both.map((candles, index) => {
    const first = candles.numbers.close.find((close) => close > 0);
    return {
      type: "scatter", mode: "lines", name: escaped(names[index]), ...withBreaks(candles, (close) => (close / first) * 100),
      line: { color: colour(index ? "down" : "up"), width: 1.4 },
    };
  });
  const layout = plotLayout((axis) => ({
    margin: { l: 8, r: 60, t: 10, b: 30 }, hovermode: "x", dragmode: false,
    xaxis: { ...axis, type: "date", range: [view.since, view.until] },
    yaxis: { ...axis, side: "right", ticksuffix: " %" },
  }));
  Plotly.react(plot, lines, layout, { displayModeBar: false, responsive: true });
  note.replaceChildren(...both.flatMap((candles, index) => [mark(index), ` ${names[index]}: ${change(candles)} `]));
}

/** The closes as a line that breaks where candles are not downloaded. */
function withBreaks(candles, percent) {
  const line = { x: [], y: [] };
  const gaps = candles.shades.filter(([kind]) => kind !== "no trades");
  candles.time.forEach((open, index) => {
    const before = candles.time[index - 1];
    if (gaps.some(([, since]) => before < since && since < open)) {
      line.x.push(open);
      line.y.push(null);
    }
    line.x.push(open + candles.width);
    line.y.push(percent(candles.numbers.close[index]));
  });
  return line;
}

function mark(index) {
  const square = element("span", {}, "■");
  square.style.color = colour(index ? "down" : "up");
  return square;
}

function change(candles) {
  const [first, last] = [candles.texts.close.find(Boolean), candles.texts.close.at(-1)];
  if (!first) return "no trades";
  const percent = (Number(last) / Number(first) - 1) * 100;
  return `${first} to ${last}, ${percent >= 0 ? "+" : ""}${percent.toFixed(2)} %`;
}
