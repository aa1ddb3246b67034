"""What a question reads and fills, worked out from one listing of the archive.

Files and coverage come from the same listing: an answer never calls an interval complete whose
trades were committed after it had looked for files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from harvester.errors import NothingHeld
from harvester.query.calendar import grid_of
from harvester.query.grid import Grid, Whole
from harvester.query.question import Question
from harvester.query.sources import Source, choose
from harvester.query.spool import Spool, served_by
from harvester.storage.trade_store import Archive, Piece
from harvester.times import Range, overlap, union, year_end


class Run(NamedTuple):
    """A stretch of coverage inside the span, without a hole, and the intervals it holds whole."""

    range: Range
    whole: Whole


@dataclass(frozen=True, slots=True)
class Plan:
    """What a question reads and fills.

    Attributes:
        held: all that the archive holds of the pair, in the tape's order.
        sources: what of it lies in the span, and what that is read from.
        before: what of it leads up to the span without a hole.
        runs: the coverage inside the span, in order.
        opening: the interval of the first trade held; None where no trade is.
    """

    question: Question
    grid: Grid
    held: list[Piece]
    sources: list[Source]
    before: list[Piece]
    runs: list[Run]
    opening: int | None


def plan(archive: Archive, question: Question, spool: Spool | None = None) -> Plan:
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
    archive: Archive, question: Question, held: list[Piece], spool: Spool | None = None
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
        [Run(one, grid.whole(one)) for one in inside],
        _opening(archive, held, grid),
    )


def _opening(archive: Archive, held: list[Piece], grid: Grid) -> int | None:
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


def _nothing(archive: Archive, pair: str) -> NothingHeld:
    held = archive.held()
    holds = f"it holds {', '.join(held)}" if held else "it is empty"
    return NothingHeld(
        f"the archive at {archive.path} holds no trades of {pair}; {holds}. "
        f"`harvester backfill {pair}` fetches them"
    )
