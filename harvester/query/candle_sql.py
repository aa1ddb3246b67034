"""The SQL of a candle: aggregates, fill policies and output columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import duckdb

from harvester.query.plan import PRICE_DECIMALS, CandleQuery, CoveredRange, Plan
from harvester.query.source_choice import (
    CANDLE_AGGREGATES,
    EXTRA_AGGREGATES,
    LAST_TIME,
    ZERO_WHEN_EMPTY,
    aggregate_sql,
    trades_sql,
)
from harvester.storage.parquet_files import PRICES
from harvester.storage.trade_store import Piece, TradeStore
from harvester.times import Range

# --- where filling begins -------------------------------------------------------------------------

BEFORE_CANDLE, AFTER_CANDLE = 0, 2


class FillSeed(NamedTuple):
    """A start of filling without a candle: intervals after `number` through `last` are filled.

    Attributes:
        number: the interval before the first that is filled.
        rank: orders the seed among candles (rank 1) of the same number. A close that is carried
            into the range comes before them, because the candle's close is newer; a seed without
            a close comes after them.
        close: the price to fill with; None fills with null.
        last: the last interval that is filled.
    """

    number: int
    rank: int
    close: Decimal | None
    last: int


def fill_seeds(
    archive: TradeStore, plan: Plan, connection: duckdb.DuckDBPyConnection
) -> list[FillSeed]:
    """Return where filling begins without a candle, by the query's fill policy.

    Args:
        archive: where the trades are.
        plan: the plan of the query.
        connection: reads the trade whose price is carried into the range.

    Raises:
        FileNotFoundError: compaction removed a file: plan again.
        duckdb.Error: a file can't be read, or was removed.
    """
    if plan.query.fill == "none" or not plan.covered:
        return []
    first = plan.first_trade_number
    if plan.query.fill == "null":
        # At the start of each covered range, but not before the first stored trade.
        return [
            FillSeed(max(run.whole.first, first) - 1, AFTER_CANDLE, None, run.whole.last)
            for run in plan.covered
            if first is not None
        ]
    piece = last_trade_before(archive, plan)
    if piece is None:
        return []
    trades = trades_sql(archive, [piece])
    # All of the result is fetched: DuckDB 2.0 refuses a connection that still has some.
    [(close,)] = connection.execute(f"SELECT arg_max(price, place) FROM ({trades})").fetchall()  # noqa: S608
    whole = plan.covered[0].whole
    return [FillSeed(whole.first - 1, BEFORE_CANDLE, Decimal(close), whole.last)]


def last_trade_before(archive: TradeStore, plan: Plan) -> Piece | None:
    """Return the piece with the trade whose price is carried into the range, if there is one.

    It is the last trade before the range, if no gap lies between them.

    Args:
        archive: where the trades are.
        plan: the plan of the query.

    Raises:
        FileNotFoundError: compaction removed a file: plan again.
    """
    if plan.query.fill in ("none", "null") or not plan.covered:
        return None
    for piece in reversed(plan.pieces_before):
        last_ns = archive.last_time_in(piece)
        if last_ns is not None:
            # Only the last row group is read.
            return Piece(piece.segment, Range(last_ns - 1, last_ns))
    return None


def would_lose_precision(
    archive: TradeStore, plan: Plan, connection: duckdb.DuckDBPyConnection
) -> bool:
    """Return whether a candle's price has more decimals than the pair has today.

    Old trades may: XBTUSD has one decimal today and had five in 2015.

    Args:
        archive: where the trades are.
        plan: the plan of the query, whose `pair_decimals` counts.
        connection: computes all candles.

    Raises:
        duckdb.Error: a file can't be read, or was removed.
    """
    decimals = plan.query.pair_decimals
    carried = [seed.close for seed in fill_seeds(archive, plan, connection)]
    if any(close != round(close, decimals) for close in carried if close is not None):
        return True
    prices = {name: CANDLE_AGGREGATES[name] for name in PRICES}
    candles = aggregate_sql(archive, plan.sources, plan.grid, prices)
    finer = " OR ".join(f"{name} <> {name}::DECIMAL(18, {decimals})" for name in PRICES)
    query = f"SELECT 1 FROM ({candles}) WHERE {finer} LIMIT 1"  # noqa: S608
    return bool(connection.execute(query).fetchall())


# --- the query ------------------------------------------------------------------------------------


def aggregates_for(query: CandleQuery) -> dict[str, str]:
    """Return the aggregates that a query needs: column names and formulas over trades."""
    aggregates = CANDLE_AGGREGATES | (EXTRA_AGGREGATES if query.all_columns else {})
    if query.all_columns or query.fill != "none":
        aggregates |= LAST_TIME
    return aggregates


def candles_sql(plan: Plan, candles: str, seeds: Sequence[FillSeed], price_decimals: int) -> str:
    """Return the complete query: candles in order of time, filled by the query's policy.

    Args:
        plan: the plan of the query.
        candles: the query for `number` and the aggregates.
        seeds: where filling begins without a candle.
        price_decimals: the decimals of the returned prices; no price may have more.
    """
    query = plan.query
    aggregates = list(aggregates_for(query))
    filled = "" if query.fill == "none" else _fill_steps(plan, seeds, aggregates)
    kind = "MATERIALIZED" if filled else "NOT MATERIALIZED"
    columns = ",\n    ".join(_output_columns(plan, price_decimals))
    where = f"WHERE {_is_complete_sql(plan.covered)}\n" if query.complete_only else ""
    source = "shown" if filled else "candles"
    if query.fill == "kraken":
        source = _with_truncated_vwap(source, query.pair_decimals)
    else:
        source = with_vwap(source)
    return (
        f"WITH candles AS {kind} (\n{candles}\n){filled}\n"
        f"SELECT\n    {columns}\nFROM {source}\n"
        f"{where}ORDER BY number"
    )


# --- empty intervals -----------------------------------------------------------------------------


def _fill_steps(plan: Plan, seeds: Sequence[FillSeed], aggregates: list[str]) -> str:
    """Return the steps of the query that add empty intervals; the last step is `shown`."""
    price = "NULL" if plan.query.fill == "null" else "close"
    columns = ", ".join(["number", *aggregates])
    steps = {
        "known": _known_sql(plan.covered, seeds),
        "gaps": _GAPS,
        "fillings": _fillings_sql(aggregates, price),
        "shown": f"SELECT {columns} FROM candles UNION ALL SELECT {columns} FROM fillings",  # noqa: S608
    }
    # DuckDB 2.0 does not spill when it sorts a UNION directly, but spills a materialized result.
    materialized = {"known", "shown"}
    return "".join(
        f",\n{name} AS {'' if name in materialized else 'NOT '}MATERIALIZED (\n{sql}\n)"
        for name, sql in steps.items()
    )


# Each row of `known` fills the intervals after it, up to the next row and to the end of its own
# covered range. If two covered ranges begin in one interval, the later one fills: `last` in the
# order makes this certain.
_GAPS = """SELECT close, number + 1 AS start,
    least(coalesce(lead(number) OVER (ORDER BY number, rank, last), last + 1), last + 1) AS stop
FROM known"""

# Unrolled in two steps, so that years of empty short intervals do not become one long list.
_UNROLLED = """SELECT close, unnest(range(step, least(step + 4096, stop))) AS number FROM (
    SELECT close, stop, unnest(range(start, stop, 4096)) AS step FROM gaps WHERE start < stop
)"""


def _known_sql(covered: Sequence[CoveredRange], seeds: Sequence[FillSeed]) -> str:
    """Return candles and seeds: number, rank, close, and the last interval to fill after each.

    A candle's close is carried through the covered range of its last trade, never across a gap.
    """
    whens = " ".join(
        f"WHEN last_time <= make_timestamp_ns({run.range.through}) THEN {run.whole.last}"
        for run in covered
    )
    last = f"CASE {whens} END::BIGINT" if covered else "NULL::BIGINT"
    rows = [f"SELECT number, 1 AS rank, close, {last} AS last FROM candles"]  # noqa: S608
    for seed in seeds:
        price = "NULL" if seed.close is None else f"'{seed.close:f}'::DECIMAL(18, {PRICE_DECIMALS})"
        rows.append(f"SELECT {seed.number}::BIGINT, {seed.rank}, {price}, {seed.last}::BIGINT")
    return "\nUNION ALL ".join(rows)


def _fillings_sql(aggregates: list[str], price: str) -> str:
    """Return the empty intervals, with the columns of the candles."""
    columns = ["number"]
    for name in aggregates:
        if name in PRICES:
            columns.append(f"{price} AS {name}")
        elif name in ZERO_WHEN_EMPTY:
            columns.append(f"0::{ZERO_WHEN_EMPTY[name]} AS {name}")
        else:
            columns.append(f"NULL AS {name}")
    return f"SELECT {', '.join(columns)}\nFROM ({_UNROLLED})"


# --- output columns ------------------------------------------------------------------------------

# `list_avg([x])` converts the decimal x to a double. A cast does the same, but DuckDB 2.0 then
# divides 128 bits bit by bit: 350 ns a candle, where this needs 20.
#
# A quotient of two such doubles is wrong by some units in its last place, so a single price of
# 59854.1 would print as 59854.09999999999, below the candle's low. Therefore:
#
# - the quotient is rounded to a multiple of 1e-10 (`units`, a whole number);
# - the remainder of the value (`rest`) is computed in decimals;
# - both are added, the large part without its rounding error: `near` = `units` / 1e10 is wrong by
#   exactly ((`units` - `upper` * 1e10) - `lower` * 1e10) / 1e10, as `upper` and `lower` are parts
#   of `near` short enough for exact products (Veltkamp's splitting).
#
# This takes 100 ns a candle. From a value of 4e19 on, `units` * volume might not fit 38 digits;
# `rest` is left out there.
#
# Each step is a query of its own. Where a step is an alias in the same query, DuckDB copies its
# formula into every use of it, and of those copies it makes copies: planning took 11 ms.
_VWAP_STEPS = {
    "total": "list_avg([volume])",
    "units": "round(list_avg([value]) / nullif(total, 0) * 1e10)",
    "rest": (
        "CASE WHEN value < 40000000000000000000::DECIMAL(38, 18) "
        "THEN value - units::BIGINT * 0.0000000001::DECIMAL(10, 10) * volume END"
    ),
    "near": "units / 1e10",
    "wide": "near * 134217729e0",
    "upper": "wide - (wide - near)",
    "lower": "near - upper",
    "rounding": "((units - upper * 1e10) - lower * 1e10) / 1e10",
    "vwap": "near + (rounding + coalesce(list_avg([rest]) / total, 0))",
}


def with_vwap(candles: str) -> str:
    """Return a source of candles with the column `vwap`: the double nearest to value / volume.

    Below a price of 1e-7 it may be the next double.

    Args:
        candles: a table or a subquery with the columns `value` and `volume`.
    """
    return _with_steps(candles, _VWAP_STEPS)


def _with_steps(source: str, steps: Mapping[str, str]) -> str:
    """Return a source with more columns: by their names, formulas that may use those before."""
    for name, sql in steps.items():
        source = f"(SELECT *, {sql} AS {name}\nFROM {source})"
    return source


def _output_columns(plan: Plan, price_decimals: int) -> list[str]:
    query = plan.query
    if price_decimals == PRICE_DECIMALS:
        prices = list(PRICES)
    else:
        prices = [_short_price(name, price_decimals) for name in PRICES]
    columns = [f"{plan.grid.start_sql('number')} AS time", *prices, "vwap", "volume", "count"]
    if query.all_columns:
        is_complete = f"{_is_complete_sql(plan.covered)} AS is_complete"
        columns += ["value", *EXTRA_AGGREGATES, *LAST_TIME, is_complete]
    return columns


def _short_price(name: str, decimals: int) -> str:
    """Return a price with fewer decimals. `would_lose_precision` has checked that none is lost.

    A cast alone would round without an error if trades were added since.
    """
    short = f"{name}::DECIMAL(18, {decimals})"
    error = f"error('a {name} of more than {decimals} decimals was added meanwhile: ask again')"
    return f"CASE WHEN {name} IS NULL OR {name} = {short} THEN {short} ELSE {error} END AS {name}"


def _with_truncated_vwap(candles: str, decimals: int) -> str:
    """Return a source of candles with `vwap` as Kraken prints it: truncated, 0 if empty.

    A quotient of doubles below 1e15 is wrong by less than one, so it is corrected by at most one,
    by the remainder in decimals. Larger ones are computed in integers, six times as slowly.

    Args:
        candles: a table or a subquery with the columns `value` and `volume`.
        decimals: of the vwap.
    """
    unit, kind = f"{Decimal(1).scaleb(-decimals):f}", f"DECIMAL(18, {decimals})"
    integers = f"{_integer_units('value')} // nullif({_integer_units('volume')}, 0)"
    steps = {
        "unit": f"'{unit}'::DECIMAL({decimals + 1}, {decimals})",
        "near": f"floor(list_avg([value]) / nullif(list_avg([volume]), 0) * 1e{decimals})",
        "is_small": "near < 1e15 AND value < 40000000000000000000::DECIMAL(38, 18)",
        "rest": "CASE WHEN is_small THEN value - near::BIGINT * unit * volume END",
        "step": "CASE WHEN rest < 0 THEN -1 WHEN rest >= unit * volume THEN 1 ELSE 0 END",
        "exact": (
            f"CASE WHEN is_small THEN near::BIGINT + step "
            f"ELSE ({integers}) // {10 ** (PRICE_DECIMALS - decimals)} END"
        ),
        "vwap": f"(coalesce(exact, 0)::DECIMAL(18, 0) * unit)::{kind}",
    }
    return _with_steps(candles, steps)


def _integer_units(name: str) -> str:
    """Return a decimal in units of its last digit, by its text: twice as fast as arithmetic."""
    return f"replace({name}::VARCHAR, '.', '')::HUGEINT"


def _is_complete_sql(covered: Sequence[CoveredRange]) -> str:
    """Return the condition that the coverage includes the complete interval."""
    wholes = [run.whole for run in covered if run.whole.first <= run.whole.last]
    return (
        " OR ".join(f"number BETWEEN {whole.first} AND {whole.last}" for whole in wholes) or "false"
    )
