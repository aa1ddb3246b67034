"""From an archive to pandas: 100,000 candles through the Python API, beside plain Parquet.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from candles import PAIR, SPELLED, chunks

import harvester
from harvester.query.rollups import parse_levels, roll_up
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range

CANDLES = 100_000
TARGET_S = 0.3
TARGET_IMPORT_S = 0.15
SINCE = "2022-01-01"


def prepare(folder: Path, trades: int) -> None:
    """An archive with roll-ups, the same without, and the candles that are asked for as Parquet."""
    for name, levels in (("rolled", ["1m", "1h"]), ("trades", [])):
        after = 0
        with open_writer(TradeStore(folder / name), PAIR) as pair_writer:
            for rows in chunks(trades):
                through = int(rows.column("time").cast(pa.int64())[-1].as_py())
                pair_writer.commit(
                    Range(after, through), rows, Footer(Range(after, through), SPELLED)
                )
                after = through
            roll_up(pair_writer, parse_levels(levels))
    table = asked(folder, "rolled", until(folder)).to_arrow_table()
    pq.write_table(table, folder / "decimals.parquet")
    asked(folder, "rolled", until(folder)).df().to_parquet(folder / "floats.parquet")


def until(folder: Path) -> str:
    """When so many candles have passed since `SINCE`."""
    candles = harvester.open(folder / "rolled").ohlc(PAIR, "1m", since=SINCE)
    [(moment,)] = candles.select("time").limit(1, CANDLES).fetchall()
    return f"{moment:%Y-%m-%dT%H:%M}"


def asked(folder: Path, name: str, end: str) -> harvester.Result:
    """The candles, of an archive that is opened for each."""
    return harvester.open(folder / name).ohlc(PAIR, "1m", since=SINCE, until=end)


def contestants(folder: Path) -> dict[str, Callable[[], int]]:
    """By what they read, what makes a frame or a table of the candles."""
    end = until(folder)
    return {
        "roll-ups, .df()": lambda: len(asked(folder, "rolled", end).df()),
        "roll-ups, .df(utc_index=True)": lambda: len(
            asked(folder, "rolled", end).df(utc_index=True)
        ),
        "roll-ups, .pl()": lambda: len(asked(folder, "rolled", end).pl()),
        "roll-ups, .to_arrow_table()": lambda: len(asked(folder, "rolled", end).to_arrow_table()),
        "trades, .df()": lambda: len(asked(folder, "trades", end).df()),
        "pandas.read_parquet, floats": lambda: len(pd.read_parquet(folder / "floats.parquet")),
        "pandas.read_parquet, decimals": lambda: len(pd.read_parquet(folder / "decimals.parquet")),
    }


def seconds_of(code: str, rounds: int) -> float:
    """A program's own time in a process of its own, imports and all."""
    program = (
        f"import time; begun = time.perf_counter(); {code}; print(time.perf_counter() - begun)"
    )
    done = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        for _ in range(rounds)
    ]
    return median(float(process.stdout) for process in done)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, options.trades)
        found: dict[str, list[float]] = {}
        # The first round warms up: pandas and DuckDB are imported, and files lie in memory.
        for number in range(options.rounds + 1):
            for name, ask in contestants(folder).items():
                begun = time.perf_counter()
                if ask() != CANDLES:
                    raise SystemExit(f"{name}: not {CANDLES:,} candles")
                found.setdefault(name, [])
                if number:
                    found[name].append(time.perf_counter() - begun)
        path, end = str(folder / "rolled"), until(folder)
        first = (
            f"import harvester; harvester.open({path!r}).ohlc({PAIR!r}, '1m', since={SINCE!r}, "
            f"until={end!r}).df()"
        )
        starts = {
            "import harvester": seconds_of("import harvester", options.rounds),
            "import pandas": seconds_of("import pandas", options.rounds),
            "import pandas, duckdb": seconds_of("import pandas, duckdb", options.rounds),
            "import harvester, and the first .df()": seconds_of(first, options.rounds),
        }
    report(options.trades, {name: median(seconds) for name, seconds in found.items()}, starts)


def report(trades: int, found: dict[str, float], starts: dict[str, float]) -> None:
    """Print the tables, the targets, and the line to keep."""
    base = found["pandas.read_parquet, floats"]
    print(f"{CANDLES:,} candles of a minute, of an archive of {trades:,} trades, opened for each")
    print(f"{'':<40}{'s':>8}{'x read_parquet':>16}")
    for name, seconds in found.items():
        print(f"{name:<40}{seconds:>8.3f}{seconds / base:>16.1f}")
    print("\nin a process of its own")
    for name, seconds in starts.items():
        print(f"{name:<40}{seconds:>8.3f}")
    frame_s, import_s = found["roll-ups, .df()"], starts["import harvester"]
    for what, seconds, target in (
        (f"{CANDLES:,} candles to pandas", frame_s, TARGET_S),
        ("import harvester", import_s, TARGET_IMPORT_S),
    ):
        verdict = "met" if seconds < target else "MISSED"
        print(f"{what}: {seconds:.3f} s, of {target} s: {verdict}")
    print(json.dumps({"benchmark": "python", "trades": trades, "found": found, "starts": starts}))


if __name__ == "__main__":
    main()
