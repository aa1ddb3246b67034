"""Segments: one immutable Parquet file each, with all trades of one range; names and reading."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from harvester.errors import ArchiveDamaged
from harvester.schema import ROW_GROUP_ROWS, TRADES, WRITER_OPTIONS, RowsChecksum, clip
from harvester.storage.filesystem import Entry, Store, reading, writing
from harvester.storage.footer import Footer, decode, encode
from harvester.times import END_OF_TIME, Range, year_of

# --- segments -------------------------------------------------------------------------------------

READ_ROWS = 32_768
"""Rows read at a time: as fast as whole row groups, and a quarter of their memory."""

REFUSALS = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)
"""What keeps this process from a file, and says nothing of what is in it."""

_PATH = re.compile(r"trades/pair=([^/]+)/year=(\d{4})/(\d{19})-(\d{19})\.parquet")


class Segment(NamedTuple):
    """A segment as the listing tells it.

    `changed_ns`, the store's own time of writing, tells it from another one of its name.
    """

    pair: str
    year: int
    range: Range
    path: str
    size: int
    changed_ns: int = 0


def path_of(pair: str, one: Range, last_time_ns: int | None) -> str:
    """Where a segment stands: in the year of its rows, or of its `through` when it has none."""
    year = year_of(one.through if last_time_ns is None else last_time_ns)
    return f"trades/pair={pair}/year={year:04d}/{one.after:019d}-{one.through:019d}.parquet"


def parse_path(path: str, size: int, changed_ns: int = 0) -> Segment | None:
    """The segment that a listed file is; None for a stranger."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    pair, year, after, through = match.groups()
    one = Range(int(after), int(through))
    if one.after >= one.through:
        return None
    return Segment(pair, int(year), one, path, size, changed_ns)


def pair_files(store: Store, pair: str) -> list[Entry]:
    """All files below a pair's folder, segments or not: what every reader of it goes by.

    Raises:
        ArchiveDamaged: the pair's folder, or one below it, is a symbolic link.
    """
    return store.files(f"trades/pair={pair}", refuse_links=True)


def is_segment(file: Path) -> bool:
    """Whether a file is called, and stands, as a segment does."""
    return parse_path("/".join(("trades", *file.parts[-3:])), 0) is not None


def stage_segment(
    store: Store,
    folder: str,
    trades: Iterable[pa.RecordBatch],
    footer: Footer | Callable[[], Footer],
) -> tuple[str, Footer]:
    """Write a segment's file in staging and read it back; the footer's row facts are filled in.

    A footer that only the last row makes known is asked for once all rows were taken.
    Returns its staged path and the footer as written.

    Raises:
        ArchiveUnwritable: the machine refused.
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
            f"{location} does not read back as it was written: it was not taken into the archive"
        )
    return staged, footer


class _RowFacts:
    """What the footer tells of the rows, gathered as they pass."""

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
        places = ids.is_valid().to_numpy(zero_copy_only=False).nonzero()[0]
        if self._first is None:
            self._first = ids[int(places[0])].as_py()
            self._lead += int(places[0])
        self._last = ids[int(places[-1])].as_py()
        self._trail = len(ids) - 1 - int(places[-1])

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
    """The same rows in tables of one row group each, so that its size is ours to choose.

    Nothing is copied. The words of a group have one dictionary, or it would be written plain.
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
    """What a segment says of itself.

    Raises:
        FileNotFoundError: it is gone; list again.
        ArchiveTooNew: a newer harvester wrote it.
        ArchiveDamaged: it is no Parquet file, or bears no footer of ours.
    """
    with opened(store, path) as file:
        return footer_in(path, file)


def footer_in(path: str, file: pq.ParquetFile) -> Footer:
    """The same from a segment's file that is open."""
    return decode(path, dict(file.metadata.metadata or {}), file.metadata.num_rows)


class UnverifiedFooter(NamedTuple):
    """What a file says of itself, whether its rows agree or not; None where it can't be read.

    `bounds` are the first and last published time by its statistics; None for no rows, too.
    """

    footer: Footer | None = None
    bounds: tuple[int, int] | None = None


def read_claims(store: Store, path: str) -> UnverifiedFooter:
    """What a segment says of itself, however damaged: nothing is held against anything.

    Raises:
        FileNotFoundError: it is gone; list again.
    """
    try:
        with opened(store, path) as file:
            raw = dict(file.metadata.metadata or {})
            footer = decode(path, raw, int(raw.get(b"harvester.rows", b"-1")))
            place = file.schema_arrow.get_field_index("time")
            groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
            spans = [_bounds(group, place) for group in groups if place >= 0]
    except (ArchiveDamaged, ValueError):
        return UnverifiedFooter()
    first, last = ([ends[i] for ends in spans] for i in (0, 1))
    return UnverifiedFooter(footer, (min(first), max(last)) if spans else None)


def read_schema(store: Store, path: str) -> pa.Schema:
    """A segment's columns, as Arrow reads them."""
    with opened(store, path) as file:
        return file.schema_arrow.remove_metadata()


@contextmanager
def opened(store: Store, path: str) -> Iterator[pq.ParquetFile]:
    """A segment's file, open. A vanished one stays a FileNotFoundError: the caller lists again."""
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
    """A segment's rows in order; of row groups outside of `within` nothing is read.

    Args:
        store: where the file lives.
        path: the segment.
        within: only rows published in this range.
        columns: only these; `time` must be among them where `within` is given.
    """
    with opened(store, path) as file:
        groups = [
            group
            for group in range(file.num_row_groups)
            if within is None or _may_hold(file.metadata.row_group(group), within)
        ]
        for batch in file.iter_batches(READ_ROWS, row_groups=groups, columns=columns):
            kept = batch if within is None else clip(batch, within)
            if kept.num_rows:
                yield kept


def time_bounds(store: Store, path: str) -> tuple[int, int] | None:
    """The first and the last published time by the file's statistics; None for no rows."""
    with opened(store, path) as file:
        return bounds_by(file.metadata)


def bounds_by(metadata: Any) -> tuple[int, int] | None:  # noqa: ANN401 - pyarrow has no types for it
    """The same from what is read already: `metadata` is a segment's, as pyarrow gives it."""
    last = metadata.num_row_groups - 1
    if last < 0:
        return None
    return _bounds(metadata.row_group(0))[0], _bounds(metadata.row_group(last))[1]


def rows_touched(store: Store, path: str, within: Range) -> int:
    """The rows of those row groups that a question on `within` must read, of any file of ours."""
    with opened(store, path) as file:
        place = file.schema_arrow.get_field_index("time")
        groups = (file.metadata.row_group(group) for group in range(file.num_row_groups))
        return sum(group.num_rows for group in groups if _may_hold(group, within, place))


_TIME = TRADES.get_field_index("time")


def _may_hold(group: Any, within: Range, place: int = _TIME) -> bool:  # noqa: ANN401 - pyarrow has no types for it
    first, last = _bounds(group, place)
    return last > within.after and first <= within.through


def _bounds(group: Any, place: int = _TIME) -> tuple[int, int]:  # noqa: ANN401 - pyarrow has no types for it
    statistics = group.column(place).statistics
    if statistics is None:
        return (0, END_OF_TIME)
    return (int(statistics.min_raw), int(statistics.max_raw))
