"""Trades and candles as DuckDB relations that leave files of other years unopened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise

import duckdb
import pyarrow as pa

from harvester.query.candles import QuerySession, needs_precision_check
from harvester.query.connection import MEMORY_LIMIT, path_literal, shared_connection
from harvester.query.plan import PRICE_DECIMALS, CandleQuery, Plan, plan_from_pieces
from harvester.query.sources import range_conditions
from harvester.query.views import COLUMNS
from harvester.schema import TRADES, WORD
from harvester.storage.trade_store import EVERYTHING, Piece, TradeStore
from harvester.times import Range, year_end

# --- trades ---------------------------------------------------------------------------------------

PLAIN_TRADES = pa.schema(
    [field.with_type(pa.string()) if field.type == WORD else field for field in TRADES]
)
"""The columns of trades with plain strings instead of dictionaries, as DuckDB returns them."""


def trades_relation(
    archive: TradeStore,
    pair: str,
    time_range: Range = EVERYTHING,
    *,
    memory_limit: str = MEMORY_LIMIT,
) -> duckdb.DuckDBPyRelation:
    """Return the trades of a range in the exchange's order, with the columns of docs/format.md.

    It reads the files of this moment. With a condition on `time`, DuckDB does not open the files
    of other years, and skips row groups by their statistics.

    Args:
        archive: where the trades are.
        pair: the altname.
        time_range: the range of published time.
        memory_limit: what DuckDB may use, such as 2GB; beyond it, DuckDB spills to disk.

    Raises:
        BadSetting: DuckDB rejects the memory limit.
        duckdb.Error: the first file of a year can't be read; when read: any file.
    """
    pieces = archive.pieces(pair, time_range)
    years = groupby(pieces, key=lambda piece: piece.segment.year)
    parts = [_year_sql(archive, year, list(year_pieces)) for year, year_pieces in years]
    return shared_connection(memory_limit).sql("\nUNION ALL ".join(parts) or _no_trades_sql())


def trade_batches(archive: TradeStore, pair: str, time_range: Range) -> Iterator[pa.RecordBatch]:
    """Yield the same trades as batches, at least one, even while the archive is being written.

    Words are plain strings, as DuckDB returns them.

    Args:
        archive: where the trades are.
        pair: the altname.
        time_range: the range of published time.

    Raises:
        ArchiveDamaged: a file can't be read, or compaction removes files again and again.
    """
    yield pa.RecordBatch.from_pylist([], schema=PLAIN_TRADES)
    for batch in archive.scan(pair, time_range):
        yield batch.cast(PLAIN_TRADES)


def _year_sql(archive: TradeStore, year: int, pieces: Sequence[Piece]) -> str:
    files = ", ".join(path_literal(archive.location(piece.segment)) for piece in pieces)
    # A segment has rows of its year only. These conditions let DuckDB know it, too.
    bounds = (
        f"time > make_timestamp_ns({year_end(year - 1)})",
        f"time <= make_timestamp_ns({year_end(year)})",
    )
    return (
        f"SELECT {', '.join(COLUMNS)}\n"
        f"FROM read_parquet([{files}], hive_partitioning = false)\n"
        f"WHERE {' AND '.join([*bounds, *range_conditions(pieces)])}"
    )


def _no_trades_sql() -> str:
    columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in COLUMNS.items())
    return f"SELECT {columns} WHERE false"


# --- candles --------------------------------------------------------------------------------------

# A candle relation is a union of years. DuckDB does not open the files of a year whose bounds of
# `time` contradict a caller's condition. Grouped in one query, all trades would be read before
# the first candle could be left out.


def candles_relation(session: QuerySession, query: CandleQuery) -> duckdb.DuckDBPyRelation:
    """Return the same rows as `candles.ohlc`, as a union of one query per year.

    Args:
        session: the archive and the settings of DuckDB.
        query: the query.

    Raises:
        NothingHeld: the archive has no trades of the pair.
        BadSetting: DuckDB rejects the memory limit or the number of threads.
        ArchiveDamaged: a file can't be read.
        duckdb.Error: when read: a sum has too many digits, memory ran out, a file was removed.
    """
    decimals, plan = PRICE_DECIMALS, None
    if needs_precision_check(query):
        plan, _, decimals = session.prepare(query)

    def relation(plan: Plan) -> duckdb.DuckDBPyRelation:
        connection = session.connect()
        parts = [
            _part_sql(session, plan, time_range, decimals, connection)
            for time_range in _year_ranges(plan)
        ]
        return connection.sql("\nUNION ALL ".join(parts))

    return session.with_snapshot_retry(query, relation, plan)


def _year_ranges(plan: Plan) -> list[Range]:
    """Cut the query's range where the interval with the first moment of a year starts."""
    after, through = plan.query.range
    years = sorted({source.piece.segment.year for source in plan.sources})
    grid = plan.grid
    starts_ns = (grid.start_ns(grid.number(year_end(year - 1) + 1)) for year in years[1:])
    cuts = sorted({start_ns - 1 for start_ns in starts_ns if after < start_ns - 1 < through})
    return [Range(*bounds) for bounds in pairwise([after, *cuts, through])]


def _part_sql(
    session: QuerySession,
    plan: Plan,
    time_range: Range,
    decimals: int,
    connection: duckdb.DuckDBPyConnection,
) -> str:
    if time_range == plan.query.range:
        return f"({session.sql(plan, decimals, connection)})"
    part = plan_from_pieces(session.archive, replace(plan.query, range=time_range), plan.pieces)
    first, last = part.grid.number(time_range.after + 1), part.grid.number(time_range.through)
    return (
        f"SELECT * FROM (\n{session.sql(part, decimals, connection)}\n)\n"  # noqa: S608
        f"WHERE time >= make_timestamp_ns({part.grid.start_ns(first)}) "
        f"AND time <= make_timestamp_ns({part.grid.start_ns(last)})"
    )
