"""What a footer may tell of ids that skip, counted anew where some rows give way to others: pure.

A skip that no jump on record explains is only counted in a footer, and so many skips are excused
there. So what was counted of rows that go must go with them: it would excuse the loss of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from harvester.schema import no_rows, times, trade_ids
from harvester.storage.footers import Jump
from harvester.times import END_OF_TIME, Range, overlap, year_end, year_of
from harvester.trade_ids import Edge, Gap, find_gaps, gap_at_end


class Reckoning:
    """The skips of a range's rows, its seams counted in, as the rows pass in order."""

    def __init__(
        self,
        span: Range,
        replaced: Sequence[Range],
        known: Iterable[Jump],
        left: tuple[int, int, int] | None,
    ) -> None:
        """Begin a range.

        Args:
            span: what the rows hold whole.
            replaced: the parts of it in which rows give way to others, in order.
            known: jumps that were confirmed, of the rows that go and those that come.
            left: the last id before the range, as `Archive.last_id_before` gives it.
        """
        self._span = span
        self._replaced = replaced
        self._known = frozenset(known)
        # Rows without an id read as id 0, which is also what stands before the first trade.
        ids = np.unique(np.array([*self._known], dtype=np.int64))
        self._known_ids = ids[ids > 0]
        self._edge = Edge(*left) if left is not None else None
        self._year = year_of(span.through)
        self._years: set[int] = set()
        self._stand: dict[Jump, int] = {}
        self._years_of: dict[int, int] = {}
        self.kept: Counter[int] = Counter()
        """Skips between rows that stay, by year."""
        self.touched: Counter[int] = Counter()
        """Skips beside or across what is replaced, by year."""
        self.inside = 0
        """How many of them are between two rows that are replaced."""
        self.seams: dict[tuple[int, int], int] = {}
        """Those of them at the range's own ends, and their years."""

    def add(self, rows: pa.RecordBatch) -> None:
        """Take the next rows."""
        stamps = times(rows)
        gaps, self._edge = find_gaps(self._edge, rows)
        self._count(gaps)
        self._year = year_of(int(stamps[-1]))
        for year in range(year_of(int(stamps[0])), self._year + 1):
            if ((stamps > year_end(year - 1)) & (stamps <= year_end(year))).any():
                self._years.add(year)
        if len(self._known_ids):
            ids = trade_ids(rows)
            places = np.isin(ids, self._known_ids).nonzero()[0]
            for number, stamp in zip(ids[places].tolist(), stamps[places].tolist(), strict=True):
                self._years_of[number] = year_of(stamp)

    def finish(self, right: tuple[int, int] | None) -> None:
        """End the range; `right` is the first id behind it, by `Archive.first_id_behind`."""
        self._count(gap_at_end(self._edge, right, no_rows()))

    def years(self) -> list[int]:
        """The years of the rows, in order; that of the range's end where there are none."""
        return sorted(self._years) or [self._year]

    def jumps(self) -> dict[Jump, int]:
        """The confirmed jumps that stand here, and the year of the trade behind each.

        Of one whose sides both stand here with others between them nothing is left.
        """
        found = dict(self._stand)
        for jump in self._known - found.keys():
            years = [self._years_of[side] for side in jump if side in self._years_of]
            if len(years) == 1:
                found[jump] = years[0]
        return found

    def _count(self, gaps: Iterable[Gap]) -> None:
        for gap in gaps:
            at_end = gap.before_ns == END_OF_TIME
            year = self._year if at_end else year_of(gap.before_ns)
            jump = Jump(*gap.sides)
            if jump in self._known:
                self._stand[jump] = year
                continue
            # The row on its left counts in: its neighbour may be of the same moment.
            across = Range(gap.after_ns - 1, min(gap.before_ns, self._span.through))
            if not any(overlap(across, part) for part in self._replaced):
                self.kept[year] += 1
                continue
            self.touched[year] += 1
            self.inside += self._goes(gap.after_ns) and self._goes(gap.before_ns)
            if at_end or gap.after_ns <= self._span.after:
                self.seams[gap.sides] = year

    def _goes(self, stamp: int) -> bool:
        return any(part.after < stamp <= part.through for part in self._replaced)


def excused(before: Reckoning, after: Reckoning, told: int, told_new: int) -> Counter[int]:
    """How many skips of the new rows are excused, by year; never more than there are.

    Args:
        before: of the rows as they were.
        after: of the rows as they are to be.
        told: what the footer counted of those that were.
        told_new: what the footers of those that come have counted.
    """
    # A seam that skips as before still is what the old footer counted. Where rows of a file meet
    # others, it may or may not have been counted: what is not there any more excuses nothing.
    same = Counter(year for sides, year in after.seams.items() if sides in before.seams)
    stays, comes = after.kept + same, after.touched - same
    return _up_to(stays, max(0, told - before.inside)) + _up_to(comes, told_new)


def _up_to(counts: Counter[int], most: int) -> Counter[int]:
    """The first of some counts by year, so many in all."""
    taken: Counter[int] = Counter()
    for year in sorted(counts):
        taken[year] = min(counts[year], most - taken.total())
    return +taken
