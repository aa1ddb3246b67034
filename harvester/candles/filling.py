"""What filling must know before the query runs: where it begins, and with which price."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

import duckdb

from harvester.archive.archive import Archive
from harvester.candles.plan import Plan
from harvester.candles.question import PRICE_DECIMALS
from harvester.candles.ticks import ticks_sql

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


def seeds(archive: Archive, one: Plan, connection: duckdb.DuckDBPyConnection) -> list[Seed]:
    """Where filling begins without a candle, by the question's policy.

    Raises:
        FileNotFoundError: a file is gone; list again.
        duckdb.Error: a file can't be read, or is gone.
    """
    if one.question.fill == "none" or not one.runs:
        return []
    if one.question.fill == "null":
        return _stretches(archive, one)
    close = _carried_in(archive, one, connection)
    whole = one.runs[0].whole
    return [] if close is None else [Seed(whole.first - 1, AHEAD, close, whole.last)]


def _stretches(archive: Archive, one: Plan) -> list[Seed]:
    """Each run from its beginning, but none of it before the first trade held."""
    bounds = (archive.bounds(piece.segment) for piece in one.held)
    opening = next((one.grid.number(times[0]) for times in bounds if times), None)
    if opening is None:
        return []
    return [
        Seed(max(run.whole.first, opening) - 1, BEHIND, None, run.whole.last) for run in one.runs
    ]


def _carried_in(
    archive: Archive, one: Plan, connection: duckdb.DuckDBPyConnection
) -> Decimal | None:
    """The price of the last trade before the span, back to the last hole; None without one."""
    for piece in reversed(one.before):
        if archive.footer(piece.segment).rows == 0:
            continue
        ticks = ticks_sql(archive, [piece])
        # All of the result is fetched: DuckDB 2.0 refuses a connection that still has some.
        [(close,)] = connection.execute(f"SELECT arg_max(price, place) FROM ({ticks})").fetchall()  # noqa: S608
        if close is not None:
            return Decimal(close)
    return None


def price_decimals(
    archive: Archive, one: Plan, starts: Sequence[Seed], connection: duckdb.DuckDBPyConnection
) -> int:
    """The decimals to show prices with: the pair's in Kraken's form, unless a digit were lost.

    Old trades have more decimals than their pair has today.

    Raises:
        duckdb.Error: a file can't be read, or is gone.
    """
    decimals = one.question.pair_decimals
    if one.question.fill != "kraken" or decimals == PRICE_DECIMALS:
        return PRICE_DECIMALS
    if any(start.close != round(start.close, decimals) for start in starts if start.close):
        return PRICE_DECIMALS
    ticks = ticks_sql(archive, one.pieces)
    finer = f"SELECT 1 FROM ({ticks}) WHERE price <> price::DECIMAL(18, {decimals}) LIMIT 1"  # noqa: S608
    return PRICE_DECIMALS if connection.execute(finer).fetchall() else decimals
