"""What filling must know before the query runs: where it begins, and with which price."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

import duckdb

from harvester.query.measures import BASE, PRICES
from harvester.query.plan import Plan
from harvester.query.sources import grouped_sql
from harvester.query.ticks import ticks_sql
from harvester.storage.trade_store import Archive, Piece
from harvester.times import Range

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
        return _stretches(one)
    close = _carried_in(archive, one, connection)
    whole = one.runs[0].whole
    return [] if close is None else [Seed(whole.first - 1, AHEAD, close, whole.last)]


def _stretches(one: Plan) -> list[Seed]:
    """Each run from its beginning, but none of it before the first trade held."""
    if one.opening is None:
        return []
    return [
        Seed(max(run.whole.first, one.opening) - 1, BEHIND, None, run.whole.last)
        for run in one.runs
    ]


def carried_from(archive: Archive, one: Plan) -> Piece | None:
    """The last trade before the span, back to the last hole, where its price is carried in.

    Raises:
        FileNotFoundError: a file is gone; list again.
    """
    if one.question.fill in ("none", "null") or not one.runs:
        return None
    for piece in reversed(one.before):
        last_ns = archive.last_time_in(piece)
        if last_ns is not None:
            # Only the last row group is read.
            return Piece(piece.segment, Range(last_ns - 1, last_ns))
    return None


def _carried_in(
    archive: Archive, one: Plan, connection: duckdb.DuckDBPyConnection
) -> Decimal | None:
    """The price of that trade; None without one."""
    piece = carried_from(archive, one)
    if piece is None:
        return None
    ticks = ticks_sql(archive, [piece])
    # All of the result is fetched: DuckDB 2.0 refuses a connection that still has some.
    [(close,)] = connection.execute(f"SELECT arg_max(price, place) FROM ({ticks})").fetchall()  # noqa: S608
    return Decimal(close)


def loses_digits(archive: Archive, one: Plan, connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether a candle's price has more decimals than its pair has today, as old trades do.

    Raises:
        duckdb.Error: a file can't be read, or is gone.
    """
    decimals = one.question.pair_decimals
    carried = [start.close for start in seeds(archive, one, connection)]
    if any(close != round(close, decimals) for close in carried if close is not None):
        return True
    prices = {name: BASE[name] for name in PRICES}
    candles = grouped_sql(archive, one.sources, one.grid, prices)
    finer = " OR ".join(f"{name} <> {name}::DECIMAL(18, {decimals})" for name in PRICES)
    query = f"SELECT 1 FROM ({candles}) WHERE {finer} LIMIT 1"  # noqa: S608
    return bool(connection.execute(query).fetchall())
