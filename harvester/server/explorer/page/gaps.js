// The tab with a pair's coverage in detail, the latest runs, and the last repair.

import { get, Latest } from "./api.js";
import { element, size, whole } from "./format.js";

const panel = document.getElementById("panel-gaps");
const latest = new Latest();

/** Forget the coverage of another pair. */
export function clearGaps() {
  latest.cancel();
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
    gaps: found.gap_count ? whole(found.gap_count) : "none: everything that was requested is stored",
    "last repair": repair(found),
  };
  const list = element("dl", { className: "facts" });
  for (const [name, text] of Object.entries(facts)) {
    list.append(element("dt", {}, name), element("dd", {}, text));
  }
  const parts = [list];
  const add = (title, content) => parts.push(element("h3", {}, title), content);
  if (found.damaged.length) add("Damage", element("pre", {}, found.damaged.join("\n")));
  if (found.gap_count) add("Gaps: requested, and not downloaded", ranges(found.gaps, found.gap_count, go));
  add("Stored", ranges(found.coverage, found.coverage_count, go));
  add("Latest runs", runs(found.runs));
  panel.replaceChildren(...parts);
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

function ranges(parts, count, go) {
  const rows = parts.map(({ since, until }) => {
    const show = element("button", { type: "button", title: "Show in the chart" }, "show");
    const range = [since === "start" ? null : Date.parse(since), Date.parse(until)];
    show.addEventListener("click", () => go(...range));
    return [since, until, show];
  });
  const more = count > parts.length ? `and ${whole(count - parts.length)} more` : "";
  return element("div", {}, table(["since", "until", ""], rows), more);
}

function runs(found) {
  if (!found.length) return element("p", { className: "faint" }, "no run is on record");
  return table(["command", "began", "ended", "state", "trades", "error"],
    found.map((run) => [run.command, run.begun, run.ended ?? "", runState(run), whole(run.trades), run.error ?? ""]));
}

function table(header, rows) {
  const line = (kind, cells) => element("tr", {}, ...cells.map((cell) => element(kind, {}, cell)));
  return element("div", { className: "grid" }, element("table", {},
    element("thead", {}, line("th", header)), element("tbody", {}, ...rows.map((row) => line("td", row)))));
}
