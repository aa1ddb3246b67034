"""What the candles of one length come to, taken one by one, or many equal ones at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harvester.checks.ours import Asker, Edges, Moved
from harvester.checks.report import Difference, IntervalReport
from harvester.checks.values import shortened_prices, shown, wrong_values
from harvester.kraken.candles import VALUES, Candle
from harvester.times import UNITS_NS

MOST_LISTED = 20
"""Differences are listed up to so many for each length of candles."""

EdgesOf = Callable[[int], Edges | None]
"""Tells, of when a candle opens, the trades at its edges; None where there are none."""


@dataclass(slots=True)
class Tally:
    """Counts what was compared, and keeps the first differences.

    Attributes:
        asker: asks the archive.
        minutes: the candles' length.
        is_compared: whether a candle that opens then is one that can be compared.
        names: of the values that are compared.
        latest: when the latest one that was compared by itself is over, and how many trades it
            took of the next one; None where it differs.
    """

    asker: Asker
    minutes: int
    is_compared: Callable[[int], bool]
    names: Sequence[str] = VALUES
    skipped: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    latest: tuple[int, int | None] = (-1, None)

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
        self, time_ns: int, our: Candle | None, their: Candle | None, edges_of: EdgesOf
    ) -> None:
        """Compare one candle; they come in order of time.

        Args:
            time_ns: when it opens.
            our: by the trades held; None where there are none.
            their: None where the exchange shows none.
            edges_of: asked where the two are not equal.
        """
        wrong = wrong_values(our, their, self.asker.decimals, self.names)
        taken: int | None = 0
        if wrong:
            edges = edges_of(time_ns)
            moved = self._moved(edges, time_ns, their) if edges else None
            taken = moved.taken if moved else None
            self.counted["at_edge"] += moved is not None
            our, wrong = (moved.candle, []) if moved else (our, wrong)
        self.latest = (self.end_ns(time_ns), taken)
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

    def _moved(self, edges: Edges, time_ns: int, their: Candle | None) -> Moved | None:
        """Ours with trades of its edges moved, where that makes it the exchange's."""
        decimals = self.asker.decimals
        for one in edges.moved(time_ns, their.count if their else 0, decimals):
            is_equal = not wrong_values(one.candle, their, decimals, self.names)
            if is_equal and self._may_give(time_ns, one.given):
                return one
        return None

    def _may_give(self, time_ns: int, trades: int) -> bool:
        """Whether the candle before can have so many trades of one: else they were lost.

        It can where it took as many, where it differs anyway, and where it is not compared.
        """
        moment, taken = self.latest
        if moment == time_ns:
            return taken in (None, trades)
        before_ns = 2 * time_ns - self.end_ns(time_ns)
        return not trades or not self.is_compared(before_ns)
