"""Compare candles with the exchange's: which values must be equal, and the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from decimal import ROUND_DOWN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction

from harvester.errors import ArchiveDamaged
from harvester.kraken.ohlc import VALUES, Candle
from harvester.schema import VOLUME
from harvester.storage.trade_store import TradeStore
from harvester.times import UNITS_NS, Range, covers
from harvester.verify.local_candles import (
    BoundaryTrades,
    LocalCandle,
    LocalCandleReader,
    Sides,
    SplitChoice,
    Splits,
)
from harvester.verify.reports import Difference, IntervalReport

# --- values ---------------------------------------------------------------------------------------

PRICES = ("open", "high", "low", "close")

_HALF_A_VOLUME_UNIT = Fraction(1, 2 * 10**VOLUME.scale)
_UNIT_ROUNDOFF = Fraction(1, 2**53)
# Wide enough for any number of a candle file.
_EXACT = Context(prec=80)


def wrong_values(
    ours: Candle | None,
    theirs: Candle | None,
    decimals: int,
    names: Sequence[str] = VALUES,
) -> list[str]:
    """The names of the values that differ; of a candle that one side lacks, what was traded.

    Args:
        ours: by the trades held; None where there are none.
        theirs: the exchange's; None where it shows no such candle.
        decimals: the pair's, which prices may be shortened to.
        names: of the values that the exchange tells.
    """
    if ours is None or theirs is None:
        one = theirs if ours is None else ours
        return [name for name in ("volume", "count") if getattr(one, name)]
    return [
        name
        for name in names
        if getattr(ours, name) != getattr(theirs, name)
        and not _is_shortened(ours, theirs, name, decimals)
        and not (name == "volume" and is_float_rounded(ours.volume, theirs.volume, ours.count))
    ]


def shortened_prices(ours: Candle, theirs: Candle, decimals: int) -> int:
    """How many prices the exchange prints with fewer decimals than they were traded at."""
    return sum(
        getattr(ours, name) != getattr(theirs, name) and _is_shortened(ours, theirs, name, decimals)
        for name in PRICES
    )


def is_float_rounded(ours: Decimal, theirs: Decimal, trades: int) -> bool:
    """Whether a printed volume differs from the exact one only by the rounding of a float sum.

    Kraken's candle files of 2021 print volumes that were summed as float64. A sum of n floats that
    are not negative, each the nearest to an exact number, is off by at most n * u / (1 - n * u) of
    the exact sum, in any order, where u = 2**-53 (N. Higham, "Accuracy and Stability of Numerical
    Algorithms", chapter 4). Printing adds half a unit of the last decimal.

    Volumes of trades have eight decimals, so a volume printed with no more is exact. One that is
    off by half a unit of the eighth decimal or more is another volume, however large the sum.

    Args:
        ours: the exact sum.
        theirs: as printed; another number than `ours`.
        trades: how many volumes were summed.
    """
    decimals = decimals_of(_EXACT.normalize(theirs))
    if decimals <= VOLUME.scale:
        return False
    off = abs(Fraction(theirs) - Fraction(ours))
    roundoff = trades * _UNIT_ROUNDOFF
    most = roundoff / (1 - roundoff) * Fraction(ours) + Fraction(1, 2 * 10**decimals)
    return off < _HALF_A_VOLUME_UNIT and off <= most


def decimals_of(number: Decimal) -> int:
    """How many decimals a number is printed with."""
    exponent = number.as_tuple().exponent
    return -exponent if isinstance(exponent, int) and exponent < 0 else 0


def shown(candle: Candle | None, name: str) -> str | None:
    """A value as text, without zeros at its end; None where there is no candle."""
    if candle is None:
        return None
    value = getattr(candle, name)
    if isinstance(value, int):
        return str(value)
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _is_shortened(ours: Candle, theirs: Candle, name: str, decimals: int) -> bool:
    """Whether the exchange prints a price with the pair's decimals, and it was traded at more.

    A pair may have had more decimals once than it has today (XBTUSD: five in 2015, one now).
    Whether the exchange cuts such prices off in its candles, or rounds them, nobody tells.
    """
    our, their = getattr(ours, name), getattr(theirs, name)
    if name not in PRICES or not decimals_of(their) == decimals < decimals_of(our):
        return False
    unit = Decimal(1).scaleb(-decimals)
    return their in (our.quantize(unit, ROUND_DOWN), our.quantize(unit, ROUND_HALF_UP))


# --- tally ----------------------------------------------------------------------------------------

MOST_LISTED = 20
"""Differences are listed up to so many for each length of candles."""

EdgesOf = Callable[[int], BoundaryTrades | None]
"""Tells, of when a candle opens, the trades at its edges; None where there are none."""


class ComparisonCounts:
    """Counts what was compared, and keeps the first differences."""

    def __init__(
        self,
        asker: LocalCandleReader,
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

    def _count(self, choice: SplitChoice) -> None:
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


# --- steady ---------------------------------------------------------------------------------------

MOST_TURNS = 3
"""So often candles are compared while files are replaced under them; what then differs is told."""


def retry_if_replaced(
    archive: TradeStore, pair: str, compare: Callable[[], IntervalReport]
) -> IntervalReport:
    """Compare candles, and compare them again if an upgrade moved trades while they were.

    A candle may be read from a file of whole seconds, and the trades at its edges a moment later
    from the exchange's own that replaced it: then it differs, or trades seem to be counted twice,
    and nothing is wrong.

    Args:
        archive: whose candles they are.
        pair: altname.
        compare: reads all that it needs anew each time.

    Raises:
        ArchiveDamaged: as `compare` does, and no file was replaced meanwhile.
    """
    for _ in range(MOST_TURNS - 1):
        before = set(archive.segments(pair))
        try:
            found = compare()
        except ArchiveDamaged:
            if before <= set(archive.segments(pair)):
                raise
        else:
            if not found.differing or before <= set(archive.segments(pair)):
                return found
    return compare()


# --- intervals ------------------------------------------------------------------------------------

RUNNING = "running"
BEFORE = "before what is held"
AFTER = "after what is held"
GAP = "in a gap"
NO_CLOSE = "empty, with no trade held before it"


def compare_interval(
    asker: LocalCandleReader, coverage: Sequence[Range], minutes: int, theirs: Sequence[Candle]
) -> IntervalReport:
    """Hold the exchange's candles of one length against ours.

    Args:
        asker: asks the archive.
        coverage: what it holds, in order.
        minutes: the candles' length.
        theirs: in order of time; the last of them is running.
    """
    if not theirs:
        return IntervalReport(minutes)
    return retry_if_replaced(
        asker.archive, asker.pair, lambda: _compared(asker, coverage, minutes, theirs)
    )


def _compared(
    asker: LocalCandleReader, coverage: Sequence[Range], minutes: int, theirs: Sequence[Candle]
) -> IntervalReport:
    first, newest = theirs[0].time_ns, theirs[-1].time_ns
    # The moment at which the running one opens is asked for too: see `splits`.
    ours = asker.held(minutes, Range(max(0, first - 1), newest))
    closed = {their.time_ns: their for their in theirs[:-1]}

    def why_not(time_ns: int) -> str | None:
        span = Range(time_ns - 1, tally.end_ns(time_ns) - 1)
        return _why_not(coverage, span, ours.get(time_ns), closed.get(time_ns))

    def is_compared(time_ns: int) -> bool:
        return first <= time_ns < newest and why_not(time_ns) is None

    def edges_of(time_ns: int) -> BoundaryTrades | None:
        beside = (ours.get(time_ns), ours.get(tally.end_ns(time_ns)))
        if not any(one and one.at_opening for one in beside):
            return None
        return asker.edges(minutes, [time_ns])[time_ns]

    tally = ComparisonCounts(asker, minutes, is_compared)
    tally.skip(RUNNING)
    for time_ns in sorted(closed.keys() | {our for our in ours if our < newest}):
        if reason := why_not(time_ns):
            tally.skip(reason)
            continue
        held = ours.get(time_ns)
        tally.compare(time_ns, held.candle if held else None, closed.get(time_ns), edges_of)
    return tally.report()


def _why_not(
    coverage: Sequence[Range], span: Range, held: LocalCandle | None, their: Candle | None
) -> str | None:
    """Why a candle can't be compared; None where it can."""
    uncovered = _uncovered(coverage, span)
    if held is not None:
        return None if held.is_complete else uncovered or GAP
    if uncovered is None and their is not None and not (their.count or their.volume):
        return NO_CLOSE
    return uncovered


def _uncovered(coverage: Sequence[Range], span: Range) -> str | None:
    """Why coverage does not hold a span whole; None where it does."""
    if covers(coverage, span):
        return None
    if span.after < coverage[0].after:
        return BEFORE
    return AFTER if span.through > coverage[-1].through else GAP
