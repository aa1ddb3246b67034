"""What of a chart's span was never fetched: shaded, the widest of it named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harvester.query.candle_query import Question
from harvester.storage.trade_store import Archive
from harvester.times import (
    BEGINNING_NS,
    END_OF_TIME,
    Range,
    missing,
    overlap,
    union,
)

LEAST = 1 / 600
"""So wide is a hole at least, of the chart's width, that it can be seen."""

NAMED = 5
"""So many holes are named on the chart, the widest; hundreds of names can't be read."""

APART = 1 / 25
"""Names stand at least so far from each other, of the chart's width."""


class Frame(NamedTuple):
    """What a chart shows.

    Attributes:
        shown: from when to when the time axis reaches.
        told: the span that the title names.
        holes: what in it is not fetched, in order.
    """

    shown: Range
    told: Range
    holes: list[Range]


def frame_of(archive: Archive, question: Question, candles: Range, now_ns: int) -> Frame:
    """From when to when a chart reaches, and what of it is not fetched.

    It reaches from `since` to `until` where they are given; else from the first candle to the last,
    and over what was ever wanted and is not held.

    Args:
        archive: where the tape is.
        question: what is asked.
        candles: from when the first one opens to when the last one ends.
        now_ns: what is yet to come is no hole.
    """
    covered = archive.coverage(question.pair)
    since, until = question.span
    told = Range(
        since if since > 0 else candles.after,
        until if until <= now_ns else min(candles.through, covered[-1].through),
    )
    asked = [overlap(one, question.span) for one in archive.holes(question.pair)]
    holes = union([*missing([told], covered), *filter(None, asked)])
    # A history that was wanted from the beginning of all time on has no edge to show.
    after = min([told.after, *(one.after for one in holes if one.after >= BEGINNING_NS)])
    through = max([told.through, *(one.through for one in holes if one.through < END_OF_TIME)])
    return Frame(
        Range(min(after, candles.after), max(through, candles.through)),
        Range(after, through),
        [one for one in holes if one.through > BEGINNING_NS],
    )


def shades(frame: Frame) -> list[Range]:
    """What to shade, in order: each hole, wide enough to be seen; those so close are one."""
    least = int((frame.shown.through - frame.shown.after) * LEAST)
    found = []
    for hole in frame.holes:
        one = overlap(hole, frame.shown)
        if one is not None:
            missing_ns = max(least - (one.through - one.after), 0)
            found.append(Range(one.after - missing_ns // 2, one.through + missing_ns // 2))
    return union(found)


def named(frame: Frame) -> list[Range]:
    """The holes to name, in order: the widest ones, as far apart as names need."""
    width = frame.shown.through - frame.shown.after
    apart = width * APART
    # A name beside a line among hundreds tells nothing of which one is meant.
    least = 0 if len(frame.holes) <= NAMED else width * LEAST
    seen = [one for one in frame.holes if one.through - one.after >= least]
    found: list[Range] = []
    for hole in sorted(seen, key=lambda one: one.after - one.through):
        clear = all(abs(middle(hole, frame) - middle(one, frame)) >= apart for one in found)
        if clear and overlap(hole, frame.shown) and len(found) < NAMED:
            found.append(hole)
    return sorted(found)


def middle(hole: Range, frame: Frame) -> int:
    """The moment in the middle of what is seen of a hole."""
    seen = overlap(hole, frame.shown) or hole
    return (seen.after + seen.through) // 2


def name(hole: Range) -> str:
    """What is said of a hole."""
    return f"not downloaded: {hole}"


def note(holes: Sequence[Range]) -> str:
    """What is said of all holes together."""
    if len(holes) == 1:
        return name(holes[0])
    widest = max(holes, key=lambda one: one.through - one.after)
    return f"{len(holes):,} ranges are not downloaded, the widest from {widest}"
