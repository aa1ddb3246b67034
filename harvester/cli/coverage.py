"""Coverage as small bars that a person takes in at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple

from harvester.times import BEGINNING_NS, SECOND, Range, overlap, year_of
from harvester.verify.status import PairStatus


class Marks(NamedTuple):
    """One sign for each state of a span: covered whole, in part, not at all; never asked for."""

    whole: str
    part: str
    gap: str
    none: str

    def legend(self) -> str:
        """What they mean."""
        return f"{self.whole} whole  {self.part} in part  {self.gap} a gap  {self.none} not asked"


BLOCKS = Marks("█", "▒", "░", "·")
ASCII = Marks("#", "+", "-", ".")


def years(found: Sequence[PairStatus]) -> range:
    """The years from the first trade or gap of some pairs on, to the last that is covered."""
    begun = [year_of(begin) for pair_status in found if (begin := _begin(pair_status)) is not None]
    ended = [year_of(_end(pair_status)) for pair_status in found if _begin(pair_status) is not None]
    return range(min(begun), max(ended) + 1) if begun else range(0)


def year_bar(pair_status: PairStatus, over: Sequence[int], marks: Marks) -> str:
    """One sign a year."""
    cuts = [_month(year, 1) for year in [*over, over[-1] + 1]] if over else []
    return "".join(_mark(pair_status, marks, Range(*ends)) for ends in pairwise(cuts))


def month_bars(pair_status: PairStatus, marks: Marks, width: int) -> list[str]:
    """One sign a month, year by year, as many years a line as fit into `width`."""
    cells = []
    for year in years([pair_status]):
        cuts = [_month(year, month) for month in range(1, 14)]
        bar = "".join(_mark(pair_status, marks, Range(*ends)) for ends in pairwise(cuts))
        cells.append(f"{year} {bar}")
    a_line = max(1, (width - 2) // 19)
    return ["  " + "  ".join(cells[at : at + a_line]) for at in range(0, len(cells), a_line)]


def _begin(pair_status: PairStatus) -> int | None:
    moments = [] if pair_status.first_ns is None else [pair_status.first_ns]
    moments += [max(gap.after + 1, BEGINNING_NS) for gap in pair_status.gaps]
    return min(moments, default=None)


def _end(pair_status: PairStatus) -> int:
    return max([span.through for span in [*pair_status.coverage, *pair_status.gaps]], default=0)


def _mark(pair_status: PairStatus, marks: Marks, span: Range) -> str:
    """The state of what was asked for in a span."""
    missing = _length(pair_status.gaps, span)
    covered = _length(pair_status.coverage, span)
    if not missing:
        return marks.whole if covered else marks.none
    return marks.part if covered else marks.gap


def _length(ranges: Sequence[Range], span: Range) -> int:
    shared = (overlap(one, span) for one in ranges)
    return sum(one.through - one.after for one in shared if one is not None)


def _month(year: int, month: int) -> int:
    """The last nanosecond before a month; the thirteenth is the next year's first."""
    year, month = (year + 1, 1) if month == 13 else (year, month)
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * SECOND - 1
