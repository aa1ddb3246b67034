"""What each piece of the tape is read from: its ticks, or the coarsest roll-up that will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from harvester.errors import BadInterval
from harvester.query.engine import quoted_path
from harvester.query.grid import Grid
from harvester.query.measures import COMBINED
from harvester.query.ticks import NO_TICKS, conditions, place_sql, ticks_sql
from harvester.storage.rollup_files import RollUp
from harvester.storage.trade_store import Archive, Piece
from harvester.times import Range, parse_interval

TICKS = "ticks"


class Source(NamedTuple):
    """A piece of the tape, and what it is read from: a roll-up, a file of a spool, or its ticks."""

    piece: Piece
    rollup: RollUp | None
    spooled: str | None = None

    @property
    def level(self) -> str:
        """`ticks`, the interval of the roll-up, or nothing for a spool."""
        if self.spooled is not None:
            return ""
        return TICKS if self.rollup is None else self.rollup.interval

    def location(self, archive: Archive) -> str:
        """The name that any Parquet reader opens the file by."""
        return self.spooled or archive.location(self.rollup or self.piece.segment)


class _Level(NamedTuple):
    width_ns: int
    rollup: RollUp


def choose(archive: Archive, pair: str, pieces: Sequence[Piece], grid: Grid) -> list[Source]:
    """The pieces in order, each from the coarsest roll-up that divides the grid, else from ticks.

    Where a piece begins or ends inside a bucket of the roll-up, ticks make the edge.

    Raises:
        FileNotFoundError: a file is gone; list again.
    """
    levels = _levels(archive, pair, grid)
    return [source for piece in pieces for source in _best(archive, piece, levels)]


def _levels(archive: Archive, pair: str, grid: Grid) -> dict[str, list[_Level]]:
    """By the segment's path, the roll-ups that divide the grid, the coarsest first."""
    found: dict[str, list[_Level]] = {}
    for rollup in archive.rollups(pair):
        try:
            width_ns = parse_interval(rollup.interval).width_ns
        except BadInterval:
            continue
        if width_ns is not None and grid.divided_by(width_ns):
            found.setdefault(rollup.segment_path, []).append(_Level(width_ns, rollup))
    for levels in found.values():
        levels.sort(reverse=True)
    return found


def _best(archive: Archive, piece: Piece, levels: dict[str, list[_Level]]) -> list[Source]:
    for level in levels.get(piece.segment.path, []):
        middle = whole_buckets(piece, level.width_ns)
        if middle is not None and archive.serves(level.rollup, piece.segment):
            return list(_with_edges(piece, middle, level.rollup))
    return [Source(piece, None)]


def whole_buckets(piece: Piece, width_ns: int) -> Range | None:
    """What of a piece partial candles of its segment tell; None for nothing.

    At the segment's own ends a bucket holds just the segment's trades, and so may be cut there.
    """
    segment, (after, through) = piece.segment.range, piece.within
    if after > segment.after:
        after = -(-(after + 1) // width_ns) * width_ns - 1
    if through < segment.through:
        through = (through + 1) // width_ns * width_ns - 1
    return Range(after, through) if after < through else None


def _with_edges(piece: Piece, middle: Range, rollup: RollUp) -> Iterator[Source]:
    segment, within = piece
    if within.after < middle.after:
        yield Source(Piece(segment, Range(within.after, middle.after)), None)
    yield Source(Piece(segment, middle), rollup)
    if middle.through < within.through:
        yield Source(Piece(segment, Range(middle.through, within.through)), None)


def grouped_sql(
    archive: Archive, sources: Sequence[Source], grid: Grid, measures: dict[str, str]
) -> str:
    """A query for the candles of a grid: `number` and the measures, in no order.

    Args:
        archive: where the files are.
        sources: in the tape's order.
        grid: numbers the moments.
        measures: their names, and their formulas from ticks.
    """
    parts: list[str] = []
    at = 0
    # By level: what cuts minutes out of a file would cut off an hour that began before.
    for level, group in groupby(sources, key=lambda one: one.level):
        some = list(group)
        if level == TICKS:
            ticks = ticks_sql(archive, [one.piece for one in some], at)
            parts.append(_from_ticks(ticks, grid, measures))
        else:
            parts.append(_from_partials(archive, some, at, grid, measures))
        at += len(some)
    if not parts:
        return _from_ticks(NO_TICKS, grid, measures)
    if len(parts) == 1 and sources[0].level == TICKS:
        return parts[0]
    return combined_sql("\nUNION ALL ".join(parts), measures)


def combined_sql(parts: str, measures: dict[str, str]) -> str:
    """Partial candles with a `number` and a `place`, added up exactly."""
    chosen = "".join(f",\n    {COMBINED[name]} AS {name}" for name in measures)
    return f"SELECT number{chosen}\nFROM (\n{parts}\n) GROUP BY number"


def _from_ticks(ticks: str, grid: Grid, measures: dict[str, str]) -> str:
    chosen = "".join(f",\n    {sql} AS {name}" for name, sql in measures.items())
    return (
        f"SELECT {grid.number_sql('epoch_ns(time)')} AS number{chosen},\n    min(place) AS place\n"
        f"FROM (\n{ticks}\n) GROUP BY number"
    )


def _from_partials(
    archive: Archive,
    sources: Sequence[Source],
    at: int,
    grid: Grid,
    measures: dict[str, str],
) -> str:
    files = ", ".join(quoted_path(one.location(archive)) for one in sources)
    chosen = "".join(f", {name}" for name in measures)
    within = " AND ".join(conditions([one.piece for one in sources])) or "true"
    return (
        f"SELECT {grid.number_sql('epoch_ns(time)')} AS number{chosen}, {place_sql(at)} AS place\n"
        f"FROM read_parquet([{files}], hive_partitioning = false)\nWHERE {within}"
    )
