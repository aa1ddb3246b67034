"""Join local candles with the exchange's, of the OHLC endpoint or of files, and compare values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pyarrow as pa

from harvester.errors import ArchiveDamaged
from harvester.kraken.ohlc import VALUES, Candle
from harvester.query.candles import QuerySession
from harvester.query.plan import PRICE_DECIMALS, CandleQuery, Plan
from harvester.query.source_choice import text_literal
from harvester.query.sql import MEMORY_LIMIT
from harvester.schema import VOLUME
from harvester.storage.parquet_files import PRICES
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, UNITS_NS, Range, covers, parse_interval, show
from harvester.verify.boundary_trades import BoundarySplits, ComparedCandle, read_boundary_trades
from harvester.verify.reports import Difference, IntervalReport

# --- values ---------------------------------------------------------------------------------------

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
    return None if candle is None else f"{_EXACT.normalize(Decimal(getattr(candle, name))):f}"


def _is_shortened(local: Candle, exchange: Candle, name: str, decimals: int) -> bool:
    """Whether the exchange prints a price with the pair's decimals that was traded at more.

    A pair may have had more decimals once than it has today (XBTUSD: five in 2015, one now).
    It is not documented whether the exchange cuts such prices off in its candles or rounds them.
    """
    exact, unit = getattr(local, name), Decimal(1).scaleb(-decimals)
    return name in PRICES and getattr(exchange, name) in (
        exact.quantize(unit, ROUND_DOWN),
        exact.quantize(unit, ROUND_HALF_UP),
    )


# --- the join -------------------------------------------------------------------------------------

RUNNING = "running"
BEFORE = "before the stored trades"
AFTER = "after the stored trades"
GAP = "in a gap"
BEYOND = "outside the period in the file's name"
NO_CLOSE = "empty, with no stored trade before it"

MAX_DIFFERENCES_LISTED = 20
"""Per length of candles."""


@dataclass(frozen=True, slots=True)
class LocalCandles:
    """The candles of one pair in an archive.

    Attributes:
        archive: the archive.
        pair: altname.
        decimals: the pair's price decimals; a vwap is cut off after them.
        memory_limit: the memory that DuckDB may use, such as 1GB.
    """

    archive: TradeStore
    pair: str
    decimals: int
    memory_limit: str = MEMORY_LIMIT


class CandleComparison:
    """Compares candles of one length, period by period, and counts the results.

    DuckDB joins both sides. The candles that differ become Python objects, and those that have a
    trade exactly at their opening; all others are only counted.
    """

    def __init__(
        self,
        local: LocalCandles,
        coverage: Sequence[Range],
        minutes: int,
        *,
        is_filled: bool,
    ) -> None:
        """Nothing is compared yet.

        Args:
            local: the archive's candles.
            coverage: the pair's coverage, in order; not empty.
            minutes: the candles' length.
            is_filled: whether the exchange shows candles without trades, and a vwap, as the OHLC
                endpoint does and files do not.
        """
        self._local = local
        self._coverage = coverage
        self._width_ns = minutes * UNITS_NS["m"]
        self._minutes = minutes
        self._is_filled = is_filled
        self._names = [name for name in VALUES if is_filled or name != "vwap"]
        self._counted: Counter[str] = Counter()
        self._differences: list[Difference] = []
        self._splits = BoundarySplits(
            lambda stored, other: not self._wrong(stored, other), local.decimals, self._count
        )
        # The end of the latest candle that was compared singly.
        self._reached_ns = -1
        # The candles that are compared open from `since_ns` on, and end at `until_ns` or before;
        # `skipped` counts the others by the reason.
        self.since_ns, self.until_ns = 0, END_OF_TIME
        self.skipped: Counter[str] = Counter()

    def add(self, candles: pa.Table, period: Range) -> None:
        """Compare all candles of a period with those of the exchange; periods come in order.

        Args:
            candles: the exchange's candles that open in the period: a table of
                `ohlcvt_reader.ROWS`.
            period: it begins and ends where candles do.
        """
        if period.after >= period.through:
            return
        query = CandleQuery(
            self._local.pair,
            parse_interval(str(self._minutes)),
            period,
            "kraken" if self._is_filled else "none",
            all_columns=True,
            pair_decimals=self._local.decimals,
        )
        session = QuerySession(self._local.archive, self._local.memory_limit)

        def join(plan: Plan) -> tuple[list[tuple[str | None, int, int]], pa.Table]:
            with session.connect() as connection:
                connection.register("exchange", candles)
                connection.register("coverage", pa.Table.from_pylist(bounds, schema=_COVERAGE))
                connection.execute(self._join_sql(session.sql(plan, PRICE_DECIMALS, connection)))
                counts = connection.execute(_COUNTS_SQL).fetchall()
                return counts, connection.sql(_ROWS_SQL).to_arrow_table()

        bounds = [covered._asdict() for covered in self._coverage]
        counts, rows = session.with_snapshot_retry(query, join)
        for reason, number, trades in counts:
            if reason is not None:
                self.skipped[reason] += number
                continue
            self._counted["compared"] += number
            self._counted["archive_trades"] += trades
            self._counted["exchange_trades"] += trades
        for batch in rows.to_batches(_AT_ONCE):
            self._compare_singly(batch.to_pylist())

    def report(self) -> IntervalReport:
        """The result; no candle may be added afterwards."""
        self._splits.finish()
        return IntervalReport(
            self._minutes,
            skipped=dict(self.skipped),
            differences=tuple(self._differences),
            notes=(),
            **self._counted,
        )

    def _join_sql(self, local: str) -> str:
        """Return SQL that joins both sides into the table `joined`, a row per opening time."""
        width, first, last = self._width_ns, self._coverage[0].after, self._coverage[-1].through
        equal = " AND ".join(f"l.{name} = e.{name}" for name in self._names)
        sides = ", ".join(f"{side}.{name} AS {side}_{name}" for side in "le" for name in VALUES)
        no_close = "false"
        if self._is_filled:
            no_close = "l_count IS NULL AND e_count = 0 AND e_volume = 0"
        return f"""CREATE TEMP TABLE joined AS WITH candles AS (
    SELECT epoch_ns(coalesce(l.time, e.time)) AS time_ns, {sides}, e.exact,
        e.time IS NOT NULL AS is_shown, coalesce({equal}, false) AS is_equal,
        coalesce(l.first_time = l.time, false) AS is_opened
    FROM ({local}) AS l FULL JOIN exchange AS e ON l.time = e.time
)
SELECT candles.*, CASE
    WHEN time_ns < {self.since_ns} OR time_ns + {width} > {self.until_ns}
        THEN {text_literal(BEYOND)}
    WHEN through >= time_ns + {width - 1}
        THEN CASE WHEN {no_close} THEN {text_literal(NO_CLOSE)} END
    WHEN time_ns <= {first} THEN {text_literal(BEFORE)}
    WHEN time_ns + {width - 1} > {last} THEN {text_literal(AFTER)}
    ELSE {text_literal(GAP)} END AS reason,
    -- Whether a trade was published exactly at its end; unknown for the last one.
    coalesce(lead(time_ns) OVER (ORDER BY time_ns) = time_ns + {width}
        AND lead(is_opened) OVER (ORDER BY time_ns), true) AS is_ended
FROM candles ASOF LEFT JOIN coverage ON time_ns > coverage.after"""  # noqa: S608

    def _compare_singly(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Compare candles one by one, with the trades at their boundaries."""
        width_ns = self._width_ns
        at_boundary = [row["time_ns"] for row in rows if row["is_opened"] or row["is_ended"]]
        archive, pair = self._local.archive, self._local.pair
        trades = read_boundary_trades(archive, pair, at_boundary, width_ns)
        for row in rows:
            time_ns, exact = row["time_ns"], row["exact"]
            exchange = msgspec.json.decode(exact, type=Candle) if exact else _candle(row, "e")
            candle = ComparedCandle(time_ns, _candle(row, "l"), exchange, trades.get(time_ns))
            self._check_trades(candle)
            if time_ns != self._reached_ns:
                is_open = candle.trades is not None and not self._is_compared(time_ns - width_ns)
                self._splits.begin(candle.trades.at_opening if candle.trades and is_open else 0)
            self._reached_ns = time_ns + width_ns
            self._splits.add(candle)

    def _check_trades(self, candle: ComparedCandle) -> None:
        """Raise an error if a candle and its trades, which are read apart, do not agree."""
        counted = candle.local.count if candle.local else 0
        if candle.trades is not None and candle.trades.count != counted:
            pair = self._local.pair
            raise ArchiveDamaged(
                f"{pair}: its candle of {self._minutes} minutes of {show(candle.time_ns)} has "
                f"{counted} trades, but {candle.trades.count} are stored; "
                f"`harvester verify {pair}` shows which"
            )

    def _is_compared(self, time_ns: int) -> bool:
        """Whether the candle that opens then can be compared."""
        is_within = self.since_ns <= time_ns and time_ns + self._width_ns <= self.until_ns
        interval = Range(time_ns - 1, time_ns + self._width_ns - 1)
        return is_within and covers(self._coverage, interval)

    def _wrong(self, local: Candle | None, exchange: Candle | None) -> list[str]:
        return wrong_values(local, exchange, self._local.decimals, self._names)

    def _count(self, candle: ComparedCandle, removed: int, added: int) -> None:
        """Count a candle whose boundaries are decided."""
        decimals, exchange = self._local.decimals, candle.exchange
        local = candle.split(removed, added, decimals)
        wrong = self._wrong(local, exchange)
        self._counted["compared"] += 1
        self._counted["at_boundary"] += not wrong and removed + added > 0
        self._counted["differing"] += bool(wrong)
        self._counted["miscounted"] += "count" in wrong
        self._counted["archive_trades"] += local.count if local else 0
        self._counted["exchange_trades"] += exchange.count if exchange else 0
        if local and exchange:
            self._counted["shortened"] += sum(
                getattr(local, name) != getattr(exchange, name) and name not in wrong
                for name in PRICES
            )
            is_rounded = not wrong and local.volume != exchange.volume
            self._counted["within_float_rounding"] += is_rounded
        for name in wrong:
            if len(self._differences) == MAX_DIFFERENCES_LISTED:
                self._counted["unlisted"] += 1
                continue
            values = value_text(local, name), value_text(exchange, name)
            difference = Difference(self._local.pair, self._minutes, candle.time_ns, name, *values)
            self._differences.append(difference)


_COVERAGE = pa.schema([("after", pa.int64()), ("through", pa.int64())])
_AT_ONCE = 4_096

# An equal candle without a trade exactly at its opening is only counted: none of its trades could
# belong to the candle before it. A local candle outside of the period is not the file's concern.
_COUNTS_SQL = f"""SELECT reason, count(*),
    coalesce(sum(e_count) FILTER (reason IS NULL), 0)::BIGINT FROM joined
WHERE (is_equal AND NOT is_opened AND reason IS NULL)
    OR (is_shown AND reason IS NOT NULL) OR reason <> {text_literal(BEYOND)}
GROUP BY reason"""  # noqa: S608
_ROWS_SQL = """SELECT * FROM joined
WHERE reason IS NULL AND (is_opened OR NOT is_equal) ORDER BY time_ns"""


def _candle(row: Mapping[str, Any], side: str) -> Candle | None:
    """The candle of one side of the join, `l` or `e`; None where there is none."""
    values = {name: row[f"{side}_{name}"] for name in VALUES}
    if values["count"] is None:
        return None
    return Candle(row["time_ns"], **(values | {"vwap": values["vwap"] or Decimal(0)}))


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
