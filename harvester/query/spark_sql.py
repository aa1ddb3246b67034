"""The SQL of a candle for Apache Spark: the aggregates and columns of `candle_sql`, as exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harvester.query.calendar import Grid
from harvester.query.source_choice import EXTRA, LAST_TIME
from harvester.times import DAY, Range

# Settings of the session (ANSI, `decimalOperations.allowPrecisionLoss`, the time zone) must not
# change the result: they may be set when a lazy DataFrame runs, and Spark Connect analyzes it then
# only. So every operation has a type that is exact under all of them, and what may overflow is a
# `try_` function, whose NULL becomes an error.

TOO_LARGE = (
    "a sum of price x volume reaches 10^20, or of volumes 10^24, more than fits 38 exact digits: "
    "choose a shorter interval or range"
)

# A product of DECIMAL(18, 10) and DECIMAL(22, 8) has 41 digits, so Spark would round it. Of a lot
# below 10^11 units it has 38 digits. Greater ones are multiplied as integers.
VALUE = """CASE
    WHEN volume < 100000000000 THEN price * CAST(volume AS DECIMAL(19, 8))
    ELSE TRY_CAST(concat(CAST(try_multiply(
        CAST(price * 10000000000BD AS DECIMAL(18, 0)),
        CAST(volume * 100000000BD AS DECIMAL(22, 0))
    ) AS STRING), 'E-18') AS DECIMAL(38, 18))
END"""

# The double nearest to `value / volume`, by its decimal digits: those down to 1e-10 are exact, and
# fifteen more follow. A quotient of two doubles would be wrong by up to three units in the last
# place, and so would be the vwap of trades of one price.
VWAP_STEPS = (
    "nullif(TRY_CAST(volume AS DECIMAL(27, 8)) * 0.0000000001BD, 0) AS unit",
    "value div unit AS units, CAST(value % unit AS DOUBLE) / CAST(unit AS DOUBLE) AS rest",
    "least(CAST(rest * 1e15 AS BIGINT), 999999999999999) AS digits",
    """coalesce(
    CAST(concat(units, '.', lpad(CAST(digits AS STRING), 15, '0'), 'E-10') AS DOUBLE),
    CAST(value AS DOUBLE) / nullif(CAST(volume AS DOUBLE), 0)
) AS vwap""",
)

MOST_TIE_BITS = 31


def candles_sql(
    trades: str, grid: Grid, covered: Mapping[str, Sequence[Range]] | None = None
) -> str:
    """Return a query for candles, in no order; its columns are those of docs/candles.md and `pair`.

    Args:
        trades: a table with the columns pair, time_ns, tie, trade_id, price, volume and side.
        grid: the intervals.
        covered: the covered ranges by altname, for the columns after `count`; None for the first
            columns only.
    """
    aggregates = _aggregates(grid) | ({} if covered is None else _more_aggregates(grid))
    formulas = ",\n    ".join(f"{sql} AS {name}" for name, sql in aggregates.items())
    start_ns = grid.start_of_sql("time_ns")
    source = (
        f"SELECT pair, start_ns,\n    {formulas}\n"  # noqa: S608
        f"FROM (\nSELECT *, {start_ns} AS start_ns, {VALUE} AS value FROM {trades}\n)\n"
        "GROUP BY pair, start_ns"
    )
    for step in VWAP_STEPS:
        source = f"SELECT *, {step}\nFROM (\n{source}\n)"
    columns = ",\n    ".join(_columns(all_columns=covered is not None))
    is_complete = "" if covered is None else _is_complete_sql(grid, covered)
    # Without the hint, a session may forbid the broadcast and sort all candles.
    head = f"SELECT /*+ BROADCAST(complete) */\n    {columns}"
    return f"{head}\nFROM (\n{source}\n) AS candles{is_complete}"


def text_as_hex(text: str) -> str:
    """A text as SQL, whatever it contains and however the session reads quotes."""
    return f"CAST(X'{text.encode().hex()}' AS STRING)"


def _aggregates(grid: Grid) -> dict[str, str]:
    """The formulas over trades, by column."""
    error = f"raise_error(concat(pair, ': {TOO_LARGE}'))"
    return {
        "open": "min_by(price, time_ns) FILTER (WHERE tie = 0)",
        "high": "max(price)",
        "low": "min(price)",
        "close": _last_sql("price", "true", grid),
        "volume": f"CAST(coalesce(try_sum(volume), {error}) AS DECIMAL(38, 8))",
        "count": "count(*)",
        # A product that does not fit is NULL, which a sum would leave out.
        "value": f"coalesce(CASE WHEN count(value) = count(*) THEN try_sum(value) END, {error})",
    }


def _more_aggregates(grid: Grid) -> dict[str, str]:
    """The formulas of the columns after `count`. No part of a sum is above the sum."""
    sides = {side: f"FILTER (WHERE side = '{side}')" for side in ("buy", "sell")}
    return {
        **{
            f"{side}_{name}": f"CAST(coalesce(try_sum({name}) {where}, 0) AS DECIMAL(38, {scale}))"
            for name, scale in (("volume", 8), ("value", 18))
            for side, where in sides.items()
        },
        **{f"{side}_count": f"count(*) {where}" for side, where in sides.items()},
        "first_trade_id": _first_sql("trade_id", "trade_id IS NOT NULL", grid),
        "last_trade_id": _last_sql("trade_id", "trade_id IS NOT NULL", grid),
        "first_time": "min(time_ns)",
        "last_time": "max(time_ns)",
    }


# The order of the trade history is that of `time, tie`. `max_by` over a struct of both makes Spark
# sort all trades, which takes three times as long. So both become one integer where they fit 64
# bits: the time since the start of the candle, then `tie`. Rows of a greater `tie`, which hardly
# occur, are ordered by a decimal.


class _Key(NamedTuple):
    """A sort key of trades, and the condition of the trades that it sorts, as SQL."""

    sql: str
    condition: str


def _keys(grid: Grid) -> tuple[_Key, _Key]:
    """The sort key of trades whose `tie` fits into 64 bits, and that of the others."""
    widest_ns = max(section.width_ns for section in grid.sections)
    # One bit is left, so that adding a greater `tie` does not overflow.
    limit = 1 << min(62 - widest_ns.bit_length(), MOST_TIE_BITS)
    return (
        _Key(f"(time_ns - start_ns) * {limit} + tie", f"tie < {limit}"),
        _Key("CAST(time_ns AS DECIMAL(20, 0)) * 4294967296BD + tie", f"tie >= {limit}"),
    )


def _last_sql(column: str, where: str, grid: Grid) -> str:
    """The value of the last trade that meets a condition."""
    near, far = _keys(grid)
    return _edge_sql("max", column, where, (far, near))


def _first_sql(column: str, where: str, grid: Grid) -> str:
    """The value of the first trade that meets a condition."""
    return _edge_sql("min", column, where, _keys(grid))


def _edge_sql(edge: str, column: str, where: str, keys: tuple[_Key, _Key]) -> str:
    """The value of the trade with the least or greatest time and tie.

    Args:
        edge: `min` or `max`.
        column: of the value.
        where: the condition that trades meet.
        keys: the sort keys; where both have a trade of that time, the first one has the trade.
    """
    (key, condition), (other_key, other_condition) = keys
    those = f"FILTER (WHERE {where} AND {condition})"
    return (
        f"CASE WHEN {edge}(time_ns) {those} = {edge}(time_ns) FILTER (WHERE {where}) "
        f"THEN {edge}_by({column}, {key}) {those} "
        f"ELSE {edge}_by({column}, {other_key}) FILTER (WHERE {where} AND {other_condition}) END"
    )


def _is_complete_sql(grid: Grid, covered: Mapping[str, Sequence[Range]]) -> str:
    """A join of candles with the covered ranges, whose rows `complete` include the whole candle."""
    rows = [
        f"({text_as_hex(pair)}, {grid.start_ns(whole.first)}, {grid.start_ns(whole.last)})"
        for pair, ranges in covered.items()
        for time_range in ranges
        if (whole := grid.whole_intervals(time_range)).first <= whole.last
    ]
    values = ", ".join(rows) or "('', 0, 0)"
    return (
        f"\nLEFT JOIN (VALUES {values}) AS complete (of_pair, first, last)\n"
        f"ON of_pair = pair AND start_ns BETWEEN first AND last"
    )


def _columns(*, all_columns: bool) -> list[str]:
    """The columns of the result, in order, as SQL."""
    columns = [
        "pair",
        "TIMESTAMP_NTZ '1970-01-01 00:00:00' + make_dt_interval("
        f"CAST(start_ns div {DAY} AS INT), 0, 0, start_ns % {DAY} div 1000000 * 0.001BD) AS `time`",
        *("open", "high", "low", "close", "vwap", "volume", "count"),
    ]
    if all_columns:
        columns += ["value", *EXTRA, *LAST_TIME, "of_pair IS NOT NULL AS is_complete"]
    return columns
