"""What another answer puts where trade ids do not go on by one: pure, without I/O."""

from __future__ import annotations

import pyarrow as pa

from harvester.archive.skips import BEGINNING, Gap
from harvester.columns import Int64s, clip, joined, times, trade_ids
from harvester.times import END_OF_TIME, Range


def mend(
    rows: pa.RecordBatch, gaps: list[Gap], found: pa.RecordBatch, within: Range
) -> pa.RecordBatch:
    """Put into the gaps what another answer shows there.

    Args:
        rows: those that the gaps were found in.
        gaps: where it was asked for again, in order.
        found: that answer's rows, in order.
        within: only rows published in this range are taken.
    """
    parts: list[pa.RecordBatch] = []
    done = 0
    for gap in gaps:
        shown = shown_between(found, gap)
        if shown is None:
            continue
        between = clip(shown, within)
        if between.num_rows > gap.stop - gap.start:
            parts += [rows.slice(done, gap.start - done), between]
            done = gap.stop
    parts.append(rows.slice(done))
    return joined([part for part in parts if part.num_rows])


def shown_between(found: pa.RecordBatch, gap: Gap) -> pa.RecordBatch | None:
    """What an answer shows between the sides of a gap; None where it does not show both.

    The side before a market's first trade (id 0) is shown by every answer from `since=0`.
    """
    sides = _sides(found, gap)
    return None if sides is None else found.slice(sides[0] + 1, sides[1] - sides[0] - 1)


def lost_range(found: pa.RecordBatch, gap: Gap, within: Range) -> Range | None:
    """The range outside of `within` in which an answer shows trades that belong into a gap.

    It begins behind the trade on the gap's left side and ends before the one on its right, or
    contains their whole groups of equal time where a lost trade shares it.

    Args:
        found: the answer's rows, in order.
        gap: at one edge of `within`.
        within: the range that was downloaded; what lies in it is not lost.

    Returns:
        None where the answer shows no such trade, or not both sides of the gap.
    """
    sides = _sides(found, gap)
    if sides is None:
        return None
    stamps = times(found)
    between = stamps[sides[0] + 1 : sides[1]]
    early = between[between <= within.after]
    late = between[between > within.through]
    if len(early):
        start_ns = gap.after_ns if int(early[0]) > gap.after_ns else gap.after_ns - 1
        return Range(max(0, start_ns), within.after)
    if len(late):
        right_ns = int(stamps[sides[1]])
        return Range(within.through, right_ns if int(late[-1]) == right_ns else right_ns - 1)
    return None


def _sides(found: pa.RecordBatch, gap: Gap) -> tuple[int, int] | None:
    """The places of the rows on both sides of a gap; -1 for the one before the first trade."""
    ids, stamps = trade_ids(found), times(found)
    first = -1
    if gap.after_id != BEGINNING.trade_id:
        places = _places(ids, stamps, gap.after_id, gap.after_ns)
        if len(places) == 0:
            return None
        first = int(places[0])
    last = _places(ids, stamps, gap.before_id, gap.before_ns)
    last = last[last > first]
    return (first, int(last[0])) if len(last) else None


def _places(ids: Int64s, stamps: Int64s, number: int, stamp: int) -> Int64s:
    """Where a trade stands: by id and time, as ids that start anew may come twice."""
    same = ids == number
    places: Int64s = (same if stamp == END_OF_TIME else same & (stamps == stamp)).nonzero()[0]
    return places
