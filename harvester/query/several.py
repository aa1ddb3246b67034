"""Candles of several lengths from one reading of the ticks.

What more than one of them would read from ticks is read once, into a spool: partial candles of
the greatest length that divides them all, in files of a temporary folder. Each length is then
answered from the spool as from a roll-up, and so has the bytes that it has alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import gcd
from pathlib import Path

import pyarrow as pa

from harvester.query.chunks import chunks
from harvester.query.engine import MEMORY_LIMIT, quoted
from harvester.query.grid import FixedGrid, Grid
from harvester.query.plan import Plan, clipped, plan
from harvester.query.query import batches
from harvester.query.question import Question
from harvester.query.session import Session
from harvester.query.sources import TICKS, Source, grouped_sql
from harvester.query.spool import Spool, Spooled
from harvester.query.sql import measures_of
from harvester.storage.trade_store import Archive
from harvester.times import Interval, Range, overlap, parse_interval, union


def several_batches(
    archive: Archive,
    question: Question,
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
    session = Session(archive, memory_limit, threads)
    with tempfile.TemporaryDirectory(prefix="harvester-") as folder:
        spool = spooled(session, questions, Path(folder)) if len(questions) > 1 else None
        for one in questions:
            yield one.interval, batches(replace(session, spool=spool), one)


def spooled(session: Session, questions: Sequence[Question], folder: Path) -> Spool:
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

    return session.whoever_writes(questions[0], read)


def _lengths(one: Plan) -> Iterator[int]:
    """What the width of the spool must divide: where candles and roll-ups end, it ends as well."""
    yield one.grid.step_ns
    for level in {source.level for source in one.sources} - {TICKS}:
        yield parse_interval(level).width_ns or 1


def _ticks_of(one: Plan) -> list[Range]:
    return [source.piece.within for source in one.sources if source.level == TICKS]


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


def _of_ticks(one: Plan, wanted: Sequence[Range], width_ns: int) -> Plan:
    """The plan of partial candles of all ticks in some ranges."""
    grid = FixedGrid(width_ns)
    return replace(
        one,
        question=replace(one.question, fill="none"),
        grid=grid,
        sources=[Source(piece, None) for span in wanted for piece in clipped(one.held, span)],
        opening=None if one.opening is None else grid.number(one.grid.opens(one.opening)),
    )


def _written(
    session: Session, one: Plan, measures: dict[str, str], folder: Path
) -> Iterator[Spooled]:
    """Files of some hundred thousand partial candles each, of a plan's ticks."""
    pieces = [source.piece for source in one.sources]
    covered = union(piece.within for piece in pieces)
    connection = session.connect()
    for part in chunks(session.archive, one):
        for span in filter(None, (overlap(part.span, run) for run in covered)):
            sources = [Source(piece, None) for piece in clipped(pieces, span)]
            file = folder / f"{span.after:019d}.parquet"
            candles = grouped_sql(session.archive, sources, one.grid, measures)
            connection.execute(_copy(candles, one.grid, measures, str(file)))
            yield Spooled(span, str(file))
    connection.close()


def _copy(candles: str, grid: Grid, measures: Iterable[str], file: str) -> str:
    """What writes partial candles as a roll-up has them, in order: their place is their order."""
    columns = ", ".join(measures)
    return (
        f"COPY (\nSELECT {grid.opens_sql('number')} AS time, {columns}\nFROM (\n{candles}\n)\n"
        f"ORDER BY number\n) TO {quoted(file)} (FORMAT parquet)"
    )
