"""Candles of a pair: as a DuckDB relation, or as a stream of Arrow batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import duckdb
import pyarrow as pa

from harvester.archive.archive import LISTINGS, Archive
from harvester.candles.chunks import chunks
from harvester.candles.engine import MEMORY_LIMIT, asking, session
from harvester.candles.filling import loses_digits, seeds
from harvester.candles.plan import Plan, plan
from harvester.candles.question import PRICE_DECIMALS, Question
from harvester.candles.sources import grouped_sql
from harvester.candles.sql import candles_sql, measures_of
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
    limits = (memory_limit, threads)
    _, decimals = _prepared(archive, question, limits)
    return _whoever_writes(
        archive, question, lambda one: _relation(archive, one, decimals, limits), memory_limit
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
    limits = (memory_limit, threads)
    questions, decimals = _prepared(archive, question, limits)

    def begin(one: Plan) -> tuple[pa.RecordBatch, pa.RecordBatchReader]:
        reader = _relation(archive, one, decimals, limits).to_arrow_reader(batch_rows)
        # The sort yields nothing before all files have been read: with the first batch here,
        # none can vanish any more.
        return next(reader, _no_candles(reader.schema)), reader

    for place, part in enumerate(questions):
        first, reader = _whoever_writes(archive, part, begin, memory_limit)
        if first.num_rows or place == 0:
            yield first
        with asking(question.title, memory_limit):
            yield from reader


def _prepared(
    archive: Archive, question: Question, limits: tuple[str, int | None]
) -> tuple[list[Question], int]:
    """The short questions that a question comes to, and the decimals to show prices with.

    In Kraken's form these are the pair's, unless a digit were lost: to know it, all candles are
    made once.
    """

    def losing(one: Plan) -> bool:
        return loses_digits(archive, one, session(*limits))

    def shortened(one: Plan) -> list[Question]:
        return chunks(archive, one)

    questions = _whoever_writes(archive, question, shortened, limits[0])
    if question.fill != "kraken" or question.pair_decimals == PRICE_DECIMALS:
        return questions, PRICE_DECIMALS
    if any(_whoever_writes(archive, part, losing, limits[0]) for part in questions):
        return questions, PRICE_DECIMALS
    return questions, question.pair_decimals


def _relation(
    archive: Archive, one: Plan, price_decimals: int, limits: tuple[str, int | None]
) -> duckdb.DuckDBPyRelation:
    connection = session(*limits)
    starts = seeds(archive, one, connection)
    candles = grouped_sql(archive, one.sources, one.grid, measures_of(one.question))
    return connection.sql(candles_sql(one, candles, starts, price_decimals))


def _no_candles(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


def _whoever_writes(
    archive: Archive, question: Question, ask: Callable[[Plan], T], memory_limit: str
) -> T:
    """Ask, and when a file of the plan is gone by then, compacted, list again and ask again."""
    for _ in range(LISTINGS):
        try:
            one = plan(archive, question)
        except FileNotFoundError:
            continue
        try:
            with asking(question.title, memory_limit):
                return ask(one)
        except (ArchiveDamaged, FileNotFoundError):
            if not _vanished(archive, one):
                raise
    raise ArchiveDamaged(f"files of {question.pair} keep vanishing while they are read: try again")


def _vanished(archive: Archive, one: Plan) -> bool:
    pair = one.question.pair
    standing = {*archive.segments(pair), *archive.rollups(pair)}
    used = [piece.segment for piece in one.held]
    rollups = [source.rollup for source in one.sources if source.rollup is not None]
    return any(file not in standing for file in (*used, *rollups))
