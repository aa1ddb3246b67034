"""Compare imported rows with the exchange's trades, day by day."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.csv_import.overlap import SHIFTS_NS, WAYS, Way
from harvester.download.events import Day, Rounding
from harvester.schema import Int64s, no_rows, times, trade_ids
from harvester.times import DAY, SECOND, Range
from harvester.trade_ids import LastId, find_gaps, gap_at_end


class DaySum(NamedTuple):
    """The number of trades of a day, and their volume."""

    rows: int = 0
    volume: Decimal = Decimal(0)


class DaySums:
    """Sums of trades by UTC day; days are numbered from 1970-01-01."""

    def __init__(self, shift_ns: int = 0) -> None:
        """Start with no trades; `shift_ns` is added to each time, in nanoseconds."""
        self._shift_ns = shift_ns
        self.sums: dict[int, DaySum] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a batch in order of time."""
        days = (times(batch) + self._shift_ns) // DAY
        for start, stop in _runs(days):
            day = int(days[start])
            before = self.sums.get(day, DaySum())
            volume = pc.sum(batch.column("volume").slice(start, stop - start)).as_py()
            self.sums[day] = DaySum(before.rows + stop - start, before.volume + volume)

    def differing(self, exchange: DaySums) -> list[Day]:
        """The days on which the exchange has other sums, in order."""
        return [
            Day(_iso_date(day), *self.sums.get(day, DaySum()), *exchange.sums.get(day, DaySum()))
            for day in sorted(self.sums.keys() | exchange.sums.keys())
            if self.sums.get(day) != exchange.sums.get(day)
        ]


class ExchangeDaySums:
    """Sums of the exchange's trades by day, for each way in which a file may round times."""

    def __init__(self) -> None:
        """Start with no trades."""
        self._by_way = {way: DaySums(SHIFTS_NS[way]) for way in WAYS}

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a batch in order of time."""
        for days in self._by_way.values():
            days.add(batch)

    def differing(self, file: DaySums, rounding: Rounding | None) -> list[Day]:
        """The days on which file and exchange differ.

        Args:
            file: the sums of the file.
            rounding: how the file rounds; if it was not measured, the way that fits best is used.
        """
        found: dict[Way, list[Day]] = {
            way: file.differing(days) for way, days in self._by_way.items()
        }
        measured = [way for way in WAYS if rounding is not None and way == rounding.way]
        return min((found[way] for way in measured or WAYS), key=len)


class IdProof:
    """Finds the days on which consecutive ids do not prove the exchange's trades complete."""

    def __init__(self, span: Range, id_before: tuple[int, int, int] | None) -> None:
        """Start at the beginning of a range.

        Args:
            span: the range.
            id_before: the last id before it, as `TradeStore.last_id_before` returns it.
        """
        self._span = span
        self._last_id = LastId(*id_before) if id_before is not None else None
        self._unproved: set[int] = set()

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the next trades."""
        if self._last_id is None:
            self._begin(batch)
        gaps, self._last_id = find_gaps(self._last_id, batch)
        for gap in gaps:
            self._mark_unproved(gap.after_ns, gap.before_ns)

    def finish(self, id_after: tuple[int, int] | None) -> set[int]:
        """The numbers of the unproved days; `id_after` is the first id after the range."""
        if self._last_id is None:
            self._mark_unproved(*self._span)
        elif id_after is None or gap_at_end(self._last_id, id_after, no_rows()):
            self._mark_unproved(self._last_id.time_ns, self._span.through)
        return self._unproved

    def _begin(self, batch: pa.RecordBatch) -> None:
        """Mark the time before the first id as unproved, unless this id is 1."""
        with_id = trade_ids(batch).nonzero()[0]
        is_first_of_all = len(with_id) and trade_ids(batch)[with_id[0]] == 1
        if not is_first_of_all:
            through = int(times(batch)[with_id[0] if len(with_id) else -1])
            self._mark_unproved(self._span.after, through)

    def _mark_unproved(self, after: int, through: int) -> None:
        # By the times of the file, a trade may be a second earlier or later.
        self._unproved.update(range((after - SECOND) // DAY, (through + SECOND) // DAY + 1))


def day_number(day: Day) -> int:
    """The number of a day, from 1970-01-01."""
    since = datetime.fromisoformat(day.day).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days


def _runs(days: Int64s) -> Iterable[tuple[int, int]]:
    """The begin and end indexes of runs of equal numbers."""
    ends = [0, *((np.diff(days) != 0).nonzero()[0] + 1).tolist(), len(days)]
    return [(start, stop) for start, stop in pairwise(ends) if start < stop]


def _iso_date(day: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()
