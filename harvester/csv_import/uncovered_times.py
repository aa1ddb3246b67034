"""Which time of a CSV file may lack trades: unreadable rows, rows out of place, silences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harvester.csv_import.parse import Parsed
from harvester.schema import Int64s, times
from harvester.times import DAY, END_OF_TIME, SECOND, Range, union

MAX_RUNS = 1_000
"""Runs of bad rows that are kept apart, as each ends a segment; others are joined to the last."""


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


@dataclass(slots=True)
class _BadRows:
    """Consecutive bad rows of a file; times in nanoseconds.

    Attributes:
        before: time of the good row before them; None if there is none.
        behind: time of the good row after them; None if there is none.
        low: earliest readable time of the bad rows.
        high: latest readable time of the bad rows; below `low` if no time is readable.
        is_known: whether the times of all bad rows are readable.
    """

    before: int | None
    behind: int | None
    low: int = END_OF_TIME
    high: int = -1
    is_known: bool = True

    def neighbours(self, farthest_back_ns: int, within: Range) -> tuple[int, int]:
        """The earliest and latest possible time of the bad rows, from the good rows around them.

        In a file that is not sorted, neighbouring rows say nothing.

        Args:
            farthest_back_ns: by how much times step back at most in the file.
            within: the range of the file, as far as it is known.
        """
        before, behind = within
        if farthest_back_ns <= MAX_STEP_BACK_S * SECOND:
            if self.before is not None:
                before = max(before, self.before - farthest_back_ns)
            if self.behind is not None:
                behind = min(behind, self.behind + farthest_back_ns)
        return before, behind


class UnreadableTimes:
    """Bounds the times of a file's bad rows by their own times and the rows around them."""

    def __init__(self) -> None:
        """Start before the first row."""
        self._runs: list[_BadRows] = []
        self._latest: int | None = None
        """Time of the last good row, in nanoseconds."""
        self._steps = TimeDisorder()
        """Steps back in time among all readable times, including those of bad rows."""

    def add(self, parsed: Parsed) -> None:
        """Add the next block of the file."""
        stamps = every = times(parsed.rows)
        if self._runs and self._runs[-1].behind is None and len(stamps):
            self._runs[-1].behind = int(stamps[0])
        if parsed.bad:
            indexes = np.searchsorted(parsed.lines, [row.line for row in parsed.bad])
            neighbours = [self._latest, *stamps.tolist(), None]
            for index, stamp in zip(indexes.tolist(), parsed.bad_times, strict=True):
                self._add_bad(neighbours[index], neighbours[index + 1], stamp)
            known = [at for at in parsed.bad_times if at is not None]
            every = np.insert(stamps, indexes[[at is not None for at in parsed.bad_times]], known)
        if len(stamps):
            self._latest = int(stamps[-1])
        if len(every):
            self._steps.add(every)

    def _add_bad(self, before: int | None, behind: int | None, stamp: int | None) -> None:
        run = self._runs[-1] if self._runs else None
        is_same = run is not None and (run.before, run.behind) == (before, behind)
        if run is None or (not is_same and len(self._runs) < MAX_RUNS):
            run = _BadRows(before, behind)
            self._runs.append(run)
        run.behind = behind
        if stamp is None:
            run.is_known = False
        else:
            run.low, run.high = min(run.low, stamp), max(run.high, stamp)

    def ranges(self, good_back_ns: int, within: Range) -> list[Range]:
        """Ranges that contain all bad rows, with at least a second to spare at both ends.

        Args:
            good_back_ns: by how much times step back at most among the good rows, in nanoseconds.
            within: the range of the file, as far as it is known.
        """
        found = []
        for run in self._runs:
            before, behind = run.neighbours(self._steps.farthest_back_ns, within)
            is_known = run.is_known
            if is_known and good_back_ns <= MAX_STEP_BACK_S * SECOND:
                # A time out of order may be the broken field of the row.
                before, behind = run.neighbours(good_back_ns, within)
                is_known = before <= run.low <= run.high <= behind
            if is_known:
                before, behind = run.low, run.high
            found.append(around(min(before, run.low), max(behind, run.high)))
        return union(found)


# --- times in doubt -------------------------------------------------------------------------------

# A file proves nothing about its own completeness. One wrong digit of a time moves a row by months:
# everything up to there would count as covered, and empty; so would a quarter that is missing
# between two files that somebody joined. What is in doubt is not covered, and `backfill` downloads
# it: a request or two for each silence.

LONGEST_SILENCE_DAYS = 30
SILENCE_GAPS = 100
RARE_GAPS = 5
"""A time without rows is in doubt if it is longer than a day and `SILENCE_GAPS` times the average
time between two rows of the file, or than 30 days if these are fewer; but never if it is shorter
than `RARE_GAPS` times that average."""
LEAST_SILENCE_NS = DAY // 2
"""Between two days with many rows, a silence longer than this is in doubt, if it is longer than
`SILENCE_GAPS` times their average time between two rows."""
MAX_STRAY_ROWS = 10
"""So few rows on a side of such a silence are in doubt, too: their times may be the wrong ones."""
MAX_OUT_OF_PLACE = 1_000
"""Where more rows are out of place, the file is not sorted."""
LEAST_PART_ROWS = 100
"""Nor is it if it is joined from parts that have fewer rows on average."""


class TimeDoubts:
    """Finds the times of a file that may lack rows: long silences, and rows that are out of place.

    A row is out of place if the rows before and after it are in order without it.
    """

    def __init__(self) -> None:
        """Start before the first row."""
        self._rows = 0
        self._days: dict[int, tuple[int, int, int]] = {}
        """Rows, first and last time of each day, by its number from 1970-01-01."""
        # A row before the first one, so that the first may be out of place.
        self._tail = np.array([-1])
        self._earliest = self._latest = np.empty(0, np.int64)
        """The first and the last `MAX_STRAY_ROWS` times and one more, ascending."""
        self._joints = 0
        """Steps back that no row out of place explains: two files were joined there."""
        self._out_of_place: list[Range] = []
        self._strays: set[int] = set()
        """The times of the rows out of place."""

    def add(self, stamps: Int64s) -> None:
        """Add the times of the next rows, in the order of the file."""
        self._rows += len(stamps)
        is_ascending = bool((stamps[1:] >= stamps[:-1]).all())
        in_order = stamps if is_ascending else np.sort(stamps)
        kept = MAX_STRAY_ROWS + 1
        self._earliest = np.sort(np.concatenate([self._earliest, in_order[:kept]]))[:kept]
        self._latest = np.sort(np.concatenate([self._latest, in_order[-kept:]]))[-kept:]
        days = in_order // DAY
        turns = (days[1:] != days[:-1]).nonzero()[0] + 1
        for start, stop in pairwise([0, *turns.tolist(), len(days)]):
            day, first, last = int(days[start]), int(in_order[start]), int(in_order[stop - 1])
            before, low, high = self._days.get(day, (0, first, last))
            self._days[day] = (before + stop - start, min(low, first), max(high, last))
        self._find_out_of_place(np.concatenate([self._tail, stamps]))

    def _find_out_of_place(self, stamps: Int64s) -> None:
        """Look at the steps back, each with the rows before and after it."""
        allowed = MAX_STEP_BACK_S * SECOND
        steps = (stamps[1:-2] - stamps[2:-1] > allowed).nonzero()[0]
        if len(self._out_of_place) + len(steps) > MAX_OUT_OF_PLACE:
            self._joints += len(steps)
            steps = steps[:0]
        for at in steps.tolist():
            before, high, low, behind = (int(stamp) for stamp in stamps[at : at + 4])
            is_high, is_low = before <= low + allowed, behind >= high - allowed
            self._joints += not (is_high or is_low)
            if is_high:
                self._doubt(before, low, high)
            if is_low:
                self._doubt(high, behind, low)
        self._tail = stamps[-3:]

    def _doubt(self, before: int, behind: int, stamp: int) -> None:
        self._out_of_place.append(around(min(before, behind), max(before, behind)))
        self._out_of_place.append(around(stamp, stamp))
        self._strays.add(stamp)

    def out_of_place(self) -> list[Range]:
        """The times around rows that are out of place, once all rows were added."""
        self._find_out_of_place(np.append(self._tail, END_OF_TIME))
        is_sorted = self._joints * LEAST_PART_ROWS <= self._rows
        return union([*self._out_of_place, *self._beyond_ends()]) if is_sorted else []

    def _beyond_ends(self) -> list[Range]:
        """The time between the file's ends and a row out of place that is beyond them."""
        early = [stamp for stamp in self._earliest.tolist() if stamp not in self._strays]
        late = [stamp for stamp in self._latest.tolist() if stamp not in self._strays]
        return self._outside(early[:1], late[-1:])

    def _outside(self, first_good: Sequence[int], last_good: Sequence[int]) -> list[Range]:
        """The time from the file's first row to another, and from another to its last row.

        Args:
            first_good: the time of the first row whose time is right; none if that is not known.
            last_good: the time of the last one.
        """
        found = [
            around(int(self._earliest[0]), stamp - 2 * SECOND)
            for stamp in first_good
            if int(self._earliest[0]) < stamp
        ]
        return found + [
            around(stamp + 2 * SECOND, int(self._latest[-1]))
            for stamp in last_good
            if int(self._latest[-1]) > stamp
        ]

    def silences(self, within: Range) -> list[Range]:
        """The long silences, with the few rows on a side of them.

        Args:
            within: the time of the file by its name, whose ends may be silent, too.
        """
        if not self._rows:
            return []
        first, last = int(self._earliest[0]), int(self._latest[-1])
        average_ns = (last - first) // self._rows
        usual_ns = min(LONGEST_SILENCE_DAYS * DAY, DAY + SILENCE_GAPS * average_ns)
        longest_ns = max(usual_ns, RARE_GAPS * average_ns)
        groups = self._groups(longest_ns)
        most = max(rows for rows, _, _ in groups)
        found = [Range(left[2], right[1] - 1) for left, right in pairwise(groups)]
        found += [around(*ends) for rows, *ends in groups if rows <= MAX_STRAY_ROWS < most]
        if within.after > 0 and first - 1 - within.after > longest_ns:
            found.append(Range(within.after, first - 1))
        if within.through < END_OF_TIME and within.through - last > longest_ns:
            found.append(Range(last, within.through))
        return union([*found, *self._stray_ends(SILENCE_GAPS * average_ns)])

    def _groups(self, longest_ns: int) -> list[tuple[int, int, int]]:
        """The rows, first and last time of the rows between silences longer than that, in order."""
        groups: list[tuple[int, int, int]] = []
        busy = 0
        for day in sorted(self._days):
            count, low, high = self._days[day]
            # Between two busy days, a day without a row is not usual.
            usual_ns = SILENCE_GAPS * DAY // max(1, min(busy, count))
            if not groups or low - groups[-1][2] > min(longest_ns, max(LEAST_SILENCE_NS, usual_ns)):
                groups.append((count, low, high))
            else:
                rows, first, _ = groups[-1]
                groups[-1] = (rows + count, first, high)
            busy = count
        return groups

    def _stray_ends(self, longest_ns: int) -> list[Range]:
        """The few rows at an end of the file, with a silence that is longer than that.

        An end costs a request in any case, so here a silence may be shorter than a day.
        """
        if self._rows <= MAX_STRAY_ROWS:
            return []
        early = (np.diff(self._earliest) > longest_ns).nonzero()[0][-1:]
        late = (np.diff(self._latest) > longest_ns).nonzero()[0][:1]
        return self._outside(self._earliest[early + 1].tolist(), self._latest[late].tolist())


def around(low_ns: int, high_ns: int) -> Range:
    """A range of whole seconds that begins a second earlier and ends a second later."""
    after = max(0, (low_ns // SECOND - 1) * SECOND - 1)
    return Range(after, min(END_OF_TIME, (high_ns // SECOND + 2) * SECOND - 1))
