"""Where trade ids do not go on by one, and what another answer puts there: pure, without I/O."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.columns import Int64s, clip, joined, times, trade_ids
from harvester.times import Range


class Gap(NamedTuple):
    """Two neighbouring trades whose ids leave room for others between them."""

    after_id: int
    before_id: int
    after_ns: int
    before_ns: int


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
        Gap(int(numbers[i]), int(numbers[i + 1]), int(stamps[i]), int(stamps[i + 1])) for i in wide
    ]
    behind = Edge(int(numbers[-1]), len(ids) - 1 - int(places[-1]), int(stamps[-1]))
    return gaps, behind


def mend(
    rows: pa.RecordBatch, gaps: list[Gap], found: pa.RecordBatch, within: Range
) -> pa.RecordBatch:
    """Put into the gaps what another answer shows there.

    A gap's sides that are not among `rows` lie in the neighbouring ranges.

    Args:
        rows: the tape so far, in order.
        gaps: where it was asked for again, in order.
        found: that answer's rows, in order.
        within: only rows published in this range are taken.
    """
    shown, ours = trade_ids(found), trade_ids(rows)
    parts: list[pa.RecordBatch] = []
    done = 0
    for gap in gaps:
        first, last = _place(shown, gap.after_id), _place(shown, gap.before_id)
        if first is None or last is None:
            continue
        start, stop = _place(ours, gap.after_id), _place(ours, gap.before_id)
        start = 0 if start is None else start + 1
        stop = rows.num_rows if stop is None else stop
        between = clip(found.slice(first + 1, max(0, last - first - 1)), within)
        if between.num_rows > stop - start:
            parts += [rows.slice(done, start - done), between]
            done = stop
    parts.append(rows.slice(done))
    return joined([part for part in parts if part.num_rows])


def spans(found: pa.RecordBatch, gap: Gap) -> bool:
    """Whether an answer shows both sides of a gap, so that what it leaves out is not there."""
    ids = trade_ids(found)
    return bool((ids == gap.after_id).any() and (ids == gap.before_id).any())


def _place(ids: Int64s, number: int) -> int | None:
    places = (ids == number).nonzero()[0]
    return int(places[0]) if len(places) else None
