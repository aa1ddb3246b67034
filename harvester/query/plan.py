"""Query planning: which segments and roll-ups answer a candle query, and where its gaps are.

Segments and coverage come from one directory listing, so no interval is called complete while its
trades are missing from the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from harvester.errors import ArchiveHasGaps, NothingHeld
from harvester.query.calendar import Grid, WholeGrid
from harvester.query.candle_query import CandleQuery, grid_of
from harvester.query.sources import Source, Spool, choose, served_by
from harvester.storage.trade_store import Piece, TradeStore
from harvester.times import (
    BEGINNING_NS,
    DAY,
    END_OF_TIME,
    SECOND,
    Range,
    missing,
    overlap,
    show,
    union,
    year_end,
)

# --- plan -----------------------------------------------------------------------------------------

# Files and coverage come from the same listing: an answer never calls an interval complete whose
# trades were committed after it had looked for files.


class PlannedRun(NamedTuple):
    """A stretch of coverage inside the span, without a gap, and the intervals it holds whole."""

    range: Range
    whole: WholeGrid


@dataclass(frozen=True, slots=True)
class Plan:
    """What a question reads and fills.

    Attributes:
        held: all that the archive holds of the pair, in the tape's order.
        sources: what of it lies in the span, and what that is read from.
        before: what of it leads up to the span without a gap.
        runs: the coverage inside the span, in order.
        opening: the interval of the first trade held; None where no trade is.
    """

    question: CandleQuery
    grid: Grid
    held: list[Piece]
    sources: list[Source]
    before: list[Piece]
    runs: list[PlannedRun]
    opening: int | None


def plan(archive: TradeStore, question: CandleQuery, spool: Spool | None = None) -> Plan:
    """List the archive once, and work out what a question reads and fills.

    Args:
        archive: where the tape is.
        question: what is asked.
        spool: what has been read already, if its partial candles add up to those of the question.

    Raises:
        NothingHeld: the archive holds nothing of the pair.
        FileNotFoundError: a file is gone; list again.
    """
    held = archive.pieces(question.pair)
    if not held:
        raise _nothing(archive, question.pair)
    return of_listing(archive, question, held, spool)


def of_listing(
    archive: TradeStore, question: CandleQuery, held: list[Piece], spool: Spool | None = None
) -> Plan:
    """Work out what a question reads and fills, by a listing that was made before.

    Args:
        archive: where the tape is.
        question: what is asked.
        held: all that the archive holds of the pair, at least something.
        spool: see `plan`.

    Raises:
        FileNotFoundError: a file is gone; list again.
    """
    span = question.span
    covered = union(piece.within for piece in held)
    grid = grid_of(question, _laid(span, held))
    inside = [both for run in covered if (both := overlap(run, span))]
    sources = choose(archive, question.pair, clipped(held, span), grid)
    leading = next((run for run in covered if run.after < span.after < run.through), None)
    return Plan(
        question,
        grid,
        held,
        sources if spool is None else served_by(spool, sources),
        clipped(held, Range(leading.after, span.after)) if leading else [],
        [PlannedRun(one, grid.whole(one)) for one in inside],
        _opening(archive, held, grid),
    )


def _opening(archive: TradeStore, held: list[Piece], grid: Grid) -> int | None:
    bounds = (archive.bounds(piece.segment) for piece in held)
    return next((grid.number(times[0]) for times in bounds if times), None)


def _laid(span: Range, held: list[Piece]) -> Range:
    """Where the grid must be known: in the span, from the year of the first trade held on.

    Before it there is nothing to fill either: no close to carry, no first trade yet.
    """
    after = max(span.after, held[0].within.after, year_end(held[0].segment.year - 1))
    return Range(after, max(after, min(span.through, held[-1].within.through)))


def clipped(pieces: list[Piece], span: Range) -> list[Piece]:
    """What of some pieces lies in a span."""
    parts = ((piece, overlap(piece.within, span)) for piece in pieces)
    return [Piece(piece.segment, part) for piece, part in parts if part]


def _nothing(archive: TradeStore, pair: str) -> NothingHeld:
    held = archive.held()
    holds = f"it holds {', '.join(held)}" if held else "it is empty"
    return NothingHeld(
        f"the archive at {archive.path} holds no trades of {pair}; {holds}. "
        f"`harvester backfill {pair}` fetches them"
    )


# --- chunks ---------------------------------------------------------------------------------------

# Spans are cut where intervals open, so each candle is answered whole by one of them; and what
# follows in one chunk is grouped in a smaller table, which is faster too.

CHUNK_CANDLES = 1_000_000


def chunks(archive: TradeStore, plan: Plan, most: int = CHUNK_CANDLES) -> list[CandleQuery]:
    """The question of a plan, cut into questions of about so many candles at most, in order.

    Raises:
        FileNotFoundError: a file is gone; list again.
    """
    after, through = plan.question.span
    # A piece that begins inside an interval is cut where that opens, so edges may lie ahead.
    inside = sorted({edge for edge in _edges(archive, plan, most) if after < edge < through})
    spans = (Range(*ends) for ends in pairwise([after, *inside, through]))
    return [replace(plan.question, span=span) for span in spans]


def most_candles(archive: TradeStore, plan: Plan) -> int:
    """How many candles that saw trades a plan comes to, at most: names and footers tell it.

    A piece has no more of them than trades, nor than intervals from its first trade to its last;
    one that several pieces share counts once.

    Raises:
        FileNotFoundError: a file is gone; list again.
    """
    total = 0
    reached: int | None = None
    for source in plan.sources:
        segment, within = source.piece
        bounds = archive.bounds(segment)
        if bounds is None or bounds[1] <= within.after or bounds[0] > within.through:
            continue
        first = plan.grid.number(max(within.after + 1, bounds[0]))
        last = plan.grid.number(min(within.through, bounds[1]))
        opened = last - (first if reached is None else max(first, reached + 1)) + 1
        total += max(min(opened, archive.footer(segment).rows), 0)
        reached = last
    return total


def _edges(archive: TradeStore, plan: Plan, most: int) -> Iterator[int]:
    """The last nanoseconds of the chunks, but for the last one."""
    expected = 0
    for source in plan.sources:
        within = source.piece.within
        first, last = plan.grid.number(within.after + 1), plan.grid.number(within.through)
        if plan.opening is not None:
            first = max(first, plan.opening)
        candles = _candles(archive, plan, source, last - first + 1)
        parts = -(-candles // most)
        if expected and expected + candles > most:
            yield plan.grid.opens(first) - 1
            expected = 0
        for part in range(1, parts):
            yield plan.grid.opens(first + (last - first + 1) * part // parts) - 1
        expected += candles // max(parts, 1)


def _candles(archive: TradeStore, plan: Plan, source: Source, intervals: int) -> int:
    """How many candles a piece may come to, at most: empty intervals count where they are shown."""
    if plan.question.fill != "none" and plan.opening is not None:
        return max(intervals, 0)
    return max(min(intervals, archive.footer(source.piece.segment).rows), 0)


# --- coverage gaps --------------------------------------------------------------------------------

# An answer over a gap looks like one over a quiet market, so each says which gaps it spans.

NAMED = 5
"""So many gaps are named in a sentence, the first ones; of more, their number and total length."""


def gaps_in(archive: TradeStore, pair: str, span: Range, now_ns: int) -> list[Range]:
    """What of a requested range is not covered, in order.

    These count: everything between the first and the last covered moment, whether or not it was
    ever requested; what `backfill` was asked for and has not downloaded; and, where the range has
    a beginning or an end, what lies between that and the coverage. The future is no gap.

    Args:
        archive: where the trades are.
        pair: the altname.
        span: the requested range; from 0 or to the end of time where no bound was given.
        now_ns: what is later is not counted.
    """
    covered = archive.coverage(pair)
    if not covered:
        return []
    span = Range(span.after, min(span.through, END_OF_TIME))
    after = span.after if span.after > 0 else covered[0].after
    is_open = span.through > now_ns
    through = covered[-1].through if is_open else span.through
    if is_open and after >= through:
        # All that was requested is later than what is covered.
        through = now_ns
    requested = [Range(after, through)] if after < through else []
    ever = Range(max(span.after, 0), min(span.through, now_ns))
    wanted = [overlap(gap, ever) for gap in archive.gaps(pair)]
    found = union([*missing(requested, covered), *filter(None, wanted)])
    return [gap for gap in found if gap.through > BEGINNING_NS]


def gap_note(gaps: Sequence[Range]) -> str:
    """One sentence that names gaps, at least one: `not downloaded: 2024-01-01 to 2025-01-01`."""
    named = ", ".join(str(gap) for gap in gaps[:NAMED])
    if len(gaps) <= NAMED:
        return f"not downloaded: {named}"
    total_ns = sum(gap.through - max(gap.after, BEGINNING_NS) for gap in gaps)
    return (
        f"not downloaded: {named} and {len(gaps) - NAMED:,} more; {len(gaps):,} gaps, "
        f"{_length(total_ns)} in total"
    )


def checked(
    archive: TradeStore, pair: str, spans: Iterable[Range], now_ns: int, *, strict: bool
) -> tuple[str, ...]:
    """What is to be known of an answer over some ranges: the sentence about gaps, if there are any.

    Raises:
        ArchiveHasGaps: there are, and the query is strict.
    """
    gaps = union(gap for span in spans for gap in gaps_in(archive, pair, span, now_ns))
    if strict:
        refuse_gaps(pair, gaps)
    return gap_notes(gaps)


def gap_notes(gaps: Sequence[Range]) -> tuple[str, ...]:
    """The sentence about gaps, if there are any."""
    return (gap_note(gaps),) if gaps else ()


def refuse_gaps(pair: str, gaps: Sequence[Range]) -> None:
    """End a strict query that spans gaps.

    Raises:
        ArchiveHasGaps: there are gaps.
    """
    if not gaps:
        return
    since = "start" if gaps[0].after <= 0 else show(gaps[0].after + 1)
    raise ArchiveHasGaps(
        f"{pair}: {gap_note(gaps)}: "
        f"`harvester backfill {pair} --since {since} --until {show(gaps[-1].through + 1)}` "
        "downloads it; without --strict the answer leaves it out"
    )


def _length(total_ns: int) -> str:
    for unit, width_ns in (("days", DAY), ("hours", 3600 * SECOND), ("minutes", 60 * SECOND)):
        if total_ns >= 2 * width_ns:
            return f"{total_ns / width_ns:,.1f} {unit}"
    return f"{total_ns / SECOND:,.9f}".rstrip("0").rstrip(".") + " seconds"
