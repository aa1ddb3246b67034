"""Where a range is cut in two: pure arithmetic."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.download.estimate import WEEK
from harvester.schema import in_order, times, trade_ids
from harvester.times import Range


class Cut(NamedTuple):
    """A place between two trades where one span ends and the next begins.

    Attributes:
        at: the published time of the trade before it; the next span is everything after it.
        left: what the next span goes on from: that trade's id, the rows without one behind it,
            and its time. None where ids do not tell that the two are neighbours.
        right: what the first span must end before: the next trade's id, and the rows without one
            before it. None likewise.
    """

    at: int
    left: tuple[int, int, int] | None
    right: tuple[int, int] | None


def middle(span: Range, weeks: list[tuple[int, int]]) -> int:
    """The moment with about half of a range's trades on either side.

    Args:
        span: to be cut.
        weeks: trades a week, (open time in ns, count), in order; within a week they are taken to
            be evenly spread. Where they know nothing of the span, it is the middle of the time.
    """
    parts = []
    for opened, count in weeks:
        start, end = max(span.after, opened), min(span.through, opened + WEEK)
        if end > start and count:
            parts.append((start, end, count * (end - start) / WEEK))
    half = sum(trades for *_, trades in parts) / 2
    for start, end, trades in parts:
        if trades >= half:
            return start + round((end - start) * half / trades)
        half -= trades
    return (span.after + span.through) // 2


def cut_between(rows: pa.RecordBatch, within: Range) -> Cut | None:
    """The first place of a page where the tape can be cut in two, both sides known.

    Two trades of different times whose ids go on by one are neighbours for sure: whatever a page
    leaves out, the span that ends there and the one that begins there know the other's edge. Only
    where a page bears no such pair, any two times do, and the seam rests on its overlap alone.

    Args:
        rows: as the exchange sent them, in any order.
        within: only trades in this range are looked at.
    """
    rows = in_order(rows) if rows.num_rows else rows
    stamps, ids = times(rows), trade_ids(rows)
    apart = (
        (stamps[:-1] < stamps[1:]) & (stamps[:-1] > within.after) & (stamps[1:] < within.through)
    )
    sure = apart & (ids[:-1] > 0) & (np.diff(ids) == 1)
    for places, known in ((sure.nonzero()[0], True), (apart.nonzero()[0], False)):
        if len(places):
            at, number = int(stamps[places[0]]), int(ids[places[0]])
            return Cut(at, (number, 0, at), (number + 1, 0)) if known else Cut(at, None, None)
    return None
