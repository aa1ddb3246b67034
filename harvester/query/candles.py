"""Candles of a pair: `CandleQuery` to a DuckDB relation or a stream of Arrow batches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa

from harvester.errors import UsageError
from harvester.query.calendar import FixedGrid, Grid
from harvester.query.candle_query import PRICE_DECIMALS, CandleQuery
from harvester.query.candle_sql import candles_sql, loses_digits, measures_of, seeds
from harvester.query.connection import MEMORY_LIMIT, asking, quoted, session
from harvester.query.plan import Plan, chunks, clipped, plan
from harvester.query.sources import TICKS, Source, Spool, Spooled, grouped_sql
from harvester.storage.trade_store import TradeStore, with_snapshot_retry
from harvester.times import END_OF_TIME, Interval, Range, overlap, parse_interval, union

# --- session --------------------------------------------------------------------------------------

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QuerySession:
    """An archive, and how it is asked.

    Attributes:
        archive: where the tape is.
        memory_limit: what DuckDB may use, such as 2GB; beyond it, it spills to disk.
        threads: how many DuckDB may use; None for all cores.
        spool: what has been read already, if its partial candles add up to those asked for.
    """

    archive: TradeStore
    memory_limit: str = MEMORY_LIMIT
    threads: int | None = None
    spool: Spool | None = None

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own.

        Raises:
            BadSetting: DuckDB does not take the memory limit or the number of threads.
        """
        return session(self.memory_limit, self.threads)

    def prepared(self, question: CandleQuery) -> tuple[list[CandleQuery], int]:
        """The short questions that a question comes to, and the decimals to show prices with.

        In Kraken's form these are the pair's, unless a digit were lost: to know it, all candles
        are made once.
        """

        def losing(plan: Plan) -> bool:
            return loses_digits(self.archive, plan, self.connect())

        def shortened(plan: Plan) -> list[CandleQuery]:
            return chunks(self.archive, plan)

        # Cut by what stands in the archive, whose footers tell how many rows there are.
        questions = QuerySession(self.archive, self.memory_limit).with_retry(question, shortened)
        if not looks_at_digits(question):
            return questions, PRICE_DECIMALS
        if any(self.with_retry(part, losing) for part in questions):
            return questions, PRICE_DECIMALS
        return questions, question.pair_decimals

    def sql(self, plan: Plan, price_decimals: int, connection: duckdb.DuckDBPyConnection) -> str:
        """The whole query of a plan."""
        starts = seeds(self.archive, plan, connection)
        candles = grouped_sql(self.archive, plan.sources, plan.grid, measures_of(plan.question))
        return candles_sql(plan, candles, starts, price_decimals)

    def relation(self, plan: Plan, price_decimals: int) -> duckdb.DuckDBPyRelation:
        """The candles of a plan, on a connection of their own."""
        connection = self.connect()
        return connection.sql(self.sql(plan, price_decimals, connection))

    def with_retry(self, question: CandleQuery, ask: Callable[[Plan], T]) -> T:
        """Run `ask` on a plan; if compaction removed files meanwhile, plan again and retry.

        Args:
            question: the query that is planned.
            ask: reads the files of the plan.

        Raises:
            NothingHeld: the archive holds nothing of the pair.
            ArchiveDamaged: a file can't be read, or files keep vanishing.
            ValueDoesNotFit: a sum has more than 38 digits.
            HarvesterError: the memory allowed does not suffice.
        """
        current: Plan | None = None

        def read() -> T:
            nonlocal current
            current = None
            current = plan(self.archive, question, self.spool)
            with asking(question.title, self.memory_limit):
                return ask(current)

        return with_snapshot_retry(
            read,
            question.pair,
            is_stale=lambda: current is not None and self.vanished(current),
        )

    def vanished(self, plan: Plan) -> bool:
        """Whether a file that a plan reads stands no more."""
        pair = plan.question.pair
        standing = {*self.archive.segments(pair), *self.archive.rollups(pair)}
        used = [piece.segment for piece in plan.held]
        rollups = [source.rollup for source in plan.sources if source.rollup is not None]
        return any(file not in standing for file in (*used, *rollups))


def looks_at_digits(question: CandleQuery) -> bool:
    """Whether all candles are made once to see that Kraken's form loses no digit of a price."""
    return question.fill == "kraken" and question.pair_decimals < PRICE_DECIMALS


# --- query ----------------------------------------------------------------------------------------

BATCH_ROWS = 100_000


def ohlc(
    archive: TradeStore,
    question: CandleQuery,
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
    session = QuerySession(archive, memory_limit, threads)
    _, decimals = session.prepared(question)
    return session.with_retry(question, lambda one: session.relation(one, decimals))


def candle_batches(
    archive: TradeStore,
    question: CandleQuery,
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
    yield from batches(QuerySession(archive, memory_limit, threads), question, batch_rows)


def batches(
    session: QuerySession, question: CandleQuery, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """The candles of `candle_batches`, in a session."""
    questions, decimals = session.prepared(question)

    def begin(plan: Plan) -> tuple[pa.RecordBatch, pa.RecordBatchReader]:
        reader = session.relation(plan, decimals).to_arrow_reader(batch_rows)
        # The sort yields nothing before all files have been read: with the first batch here,
        # none can vanish any more.
        return next(reader, _no_candles(reader.schema)), reader

    for place, part in enumerate(questions):
        first, reader = session.with_retry(part, begin)
        if first.num_rows or place == 0:
            yield first
        with asking(question.title, session.memory_limit):
            yield from reader


def _no_candles(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


# --- limits ---------------------------------------------------------------------------------------

EMPTY_CANDLES = 1_000_000
"""Empty candles beyond the number of trades that an answer without a named end may come to."""


def check_empty(archive: TradeStore, question: CandleQuery) -> None:
    """Refuse to fill in a great many empty intervals where nobody said up to when.

    Candles that saw trades are no more than the trades, so an answer without a named end has at
    most that many and `EMPTY_CANDLES`.

    Raises:
        UsageError: there are too many.
        NothingHeld: the archive holds nothing of the pair.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """
    if question.fill == "none" or question.span.through < END_OF_TIME:
        return

    def count(plan: Plan) -> int:
        return _empty(archive, plan)

    empty = QuerySession(archive).with_retry(question, count)
    if empty > EMPTY_CANDLES:
        raise UsageError(
            f"{question.title}: --fill {question.fill} would add some {empty:,} empty ones, and "
            "no --until says where to end: give --until (now means all of them), a longer "
            "interval, or --fill none"
        )


def _empty(archive: TradeStore, plan: Plan) -> int:
    """How many intervals are filled at least, but for those between a gap and the next trade."""
    if plan.opening is None:
        return 0
    lengths = (run.whole.last - max(run.whole.first, plan.opening) + 1 for run in plan.runs)
    pieces = clipped(plan.held, plan.question.span)
    trades = sum(archive.footer(piece.segment).rows for piece in pieces)
    return sum(max(length, 0) for length in lengths) - trades


# --- several --------------------------------------------------------------------------------------

# What more than one of them would read from ticks is read once, into a spool: partial candles of
# the greatest length that divides them all, in files of a temporary folder. Each length is then
# answered from the spool as from a roll-up, and so has the bytes that it has alone.


def several_batches(
    archive: TradeStore,
    question: CandleQuery,
    intervals: Sequence[Interval],
    *,
    memory_limit: str = MEMORY_LIMIT,
    threads: int | None = None,
) -> Iterator[tuple[Interval, Iterator[pa.RecordBatch]]]:
    """Each interval with its candles, as `candle_batches` gives them; the ticks are read once.

    Args:
        archive: where the tape is.
        question: what is asked, whatever its interval.
        intervals: the lengths, each to be read to its end before the next.
        memory_limit: what DuckDB may use, such as 2GB; beyond it, it spills to disk.
        threads: how many DuckDB may use; None for all cores.

    Raises:
        NothingHeld: the archive holds nothing of the pair.
        BadSetting: DuckDB does not take the memory limit or the number of threads.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
        ValueDoesNotFit: a sum has more than 38 digits.
        HarvesterError: the memory allowed does not suffice.
    """
    questions = [replace(question, interval=interval) for interval in intervals]
    session = QuerySession(archive, memory_limit, threads)
    with tempfile.TemporaryDirectory(prefix="harvester-") as folder:
        spool = spooled(session, questions, Path(folder)) if len(questions) > 1 else None
        for one in questions:
            yield one.interval, batches(replace(session, spool=spool), one)


def spooled(session: QuerySession, questions: Sequence[CandleQuery], folder: Path) -> Spool:
    """Read what several questions would read from ticks, once.

    Args:
        session: without a spool.
        questions: they differ in nothing but the interval.
        folder: for the files of the spool.
    """

    def read(one: Plan) -> Spool:
        plans = [plan(session.archive, question) for question in questions]
        width_ns = gcd(*(length for each in plans for length in _lengths(each)))
        wanted = _by_several(
            [[s.piece.within for s in each.sources if s.level == TICKS] for each in plans]
        )
        measures = measures_of(questions[0])
        return Spool(
            width_ns, list(_written(session, _of_ticks(one, wanted, width_ns), measures, folder))
        )

    return session.with_retry(questions[0], read)


def _lengths(plan: Plan) -> Iterator[int]:
    """What the width of the spool must divide: where candles and roll-ups end, it ends as well."""
    yield plan.grid.step_ns
    for level in {source.level for source in plan.sources} - {TICKS}:
        yield parse_interval(level).width_ns or 1


def _ticks_of(plan: Plan) -> list[Range]:
    return [source.piece.within for source in plan.sources if source.level == TICKS]


def _by_several(read: Iterable[Sequence[Range]]) -> list[Range]:
    """The time that more than one list of ranges holds; none overlaps within a list."""
    edges = sorted(
        edge for ranges in read for one in ranges for edge in ((one.after, 1), (one.through, -1))
    )
    found: list[Range] = []
    depth = began = 0
    for at, change in edges:
        if depth > 1 and began < at:
            found.append(Range(began, at))
        depth, began = depth + change, at
    return union(found)


def _of_ticks(plan: Plan, wanted: Sequence[Range], width_ns: int) -> Plan:
    """The plan of partial candles of all ticks in some ranges."""
    grid = FixedGrid(width_ns)
    return replace(
        plan,
        question=replace(plan.question, fill="none"),
        grid=grid,
        sources=[Source(piece, None) for span in wanted for piece in clipped(plan.held, span)],
        opening=None if plan.opening is None else grid.number(plan.grid.opens(plan.opening)),
    )


def _written(
    session: QuerySession, plan: Plan, measures: dict[str, str], folder: Path
) -> Iterator[Spooled]:
    """Files of some hundred thousand partial candles each, of a plan's ticks."""
    pieces = [source.piece for source in plan.sources]
    covered = union(piece.within for piece in pieces)
    connection = session.connect()
    for part in chunks(session.archive, plan):
        for span in filter(None, (overlap(part.span, run) for run in covered)):
            sources = [Source(piece, None) for piece in clipped(pieces, span)]
            file = folder / f"{span.after:019d}.parquet"
            candles = grouped_sql(session.archive, sources, plan.grid, measures)
            connection.execute(_copy(candles, plan.grid, measures, str(file)))
            yield Spooled(span, str(file))
    connection.close()


def _copy(candles: str, grid: Grid, measures: Iterable[str], file: str) -> str:
    """What writes partial candles as a roll-up has them, in order: their place is their order."""
    columns = ", ".join(measures)
    return (
        f"COPY (\nSELECT {grid.opens_sql('number')} AS time, {columns}\nFROM (\n{candles}\n)\n"
        f"ORDER BY number\n) TO {quoted(file)} (FORMAT parquet)"
    )
