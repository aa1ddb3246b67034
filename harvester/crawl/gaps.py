"""What another answer puts where trade ids do not go on by one: pure, without I/O."""

from __future__ import annotations

import pyarrow as pa

from harvester.archive.skips import Gap
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
    """What an answer shows between the sides of a gap; None where it does not show both."""
    ids, stamps = trade_ids(found), times(found)
    first = _places(ids, stamps, gap.after_id, gap.after_ns)
    last = _places(ids, stamps, gap.before_id, gap.before_ns)
    last = last[last > first[0]] if len(first) else last[:0]
    if len(last) == 0:
        return None
    return found.slice(int(first[0]) + 1, int(last[0]) - int(first[0]) - 1)


def _places(ids: Int64s, stamps: Int64s, number: int, stamp: int) -> Int64s:
    """Where a trade stands: by id and time, as ids that start anew may come twice."""
    same = ids == number
    places: Int64s = (same if stamp == END_OF_TIME else same & (stamps == stamp)).nonzero()[0]
    return places
