"""Candles of a pair: as a DuckDB relation, or as a stream of Arrow batches."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pyarrow as pa

from harvester.query.engine import MEMORY_LIMIT, asking
from harvester.query.plan import Plan
from harvester.query.question import Question
from harvester.query.session import Session
from harvester.storage.trade_store import Archive

BATCH_ROWS = 100_000


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
    session = Session(archive, memory_limit, threads)
    _, decimals = session.prepared(question)
    return session.whoever_writes(question, lambda one: session.relation(one, decimals))


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
    yield from batches(Session(archive, memory_limit, threads), question, batch_rows)


def batches(
    session: Session, question: Question, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """The candles of `candle_batches`, in a session."""
    questions, decimals = session.prepared(question)

    def begin(one: Plan) -> tuple[pa.RecordBatch, pa.RecordBatchReader]:
        reader = session.relation(one, decimals).to_arrow_reader(batch_rows)
        # The sort yields nothing before all files have been read: with the first batch here,
        # none can vanish any more.
        return next(reader, _no_candles(reader.schema)), reader

    for place, part in enumerate(questions):
        first, reader = session.whoever_writes(part, begin)
        if first.num_rows or place == 0:
            yield first
        with asking(question.title, session.memory_limit):
            yield from reader


def _no_candles(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)
