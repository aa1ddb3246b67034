"""Asking an archive that somebody may be writing: plans, the queries they come to, new listings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import duckdb

from harvester.errors import ArchiveDamaged
from harvester.query.chunks import chunks
from harvester.query.engine import MEMORY_LIMIT, asking, session
from harvester.query.filling import loses_digits, seeds
from harvester.query.plan import Plan, plan
from harvester.query.question import PRICE_DECIMALS, Question
from harvester.query.sources import grouped_sql
from harvester.query.spool import Spool
from harvester.query.sql import candles_sql, measures_of
from harvester.storage.trade_store import LISTINGS, Archive

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Session:
    """An archive, and how it is asked.

    Attributes:
        archive: where the tape is.
        memory_limit: what DuckDB may use, such as 2GB; beyond it, it spills to disk.
        threads: how many DuckDB may use; None for all cores.
        spool: what has been read already, if its partial candles add up to those asked for.
    """

    archive: Archive
    memory_limit: str = MEMORY_LIMIT
    threads: int | None = None
    spool: Spool | None = None

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own.

        Raises:
            BadSetting: DuckDB does not take the memory limit or the number of threads.
        """
        return session(self.memory_limit, self.threads)

    def prepared(self, question: Question) -> tuple[list[Question], int]:
        """The short questions that a question comes to, and the decimals to show prices with.

        In Kraken's form these are the pair's, unless a digit were lost: to know it, all candles
        are made once.
        """

        def losing(one: Plan) -> bool:
            return loses_digits(self.archive, one, self.connect())

        def shortened(one: Plan) -> list[Question]:
            return chunks(self.archive, one)

        # Cut by what stands in the archive, whose footers tell how many rows there are.
        questions = Session(self.archive, self.memory_limit).whoever_writes(question, shortened)
        if not looks_at_digits(question):
            return questions, PRICE_DECIMALS
        if any(self.whoever_writes(part, losing) for part in questions):
            return questions, PRICE_DECIMALS
        return questions, question.pair_decimals

    def sql(self, one: Plan, price_decimals: int, connection: duckdb.DuckDBPyConnection) -> str:
        """The whole query of a plan."""
        starts = seeds(self.archive, one, connection)
        candles = grouped_sql(self.archive, one.sources, one.grid, measures_of(one.question))
        return candles_sql(one, candles, starts, price_decimals)

    def relation(self, one: Plan, price_decimals: int) -> duckdb.DuckDBPyRelation:
        """The candles of a plan, on a connection of their own."""
        connection = self.connect()
        return connection.sql(self.sql(one, price_decimals, connection))

    def whoever_writes(self, question: Question, ask: Callable[[Plan], T]) -> T:
        """Ask, and when a file is gone by then, compacted, list again and ask again.

        Raises:
            NothingHeld: the archive holds nothing of the pair.
            ArchiveDamaged: a file can't be read, or files keep vanishing.
            ValueDoesNotFit: a sum has more than 38 digits.
            HarvesterError: the memory allowed does not suffice.
        """
        for _ in range(LISTINGS):
            try:
                one = plan(self.archive, question, self.spool)
            except FileNotFoundError:
                continue
            try:
                with asking(question.title, self.memory_limit):
                    return ask(one)
            except FileNotFoundError:
                continue
            except ArchiveDamaged:
                if not self.vanished(one):
                    raise
        raise ArchiveDamaged(
            f"files of {question.pair} keep vanishing while they are read: try again"
        )

    def vanished(self, one: Plan) -> bool:
        """Whether a file that a plan reads stands no more."""
        pair = one.question.pair
        standing = {*self.archive.segments(pair), *self.archive.rollups(pair)}
        used = [piece.segment for piece in one.held]
        rollups = [source.rollup for source in one.sources if source.rollup is not None]
        return any(file not in standing for file in (*used, *rollups))


def looks_at_digits(question: Question) -> bool:
    """Whether all candles are made once to see that Kraken's form loses no digit of a price."""
    return question.fill == "kraken" and question.pair_decimals < PRICE_DECIMALS
