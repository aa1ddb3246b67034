"""Sort rows by time and trade id, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.schema import Int64s, clip, joined, no_rows, sort_rows, times
from harvester.storage.filesystem import writing
from harvester.times import END_OF_TIME, SECOND, Range

# --- counting -------------------------------------------------------------------------------------


@dataclass(slots=True)
class RowCount:
    """Rows, and the sum of their volumes."""

    rows: int = 0
    volume: Decimal = Decimal(0)

    def add(self, rows: pa.RecordBatch) -> None:
        """Count a batch of `columns.ROWS`."""
        if rows.num_rows:
            self.rows += rows.num_rows
            self.volume += pc.sum(rows.column("volume")).as_py()

    def take(self, rows: pa.RecordBatch) -> None:
        """Count a batch out again."""
        if rows.num_rows:
            self.rows -= rows.num_rows
            self.volume -= pc.sum(rows.column("volume")).as_py()


# --- sorting --------------------------------------------------------------------------------------

HABIT_S = 60
"""So far may times go back within a file: rows are put in order over so many seconds."""


class TimeDisorder:
    """Counts how often, and how far, times go back within a file."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self.latest_ns = -1
        self.count = 0
        self.farthest_back_ns = 0

    def add(self, stamps: Int64s) -> None:
        """Count the next times of the file, at least one."""
        before = np.maximum.accumulate(np.concatenate(([self.latest_ns], stamps[:-1])))
        back = before - stamps
        self.count += int((back > 0).sum())
        self.farthest_back_ns = max(self.farthest_back_ns, int(back.max()))
        self.latest_ns = max(int(before[-1]), int(stamps[-1]))


class Sorter:
    """Puts a file's rows in order as they come; holds back those that others may still precede.

    Times must not go back by more than `HABIT_S`; see `in_time_order` for such files.
    """

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._carry = no_rows()
        self._latest = -1
        self.repeats = RowCount()
        """Rows with an id that equal another one in every field: the same trade again."""

    def push(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Take the next rows; returns those that none can precede any more, in order."""
        if rows.num_rows:
            self._latest = max(self._latest, int(times(rows).max()))
        # One that goes back by the whole of it may still come: its second is not sure yet.
        return self._sorted(rows, Range(-1, self._latest - HABIT_S * SECOND - 1))

    def finish(self) -> pa.RecordBatch:
        """What was held back."""
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
                self.repeats.take(ordered)
            return ordered
        return done


# --- files that are not sorted -------------------------------------------------------------------

RUN_ROWS = 1_000_000
"""Rows that are sorted in memory at once."""
SLICE_ROWS = 100_000
"""About as many are merged at once."""
_MARK_EVERY = 10_000


def in_time_order(
    batches: Iterable[pa.RecordBatch], new_file: Callable[[], str]
) -> Iterator[pa.RecordBatch]:
    """All rows of some batches by time, those of one time as they came; memory stays bounded.

    Sorted runs go into Arrow files, which are mapped into memory and merged slice by slice.

    Args:
        batches: of `columns.ROWS`, in any order.
        new_file: gives a path for a temporary file.

    Returns batches of which none ends inside a group of equal time.
    """
    runs = [_written(run, new_file()) for run in _runs(batches)]
    marks = np.sort(np.concatenate([np.empty(0, np.int64), *(run.marks for run in runs)]))
    ends = np.unique(marks[:: max(1, SLICE_ROWS // _MARK_EVERY)])
    starts = [0] * len(runs)
    for end in [*ends.tolist(), END_OF_TIME]:
        parts = []
        for place, run in enumerate(runs):
            stop = int(run.stamps.searchsorted(end, side="right"))
            parts.append(run.rows.slice(starts[place], stop - starts[place]))
            starts[place] = stop
        rows = joined([part for part in parts if part.num_rows])
        if rows.num_rows:
            yield _by_time(rows)


class _Run(NamedTuple):
    """Rows by time in a file, mapped into memory; `marks` are some of their times."""

    rows: pa.RecordBatch
    stamps: Int64s
    marks: Int64s


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


def _written(rows: pa.RecordBatch, path: str) -> _Run:
    with writing(path), pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, rows.schema) as file:
        file.write_batch(rows)
    mapped = pa.ipc.open_file(pa.memory_map(path)).get_batch(0)
    stamps = times(mapped)
    return _Run(mapped, stamps, stamps[_MARK_EVERY - 1 :: _MARK_EVERY].copy())
