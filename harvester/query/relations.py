"""Trades and candles as DuckDB relations that are pruned by year."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise

import duckdb
import pyarrow as pa

from harvester.query.candle_query import PRICE_DECIMALS, CandleQuery
from harvester.query.candles import QuerySession, looks_at_digits
from harvester.query.connection import MEMORY_LIMIT, quoted_path, session
from harvester.query.plan import Plan, of_listing
from harvester.query.sources import conditions
from harvester.query.views import COLUMNS
from harvester.schema import TRADES, WORD
from harvester.storage.trade_store import EVERYTHING, Piece, TradeStore
from harvester.times import Range, year_end

# --- tape -----------------------------------------------------------------------------------------

PLAIN = pa.schema([one.with_type(pa.string()) if one.type == WORD else one for one in TRADES])


def tape(
    archive: TradeStore, pair: str, span: Range = EVERYTHING, *, memory_limit: str = MEMORY_LIMIT
) -> duckdb.DuckDBPyRelation:
    """The trades of a span, in the tape's order, with the columns of docs/format.md.

    It reads the files that stand now. A condition on `time` upon it leaves the files of other
    years unopened, and row groups by their statistics.

    Raises:
        BadSetting: DuckDB does not take the memory limit.
        duckdb.Error: the first file of a year can't be read; when read: any file.
    """
    pieces = archive.pieces(pair, span)
    years = groupby(pieces, key=lambda piece: piece.segment.year)
    parts = [_year(archive, year, list(some)) for year, some in years]
    return session(memory_limit).sql("\nUNION ALL ".join(parts) or _no_trades())


def plain_batches(archive: TradeStore, pair: str, span: Range) -> Iterator[pa.RecordBatch]:
    """The same trades as a stream, at least one batch, whoever writes the archive meanwhile.

    Words are plain strings, as DuckDB gives them.

    Raises:
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """
    yield pa.RecordBatch.from_pylist([], schema=PLAIN)
    for batch in archive.scan(pair, span):
        yield batch.cast(PLAIN)


def _year(archive: TradeStore, year: int, pieces: Sequence[Piece]) -> str:
    files = ", ".join(quoted_path(archive.location(piece.segment)) for piece in pieces)
    # A segment lies in the year of its rows. So that DuckDB knows it too:
    bounds = (
        f"time > make_timestamp_ns({year_end(year - 1)})",
        f"time <= make_timestamp_ns({year_end(year)})",
    )
    return (
        f"SELECT {', '.join(COLUMNS)}\n"
        f"FROM read_parquet([{files}], hive_partitioning = false)\n"
        f"WHERE {' AND '.join([*bounds, *conditions(pieces)])}"
    )


def _no_trades() -> str:
    columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in COLUMNS.items())
    return f"SELECT {columns} WHERE false"


# --- parts ----------------------------------------------------------------------------------------

# DuckDB opens no file of a part whose bounds of `time` contradict what is asked of the whole.
# Grouped in one, all trades would be read before the first candle could be left out.


def candles(session: QuerySession, question: CandleQuery) -> duckdb.DuckDBPyRelation:
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

    def asked(plan: Plan) -> duckdb.DuckDBPyRelation:
        connection = session.connect()
        parts = [_part(session, plan, span, decimals, connection) for span in _spans(plan)]
        return connection.sql("\nUNION ALL ".join(parts))

    return session.with_retry(question, asked)


def _spans(plan: Plan) -> list[Range]:
    """The span, cut where the interval opens that holds the first moment of a year."""
    after, through = plan.question.span
    years = sorted({source.piece.segment.year for source in plan.sources})
    opens = (plan.grid.opens(plan.grid.number(year_end(year - 1) + 1)) for year in years[1:])
    inside = sorted({at - 1 for at in opens if after < at - 1 < through})
    return [Range(*ends) for ends in pairwise([after, *inside, through])]


def _part(
    session: QuerySession,
    plan: Plan,
    span: Range,
    decimals: int,
    connection: duckdb.DuckDBPyConnection,
) -> str:
    if span == plan.question.span:
        return f"({session.sql(plan, decimals, connection)})"
    part = of_listing(session.archive, replace(plan.question, span=span), plan.held)
    first, last = part.grid.number(span.after + 1), part.grid.number(span.through)
    return (
        f"SELECT * FROM (\n{session.sql(part, decimals, connection)}\n)\n"  # noqa: S608
        f"WHERE time >= make_timestamp_ns({part.grid.opens(first)}) "
        f"AND time <= make_timestamp_ns({part.grid.opens(last)})"
    )
