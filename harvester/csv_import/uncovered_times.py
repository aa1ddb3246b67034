"""Whether a CSV file is in order of time, and of which time it may lack trades."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from harvester.csv_import.parse import Parsed
from harvester.errors import BadFile
from harvester.schema import Int64s, times
from harvester.times import DAY, END_OF_TIME, SECOND, Range, show, union

MAX_RUNS = 1_000
"""Runs of bad rows that are kept apart, as each ends a segment; others are joined to the last."""

# --- order of time --------------------------------------------------------------------------------

MAX_STEP_BACK_S = 60
"""By at most this many seconds may the times of a file step back; its rows are sorted while they
are read. Where times step back farther, one of them is wrong, or the file is not in order."""


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


# --- unreadable rows ------------------------------------------------------------------------------


class UnreadableTimes:
    """Bounds the times of a file's bad rows by the good rows before and after them.

    Their own times count for nothing: if the end of a line is damaged as well, one bad row may be
    all that is left of many.
    """

    def __init__(self) -> None:
        """Start before the first row."""
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
        if len(stamps):
            self._latest = int(stamps[-1])

    def _add_run(self, before: int | None, behind: int | None) -> None:
        if self._runs and (len(self._runs) == MAX_RUNS or self._runs[-1] == (before, behind)):
            before = self._runs.pop()[0]
        self._runs.append((before, behind))

    def ranges(self, within: Range) -> list[Range]:
        """Ranges that contain all bad rows, as far out of order as rows may be.

        Args:
            within: the range of the file, as far as it is known.
        """
        found = []
        for before, behind in self._runs:
            begin_ns, end_ns = within
            if before is not None:
                begin_ns = max(begin_ns, before - MAX_STEP_BACK_S * SECOND)
            if behind is not None:
                end_ns = min(end_ns, behind + MAX_STEP_BACK_S * SECOND)
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
        behind = _Silence(self.rows, self.latest_ns, end_ns)
        inner = {silence for silence in self._silences if silence.length_ns > longest_ns}
        inner.update(self._near_ends(SILENCE_GAPS * average_ns))
        at_ends = [silence for silence in (before, behind) if silence.length_ns > longest_ns]
        found = [Range(silence.begin_ns, silence.end_ns - 1) for silence in (*inner, *at_ends)]
        groups = [
            (right.rows_before - left.rows_before, left.end_ns, right.begin_ns)
            for left, right in pairwise([before, *sorted(inner), behind])
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
