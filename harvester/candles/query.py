"""Candles of a pair: as a DuckDB relation, or as a stream of Arrow batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import duckdb
import pyarrow as pa

from harvester.archive.archive import LISTINGS, Archive
from harvester.candles.engine import MEMORY_LIMIT, asking, connect
from harvester.candles.filling import price_decimals, seeds
from harvester.candles.plan import Plan, plan
from harvester.candles.question import Question
from harvester.candles.sql import candles_sql
from harvester.candles.ticks import ticks_sql
from harvester.errors import ArchiveDamaged

BATCH_ROWS = 100_000

T = TypeVar("T")


def ohlc(
    archive: Archive,
    question: Question,
    *,
    memory_limit: str = MEMORY_LIMIT,
    threads: int | None = None,
) -> duckdb.DuckDBPyRelation:
    """Candles as a relation that runs when it is read: `.df()`, `.pl()`, `.to_arrow_table()`.

    One row a candle, in order of time; docs/candles.md tells the columns. It reads the files
    that stand now: after a compaction ask again, or use `candle_batches`, which does.

    Raises:
        NothingHeld: the archive holds nothing of the pair.
        BadSetting: DuckDB does not take the memory limit or the number of threads.
        ArchiveDamaged: a file can't be read.
        duckdb.Error: when read: a sum has too many digits, memory ran out, a file is gone.
    """
    return _whoever_writes(
        archive,
        question,
        lambda one: _relation(archive, one, connect(memory_limit, threads)),
        memory_limit,
    )


def candle_batches(
    archive: Archive,
    question: Question,
    *,
    batch_rows: int = BATCH_ROWS,
    memory_limit: str = MEMORY_LIMIT,
    threads: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """The same candles as Arrow batches, at least one, whoever writes the archive meanwhile.

    Args:
        archive: where the tape is.
        question: what is asked.
        batch_rows: about how many candles a batch holds.
        memory_limit: what DuckDB may use, such as 2GB; beyond it, it spills to disk.
        threads: how many DuckDB may use; None for all cores.

    Raises:
        NothingHeld: the archive holds nothing of the pair.
        BadSetting: DuckDB does not take the memory limit or the number of threads.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
        ValueDoesNotFit: a sum has more than 38 digits.
        HarvesterError: the memory allowed does not suffice.
    """

    def begin(one: Plan) -> tuple[pa.RecordBatch, pa.RecordBatchReader]:
        relation = _relation(archive, one, connect(memory_limit, threads))
        reader = relation.to_arrow_reader(batch_rows)
        # The sort yields nothing before all files have been read: with the first batch here,
        # none can vanish any more.
        return next(reader, _no_candles(reader.schema)), reader

    first, reader = _whoever_writes(archive, question, begin, memory_limit)
    yield first
    with asking(question.title, memory_limit):
        yield from reader


def _relation(
    archive: Archive, one: Plan, connection: duckdb.DuckDBPyConnection
) -> duckdb.DuckDBPyRelation:
    starts = seeds(archive, one, connection)
    decimals = price_decimals(archive, one, starts, connection)
    return connection.sql(candles_sql(one, ticks_sql(archive, one.pieces), starts, decimals))


def _no_candles(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


def _whoever_writes(
    archive: Archive, question: Question, ask: Callable[[Plan], T], memory_limit: str
) -> T:
    """Ask, and when a file of the plan is gone by then, compacted, list again and ask again."""
    for _ in range(LISTINGS):
        one = plan(archive, question)
        try:
            with asking(question.title, memory_limit):
                return ask(one)
        except (ArchiveDamaged, FileNotFoundError):
            if not _vanished(archive, one):
                raise
    raise ArchiveDamaged(f"files of {question.pair} keep vanishing while they are read: try again")


def _vanished(archive: Archive, one: Plan) -> bool:
    standing = set(archive.segments(one.question.pair))
    return any(piece.segment not in standing for piece in one.held)
