"""Candles of a pair: run or explain a `CandleQuery` as a DuckDB relation or Arrow batches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import gcd
from pathlib import Path
from typing import NamedTuple, TypeVar

import duckdb
import pyarrow as pa

from harvester.errors import UsageError
from harvester.query.calendar import Grid, fixed_grid
from harvester.query.candle_sql import aggregates_for, candles_sql, fill_seeds, would_lose_precision
from harvester.query.plan import (
    PART_CANDLES,
    PRICE_DECIMALS,
    CandleQuery,
    Plan,
    check_imports,
    clip_pieces,
    plan_from_listing,
    plan_query,
    split_query,
)
from harvester.query.source_choice import (
    SharedScan,
    aggregate_sql,
    choose_sources,
    read_segments,
    text_literal,
)
from harvester.query.sql import MEMORY_LIMIT, shared_connection, translate_errors
from harvester.schema import PRICE
from harvester.storage.segment import Segment
from harvester.storage.trade_store import PairFile, TradeStore, with_snapshot_retry
from harvester.times import END_OF_TIME, Interval, Range, missing, year_end

# --- session --------------------------------------------------------------------------------------

T = TypeVar("T")
BATCH_ROWS = 100_000


class PreparedQuery(NamedTuple):
    """A candle query that is planned and ready to run.

    Attributes:
        plan: the plan of the whole query, without a shared scan.
        parts: the query cut into parts of a limited number of candles, in order of time.
        price_decimals: the decimals of the returned prices.
    """

    plan: Plan
    parts: list[CandleQuery]
    price_decimals: int

    def plan_of(self, part: CandleQuery) -> Plan | None:
        """Return the plan of a part, if the part is the whole query.

        Other parts are planned when they are read: a long stream outlives a listing of the files.
        """
        return self.plan if part == self.plan.query else None


@dataclass(frozen=True, slots=True)
class QuerySession:
    """An archive and the settings that its candle queries run with.

    Attributes:
        archive: where the trades are.
        memory_limit: what DuckDB may use, such as 2GB; beyond it, DuckDB spills to disk.
        threads: how many threads DuckDB may use; None for all cores.
        shared_scan: partial candles that replace trades, if they divide the query's intervals.
        files: an earlier listing, for the first plan of each query; None to list the files.
    """

    archive: TradeStore
    memory_limit: str = MEMORY_LIMIT
    threads: int | None = None
    shared_scan: SharedScan | None = None
    files: frozenset[PairFile] | None = None

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Return a new connection.

        Raises:
            BadSetting: DuckDB rejects the memory limit or the number of threads.
        """
        return shared_connection(self.memory_limit, self.threads, self.archive.store.duckdb_files)

    def prepare(self, query: CandleQuery) -> PreparedQuery:
        """Plan a query, cut it into parts, and decide on the decimals of its prices.

        With `fill="kraken"` these are the pair's decimals, unless a digit would be lost: to check
        that, all candles are computed once.

        Raises:
            NothingStored: the archive has no trades of the pair.
            ArchiveDamaged: a file can't be read, or compaction removes files again and again.
        """

        def split(plan: Plan) -> PreparedQuery:
            return PreparedQuery(plan, split_query(self.archive, plan), PRICE_DECIMALS)

        def loses_precision(plan: Plan) -> bool:
            return would_lose_precision(self.archive, self._with_scan(plan), self.connect())

        prepared = self.with_snapshot_retry(query, split)
        if needs_precision_check(query) and not any(
            self.with_snapshot_retry(part, loses_precision, prepared.plan_of(part))
            for part in prepared.parts
        ):
            return prepared._replace(price_decimals=query.pair_decimals)
        return prepared

    def sql(self, plan: Plan, price_decimals: int, connection: duckdb.DuckDBPyConnection) -> str:
        """Return the complete SQL of a plan.

        Args:
            plan: the plan of a query.
            price_decimals: the decimals of the returned prices.
            connection: reads the trade whose price is carried into the range.
        """
        plan = self._with_scan(plan)
        seeds = fill_seeds(self.archive, plan, connection)
        aggregates = aggregates_for(plan.query)
        candles = aggregate_sql(self.archive, plan.sources, plan.grid, aggregates)
        return candles_sql(plan, candles, seeds, price_decimals)

    def relation(self, query: CandleQuery) -> duckdb.DuckDBPyRelation:
        """Return candles as a relation that runs when it is read: `.df()`, `.pl()`, and so on.

        It has one row per candle, in order of time; docs/candles.md describes the columns. It reads
        the files of this moment: after a compaction call again, or use `batches`, which retries.

        If it reads the trades of several years, or has more than a million candles, it is a union
        of one query per year: DuckDB does not open the files of a year whose bounds of `time`
        contradict a caller's condition. Grouped in one query, all would be read before the first
        candle could be left out. From roll-ups that is faster than to plan and run many parts.

        Raises:
            NothingStored: the archive has no trades of the pair.
            BadSetting: DuckDB rejects the memory limit or the number of threads.
            ArchiveDamaged: a file can't be read.
            duckdb.Error: when read: a sum has too many digits, memory ran out, a file was removed.
        """
        return self._run_sql(query, lambda sql: self.connect().sql(sql))

    def panel_relation(self, queries: Iterable[CandleQuery]) -> duckdb.DuckDBPyRelation:
        """Return candles of several pairs as one relation with the column `pair`, pair by pair.

        Args:
            queries: a query for each pair, with the same columns.

        Raises:
            HarvesterError: as for `relation`.
            duckdb.Error: as for `relation`, or a file was removed since its pair was planned.
        """
        panels = [
            f"SELECT {text_literal(query.pair)} AS pair, *\nFROM (\n{self._run_sql(query, str)}\n)"
            for query in queries
        ]
        return self.connect().sql("\nUNION ALL ".join(panels))

    def _run_sql(self, query: CandleQuery, fn: Callable[[str], T]) -> T:
        """Run `fn` on the SQL of a query; if compaction removed a file, plan again and retry."""
        decimals, plan = PRICE_DECIMALS, None
        if needs_precision_check(query):
            plan, _, decimals = self.prepare(query)

        def run(plan: Plan) -> T:
            connection = self.connect()
            parts = [
                self._part_sql(plan, time_range, decimals, connection)
                for time_range in _parts_of(plan)
            ]
            return fn("\nUNION ALL ".join(parts))

        return self.with_snapshot_retry(query, run, plan)

    def _part_sql(
        self, plan: Plan, time_range: Range, decimals: int, connection: duckdb.DuckDBPyConnection
    ) -> str:
        if time_range == plan.query.range:
            return f"({self.sql(plan, decimals, connection)})"
        query = replace(plan.query, range=time_range)
        part = plan_from_listing(self.archive, query, plan.pieces, plan.rollups)
        first, last = part.grid.number(time_range.after + 1), part.grid.number(time_range.through)
        return (
            f"SELECT * FROM (\n{self.sql(part, decimals, connection)}\n)\n"  # noqa: S608
            f"WHERE time >= make_timestamp_ns({part.grid.start_ns(first)}) "
            f"AND time <= make_timestamp_ns({part.grid.start_ns(last)})"
        )

    def batches(self, query: CandleQuery, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield candles as Arrow batches, at least one, even while the archive is being written.

        Args:
            query: the query.
            batch_rows: about how many candles a batch has.

        Raises:
            NothingStored: the archive has no trades of the pair.
            BadSetting: DuckDB rejects the memory limit or the number of threads.
            ArchiveDamaged: a file can't be read, files vanish, or imported trades were replaced.
            ValueDoesNotFit: a sum has more than 38 digits.
            HarvesterError: the memory limit is too low.
        """
        prepared = self.prepare(query)

        def begin(plan: Plan) -> tuple[pa.RecordBatch, pa.RecordBatchReader]:
            check_imports(prepared.plan, plan)
            connection = self.connect()
            sql = self.sql(plan, prepared.price_decimals, connection)
            reader = connection.sql(sql).to_arrow_reader(batch_rows)
            # The sort returns nothing before all files are read: later, a removed one does no harm.
            return next(reader, pa.RecordBatch.from_pylist([], schema=reader.schema)), reader

        for index, part in enumerate(prepared.parts):
            first, reader = self.with_snapshot_retry(part, begin, prepared.plan_of(part))
            if first.num_rows or index == 0:
                yield first
            with translate_errors(query.title, self.memory_limit):
                yield from reader

    def panel_batches(
        self, queries: Iterable[CandleQuery], batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Yield candles of several pairs with the column `pair`, pair by pair, as `batches` does.

        Args:
            queries: a query for each pair, with the same columns.
            batch_rows: about how many candles a batch has.

        Raises:
            HarvesterError: as for `batches`.
        """
        for query in queries:
            for batch in with_equal_decimals(self.batches(query, batch_rows)):
                pair = pa.repeat(query.pair, batch.num_rows)
                yield batch.add_column(0, "pair", pair)

    def with_snapshot_retry(
        self, query: CandleQuery, fn: Callable[[Plan], T], plan: Plan | None = None
    ) -> T:
        """Run `fn` on a plan; if compaction removed a file meanwhile, plan again and retry.

        Args:
            query: the query.
            fn: computes the result from a plan; it may run several times.
            plan: the plan for the first try, if there is one already.

        Raises:
            NothingStored: the archive has no trades of the pair.
            ArchiveDamaged: a file can't be read, or 20 plans in a row lost a file.
            ValueDoesNotFit: a sum has more than 38 digits.
            HarvesterError: the memory limit is too low.
        """
        plans = [plan] if plan is not None else []
        listings = [self.files]
        current: Plan | None = None

        def run() -> T:
            nonlocal current
            current = None
            listed = listings.pop() if listings else None
            current = plans.pop() if plans else plan_query(self.archive, query, listed)
            with translate_errors(query.title, self.memory_limit):
                return fn(current)

        def has_lost_a_file() -> bool:
            if current is None:
                return False
            used = {*(piece.segment for piece in current.pieces), *current.rollups}
            return not used <= self.archive.pair_files(query.pair)

        return with_snapshot_retry(run, query.pair, is_stale=has_lost_a_file)

    def _with_scan(self, plan: Plan) -> Plan:
        """Return the plan with the files of the shared scan, if they have all that it needs."""
        scan, covered = self.shared_scan, [run.range for run in plan.covered]
        if scan is None or not read_segments(plan.sources):
            return plan
        # Trades that were stored since the scan are not in its files.
        if missing(covered, scan.covered) or not plan.grid.is_divisible_by(scan.width_ns):
            return plan
        return replace(plan, sources=scan.sources(plan.query.range))


def _parts_of(plan: Plan) -> list[Range]:
    """Cut the query's range at each year's first interval if it may need much memory.

    It may if it reads a million candles, or trades of several years other than at roll-ups' edges.
    """
    after, through = plan.query.range
    candles = sum(max(run.whole.last - run.whole.first + 1, 0) for run in plan.covered)
    years_of_trades = {segment.year for segment in read_segments(plan.sources)}
    if candles <= PART_CANDLES and len(years_of_trades) <= 1:
        return [plan.query.range]
    years = sorted({source.piece.segment.year for source in plan.sources})
    grid = plan.grid
    starts_ns = (grid.start_ns(grid.number(year_end(year - 1) + 1)) for year in years[1:])
    cuts = sorted({start_ns - 1 for start_ns in starts_ns if after < start_ns - 1 < through})
    return [Range(*bounds) for bounds in pairwise([after, *cuts, through])]


def needs_precision_check(query: CandleQuery) -> bool:
    """Return whether all candles are computed once to check that no digit of a price is lost."""
    return query.fill == "kraken" and query.pair_decimals < PRICE_DECIMALS


def with_equal_decimals(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Candles whose prices have ten decimals, also where Kraken's form has fewer.

    If the files of a folder differ, tools use the decimals of the first file for all, and round.
    """
    for batch in batches:
        fields = [
            field.with_type(PRICE)
            if pa.types.is_decimal(field.type) and field.type.precision == PRICE.precision
            else field
            for field in batch.schema
        ]
        yield batch.cast(pa.schema(fields))


# --- limit for empty candles ----------------------------------------------------------------------

MAX_EMPTY_CANDLES = 1_000_000
"""How many empty candles, beyond the number of trades, a query without an end may add."""


def guard_against_huge_fill(archive: TradeStore, query: CandleQuery) -> None:
    """Refuse a query that would fill more than a million empty candles unless it has an end.

    There are no more candles with trades than trades, so the result of a query without an end has
    at most as many rows as trades and `MAX_EMPTY_CANDLES`.

    Args:
        archive: where the trades are.
        query: the query.

    Raises:
        UsageError: there are too many empty candles.
        NothingStored: the archive has no trades of the pair.
        ArchiveDamaged: a file can't be read, or compaction removes files again and again.
    """
    if query.fill == "none" or query.range.through < END_OF_TIME:
        return
    empty = QuerySession(archive).with_snapshot_retry(query, partial(_min_empty_candles, archive))
    if empty > MAX_EMPTY_CANDLES:
        raise UsageError(
            f"{query.title}: --fill {query.fill} would add some {empty:,} empty ones, and "
            "no --until says where to end: give --until (now means all of them), a longer "
            "interval, or --fill none"
        )


def _min_empty_candles(archive: TradeStore, plan: Plan) -> int:
    """Return a lower limit for the empty candles, apart from those right after a gap."""
    if plan.first_trade_number is None:
        return 0
    lengths = (
        run.whole.last - max(run.whole.first, plan.first_trade_number) + 1 for run in plan.covered
    )
    pieces = clip_pieces(plan.pieces, plan.query.range)
    trades = sum(archive.footer(piece.segment).rows for piece in pieces)
    return sum(max(length, 0) for length in lengths) - trades


# --- several intervals ----------------------------------------------------------------------------

# If several intervals need the same trades, these are read once, by a shared scan: it writes
# partial candles of the greatest width that divides these intervals to files in a temporary folder.
# Each interval is then computed from these files as from a roll-up, so the result has the same
# bytes as the query of one interval.


def batches_by_interval(
    session: QuerySession, query: CandleQuery, intervals: Sequence[Interval]
) -> Iterator[tuple[Interval, Iterator[pa.RecordBatch]]]:
    """Yield each interval with its candles as `QuerySession.batches`; the trades are read once.

    Args:
        session: the archive and the settings of DuckDB.
        query: the query; its own interval does not matter.
        intervals: the intervals. Read the batches of one to the end before the next.

    Raises:
        HarvesterError: as `QuerySession.batches`.
    """
    queries = [replace(query, interval=interval) for interval in intervals]
    with tempfile.TemporaryDirectory(prefix="harvester-") as folder:
        if len(queries) > 1:
            scan = run_shared_scan(session, queries, Path(folder))
            session = replace(session, shared_scan=scan)
        for interval_query in queries:
            yield interval_query.interval, session.batches(interval_query)


def run_shared_scan(
    session: QuerySession, queries: Sequence[CandleQuery], folder: Path
) -> SharedScan | None:
    """Read the trades that several queries need, once, and write partial candles.

    Args:
        session: a session without a shared scan.
        queries: they differ in the interval only.
        folder: for the files of partial candles.

    Returns the scan; None if fewer than two queries read segments without a usable roll-up.
    """
    aggregates = aggregates_for(queries[0])

    def scan(plan: Plan) -> SharedScan | None:
        plans = [plan_query(session.archive, query) for query in queries]
        steps_ns = [plan.grid.step_ns for plan in plans if read_segments(plan.sources)]
        if len(steps_ns) < 2:
            return None
        covered = [run.range for run in plan.covered]
        return SharedScan(gcd(*steps_ns), covered, list(write(plan, fixed_grid(gcd(*steps_ns)))))

    def write(plan: Plan, grid: Grid) -> Iterator[Segment]:
        first_number = plan.first_trade_number
        if first_number is not None:
            first_number = grid.number(plan.grid.start_ns(first_number))
        query = replace(plan.query, fill="none")
        plan = replace(plan, query=query, grid=grid, first_trade_number=first_number)
        connection = session.connect()
        for part in split_query(session.archive, plan):
            pieces = clip_pieces(plan.pieces, part.range)
            sources = choose_sources(session.archive, plan.rollups, pieces, grid)
            candles = aggregate_sql(session.archive, sources, grid, aggregates)
            path = str(folder / f"{part.range.after:019d}.parquet")
            # In order, like a roll-up: the row number is the position.
            connection.execute(
                f"COPY (\nSELECT {grid.start_sql('number')} AS time, {', '.join(aggregates)}\n"
                f"FROM (\n{candles}\n)\n"
                f"ORDER BY number\n) TO {text_literal(path)} (FORMAT parquet)"
            )
            yield Segment("", 0, part.range, path, 0)
        connection.close()

    return session.with_snapshot_retry(queries[0], scan)
