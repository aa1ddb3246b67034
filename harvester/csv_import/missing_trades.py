"""Find the ranges for which a CSV file may lack trades.

They are around unreadable rows, long silences and missing ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.csv_import.parse import Parsed, parse_number
from harvester.csv_import.row_order import MAX_STEP_BACK_S
from harvester.errors import counted
from harvester.schema import Int64s, times, trade_ids
from harvester.times import BEGINNING_NS, DAY, END_OF_TIME, SECOND, Range, union

MAX_RUNS = 1_000
"""Runs of bad rows that are kept apart, as each ends a segment; others are joined to the last."""

# --- unreadable rows ------------------------------------------------------------------------------


class UnreadableTimes:
    """Bounds the times of a file's bad rows by the good rows before and after them.

    Their own times do not count instead of that: if the end of a line is damaged as well, one bad
    row may be all that is left of many. They count as well, as a bad row may be out of order.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        """Start before the first row of a file with these columns."""
        self._columns = columns
        self._own_ns = set[int]()
        """Times that bad rows have themselves, in nanoseconds."""
        self._runs: list[tuple[int | None, int | None]] = []
        """For each run of bad rows, the times of the good rows before and after it, if any."""
        self._latest: int | None = None
        """Time of the last good row, in nanoseconds."""

    def add(self, parsed: Parsed) -> None:
        """Add the next block of the file."""
        stamps = times(parsed.rows)
        if self._runs and self._runs[-1][1] is None and len(stamps):
            self._runs[-1] = self._runs[-1][0], int(stamps[0])
        if parsed.bad:
            neighbours = [self._latest, *stamps.tolist(), None]
            indexes = np.searchsorted(parsed.lines, [row.line for row in parsed.bad])
            for index in np.unique(indexes).tolist():
                self._add_run(*neighbours[index : index + 2])
            for row in parsed.bad[: MAX_RUNS - len(self._own_ns)]:
                fields = dict(zip(self._columns, row.text.split(","), strict=False))
                seconds = parse_number(fields.get("time", ""))
                if seconds is not None and BEGINNING_NS <= seconds * SECOND <= END_OF_TIME:
                    self._own_ns.add(int(seconds * SECOND))
        if len(stamps):
            self._latest = int(stamps[-1])

    def _add_run(self, before: int | None, after: int | None) -> None:
        if self._runs and (len(self._runs) == MAX_RUNS or self._runs[-1] == (before, after)):
            before = self._runs.pop()[0]
        self._runs.append((before, after))

    def ranges(self, within: Range) -> list[Range]:
        """Ranges that contain all bad rows, as far out of order as rows may be.

        Args:
            within: the range of the file, as far as it is known.
        """
        margin_ns = MAX_STEP_BACK_S * SECOND
        found = [around(ns - margin_ns, ns + margin_ns) for ns in self._own_ns]
        for before, after in self._runs:
            begin_ns, end_ns = within
            if before is not None:
                begin_ns = max(begin_ns, before - margin_ns)
            if after is not None:
                end_ns = min(end_ns, after + margin_ns)
            found.append(around(begin_ns, end_ns))
        return union(found)


# --- long silences --------------------------------------------------------------------------------

# A file proves nothing about its own completeness. One wrong digit of its last time moves that row
# by months: everything up to there would count as covered, and empty; so would a quarter that is
# missing between two files that somebody joined. What is in doubt is not covered, and `backfill`
# downloads it: a request or two for each silence.

LEAST_SILENCE_NS = DAY // 2
LONGEST_SILENCE_NS = 30 * DAY
SILENCE_GAPS = 100
RARE_GAPS = 5
"""A time without rows is in doubt if it is longer than half a day and `SILENCE_GAPS` times the
average time between two rows of the file, or than 30 days if these are fewer; but never if it is
shorter than `RARE_GAPS` times that average."""
MAX_STRAY_ROWS = 10
"""So few rows on a side of such a silence are in doubt, too: their times may be the wrong ones."""


class _Silence(NamedTuple):
    """A time without rows; `rows_before` is the number of the file's rows before it."""

    rows_before: int
    begin_ns: int
    end_ns: int

    @property
    def length_ns(self) -> int:
        """How long it is."""
        return self.end_ns - self.begin_ns


class SilenceFinder:
    """Finds the long silences of a file.

    Attributes:
        rows: the number of its rows.
        first_ns: the earliest time; -1 without rows.
        latest_ns: the latest time; -1 without rows.
    """

    def __init__(self) -> None:
        """Start before the first row."""
        self.rows = 0
        self.first_ns = self.latest_ns = -1
        self._silences: list[_Silence] = []
        """Those long enough to count in a file with many rows."""
        self._head = self._tail = np.empty(0, np.int64)
        """The first and the last `MAX_STRAY_ROWS` times, and one more."""

    def add(self, stamps: Int64s) -> None:
        """Add the times of the next rows, at least one, in the order of the file."""
        if not self.rows:
            self.first_ns = self.latest_ns = int(stamps[0])
        reached = np.maximum.accumulate(np.concatenate(([self.latest_ns], stamps)))
        for at in (np.diff(reached) > LEAST_SILENCE_NS).nonzero()[0].tolist():
            ends = int(reached[at]), int(reached[at + 1])
            self._silences.append(_Silence(self.rows + at, *ends))
        self.first_ns = min(self.first_ns, int(stamps.min()))
        self.latest_ns = int(reached[-1])
        self.rows += len(stamps)
        kept = MAX_STRAY_ROWS + 1
        self._head = np.concatenate((self._head, stamps))[:kept]
        self._tail = np.concatenate((self._tail, stamps))[-kept:]

    def found(self, within: Range) -> list[Range]:
        """The long silences, with the few rows on a side of them.

        Args:
            within: the time of the file by its name, whose ends may be silent, too.
        """
        if not self.rows:
            is_known = within.after > 0 and within.through < END_OF_TIME
            return [within] if is_known else []
        average_ns = (self.latest_ns - self.first_ns) // self.rows
        usual_ns = min(max(LEAST_SILENCE_NS, SILENCE_GAPS * average_ns), LONGEST_SILENCE_NS)
        longest_ns = max(usual_ns, RARE_GAPS * average_ns)
        begin_ns = within.after if within.after > 0 else self.first_ns
        end_ns = within.through + 1 if within.through < END_OF_TIME else self.latest_ns
        before = _Silence(0, begin_ns, self.first_ns)
        after = _Silence(self.rows, self.latest_ns, end_ns)
        inner = {silence for silence in self._silences if silence.length_ns > longest_ns}
        inner.update(self._near_ends(SILENCE_GAPS * average_ns))
        at_ends = [silence for silence in (before, after) if silence.length_ns > longest_ns]
        found = [Range(silence.begin_ns, silence.end_ns - 1) for silence in (*inner, *at_ends)]
        groups = [
            (right.rows_before - left.rows_before, left.end_ns, right.begin_ns)
            for left, right in pairwise([before, *sorted(inner), after])
        ]
        most = max(rows for rows, _, _ in groups)
        found += [around(*ends) for rows, *ends in groups if rows <= MAX_STRAY_ROWS < most]
        return union(found)

    def _near_ends(self, longest_ns: int) -> Iterator[_Silence]:
        """The silences among the first and last rows that are longer than that.

        An end costs a request in any case, so here a silence may be shorter than half a day.
        """
        if self.rows <= MAX_STRAY_ROWS:
            return
        for row, stamps in ((0, self._head), (self.rows - len(self._tail), self._tail)):
            in_order = np.sort(stamps)
            for at in (np.diff(in_order) > longest_ns).nonzero()[0].tolist():
                yield _Silence(row + at + 1, int(in_order[at]), int(in_order[at + 1]))


def around(low_ns: int, high_ns: int) -> Range:
    """A range of whole seconds that begins a second earlier and ends a second later."""
    after = max(0, (low_ns // SECOND - 1) * SECOND - 1)
    return Range(after, min(END_OF_TIME, (high_ns // SECOND + 2) * SECOND - 1))


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
        after: the ids after them.
        counts: how many are missing.
        times: the times of the trades before and after, shape (places, 2).
    """

    before: Int64s
    after: Int64s
    counts: Int64s
    times: Int64s

    def text(self) -> str:
        """The places in words."""
        places = counted(len(self.counts), "place")
        first = f"the first between ids {self.before[0]} and {self.after[0]}"
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
