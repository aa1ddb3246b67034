"""What another answer puts where trade ids do not go on by one: pure, without I/O."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from harvester.columns import Int64s, clip, times, trade_ids
from harvester.download.order import unite
from harvester.storage.skips import BEGINNING, Gap
from harvester.times import END_OF_TIME, Range


def mend(
    rows: pa.RecordBatch, gaps: list[Gap], found: pa.RecordBatch, within: Range
) -> pa.RecordBatch:
    """Unite rows with what another answer shows from one side of each gap to the other.

    The trades on either side count in: where that answer shows them with another price or volume,
    these are trades of their own.

    Args:
        rows: those that the gaps were found in.
        gaps: where it was asked for again, in order.
        found: that answer's rows, in order.
        within: only rows published in this range are taken.
    """
    ids, stamps = trade_ids(found), times(found)
    shown = np.zeros(len(ids), dtype=np.bool_)
    for gap in gaps:
        sides = _sides(ids, stamps, gap)
        if sides is not None:
            left, right = sides
            shown[max(0, left[0]) : right[-1] + 1] = True
    if not shown.any():
        return rows
    return unite(rows, clip(found.filter(pa.array(shown)), within))


def shown_between(found: pa.RecordBatch, gap: Gap) -> pa.RecordBatch | None:
    """What an answer shows between the sides of a gap; None where it does not show both.

    The side before a market's first trade (id 0) is shown by every answer from `since=0`.
    """
    sides = _sides(trade_ids(found), times(found), gap)
    if sides is None:
        return None
    first, last = int(sides[0][-1]), int(sides[1][0])
    return found.slice(first + 1, last - first - 1)


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
    stamps = times(found)
    sides = _sides(trade_ids(found), stamps, gap)
    if sides is None:
        return None
    first, last = int(sides[0][-1]), int(sides[1][0])
    between = stamps[first + 1 : last]
    early = between[between <= within.after]
    late = between[between > within.through]
    if len(early):
        start_ns = gap.after_ns if int(early[0]) > gap.after_ns else gap.after_ns - 1
        return Range(max(0, start_ns), within.after)
    if len(late):
        right_ns = int(stamps[last])
        return Range(within.through, right_ns if int(late[-1]) == right_ns else right_ns - 1)
    return None


def _sides(ids: Int64s, stamps: Int64s, gap: Gap) -> tuple[Int64s, Int64s] | None:
    """Where the trades on either side of a gap stand; None where one side is not shown.

    Several trades may bear the id and the time of a side. Before the first trade of a market is
    the place -1.
    """
    left = np.array([-1])
    if gap.after_id != BEGINNING.trade_id:
        left = _places(ids, stamps, gap.after_id, gap.after_ns)
    right = _places(ids, stamps, gap.before_id, gap.before_ns)
    right = right[right > left[0]] if len(left) else right[:0]
    if len(right) == 0:
        return None
    if gap.before_ns == END_OF_TIME:
        right = right[:1]
    return left[left < right[0]], right


def _places(ids: Int64s, stamps: Int64s, number: int, stamp: int) -> Int64s:
    """Where a trade stands: by id and time, as ids that start anew may come twice."""
    same = ids == number
    places: Int64s = (same if stamp == END_OF_TIME else same & (stamps == stamp)).nonzero()[0]
    return places
