"""Read and write the Parquet files of an archive: segments and roll-ups."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from harvester.errors import ArchiveDamaged
from harvester.schema import (
    FORMAT,
    PRICE,
    ROW_GROUP_ROWS,
    SUM_OF_VALUES,
    SUM_OF_VOLUMES,
    TRADES,
    WRITER_OPTIONS,
    RowsChecksum,
    clip,
)
from harvester.storage.filesystem import Store, reading, writing
from harvester.storage.segment import _IMPORTED_ENDING, Footer, RollUp, decode, encode
from harvester.times import END_OF_TIME, Range

# --- rollup files ---------------------------------------------------------------------------------

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


READ_ROWS = 32_768
"""Rows read at a time: as fast as whole row groups, and a quarter of their memory."""


REFUSALS = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)
"""Errors that keep this process from a file: a damaged file does not cause them."""


def stage_segment(
    store: Store,
    folder: str,
    trades: Iterable[pa.RecordBatch],
    footer: Footer | Callable[[], Footer],
) -> tuple[str, Footer]:
    """Write a segment's file in staging, read it back, and compare checksums.

    Args:
        store: the archive's files.
        folder: the staging folder of the pair.
        trades: batches of `schema.TRADES`, in order.
        footer: the number of rows, ids and checksum are filled in here. A function is called once
            all rows were written, for a footer that depends on them.

    Returns:
        The staged path, and the footer as written.

    Raises:
        ArchiveUnwritable: the operating system refused.
        ArchiveDamaged: what was read back is not what was written.
    """
    staged = store.stage(folder)
    location = store.location(staged)
    with writing(location):
        sink = store.filesystem.open_output_stream(location)
        with sink, pq.ParquetWriter(sink, TRADES, **WRITER_OPTIONS) as writer:
            facts = _RowFacts()
            for group in _row_groups(trades):
                writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
                for batch in group.to_batches():
                    facts.count(batch)
            footer = facts.fill(footer() if callable(footer) else footer)
            writer.add_key_value_metadata(encode(footer))
    check = RowsChecksum()
    for batch in read_batches(store, staged):
        check.update(batch)
    if (check.rows, check.hexdigest()) != (footer.rows, footer.checksum):
        raise ArchiveDamaged(
            f"{location} does not read back as it was written: it was not added to the archive"
        )
    return staged, footer


class _RowFacts:
    """The footer's fields that depend on the rows, gathered batch by batch."""

    def __init__(self) -> None:
        self._checksum = RowsChecksum()
        self._first: int | None = None
        self._last: int | None = None
        self._lead = 0
        self._trail = 0

    def count(self, trades: pa.RecordBatch) -> None:
        self._checksum.update(trades)
        ids = trades.column("trade_id")
        if ids.null_count == len(ids):
            if self._first is None:
                self._lead += len(ids)
            self._trail += len(ids)
            return
        if ids.null_count == 0:
            self._first = ids[0].as_py() if self._first is None else self._first
            self._last, self._trail = ids[-1].as_py(), 0
            return
        indexes = ids.is_valid().to_numpy(zero_copy_only=False).nonzero()[0]
        if self._first is None:
            self._first = ids[int(indexes[0])].as_py()
            self._lead += int(indexes[0])
        self._last = ids[int(indexes[-1])].as_py()
        self._trail = len(ids) - 1 - int(indexes[-1])

    def fill(self, footer: Footer) -> Footer:
        return replace(
            footer,
            rows=self._checksum.rows,
            first_trade_id=self._first,
            last_trade_id=self._last,
            lead=self._lead,
            trail=self._trail,
            checksum=self._checksum.hexdigest(),
        )


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Regroup batches into tables of one row group each, so that row groups have a fixed size.

    Nothing is copied. The text columns of a group get one dictionary; otherwise pyarrow would
    write them without dictionary encoding.
    """
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            part = batch.slice(start, ROW_GROUP_ROWS - rows)
            waiting.append(part)
            rows += part.num_rows
            start += part.num_rows
            if rows == ROW_GROUP_ROWS:
                yield pa.Table.from_batches(waiting).unify_dictionaries()
                waiting, rows = [], 0
    if rows:
        yield pa.Table.from_batches(waiting).unify_dictionaries()


def read_footer(store: Store, path: str) -> Footer:
    """Read the metadata of a segment.

    Args:
        store: the archive's files.
        path: of the segment.

    Raises:
        FileNotFoundError: the file is gone; list again.
        ArchiveTooNew: a newer harvester wrote it.
        ArchiveDamaged: it is no Parquet file, or has no footer of harvester's.
    """
    with opened(store, path) as file:
        footer = footer_in(path, file)
    pair = footer.altname
    if "csv" in footer.source.split("+") and not path.endswith(_IMPORTED_ENDING):
        raise ArchiveDamaged(
            f"{store.location(path)} was imported by an earlier build, whose imported segments may "
            f"end between trades: `harvester verify {pair} --repair` moves it to the quarantine "
            "and downloads its range; to import the CSV again instead, move the segment away first"
        )
    return footer


def footer_in(path: str, file: pq.ParquetFile) -> Footer:
    """Read the metadata of a segment from its open file; `path` is for messages."""
    return decode(path, dict(file.metadata.metadata or {}), file.metadata.num_rows)


class UnverifiedFooter(NamedTuple):
    """The footer of a file that may be damaged: nothing in it was compared with the rows.

    Attributes:
        footer: None where it can't be read.
        bounds: first and last published time in nanoseconds, by the file's statistics; None where
            they can't be read, or there are no rows.
    """

    footer: Footer | None = None
    bounds: tuple[int, int] | None = None


def read_unverified_footer(store: Store, path: str) -> UnverifiedFooter:
    """Read the metadata of a segment that may be damaged, without checking it.

    Args:
        store: the archive's files.
        path: of the segment.

    Raises:
        FileNotFoundError: the file is gone; list again.
    """
    try:
        with opened(store, path) as file:
            raw = dict(file.metadata.metadata or {})
            footer = decode(path, raw, int(raw.get(b"harvester.rows", b"-1")))
            column = file.schema_arrow.get_field_index("time")
            groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
            bounds = [_bounds(group, column) for group in groups if column >= 0]
    except (ArchiveDamaged, ValueError):
        return UnverifiedFooter()
    if not bounds:
        return UnverifiedFooter(footer)
    firsts, lasts = zip(*bounds, strict=True)
    return UnverifiedFooter(footer, (min(firsts), max(lasts)))


def read_schema(store: Store, path: str) -> pa.Schema:
    """Read a segment's columns and types, as Arrow sees them.

    Args:
        store: the archive's files.
        path: of the segment.
    """
    with opened(store, path) as file:
        return file.schema_arrow.remove_metadata()


@contextmanager
def opened(store: Store, path: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of the archive for reading.

    Args:
        store: the archive's files.
        path: of the file.

    Raises:
        FileNotFoundError: the file is gone; the caller lists again.
        ArchiveDamaged: it is no Parquet file, or can't be read.
        ArchiveError: a permission is missing, or the like.
    """
    location = store.location(path)
    try:
        with (
            store.filesystem.open_input_file(location) as source,
            pq.ParquetFile(source, pre_buffer=False) as file,
        ):
            yield file
    except (FileNotFoundError, MemoryError):
        raise
    except (OSError, pa.ArrowException) as error:
        if getattr(error, "errno", None) in REFUSALS:
            with reading(location):
                raise
        raise ArchiveDamaged(f"{location} can't be read: {error}") from error


def read_batches(
    store: Store,
    path: str,
    within: Range | None = None,
    columns: list[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Read a segment's rows in order; row groups outside of `within` are not read.

    Args:
        store: the archive's files.
        path: of the segment.
        within: only rows published in this range.
        columns: only these; `time` must be among them where `within` is used.
    """
    with opened(store, path) as file:
        groups = [
            group
            for group in range(file.num_row_groups)
            if within is None or _may_overlap(file.metadata.row_group(group), within)
        ]
        for batch in file.iter_batches(READ_ROWS, row_groups=groups, columns=columns):
            kept = batch if within is None else clip(batch, within)
            if kept.num_rows:
                yield kept


def time_bounds(store: Store, path: str) -> tuple[int, int] | None:
    """Read the first and last published time (ns) from the file's statistics; None for no rows.

    Args:
        store: the archive's files.
        path: of the segment.
    """
    with opened(store, path) as file:
        return bounds_by(file.metadata)


def bounds_by(metadata: Any) -> tuple[int, int] | None:  # noqa: ANN401 - pyarrow has no types for it
    """The first and last published time (ns) by a segment's pyarrow metadata; None for no rows."""
    last = metadata.num_row_groups - 1
    if last < 0:
        return None
    return _bounds(metadata.row_group(0))[0], _bounds(metadata.row_group(last))[1]


def rows_touched(store: Store, path: str, within: Range) -> int:
    """Count the rows of the row groups that a query on the range `within` must read.

    Args:
        store: the archive's files.
        path: of a segment or a roll-up.
        within: the range of the query.
    """
    with opened(store, path) as file:
        column = file.schema_arrow.get_field_index("time")
        groups = (file.metadata.row_group(index) for index in range(file.num_row_groups))
        return sum(group.num_rows for group in groups if _may_overlap(group, within, column))


_TIME = TRADES.get_field_index("time")


def _may_overlap(group: Any, within: Range, column: int = _TIME) -> bool:  # noqa: ANN401 - pyarrow has no types for it
    """Whether a row group may have rows in a range, by its statistics."""
    first, last = _bounds(group, column)
    return last > within.after and first <= within.through


def _bounds(group: Any, column: int = _TIME) -> tuple[int, int]:  # noqa: ANN401 - pyarrow has no types for it
    """The first and last published time of a row group, by its statistics."""
    statistics = group.column(column).statistics
    if statistics is None:
        return (0, END_OF_TIME)
    return (int(statistics.min_raw), int(statistics.max_raw))
