"""The order of a file's rows, by time and by trade id: what is sorted, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from harvester.csv_import.boundaries import RowCount
from harvester.csv_import.parse import Parsed
from harvester.errors import BadFile, counted
from harvester.schema import NO_ROWS, Int64s, clip, joined, sort_rows, times, trade_ids
from harvester.storage.id_gaps import BEFORE_FIRST_ID, LastId
from harvester.times import END_OF_TIME, SECOND, Range, show

# --- order of time --------------------------------------------------------------------------------

MAX_STEP_BACK_S = 60
"""Largest step back in time that is tolerated; rows are sorted while they are read.

A larger one means a wrong time or an unsorted file.
"""


def check_order(name: str, parsed: Parsed, first_line: int, latest_ns: int) -> int:
    """Check that rows are in order of time, but for steps back that are sorted while reading.

    Args:
        name: the file's name.
        parsed: its next rows.
        first_line: the number of their first line.
        latest_ns: the latest time of the rows before them; -1 without any.

    Returns:
        The latest time up to here.

    Raises:
        BadFile: they are not in order.
    """
    stamps = times(parsed.rows)
    reached = np.maximum.accumulate(np.concatenate(([latest_ns], stamps)))
    late = (reached[:-1] - stamps > MAX_STEP_BACK_S * SECOND).nonzero()[0]
    if len(late):
        row = int(late[0])
        line = parsed.lines[row] if parsed.lines else first_line + row
        raise BadFile(
            f"{name}, line {line}: its time {show(int(stamps[row]))} is before "
            f"{show(int(reached[row]))}, the time of an earlier row, so nothing was imported: sort "
            "the file by time, or give another copy of it"
        )
    return int(reached[-1])


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
                f"times step back {counted(self.count, 'time')}, by at most "
                f"{self.farthest_back_ns / SECOND:g} s: rows were sorted by "
                "time, rows of equal time kept their order"
            )

    def add(self, stamps: Int64s) -> None:
        """Add the next times of the file in nanoseconds, at least one."""
        before = np.maximum.accumulate(np.concatenate(([self.latest_ns], stamps[:-1])))
        back = before - stamps
        self.count += int((back > 0).sum())
        self.farthest_back_ns = max(self.farthest_back_ns, int(back.max()))
        self.earliest_ns = min(self.earliest_ns, int(stamps.min()))
        self.latest_ns = max(int(before[-1]), int(stamps[-1]))


# --- rows of files that are nearly sorted --------------------------------------------------------


class Sorter:
    """Sorts the rows of a nearly sorted file while they are read.

    Rows are kept back while earlier ones may still come: times step back by at most
    `MAX_STEP_BACK_S`.
    """

    def __init__(self) -> None:
        """Start before the first row."""
        self._carry = NO_ROWS
        self._latest = -1
        self.repeats = RowCount()
        """Removed rows: they equal another row in every field, trade id included."""

    def notes(self) -> Iterator[str]:
        """A sentence about removed rows, if there are any."""
        if self.repeats.rows:
            yield (
                f"{counted(self.repeats.rows, 'row')} left out, equal to another row in every "
                "field, trade id included: each trade was imported once"
            )

    def push(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Add the next rows, and return in order those that no later row can precede."""
        if rows.num_rows:
            self._latest = max(self._latest, int(times(rows).max()))
        # A row that steps back by the maximum may still come, so its second is not complete.
        return self._sorted(rows, Range(-1, self._latest - MAX_STEP_BACK_S * SECOND - 1))

    def finish(self) -> pa.RecordBatch:
        """The remaining rows, in order."""
        return self._sorted(NO_ROWS, Range(-1, self._latest))

    def _sorted(self, rows: pa.RecordBatch, sure: Range) -> pa.RecordBatch:
        rows = joined([self._carry, rows])
        if rows.num_rows == 0:
            return rows
        stamps = times(rows)
        if not (stamps[1:] >= stamps[:-1]).all():
            rows = rows.take(pa.array(np.argsort(stamps, kind="stable")))
        done = clip(rows, sure)
        self._carry = rows.slice(done.num_rows)
        if done.num_rows and done.column("trade_id").null_count < done.num_rows:
            ordered = sort_rows(done)
            if ordered.num_rows < done.num_rows:
                self.repeats.add(done)
                self.repeats.add(ordered, -1)
            return ordered
        return done


# --- order of ids -------------------------------------------------------------------------

DISORDER_NS = MAX_STEP_BACK_S * SECOND
"""Within this time, rows need not be in the order of their ids."""


class IdOrder:
    """Checks rows in order of time by their ids: ids increase, and no id is there at two times."""

    def __init__(self) -> None:
        """Start before the first row."""
        self._ids = self._stamps = np.empty(0, np.int64)
        """Of the last rows: as many as ids out of order may reach back."""
        self._top = BEFORE_FIRST_ID
        """The highest id before them."""

    def contradiction(self, rows: pa.RecordBatch) -> str:
        """Add the next rows; returns what contradicts, empty if nothing does."""
        if rows.column("trade_id").null_count == rows.num_rows:
            return ""
        ids = trade_ids(rows)
        has_id = ids != 0
        self._ids = np.concatenate((self._ids, ids[has_id]))
        self._stamps = np.concatenate((self._stamps, times(rows)[has_id]))
        text = self._contradiction()
        end = int(self._stamps.searchsorted(self._stamps[-1] - DISORDER_NS))
        self._top = _highest(self._top, self._ids[:end], self._stamps)
        self._ids, self._stamps = self._ids[end:].copy(), self._stamps[end:].copy()
        return text

    def _contradiction(self) -> str:
        ids, stamps, top = self._ids, self._stamps, self._top
        if ids[0] > top.trade_id and (ids[1:] > ids[:-1]).all():
            return ""
        order = np.lexsort((stamps, ids))
        is_same = ids[order][1:] == ids[order][:-1]
        twice = (is_same & (stamps[order][1:] != stamps[order][:-1])).nonzero()[0]
        if len(twice):
            first, second = min((int(order[at]), int(order[at + 1])) for at in twice)
            times_text = f"at {show(int(stamps[first]))} and at {show(int(stamps[second]))}"
            return f"trade id {ids[first]} is there twice, {times_text}"
        tops = np.maximum.accumulate(np.concatenate(([top.trade_id], ids)))
        late = (ids <= tops[stamps.searchsorted(stamps - DISORDER_NS)]).nonzero()[0]
        if not len(late):
            return ""
        row = int(late[0])
        top = _highest(top, ids[: int(stamps.searchsorted(stamps[row] - DISORDER_NS))], stamps)
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


def in_id_order(batches: Iterable[pa.RecordBatch], backfill: str) -> Iterator[pa.RecordBatch]:
    """Pass on sorted rows that their trade ids, if they have any, do not contradict.

    Args:
        batches: batches of `schema.PAGE_SCHEMA`, in order.
        backfill: the command that downloads the trades, for the message; empty if nothing can.

    Raises:
        BadFile: see `IdOrder`.
    """
    order = IdOrder()
    for rows in batches:
        if text := order.contradiction(rows):
            raise BadFile(
                f"{text}: nothing was imported, as the file may have trades twice or wrong ids. "
                "Import another copy of it"
                + (f"; or {backfill} downloads the trades" if backfill else "")
            )
        yield rows
