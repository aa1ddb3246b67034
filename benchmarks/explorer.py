"""The explorer on twelve years of trades: when its page is usable, and each step of the wheel.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import pyarrow as pa
from candles import PAIR, chunks
from playwright.sync_api import Browser, Page, expect, sync_playwright

from harvester.query.rollups import parse_levels, roll_up
from harvester.server.sample_data import SAMPLE_PAIR
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range

COMMAND = [sys.executable, "-c", "from harvester.cli.main import main; main()", "explore"]
PLACES = (0.2, 0.5, 0.8)
"""Where the wheel is turned, as parts of the chart's width."""


def prepare(folder: Path, trades: int) -> None:
    """Make an archive with roll-ups, unless it exists."""
    if folder.exists():
        return
    store = TradeStore(folder)
    store_pairs(store.store, msgspec.json.encode({PAIR: SAMPLE_PAIR}))
    described, after = msgspec.json.encode(SAMPLE_PAIR).decode(), 0
    with open_writer(store, PAIR) as pair_writer:
        for rows in chunks(trades):
            through = int(rows.column("time").cast(pa.int64())[-1].as_py())
            pair_writer.record_requested(Range(0, through))
            footer = Footer(Range(after, through), described)
            pair_writer.commit(Range(after, through), rows, footer)
            after = through
        roll_up(pair_writer, parse_levels(["1m", "1h"]))


def opened(browser: Browser, url: str) -> tuple[Page, float]:
    """A page of a browser without a cache, and the seconds until its candles were drawn."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(url, wait_until="commit")
    expect(page.locator("body")).to_have_attribute("data-ready", "true", timeout=60_000)
    # The page's own clock, from the beginning of the navigation.
    return page, page.evaluate("performance.getEntriesByName('drawn')[0].startTime") / 1000


def zoom(page: Page, place: float) -> list[dict[str, Any]]:
    """Eight steps of the wheel: the interval, candles, size and server's milliseconds of each."""
    chart = page.get_by_test_id("chart")
    box = chart.bounding_box() or {"x": 0, "y": 0, "width": 0, "height": 0}
    page.mouse.move(box["x"] + place * box["width"], box["y"] + 100)
    steps = []
    for _ in range(8):
        begun = time.perf_counter()
        with page.expect_response(re.compile("/api/candles")) as waiting:
            page.mouse.wheel(0, -100)
        expect(chart).to_have_attribute("aria-busy", "false", timeout=60_000)
        shown_s = time.perf_counter() - begun
        response = waiting.value
        timing, answer = response.request.timing, response.json()
        steps.append(
            {
                "interval": answer["interval"],
                "candles": len(answer["time"].split(" ")),
                "kB": len(response.body()) // 1000,
                "server_ms": round(timing["responseStart"] - timing["requestStart"]),
                "shown_ms": round(shown_s * 1000),
            }
        )
    return steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/explorer"))
    parser.add_argument("--trades", type=int, default=50_000_000)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    prepare(options.folder, options.trades)
    arguments = [*COMMAND, "--no-browser", "--data", str(options.folder)]
    with (
        subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as server,
        sync_playwright() as playwright,
    ):
        line = server.stderr.readline() if server.stderr is not None else ""
        url = re.findall(r"http\S+", line)[0]
        launched = playwright.chromium.launch(
            executable_path=options.browser, args=["--no-sandbox"]
        )
        usable_s, steps = [], []
        for _ in range(options.rounds):
            for place in PLACES:
                page, seconds = opened(launched, url)
                usable_s.append(seconds)
                steps += zoom(page, place)
                page.context.close()
        launched.close()
        server.terminate()
    for step in steps[:8]:
        print(json.dumps(step))
    server_ms = [step["server_ms"] for step in steps]
    print(f"page usable: {median(usable_s):.2f} s, first {usable_s[0]:.2f} s")
    print(f"server, ms: median {median(server_ms):.0f}, most {max(server_ms)}")
    print(f"most candles {max(step['candles'] for step in steps)}")


if __name__ == "__main__":
    main()
