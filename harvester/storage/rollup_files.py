"""Roll-up files: partial candles of one segment, a file per level. Paths, schema and validity."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from harvester.errors import ArchiveDamaged
from harvester.schema import FORMAT, PRICE, SUM_OF_VALUES, SUM_OF_VOLUMES
from harvester.storage.filesystem import Store, writing
from harvester.storage.footer import Footer
from harvester.storage.segment import Segment, opened

# A roll-up is only a shortcut: it is used while its footer has the checksum of the segment. Where
# there is none, candles are computed from trades.

_TIMESTAMP = pa.timestamp("ns")

PARTIALS = pa.schema(
    [
        pa.field("time", _TIMESTAMP, nullable=False),
        pa.field("open", PRICE, nullable=False),
        pa.field("high", PRICE, nullable=False),
        pa.field("low", PRICE, nullable=False),
        pa.field("close", PRICE, nullable=False),
        pa.field("volume", SUM_OF_VOLUMES, nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("value", SUM_OF_VALUES, nullable=False),
        pa.field("buy_volume", SUM_OF_VOLUMES, nullable=False),
        pa.field("sell_volume", SUM_OF_VOLUMES, nullable=False),
        pa.field("buy_value", SUM_OF_VALUES, nullable=False),
        pa.field("sell_value", SUM_OF_VALUES, nullable=False),
        pa.field("buy_count", pa.int64(), nullable=False),
        pa.field("sell_count", pa.int64(), nullable=False),
        pa.field("first_trade_id", pa.int64()),
        pa.field("last_trade_id", pa.int64()),
        pa.field("first_time", _TIMESTAMP, nullable=False),
        pa.field("last_time", _TIMESTAMP, nullable=False),
    ]
)
"""One row per interval that has a trade of the segment, ordered by `time`, the interval's start."""

_ROW_GROUP_ROWS = 32_768
_INTEGERS = ("time", "count", "buy_count", "sell_count", "first_trade_id", "last_trade_id")
_DELTA = (*_INTEGERS, "open", "high", "low", "close", "first_time", "last_time")
_OPTIONS: dict[str, Any] = {
    "version": "2.6",
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": False,
    "column_encoding": dict.fromkeys(_DELTA, "DELTA_BINARY_PACKED"),
    "store_decimal_as_integer": True,
    "write_statistics": True,
}

_PATH = re.compile(
    r"candles/interval=([^/]+)/pair=([^/]+)/year=(\d{4})/(\d{19})-(\d{19})(?:\.csv)?\.parquet"
)


class RollUp(NamedTuple):
    """A roll-up as a listing shows it; `segment_path` is the path that its segment has."""

    interval: str
    segment_path: str
    path: str
    size: int


def rollup_path(segment: Segment, interval: str) -> str:
    """Path of a roll-up within the archive.

    Args:
        segment: from which it is made.
        interval: the level, such as 1m.
    """
    return segment.path.replace("trades/", f"candles/interval={interval}/", 1)


def list_rollups(store: Store, pair: str) -> list[RollUp]:
    """List the roll-ups of a pair, of all levels; no file is opened.

    Args:
        store: the archive's files.
        pair: altname.
    """
    return [
        RollUp(interval, "trades/" + entry.path.split("/", 2)[2], entry.path, entry.size)
        for level in store.folders("candles")
        if (interval := level.removeprefix("interval=")) != level
        for entry in store.files(f"candles/{level}/pair={pair}")
        if _PATH.fullmatch(entry.path)
    ]


def stage_rollup(
    store: Store,
    folder: str,
    partials: Iterable[pa.RecordBatch],
    interval: str,
    footer: Footer,
) -> str:
    """Write a roll-up in staging, and return its staged path.

    Args:
        store: the archive's files.
        folder: the staging folder of the pair.
        partials: batches of `PARTIALS`.
        interval: the level, such as 1m.
        footer: of the segment from whose rows they were made.

    Raises:
        ArchiveUnwritable: the operating system refused.
    """
    staged = store.stage(folder)
    location = store.location(staged)
    with writing(location):
        sink = store.filesystem.open_output_stream(location)
        with sink, pq.ParquetWriter(sink, PARTIALS, **_OPTIONS) as writer:
            for batch in partials:
                writer.write_batch(batch, row_group_size=_ROW_GROUP_ROWS)
            writer.add_key_value_metadata(_metadata(interval, footer))
    return staged


def _metadata(interval: str, footer: Footer) -> dict[str, str]:
    """Parquet key-value metadata of a roll-up, which identifies the rows of its segment."""
    return {
        "harvester.format": str(FORMAT),
        "harvester.rollup": interval,
        "harvester.pair": footer.pair,
        "harvester.range": f"{footer.range.after:019d}-{footer.range.through:019d}",
        "harvester.rows": str(footer.rows),
        "harvester.rows_sha256": footer.checksum,
    }


def has_rows_of(store: Store, rollup: RollUp, footer: Footer) -> bool:
    """Whether a roll-up was made, in this format, from exactly the rows of a segment.

    Args:
        store: the archive's files.
        rollup: which may be of an earlier segment of that path.
        footer: of the segment.

    Raises:
        FileNotFoundError: the roll-up is gone; list again.
    """
    try:
        with opened(store, rollup.path) as file:
            metadata = dict(file.metadata.metadata or {})
    except ArchiveDamaged:
        return False
    expected = _metadata(rollup.interval, footer)
    # The spelling of a pair may change; the rows that a roll-up was made from may not.
    expected.pop("harvester.pair")
    return all(metadata.get(key.encode()) == text.encode() for key, text in expected.items())


def read_partials(store: Store, path: str) -> pa.Table:
    """Read the rows of a roll-up.

    Args:
        store: the archive's files.
        path: of the roll-up.

    Raises:
        FileNotFoundError: the roll-up is gone; list again.
        ArchiveDamaged: it can't be read.
    """
    with opened(store, path) as file:
        table = file.read(use_threads=False)
    return table.replace_schema_metadata(None)
