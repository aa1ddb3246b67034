"""How long users wait: the first and later answers from Python, and whole commands.

Beside them the same questions to bare DuckDB, Polars and pandas. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import backfill
import candles
import duckdb

import harvester

PAIR = candles.PAIR
YEAR = {"since": "2021-01-01", "until": "2022-01-01"}
RUNS, ROUNDS = 7, 3

Ask = Callable[[Path], int]
"""A question to the archive in a folder; returns how many rows came."""


# --- contestants ----------------------------------------------------------------------------------


def harvester_query(interval: str, **options: Any) -> Ask:  # noqa: ANN401
    """Candles from the archive with roll-ups through the public API, as an Arrow table."""

    def ask(folder: Path) -> int:
        archive = harvester.open(folder / "rolled")
        return int(archive.ohlc(PAIR, interval, **options).to_arrow_table().num_rows)

    return ask


def bare(width_s: int) -> Ask:
    """The roll-ups of an hour, aggregated by bare DuckDB, without vwap."""

    def ask(folder: Path) -> int:
        files = sorted(map(str, (folder / "rolled/candles/interval=1h").rglob("*.parquet")))
        place = "file_index::BIGINT << 40 | file_row_number"
        query = (
            f"SELECT epoch_ns(time) // {width_s * 10**9} AS t, arg_min(open, {place}), "  # noqa: S608
            f"max(high), min(low), arg_max(close, {place}), sum(value), sum(volume), sum(count) "
            f"FROM read_parquet({files}) GROUP BY t ORDER BY t"
        )
        rows: int = duckdb.connect().sql(query).to_arrow_table().num_rows
        return rows

    return ask


class Question(NamedTuple):
    """A question, and the name of that by which its warm time is divided."""

    ask: Ask
    beside: str


QUESTIONS = {
    "1d, 12 years": Question(harvester_query("1d"), "bare DuckDB 1d"),
    "bare DuckDB 1d": Question(bare(86_400), "bare DuckDB 1d"),
    "1h, 12 years": Question(harvester_query("1h"), "bare DuckDB 1h"),
    "bare DuckDB 1h": Question(bare(3_600), "bare DuckDB 1h"),
    "Polars 1h, float64": Question(candles.with_polars("1h", "parquet"), "1h, 12 years"),
    "pandas 1h, float64": Question(candles.with_pandas("1h", "parquet"), "1h, 12 years"),
    "1m, a year": Question(harvester_query("1m", **YEAR), "1m, a year"),
    "1m, a year, all columns": Question(
        harvester_query("1m", all_columns=True, **YEAR), "1m, a year"
    ),
    "1m, a year, fill kraken": Question(harvester_query("1m", fill="kraken", **YEAR), "1m, a year"),
    "1m, a month": Question(
        harvester_query("1m", since="2021-03-01", until="2021-04-01"), "1m, a year"
    ),
}

HARVESTER = [sys.executable, "-c", "from harvester.cli.main import main; main()"]
LIBRARIES = "import click, duckdb, msgspec, pyarrow.compute, pyarrow.parquet"
COMMANDS = {
    "bare imports": [sys.executable, "-c", LIBRARIES],
    "harvester --help": [*HARVESTER, "--help"],
    "harvester status": [*HARVESTER, "status"],
    "harvester ohlc, ten days of 1d": [
        *(*HARVESTER, "ohlc", PAIR, "-i", "1d", "--since", "2025-12-01", "--until", "2025-12-11")
    ],
    "harvester trades, ten minutes": [
        *(*HARVESTER, "trades", PAIR, "--since", "2025-12-01", "--until", "2025-12-01T00:10")
    ],
}


# --- the run --------------------------------------------------------------------------------------


def child(name: str, folder: Path) -> None:
    """Ask a question in a new process, first cold, then warm; the imports don't count."""
    ask = QUESTIONS[name].ask
    seconds = []
    for _ in range(RUNS + 1):
        begun = time.perf_counter()
        rows = ask(folder)
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({"first": seconds[:1], "later": seconds[1:], "rows": rows}))


def asked(folder: Path) -> dict[str, dict[str, float]]:
    """The median first and later time of each question in seconds, and its rows."""
    found: dict[str, dict[str, Any]] = {name: {"first": [], "later": []} for name in QUESTIONS}
    for _ in range(ROUNDS):
        for name, figures in found.items():
            command = [sys.executable, __file__, "--child", name, "--archive", str(folder)]
            done = subprocess.run(command, check=True, capture_output=True)
            made = json.loads(done.stdout)
            figures["first"] += made["first"]
            figures["later"] += made["later"]
            figures["rows"] = made["rows"]
    return {
        name: {
            "first": median(figures["first"]),
            "later": median(figures["later"]),
            "rows": figures["rows"],
        }
        for name, figures in found.items()
    }


def command_seconds(folder: Path) -> dict[str, float]:
    """The median time of each command's process, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            begun = time.perf_counter()
            environment = {**os.environ, "HARVESTER_DATA": str(folder / "rolled")}
            subprocess.run(command, check=True, capture_output=True, env=environment)
            seconds[name].append(time.perf_counter() - begun)
    return {name: median(times) for name, times in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=50_000_000)
    parser.add_argument("--archive", type=Path, help="Keep what is made there, for the next run.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.archive)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.archive or Path(temporary)).resolve()
        backfill.compile_harvester()
        candles.prepare(folder, options.trades)
        found, seconds = asked(folder), command_seconds(folder)
    print(f"{options.trades:,} trades, medians, milliseconds")
    print(f"{'from Python':<32}{'first':>9}{'later':>9}{'rows':>11}  later / that of")
    for name, figures in found.items():
        beside = QUESTIONS[name].beside
        print(
            f"{name:<32}{figures['first'] * 1e3:>9.0f}{figures['later'] * 1e3:>9.0f}"
            f"{figures['rows']:>11,.0f}  {figures['later'] / found[beside]['later']:.2f} {beside}"
        )
    print(f"{'commands':<32}{'process':>9}  / bare imports")
    for name, s in seconds.items():
        print(f"{name:<32}{s * 1e3:>9.0f}  {s / seconds['bare imports']:.2f}")
    print(json.dumps({"benchmark": "latency", "questions": found, "commands": seconds}))


if __name__ == "__main__":
    main()
