"""When rows that can't be read may have been traded: that time must not count as covered."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harvester.bulk.rows import Parsed
from harvester.columns import times
from harvester.times import END_OF_TIME, SECOND, Range, union

MOST_KEPT = 100_000
"""Runs of bad rows that memory holds; further ones are counted to the last of them."""


class _Run(NamedTuple):
    """Bad rows between two good ones, in a file's order; times in nanoseconds.

    `before` and `behind` are the times of the good rows beside it, `first` and `last` bound the
    times of the bad rows themselves. None: there is no such row, or no such time can be read.
    """

    before: int | None
    behind: int | None
    first: int | None
    last: int | None


class BadTimes:
    """Bounds the times of the bad rows of one file by themselves and by the rows beside them."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._runs: list[_Run] = []
        self._latest: int | None = None
        """The time of the last good row."""
        self._is_open = False
        """Whether no good row followed the last run yet."""

    def add(self, parsed: Parsed) -> None:
        """Take the next block of the file."""
        stamps = times(parsed.rows)
        if parsed.bad:
            lines = np.array([parsed.line_of(row) for row in range(len(stamps))], dtype=np.int64)
            places = lines.searchsorted([row.line for row in parsed.bad])
            is_behind_first = False
            for place, stamp in zip(places.tolist(), parsed.bad_times, strict=True):
                if place and not is_behind_first:
                    self._close(int(stamps[0]))
                    is_behind_first = True
                before = int(stamps[place - 1]) if place else self._latest
                behind = int(stamps[place]) if place < len(stamps) else None
                self._note(_Run(before, behind, stamp, stamp), is_open=behind is None)
        elif len(stamps):
            self._close(int(stamps[0]))
        if len(stamps):
            self._latest = int(stamps[-1])

    def _note(self, run: _Run, *, is_open: bool) -> None:
        last = self._runs[-1] if self._runs else None
        same = last is not None and (last.before, last.behind) == (run.before, run.behind)
        if last is not None and (same or self._is_open or len(self._runs) >= MOST_KEPT):
            is_known = None not in (last.first, last.last, run.first, run.last)
            first = min(last.first or 0, run.first or 0) if is_known else None
            through = max(last.last or 0, run.last or 0) if is_known else None
            self._runs[-1] = _Run(last.before, run.behind, first, through)
        else:
            self._runs.append(run)
        self._is_open = is_open

    def _close(self, stamp: int) -> None:
        if self._is_open:
            self._runs[-1] = self._runs[-1]._replace(behind=stamp)
            self._is_open = False

    def ranges(self, farthest_back_ns: int | None) -> list[Range]:
        """Ranges at whose ends no bad row was traded, nor in the second before or behind.

        Args:
            farthest_back_ns: how far times go back within the file; None where it is not sorted,
                so that rows tell nothing about those beside them.
        """
        found = []
        for run in self._runs:
            low, high = run.first, run.last
            if farthest_back_ns is not None:
                before = 0 if run.before is None else run.before - farthest_back_ns
                behind = END_OF_TIME if run.behind is None else run.behind + farthest_back_ns
                if low is None or high is None:
                    low, high = before, behind
                elif not before <= low <= high <= behind:
                    # A time that is out of place may be what is broken.
                    low, high = min(low, before), max(high, behind)
            if low is None or high is None:
                low, high = 0, END_OF_TIME
            found.append(_around(low, high))
        return union(found)


def _around(low_ns: int, high_ns: int) -> Range:
    after = max(0, (low_ns // SECOND - 1) * SECOND - 1)
    return Range(after, min(END_OF_TIME, (high_ns // SECOND + 2) * SECOND - 1))
