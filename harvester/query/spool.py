"""Partial candles that are kept for a while, so that several lengths come from one reading.

They serve as roll-ups do, but by spans of time instead of segments: what was traded in a span
that is covered never changes, whatever becomes of the files meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from harvester.query.sources import TICKS, Source, whole_buckets
from harvester.storage.segment import Segment
from harvester.storage.trade_store import Piece
from harvester.times import Range, missing, overlap, union


class Spooled(NamedTuple):
    """A file of partial candles in order, as `_from_partials` reads them, of all of a range.

    The range is covered from end to end: there is no hole in it.
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
    for run in union(one.piece.within for one in sources):
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
    for one in sources:
        for span in missing([one.piece.within], spans):
            yield Source(Piece(one.piece.segment, span), None)
