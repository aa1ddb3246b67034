"""Where trade ids do not go on by one: pure, without I/O."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.columns import Int64s, times, trade_ids
from harvester.times import END_OF_TIME


class Gap(NamedTuple):
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


class Edge(NamedTuple):
    """The last trade with an id so far: where the next id must go on.

    `loose` counts the rows without an id that follow it.
    """

    trade_id: int
    loose: int
    time_ns: int


BEGINNING = Edge(0, 0, 0)
"""Before the first trade of a market: its ids begin with 1 (docs/kraken.md)."""


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
            int(places[i + 1] - places[i]) - 1,
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
    between = edge.loose + loose
    if number - edge.trade_id - 1 <= between:
        return []
    start = max(0, rows.num_rows - edge.loose)
    return [Gap(edge.trade_id, number, edge.time_ns, END_OF_TIME, start, rows.num_rows, between)]
