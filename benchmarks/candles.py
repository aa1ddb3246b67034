"""Candles from trades and from roll-ups, beside a bare scan, pandas and Polars.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from harvester.query.candles import QuerySession
from harvester.query.plan import CandleQuery
from harvester.query.rollups import parse_levels, roll_up
from harvester.query.source_choice import trades_sql
from harvester.schema import ORDER_TYPES, PAGE_SCHEMA, PRICE, SIDES, VOLUME
from harvester.storage.locks_and_requests import Requests, store_pairs, write_requests
from harvester.storage.segment import Footer
from harvester.storage.trade_store import EVERYTHING, TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range, parse_interval, parse_moment, range_between

PAIR = "XBTUSD"
SPELLED = json.dumps({"altname": PAIR})
BEGIN_NS = 1_388_534_400 * 10**9
YEARS = 12
SPAN_NS = YEARS * 31_556_952 * 10**9
BUSY = [1, 1, 2, 6, 6, 4, 6, 9, 6, 4, 4, 5]
"""How busy the years are, one against another: a market of the early years was a quiet one."""
CHUNK = 4_000_000
SEED = 7
MONTH = range_between(parse_moment("2021-03-01", 0), parse_moment("2021-04-01", 0))
THREADS = 2
MEMORY = "512MB"


# --- what is asked -------------------------------------------------------------------------------


def chunks(trades: int) -> Iterator[pa.RecordBatch]:
    """Batches of `columns.PAGE_SCHEMA` that together are the trades of twelve years, in order."""
    random = np.random.default_rng(SEED)
    price, number = 600_000, 1
    while number <= trades:
        rows = min(CHUNK, trades - number + 1)
        # A third of the trades share the stamp of the one before; quiet and busy hours take turns.
        mood = np.repeat(random.lognormal(0.0, 0.8, rows // 4096 + 1), 4096)[:rows]
        gaps = random.exponential(1.0, rows) * mood * (random.random(rows) > 0.35)
        # A batch begins after the last time of the one before, as it is committed by itself.
        gaps[0] += 1.0
        done = (number - 1 + np.minimum(np.cumsum(gaps) * (rows / gaps.sum()), rows)) / trades
        years = np.interp(done, np.cumsum([0, *BUSY]) / sum(BUSY), np.arange(YEARS + 1))
        stamps = BEGIN_NS + (years / YEARS * SPAN_NS).astype(np.int64) // 100 * 100
        walk = price + np.cumsum(random.integers(-3, 4, rows))
        sides = random.integers(0, 2, rows).astype(np.int32)
        lots = random.lognormal(-4.5, 2.2, rows).clip(1e-8, 900.0)
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(np.arange(number, number + rows)),
                pa.array(stamps).cast(pa.timestamp("ns")),
                decimals(np.maximum(walk, 1) * 10**9, PRICE),
                decimals((lots * 1e8).astype(np.int64) + 1, VOLUME),
                pa.DictionaryArray.from_arrays(pa.array(sides), SIDES),
                pa.DictionaryArray.from_arrays(pa.array(sides), ORDER_TYPES),
                pa.array(np.full(rows, "", dtype=object), pa.string()),
            ],
            schema=PAGE_SCHEMA,
        )
        price, number = int(walk[-1]), number + rows


def decimals(units: np.ndarray[Any, Any], kind: pa.DataType) -> pa.Array:
    """Whole units as decimals of that kind."""
    words = np.zeros((len(units), 2), dtype=np.int64)
    words[:, 0] = units
    return pa.Array.from_buffers(kind, len(units), [None, pa.py_buffer(words)])


def prepare(folder: Path, trades: int) -> None:
    """Make the archive twice, the one with roll-ups, and the same trades as float64 files."""
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    kind = pa.schema([("time", pa.timestamp("ns")), ("price", "f8"), ("volume", "f8")])
    after = 0
    with (
        open_writer(TradeStore(folder / "trades"), PAIR) as pair_writer,
        pq.ParquetWriter(folder / "floats.parquet", kind, compression="snappy") as parquet,
        pa.ipc.new_file(folder / "floats.arrow", kind) as arrow,
    ):
        for rows in chunks(trades):
            through = rows.column("time").cast(pa.int64())[-1].as_py()
            pair_writer.commit(Range(after, through), rows, Footer(Range(after, through), SPELLED))
            after = through
            floats = pa.table(
                [rows.column(name).cast(kind.field(name).type) for name in kind.names], schema=kind
            )
            parquet.write_table(floats, row_group_size=1_000_000)
            arrow.write_table(floats)
    subprocess.run(["cp", "-r", folder / "trades", folder / "rolled"], check=True)  # noqa: S607
    begun = time.perf_counter()
    with open_writer(TradeStore(folder / "rolled"), PAIR) as pair_writer:
        made = roll_up(pair_writer, parse_levels(["1m", "1h"]))
    print(f"{made.built} roll-ups in {time.perf_counter() - begun:.1f} s", file=sys.stderr)
    for name in ("trades", "rolled"):
        # As a download writes them: otherwise the name is looked up in the footers of all segments.
        archive = TradeStore(folder / name)
        store_pairs(archive.store, json.dumps({PAIR: {"altname": PAIR}}).encode())
        write_requests(archive.store, PAIR, Requests(archive.coverage(PAIR)))
    (folder / "done").touch()


# --- contestants ---------------------------------------------------------------------------------


def scan(folder: Path) -> int:
    """Read the columns that a candle needs, and nothing more."""
    archive = TradeStore(folder / "trades")
    rows_sql = trades_sql(archive, archive.pieces(PAIR))
    connection = duckdb.connect(config={"threads": THREADS})
    query = f"SELECT max(time), max(price), max(volume), max(place) FROM ({rows_sql})"  # noqa: S608
    return len(connection.execute(query).fetchall())


def harvester_query(
    kind: str,
    interval: str,
    within: Range = EVERYTHING,
    **more: Any,  # noqa: ANN401
) -> Callable[[Path], int]:
    """Ask harvester, sorted, to Arrow."""

    def ask(folder: Path) -> int:
        question = CandleQuery(PAIR, parse_interval(interval), within, **more)
        session = QuerySession(TradeStore(folder / kind), MEMORY, THREADS)
        return sum(batch.num_rows for batch in session.batches(question))

    return ask


def to_pandas(folder: Path) -> int:
    """A hundred thousand candles to pandas."""
    question = CandleQuery(PAIR, parse_interval("1h"), EVERYTHING)
    session = QuerySession(TradeStore(folder / "rolled"), MEMORY, THREADS)
    return len(session.relation(question).df())


def with_pandas(interval: str, form: str) -> Callable[[Path], int]:
    """Ask pandas, float64."""

    def ask(folder: Path) -> int:
        path = folder / f"floats.{form}"
        frame = pd.read_parquet(path) if form == "parquet" else pd.read_feather(path)
        grouped = frame.set_index("time").resample(interval)
        candles = grouped["price"].ohlc()
        candles["volume"] = grouped["volume"].sum()
        candles["count"] = grouped["price"].count()
        frame["value"] = frame["price"] * frame["volume"]
        value = frame.set_index("time")["value"].resample(interval).sum()
        candles["vwap"] = value / candles["volume"]
        return len(candles[candles["count"] > 0])

    return ask


def with_polars(interval: str, form: str) -> Callable[[Path], int]:
    """Ask Polars, float64."""

    def ask(folder: Path) -> int:
        path = folder / f"floats.{form}"
        lazy = pl.scan_parquet(path) if form == "parquet" else pl.scan_ipc(path)
        price, volume = pl.col("price"), pl.col("volume")
        candles = (
            lazy.set_sorted("time")
            .group_by_dynamic("time", every=interval)
            .agg(
                price.first().alias("open"),
                price.max().alias("high"),
                price.min().alias("low"),
                price.last().alias("close"),
                ((price * volume).sum() / volume.sum()).alias("vwap"),
                volume.sum().alias("sum"),
                pl.len().alias("count"),
            )
        )
        return candles.collect(engine="streaming").height

    return ask


CONTESTANTS: dict[str, Callable[[Path], int]] = {
    "bare scan": scan,
    "1m from trades": harvester_query("trades", "1m"),
    "5m from trades": harvester_query("trades", "5m"),
    "1h from trades": harvester_query("trades", "1h"),
    "1d from trades": harvester_query("trades", "1d"),
    "1m from roll-ups": harvester_query("rolled", "1m"),
    "5m from roll-ups": harvester_query("rolled", "5m"),
    "1h from roll-ups": harvester_query("rolled", "1h"),
    "1d from roll-ups": harvester_query("rolled", "1d"),
    "1m of one month from trades": harvester_query("trades", "1m", MONTH),
    "1m of one month from roll-ups": harvester_query("rolled", "1m", MONTH),
    "1m from trades, kraken": harvester_query("trades", "1m", fill="kraken", pair_decimals=1),
    "1m from trades, all columns": harvester_query("trades", "1m", all_columns=True),
    "1h from roll-ups to pandas": to_pandas,
    "pandas 1m, parquet": with_pandas("1min", "parquet"),
    "pandas 1m, arrow": with_pandas("1min", "arrow"),
    "pandas 1h, parquet": with_pandas("1h", "parquet"),
    "pandas 1h, arrow": with_pandas("1h", "arrow"),
    "polars 1m, parquet": with_polars("1m", "parquet"),
    "polars 1m, arrow": with_polars("1m", "arrow"),
    "polars 1h, parquet": with_polars("1h", "parquet"),
    "polars 1h, arrow": with_polars("1h", "arrow"),
}


def peak_mb() -> float:
    """The largest resident memory of this process alone; getrusage begins with its parent's."""
    status = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
    return int(status.split()[0]) / 1024


# --- the run -------------------------------------------------------------------------------------


def child(name: str, folder: Path, runs: int) -> None:
    """Answer one question some times in a process of its own, after one time to warm up."""
    ask = CONTESTANTS[name]
    ask(folder)
    seconds = []
    for _ in range(runs):
        begun = time.perf_counter()
        rows = ask(folder)
        seconds.append(time.perf_counter() - begun)
    peak = peak_mb()
    print(json.dumps({"seconds": seconds, "rows": rows, "peak_mb": peak}))


def measured(folder: Path, names: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Each contestant in turn, round after round, each time in a process of its own."""
    found: dict[str, dict[str, Any]] = {
        name: {"seconds": [], "peak_mb": 0.0, "rows": 0} for name in names
    }
    environment = {**os.environ, "POLARS_MAX_THREADS": str(THREADS)}
    for _ in range(rounds):
        for name in names:
            command = [sys.executable, __file__, "--child", name, "--archive", str(folder)]
            done = subprocess.run(command, check=True, capture_output=True, env=environment)
            status = json.loads(done.stdout)
            found[name]["seconds"] += status["seconds"]
            found[name]["peak_mb"] = max(found[name]["peak_mb"], status["peak_mb"])
            found[name]["rows"] = status["rows"]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=50_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--archive", type=Path, help="Keep what is made there, for the next run.")
    parser.add_argument("--only", help="Contestants whose name holds this text.", default="")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.archive, 3)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.archive or Path(temporary)
        prepare(folder, options.trades)
        names = [name for name in CONTESTANTS if options.only in name or name == "bare scan"]
        found = measured(folder.resolve(), names, options.rounds)
    base = median(found["bare scan"]["seconds"])
    print(f"{options.trades:,} trades, {options.rounds} rounds of 3, {THREADS} threads")
    print(f"{'question':<32}{'s':>9}{'x scan':>8}{'peak MB':>9}{'rows':>11}")
    for name, figures in found.items():
        s = median(figures["seconds"])
        print(
            f"{name:<32}{s:>9.3f}{s / base:>8.2f}{figures['peak_mb']:>9.0f}{figures['rows']:>11,}"
        )
    print(json.dumps({"benchmark": "candles", "trades": options.trades, "found": found}))


if __name__ == "__main__":
    main()
