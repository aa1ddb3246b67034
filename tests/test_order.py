"""The tape's order, and what pages have in common, as plain loops over the rows tell it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_columns import batch

from harvester.archive.skips import Edge, find_gaps
from harvester.columns import times, trade_ids
from harvester.crawl.order import in_order, unite

Row = tuple[int, int]
"""An id, 0 for none, and a published time."""


def rows_of(rows: list[Row]) -> pa.RecordBatch:
    """Rows of these ids and times."""
    made = batch([stamp for _, stamp in rows])
    ids = pa.array([number or None for number, _ in rows], pa.int64())
    return made.set_column(0, made.schema.field("trade_id"), ids)


def told(rows: pa.RecordBatch) -> list[Row]:
    """The ids and times of rows."""
    return list(zip(trade_ids(rows).tolist(), times(rows).tolist(), strict=True))


def ordered(rows: list[Row]) -> list[Row]:
    """By time, then id, a row without one behind the row it followed; repeats dropped."""
    by_time = sorted(rows, key=lambda row: row[1])
    keys: list[int] = []
    for place, (number, stamp) in enumerate(by_time):
        follows = place and by_time[place - 1][1] == stamp and not number
        keys.append(keys[-1] if follows else number)
    by_key = [row for _, row in sorted(zip(keys, by_time, strict=True), key=_stamp_and_key)]
    kept = by_key[:1]
    kept += [row for before, row in pairwise(by_key) if row != before or not row[0]]
    return kept


def _stamp_and_key(item: tuple[int, Row]) -> tuple[int, int]:
    key, (_, stamp) = item
    return stamp, key


ROWS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=12)
LIKE_A_PAGE = st.integers(1, 9).flatmap(
    lambda first: st.lists(st.integers(1, 5), min_size=1, max_size=12).map(
        lambda stamps: [(first + at, stamp) for at, stamp in enumerate(sorted(stamps))]
    )
)


@settings(deadline=None)
@given(ROWS | LIKE_A_PAGE)
@example([(1, 1), (2, 1), (2, 1), (3, 2)])
@example([(0, 1), (1, 1), (2, 2)])
def test_rows_come_by_time_and_id_without_repeats(rows: list[Row]) -> None:
    assert told(in_order(rows_of(rows))) == ordered(rows)


GROUP = st.lists(st.integers(1, 9), unique=True, min_size=1, max_size=6).map(sorted)


@settings(deadline=None)
@given(GROUP, GROUP)
@example([1, 2], [1, 2, 3])
@example([1, 2, 3], [1, 2])
@example([1, 3], [1, 2, 3])
def test_two_views_of_one_stamp_hold_what_either_shows(held: list[int], new: list[int]) -> None:
    united = unite(rows_of([(one, 7) for one in held]), rows_of([(one, 7) for one in new]))
    assert told(united) == [(one, 7) for one in sorted({*held, *new})]


def gaps_by_hand(edge: Edge | None, rows: list[Row]) -> tuple[list[tuple[int, int]], Any]:
    """The sides of each gap, and the last id with the rows behind it and its time."""
    found = []
    last = edge
    for number, stamp in rows:
        if not number:
            last = last and last._replace(loose=last.loose + 1)
            continue
        if last and number - last.trade_id - 1 > last.loose:
            found.append((last.trade_id, number))
        last = Edge(number, 0, stamp)
    return found, last


EDGES = st.none() | st.builds(Edge, st.integers(1, 9), st.integers(0, 3), st.just(1))


@settings(deadline=None)
@given(EDGES, ROWS | LIKE_A_PAGE)
@example(Edge(4, 0, 1), [(5, 1), (6, 2)])
@example(Edge(4, 0, 1), [(6, 1), (7, 2)])
@example(Edge(4, 1, 1), [(6, 1), (7, 2)])
@example(None, [(5, 1), (7, 2)])
def test_gaps_are_where_ids_leave_room(edge: Edge | None, rows: list[Row]) -> None:
    gaps, behind = find_gaps(edge, rows_of(rows))
    assert ([gap.sides for gap in gaps], behind) == gaps_by_hand(edge, rows)
