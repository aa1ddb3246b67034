"""What another answer puts where trade ids do not go on by one: pure, without I/O."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from harvester.archive.skips import Gap
from harvester.columns import Int64s, clip, times, trade_ids
from harvester.crawl.order import unite
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
            shown[left[0] : right[-1] + 1] = True
    if not shown.any():
        return rows
    return unite(rows, clip(found.filter(pa.array(shown)), within))


def shown_between(found: pa.RecordBatch, gap: Gap) -> pa.RecordBatch | None:
    """What an answer shows between the sides of a gap; None where it does not show both."""
    sides = _sides(trade_ids(found), times(found), gap)
    if sides is None:
        return None
    first, last = int(sides[0][-1]), int(sides[1][0])
    return found.slice(first + 1, last - first - 1)


def _sides(ids: Int64s, stamps: Int64s, gap: Gap) -> tuple[Int64s, Int64s] | None:
    """Where the trades on either side of a gap stand; None where one side is not shown.

    Several trades may bear the id and the time of a side.
    """
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
