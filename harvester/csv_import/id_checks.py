"""What trade ids say of the rows of files: their order, rows that are twice, missing rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.csv_import.uncovered_times import MAX_RUNS, MAX_STEP_BACK_S, around
from harvester.errors import BadFile
from harvester.schema import Int64s, times, trade_ids
from harvester.storage.id_gaps import BEFORE_FIRST_ID, FIRST_IDS, FirstTrades, LastId
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, SECOND, Range, show

# --- order of ids -------------------------------------------------------------------------

DISORDER_NS = MAX_STEP_BACK_S * SECOND
"""Within this time, rows need not be in the order of their ids."""


class _RecentRows:
    """The last rows, in order of time: as many as ids out of order may reach back.

    Attributes:
        ids: their ids; 0 for a row without one.
        stamps: their times, in nanoseconds.
        top: the highest id before them.
        kept: index of the first row that is kept when others follow.
    """

    def __init__(self) -> None:
        self.ids = self.stamps = np.empty(0, np.int64)
        self.top = BEFORE_FIRST_ID
        self.kept = 0

    def add(self, ids: Int64s, stamps: Int64s) -> None:
        """Add the next rows."""
        self.ids = np.concatenate((self.ids, ids))
        self.stamps = np.concatenate((self.stamps, stamps))
        if len(self.stamps):
            self.kept = int(self.stamps.searchsorted(self.stamps[-1] - DISORDER_NS - SECOND))

    def drop(self) -> None:
        """Drop the rows that no later row is compared with."""
        self.top = _highest(self.top, self.ids[: self.kept], self.stamps)
        self.ids, self.stamps = self.ids[self.kept :].copy(), self.stamps[self.kept :].copy()
        self.kept = 0

    def contradiction(self) -> str:
        """What contradicts among the ids and their times; empty if nothing does."""
        has_id = self.ids != 0
        ids, stamps = self.ids[has_id], self.stamps[has_id]
        if ids[0] > self.top.trade_id and (ids[1:] > ids[:-1]).all():
            return ""
        order = np.lexsort((stamps, ids))
        is_same = ids[order][1:] == ids[order][:-1]
        twice = (is_same & (stamps[order][1:] != stamps[order][:-1])).nonzero()[0]
        if len(twice):
            first, second = min((int(order[at]), int(order[at + 1])) for at in twice)
            times_text = f"at {show(int(stamps[first]))} and at {show(int(stamps[second]))}"
            return f"trade id {ids[first]} is there twice, {times_text}"
        tops = np.maximum.accumulate(np.concatenate(([self.top.trade_id], ids)))
        late = (ids <= tops[stamps.searchsorted(stamps - DISORDER_NS)]).nonzero()[0]
        if not len(late):
            return ""
        row = int(late[0])
        before = int(stamps.searchsorted(stamps[row] - DISORDER_NS))
        top = _highest(self.top, ids[:before], stamps)
        return (
            f"trade id {ids[row]} of {show(int(stamps[row]))} is behind trade id {top.trade_id} of "
            f"{show(top.time_ns)}, but ids increase with time"
        )


def _highest(top: LastId, ids: Int64s, stamps: Int64s) -> LastId:
    """The highest of some ids and of those before them, with its time."""
    if not len(ids):
        return top
    at = int(ids.argmax())
    return max(top, LastId(int(ids[at]), 0, int(stamps[at])))


class _UnusedIds:
    """Checks that rows without an id are no more than the unused ids around them.

    They are counted between ids that no other id of the file is on the wrong side of. A row without
    an id may be on the other side of an id of the same second.
    """

    def __init__(self) -> None:
        self._used = self._without_id = 0
        """The number of different ids, and of rows without one, before the rows that are given."""
        self._done_ns = -1
        """Ids up to this time are compared."""
        self._most: tuple[int, ...] = (-END_OF_TIME, 0, 0, 0)
        """The maximum, over the ids compared so far, of the unused ids up to an id less the rows
        without an id up to it; then that id, and both counts."""

    def surplus(self, recent: _RecentRows, *, is_end: bool = False) -> str:
        """Check rows that are not compared yet; returns what contradicts, empty if nothing does.

        Args:
            recent: the last rows.
            is_end: whether no row follows them.
        """
        has_id = recent.ids != 0
        numbers = recent.ids[has_id]
        # Nearly all files have an id in each row.
        if not len(has_id) or (not self._without_id and has_id.all()):
            return ""
        is_other = np.zeros(len(numbers), np.int64)
        is_other[np.unique(numbers, return_index=True)[1]] = 1
        end_ns = END_OF_TIME if is_end else int(recent.stamps[-1]) - DISORDER_NS
        text = self._compared(recent, self._used + is_other.cumsum(), end_ns)
        dropped = int(has_id[: recent.kept].sum())
        self._used += int(is_other[:dropped].sum())
        self._without_id += recent.kept - dropped
        return text

    def _compared(self, recent: _RecentRows, used: Int64s, end_ns: int) -> str:
        """Compare the rows without an id up to each id with the unused ids up to it.

        Args:
            recent: the rows.
            used: how many different ids there are up to each id.
            end_ns: ids behind this time are compared later, as lower ones may follow.
        """
        has_id = recent.ids != 0
        numbers, stamps = recent.ids[has_id], recent.stamps[has_id]
        without_id, top = recent.stamps[~has_id], recent.top.trade_id
        before = np.maximum.accumulate(np.concatenate(([top], numbers)))[:-1]
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
        self._last_id = 0
        self._recent, self._unused_ids = _RecentRows(), _UnusedIds()
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
        text = self._unused_ids.surplus(self._recent, is_end=True)
        return text or self._judged(is_end=is_whole)

    def _begin_again(self) -> str:
        text = self.finish(is_whole=True)
        recent = self._recent
        self._again = FirstTrades(), _highest(recent.top, recent.ids, recent.stamps)
        self._recent, self._unused_ids = _RecentRows(), _UnusedIds()
        return text

    def _added(self, rows: pa.RecordBatch) -> str:
        """Add rows of one numbering."""
        ids, recent = trade_ids(rows), self._recent
        recent.add(ids, times(rows))
        text = self._unused_ids.surplus(recent)
        numbers = ids[ids != 0]
        if len(numbers):
            if not self._last_id and numbers[0] == 1:
                self._known = FirstTrades()
            self._last_id = int(numbers[-1])
            if self._known is not None and not self._known.is_complete and self._again is None:
                self._known.add(rows)
            if self._again is not None:
                self._again[0].add(rows)
                text = text or (self._judged() if self._again[0].is_complete else "")
            text = text or recent.contradiction()
        recent.drop()
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


# --- missing ids ----------------------------------------------------------------------------------

# Files with trade ids show themselves where they lack rows. Rows may be in any order, so a file is
# described by its runs of consecutive ids: few, unless the market skips ids all the time.

MAX_ID_RUNS = 200_000
"""If a file has more runs of ids, missing ids are not searched for."""
LEAST_SPLITS = 20
ROWS_FOR_A_SPLIT = 10_000
"""Files are split at up to `LEAST_SPLITS` places where ids are missing, and at another one for each
`ROWS_FOR_A_SPLIT` rows, up to `MAX_RUNS`: a market with more skips ids all the time."""
MAX_DISORDER_ROWS = 10
"""Rows of nearly equal time may be so far from their place."""
WIDE_GAPS = 100
"""But even then at places that lack this many times as many ids as the median."""


class IdRuns(NamedTuple):
    """The runs of consecutive trade ids in a file.

    Attributes:
        runs: shape (runs, 8): first and last id, their times, the rows without an id before each,
            and the rows with an id before each.
        rows_without_id: in the whole file.
        rows_with_id: in the whole file.
        is_known: False if there were too many.
    """

    runs: Int64s
    rows_without_id: int = 0
    rows_with_id: int = 0
    is_known: bool = True


class IdRunFinder:
    """Finds the runs of consecutive trade ids in a file. A row without an id uses up one id."""

    def __init__(self) -> None:
        """Start before the first row."""
        self._parts: list[Int64s] = []
        self._count = self._rows_without_id = self._rows_with_id = 0
        self._is_known = True

    def add(self, rows: pa.RecordBatch) -> None:
        """Add the next rows, in the order of the file."""
        ids, stamps = trade_ids(rows), times(rows)
        if len(ids) and ids[0] and (ids[1:] - ids[:-1] == 1).all():
            # True for nearly every block.
            before, start = self._rows_without_id, self._rows_with_id
            self._rows_with_id += len(ids)
            ends = [ids[0], ids[-1], stamps[0], stamps[-1], before, before]
            self._append(np.array([[*ends, start, self._rows_with_id - 1]]))
            return
        indexes = ids.nonzero()[0]
        without_id = self._rows_without_id + indexes - np.arange(len(indexes))
        self._rows_without_id += len(ids) - len(indexes)
        if not len(indexes):
            return
        with_id = self._rows_with_id + np.arange(len(indexes))
        self._rows_with_id += len(indexes)
        columns = (ids[indexes], stamps[indexes], without_id, with_id)
        self._append(np.repeat(np.column_stack(columns), 2, axis=1))

    def _append(self, rows: Int64s) -> None:
        if not self._is_known:
            return
        self._parts.append(_joined_runs(rows))
        self._count += len(self._parts[-1])
        if self._count > MAX_ID_RUNS:
            self._parts = [_joined_runs(np.concatenate(self._parts))]
            self._count = len(self._parts[0])
            if self._count > MAX_ID_RUNS // 2:
                self._parts, self._is_known = [], False

    def found(self) -> IdRuns:
        """The runs of all rows that were added."""
        runs = _joined_runs(np.concatenate([np.empty((0, 8), np.int64), *self._parts]))
        return IdRuns(runs, self._rows_without_id, self._rows_with_id, self._is_known)


def _joined_runs(runs: Int64s) -> Int64s:
    """Sort runs by their first id, and join those that follow one another or overlap."""
    if len(runs) < 2:
        return runs
    if not (runs[1:, 0] >= runs[:-1, 0]).all():
        runs = runs[np.argsort(runs[:, 0], kind="stable")]
    reached = np.maximum.accumulate(runs[:, 1])
    # The run that reaches highest so far: its last id is the id before the next run.
    highest = np.maximum.accumulate(np.where(runs[:, 1] == reached, np.arange(len(runs)), 0))
    before = runs[highest[:-1]]
    missing = _missing_between(before, runs[1:])
    starts = np.concatenate(([0], (missing > 0).nonzero()[0] + 1))
    ends = highest[np.append(starts[1:] - 1, len(runs) - 1)]
    return np.column_stack([runs[starts], runs[ends]])[:, [0, 9, 2, 11, 4, 13, 6, 15]]


def _missing_between(left: Int64s, right: Int64s) -> Int64s:
    """How many ids are missing before each right run; a row without an id between uses one up.

    Where the runs are far from each other in the file, the rows between them are of other times.
    """
    is_near = abs(right[:, 6] - left[:, 7]) <= MAX_DISORDER_ROWS
    found: Int64s = right[:, 0] - left[:, 1] - 1 - abs(right[:, 4] - left[:, 5]) * is_near
    return found


class MissingIds(NamedTuple):
    """Places where ids are missing, in order.

    Attributes:
        before: the ids before them.
        behind: the ids behind them.
        counts: how many are missing.
        times: the times of the trades before and behind, shape (places, 2).
    """

    before: Int64s
    behind: Int64s
    counts: Int64s
    times: Int64s

    def text(self) -> str:
        """The places in words."""
        places = f"{len(self.counts):,} place{'s'[: len(self.counts) != 1]}"
        first = f"the first between ids {self.before[0]} and {self.behind[0]}"
        return f"{self.counts.sum():,} trade ids are missing at {places}, {first}"

    def where(self, is_chosen: NDArray[np.bool_]) -> MissingIds:
        """Some of the places."""
        return MissingIds(*(column[is_chosen] for column in self))

    def to_split_at(self, rows: int) -> NDArray[np.bool_]:
        """Choose the places that segments of a file with so many rows do not cover."""
        most = min(MAX_RUNS, LEAST_SPLITS + rows // ROWS_FOR_A_SPLIT)
        if len(self.counts) <= most:
            return np.ones(len(self.counts), bool)
        # More than `most` can't be that far above the median of real skips; if they are, none is.
        is_wide: NDArray[np.bool_] = self.counts > WIDE_GAPS * np.median(self.counts)
        return is_wide if is_wide.sum() <= most else np.zeros_like(is_wide)

    def ranges(self) -> list[Range]:
        """The time around each place."""
        return [around(*sorted(pair)) for pair in self.times.tolist()]

    def seconds_between(self) -> Int64s:
        """The whole seconds between the rows at each place, maybe none; (after, through), in ns."""
        ends: Int64s = np.sort(self.times) // SECOND * SECOND + np.array([SECOND - 1, -1])
        return ends


def missing_ids(files: Sequence[IdRuns]) -> MissingIds:
    """Find the ids that are missing within and between files that follow one another."""
    parts, before = [np.empty((0, 8), np.int64)], np.zeros(8, np.int64)
    for found in files:
        parts.append(found.runs + before)
        before[4:6] += found.rows_without_id
        before[6:8] += found.rows_with_id
    runs = _joined_runs(np.concatenate(parts))
    left, right = runs[:-1], runs[1:]
    counts = _missing_between(left, right)
    return MissingIds(left[:, 1], right[:, 0], counts, np.column_stack([left[:, 3], right[:, 2]]))
