"""A long question as several short ones, so that memory does not grow with the history.

Spans are cut where intervals open, so each candle is answered whole by one of them; and what
follows in one chunk is grouped in a smaller table, which is faster too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from harvester.query.plan import Plan
from harvester.query.question import Question
from harvester.query.sources import Source
from harvester.storage.trade_store import Archive
from harvester.times import Range

CHUNK_CANDLES = 1_000_000


def chunks(archive: Archive, one: Plan, most: int = CHUNK_CANDLES) -> list[Question]:
    """The question of a plan, cut into questions of about so many candles at most, in order.

    Raises:
        FileNotFoundError: a file is gone; list again.
    """
    after, through = one.question.span
    # A piece that begins inside an interval is cut where that opens, so edges may lie ahead.
    inside = sorted({edge for edge in _edges(archive, one, most) if after < edge < through})
    spans = (Range(*ends) for ends in pairwise([after, *inside, through]))
    return [replace(one.question, span=span) for span in spans]


def most_candles(archive: Archive, one: Plan) -> int:
    """How many candles that saw trades a plan comes to, at most: names and footers tell it.

    A piece has no more of them than trades, nor than intervals from its first trade to its last;
    one that several pieces share counts once.

    Raises:
        FileNotFoundError: a file is gone; list again.
    """
    total = 0
    reached: int | None = None
    for source in one.sources:
        segment, within = source.piece
        bounds = archive.bounds(segment)
        if bounds is None or bounds[1] <= within.after or bounds[0] > within.through:
            continue
        first = one.grid.number(max(within.after + 1, bounds[0]))
        last = one.grid.number(min(within.through, bounds[1]))
        opened = last - (first if reached is None else max(first, reached + 1)) + 1
        total += max(min(opened, archive.footer(segment).rows), 0)
        reached = last
    return total


def _edges(archive: Archive, one: Plan, most: int) -> Iterator[int]:
    """The last nanoseconds of the chunks, but for the last one."""
    expected = 0
    for source in one.sources:
        within = source.piece.within
        first, last = one.grid.number(within.after + 1), one.grid.number(within.through)
        if one.opening is not None:
            first = max(first, one.opening)
        candles = _candles(archive, one, source, last - first + 1)
        parts = -(-candles // most)
        if expected and expected + candles > most:
            yield one.grid.opens(first) - 1
            expected = 0
        for part in range(1, parts):
            yield one.grid.opens(first + (last - first + 1) * part // parts) - 1
        expected += candles // max(parts, 1)


def _candles(archive: Archive, one: Plan, source: Source, intervals: int) -> int:
    """How many candles a piece may come to, at most: empty intervals count where they are shown."""
    if one.question.fill != "none" and one.opening is not None:
        return max(intervals, 0)
    return max(min(intervals, archive.footer(source.piece.segment).rows), 0)
