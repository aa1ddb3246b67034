"""How much of what a limit allows is used, and how soon a limit that changes is found.

`harvester backfill` in a process of its own against a test exchange that limits each pair. See
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from backfills import rows_on_disk
from kraken_market import Clock, expected, named
from kraken_server import Exchange
from kraken_socket import Call
from sample_trades import xbtusd_like

HARVESTER = Path(sys.executable).with_name("harvester")
PAGE = 100
"""Rows of a page here: how many calls are made is the question, and not how large they are."""

WINDOW_S = 10.0
FOUND = 0.75
"""A limit is found from when on so much of what it allows is used over ten seconds."""

LEAST_USED = 0.97
MOST_REFUSALS = 3
ADAPTED_S = 60.0
LEAST_USED_ADAPTED = 0.85
"""Of what a changed limit allows, from so many seconds after the change on."""
MOST_REFUSALS_A_MINUTE = 6.0


class Run:
    """One backfill from the test exchange, and the calls that it made."""

    def __init__(
        self, pairs: int, pages: int, rate: float, limit: float | None, latency_s: float
    ) -> None:
        """Make the markets; `limit` and `latency_s` are the test exchange's."""
        self.rate = rate
        self.markets = [named(n, xbtusd_like(pages * PAGE, 7 + n)) for n in range(pairs)]
        last_ns = max(market.trades[-1].true_ns for market in self.markets)
        clock = Clock(last_ns + 100 * 10**9)
        self.exchange = Exchange(
            self.markets, page_size=PAGE, clock=clock, limit=limit, latency_s=latency_s
        )

    @contextmanager
    def going(self, folder: Path, rate: float) -> Iterator[subprocess.Popen[bytes]]:
        """Start a backfill; it is ended by its own id."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HARVESTER_")}
        names = [market.altname for market in self.markets]
        command = [str(HARVESTER), "backfill", *names, "--rate", f"{rate:g}", "-q"]
        command += ["--jobs", str(len(names)), "--api-url", self.exchange.url, "-d", "data"]
        with subprocess.Popen(command, cwd=folder, env=environment) as process:
            try:
                yield process
            finally:
                process.send_signal(signal.SIGINT)

    def measure(self, script: Callable[[subprocess.Popen[bytes]], object]) -> dict[str, Any]:
        """Run the script beside a backfill; then let it finish, and check the stored trades."""
        with tempfile.TemporaryDirectory() as name, self.exchange:
            folder = Path(name)
            with self.going(folder, self.rate) as process:
                script(process)
            calls = self.calls()
            self.exchange.limit, self.exchange.latency_s = None, 0.0
            with self.going(folder, 0) as process:
                process.wait(120)
            exact = all(
                rows_on_disk(folder / "data", market.altname) == list(expected(market))
                for market in self.markets
            )
        return {"calls": calls, "exact": exact}

    def calls(self) -> list[Call]:
        """The calls of Trades so far."""
        return [call for call in list(self.exchange.calls) if call.path.endswith("Trades")]


def passed(calls: list[Call], start_s: float, end_s: float) -> int:
    """How many calls were answered within a time."""
    return sum(c.outcome.startswith("ok") and start_s <= c.at_s < end_s for c in calls)


def refused(calls: list[Call], start_s: float, end_s: float) -> int:
    """How many calls were refused within a time."""
    return sum(c.outcome == "limited" and start_s <= c.at_s < end_s for c in calls)


# --- the questions ---------------------------------------------------------------------------


def steady(seconds: float) -> dict[str, Any]:
    """A limit a tenth above the set rate, five pairs, answers after 120 ms."""
    rate, pairs = 4.0, 5
    run = Run(pairs, round(rate * seconds), rate, limit=4.4, latency_s=0.12)
    found = run.measure(lambda process: process.wait(seconds * 2))
    calls = found["calls"]
    begun = min(call.at_s for call in calls)
    # Until the first pair is done: from then on fewer calls are wanted than are allowed.
    done = min(
        max(call.at_s for call in calls if call.pair == market.altname) for market in run.markets
    )
    allowed = rate * pairs * (done - begun)
    return {
        "seconds": done - begun,
        "allowed": allowed,
        "used": passed(calls, begun, done) / allowed,
        "refusals": refused(calls, begun, float("inf")),
        "exact": found["exact"],
    }


def changing(seconds: float) -> dict[str, Any]:
    """A limit of 4 that becomes 1 and then 4 again, five pairs at `--rate 4`."""
    rate, pairs, phases = 4.0, 5, (4.0, 1.0, 4.0)
    seconds *= 2
    run = Run(pairs, round(rate * seconds * 2.6), rate, limit=phases[0], latency_s=0.12)
    starts: list[float] = []

    def script(process: subprocess.Popen[bytes]) -> None:
        while not run.calls() and process.poll() is None:
            time.sleep(0.05)
        for limit in phases:
            run.exchange.limit = limit
            starts.append(time.monotonic())
            time.sleep(seconds)
        starts.append(time.monotonic())

    found = run.measure(script)
    calls = found["calls"]
    rows = []
    for number, limit in enumerate(phases):
        start, end = starts[number], starts[number + 1]
        wanted = FOUND * limit * pairs * WINDOW_S
        moments = (start + step / 10 for step in range(round((end - start - WINDOW_S) * 10)))
        first = (at for at in moments if passed(calls, at, at + WINDOW_S) >= wanted)
        at = next(first, float("inf"))
        rows.append(
            {
                "limit": limit,
                "found_s": at - start,
                "used": passed(calls, start, end) / (limit * pairs * (end - start)),
                "used_adapted": passed(calls, start + ADAPTED_S, end)
                / (limit * pairs * (end - start - ADAPTED_S)),
                "refusals": refused(calls, start, end),
                "refusals_a_minute_and_pair": refused(calls, start, end) * 60 / seconds / pairs,
            }
        )
    return {"seconds": seconds, "phases": rows, "exact": found["exact"]}


# --- figures ---------------------------------------------------------------------------------


def show(figures: dict[str, dict[str, Any]]) -> None:
    """Print the tables."""
    if steady := figures.get("steady"):
        print("\n--rate 4, limit 4.4, 120 ms, five pairs")
        print(f"{'seconds':>8}{'allowed':>9}{'used':>8}{'refusals':>10}{'exact':>7}")
        print(
            f"{steady['seconds']:>8.1f}{steady['allowed']:>9.0f}{steady['used']:>8.1%}"
            f"{steady['refusals']:>10}{steady['exact']!s:>7}"
        )
    if changing := figures.get("changing"):
        print(f"\n--rate 4, the limit changes every {changing['seconds']:g} s, five pairs")
        print(f"{'limit':>6}{'found after s':>15}{'used':>8}{'from 60 s':>11}{'refusals':>10}")
        for row in changing["phases"]:
            print(
                f"{row['limit']:>6g}{row['found_s']:>15.1f}{row['used']:>8.1%}"
                f"{row['used_adapted']:>11.1%}{row['refusals']:>10}"
            )
        print(f"exact: {changing['exact']}")


def targets(figures: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Return which targets are met."""
    met = {"trades exact": all(figure["exact"] for figure in figures.values())}
    if steady := figures.get("steady"):
        met[f"at least {LEAST_USED:.0%} of the allowed calls used"] = steady["used"] >= LEAST_USED
        met[f"at most {MOST_REFUSALS} refusals in all"] = steady["refusals"] <= MOST_REFUSALS
    if changing := figures.get("changing"):
        met[f"at least {LEAST_USED_ADAPTED:.0%} used from the second minute on"] = all(
            row["used_adapted"] >= LEAST_USED_ADAPTED for row in changing["phases"]
        )
        met[f"at most {MOST_REFUSALS_A_MINUTE:g} refusals a minute and pair"] = all(
            row["refusals_a_minute_and_pair"] <= MOST_REFUSALS_A_MINUTE
            for row in changing["phases"]
        )
    return met


QUESTIONS: dict[str, Callable[[float], dict[str, Any]]] = {
    "steady": steady,
    "changing": changing,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="of steady; a phase of changing takes twice as long",
    )
    parser.add_argument("--only", choices=tuple(QUESTIONS))
    options = parser.parse_args()
    asked = [options.only] if options.only else list(QUESTIONS)
    figures = {name: QUESTIONS[name](options.seconds) for name in asked}
    show(figures)
    met = targets(figures)
    print()
    for text, is_met in met.items():
        print(f"{'met   ' if is_met else 'MISSED'} {text}")
    print(json.dumps({"benchmark": "pace", **figures, "targets": met}))


if __name__ == "__main__":
    main()
