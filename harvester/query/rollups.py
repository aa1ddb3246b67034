"""Build roll-ups, and recompute them with DuckDB for `verify`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa

from harvester.errors import ArchiveDamaged, BadInterval, ValueDoesNotFit
from harvester.query.aggregate import PartialCandles
from harvester.query.connection import shared_connection, translate_errors
from harvester.query.sources import BASE, EXTRA, LAST_TIME, MERGE
from harvester.schema import RowsChecksum, joined, times
from harvester.storage.rollup_files import PARTIALS, RollUp, rollup_path
from harvester.storage.segment import Segment, read_batches
from harvester.storage.writer import Progress, Writer
from harvester.times import Interval, parse_interval

# --- build ----------------------------------------------------------------------------------------

"""Called with the pair, the number of its segments done, and the number of all its segments."""


@dataclass(slots=True)
class RollupReport:
    """The result of `roll_up`.

    Attributes:
        built: how many roll-ups were written.
        up_to_date: how many existed and agree with their segment.
        notes: segments without roll-ups, and why.
    """

    built: int = 0
    up_to_date: int = 0
    notes: list[str] = field(default_factory=list)


def parse_levels(texts: Iterable[str]) -> list[Interval]:
    """Return the levels of roll-ups, the finest first.

    Raises:
        BadInterval: a text is no interval of fixed length.
    """
    levels = [parse_interval(text) for text in texts]
    for level in levels:
        if level.width_ns is None:
            raise BadInterval(
                f"rollups contains {level.text!r}, which follows the calendar: "
                "give fixed lengths such as 1m or 1h"
            )
    return sorted(levels, key=lambda level: level.width_ns or 0)


def roll_up(
    writer: Writer,
    levels: Sequence[Interval],
    progress: Progress = lambda _pair, _done, _all: None,
) -> RollupReport:
    """Build the roll-ups that a pair's segments lack, or that were built from other rows.

    Args:
        writer: the pair's writer, which holds its lock.
        levels: the intervals of the roll-ups; see `parse_levels`.
        progress: called after each segment.

    Raises:
        ArchiveDamaged: a segment's rows are not those of its footer; no roll-up is built of them.
        ArchiveUnwritable: the system refused to write.
    """
    report = RollupReport()
    segments = writer.archive.segments(writer.pair)
    for done, segment in enumerate(segments, 1):
        _roll_up_segment(writer, segment, levels, report)
        progress(writer.pair, done, len(segments))
    return report


def _roll_up_segment(
    writer: Writer, segment: Segment, levels: Sequence[Interval], report: RollupReport
) -> None:
    if writer.archive.footer(segment).rows == 0:
        return
    missing = [level for level in levels if not _is_up_to_date(writer, segment, level)]
    report.up_to_date += len(levels) - len(missing)
    try:
        partials_by_level = _build(writer, segment, missing) if missing else {}
    except ValueDoesNotFit as reason:
        report.notes.append(str(reason))
        return
    for level, partials in partials_by_level.items():
        writer.keep_rollup(segment, level, partials)
        report.built += 1


def _is_up_to_date(writer: Writer, segment: Segment, level: Interval) -> bool:
    path = rollup_path(segment, level.text)
    try:
        return writer.archive.is_rollup_valid(RollUp(level.text, segment.path, path, 0), segment)
    except FileNotFoundError:
        return False


def _build(
    writer: Writer, segment: Segment, levels: Sequence[Interval]
) -> dict[str, list[pa.RecordBatch]]:
    archive = writer.archive
    checksum = RowsChecksum()
    widths_ns = [width_of(level) for level in levels]
    partials = PartialCandles(widths_ns, f"roll-ups of {segment.path}")
    for batch in read_batches(archive.store, segment.path):
        checksum.update(batch)
        partials.add(batch)
    if checksum.hexdigest() != archive.footer(segment).checksum:
        raise ArchiveDamaged(
            f"the rows of {archive.location(segment)} differ from its footer: it was not rolled "
            f"up. `harvester verify {writer.pair}` shows the details"
        )
    batches_by_level = zip(levels, partials.finish(), strict=True)
    return {level.text: batches for level, batches in batches_by_level}


def width_of(level: Interval) -> int:
    """Return the length of a level's candles in nanoseconds."""
    if level.width_ns is None:
        raise BadInterval(f"{level.text} is no level of roll-ups: give a fixed length such as 1h")
    return level.width_ns


# --- recomputation --------------------------------------------------------------------------------

# Roll-ups are built with numpy (`aggregate.PartialCandles`). `verify` recomputes them with DuckDB:
# two implementations without common code prove more than one.

CHUNK_ROWS = 500_000
MEMORY_LIMIT = "512MB"

TRADE_COLUMNS = ["trade_id", "time", "price", "volume", "side"]


class RollupRecomputation:
    """Compute the partial candles of a segment again, at several levels, from its batches in order.

    Memory holds some chunks of trades, and the partial candles.
    """

    def __init__(self, levels: Sequence[Interval], what: str) -> None:
        """Start with no trades.

        Args:
            levels: the intervals, the finest first.
            what: names the work in messages.
        """
        self._what = what
        self._connection = shared_connection(MEMORY_LIMIT, 1)
        # A level, its buckets, and the finer buckets that it is computed from, if there are any.
        self._levels: list[tuple[Interval, _Buckets, _Buckets | None]] = []
        for level in levels:
            finer = [other for _, other, _ in self._levels if not width_of(level) % other.width_ns]
            formulas = MERGE if finer else BASE | EXTRA | LAST_TIME
            buckets = _Buckets(self._connection, width_of(level), formulas)
            self._levels.append((level, buckets, finer[-1] if finer else None))

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the next trades, a batch of `schema.TRADES`.

        Raises:
            ValueDoesNotFit: a sum has too many digits.
        """
        with translate_errors(self._what, MEMORY_LIMIT):
            for _, buckets, finer in self._levels:
                if finer is None:
                    buckets.add(batch.select(TRADE_COLUMNS))

    def finish(self) -> dict[str, list[pa.RecordBatch]]:
        """Return the partial candles of all trades, batches of `PARTIALS` by the level's name."""
        with translate_errors(self._what, MEMORY_LIMIT):
            for _, buckets, finer in self._levels:
                for batch in finer.batches if finer else []:
                    buckets.add(batch)
                buckets.close()
        return {level.text: buckets.batches for level, buckets, _ in self._levels}


class _Buckets:
    """Groups rows into buckets of one width, a chunk of complete buckets at a time."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, width_ns: int, formulas: dict[str, str]
    ) -> None:
        self.width_ns = width_ns
        self.batches: list[pa.RecordBatch] = []
        self._connection = connection
        columns = ", ".join(f"{formulas[name]} AS {name}" for name in PARTIALS.names[1:])
        number = f"epoch_ns(time) // {width_ns}"
        self._sql = (
            f"SELECT make_timestamp_ns({number} * {width_ns}) AS time, {columns}\n"
            f"FROM chunk GROUP BY {number} ORDER BY {number}"
        )
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._group_at_rows = CHUNK_ROWS

    def add(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if self._rows < self._group_at_rows:
            return
        rows = joined(self._waiting)
        numbers = times(rows) // self.width_ns
        # The last bucket may continue in the next batch.
        complete_rows = int(numbers.searchsorted(numbers[-1]))
        if complete_rows:
            self._group(rows.slice(0, complete_rows))
        self._waiting = [rows.slice(complete_rows)]
        self._rows -= complete_rows
        self._group_at_rows = max(CHUNK_ROWS, 2 * self._rows)

    def close(self) -> None:
        if self._rows:
            self._group(joined(self._waiting))
        self._waiting, self._rows = [], 0

    def _group(self, rows: pa.RecordBatch) -> None:
        position = pa.array(np.arange(rows.num_rows, dtype=np.int64))
        self._connection.register("chunk", pa.table(rows.append_column("place", position)))
        grouped = self._connection.sql(self._sql).to_arrow_table()
        self._connection.unregister("chunk")
        self.batches += grouped.cast(PARTIALS).combine_chunks().to_batches()
