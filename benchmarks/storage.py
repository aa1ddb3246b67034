"""Bytes a trade and speed of writing: the segments' layout against pyarrow's defaults.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from harvester.schema import PAGE_SCHEMA, ROW_GROUP_ROWS, SEGMENT_SCHEMA
from harvester.storage.parquet_files import WRITER_OPTIONS
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range

TESTS = Path(__file__).resolve().parents[1] / "tests" / "helpers"
SEED = 7


class Layout(NamedTuple):
    """A way to write the same trades."""

    table: pa.Table
    write: Callable[[pa.Table, Path], Path]


def made_table(trades: int) -> pa.Table:
    """Give the trades of a busy pair as they are on disk, as a table of `SEGMENT_SCHEMA`."""
    sys.path.insert(0, str(TESTS))
    from kraken_market import Market, expected  # noqa: PLC0415 - not on the path before
    from sample_trades import xbtusd_like  # noqa: PLC0415

    columns = zip(*expected(Market(trades=xbtusd_like(trades, SEED))), strict=True)
    arrays = [
        pa.array(values, field.type.value_type).dictionary_encode()
        if pa.types.is_dictionary(field.type)
        else pa.array(values, field.type)
        for values, field in zip(columns, SEGMENT_SCHEMA, strict=True)
    ]
    return pa.table(arrays, schema=SEGMENT_SCHEMA)


def with_floats(table: pa.Table) -> pa.Table:
    """The same table with prices and volumes rounded to float64."""
    for name in ("price", "volume"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table.column(name).cast(pa.float64()))
    return table


def write_defaults(table: pa.Table, folder: Path) -> Path:
    """Write with every option left as it is."""
    path = folder / "defaults.parquet"
    pq.write_table(table, path)
    return path


def write_segment(table: pa.Table, folder: Path) -> Path:
    """Write as segments are written."""
    path = folder / "ours.parquet"
    with pq.ParquetWriter(path, SEGMENT_SCHEMA, **WRITER_OPTIONS) as sink:
        sink.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return path


def commit_segment(table: pa.Table, folder: Path) -> Path:
    """Commit a segment: written, read back by checksum, synced, renamed into place."""
    rows = table.drop_columns(["tie"]).set_column(
        PAGE_SCHEMA.get_field_index("misc"),
        PAGE_SCHEMA.field("misc"),
        table.column("misc").cast(pa.string()),
    )
    (batch,) = rows.cast(PAGE_SCHEMA).combine_chunks().to_batches()
    stamps = batch.column("time").cast(pa.int64())
    span = Range(0, stamps[-1].as_py())
    archive = TradeStore(folder)
    with open_writer(archive, "XBTUSD") as pair_writer:
        segments = pair_writer.commit(span, batch, Footer(span, "{}"))
    (segment,) = segments
    return folder / segment.path


def measured(layout: Layout) -> tuple[float, int]:
    """Write once; returns seconds and bytes, the file read back and held against the table."""
    with tempfile.TemporaryDirectory() as name:
        begun = time.perf_counter()
        path = layout.write(layout.table, Path(name))
        took_s = time.perf_counter() - begun
        size = path.stat().st_size
        with pq.ParquetFile(path) as file:
            same = file.read().cast(layout.table.schema).equals(layout.table)
    if not same:
        message = f"{path.name} does not read back as it was written"
        raise RuntimeError(message)
    return took_s, size


def compare(trades: int, rounds: int) -> list[dict[str, Any]]:
    """Write by each layout in turn, round after round."""
    table = made_table(trades)
    layouts = {
        "pyarrow defaults, float64": Layout(with_floats(table), write_defaults),
        "pyarrow defaults, decimal128": Layout(table, write_defaults),
        "segment": Layout(table, write_segment),
        "segment, committed": Layout(table, commit_segment),
    }
    seconds: dict[str, list[float]] = {name: [] for name in layouts}
    sizes: dict[str, int] = {}
    for _ in range(rounds):
        for name, layout in layouts.items():
            took_s, sizes[name] = measured(layout)
            seconds[name].append(took_s)
    return [
        {
            "layout": name,
            "bytes_a_trade": sizes[name] / trades,
            "million_rows_s": trades / median(seconds[name]) / 1e6,
        }
        for name in layouts
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = compare(options.trades, options.rounds)
    print(f"{options.trades:,} trades, {options.rounds} rounds, {os.cpu_count()} cores")
    print(f"{'layout':<30}{'bytes a trade':>15}{'M rows/s':>10}")
    for row in rows:
        figures = f"{row['bytes_a_trade']:>15.2f}{row['million_rows_s']:>10.2f}"
        print(f"{row['layout']:<30}{figures}")
    print(json.dumps({"benchmark": "storage", "trades": options.trades, "layouts": rows}))


if __name__ == "__main__":
    main()
