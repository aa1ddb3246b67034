"""The SQL of a candle: aggregates, fill policies and output columns."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

import duckdb

from harvester.query.candle_query import PRICE_DECIMALS, CandleQuery
from harvester.query.plan import Plan, PlannedRun
from harvester.query.sources import BASE, LAST_TIME, MORE, PRICES, ZEROS, grouped_sql, ticks_sql
from harvester.storage.trade_store import Piece, TradeStore
from harvester.times import Range

# --- filling --------------------------------------------------------------------------------------

AHEAD, BEHIND = 0, 2


class Seed(NamedTuple):
    """Where filling begins without a candle: from the interval after `number` through `last`.

    `rank` orders it among candles (1) of the same number: a close carried in comes ahead of
    them, as theirs is newer; where there is no close to carry it comes behind them.
    """

    number: int
    rank: int
    close: Decimal | None
    last: int


def seeds(archive: TradeStore, plan: Plan, connection: duckdb.DuckDBPyConnection) -> list[Seed]:
    """Where filling begins without a candle, by the question's policy.

    Raises:
        FileNotFoundError: a file is gone; list again.
        duckdb.Error: a file can't be read, or is gone.
    """
    if plan.question.fill == "none" or not plan.runs:
        return []
    if plan.question.fill == "null":
        return _stretches(plan)
    close = _carried_in(archive, plan, connection)
    whole = plan.runs[0].whole
    return [] if close is None else [Seed(whole.first - 1, AHEAD, close, whole.last)]


def _stretches(plan: Plan) -> list[Seed]:
    """Each run from its beginning, but none of it before the first trade held."""
    if plan.opening is None:
        return []
    return [
        Seed(max(run.whole.first, plan.opening) - 1, BEHIND, None, run.whole.last)
        for run in plan.runs
    ]


def carried_from(archive: TradeStore, plan: Plan) -> Piece | None:
    """The last trade before the span, back to the last gap, where its price is carried in.

    Raises:
        FileNotFoundError: a file is gone; list again.
    """
    if plan.question.fill in ("none", "null") or not plan.runs:
        return None
    for piece in reversed(plan.before):
        last_ns = archive.last_time_in(piece)
        if last_ns is not None:
            # Only the last row group is read.
            return Piece(piece.segment, Range(last_ns - 1, last_ns))
    return None


def _carried_in(
    archive: TradeStore, plan: Plan, connection: duckdb.DuckDBPyConnection
) -> Decimal | None:
    """The price of that trade; None without one."""
    piece = carried_from(archive, plan)
    if piece is None:
        return None
    ticks = ticks_sql(archive, [piece])
    # All of the result is fetched: DuckDB 2.0 refuses a connection that still has some.
    [(close,)] = connection.execute(f"SELECT arg_max(price, place) FROM ({ticks})").fetchall()  # noqa: S608
    return Decimal(close)


def loses_digits(archive: TradeStore, plan: Plan, connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether a candle's price has more decimals than its pair has today, as old trades do.

    Raises:
        duckdb.Error: a file can't be read, or is gone.
    """
    decimals = plan.question.pair_decimals
    carried = [start.close for start in seeds(archive, plan, connection)]
    if any(close != round(close, decimals) for close in carried if close is not None):
        return True
    prices = {name: BASE[name] for name in PRICES}
    candles = grouped_sql(archive, plan.sources, plan.grid, prices)
    finer = " OR ".join(f"{name} <> {name}::DECIMAL(18, {decimals})" for name in PRICES)
    query = f"SELECT 1 FROM ({candles}) WHERE {finer} LIMIT 1"  # noqa: S608
    return bool(connection.execute(query).fetchall())


# --- sql ------------------------------------------------------------------------------------------


def measures_of(question: CandleQuery) -> dict[str, str]:
    """The measures that a question needs, by their formulas from ticks."""
    measures = BASE | (MORE if question.all_columns else {})
    if question.all_columns or question.fill != "none":
        measures |= LAST_TIME
    return measures


def candles_sql(plan: Plan, candles: str, seeds: Sequence[Seed], price_decimals: int) -> str:
    """The whole query: candles in order of time, filled as the question says.

    Args:
        plan: the question and the coverage.
        candles: the query for `number` and the measures.
        seeds: where filling begins without a candle.
        price_decimals: the decimals that prices are shown with; none may be lost by it.
    """
    question = plan.question
    measures = list(measures_of(question))
    filled = "" if question.fill == "none" else _filled(plan, seeds, measures)
    kind = "MATERIALIZED" if filled else "NOT MATERIALIZED"
    columns = ",\n    ".join(_columns(plan, price_decimals))
    where = f"WHERE {_is_complete(plan.runs)}\n" if question.complete_only else ""
    return (
        f"WITH candles AS {kind} (\n{candles}\n){filled}\n"
        f"SELECT\n    {columns}\nFROM {_source(question, 'shown' if filled else 'candles')}\n"
        f"{where}ORDER BY number"
    )


# --- empty intervals -----------------------------------------------------------------------------


def _filled(plan: Plan, seeds: Sequence[Seed], measures: list[str]) -> str:
    """The further steps of the query that end in `shown`: candles and empty intervals."""
    price = "NULL" if plan.question.fill == "null" else "close"
    steps = {
        "known": _known(plan.runs, seeds),
        "gaps": _GAPS,
        "fillings": _fillings(measures, price),
        "shown": _shown(measures),
    }
    # DuckDB 2.0 does not spill when it sorts a UNION straight away, but does spill a held result.
    held = {"known", "shown"}
    return "".join(
        f",\n{name} AS {'' if name in held else 'NOT '}MATERIALIZED (\n{sql}\n)"
        for name, sql in steps.items()
    )


def _shown(measures: list[str]) -> str:
    columns = ", ".join(["number", *measures])
    return f"SELECT {columns} FROM candles UNION ALL SELECT {columns} FROM fillings"  # noqa: S608


# Each row of `known` fills what follows it, up to the next row and to the end of its own run. Of
# two runs that begin in one interval the later fills: without `last` in the order, either might.
_GAPS = """SELECT close, number + 1 AS start,
    least(coalesce(lead(number) OVER (ORDER BY number, rank, last), last + 1), last + 1) AS stop
FROM known"""

# Unrolled in two steps, as a gap of years at a short interval must not become one long list.
_UNROLLED = """SELECT close, unnest(range(step, least(step + 4096, stop))) AS number FROM (
    SELECT close, stop, unnest(range(start, stop, 4096)) AS step FROM gaps WHERE start < stop
)"""


def _known(runs: Sequence[PlannedRun], seeds: Sequence[Seed]) -> str:
    """Candles and seeds: number, rank, close, and the last interval that may be filled after it.

    A candle's close is carried through the run that its last trade lies in, never across a gap.
    """
    whens = " ".join(
        f"WHEN last_time <= make_timestamp_ns({run.range.through}) THEN {run.whole.last}"
        for run in runs
    )
    last = f"CASE {whens} END::BIGINT" if runs else "NULL::BIGINT"
    rows = [f"SELECT number, 1 AS rank, close, {last} AS last FROM candles"]  # noqa: S608
    rows += [
        f"SELECT {seed.number}::BIGINT, {seed.rank}, {_price(seed.close)}, {seed.last}::BIGINT"
        for seed in seeds
    ]
    return "\nUNION ALL ".join(rows)


def _price(price: Decimal | None) -> str:
    return "NULL" if price is None else f"'{price:f}'::DECIMAL(18, {PRICE_DECIMALS})"


def _fillings(measures: list[str], price: str) -> str:
    """The empty intervals, column by column as the candles are."""
    columns = ["number"]
    for name in measures:
        if name in PRICES:
            columns.append(f"{price} AS {name}")
        elif name in ZEROS:
            columns.append(f"0::{ZEROS[name]} AS {name}")
        else:
            columns.append(f"NULL AS {name}")
    return f"SELECT {', '.join(columns)}\nFROM ({_UNROLLED})"


# --- the columns shown ---------------------------------------------------------------------------

# `list_avg([x])` is the decimal x as a double. A cast says the same, but DuckDB 2.0 divides 128
# bits bit by bit for it: 350 ns a candle where this takes 20.
#
# A quotient of two such doubles is off by some units in its last place, so one price of 59854.1
# would print as 59854.09999999999, below the candle's low. So the quotient is taken as a multiple
# of 1e-10 (`units`, a whole number), what it leaves of the value is worked out in decimals
# (`rest`), and both are added, the large part without its rounding error: `near` = `units` / 1e10
# is off by ((`units` - `upper` * 1e10) - `lower` * 1e10) / 1e10 exactly, as `upper` and `lower`
# are parts of `near` short enough for exact products (Veltkamp's splitting). 100 ns a candle.
#
# From a value of 4e19 on, `units` * volume might not fit 38 digits; `rest` is left out there.
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
    """A source of candles with the column `vwap`: the double nearest to value / volume.

    Args:
        candles: a table or a subquery with the columns `value` and `volume`.
    """
    steps = ",\n    ".join(f"{sql} AS {name}" for name, sql in _VWAP_STEPS.items())
    return f"(SELECT *, {steps}\nFROM {candles})"


def _source(question: CandleQuery, candles: str) -> str:
    return candles if question.fill == "kraken" else with_vwap(candles)


def _columns(plan: Plan, price_decimals: int) -> list[str]:
    question = plan.question
    if price_decimals == PRICE_DECIMALS:
        prices = list(PRICES)
    else:
        prices = [_shortened(name, price_decimals) for name in PRICES]
    vwap = _truncated_vwap(question.pair_decimals) if question.fill == "kraken" else "vwap"
    columns = [f"{plan.grid.opens_sql('number')} AS time", *prices, vwap, "volume", "count"]
    if question.all_columns:
        columns += ["value", *MORE, *LAST_TIME, f"{_is_complete(plan.runs)} AS is_complete"]
    return columns


def _shortened(name: str, decimals: int) -> str:
    """A price with fewer decimals, which was looked into; a cast alone would round in silence."""
    short = f"{name}::DECIMAL(18, {decimals})"
    error = f"error('a {name} of more than {decimals} decimals was added meanwhile: ask again')"
    return f"CASE WHEN {name} IS NULL OR {name} = {short} THEN {short} ELSE {error} END AS {name}"


def _truncated_vwap(decimals: int) -> str:
    """The vwap as Kraken prints it: cut off, never rounded, after some decimals; 0 of nothing.

    Integers all the way, value in units of 1e-18 over volume in units of 1e-8: a double is now
    and then on the wrong side of the cut.
    """
    units = f"{_units('value')} // nullif({_units('volume')}, 0)"
    cut = f"coalesce(({units}) // {10 ** (PRICE_DECIMALS - decimals)}, 0)"
    unit, kind = f"{Decimal(1).scaleb(-decimals):f}", f"DECIMAL(18, {decimals})"
    return f"({cut}::DECIMAL(18, 0) * '{unit}'::{kind})::{kind} AS vwap"


def _units(name: str) -> str:
    """A decimal as an integer of its last digit, by its text: twice as fast as by arithmetic."""
    return f"replace({name}::VARCHAR, '.', '')::HUGEINT"


def _is_complete(runs: Sequence[PlannedRun]) -> str:
    """Whether coverage holds the interval whole."""
    wholes = [run.whole for run in runs if run.whole.first <= run.whole.last]
    return (
        " OR ".join(f"number BETWEEN {whole.first} AND {whole.last}" for whole in wholes) or "false"
    )
