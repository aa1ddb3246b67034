"""Candles of one length, ours against the exchange's, and why some can't be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from harvester.checks.ours import Asker, Held
from harvester.checks.report import Difference, IntervalReport
from harvester.checks.values import shortened_prices, shown, wrong_values
from harvester.kraken.candles import Candle
from harvester.times import UNITS_NS, Range

MOST_LISTED = 20
"""Differences are listed up to so many for each length of candles."""

RUNNING = "running"
BEFORE = "before what is held"
AFTER = "after what is held"
HOLE = "in a hole"
NO_CLOSE = "empty, with no trade held before it"


def compare_interval(
    asker: Asker, coverage: Sequence[Range], minutes: int, theirs: Sequence[Candle]
) -> IntervalReport:
    """Hold the exchange's candles of one length against ours.

    Args:
        asker: asks the archive.
        coverage: what it holds, in order.
        minutes: the candles' length.
        theirs: in order of time; the last of them is running.
    """
    tally = _Tally(asker, coverage, minutes)
    if theirs:
        first, newest = theirs[0].time_ns, theirs[-1].time_ns
        # The moment at which the running one opens is asked for too: see `with_edges_moved`.
        tally.ours = asker.held(minutes, Range(max(0, first - 1), newest))
        tally.skipped[RUNNING] = 1
        closed = {one.time_ns: one for one in theirs[:-1]}
        for time_ns in sorted(closed.keys() | {one for one in tally.ours if one < newest}):
            tally.take(time_ns, closed.get(time_ns))
    return tally.report()


@dataclass(slots=True)
class _Tally:
    """The candles of one length, taken one by one."""

    asker: Asker
    coverage: Sequence[Range]
    minutes: int
    ours: dict[int, Held] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def take(self, time_ns: int, their: Candle | None) -> None:
        """Compare one candle, or note why it can't be; None where the exchange shows none."""
        held = self.ours.get(time_ns)
        reason = self._why_not(time_ns, held, their)
        if reason is not None:
            self.skipped[reason] += 1
            return
        our = held.candle if held else None
        wrong = wrong_values(our, their, self.asker.decimals)
        if wrong and their is not None and (moved := self._with_edges_moved(time_ns, their)):
            our, wrong = moved, []
            self.counted["at_edge"] += 1
        self._count(our, their, wrong)
        self.differences += [
            Difference(
                self.asker.pair, self.minutes, time_ns, name, shown(our, name), shown(their, name)
            )
            for name in wrong
        ]

    def report(self) -> IntervalReport:
        """What they came to."""
        return IntervalReport(
            self.minutes,
            skipped=dict(self.skipped),
            differences=tuple(self.differences[:MOST_LISTED]),
            more=max(0, len(self.differences) - MOST_LISTED),
            **self.counted,
        )

    def _count(self, our: Candle | None, their: Candle | None, wrong: list[str]) -> None:
        self.counted["compared"] += 1
        self.counted["differing"] += bool(wrong)
        self.counted["miscounted"] += "count" in wrong
        self.counted["ours"] += our.count if our else 0
        self.counted["theirs"] += their.count if their else 0
        if our and their:
            self.counted["shortened"] += shortened_prices(our, their, self.asker.decimals)

    def _why_not(self, time_ns: int, held: Held | None, their: Candle | None) -> str | None:
        """Why a candle can't be compared; None where it can."""
        uncovered = self._uncovered(Range(time_ns - 1, self._end_ns(time_ns) - 1))
        if held is not None:
            return None if held.is_complete else uncovered or HOLE
        if uncovered is None and their is not None and not (their.count or their.volume):
            return NO_CLOSE
        return uncovered

    def _uncovered(self, span: Range) -> str | None:
        """Why coverage does not hold a span whole; None where it does."""
        if any(
            one.after <= max(0, span.after) and span.through <= one.through for one in self.coverage
        ):
            return None
        if span.after < self.coverage[0].after:
            return BEFORE
        return AFTER if span.through > self.coverage[-1].through else HOLE

    def _with_edges_moved(self, time_ns: int, their: Candle) -> Candle | None:
        """Ours with trades of its edges moved, where that makes it the exchange's."""
        edges = [self.ours.get(moment) for moment in (time_ns, self._end_ns(time_ns))]
        if not any(held and held.at_opening for held in edges):
            return None
        moved = self.asker.with_edges_moved(self.minutes, time_ns, their.count)
        decimals = self.asker.decimals
        return next((one for one in moved if not wrong_values(one, their, decimals)), None)

    def _end_ns(self, time_ns: int) -> int:
        return time_ns + self.minutes * UNITS_NS["m"]
