"""Build roll-ups, and compute them again for `verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa

from harvester.errors import ArchiveDamaged, BadInterval, ValueDoesNotFit
from harvester.query.aggregate import Partials
from harvester.query.connection import asking, session
from harvester.query.sources import BASE, COMBINED, LAST_TIME, MORE
from harvester.schema import RowsChecksum, joined, times
from harvester.storage.rollup_files import PARTIALS, RollUp, rollup_path
from harvester.storage.segment import Segment, read_batches
from harvester.storage.writer import Writer
from harvester.times import Interval, parse_interval

# --- rollups --------------------------------------------------------------------------------------

Progress = Callable[[str, int, int], None]
"""Told a pair, its files done and its files in all."""


@dataclass(slots=True)
class RolledUp:
    """What a run of `roll_up` came to.

    Attributes:
        files: roll-ups that were written.
        standing: roll-ups that stood already and agree with their segment.
        notes: segments that have none, and why.
    """

    files: int = 0
    standing: int = 0
    notes: list[str] = field(default_factory=list)


def parse_levels(texts: Iterable[str]) -> list[Interval]:
    """The levels of roll-ups by their names, the finest first.

    Raises:
        BadInterval: one is no interval of fixed length.
    """
    levels = [parse_interval(text) for text in texts]
    for level in levels:
        if level.width_ns is None:
            raise BadInterval(
                f"rollups holds {level.text!r}, which follows the calendar: "
                "give fixed lengths such as 1m or 1h"
            )
    return sorted(levels, key=lambda level: level.width_ns or 0)


def roll_up(
    writer: Writer,
    levels: Sequence[Interval],
    progress: Progress = lambda _pair, _done, _all: None,
) -> RolledUp:
    """Make the roll-ups that a pair's segments lack, or that were made from other rows.

    Args:
        writer: of the pair; its lock is held.
        levels: see `parse_levels`.
        progress: told after each segment.

    Raises:
        ArchiveDamaged: a segment's rows are not those of its footer; nothing is made from them.
        ArchiveUnwritable: the machine refused.
    """
    done = RolledUp()
    archive = writer.archive
    segments = archive.segments(writer.pair)
    for place, segment in enumerate(segments, 1):
        _roll_up_one(writer, segment, levels, done)
        progress(writer.pair, place, len(segments))
    return done


def _roll_up_one(
    writer: Writer, segment: Segment, levels: Sequence[Interval], done: RolledUp
) -> None:
    if writer.archive.footer(segment).rows == 0:
        return
    lacking = [level for level in levels if not _stands(writer, segment, level)]
    done.standing += len(levels) - len(lacking)
    try:
        made = _made(writer, segment, lacking) if lacking else {}
    except ValueDoesNotFit as reason:
        done.notes.append(str(reason))
        return
    for text, partials in made.items():
        writer.keep_rollup(segment, text, partials)
        done.files += 1


def _stands(writer: Writer, segment: Segment, level: Interval) -> bool:
    path = rollup_path(segment, level.text)
    try:
        return writer.archive.is_rollup_valid(RollUp(level.text, segment.path, path, 0), segment)
    except FileNotFoundError:
        return False


def _made(
    writer: Writer, segment: Segment, levels: Sequence[Interval]
) -> dict[str, list[pa.RecordBatch]]:
    archive = writer.archive
    checksum = RowsChecksum()
    partials = Partials([width_of(level) for level in levels], f"roll-ups of {segment.path}")
    for batch in read_batches(archive.store, segment.path):
        checksum.update(batch)
        partials.add(batch)
    if checksum.hexdigest() != archive.footer(segment).checksum:
        raise ArchiveDamaged(
            f"{archive.location(segment)} has other rows than its footer says: it was not "
            f"rolled up. `harvester verify {writer.pair}` tells more"
        )
    made = partials.finish()
    return {level.text: some for level, some in zip(levels, made, strict=True)}


def width_of(level: Interval) -> int:
    """How long a level's candles are, in nanoseconds."""
    if level.width_ns is None:
        raise BadInterval(f"{level.text} is no level of roll-ups: give fixed lengths such as 1h")
    return level.width_ns


# --- recount --------------------------------------------------------------------------------------

# Roll-ups are made by numpy (`partials.py`); two ways that share no code prove more than one.

CHUNK_ROWS = 500_000
MEMORY_LIMIT = "512MB"

TICKS = ["trade_id", "time", "price", "volume", "side"]


class RollupRecomputation:
    """Partial candles at several levels from the batches of one segment, in its order.

    Memory holds some chunks of ticks, and the partial candles.
    """

    def __init__(self, levels: Sequence[Interval], what: str) -> None:
        """`levels`: from the finest on; `what` names the work in messages."""
        self._what = what
        self._connection = session(MEMORY_LIMIT, 1)
        self._formulas = BASE | MORE | LAST_TIME
        self._levels: list[tuple[Interval, _Buckets, _Buckets | None]] = []
        for level in levels:
            below = [one for _, one, _ in self._levels if not width_of(level) % one.width_ns]
            formulas = COMBINED if below else self._formulas
            buckets = _Buckets(self._connection, width_of(level), formulas)
            self._levels.append((level, buckets, below[-1] if below else None))

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the next ticks, a batch of `TRADES`.

        Raises:
            ValueDoesNotFit: a sum has too many digits.
        """
        with asking(self._what, MEMORY_LIMIT):
            for _, buckets, below in self._levels:
                if below is None:
                    buckets.add(batch.select(TICKS))

    def finish(self) -> dict[str, list[pa.RecordBatch]]:
        """Batches of `PARTIALS` by the level's name, of all that was counted."""
        with asking(self._what, MEMORY_LIMIT):
            for _, buckets, below in self._levels:
                for batch in below.made if below else []:
                    buckets.add(batch)
                buckets.close()
        return {level.text: buckets.made for level, buckets, _ in self._levels}


class _Buckets:
    """Rows in order, grouped into buckets of one width, a chunk of whole buckets at a time."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, width_ns: int, formulas: dict[str, str]
    ) -> None:
        self.width_ns = width_ns
        self.made: list[pa.RecordBatch] = []
        self._connection = connection
        columns = ", ".join(f"{formulas[name]} AS {name}" for name in PARTIALS.names[1:])
        number = f"epoch_ns(time) // {width_ns}"
        self._sql = (
            f"SELECT make_timestamp_ns({number} * {width_ns}) AS time, {columns}\n"
            f"FROM chunk GROUP BY {number} ORDER BY {number}"
        )
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._due = CHUNK_ROWS

    def add(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if self._rows < self._due:
            return
        rows = joined(self._waiting)
        numbers = times(rows) // self.width_ns
        whole = int(numbers.searchsorted(numbers[-1]))
        if whole:
            self._group(rows.slice(0, whole))
        self._waiting = [rows.slice(whole)]
        self._rows -= whole
        self._due = max(CHUNK_ROWS, 2 * self._rows)

    def close(self) -> None:
        if self._rows:
            self._group(joined(self._waiting))
        self._waiting, self._rows = [], 0

    def _group(self, rows: pa.RecordBatch) -> None:
        place = pa.array(np.arange(rows.num_rows, dtype=np.int64))
        self._connection.register("chunk", pa.table(rows.append_column("place", place)))
        found = self._connection.sql(self._sql).to_arrow_table()
        self._connection.unregister("chunk")
        self.made += found.cast(PARTIALS).combine_chunks().to_batches()
