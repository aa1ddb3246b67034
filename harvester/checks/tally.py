"""What the candles of one length come to, taken one by one, or many equal ones at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from harvester.checks.ours import Asker
from harvester.checks.report import Difference, IntervalReport
from harvester.checks.values import shortened_prices, shown, wrong_values
from harvester.kraken.candles import VALUES, Candle
from harvester.times import UNITS_NS

MOST_LISTED = 20
"""Differences are listed up to so many for each length of candles."""

MOST_MOVED = 2_000
"""So many candles of a length are made again with trades of their edges moved, a query each."""


@dataclass(slots=True)
class Tally:
    """Counts what was compared, and keeps the first differences.

    Attributes:
        asker: asks the archive.
        minutes: the candles' length.
        names: of the values that are compared.
    """

    asker: Asker
    minutes: int
    names: Sequence[str] = VALUES
    skipped: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    moved: int = 0

    def end_ns(self, time_ns: int) -> int:
        """When a candle that opens then is over."""
        return time_ns + self.minutes * UNITS_NS["m"]

    def skip(self, reason: str, candles: int = 1) -> None:
        """Note why some candles can't be compared."""
        self.skipped[reason] += candles

    def equal(self, candles: int, trades: int) -> None:
        """Note candles that are equal in all values, and their trades."""
        self.counted["compared"] += candles
        self.counted["ours"] += trades
        self.counted["theirs"] += trades

    def compare(
        self, time_ns: int, our: Candle | None, their: Candle | None, *, has_edge: bool
    ) -> None:
        """Compare one candle.

        Args:
            time_ns: when it opens.
            our: by the trades held; None where there are none.
            their: None where the exchange shows none.
            has_edge: whether a trade may be published at the very moment it opens or ends.
        """
        wrong = wrong_values(our, their, self.asker.decimals, self.names)
        if wrong and has_edge and (moved := self._with_edges_moved(time_ns, their)):
            our, wrong = moved, []
            self.counted["at_edge"] += 1
        self._count(our, their, wrong)
        for name in wrong:
            self._list(time_ns, name, our, their)

    def report(self) -> IntervalReport:
        """What they came to."""
        return IntervalReport(
            self.minutes,
            skipped=dict(self.skipped),
            differences=tuple(self.differences),
            **self.counted,
        )

    def _list(self, time_ns: int, name: str, our: Candle | None, their: Candle | None) -> None:
        if len(self.differences) == MOST_LISTED:
            self.counted["more"] += 1
            return
        ours, theirs = shown(our, name), shown(their, name)
        one = Difference(self.asker.pair, self.minutes, time_ns, name, ours, theirs)
        self.differences.append(one)

    def _count(self, our: Candle | None, their: Candle | None, wrong: Sequence[str]) -> None:
        self.counted["compared"] += 1
        self.counted["differing"] += bool(wrong)
        self.counted["miscounted"] += "count" in wrong
        self.counted["ours"] += our.count if our else 0
        self.counted["theirs"] += their.count if their else 0
        if our and their:
            self.counted["shortened"] += shortened_prices(our, their, self.asker.decimals)

    def _with_edges_moved(self, time_ns: int, their: Candle | None) -> Candle | None:
        """Ours with trades of its edges moved, where that makes it the exchange's."""
        if self.moved == MOST_MOVED:
            self.counted["edges_left"] += 1
            return None
        self.moved += 1
        count = their.count if their else 0
        moved = self.asker.with_edges_moved(self.minutes, time_ns, count)
        decimals = self.asker.decimals
        return next(
            (one for one in moved if not wrong_values(one, their, decimals, self.names)), None
        )
