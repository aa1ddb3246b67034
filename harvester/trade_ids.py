"""Find gaps in trade ids, and fill them with rows of a later answer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.schema import Int64s, clip, times, trade_ids, unite
from harvester.times import END_OF_TIME, Range

# --- skips ----------------------------------------------------------------------------------------


class IdGap(NamedTuple):
    """Two neighbouring trades whose ids leave room for others between them.

    `start` and `stop` tell which of the rows looked at stand between them, without ids; `rows`
    how many do in all, those in front of these rows and behind them counted in. The far side of a
    range's end has `before_ns` END_OF_TIME: its id is known, and not its time.
    """

    after_id: int
    before_id: int
    after_ns: int
    before_ns: int
    start: int = 0
    stop: int = 0
    rows: int = 0

    @property
    def sides(self) -> tuple[int, int]:
        """The ids on either side, which tell it from others."""
        return self.after_id, self.before_id


def across_file(pair: str, after_id: int, before_id: int, rows: int) -> str:
    """What is said where ids leave room for more trades than a file, which has no ids, told there.

    The file lacks some, or the exchange skips ids: neither is proved.
    """
    return (
        f"between ids {after_id} and {before_id} a file told {rows:,} trades, and the ids leave "
        f"room for {before_id - after_id - 1:,}: it lacks some, or ids skip there; "
        f"`harvester backfill {pair} --upgrade` fetches them anew"
    )


class LastId(NamedTuple):
    """The last trade with an id so far: where the next id must go on.

    `loose` counts the rows without an id that follow it.
    """

    trade_id: int
    loose: int
    time_ns: int


BEGINNING = LastId(0, 0, 0)
"""Before the first trade of a market: its ids begin with 1 (docs/kraken.md)."""


def find_gaps(edge: LastId | None, rows: pa.RecordBatch) -> tuple[list[IdGap], LastId | None]:
    """Where ids do not go on by one, rows without an id between them counted in.

    Returns the gaps in order, and the edge that the next rows must go on from.
    """
    ids = trade_ids(rows)
    if _go_on(edge, ids):
        return [], LastId(int(ids[-1]), 0, int(times(rows)[-1]))
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
        IdGap(
            int(numbers[i]),
            int(numbers[i + 1]),
            int(stamps[i]),
            int(stamps[i + 1]),
            max(0, int(places[i]) + 1),
            int(places[i + 1]),
            int(places[i + 1] - places[i]) - 1,
        )
        for i in wide
    ]
    behind = LastId(int(numbers[-1]), len(ids) - 1 - int(places[-1]), int(stamps[-1]))
    return gaps, behind


def _go_on(edge: LastId | None, ids: Int64s) -> bool:
    """Whether every row has an id, one more than the last: so it is on nearly every page."""
    if len(ids) == 0 or not ids[0] or not (ids[1:] - ids[:-1] == 1).all():
        return False
    return edge is None or int(ids[0]) - edge.trade_id <= edge.loose + 1


def gap_at_end(
    edge: LastId | None, right: tuple[int, int] | None, rows: pa.RecordBatch
) -> list[IdGap]:
    """The gap between the last trade with an id and the first one behind the range, if any.

    `right` is that one's id and how many rows without an id stand before it there.
    """
    if edge is None or right is None:
        return []
    number, loose = right
    between = edge.loose + loose
    if number - edge.trade_id - 1 <= between:
        return []
    start = max(0, rows.num_rows - edge.loose)
    return [IdGap(edge.trade_id, number, edge.time_ns, END_OF_TIME, start, rows.num_rows, between)]


# --- gaps -----------------------------------------------------------------------------------------


def mend(
    rows: pa.RecordBatch, gaps: list[IdGap], found: pa.RecordBatch, within: Range
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


def shown_between(found: pa.RecordBatch, gap: IdGap) -> pa.RecordBatch | None:
    """What an answer shows between the sides of a gap; None where it does not show both.

    The side before a market's first trade (id 0) is shown by every answer from `since=0`.
    """
    sides = _sides(trade_ids(found), times(found), gap)
    if sides is None:
        return None
    first, last = int(sides[0][-1]), int(sides[1][0])
    return found.slice(first + 1, last - first - 1)


def lost_range(found: pa.RecordBatch, gap: IdGap, within: Range) -> Range | None:
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


def _sides(ids: Int64s, stamps: Int64s, gap: IdGap) -> tuple[Int64s, Int64s] | None:
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
