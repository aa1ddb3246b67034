"""How a query is answered: files, levels, row counts and SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from harvester.query.candle_query import CandleQuery
from harvester.query.candle_sql import carried_from
from harvester.query.candles import QuerySession, looks_at_digits
from harvester.query.connection import MEMORY_LIMIT
from harvester.query.plan import Plan
from harvester.query.sources import Source
from harvester.storage.segment import rows_touched
from harvester.storage.trade_store import TradeStore
from harvester.times import Range

# --- explain --------------------------------------------------------------------------------------


class Read(NamedTuple):
    """A file that is read.

    Attributes:
        level: `ticks`, or the interval of a roll-up.
        file: its path in the archive.
        span: what of it counts.
        rows: those of the row groups that are read for it.
    """

    level: str
    file: str
    span: Range
    rows: int


class ExplainTotals(NamedTuple):
    """What is read of one level."""

    level: str
    files: int
    rows: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a question is answered.

    Attributes:
        question: what was asked.
        reads: the files that the candles are made of, in the tape's order.
        carried: the file that tells the close before the span, where one is filled in.
        totals: of `reads`, by level.
        passes: how often they are read: twice where Kraken's form has fewer decimals than prices
            may have, once to look whether a digit were lost.
        parts: how many shorter questions, one after the other, a stream of candles comes to.
        sql: the whole answer in one query; any DuckDB runs it while the files stand.
    """

    question: CandleQuery
    reads: tuple[Read, ...]
    carried: Read | None
    totals: tuple[ExplainTotals, ...]
    passes: int
    parts: int
    sql: str


def explain(
    archive: TradeStore,
    question: CandleQuery,
    *,
    memory_limit: str = MEMORY_LIMIT,
    threads: int | None = None,
) -> Explanation:
    """Work out how a question is answered now. The candles are not made.

    Raises:
        NothingHeld: the archive holds nothing of the pair.
        BadSetting: DuckDB does not take the memory limit or the number of threads.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """
    session = QuerySession(archive, memory_limit, threads)
    parts, decimals = session.prepared(question)

    def told(plan: Plan) -> Explanation:
        reads = tuple(_reads(archive, plan.sources))
        carried = carried_from(archive, plan)
        return Explanation(
            question,
            reads,
            carried and _read(archive, Source(carried, None), carried.within),
            tuple(_totals(reads)),
            2 if looks_at_digits(question) else 1,
            len(parts),
            session.sql(plan, decimals, session.connect()),
        )

    return session.with_retry(question, told)


def _reads(archive: TradeStore, sources: Sequence[Source]) -> Iterator[Read]:
    for _, group in groupby(sources, key=lambda one: one.level):
        some = list(group)
        # One query reads them, and cuts at its two ends only before it reads.
        asked = Range(some[0].piece.within.after, some[-1].piece.within.through)
        for one in some:
            yield _read(archive, one, asked)


def _read(archive: TradeStore, source: Source, asked: Range) -> Read:
    path = source.rollup.path if source.rollup is not None else source.piece.segment.path
    return Read(source.level, path, source.piece.within, rows_touched(archive.store, path, asked))


def _totals(reads: Sequence[Read]) -> Iterator[ExplainTotals]:
    for level in dict.fromkeys(read.level for read in reads):
        some = [read for read in reads if read.level == level]
        yield ExplainTotals(level, len({one.file for one in some}), sum(one.rows for one in some))
