// Times and elements as text. Whatever comes from the archive becomes text, never HTML.

const UNITS_MS = {
  ms: 1, s: 1e3, m: 6e4, h: 36e5, d: 864e5, w: 6048e5, mo: 2629746e3, q: 7889238e3, y: 31556952e3,
};

/** The length of an interval such as 7m in milliseconds; an average for months and years. */
export function intervalMs(text) {
  const [, count, unit] = /^(\d+)(ms|s|m|h|d|w|mo|q|y)?$/.exec(text) ?? [null, "1", "m"];
  return Number(count) * UNITS_MS[unit ?? "m"];
}

/** A time in UTC: a date for candles of days, else as short as it can be: 2024-01-31 12:00. */
export function shortTime(ms, width = 0) {
  const text = new Date(ms).toISOString().replace("T", " ").replace("Z", "");
  if (text.endsWith("00:00:00.000") && width >= 864e5) return text.slice(0, 10);
  if (text.endsWith(":00.000")) return text.slice(0, 16);
  return text.endsWith(".000") ? text.slice(0, 19) : text;
}

/** A view as text, with as much of the clock as its width is worth. */
export function viewText({ since, until }) {
  const kept = until - since > 30 * 864e5 ? 10 : until - since > 36e5 ? 16 : 23;
  const text = (ms) => new Date(ms).toISOString().replace("T", " ").slice(0, kept);
  return `${text(since)} to ${text(until)} UTC`;
}

/** A time of a view of a width in milliseconds: no more digits than a pixel is worth. */
export function viewClock(ms, width) {
  const kept = width > 1500 * 864e5 ? 10 : width > 36e5 ? 16 : width > 6e4 ? 19 : 23;
  return new Date(ms).toISOString().replace("T", " ").slice(0, kept);
}

/** A duration by its two largest units: 3 d 4 h, 20 min, 0.5 s. */
export function duration(ms) {
  if (ms < 6e4) return `${Number((ms / 1000).toPrecision(3))} s`;
  const texts = [];
  let rest = ms;
  for (const [name, length] of [["d", 864e5], ["h", 36e5], ["min", 6e4], ["s", 1000]]) {
    if (rest >= length) texts.push(`${whole(Math.floor(rest / length))} ${name}`);
    rest %= length;
  }
  return texts.slice(0, 2).join(" ");
}

/** The exact difference of two decimal texts that are not negative: the first less the others. */
export function difference(first, ...others) {
  const fraction = (text) => text.split(".")[1] ?? "";
  const decimals = Math.max(...[first, ...others].map((text) => fraction(text).length));
  const scaled = (text) => BigInt(text.split(".")[0] + fraction(text).padEnd(decimals, "0"));
  const left = others.reduce((rest, text) => rest - scaled(text), scaled(first));
  const digits = left.toString().padStart(decimals + 1, "0");
  const point = digits.length - decimals;
  return decimals ? `${digits.slice(0, point)}.${digits.slice(point)}`.replace(/\.?0+$/, "") : digits;
}

export const count = (number, name) => `${whole(number)} ${name}${number === 1 ? "" : "s"}`;

export const iso = (ms) => new Date(ms).toISOString();

/** A number of bytes as MB or GB. */
export function size(bytes) {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

export const whole = (number) => number.toLocaleString("en-US");

/** Create an element: `element("td", {className: "number"}, "1.5")`. Children are nodes or text. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A button with a time, which `onTimeClick` reads. */
export function timeButton(time, text = time) {
  const button = element("button", { type: "button", className: "link", title: "Show in the chart" }, text);
  button.dataset.time = time;
  return button;
}

/** Call `goTo(ms)` when a time of a table is clicked. */
export function onTimeClick(table, goTo) {
  table.addEventListener("click", ({ target }) => {
    if (target.dataset.time) goTo(Date.parse(target.dataset.time));
  });
}

/** A colour of the style sheet, in the present scheme. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** A text, or null, for Plotly, which reads texts as HTML of its own kind. */
export const escaped = (text) => text?.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/** Options of a plot that all charts of the page share. */
export function plotLayout(more) {
  const axis = { gridcolor: colour("line"), linecolor: colour("line"), zeroline: false };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("faint"), size: 11 },
    showlegend: false,
    ...more(axis),
  };
}
