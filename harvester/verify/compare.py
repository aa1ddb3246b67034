"""Compare local candles with the exchange's: which values must be equal; count differences."""

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
    ComparedCandle,
    LocalCandle,
    LocalCandleReader,
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
    local: Candle | None,
    exchange: Candle | None,
    decimals: int,
    names: Sequence[str] = VALUES,
) -> list[str]:
    """The names of the values that differ.

    If one side lacks the candle, volume and count are compared with 0.

    Args:
        local: the candle by the stored trades; None where there are none.
        exchange: the exchange's candle; None where it shows none.
        decimals: the pair's price decimals, to which the exchange may shorten prices.
        names: the values that the exchange publishes.
    """
    if local is None or exchange is None:
        candle = exchange if local is None else local
        return [name for name in ("volume", "count") if getattr(candle, name)]
    return [
        name
        for name in names
        if getattr(local, name) != getattr(exchange, name)
        and not _is_shortened(local, exchange, name, decimals)
        and not (name == "volume" and is_float_rounded(local.volume, exchange.volume, local.count))
    ]


def shortened_prices(local: Candle, exchange: Candle, decimals: int) -> int:
    """How many prices the exchange prints with fewer decimals than they were traded at.

    Args:
        local: the candle by the stored trades.
        exchange: the exchange's candle.
        decimals: the pair's price decimals.
    """
    return sum(
        getattr(local, name) != getattr(exchange, name)
        and _is_shortened(local, exchange, name, decimals)
        for name in PRICES
    )


def is_float_rounded(exact: Decimal, printed: Decimal, trades: int) -> bool:
    """Whether a printed volume differs from the exact one only by the rounding of a float sum.

    Kraken's candle files of 2021 print volumes that were summed as float64. A sum of n floats that
    are not negative, each the nearest to an exact number, is off by at most n * u / (1 - n * u) of
    the exact sum, in any order, where u = 2**-53 (N. Higham, "Accuracy and Stability of Numerical
    Algorithms", chapter 4). Printing adds half a unit of the last decimal.

    Volumes of trades have eight decimals, so a volume printed with no more is exact. One that is
    off by half a unit of the eighth decimal or more is another volume, however large the sum.

    Args:
        exact: the exact sum.
        printed: the printed volume; another number than `exact`.
        trades: how many volumes were summed.
    """
    decimals = decimals_of(_EXACT.normalize(printed))
    if decimals <= VOLUME.scale:
        return False
    error = abs(Fraction(printed) - Fraction(exact))
    roundoff = trades * _UNIT_ROUNDOFF
    max_error = roundoff / (1 - roundoff) * Fraction(exact) + Fraction(1, 2 * 10**decimals)
    return error < _HALF_A_VOLUME_UNIT and error <= max_error


def decimals_of(number: Decimal) -> int:
    """How many decimals a number is printed with."""
    exponent = number.as_tuple().exponent
    return -exponent if isinstance(exponent, int) and exponent < 0 else 0


def value_text(candle: Candle | None, name: str) -> str | None:
    """A value of a candle as text, without trailing zeros; None where there is no candle."""
    if candle is None:
        return None
    value = getattr(candle, name)
    if isinstance(value, int):
        return str(value)
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _is_shortened(local: Candle, exchange: Candle, name: str, decimals: int) -> bool:
    """Whether the exchange prints a price with the pair's decimals that was traded at more.

    A pair may have had more decimals once than it has today (XBTUSD: five in 2015, one now).
    It is not documented whether the exchange cuts such prices off in its candles or rounds them.
    """
    exact, printed = getattr(local, name), getattr(exchange, name)
    if name not in PRICES or not decimals_of(printed) == decimals < decimals_of(exact):
        return False
    unit = Decimal(1).scaleb(-decimals)
    return printed in (exact.quantize(unit, ROUND_DOWN), exact.quantize(unit, ROUND_HALF_UP))


# --- counts ---------------------------------------------------------------------------------------

MAX_DIFFERENCES_LISTED = 20
"""Per length of candles."""

EdgesOf = Callable[[int], BoundaryTrades | None]
"""Returns the trades at the boundaries of the candle that opens then; None where there are none."""


class ComparisonCounts:
    """Compares candles one by one, counts the results and keeps the first differences."""

    def __init__(
        self,
        reader: LocalCandleReader,
        minutes: int,
        is_compared: Callable[[int], bool],
        names: Sequence[str] = VALUES,
    ) -> None:
        """All counts are 0.

        Args:
            reader: reads candles of the archive.
            minutes: the candles' length.
            is_compared: whether the candle that opens at a time can be compared.
            names: the values that are compared.
        """
        self._reader = reader
        self._minutes = minutes
        self._is_compared = is_compared
        self._names = names
        self._skipped: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()
        self._differences: list[Difference] = []
        self._splits = Splits(lambda stored, other: not self._wrong(stored, other), reader.decimals)
        # The end of the latest candle whose boundaries may still be split in another way.
        self._reached_ns = -1
        # Stored trades in the candles compared, and how many more trades of other candles these
        # count than other candles count of theirs.
        self._stored = self._borrowed = 0

    @property
    def needed_next(self) -> int | None:
        """The opening time of the next candle, if it must be compared singly, even if it is equal.

        Otherwise trades at its opening might count in it that the candle before it counts, too.
        """
        return None if self._splits.is_decided else self._reached_ns

    def end_ns(self, time_ns: int) -> int:
        """The end of the candle that opens at `time_ns`."""
        return time_ns + self._minutes * UNITS_NS["m"]

    def skip(self, reason: str, candles: int = 1) -> None:
        """Count candles that can't be compared.

        Args:
            reason: why.
            candles: how many.
        """
        self._skipped[reason] += candles

    def equal(self, candles: int, trades: int, within_float_rounding: int = 0) -> None:
        """Count candles that are known to be equal; none of them is `needed_next`.

        Args:
            candles: how many.
            trades: how many trades they have.
            within_float_rounding: how many of the candles have a volume that is equal only within
                float rounding.
        """
        self._counted["within_float_rounding"] += within_float_rounding
        self._counted["compared"] += candles
        self._counted["archive_trades"] += trades
        self._counted["exchange_trades"] += trades
        self._stored += trades

    def compare(
        self, time_ns: int, local: Candle | None, exchange: Candle | None, edges_of: EdgesOf
    ) -> None:
        """Compare one candle; candles must come in order of time.

        Args:
            time_ns: its opening time.
            local: the candle by the stored trades; None where there are none.
            exchange: the exchange's candle; None where it shows none.
            edges_of: called if the two differ, or if trades at the boundary of the candle before
                are undecided.
        """
        if self._reached_ns != time_ns:
            before_ns = 2 * time_ns - self.end_ns(time_ns)
            self._end(is_cut=False)
            self._splits.begin(is_open=not self._is_compared(before_ns))
        self._reached_ns = self.end_ns(time_ns)
        is_equal = self._splits.is_decided and not self._wrong(local, exchange)
        edges = None if is_equal else edges_of(time_ns)
        self._splits.add(ComparedCandle(time_ns, local, exchange, edges))
        for choice in self._splits.decided():
            self._count(choice)
        if not self._splits.is_decided and not self._is_compared(self._reached_ns):
            self._end(is_cut=True)

    def report(self) -> IntervalReport:
        """The result; no candle may be compared afterwards.

        Raises:
            ArchiveDamaged: a trade was counted twice, or not at all.
        """
        self._end(is_cut=True)
        counted, stored = self._counted["archive_trades"], self._stored + self._borrowed
        if counted != stored:
            raise ArchiveDamaged(
                f"{self._reader.pair}: its candles of {self._minutes} minutes have {counted} "
                f"trades, but {stored} are stored; `harvester verify {self._reader.pair}` shows "
                "which"
            )
        return IntervalReport(
            self._minutes,
            skipped=dict(self._skipped),
            differences=tuple(self._differences),
            notes=(),
            **self._counted,
        )

    def _wrong(self, local: Candle | None, exchange: Candle | None) -> list[str]:
        return wrong_values(local, exchange, self._reader.decimals, self._names)

    def _end(self, *, is_cut: bool) -> None:
        """No candle follows the latest; with `is_cut`, that one may count trades of the next."""
        choices, borrowed = self._splits.end()
        for choice in choices:
            self._count(choice)
        self._borrowed += borrowed if is_cut else 0

    def _count(self, choice: SplitChoice) -> None:
        decimals, candle = self._reader.decimals, choice.candle
        exchange, local = candle.exchange, candle.split(choice.removed, choice.added, decimals)
        wrong = self._wrong(local, exchange)
        self._stored += candle.local.count if candle.local else 0
        self._borrowed -= choice.outside
        self._counted["compared"] += 1
        self._counted["at_boundary"] += not wrong and choice.removed + choice.added > 0
        self._counted["differing"] += bool(wrong)
        self._counted["miscounted"] += "count" in wrong
        self._counted["archive_trades"] += local.count if local else 0
        self._counted["exchange_trades"] += exchange.count if exchange else 0
        if local and exchange:
            self._counted["shortened"] += shortened_prices(local, exchange, decimals)
            is_rounded = not wrong and local.volume != exchange.volume
            self._counted["within_float_rounding"] += is_rounded
        for name in wrong:
            self._list(candle.time_ns, name, local, exchange)

    def _list(self, time_ns: int, name: str, local: Candle | None, exchange: Candle | None) -> None:
        if len(self._differences) == MAX_DIFFERENCES_LISTED:
            self._counted["unlisted"] += 1
            return
        values = value_text(local, name), value_text(exchange, name)
        self._differences.append(
            Difference(self._reader.pair, self._minutes, time_ns, name, *values)
        )


# --- retry after a replacement --------------------------------------------------------------------

MAX_TRIES = 3
"""How often candles are compared if files are replaced meanwhile; then differences are reported."""


def retry_if_replaced(
    archive: TradeStore, pair: str, compare: Callable[[], IntervalReport]
) -> IntervalReport:
    """Compare candles, and compare them again if a re-download replaced trades meanwhile.

    A candle may be read from an imported segment with times of whole seconds, and the trades at its
    boundaries a moment later from the downloaded segment that replaced it. Then the candle differs,
    or trades seem to be counted twice, though nothing is wrong.

    Args:
        archive: the archive with the candles.
        pair: altname.
        compare: compares; each time it reads everything again.

    Raises:
        ArchiveDamaged: as `compare` does, and no file was replaced meanwhile.
    """
    for _ in range(MAX_TRIES - 1):
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


# --- candles of one length ------------------------------------------------------------------------

RUNNING = "running"
BEFORE = "before the stored trades"
AFTER = "after the stored trades"
GAP = "in a gap"
NO_CLOSE = "empty, with no stored trade before it"


def compare_interval(
    reader: LocalCandleReader, coverage: Sequence[Range], minutes: int, candles: Sequence[Candle]
) -> IntervalReport:
    """Compare the exchange's candles of one length with those of the archive.

    Args:
        reader: reads candles of the archive.
        coverage: the pair's coverage, in order.
        minutes: the candles' length.
        candles: the exchange's candles, in order of time; the last of them is running.
    """
    if not candles:
        return IntervalReport(minutes)
    return retry_if_replaced(
        reader.archive, reader.pair, lambda: _compare_once(reader, coverage, minutes, candles)
    )


def _compare_once(
    reader: LocalCandleReader, coverage: Sequence[Range], minutes: int, candles: Sequence[Candle]
) -> IntervalReport:
    first, newest = candles[0].time_ns, candles[-1].time_ns
    # With the time at which the running candle opens: its trades may belong to the one before it.
    local = reader.candles(minutes, Range(max(0, first - 1), newest))
    closed = {candle.time_ns: candle for candle in candles[:-1]}

    def skip_reason(time_ns: int) -> str | None:
        interval = Range(time_ns - 1, counts.end_ns(time_ns) - 1)
        return _skip_reason(coverage, interval, local.get(time_ns), closed.get(time_ns))

    def is_compared(time_ns: int) -> bool:
        return first <= time_ns < newest and skip_reason(time_ns) is None

    def edges_of(time_ns: int) -> BoundaryTrades | None:
        neighbours = (local.get(time_ns), local.get(counts.end_ns(time_ns)))
        if not any(candle and candle.has_trade_at_opening for candle in neighbours):
            return None
        return reader.edges(minutes, [time_ns])[time_ns]

    counts = ComparisonCounts(reader, minutes, is_compared)
    counts.skip(RUNNING)
    for time_ns in sorted(closed.keys() | {opens for opens in local if opens < newest}):
        if reason := skip_reason(time_ns):
            counts.skip(reason)
            continue
        found = local.get(time_ns)
        counts.compare(time_ns, found.candle if found else None, closed.get(time_ns), edges_of)
    return counts.report()


def _skip_reason(
    coverage: Sequence[Range],
    interval: Range,
    local: LocalCandle | None,
    exchange: Candle | None,
) -> str | None:
    """Why a candle can't be compared; None if it can."""
    uncovered = _uncovered(coverage, interval)
    if local is not None:
        return None if local.is_complete else uncovered or GAP
    if uncovered is None and exchange is not None and not (exchange.count or exchange.volume):
        return NO_CLOSE
    return uncovered


def _uncovered(coverage: Sequence[Range], interval: Range) -> str | None:
    """Why an interval is not covered completely; None if it is."""
    if covers(coverage, interval):
        return None
    if interval.after < coverage[0].after:
        return BEFORE
    return AFTER if interval.through > coverage[-1].through else GAP
