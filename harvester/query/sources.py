"""Which files answer a query: trades, roll-ups or a shared scan; and the SQL that reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from harvester.errors import BadInterval
from harvester.query.calendar import Grid
from harvester.query.connection import quoted_path
from harvester.storage.rollup_files import RollUp
from harvester.storage.segment import Segment
from harvester.storage.trade_store import Piece, TradeStore
from harvester.times import Range, missing, overlap, parse_interval, union

# --- ticks ----------------------------------------------------------------------------------------

NO_TICKS = """SELECT NULL::BIGINT AS trade_id, NULL::TIMESTAMP_NS AS time,
    NULL::DECIMAL(18, 10) AS price, NULL::DECIMAL(22, 8) AS volume, NULL::VARCHAR AS side,
    NULL::BIGINT AS place WHERE false"""


def place_sql(at: int) -> str:
    """A row's place along the tape, a BIGINT, where `at` files come before those that are read.

    Rows of a file number far below 2^40, and files below 2^23. DuckDB counts files without a
    sign and rows with one: left as they are, they would come to 128 bits.
    """
    return f"((file_index::BIGINT + {at}) << 40 | file_row_number)"


def ticks_sql(archive: TradeStore, pieces: Sequence[Piece], at: int = 0) -> str:
    """A query for the trades of some pieces, given in the tape's order, `at` files along it.

    Its columns: trade_id, time, price, volume, side and `place`, a BIGINT that grows along the
    tape. `file_index` counts along the list as it is given, whatever the files are called, and
    so does the place, even where ids are missing and several rows share one time.
    """
    if not pieces:
        return NO_TICKS
    files = ", ".join(quoted_path(archive.location(piece.segment)) for piece in pieces)
    within = " AND ".join(conditions(pieces)) or "true"
    return (
        f"SELECT trade_id, time, price, volume, side, {place_sql(at)} AS place\n"
        f"FROM read_parquet([{files}], hive_partitioning = false)\nWHERE {within}"
    )


def conditions(pieces: Sequence[Piece]) -> list[str]:
    """What cuts the pieces out of their files, where they are not whole files anyway.

    The pieces are given in the tape's order, and touch but for gaps in the coverage.

    Comparisons of `time` with literals: row groups outside are not even read.
    """
    found = []
    first, last = pieces[0], pieces[-1]
    if first.within.after > first.segment.range.after:
        found.append(f"time > make_timestamp_ns({first.within.after})")
    if last.within.through < last.segment.range.through:
        found.append(f"time <= make_timestamp_ns({last.within.through})")
    # A merged file beside one that it reaches into: from each moment, one file's rows only.
    found += [
        f"(file_index <> {index} OR time > make_timestamp_ns({piece.within.after}))"
        for index, piece in enumerate(pieces)
        if index and piece.within.after > piece.segment.range.after
    ]
    return found


# --- measures -------------------------------------------------------------------------------------

BASE = {
    "open": "arg_min(price, place)",
    "high": "max(price)",
    "low": "min(price)",
    "close": "arg_max(price, place)",
    "value": "sum(price * volume)",
    "volume": "sum(volume)",
    "count": "count(*)",
}
MORE = {
    "buy_volume": "coalesce(sum(volume) FILTER (side = 'buy'), 0)",
    "sell_volume": "coalesce(sum(volume) FILTER (side = 'sell'), 0)",
    "buy_value": "coalesce(sum(price * volume) FILTER (side = 'buy'), 0)",
    "sell_value": "coalesce(sum(price * volume) FILTER (side = 'sell'), 0)",
    "buy_count": "count(*) FILTER (side = 'buy')",
    "sell_count": "count(*) FILTER (side = 'sell')",
    "first_trade_id": "arg_min(trade_id, place)",
    "last_trade_id": "arg_max(trade_id, place)",
    "first_time": "min(time)",
}
LAST_TIME = {"last_time": "max(time)"}

PRICES = ("open", "high", "low", "close")
ZEROS = {
    "value": "DECIMAL(38, 18)",
    "volume": "DECIMAL(38, 8)",
    "count": "BIGINT",
    "buy_volume": "DECIMAL(38, 8)",
    "sell_volume": "DECIMAL(38, 8)",
    "buy_value": "DECIMAL(38, 18)",
    "sell_value": "DECIMAL(38, 18)",
    "buy_count": "BIGINT",
    "sell_count": "BIGINT",
}

# Ticks have a price, a volume and a side; partial candles have the very columns above. `place`
# grows along the tape in both.
COMBINED = {
    "open": "arg_min(open, place)",
    "high": "max(high)",
    "low": "min(low)",
    "close": "arg_max(close, place)",
    "value": "sum(value)",
    "volume": "sum(volume)",
    "count": "sum(count)::BIGINT",
    "buy_volume": "sum(buy_volume)",
    "sell_volume": "sum(sell_volume)",
    "buy_value": "sum(buy_value)",
    "sell_value": "sum(sell_value)",
    "buy_count": "sum(buy_count)::BIGINT",
    "sell_count": "sum(sell_count)::BIGINT",
    "first_trade_id": "arg_min(first_trade_id, place)",
    "last_trade_id": "arg_max(last_trade_id, place)",
    "first_time": "min(first_time)",
    "last_time": "max(last_time)",
}


# --- sources --------------------------------------------------------------------------------------

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

    def location(self, archive: TradeStore) -> str:
        """The name that any Parquet reader opens the file by."""
        return self.spooled or archive.location(self.rollup or self.piece.segment)


class _Level(NamedTuple):
    width_ns: int
    rollup: RollUp


def choose(archive: TradeStore, pair: str, pieces: Sequence[Piece], grid: Grid) -> list[Source]:
    """The pieces in order, each from the coarsest roll-up that divides the grid, else from ticks.

    Where a piece begins or ends inside a bucket of the roll-up, ticks make the edge.

    Raises:
        FileNotFoundError: a file is gone; list again.
    """
    levels = _levels(archive, pair, grid)
    return [source for piece in pieces for source in _best(archive, piece, levels)]


def _levels(archive: TradeStore, pair: str, grid: Grid) -> dict[str, list[_Level]]:
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


def _best(archive: TradeStore, piece: Piece, levels: dict[str, list[_Level]]) -> list[Source]:
    for level in levels.get(piece.segment.path, []):
        middle = whole_buckets(piece, level.width_ns)
        if middle is not None and archive.is_rollup_valid(level.rollup, piece.segment):
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
    archive: TradeStore, sources: Sequence[Source], grid: Grid, measures: dict[str, str]
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
    archive: TradeStore,
    sources: Sequence[Source],
    at: int,
    grid: Grid,
    measures: dict[str, str],
) -> str:
    files = ", ".join(quoted_path(source.location(archive)) for source in sources)
    chosen = "".join(f", {name}" for name in measures)
    within = " AND ".join(conditions([source.piece for source in sources])) or "true"
    return (
        f"SELECT {grid.number_sql('epoch_ns(time)')} AS number{chosen}, {place_sql(at)} AS place\n"
        f"FROM read_parquet([{files}], hive_partitioning = false)\nWHERE {within}"
    )


# --- spool ----------------------------------------------------------------------------------------

# They serve as roll-ups do, but by spans of time instead of segments: what was traded in a span
# that is covered never changes, whatever becomes of the files meanwhile.


class Spooled(NamedTuple):
    """A file of partial candles in order, as `_from_partials` reads them, of all of a range.

    The range is covered from end to end: there is no gap in it.
    """

    range: Range
    path: str


@dataclass(frozen=True, slots=True)
class Spool:
    """What has been read: partial candles of one width, on the grid of the epoch.

    Attributes:
        width_ns: divides every grid that is asked for.
        parts: in order; no two overlap.
    """

    width_ns: int
    parts: Sequence[Spooled]


def served_by(spool: Spool, sources: Sequence[Source]) -> list[Source]:
    """The same sources, with the spool in the place of the ticks that it has read."""
    found: list[Source] = []
    for level, group in groupby(sources, key=lambda one: one.level):
        some = list(group)
        if level == TICKS:
            taken = list(_taken(spool, some))
            some = sorted([*taken, *_left(some, taken)], key=lambda one: one.piece.within)
        found += some
    return found


def _taken(spool: Spool, sources: Sequence[Source]) -> Iterator[Source]:
    """What of the ticks the spool tells, in buckets that are whole."""
    for run in union(source.piece.within for source in sources):
        for part in spool.parts:
            both = overlap(run, part.range)
            if both is None:
                continue
            # To what cuts and reads it, a file of the spool is a segment with a roll-up.
            pretended = Segment("", 0, part.range, part.path, 0)
            middle = whole_buckets(Piece(pretended, both), spool.width_ns)
            if middle is not None:
                yield Source(Piece(pretended, middle), None, part.path)


def _left(sources: Sequence[Source], taken: Sequence[Source]) -> Iterator[Source]:
    """The ticks that are read all the same."""
    spans = [one.piece.within for one in taken]
    for source in sources:
        for span in missing([source.piece.within], spans):
            yield Source(Piece(source.piece.segment, span), None)
