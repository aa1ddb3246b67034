"""Read and write the Parquet files of an archive: segments and roll-ups."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harvester.errors import ArchiveDamaged
from harvester.schema import (
    FORMAT,
    PRICE,
    ROW_GROUP_ROWS,
    SEGMENT_SCHEMA,
    SUM_OF_VALUES,
    SUM_OF_VOLUMES,
    RowsChecksum,
    check_texts,
    clip,
    regrouped,
    times,
)
from harvester.storage.filesystem import LocalStore, reading, writing
from harvester.storage.segment import (
    IMPORTED_ENDING,
    RANGE_NAME,
    Footer,
    RollUp,
    decode_footer,
    encode_footer,
    group_bounds,
)
from harvester.times import Range

# --- roll-ups -------------------------------------------------------------------------------------

# A roll-up is only a shortcut: it is used while its footer has the checksum of the segment. Where
# there is none, candles are computed from trades.

_TIMESTAMP = pa.timestamp("ns")

PRICES = ("open", "high", "low", "close")
PARTIALS = pa.schema(
    [
        pa.field(name, kind, nullable=name.endswith("trade_id"))
        for name, kind in {
            "time": _TIMESTAMP,
            **dict.fromkeys(PRICES, PRICE),
            "volume": SUM_OF_VOLUMES,
            "count": pa.int64(),
            "value": SUM_OF_VALUES,
            "buy_volume": SUM_OF_VOLUMES,
            "sell_volume": SUM_OF_VOLUMES,
            "buy_value": SUM_OF_VALUES,
            "sell_value": SUM_OF_VALUES,
            "buy_count": pa.int64(),
            "sell_count": pa.int64(),
            "first_trade_id": pa.int64(),
            "last_trade_id": pa.int64(),
            "first_time": _TIMESTAMP,
            "last_time": _TIMESTAMP,
        }.items()
    ]
)
"""One row per interval that has a trade of the segment, ordered by `time`, the interval's start."""

_ROW_GROUP_ROWS = 32_768
"""Of a roll-up: some weeks of minutes. Many small row groups would make each query slow."""
_OPTIONS: dict[str, Any] = {
    "version": "2.6",
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": False,
    "column_encoding": {
        # Sums of volumes and values have more than 64 bits.
        field.name: "DELTA_BINARY_PACKED"
        for field in PARTIALS
        if field.type not in (SUM_OF_VOLUMES, SUM_OF_VALUES)
    },
    "store_decimal_as_integer": True,
    "write_statistics": True,
}


def stage_rollup(
    store: LocalStore,
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
            for batches in regrouped(partials, _ROW_GROUP_ROWS):
                writer.write_table(pa.Table.from_batches(batches), row_group_size=_ROW_GROUP_ROWS)
            writer.add_key_value_metadata(_metadata(interval, footer))
    return staged


def _metadata(interval: str, footer: Footer) -> dict[str, str]:
    """Parquet key-value metadata of a roll-up, which identifies the rows of its segment."""
    return {
        "harvester.format": str(FORMAT),
        "harvester.rollup": interval,
        "harvester.pair": footer.pair_json,
        "harvester.range": RANGE_NAME.format(*footer.range),
        "harvester.rows": str(footer.rows),
        "harvester.rows_sha256": footer.checksum,
    }


def has_rows_of(store: LocalStore, rollup: RollUp, footer: Footer) -> bool:
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


def read_partials(store: LocalStore, path: str) -> Iterator[pa.RecordBatch]:
    """Read a roll-up batch by batch; nothing comes of a file that has other columns.

    Args:
        store: the archive's files.
        path: of the roll-up.

    Raises:
        FileNotFoundError: the roll-up is gone; list again.
        ArchiveDamaged: it can't be read.
    """
    with opened(store, path) as file:
        if file.schema_arrow.remove_metadata().equals(PARTIALS):
            yield from file.iter_batches(READ_ROWS)


# --- segments -------------------------------------------------------------------------------------

READ_ROWS = 32_768
"""Rows read at a time: as fast as whole row groups, and a quarter of their memory."""

REFUSALS = frozenset(
    (
        *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
        *(errno.EBUSY, errno.ENODEV, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN),
        *(errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENOTCONN),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
    )
)
"""Errors that keep this process from a file: rights, limits, a disk of the network that does not
answer. A damaged file does not cause them."""


WRITER_OPTIONS: dict[str, Any] = {
    "version": "2.6",
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": ["side", "order_type", "misc"],
    "column_encoding": {
        "trade_id": "DELTA_BINARY_PACKED",
        "time": "DELTA_BINARY_PACKED",
        "tie": "DELTA_BINARY_PACKED",
        "price": "DELTA_BINARY_PACKED",
    },
    "store_decimal_as_integer": True,
    "write_statistics": True,
}


def stage_segment(
    store: LocalStore,
    folder: str,
    trades: Iterable[pa.RecordBatch],
    footer: Footer | Callable[[], Footer],
) -> tuple[str, Footer]:
    """Write a segment's file in staging, read it back, and compare checksums.

    Args:
        store: the archive's files.
        folder: the staging folder of the pair.
        trades: batches of `schema.SEGMENT_SCHEMA`, in order.
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
    written = RowsChecksum()
    first_id = last_id = first_ns = last_ns = None
    lead = reached = 0
    with writing(location):
        sink = store.filesystem.open_output_stream(location)
        with sink, pq.ParquetWriter(sink, SEGMENT_SCHEMA, **WRITER_OPTIONS) as writer:
            for batches in regrouped(trades, ROW_GROUP_ROWS):
                # Texts with several dictionaries would be written without dictionary encoding.
                group = pa.Table.from_batches(batches).unify_dictionaries()
                writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
                for batch in group.to_batches():
                    ids, stamps = batch.column("trade_id"), times(batch)
                    with_id = ids.is_valid().to_numpy(zero_copy_only=False).nonzero()[0]
                    if len(with_id):
                        first, last = int(with_id[0]), int(with_id[-1])
                        if first_id is None:
                            first_id, lead = ids[first].as_py(), written.rows + first
                        last_id, reached = ids[last].as_py(), written.rows + last + 1
                    first_ns = int(stamps[0]) if first_ns is None else first_ns
                    last_ns = int(stamps[-1])
                    written.update(batch)
            rows = written.rows
            footer = replace(
                footer() if callable(footer) else footer,
                rows=rows,
                first_trade_id=first_id,
                last_trade_id=last_id,
                rows_before_first_id=rows if first_id is None else lead,
                rows_after_last_id=rows - reached,
                checksum=written.hexdigest(),
                bounds=None if first_ns is None or last_ns is None else (first_ns, last_ns),
            )
            writer.add_key_value_metadata(encode_footer(footer))
    check = RowsChecksum(read_batches(store, staged))
    if (check.rows, check.hexdigest()) != (footer.rows, footer.checksum):
        raise ArchiveDamaged(
            f"{location} does not read back as it was written: it was not added to the archive"
        )
    return staged, footer


def read_footer(store: LocalStore, path: str) -> Footer:
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
        footer = decode_footer(path, file.metadata)
    if "csv" in footer.source.split("+") and not path.endswith(IMPORTED_ENDING):
        raise ArchiveDamaged(
            f"{store.location(path)} was imported by an earlier build, whose imported segments may "
            f"end between trades: `harvester verify {footer.altname} --repair` moves it to the "
            "quarantine and downloads its range; to import the CSV again instead, move the segment "
            "away first"
        )
    return footer


def read_unverified_footer(store: LocalStore, path: str) -> Footer | None:
    """Read the metadata of a segment that may be damaged: nothing in it is compared with the rows.

    Args:
        store: the archive's files.
        path: of the segment.

    Returns:
        The footer; None where it can't be read.

    Raises:
        FileNotFoundError: the file is gone; list again.
    """
    try:
        with opened(store, path) as file:
            return decode_footer(path, file.metadata, is_verified=False)
    except (ArchiveDamaged, ValueError):
        return None


@contextmanager
def opened(store: LocalStore, path: str) -> Iterator[pq.ParquetFile]:
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
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        if getattr(error, "errno", None) in REFUSALS:
            with reading(location):
                raise
        raise ArchiveDamaged(f"{location} can't be read: {error}") from error


def read_batches(
    store: LocalStore,
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

    Raises:
        FileNotFoundError: the file is gone; list again.
        ArchiveDamaged: it can't be read, or has columns or texts that no segment has.
    """
    with opened(store, path) as file:
        if not file.schema_arrow.remove_metadata().equals(SEGMENT_SCHEMA):
            raise ArchiveDamaged(f"{store.location(path)} has other columns than the format's")
        groups = [
            group
            for group, bounds in enumerate(group_bounds(file.metadata))
            if within is None or _may_overlap(bounds, within)
        ]
        for batch in file.iter_batches(READ_ROWS, row_groups=groups, columns=columns):
            check_texts(batch)
            kept = batch if within is None else clip(batch, within)
            if kept.num_rows:
                yield kept


def rows_to_read(store: LocalStore, path: str, within: Range) -> int:
    """Count the rows of the row groups that a query on the range `within` must read.

    Args:
        store: the archive's files.
        path: of a segment or a roll-up.
        within: the range of the query.
    """
    with opened(store, path) as file:
        column = file.schema_arrow.get_field_index("time")
        return sum(
            file.metadata.row_group(group).num_rows
            for group, bounds in enumerate(group_bounds(file.metadata, column))
            if _may_overlap(bounds, within)
        )


def _may_overlap(bounds: tuple[int, int], within: Range) -> bool:
    """Whether a row group may have rows in a range, by its first and last time."""
    first, last = bounds
    return last > within.after and first <= within.through
