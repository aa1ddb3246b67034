"""Candles as one relation in parts, a year each, so that a condition upon it can leave years out.

DuckDB opens no file of a part whose bounds of `time` contradict what is asked of the whole. Grouped
in one, all trades would be read before the first candle could be left out.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import duckdb

from harvester.query.plan import Plan, of_listing
from harvester.query.question import PRICE_DECIMALS, Question
from harvester.query.session import Session, looks_at_digits
from harvester.times import Range, year_end


def candles(session: Session, question: Question) -> duckdb.DuckDBPyRelation:
    """The candles of `query.ohlc`, row by row the same, in parts of a year.

    Raises:
        NothingHeld: the archive holds nothing of the pair.
        BadSetting: DuckDB does not take the memory limit or the number of threads.
        ArchiveDamaged: a file can't be read.
        duckdb.Error: when read: a sum has too many digits, memory ran out, a file is gone.
    """
    decimals = PRICE_DECIMALS
    if looks_at_digits(question):
        _, decimals = session.prepared(question)

    def asked(one: Plan) -> duckdb.DuckDBPyRelation:
        connection = session.connect()
        parts = [_part(session, one, span, decimals, connection) for span in _spans(one)]
        return connection.sql("\nUNION ALL ".join(parts))

    return session.whoever_writes(question, asked)


def _spans(one: Plan) -> list[Range]:
    """The span, cut where the interval opens that holds the first moment of a year."""
    after, through = one.question.span
    years = sorted({source.piece.segment.year for source in one.sources})
    opens = (one.grid.opens(one.grid.number(year_end(year - 1) + 1)) for year in years[1:])
    inside = sorted({at - 1 for at in opens if after < at - 1 < through})
    return [Range(*ends) for ends in pairwise([after, *inside, through])]


def _part(
    session: Session,
    one: Plan,
    span: Range,
    decimals: int,
    connection: duckdb.DuckDBPyConnection,
) -> str:
    if span == one.question.span:
        return f"({session.sql(one, decimals, connection)})"
    part = of_listing(session.archive, replace(one.question, span=span), one.held)
    first, last = part.grid.number(span.after + 1), part.grid.number(span.through)
    return (
        f"SELECT * FROM (\n{session.sql(part, decimals, connection)}\n)\n"  # noqa: S608
        f"WHERE time >= make_timestamp_ns({part.grid.opens(first)}) "
        f"AND time <= make_timestamp_ns({part.grid.opens(last)})"
    )
