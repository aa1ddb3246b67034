"""What trade ids say of the rows of files: their order, rows that are twice, missing rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.csv_import.uncovered_times import MAX_RUNS, MAX_STEP_BACK_S, around
from harvester.errors import BadFile
from harvester.schema import Int64s, times, trade_ids
from harvester.storage.id_gaps import BEFORE_FIRST_ID, LastId
from harvester.times import SECOND, Range, show

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
        batches: batches of `schema.ROWS`, in order.
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


# --- missing ids ----------------------------------------------------------------------------------

# Files with trade ids show themselves where they lack rows. Rows may be out of order, so a file is
# described by its runs of consecutive ids: few, unless the market skips ids all the time.

MAX_ID_RUNS = 200_000
"""If a file has more runs of ids, missing ids are not searched for."""
LEAST_SPLITS = 20
ROWS_FOR_A_SPLIT = 10_000
"""Files are split at up to `LEAST_SPLITS` places where ids are missing, and at another one for each
`ROWS_FOR_A_SPLIT` rows, up to `MAX_RUNS`: a market with more skips ids all the time."""
WIDE_GAPS = 100
"""But even then at places that lack this many times as many ids as the median."""


class IdRunFinder:
    """Finds the runs of consecutive trade ids in a file whose rows all have one."""

    def __init__(self) -> None:
        """Start before the first row."""
        self._parts: list[Int64s] = []
        self._count = 0
        self._is_known = True

    def add(self, rows: pa.RecordBatch) -> None:
        """Add the next rows, in the order of the file."""
        ids, stamps = trade_ids(rows), times(rows)
        if (ids[1:] - ids[:-1] == 1).all():
            # True for nearly every block.
            self._append(np.array([[ids[0], ids[-1], stamps[0], stamps[-1]]]))
        else:
            self._append(np.repeat(np.column_stack((ids, stamps)), 2, axis=1))

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

    def found(self) -> Int64s | None:
        """The runs of all rows that were added, by their first id; None if there were too many.

        Shape (runs, 4): first and last id, and their times.
        """
        return _joined_runs(np.concatenate([NO_RUNS, *self._parts])) if self._is_known else None


NO_RUNS: Int64s = np.empty((0, 4), np.int64)


def _joined_runs(runs: Int64s) -> Int64s:
    """Sort runs by their first id, and join those that follow one another or overlap."""
    if len(runs) < 2:
        return runs
    if not (runs[1:, 0] >= runs[:-1, 0]).all():
        runs = runs[np.argsort(runs[:, 0], kind="stable")]
    reached = np.maximum.accumulate(runs[:, 1])
    # The run that reaches highest so far: its last id is the id before the next run.
    highest = np.maximum.accumulate(np.where(runs[:, 1] == reached, np.arange(len(runs)), 0))
    starts = np.concatenate(([0], (runs[1:, 0] > reached[:-1] + 1).nonzero()[0] + 1))
    ends = highest[np.append(starts[1:] - 1, len(runs) - 1)]
    columns = runs[starts, 0], runs[ends, 1], runs[starts, 2], runs[ends, 3]
    return np.column_stack(columns)


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


def missing_ids(parts: Sequence[Int64s]) -> MissingIds:
    """Find the ids that are missing within and between files.

    Args:
        parts: the runs of ids of each; see `IdRunFinder.found`.
    """
    runs = _joined_runs(np.concatenate([NO_RUNS, *parts]))
    left, right = runs[:-1], runs[1:]
    stamps = np.column_stack([left[:, 3], right[:, 2]])
    return MissingIds(left[:, 1], right[:, 0], right[:, 0] - left[:, 1] - 1, stamps)
