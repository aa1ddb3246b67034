"""Trades and volume by UTC day, by a file and by the exchange: pure, without I/O."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.csv_import.rounding import SHIFTS_NS, WAYS, Way
from harvester.download.events import Day, Rounding
from harvester.schema import Int64s, no_rows, times, trade_ids
from harvester.times import DAY, SECOND, Range
from harvester.trade_ids import Edge, find_gaps, gap_at_end


class Sum(NamedTuple):
    """Trades of a day, and their volume."""

    rows: int = 0
    volume: Decimal = Decimal(0)


class Days:
    """Sums by day; the day is that of a time after something was added to it."""

    def __init__(self, shift_ns: int = 0) -> None:
        """Nothing was counted yet."""
        self._shift_ns = shift_ns
        self.sums: dict[int, Sum] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch, in order of time."""
        days = (times(batch) + self._shift_ns) // DAY
        for start, stop in _runs(days):
            day, before = int(days[start]), self.sums.get(int(days[start]), Sum())
            volume = pc.sum(batch.column("volume").slice(start, stop - start)).as_py()
            self.sums[day] = Sum(before.rows + stop - start, before.volume + volume)

    def differing(self, exchange: Days) -> list[Day]:
        """The days on which an exchange has other sums, in order."""
        return [
            Day(_shown(day), *self.sums.get(day, Sum()), *exchange.sums.get(day, Sum()))
            for day in sorted(self.sums.keys() | exchange.sums.keys())
            if self.sums.get(day) != exchange.sums.get(day)
        ]


class Exchange:
    """The exchange's trades of some ranges, by day, however the file rounds them."""

    def __init__(self) -> None:
        """Nothing was counted yet."""
        self._by_way = {way: Days(SHIFTS_NS[way]) for way in WAYS}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch, in order of time."""
        for days in self._by_way.values():
            days.add(batch)

    def differing(self, file: Days, rounding: Rounding | None) -> list[Day]:
        """The days that do not agree, by the rounding that was measured, or else that fits best."""
        found: dict[Way, list[Day]] = {
            way: file.differing(days) for way, days in self._by_way.items()
        }
        measured = [way for way in WAYS if rounding is not None and way == rounding.way]
        return min((found[way] for way in measured or WAYS), key=len)


class Proof:
    """On which days ids show that no trade is missing among those of the exchange."""

    def __init__(self, span: Range, left: tuple[int, int, int] | None) -> None:
        """Begin a range; `left` is the last id before it, as `Archive.last_id_before` gives it."""
        self._span = span
        self._edge = Edge(*left) if left is not None else None
        self._open: set[int] = set()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the next trades."""
        if self._edge is None:
            self._begin(batch)
        gaps, self._edge = find_gaps(self._edge, batch)
        for gap in gaps:
            self._doubt(gap.after_ns, gap.before_ns)

    def finish(self, right: tuple[int, int] | None) -> set[int]:
        """The days on which they do not, `right` being the first id behind the range."""
        if self._edge is None:
            self._doubt(*self._span)
        elif right is None or gap_at_end(self._edge, right, no_rows()):
            self._doubt(self._edge.time_ns, self._span.through)
        return self._open

    def _begin(self, batch: pa.RecordBatch) -> None:
        """Before the first id nothing is shown, but where it is the pair's first."""
        places = trade_ids(batch).nonzero()[0]
        is_first = len(places) and trade_ids(batch)[places[0]] == 1
        if not is_first:
            self._doubt(self._span.after, int(times(batch)[places[0] if len(places) else -1]))

    def _doubt(self, after: int, through: int) -> None:
        # By the file's clock a trade may lie a second earlier, or later.
        self._open.update(range((after - SECOND) // DAY, (through + SECOND) // DAY + 1))


def number_of(day: Day) -> int:
    """The day as one of `Proof` is named."""
    since = datetime.fromisoformat(day.day).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days


def _runs(days: Int64s) -> Iterable[tuple[int, int]]:
    ends = [0, *((np.diff(days) != 0).nonzero()[0] + 1).tolist(), len(days)]
    return [(start, stop) for start, stop in pairwise(ends) if start < stop]


def _shown(day: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()
