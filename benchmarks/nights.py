"""A year of nights of one busy pair: files that stand, rows written again, seconds of upkeep.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harvester.query.rollups import parse_levels, roll_up
from harvester.schema import PAGE_SCHEMA
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, Range

TESTS = Path(__file__).resolve().parents[1] / "tests" / "helpers"
SEED = 7
PAIR = "XBTUSD"
LEVELS = ("1m", "1h")


def made_day(trades: int, first_ns: int) -> pa.RecordBatch:
    """Give one day of a busy pair, as a download hands it to the archive."""
    sys.path.insert(0, str(TESTS))
    from kraken_market import Market, expected  # noqa: PLC0415 - not on the path before
    from sample_trades import xbtusd_like  # noqa: PLC0415

    gap_s = 86_400 * 4 / trades
    made = xbtusd_like(trades, SEED, start_ns=first_ns, gap_s=gap_s, first_id=1)
    made = [trade for trade in made if trade.true_ns < first_ns + DAY - 1000]
    columns = dict(zip(ROWS_AND_TIE, zip(*expected(Market(trades=made)), strict=True), strict=True))
    arrays = [pa.array(columns[field.name], field.type) for field in PAGE_SCHEMA]
    return pa.record_batch(arrays, schema=PAGE_SCHEMA)


ROWS_AND_TIE = ("trade_id", "time", "tie", "price", "volume", "side", "order_type", "misc")


def moved(day: pa.RecordBatch, nights: int) -> pa.RecordBatch:
    """Give the same trades so many days later, their ids counting on."""
    ids = pc.add(day.column("trade_id"), nights * day.num_rows)
    stamps = pc.add(day.column("time").cast(pa.int64()), nights * DAY)
    fields = {"trade_id": ids, "time": stamps.cast(PAGE_SCHEMA.field("time").type)}
    arrays = [fields.get(name, day.column(name)) for name in PAGE_SCHEMA.names]
    return pa.record_batch(arrays, schema=PAGE_SCHEMA)


def year_of_nights(folder: Path, trades: int, nights: int) -> dict[str, Any]:
    """Commit a day each night, and tend the files as a refresh does."""
    first_ns = 1_704_067_200 * 10**9
    day = made_day(trades, first_ns)
    commits: list[float] = []
    tendings: list[float] = []
    most_files = again = 0
    before: set[Path] = set()
    for night in range(nights):
        archive = TradeStore(folder)
        span = Range(first_ns + night * DAY - 1, first_ns + (night + 1) * DAY - 1)
        with open_writer(archive, PAIR) as pair_writer:
            pair_writer.record_requested(span)
            begun_s = time.perf_counter()
            (fresh,) = pair_writer.commit(span, moved(day, night), Footer(span, "{}"))
            commits.append(time.perf_counter() - begun_s)
            begun_s = time.perf_counter()
            pair_writer.compact(merge_past_years=True)
            roll_up(pair_writer, parse_levels(LEVELS))
            tendings.append(time.perf_counter() - begun_s)
        files = set((folder / "trades").rglob("*.parquet"))
        merged = files - before - {folder / fresh.path}
        again += sum(pq.read_metadata(path).num_rows for path in merged)
        most_files, before = max(most_files, len(files)), files
    rows = sum(pq.read_metadata(path).num_rows for path in before)
    if rows != nights * day.num_rows:
        message = f"{rows:,} trades stand, {nights * day.num_rows:,} were committed"
        raise RuntimeError(message)
    return {
        "nights": nights,
        "trades_a_night": day.num_rows,
        "trades": rows,
        "files": len(before),
        "most_files": most_files,
        "written_again": again / rows,
        "commit_s": median(commits),
        "upkeep_s": median(tendings),
        "longest_upkeep_s": max(tendings),
        "upkeep_all_s": sum(tendings),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=30_000, help="trades a night")
    parser.add_argument("--nights", type=int, default=365)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = year_of_nights(Path(name), options.trades, options.nights)
    print(f"{found['trades']:,} trades in {found['nights']} nights, {os.cpu_count()} cores")
    print(f"files at the end {found['files']}, at most {found['most_files']}")
    print(f"each trade was written again {found['written_again']:.2f} times")
    print(
        f"upkeep: median {found['upkeep_s']:.2f} s a night, at most "
        f"{found['longest_upkeep_s']:.2f} s, in all {found['upkeep_all_s']:.0f} s"
    )
    print(json.dumps({"benchmark": "nights", **found}))


if __name__ == "__main__":
    main()
