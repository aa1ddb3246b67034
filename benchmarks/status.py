"""`harvester status` over 700 pairs, against listing the files and opening each footer.

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
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from harvester.schema import SEGMENT_SCHEMA
from harvester.storage.parquet_files import stage_rollup, stage_segment
from harvester.storage.segment import Footer, parse_path, rollup_path, segment_path
from harvester.storage.trade_store import TradeStore
from harvester.times import Range, year_end
from harvester.verify.status import CACHE_PATH, status

FIRST_YEAR = 2016
ROWS = 100


def make(root: Path, pairs: int, files: int) -> None:
    """An archive of segments of a year each, and roll-ups at two levels beside them."""
    archive = TradeStore(root)
    for number in range(pairs):
        pair = f"P{number:03d}USD"
        for year in range(FIRST_YEAR, FIRST_YEAR + files):
            span = Range(year_end(year - 1), year_end(year))
            footer = Footer(span, json.dumps({"altname": pair}))
            staged, footer = stage_segment(archive.store, pair, [rows(span)], footer)
            path = segment_path(pair, span, span.through)
            put(root, staged, path)
            segment = parse_path(path, 0)
            if segment is None:
                raise AssertionError(path)
            for level in ("1m", "1h"):
                staged = stage_rollup(archive.store, pair, [], level, footer)
                put(root, staged, rollup_path(segment, level))


def rows(span: Range) -> pa.RecordBatch:
    """Some trades, evenly over a span."""
    step = (span.through - span.after) // (ROWS + 1)
    stamps = [span.after + step * i for i in range(1, ROWS + 1)]
    words = {"side": "buy", "order_type": "limit", "misc": ""}
    columns = {
        "trade_id": pa.array(range(1, ROWS + 1), pa.int64()),
        "time": pa.array(stamps, pa.timestamp("ns")),
        "tie": pa.array([0] * ROWS, pa.int32()),
        "price": pa.array([Decimal(1)] * ROWS, SEGMENT_SCHEMA.field("price").type),
        "volume": pa.array([Decimal(1)] * ROWS, SEGMENT_SCHEMA.field("volume").type),
    }
    columns |= {name: pa.array([word] * ROWS).dictionary_encode() for name, word in words.items()}
    return pa.RecordBatch.from_arrays(
        [columns[name] for name in SEGMENT_SCHEMA.names], schema=SEGMENT_SCHEMA
    )


def put(root: Path, staged: str, path: str) -> None:
    """Put a staged file in its place; a benchmark's files need not survive the machine."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / staged).rename(root / path)


def bare(root: Path) -> int:
    """List everything and open each segment's footer; returns how many there were."""
    count = 0
    for room in ("trades", "candles"):
        for here, _, names in os.walk(root / room):
            for name in names:
                path = Path(here) / name
                path.stat()
                if room == "trades":
                    count += pq.ParquetFile(path).metadata.num_rows > 0
    return count


def command(root: Path) -> None:
    """Run the command itself, from start-up to exit."""
    code = "from harvester.cli.main import main; main()"
    words = [sys.executable, "-c", code, "status", "-q", "-d", str(root)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def cold(root: Path) -> None:
    """Compute the status without its cache."""
    (root / CACHE_PATH).unlink(missing_ok=True)
    status(TradeStore(root), None, time.time_ns())


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=700)
    parser.add_argument("--files", type=int, default=10, help="segments a pair")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, given.pairs, given.files)
        ways: dict[str, Callable[[], object]] = {
            "list and open each footer": lambda: bare(root),
            "status, nothing remembered": lambda: cold(root),
            "status": lambda: status(TradeStore(root), None, time.time_ns()),
            "harvester status": lambda: command(root),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(given.rounds):
            for name, work in ways.items():
                times[name].append(seconds(work))
        found = status(TradeStore(root), None, time.time_ns())
        if sum(pair_status.trades for pair_status in found) != given.pairs * given.files * ROWS:
            sys.exit("status reports other trades than there are")
    medians = {name: median(each) for name, each in times.items()}
    base = medians["list and open each footer"]
    for name, took in medians.items():
        print(f"{name:30} {took:7.3f} s  {took / base:5.2f} x")
    print(json.dumps({"pairs": given.pairs, "files": given.files, "seconds": medians}))


if __name__ == "__main__":
    main()
