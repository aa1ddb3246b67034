"""When rows that can't be read may have been traded: that time must not count as covered."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harvester.csv_import.rows import Parsed
from harvester.csv_import.sorting import HABIT_S, StepsBack
from harvester.schema import times
from harvester.times import END_OF_TIME, SECOND, Range, union

MOST_KEPT = 100_000
"""Runs of bad rows that memory holds; further ones are counted to the last of them."""


class _Run(NamedTuple):
    """Bad rows between two good ones, in a file's order; times in nanoseconds.

    `before` and `behind` are the times of the good rows beside it, None where there is no such row.
    `first` and `last` bound those times of the bad rows that can be read, None where none can;
    `is_known` tells whether all of them can.
    """

    before: int | None
    behind: int | None
    first: int | None
    last: int | None
    is_known: bool


class BadTimes:
    """Bounds the times of the bad rows of one file by themselves and by the rows beside them."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._runs: list[_Run] = []
        self._latest: int | None = None
        """The time of the last good row."""
        self._is_open = False
        """Whether no good row followed the last run yet."""
        self._steps = StepsBack()
        """Steps back among all times that can be read, those of bad rows, too."""

    def add(self, parsed: Parsed) -> None:
        """Take the next block of the file."""
        stamps = every = times(parsed.rows)
        if parsed.bad:
            lines = np.array([parsed.line_of(row) for row in range(len(stamps))], dtype=np.int64)
            places = lines.searchsorted([row.line for row in parsed.bad])
            readable = [at is not None for at in parsed.bad_times]
            every = np.insert(
                stamps, places[readable], [at for at in parsed.bad_times if at is not None]
            )
            is_behind_first = False
            for place, stamp in zip(places.tolist(), parsed.bad_times, strict=True):
                if place and not is_behind_first:
                    self._close(int(stamps[0]))
                    is_behind_first = True
                before = int(stamps[place - 1]) if place else self._latest
                behind = int(stamps[place]) if place < len(stamps) else None
                run = _Run(before, behind, stamp, stamp, stamp is not None)
                self._note(run, is_open=behind is None)
        elif len(stamps):
            self._close(int(stamps[0]))
        if len(stamps):
            self._latest = int(stamps[-1])
        if len(every):
            self._steps.add(every)

    def _note(self, run: _Run, *, is_open: bool) -> None:
        last = self._runs[-1] if self._runs else None
        same = last is not None and (last.before, last.behind) == (run.before, run.behind)
        if last is not None and (same or self._is_open or len(self._runs) >= MOST_KEPT):
            known = [at for at in (*last[2:4], *run[2:4]) if at is not None]
            first, through = (min(known), max(known)) if known else (None, None)
            is_known = last.is_known and run.is_known
            self._runs[-1] = _Run(last.before, run.behind, first, through, is_known)
        else:
            self._runs.append(run)
        self._is_open = is_open

    def _close(self, stamp: int) -> None:
        if self._is_open:
            self._runs[-1] = self._runs[-1]._replace(behind=stamp)
            self._is_open = False

    def ranges(self, good_back_ns: int) -> list[Range]:
        """Ranges at whose ends no bad row was traded, nor in the second before or behind.

        Args:
            good_back_ns: how far times go back among the good rows.
        """
        every_back_ns = self._steps.farthest_back_ns
        found = []
        for run in self._runs:
            low, high = run.first, run.last
            if low is None or high is None:
                low, high = _between(run, every_back_ns)
            elif not run.is_known:
                before, behind = _between(run, every_back_ns)
                low, high = min(low, before), max(high, behind)
            elif good_back_ns <= HABIT_S * SECOND:
                before, behind = _between(run, good_back_ns)
                if not before <= low <= high <= behind:
                    # A time that is out of place may be what is broken.
                    low, high = min(low, before), max(high, behind)
            found.append(_around(low, high))
        return union(found)


def _between(run: _Run, farthest_back_ns: int) -> tuple[int, int]:
    """The earliest and latest time of rows by those beside them, in nanoseconds.

    In a file that is not sorted, rows tell nothing about those beside them.
    """
    before, behind = 0, END_OF_TIME
    if farthest_back_ns <= HABIT_S * SECOND:
        if run.before is not None:
            before = max(0, run.before - farthest_back_ns)
        if run.behind is not None:
            behind = min(END_OF_TIME, run.behind + farthest_back_ns)
    return before, behind


def _around(low_ns: int, high_ns: int) -> Range:
    after = max(0, (low_ns // SECOND - 1) * SECOND - 1)
    return Range(after, min(END_OF_TIME, (high_ns // SECOND + 2) * SECOND - 1))
