"""Where trade ids do not go on by one, and what another answer puts there: pure, without I/O."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.columns import Int64s, clip, joined, times, trade_ids
from harvester.times import END_OF_TIME, Range


class Gap(NamedTuple):
    """Two neighbouring trades whose ids leave room for others between them.

    `start` and `stop` tell which of the rows looked at stand between them, without ids. The far
    side of a range's end has `before_ns` END_OF_TIME: its id is known, and not its time.
    """

    after_id: int
    before_id: int
    after_ns: int
    before_ns: int
    start: int = 0
    stop: int = 0

    @property
    def sides(self) -> tuple[int, int]:
        """The ids on either side, which tell it from others."""
        return self.after_id, self.before_id


class Edge(NamedTuple):
    """The last trade with an id so far: where the next id must go on.

    `loose` counts the rows without an id that follow it.
    """

    trade_id: int
    loose: int
    time_ns: int


def find_gaps(edge: Edge | None, rows: pa.RecordBatch) -> tuple[list[Gap], Edge | None]:
    """Where ids do not go on by one, rows without an id between them counted in.

    Returns the gaps in order, and the edge that the next rows must go on from.
    """
    ids = trade_ids(rows)
    if _go_on(edge, ids):
        return [], Edge(int(ids[-1]), 0, int(times(rows)[-1]))
    places = ids.nonzero()[0]
    if len(places) == 0:
        return [], edge and edge._replace(loose=edge.loose + len(ids))
    numbers, stamps = ids[places], times(rows)[places]
    if edge is not None:
        numbers = np.concatenate(([edge.trade_id], numbers))
        stamps = np.concatenate(([edge.time_ns], stamps))
        places = np.concatenate(([-1 - edge.loose], places))
    wide = (np.diff(numbers) > np.diff(places)).nonzero()[0]
    gaps = [
        Gap(
            int(numbers[i]),
            int(numbers[i + 1]),
            int(stamps[i]),
            int(stamps[i + 1]),
            max(0, int(places[i]) + 1),
            int(places[i + 1]),
        )
        for i in wide
    ]
    behind = Edge(int(numbers[-1]), len(ids) - 1 - int(places[-1]), int(stamps[-1]))
    return gaps, behind


def _go_on(edge: Edge | None, ids: Int64s) -> bool:
    """Whether every row has an id, one more than the last: so it is on nearly every page."""
    if len(ids) == 0 or not ids[0] or not (ids[1:] - ids[:-1] == 1).all():
        return False
    return edge is None or int(ids[0]) - edge.trade_id <= edge.loose + 1


def gap_at_end(edge: Edge | None, right: tuple[int, int] | None, rows: pa.RecordBatch) -> list[Gap]:
    """The gap between the last trade with an id and the first one behind the range, if any.

    `right` is that one's id and how many rows without an id stand before it there.
    """
    if edge is None or right is None:
        return []
    number, loose = right
    if number - edge.trade_id - 1 <= edge.loose + loose:
        return []
    start = max(0, rows.num_rows - edge.loose)
    return [Gap(edge.trade_id, number, edge.time_ns, END_OF_TIME, start, rows.num_rows)]


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
