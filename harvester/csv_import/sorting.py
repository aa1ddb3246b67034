"""Sort the rows of a file by time, in bounded memory; check that their ids increase."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import BadFile
from harvester.schema import Int64s, clip, joined, no_rows, sort_rows, times, trade_ids
from harvester.storage.filesystem import writing
from harvester.storage.id_gaps import BEFORE_FIRST_ID, FIRST_IDS, FirstTrades, LastId
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, SECOND, Range, show


@dataclass(slots=True)
class RowCount:
    """A number of rows and the sum of their volumes."""

    rows: int = 0
    volume: Decimal = Decimal(0)

    def add(self, rows: pa.RecordBatch, sign: int = 1) -> None:
        """Add a batch of `schema.ROWS`; with `sign` -1, subtract it."""
        if rows.num_rows:
            self.rows += sign * rows.num_rows
            self.volume += sign * pc.sum(rows.column("volume")).as_py()


# --- files that are nearly sorted -----------------------------------------------------------------

MAX_STEP_BACK_S = 60
"""A file counts as nearly sorted if its times step back by at most this many seconds. Such files
are sorted while they are read."""


class TimeDisorder:
    """Counts how often the times of a file step back, and by how much at most."""

    def __init__(self) -> None:
        """Start before the first row."""
        self.earliest_ns, self.latest_ns = END_OF_TIME, -1
        self.count = 0
        self.farthest_back_ns = 0

    def notes(self) -> Iterator[str]:
        """A sentence about times that step back, if there are any."""
        if self.count:
            yield (
                f"times step back {self.count} times, by {self.farthest_back_ns / SECOND:g} s at "
                "most: rows were sorted by time, rows of equal time kept their order"
            )

    def add(self, stamps: Int64s) -> None:
        """Add the next times of the file in nanoseconds, at least one."""
        before = np.maximum.accumulate(np.concatenate(([self.latest_ns], stamps[:-1])))
        back = before - stamps
        self.count += int((back > 0).sum())
        self.farthest_back_ns = max(self.farthest_back_ns, int(back.max()))
        self.earliest_ns = min(self.earliest_ns, int(stamps.min()))
        self.latest_ns = max(int(before[-1]), int(stamps[-1]))


class Sorter:
    """Sorts the rows of a nearly sorted file while they are read.

    Rows are kept back while earlier ones may still come. Times must not step back by more than
    `MAX_STEP_BACK_S`; see `in_time_order` for other files.
    """

    def __init__(self) -> None:
        """Start before the first row."""
        self._carry = no_rows()
        self._latest = -1
        self.repeats = RowCount()
        """Removed rows: they equal another row in every field, trade id included."""

    def notes(self) -> Iterator[str]:
        """A sentence about removed rows, if there are any."""
        if self.repeats.rows:
            yield (
                f"{self.repeats.rows} rows equal another row in every field, trade id included: "
                "each trade was imported once"
            )

    def push(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Add the next rows, and return in order those that no later row can precede."""
        if rows.num_rows:
            self._latest = max(self._latest, int(times(rows).max()))
        # A row that steps back by the maximum may still come, so its second is not complete.
        return self._sorted(rows, Range(-1, self._latest - MAX_STEP_BACK_S * SECOND - 1))

    def finish(self) -> pa.RecordBatch:
        """The remaining rows, in order."""
        return self._sorted(no_rows(), Range(-1, self._latest))

    def _sorted(self, rows: pa.RecordBatch, sure: Range) -> pa.RecordBatch:
        rows = joined([batch for batch in (self._carry, rows) if batch.num_rows])
        if rows.num_rows == 0:
            return rows
        stamps = times(rows)
        if not (stamps[1:] >= stamps[:-1]).all():
            rows = _by_time(rows)
        done = clip(rows, sure)
        self._carry = rows.slice(done.num_rows)
        if done.num_rows and done.column("trade_id").null_count < done.num_rows:
            ordered = sort_rows(done)
            if ordered.num_rows < done.num_rows:
                self.repeats.add(done)
                self.repeats.add(ordered, -1)
            return ordered
        return done


# --- files that are not sorted -------------------------------------------------------------------

RUN_ROWS = 1_000_000
"""Number of rows that are sorted in memory at once."""
SLICE_ROWS = 100_000
"""About this many rows are merged at once."""
_SAMPLE_EVERY = 10_000


def in_time_order(
    batches: Iterable[pa.RecordBatch], new_file: Callable[[], str]
) -> Iterator[pa.RecordBatch]:
    """Sort rows by time in bounded memory; rows of equal time keep their order.

    Sorted runs go into Arrow files, which are mapped into memory and merged slice by slice.

    Args:
        batches: batches of `schema.ROWS`, in any order.
        new_file: returns a path for a temporary file.

    Returns:
        Batches; rows of equal time are always in the same batch.
    """
    runs = [_write_run(run, new_file()) for run in _runs(batches)]
    samples = np.sort(np.concatenate([np.empty(0, np.int64), *(run.samples for run in runs)]))
    ends = np.unique(samples[:: max(1, SLICE_ROWS // _SAMPLE_EVERY)])
    starts = [0] * len(runs)
    for end in [*ends.tolist(), END_OF_TIME]:
        parts = []
        for index, run in enumerate(runs):
            stop = int(run.stamps.searchsorted(end, side="right"))
            parts.append(run.rows.slice(starts[index], stop - starts[index]))
            starts[index] = stop
        rows = joined([part for part in parts if part.num_rows])
        if rows.num_rows:
            yield _by_time(rows)


class _Run(NamedTuple):
    """Rows in order of time, in a file that is mapped into memory.

    Attributes:
        rows: the rows.
        stamps: their times, in nanoseconds.
        samples: every 10,000th of their times.
    """

    rows: pa.RecordBatch
    stamps: Int64s
    samples: Int64s


def _runs(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        if count >= RUN_ROWS:
            yield _by_time(joined(waiting))
            waiting, count = [], 0
    if count:
        yield _by_time(joined(waiting))


def _by_time(rows: pa.RecordBatch) -> pa.RecordBatch:
    stamps = times(rows)
    if (stamps[1:] >= stamps[:-1]).all():
        return rows
    return rows.take(pa.array(np.argsort(stamps, kind="stable")))


def _write_run(rows: pa.RecordBatch, path: str) -> _Run:
    with writing(path), pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, rows.schema) as file:
        file.write_batch(rows)
    mapped = pa.ipc.open_file(pa.memory_map(path)).get_batch(0)
    stamps = times(mapped)
    return _Run(mapped, stamps, stamps[_SAMPLE_EVERY - 1 :: _SAMPLE_EVERY].copy())


# --- what ids say of rows -------------------------------------------------------------------------

DISORDER_NS = MAX_STEP_BACK_S * SECOND
"""Within this time, rows need not be in the order of their ids."""
NO_TIMES = np.empty(0, np.int64)


class _Room:
    """Checks that rows without an id are no more than the ids around them leave room for.

    They are counted between ids that no other id of the file is on the wrong side of. A row without
    an id may be on the other side of an id of the same second.
    """

    def __init__(self) -> None:
        self._ids = self._stamps = NO_TIMES
        """The last rows; those before them are only counted."""
        self._top = self._used = self._without_id = 0
        """The highest id before these rows; the number of different ids, and of rows without."""
        self._done_ns = -1
        """Ids up to this time are compared."""
        self._most: tuple[int, ...] = (-END_OF_TIME, 0, 0, 0)
        """The unused ids up to an id, less the rows without one up to it: the highest such number;
        with that id, and both numbers."""

    def surplus(self, ids: Int64s, stamps: Int64s, *, is_end: bool = False) -> str:
        """Add the next rows; returns what contradicts, empty if nothing does."""
        ids, stamps = np.concatenate((self._ids, ids)), np.concatenate((self._stamps, stamps))
        if not len(ids):
            return ""
        kept = int(stamps.searchsorted(stamps[-1] - DISORDER_NS - SECOND))
        has_id = ids != 0
        numbers = ids[has_id]
        text, dropped = "", int(has_id[:kept].sum())
        # Nearly all files have an id in each row.
        if self._without_id or len(numbers) < len(ids):
            is_other = np.zeros(len(numbers), np.int64)
            is_other[np.unique(numbers, return_index=True)[1]] = 1
            used = self._used + is_other.cumsum()
            end_ns = END_OF_TIME if is_end else int(stamps[-1]) - DISORDER_NS
            text = self._compared(numbers, stamps[has_id], stamps[~has_id], used, end_ns)
            self._used += int(is_other[:dropped].sum())
            self._without_id += kept - dropped
        self._top = max(self._top, int(numbers[:dropped].max(initial=0)))
        self._ids, self._stamps = ids[kept:].copy(), stamps[kept:].copy()
        return text

    def _compared(
        self, numbers: Int64s, stamps: Int64s, without_id: Int64s, used: Int64s, end_ns: int
    ) -> str:
        """Compare the rows without an id up to each id with the unused ids up to it.

        Args:
            numbers: the ids.
            stamps: their times.
            without_id: the times of the rows without an id.
            used: how many different ids there are up to each id.
            end_ns: ids behind this time are compared later, as lower ones may follow.
        """
        before = np.maximum.accumulate(np.concatenate(([self._top], numbers)))[:-1]
        lowest = np.minimum.accumulate(numbers[::-1])[::-1]
        is_between = (before < numbers) & (lowest == numbers)
        at = (is_between & (self._done_ns < stamps) & (stamps <= end_ns)).nonzero()[0]
        self._done_ns = end_ns
        if not len(at):
            return ""
        numbers, stamps = numbers[at], stamps[at]
        unused = numbers - used[at]
        late = self._without_id + without_id.searchsorted(stamps + SECOND, side="right")
        early = self._without_id + without_id.searchsorted(stamps - SECOND)
        room = np.maximum.accumulate(np.concatenate(([self._most[0]], unused - late)))[1:]
        over = (unused - early < room).nonzero()[0]
        stop = int(over[0]) if len(over) else len(at) - 1
        left = stop - int((unused - late)[stop::-1].argmax())
        if (unused - late)[left] >= self._most[0]:
            found = (unused - late, numbers, unused, late)
            self._most = tuple(int(column[left]) for column in found)
        if not len(over):
            return ""
        _, number, unused_before, rows_before = self._most
        return (
            f"between trade ids {number} and {numbers[stop]} there are "
            f"{early[stop] - rows_before:,} rows without an id, but "
            f"{unused[stop] - unused_before:,} unused ids"
        )


class IdOrder:
    """Checks rows in order of time by their ids.

    Ids increase, no id is there at two times, and rows without an id are no more than ids leave
    room for. Ids may begin again with 1, as those of a market that is listed again, if id 2 follows
    and the trades are other ones than the first ones in the file or in the archive.
    """

    def __init__(self, archive: TradeStore, pair: str) -> None:
        """Start before the first row.

        Args:
            archive: where the first trades are looked up if ids begin again.
            pair: altname.
        """
        self._archive, self._pair = archive, pair
        self._ids = self._stamps = NO_TIMES
        """The rows with an id of the last `DISORDER_NS`."""
        self._top = BEFORE_FIRST_ID
        """The highest id before them."""
        self._last_id = 0
        self._room = _Room()
        self._known: FirstTrades | None = None
        """The first trades in these rows; None if they begin with another id than 1."""
        self._again: tuple[FirstTrades, LastId] | None = None
        """The first trades since ids began again, and the highest id before; None if judged."""

    def contradiction(self, rows: pa.RecordBatch) -> str:
        """Add the next rows; returns what contradicts, empty if nothing does."""
        if not self._last_id and rows.column("trade_id").null_count == rows.num_rows:
            return ""
        ids = trade_ids(rows)
        at = ids.nonzero()[0]
        numbers = ids[at]
        before = np.concatenate(([self._last_id], numbers[:-1]))
        # The very first trades may be out of order.
        begins = at[(numbers == 1) & (before > FIRST_IDS)].tolist()
        for number, (start, stop) in enumerate(pairwise([0, *begins, len(ids)])):
            text = self._begin_again() if number else ""
            if text := text or self._added(rows.slice(start, stop - start)):
                return text
        return ""

    def finish(self, *, is_whole: bool) -> str:
        """End the rows; returns what contradicts, empty if nothing does.

        Args:
            is_whole: whether these are all rows of a file, so that no other one follows.
        """
        text = self._room.surplus(NO_TIMES, NO_TIMES, is_end=True)
        return text or self._judged(is_end=is_whole)

    def _begin_again(self) -> str:
        text = self.finish(is_whole=True)
        self._again = FirstTrades(), self._highest(self._ids, self._stamps)
        self._ids = self._stamps = NO_TIMES
        self._top, self._room = BEFORE_FIRST_ID, _Room()
        return text

    def _added(self, rows: pa.RecordBatch) -> str:
        """Add rows of one numbering."""
        ids, stamps = trade_ids(rows), times(rows)
        text = self._room.surplus(ids, stamps)
        if not ids.all():
            stamps, ids = stamps[ids != 0], ids[ids != 0]
        if not len(ids):
            return text
        if not self._last_id and ids[0] == 1:
            self._known = FirstTrades()
        self._last_id = int(ids[-1])
        if self._known is not None and not self._known.is_complete and self._again is None:
            self._known.add(rows)
        if self._again is not None:
            self._again[0].add(rows)
            text = text or (self._judged() if self._again[0].is_complete else "")
        ids, stamps = np.concatenate((self._ids, ids)), np.concatenate((self._stamps, stamps))
        if not (ids[0] > self._top.trade_id and (ids[1:] > ids[:-1]).all()):
            text = text or self._compared(ids, stamps)
        kept = int(stamps.searchsorted(stamps[-1] - DISORDER_NS))
        self._top = self._highest(ids[:kept], stamps)
        self._ids, self._stamps = ids[kept:].copy(), stamps[kept:].copy()
        return text

    def _judged(self, *, is_end: bool = False) -> str:
        """What contradicts where ids began again; empty if they are those of a new listing."""
        if self._again is None:
            return ""
        (again, top), self._again = self._again, None
        for known in (self._known, self._stored()):
            if known is not None and again.are_again(known):
                times_text = f"at {show(known.begins_ns)} and at {show(again.begins_ns)}"
                return f"trade id 1 is there twice, {times_text}, with the same price and volume"
        if again.following_id is None and (again.goes_on or not is_end):
            return ""
        following = f"trade id {again.following_id} follows it instead of 2"
        return (
            f"trade id 1 of {show(again.begins_ns)} is behind trade id {top.trade_id} of "
            f"{show(top.time_ns)}, and {following if again.following_id else 'nothing follows it'}"
        )

    def _stored(self) -> FirstTrades:
        """The first trades in the archive; none if no segment begins with id 1."""
        for piece in self._archive.pieces(self._pair):
            if self._archive.footer(piece.segment).first_trade_id == 1:
                return FirstTrades(self._archive.scan(self._pair, piece.within))
        return FirstTrades()

    def _highest(self, ids: Int64s, stamps: Int64s) -> LastId:
        """The highest of some ids and of those before them, with its time."""
        if not len(ids):
            return self._top
        at = int(ids.argmax())
        return max(self._top, LastId(int(ids[at]), 0, int(stamps[at])))

    def _compared(self, ids: Int64s, stamps: Int64s) -> str:
        """What contradicts among rows of one numbering; empty if nothing does."""
        order = np.lexsort((stamps, ids))
        is_same = ids[order][1:] == ids[order][:-1]
        twice = (is_same & (stamps[order][1:] != stamps[order][:-1])).nonzero()[0]
        if len(twice):
            first, second = min((int(order[at]), int(order[at + 1])) for at in twice)
            times_text = f"at {show(int(stamps[first]))} and at {show(int(stamps[second]))}"
            return f"trade id {ids[first]} is there twice, {times_text}"
        tops = np.maximum.accumulate(np.concatenate(([self._top.trade_id], ids)))
        late = (ids <= tops[stamps.searchsorted(stamps - DISORDER_NS)]).nonzero()[0]
        if not len(late):
            return ""
        row = int(late[0])
        before = int(stamps.searchsorted(stamps[row] - DISORDER_NS))
        top = self._highest(ids[:before], stamps)
        return (
            f"trade id {ids[row]} of {show(int(stamps[row]))} is behind trade id {top.trade_id} of "
            f"{show(top.time_ns)}, but ids increase with time"
        )


def in_id_order(
    batches: Iterable[pa.RecordBatch], archive: TradeStore, pair: str, backfill: str
) -> Iterator[pa.RecordBatch]:
    """Pass on sorted rows that their trade ids, if they have any, do not contradict.

    Args:
        batches: batches of `schema.ROWS`, in order.
        archive: where the first trades are looked up if ids begin again.
        pair: altname.
        backfill: the command that downloads the trades, for the message; empty if nothing can.

    Raises:
        BadFile: see `IdOrder`.
    """
    order = IdOrder(archive, pair)
    for rows in chain(batches, [None]):
        text = order.finish(is_whole=True) if rows is None else order.contradiction(rows)
        if text:
            raise BadFile(
                f"{text}: nothing was imported, as the file may have trades twice or wrong ids. "
                "Import another copy of it"
                + (f"; or {backfill} downloads the trades" if backfill else "")
            )
        if rows is not None:
            yield rows
