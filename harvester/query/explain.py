"""Explain a candle query: the files that it reads, and its SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from harvester.query.candle_sql import last_trade_before
from harvester.query.candles import QuerySession, needs_precision_check
from harvester.query.plan import CandleQuery, Plan
from harvester.query.source_choice import Source
from harvester.storage.parquet_files import rows_to_read
from harvester.storage.trade_store import TradeStore
from harvester.times import Range


class FileRead(NamedTuple):
    """A file that a query reads.

    Attributes:
        level: `trades`, or the interval of a roll-up.
        file: its path in the archive.
        range: the part of its trades that counts.
        rows: the rows of the row groups that are read.
    """

    level: str
    file: str
    range: Range
    rows: int


class ExplainTotals(NamedTuple):
    """The number of files and rows that a query reads of one level."""

    level: str
    files: int
    rows: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a candle query is answered.

    Attributes:
        query: the query.
        reads: the files that the candles are computed from, in order.
        close_read: the file with the trade whose price is carried into the range, if any.
        totals: of `reads`, by level.
        passes: how often they are read: twice where Kraken's form has fewer decimals than prices
            may have, once to check whether a digit would be lost.
        parts: into how many shorter queries, one after the other, a stream of candles is cut.
        sql: the whole query; any DuckDB runs it while the files exist.
    """

    query: CandleQuery
    reads: tuple[FileRead, ...]
    close_read: FileRead | None
    totals: tuple[ExplainTotals, ...]
    passes: int
    parts: int
    sql: str

    def to_dict(self) -> dict[str, object]:
        """The explanation for JSON."""
        return {
            "pair": self.query.pair,
            "interval": self.query.interval.text,
            "range": self.query.range,
            "reads": [read._asdict() for read in self.reads],
            "close_read": self.close_read and self.close_read._asdict(),
            "totals": [total._asdict() for total in self.totals],
            "passes": self.passes,
            "parts": self.parts,
            "sql": self.sql,
        }


def explain(session: QuerySession, query: CandleQuery) -> Explanation:
    """Return how a query would be answered now, without computing the candles.

    Args:
        session: the archive and the settings of DuckDB.
        query: the query.

    Raises:
        NothingStored: the archive has no trades of the pair.
        BadSetting: DuckDB rejects the memory limit or the number of threads.
        ArchiveDamaged: a file can't be read, or compaction removes files again and again.
    """
    archive, prepared = session.archive, session.prepare(query)

    def describe(plan: Plan) -> Explanation:
        reads = tuple(_file_reads(archive, plan.sources))
        levels = dict.fromkeys(read.level for read in reads)
        before = last_trade_before(archive, plan)
        return Explanation(
            query,
            reads,
            None if before is None else _file_read(archive, Source(before, None), before.within),
            tuple(_total(level, reads) for level in levels),
            2 if needs_precision_check(query) else 1,
            len(prepared.parts),
            session.sql(plan, prepared.price_decimals, session.connect()),
        )

    return session.with_snapshot_retry(query, describe, prepared.plan)


def _file_reads(archive: TradeStore, sources: Sequence[Source]) -> Iterator[FileRead]:
    for _, group in groupby(sources, key=lambda source: source.level):
        run = list(group)
        # One query reads them all, and its conditions on `time` cut at its two ends only.
        read_range = Range(run[0].piece.within.after, run[-1].piece.within.through)
        for source in run:
            yield _file_read(archive, source, read_range)


def _file_read(archive: TradeStore, source: Source, read_range: Range) -> FileRead:
    path = source.rollup.path if source.rollup is not None else source.piece.segment.path
    rows = rows_to_read(archive.store, path, read_range)
    return FileRead(source.level, path, source.piece.within, rows)


def _total(level: str, reads: Sequence[FileRead]) -> ExplainTotals:
    of_level = [read for read in reads if read.level == level]
    files = {read.file for read in of_level}
    return ExplainTotals(level, len(files), sum(read.rows for read in of_level))
