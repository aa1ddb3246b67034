"""Candle queries and their planning: the segments and roll-ups of a range, and its gaps.

Segments and coverage come from one directory listing, so an interval is never called complete
while its trades are missing from the result. The gaps in a query's range are reported here, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

from harvester.errors import ArchiveDamaged, ArchiveHasGaps, BadSetting, NothingStored
from harvester.query.calendar import Grid, WholeIntervals, find_time_zone, make_grid
from harvester.query.source_choice import Source, choose_sources
from harvester.schema import PRICE
from harvester.storage.segment import RollUp, Segment, reading_order
from harvester.storage.trade_store import PairFile, Piece, TradeStore, pieces_of
from harvester.times import (
    BEGINNING_NS,
    END_OF_TIME,
    SECOND,
    Interval,
    Range,
    gap_note,
    missing,
    overlap,
    show,
    union,
    year_end,
)

# --- query ----------------------------------------------------------------------------------------

Fill = Literal["none", "previous", "null", "kraken"]
FILLS: tuple[str, ...] = get_args(Fill)

PRICE_DECIMALS: int = PRICE.scale


@dataclass(frozen=True, slots=True)
class CandleQuery:
    """A request for the candles of one pair, of one interval, over one range.

    Attributes:
        pair: the altname.
        interval: the length of a candle.
        range: only trades published in it count; `(after, through]` in nanoseconds.
        fill: how covered intervals without trades are filled; see docs/candles.md.
        all_columns: also return the columns after `count`.
        offset_ns: shifts all candle boundaries, in local time of `tz`.
        pair_decimals: the decimals of the pair's prices on Kraken; for `fill="kraken"` only.
        tz: the time zone whose local time the boundaries follow, by its name in the tz database;
            None for UTC. The column `time` is UTC in any case.
        complete_only: leave out candles that are running, cut by the range, or touch a gap.

    Raises:
        BadSetting: an unknown fill or time zone, or a number of decimals that prices cannot have.
    """

    pair: str
    interval: Interval
    range: Range
    fill: Fill = "none"
    all_columns: bool = False
    offset_ns: int = 0
    pair_decimals: int = PRICE_DECIMALS
    tz: str | None = None
    complete_only: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if self.fill not in FILLS:
            raise BadSetting(f"fill is {self.fill!r}: give one of {', '.join(FILLS)}")
        if not 0 <= self.pair_decimals <= PRICE_DECIMALS:
            raise BadSetting(
                f"pair_decimals is {self.pair_decimals}: give 0 to {PRICE_DECIMALS}, the decimals "
                "that the archive keeps"
            )
        if self.tz is not None:
            find_time_zone(self.tz)

    @property
    def title(self) -> str:
        """The query in a few words, for messages."""
        return f"{self.interval.text} candles of {self.pair}"

    def grid(self, covering: Range) -> Grid:
        """Return the intervals of the query; `covering` includes all moments it is used for."""
        return make_grid(self.interval, self.offset_ns, self.tz, covering)


# --- plan -----------------------------------------------------------------------------------------


class CoveredRange(NamedTuple):
    """A range without gaps inside the query's range, and the complete intervals in it."""

    range: Range
    whole: WholeIntervals


@dataclass(frozen=True, slots=True)
class Plan:
    """How a candle query is answered: what is read, and which intervals may be filled.

    Attributes:
        query: the query.
        grid: its intervals.
        pieces: all stored trades of the pair, in order, as parts of segments.
        rollups: all roll-ups of the pair.
        sources: the part of the pieces in the query's range, and which file each is read from.
        pieces_before: the trades before the query's range, back to the last gap.
        covered: the covered ranges inside the query's range, in order.
        first_trade_number: the interval of the first stored trade; None without trades.
    """

    query: CandleQuery
    grid: Grid
    pieces: list[Piece]
    rollups: list[RollUp]
    sources: list[Source]
    pieces_before: list[Piece]
    covered: list[CoveredRange]
    first_trade_number: int | None


def plan_query(
    archive: TradeStore, query: CandleQuery, files: frozenset[PairFile] | None = None
) -> Plan:
    """List the archive once and plan a query.

    Args:
        archive: where the trades are.
        query: the query.
        files: the listed files of the pair, and maybe of others; by default they are listed now.

    Raises:
        NothingStored: the archive has no trades of the pair.
        FileNotFoundError: compaction removed a file: plan again.
    """
    if files is None:
        pieces, rollups = archive.pieces(query.pair), archive.rollups(query.pair)
    else:
        listed = [file for file in files if file.pair == query.pair]
        segments = [file for file in listed if isinstance(file, Segment)]
        pieces = pieces_of(sorted(segments, key=reading_order))
        rollups = [file for file in listed if isinstance(file, RollUp)]
    if not pieces:
        raise NothingStored(f"the archive at {archive.path} holds no trades of {query.pair}")
    return plan_from_listing(archive, query, pieces, rollups)


def plan_from_listing(
    archive: TradeStore, query: CandleQuery, pieces: list[Piece], rollups: list[RollUp]
) -> Plan:
    """Plan a query from an earlier listing.

    Args:
        archive: where the trades are.
        query: the query.
        pieces: all stored trades of the pair; at least one piece.
        rollups: all roll-ups of the pair.

    Raises:
        FileNotFoundError: compaction removed a file: plan again.
    """
    covered = union(piece.within for piece in pieces)
    # The grid is used from the year of the first trade on: nothing is filled before it, as there is
    # no close to carry, and no first trade yet.
    after = max(query.range.after, pieces[0].within.after, year_end(pieces[0].segment.year - 1))
    through = min(query.range.through, pieces[-1].within.through)
    grid = query.grid(Range(after, max(after, through)))
    covered_inside = [both for run in covered if (both := overlap(run, query.range))]
    # The covered range that the start of the query lies in, if any.
    at_start = next((run for run in covered if run.after < query.range.after < run.through), None)
    bounds = (archive.footer(piece.segment).bounds for piece in pieces)
    return Plan(
        query,
        grid,
        pieces,
        rollups,
        choose_sources(archive, rollups, clip_pieces(pieces, query.range), grid),
        clip_pieces(pieces, Range(at_start.after, query.range.after)) if at_start else [],
        [CoveredRange(run, grid.whole_intervals(run)) for run in covered_inside],
        next((grid.number(times[0]) for times in bounds if times), None),
    )


def check_imports(first: Plan, later: Plan) -> None:
    """Check that no imported trades were downloaded again between two parts of an answer.

    Their times changed by up to a second: a trade may be in both of the parts, or in neither.

    Args:
        first: made when the answer was begun.
        later: of the part that is read now.

    Raises:
        ArchiveDamaged: they were, where the part begins.
    """
    cut_ns = later.query.range.after
    # A file rounds by less than a second.
    near = Range(max(0, cut_ns - SECOND), cut_ns + SECOND)
    before, now = (
        [
            part
            for piece in plan.pieces
            if piece.segment.is_imported and (part := overlap(piece.within, near))
        ]
        for plan in (first, later)
    )
    if cut_ns > first.query.range.after and missing(before, now):
        raise ArchiveDamaged(
            f"imported trades of {first.query.pair} were replaced while they were read: try again"
        )


def clip_pieces(pieces: list[Piece], time_range: Range) -> list[Piece]:
    """Return the parts of pieces that lie in a range.

    Args:
        pieces: parts of segments, in order.
        time_range: the range of published time.
    """
    parts = ((piece, overlap(piece.within, time_range)) for piece in pieces)
    return [Piece(piece.segment, part) for piece, part in parts if part]


# --- parts of a query -----------------------------------------------------------------------------

# Queries are cut where intervals start, so every candle is complete in one part. Grouping a part
# also needs a smaller hash table, which is faster.

PART_CANDLES = 1_000_000


def split_query(
    archive: TradeStore, plan: Plan, part_candles: int = PART_CANDLES
) -> list[CandleQuery]:
    """Cut the query of a plan into queries of a limited number of candles, in order of time.

    Args:
        archive: where the trades are.
        plan: the plan of the whole query.
        part_candles: about how many candles a part may have.

    Raises:
        FileNotFoundError: compaction removed a file: plan again.
    """
    after, through = plan.query.range
    # A piece that begins inside an interval is cut where that interval starts, which may lie
    # before the query's range.
    cuts = sorted({cut for cut in _cuts(archive, plan, part_candles) if after < cut < through})
    ranges = [Range(*bounds) for bounds in pairwise([after, *cuts, through])]
    return [replace(plan.query, range=part) for part in ranges]


def max_candles(archive: TradeStore, plan: Plan) -> int:
    """Return an upper limit for the number of candles with trades, from file names and footers.

    A piece has no more candles than trades, and no more than intervals from its first trade to
    its last. An interval that several pieces share counts once.

    Args:
        archive: where the trades are.
        plan: the plan of the query.

    Raises:
        FileNotFoundError: compaction removed a file: plan again.
    """
    total = 0
    counted_through: int | None = None
    for source in plan.sources:
        segment, within = source.piece
        bounds = archive.footer(segment).bounds
        if bounds is None or bounds[1] <= within.after or bounds[0] > within.through:
            continue
        first = plan.grid.number(max(within.after + 1, bounds[0]))
        last = plan.grid.number(min(within.through, bounds[1]))
        if counted_through is not None:
            first = max(first, counted_through + 1)
        total += max(min(last - first + 1, archive.footer(segment).rows), 0)
        counted_through = last
    return total


def _cuts(archive: TradeStore, plan: Plan, part_candles: int) -> Iterator[int]:
    """Yield the last nanosecond of every part but the last."""
    expected = 0
    for source in plan.sources:
        within = source.piece.within
        first, last = plan.grid.number(within.after + 1), plan.grid.number(within.through)
        if plan.first_trade_number is not None:
            first = max(first, plan.first_trade_number)
        # Empty intervals count if they are filled.
        candles = max(last - first + 1, 0)
        if plan.query.fill == "none" or plan.first_trade_number is None:
            candles = min(candles, archive.footer(source.piece.segment).rows)
        parts = -(-candles // part_candles)
        if expected and expected + candles > part_candles:
            yield plan.grid.start_ns(first) - 1
            expected = 0
        for part in range(1, parts):
            yield plan.grid.start_ns(first + (last - first + 1) * part // parts) - 1
        expected += candles // max(parts, 1)


# --- coverage gaps --------------------------------------------------------------------------------

# Candles over a gap look like those of a quiet market, so every result names the gaps in its
# range.


UNSETTLED_NS = 600 * SECOND
"""Coverage that ends this short before now is up to date: the newest trades are not settled yet."""


def gaps_in(archive: TradeStore, pair: str, time_range: Range, now_ns: int) -> list[Range]:
    """Return the parts of a requested range that are not covered, in order.

    These count: everything between the first and the last covered moment, whether or not it was
    ever requested; what `backfill` was asked for and has not downloaded; and, where the range has
    a beginning or an end, what lies between that and the coverage. The future is no gap, nor are
    the minutes after an up-to-date coverage, if the range ends in the future.

    Args:
        archive: where the trades are.
        pair: the altname.
        time_range: the requested range; from 0 or to the end of time where no bound was given.
        now_ns: what is later is not counted.
    """
    # The record of what was requested is read first: what is downloaded after that is no gap.
    ever_requested, covered = archive.requested(pair), archive.coverage(pair)
    if not covered:
        return []
    time_range = Range(time_range.after, min(time_range.through, END_OF_TIME))
    after = time_range.after if time_range.after > 0 else covered[0].after
    is_up_to_date = covered[-1].through > now_ns - UNSETTLED_NS
    is_open = time_range.through >= (now_ns + 1 if is_up_to_date else END_OF_TIME)
    through = covered[-1].through if is_open else min(time_range.through, now_ns)
    if is_open and after >= through:
        # All that was requested is later than what is covered.
        through = now_ns
    requested = [Range(after, through)] if after < through else []
    past = Range(max(time_range.after, 0), min(time_range.through, now_ns))
    not_downloaded = [overlap(gap, past) for gap in missing(ever_requested, covered)]
    gaps = union([*missing(requested, covered), *filter(None, not_downloaded)])
    return [gap for gap in gaps if gap.through > BEGINNING_NS]


def check_gaps(
    archive: TradeStore, pair: str, ranges: Iterable[Range], now_ns: int, *, strict: bool
) -> tuple[str, ...]:
    """Return the note about gaps in requested ranges, if there are gaps.

    Args:
        archive: where the trades are.
        pair: the altname.
        ranges: the requested ranges.
        now_ns: what is later is not counted.
        strict: raise an error if there are gaps.

    Raises:
        ArchiveHasGaps: there are gaps, and `strict` is set.
    """
    gaps = union(gap for time_range in ranges for gap in gaps_in(archive, pair, time_range, now_ns))
    if strict and gaps:
        since = "start" if gaps[0].after <= 0 else show(gaps[0].after + 1)
        raise ArchiveHasGaps(
            f"{pair}: {gap_note(gaps)}: "
            f"`harvester backfill {pair} --since {since} --until {show(gaps[-1].through + 1)}` "
            "downloads it; without `strict` the answer leaves it out"
        )
    return gap_notes(gaps)


def gap_notes(gaps: Sequence[Range]) -> tuple[str, ...]:
    """Return the note about gaps, or nothing if there are none."""
    return (gap_note(gaps),) if gaps else ()
