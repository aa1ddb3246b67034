"""Find the point where a range is split in two, so that both parts are downloaded at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.download.estimate import WEEK
from harvester.schema import sort_rows, times, trade_ids
from harvester.times import Range


class SplitPoint(NamedTuple):
    """A point between two trades where one part of a range ends and the next begins.

    Attributes:
        at: the published time of the trade before it; the next part is everything after it.
        left: what the next part continues: that trade's id, the rows without one behind it, and
            its time. None where ids do not show that the two trades are neighbours.
        right: what the first part must end before: the next trade's id, and the rows without one
            before it. None in the same case.
    """

    at: int
    left: tuple[int, int, int] | None
    right: tuple[int, int] | None


def middle(within: Range, weeks: list[tuple[int, int]]) -> int:
    """The time with about half of a range's trades on either side.

    Args:
        within: the range to be split.
        weeks: trades of each week as (open time in ns, count), in order, spread evenly within a
            week. Where they do not cover the range, the result is the middle of its time.
    """
    parts = []
    for open_ns, count in weeks:
        start, end = max(within.after, open_ns), min(within.through, open_ns + WEEK)
        if end > start and count:
            parts.append((start, end, count * (end - start) / WEEK))
    half = sum(trades for *_, trades in parts) / 2
    for start, end, trades in parts:
        if trades >= half:
            return start + round((end - start) * half / trades)
        half -= trades
    return (within.after + within.through) // 2


def cut_between(rows: pa.RecordBatch, within: Range) -> SplitPoint | None:
    """The first place of a page where the trade history can be split, with both sides known.

    Two trades of different times whose ids differ by one are certainly neighbours: whatever a page
    leaves out, the part that ends there and the one that begins there know the other's edge. Only
    where a page has no such trades, any two times do, and the parts meet by their overlap alone.

    Args:
        rows: as the exchange sent them, in any order.
        within: only trades in this range are considered.
    """
    rows = sort_rows(rows) if rows.num_rows else rows
    stamps, ids = times(rows), trade_ids(rows)
    apart = (
        (stamps[:-1] < stamps[1:]) & (stamps[:-1] > within.after) & (stamps[1:] < within.through)
    )
    neighbours = (apart & (ids[:-1] > 0) & (np.diff(ids) == 1)).nonzero()[0]
    if len(neighbours):
        at, trade_id = int(stamps[neighbours[0]]), int(ids[neighbours[0]])
        return SplitPoint(at, (trade_id, 0, at), (trade_id + 1, 0))
    places = apart.nonzero()[0]
    return SplitPoint(int(stamps[places[0]]), None, None) if len(places) else None
