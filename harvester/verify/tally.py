"""What the candles of one length come to, taken one by one, or many equal ones at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from harvester.errors import ArchiveDamaged
from harvester.kraken.ohlc import VALUES, Candle
from harvester.times import UNITS_NS
from harvester.verify.ours import Asker, Edges
from harvester.verify.report import Difference, IntervalReport
from harvester.verify.splits import Choice, Sides, Splits
from harvester.verify.values import shortened_prices, shown, wrong_values

MOST_LISTED = 20
"""Differences are listed up to so many for each length of candles."""

EdgesOf = Callable[[int], Edges | None]
"""Tells, of when a candle opens, the trades at its edges; None where there are none."""


class Tally:
    """Counts what was compared, and keeps the first differences."""

    def __init__(
        self,
        asker: Asker,
        minutes: int,
        is_compared: Callable[[int], bool],
        names: Sequence[str] = VALUES,
    ) -> None:
        """Begin with nothing.

        Args:
            asker: asks the archive.
            minutes: the candles' length.
            is_compared: whether a candle that opens then is one that can be compared.
            names: of the values that are compared.
        """
        self._asker = asker
        self._minutes = minutes
        self._is_compared = is_compared
        self._names = names
        self._skipped: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()
        self._differences: list[Difference] = []
        self._splits = Splits(lambda our, their: not self._wrong(our, their), asker.decimals)
        # When the latest candle is over whose edges may be split otherwise.
        self._reached_ns = -1
        # Trades held in the candles compared, and how many of others these took more than gave.
        self._held = self._lent = 0

    @property
    def wanted(self) -> int | None:
        """When the next candle opens, if it must be compared by itself, equal though it may be.

        Else trades of its opening might count in it that the one before it took.
        """
        return None if self._splits.is_settled else self._reached_ns

    def end_ns(self, time_ns: int) -> int:
        """When a candle that opens then is over."""
        return time_ns + self._minutes * UNITS_NS["m"]

    def skip(self, reason: str, candles: int = 1) -> None:
        """Note why some candles can't be compared."""
        self._skipped[reason] += candles

    def equal(self, candles: int, trades: int, within_float_rounding: int = 0) -> None:
        """Note candles that are equal, and their trades; none of them is wanted.

        Args:
            candles: how many.
            trades: how many they count.
            within_float_rounding: how many of the candles have a volume that is equal only so.
        """
        self._counted["within_float_rounding"] += within_float_rounding
        self._counted["compared"] += candles
        self._counted["ours"] += trades
        self._counted["theirs"] += trades
        self._held += trades

    def compare(
        self, time_ns: int, our: Candle | None, their: Candle | None, edges_of: EdgesOf
    ) -> None:
        """Compare one candle; they come in order of time.

        Args:
            time_ns: when it opens.
            our: by the trades held; None where there are none.
            their: None where the exchange shows none.
            edges_of: asked where the two are not equal, or where others count on their edges.
        """
        if self._reached_ns != time_ns:
            before_ns = 2 * time_ns - self.end_ns(time_ns)
            self._end(is_cut=False)
            self._splits.begin(is_open=not self._is_compared(before_ns))
        self._reached_ns = self.end_ns(time_ns)
        is_plain = self._splits.is_settled and not self._wrong(our, their)
        edges = None if is_plain else edges_of(time_ns)
        self._splits.take(Sides(time_ns, our, their, edges))
        for choice in self._splits.settled():
            self._count(choice)
        if not self._splits.is_settled and not self._is_compared(self._reached_ns):
            self._end(is_cut=True)

    def report(self) -> IntervalReport:
        """What they came to; none may follow.

        Raises:
            ArchiveDamaged: a trade was counted twice, or not at all.
        """
        self._end(is_cut=True)
        ours = self._counted["ours"]
        if ours != self._held + self._lent:
            raise ArchiveDamaged(
                f"{self._asker.pair}: its candles of {self._minutes} minutes count {ours} trades "
                f"where {self._held + self._lent} are held; "
                f"`harvester verify {self._asker.pair}` finds which"
            )
        return IntervalReport(
            self._minutes,
            skipped=dict(self._skipped),
            differences=tuple(self._differences),
            notes=(),
            **self._counted,
        )

    def _wrong(self, our: Candle | None, their: Candle | None) -> list[str]:
        return wrong_values(our, their, self._asker.decimals, self._names)

    def _end(self, *, is_cut: bool) -> None:
        """No candle follows the latest; with `is_cut`, it may have taken trades of the next one."""
        choices, taken = self._splits.end()
        for choice in choices:
            self._count(choice)
        self._lent += taken if is_cut else 0

    def _count(self, choice: Choice) -> None:
        decimals, their = self._asker.decimals, choice.sides.their
        our = choice.sides.made(choice.given, choice.taken, decimals)
        wrong = self._wrong(our, their)
        self._held += choice.sides.our.count if choice.sides.our else 0
        self._lent -= choice.outside
        self._counted["compared"] += 1
        self._counted["at_edge"] += not wrong and choice.given + choice.taken > 0
        self._counted["differing"] += bool(wrong)
        self._counted["miscounted"] += "count" in wrong
        self._counted["ours"] += our.count if our else 0
        self._counted["theirs"] += their.count if their else 0
        if our and their:
            self._counted["shortened"] += shortened_prices(our, their, decimals)
            self._counted["within_float_rounding"] += not wrong and our.volume != their.volume
        for name in wrong:
            self._list(choice.sides.time_ns, name, our, their)

    def _list(self, time_ns: int, name: str, our: Candle | None, their: Candle | None) -> None:
        if len(self._differences) == MOST_LISTED:
            self._counted["more"] += 1
            return
        ours, theirs = shown(our, name), shown(their, name)
        one = Difference(self._asker.pair, self._minutes, time_ns, name, ours, theirs)
        self._differences.append(one)
