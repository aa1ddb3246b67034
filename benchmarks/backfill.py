"""A backfill against a bare loop that stores nothing, whole process against whole process.

Both ask the same test exchange, a process of its own on loopback. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

STAND_IN = Path(__file__).resolve().parents[1] / "tests" / "helpers" / "kraken_server.py"
HARVESTER = Path(sys.executable).with_name("harvester")
PACKAGE = Path(__file__).resolve().parents[1] / "harvester"
LARGE_TRADES = 3_000_000
FULL_PAGE = 1000
AGENT = {"User-Agent": "harvester-benchmark", "Accept": "application/json"}

MOST_WALL_RATIO = 3.0
MOST_PEAK_MB = 250.0
MOST_GROWTH = 1.1
"""Peaks of two runs of one size differ by some per cent; beyond this, memory does grow."""


# --- the bare loop ---------------------------------------------------------------------------


class Loop:
    """Follows `last` from the beginning to the head, and keeps nothing but a count."""

    def __init__(self) -> None:
        """Begin at the beginning."""
        self.since = "0"
        self.rows = 0
        self.pages = 0

    @property
    def params(self) -> dict[str, str]:
        """What the next page is asked with."""
        return {"pair": "XBTUSD", "since": self.since}

    def follow(self, answer: dict[str, Any]) -> bool:
        """Take a page; returns whether there may be more."""
        result = answer["result"]
        last = result.pop("last")
        (rows,) = result.values()
        self.rows += len(rows)
        self.pages += 1
        moved = last != self.since
        self.since = last
        return moved and len(rows) >= FULL_PAGE


def bare_sync(url: str) -> Loop:
    """Run the loop with `httpx.Client`."""
    import httpx  # noqa: PLC0415 - a part of what is measured
    import orjson  # noqa: PLC0415

    loop = Loop()
    with httpx.Client(base_url=url, headers=AGENT) as client:
        while loop.follow(orjson.loads(client.get("/0/public/Trades", params=loop.params).content)):
            pass
    return loop


async def bare_async(url: str) -> Loop:
    """Run the loop with `httpx.AsyncClient`."""
    import httpx  # noqa: PLC0415 - a part of what is measured
    import orjson  # noqa: PLC0415

    loop = Loop()
    async with httpx.AsyncClient(base_url=url, headers=AGENT) as client:
        while True:
            response = await client.get("/0/public/Trades", params=loop.params)
            if not loop.follow(orjson.loads(response.content)):
                return loop


BARE: dict[str, Callable[[str], Loop]] = {
    "Client": bare_sync,
    "AsyncClient": lambda url: asyncio.run(bare_async(url)),
}


# --- whole processes -------------------------------------------------------------------------


class Cost(NamedTuple):
    """What one process took, from before it was started until it had ended."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def measured(command: list[str], folder: Path) -> tuple[Cost, str]:
    """Run a command to its end; returns its cost and what it printed.

    This program stays small for it: Linux counts a parent's size towards its child's peak.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HARVESTER_")}
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as said:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=printed, stderr=said, cwd=folder, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.stderr.write(said.read().decode())
            raise subprocess.CalledProcessError(process.returncode, command)
        printed.seek(0)
        text = printed.read().decode()
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, peak_bytes / 1e6), text


@contextmanager
def sample_exchange(trades: int, gzip: str, *more: str) -> Iterator[str]:
    """Start the test exchange and give its address; it is ended by its own id."""
    command = [sys.executable, str(STAND_IN), "--trades", str(trades), "--seed", "7", *more]
    command += {"each": [], "once": ["--cache-gzip"], "none": ["--no-gzip"]}[gzip]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                message = "the test exchange did not start"
                raise RuntimeError(message)
            yield url
        finally:
            process.terminate()


def backfill(url: str, trades: int) -> Cost:
    """Measure a backfill into a fresh archive, which must then hold exactly the trades."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [str(HARVESTER), "backfill", "XBTUSD", "--rate", "0", "-q", "--api-url", url]
        cost, _ = measured([*command, "-d", "data"], folder)
        _, text = measured([str(HARVESTER), "status", "--json", "-d", "data"], folder)
        held = sum(pair["trades"] for pair in json.loads(text))
    if held != trades:
        message = f"the archive holds {held:,} trades, the test exchange has {trades:,}"
        raise RuntimeError(message)
    return cost


def bare(url: str, client: str, trades: int) -> Cost:
    """Measure the bare loop, which must have seen as many rows, its overlaps counted in."""
    command = [sys.executable, str(Path(__file__).resolve()), "--bare", client, "--url", url]
    cost, text = measured(command, Path(tempfile.gettempdir()))
    if int(text) < trades:
        message = f"the bare loop saw {int(text):,} rows of {trades:,}"
        raise RuntimeError(message)
    return cost


# --- figures ---------------------------------------------------------------------------------


def middle(costs: list[Cost]) -> Cost:
    """Give the median of each figure; of the peaks the highest, as a limit is held by all."""
    return Cost(
        median(cost.wall_s for cost in costs),
        median(cost.cpu_s for cost in costs),
        max(cost.peak_mb for cost in costs),
    )


def compare(trades: int, rounds: int, gzip: str) -> dict[str, Any]:
    """Measure all programs in turn, round after round, over one test exchange."""
    costs: dict[str, list[Cost]] = {"harvester": [], **{f"bare {name}": [] for name in BARE}}
    with sample_exchange(trades, gzip) as url:
        backfill(url, trades)  # warms the file cache, and the test exchange
        for _ in range(rounds):
            for client in BARE:
                costs["harvester"].append(backfill(url, trades))
                costs[f"bare {client}"].append(bare(url, client, trades))
    middles = {name: middle(several) for name, several in costs.items()}
    faster = min((f"bare {client}" for client in BARE), key=lambda name: middles[name].wall_s)
    harvester_run, loop_run = middles["harvester"], middles[faster]
    return {
        "trades": trades,
        "gzip": gzip,
        "rounds": rounds,
        "runs": {name: cost._asdict() for name, cost in middles.items()},
        "faster_bare": faster,
        "wall_ratio": harvester_run.wall_s / loop_run.wall_s,
        "cpu_ratio": harvester_run.cpu_s / loop_run.cpu_s,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the table of one size."""
    trades = figures["trades"]
    print(f"\n{trades:,} trades, {figures['rounds']} rounds, gzip: {figures['gzip']}")
    print(f"{'program':<18}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'trades/s':>12}{'wall x':>8}")
    base = figures["runs"][figures["faster_bare"]]["wall_s"]
    for name, cost in figures["runs"].items():
        print(
            f"{name:<18}{cost['wall_s']:>9.2f}{cost['cpu_s']:>9.2f}{cost['peak_mb']:>9.0f}"
            f"{trades / cost['wall_s']:>12,.0f}{cost['wall_s'] / base:>8.2f}"
        )


def targets(sizes: list[dict[str, Any]]) -> dict[str, bool]:
    """Return which targets are met."""
    peaks = [figures["runs"]["harvester"]["peak_mb"] for figures in sizes]
    met = {
        f"wall at most {MOST_WALL_RATIO:g} times the bare loop's": all(
            figures["wall_ratio"] <= MOST_WALL_RATIO for figures in sizes
        ),
        f"peak memory under {MOST_PEAK_MB:g} MB": max(peaks) < MOST_PEAK_MB,
    }
    if len(sizes) > 1:
        met["peak memory does not grow with the history"] = peaks[-1] <= MOST_GROWTH * peaks[0]
    return met


def compile_harvester() -> None:
    """Compile harvester's modules, as pip does when it installs them."""
    subprocess.run([sys.executable, "-m", "compileall", "-q", PACKAGE], check=True)


def main() -> None:
    """Measure and print; or be the bare loop, as which this program starts itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true", help=f"add {LARGE_TRADES:,} trades")
    parser.add_argument("--gzip", choices=("each", "once", "none"), default="each")
    parser.add_argument("--bare", choices=tuple(BARE), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(BARE[options.bare](options.url).rows)
        return
    compile_harvester()
    sizes = []
    for trades in [options.trades, *([LARGE_TRADES] if options.large else [])]:
        sizes.append(compare(trades, options.rounds, options.gzip))
        show(sizes[-1])
    met = targets(sizes)
    print()
    for text, is_met in met.items():
        print(f"{'met   ' if is_met else 'MISSED'} {text}")
    print(json.dumps({"benchmark": "backfill", "sizes": sizes, "targets": met}))


if __name__ == "__main__":
    main()
