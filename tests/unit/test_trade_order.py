"""The exchange's order, and what pages have in common, compared with plain loops over the rows."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trade_batches import batch

from harvester.download.page_merge import fill_gaps, gap_in_answer
from harvester.schema import PAGE_SCHEMA, merge_rows, sort_rows, times, trade_ids
from harvester.storage.id_gaps import LastId, find_gaps
from harvester.times import Range

Row = tuple[int, int]
"""An id, 0 for none, and a published time."""


def rows_of(rows: list[Row]) -> pa.RecordBatch:
    """Rows of these ids and times."""
    made = batch([stamp for _, stamp in rows])
    ids = pa.array([number or None for number, _ in rows], pa.int64())
    return made.set_column(0, made.schema.field("trade_id"), ids)


def ids_and_times(rows: pa.RecordBatch) -> list[Row]:
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
    return [row for place, row in enumerate(by_key) if not row[0] or row not in by_key[:place]]


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
    assert ids_and_times(sort_rows(rows_of(rows))) == ordered(rows)


GROUP = st.lists(st.integers(1, 9), unique=True, min_size=1, max_size=6).map(sorted)


@settings(deadline=None)
@given(GROUP, GROUP)
@example([1, 2], [1, 2, 3])
@example([1, 2, 3], [1, 2])
@example([1, 3], [1, 2, 3])
def test_two_views_of_one_time_are_merged_into_all_their_rows(
    held: list[int], new: list[int]
) -> None:
    united = merge_rows(
        rows_of([(stamp, 7) for stamp in held]), rows_of([(stamp, 7) for stamp in new])
    )
    assert ids_and_times(united) == [(stamp, 7) for stamp in sorted({*held, *new})]


def gaps_by_hand(edge: LastId | None, rows: list[Row]) -> tuple[list[tuple[int, int]], Any]:
    """The sides of each gap, and the last id with the rows behind it and its time."""
    found = []
    last = edge
    for number, stamp in rows:
        if not number:
            last = last and last._replace(rows_without_id=last.rows_without_id + 1)
            continue
        if last and number - last.trade_id - 1 > last.rows_without_id:
            found.append((last.trade_id, number))
        last = LastId(number, 0, stamp)
    return found, last


EDGES = st.none() | st.builds(LastId, st.integers(1, 9), st.integers(0, 3), st.just(1))


@settings(deadline=None)
@given(EDGES, ROWS | LIKE_A_PAGE)
@example(LastId(4, 0, 1), [(5, 1), (6, 2)])
@example(LastId(4, 0, 1), [(6, 1), (7, 2)])
@example(LastId(4, 1, 1), [(6, 1), (7, 2)])
@example(None, [(5, 1), (7, 2)])
def test_gaps_are_where_ids_leave_room(edge: LastId | None, rows: list[Row]) -> None:
    gaps, behind = find_gaps(edge, rows_of(rows))
    assert ([gap.sides for gap in gaps], behind) == gaps_by_hand(edge, rows)


# Trades of one time and id that differ.


class Trade(NamedTuple):
    """A row with all of its fields; an id of 0 is none."""

    trade_id: int
    time: int
    price: Decimal = Decimal(1)
    volume: Decimal = Decimal(1)
    side: str | None = "buy"
    order_type: str | None = "limit"
    misc: str | None = ""


def batch_of(trades: list[Trade]) -> pa.RecordBatch:
    """These trades as a page's rows."""
    rows = [trade._asdict() | {"trade_id": trade.trade_id or None} for trade in trades]
    return pa.RecordBatch.from_pylist(rows, schema=PAGE_SCHEMA)


def trades_in(rows: pa.RecordBatch) -> list[Trade]:
    """Rows by Arrow's own conversion to Python."""
    plain = rows.set_column(1, "time", rows.column("time").cast(pa.int64())).to_pylist()
    return [Trade(**(row | {"trade_id": row["trade_id"] or 0})) for row in plain]


FIRST = Trade(5, 7)
DIFFERENT = [
    FIRST._replace(price=Decimal(2)),
    FIRST._replace(volume=Decimal(2)),
    FIRST._replace(side="sell"),
    FIRST._replace(side=None),
    FIRST._replace(order_type="market"),
    FIRST._replace(misc="x"),
    FIRST._replace(misc=None),
]
FIELDS = [next(k for k in Trade._fields if getattr(t, k) != getattr(FIRST, k)) for t in DIFFERENT]


@pytest.mark.parametrize("other", DIFFERENT, ids=FIELDS)
def test_trades_of_one_time_and_id_that_differ_in_a_field_all_stay(other: Trade) -> None:
    page = [FIRST, other, FIRST, other, Trade(6, 7)]
    assert trades_in(sort_rows(batch_of(page))) == [FIRST, other, Trade(6, 7)]
    united = merge_rows(batch_of([FIRST, Trade(6, 7)]), batch_of([other, Trade(6, 7)]))
    assert Counter(trades_in(united)) == Counter([FIRST, other, Trade(6, 7)])
    assert trades_in(united)[-1] == Trade(6, 7)


@pytest.mark.parametrize("other", DIFFERENT, ids=FIELDS)
def test_trades_without_an_id_that_differ_in_two_views_all_stay(other: Trade) -> None:
    held, shown = FIRST._replace(trade_id=0), other._replace(trade_id=0)
    same = Trade(0, 7, Decimal(9))
    united = merge_rows(batch_of([held, same]), batch_of([shown, same]))
    assert Counter(trades_in(united)) == Counter([held, shown, same])


def test_a_trade_without_an_id_stays_behind_the_trade_that_it_followed() -> None:
    held = [Trade(1, 7), Trade(2, 7), Trade(3, 7)]
    shown = [Trade(1, 7), Trade(0, 7), Trade(2, 7)]
    expected = [Trade(1, 7), Trade(0, 7), Trade(2, 7), Trade(3, 7)]
    assert trades_in(merge_rows(batch_of(held), batch_of(shown))) == expected


def test_a_later_answer_that_begins_within_a_group_of_one_time_continues_it() -> None:
    held = [Trade(1, 7), Trade(2, 7), Trade(3, 7)]
    shown = [Trade(0, 7, Decimal(8)), Trade(0, 7, Decimal(9)), Trade(4, 8)]
    united = merge_rows(batch_of(held), batch_of(shown))
    assert trades_in(united) == [*held, *shown]


TRADES_OF_A_STAMP = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([Decimal(1), Decimal(2)])).map(
        lambda drawn: Trade(drawn[0], 7, drawn[1])
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(st.lists(TRADES_OF_A_STAMP, min_size=2, max_size=4))
def test_merged_views_of_one_time_lose_and_repeat_nothing(views: list[list[Trade]]) -> None:
    """A row without an id may be one that another view shows with its id."""
    pages = [sort_rows(batch_of(view)) for view in views]
    united = pages[0]
    for page in [*pages[1:], *pages]:
        united = merge_rows(united, page)
    found = Counter(trades_in(united))
    distinct = {trade for view in views for trade in view if trade.trade_id}
    assert {trade: n for trade, n in found.items() if trade.trade_id} == dict.fromkeys(distinct, 1)
    for price in (Decimal(1), Decimal(2)):
        alike = [[trade for trade in {*view} if trade.price == price] for view in views]
        without_id = [view.count(Trade(0, 7, price)) for view in views]
        with_id = [sum(trade.trade_id > 0 for trade in view) for view in alike]
        count = sum(n for trade, n in found.items() if trade.price == price)
        assert max(map(sum, zip(with_id, without_id, strict=True))) <= count
        assert found[Trade(0, 7, price)] <= max(without_id)


NUMBERED = st.lists(st.integers(1, 2), min_size=1, max_size=8).map(
    lambda steps: [
        Trade(at + 1, 7 + sum(steps[:at]) // 4, Decimal(step)) for at, step in enumerate(steps)
    ]
)
"""Trades with ids, some of them of one time and alike."""


@settings(deadline=None)
@given(NUMBERED, st.data())
def test_an_answer_without_ids_repeats_no_trade_of_one_with_ids(
    trades: list[Trade], data: st.DataObject
) -> None:
    """Each answer lacks some ids, and has all trades from one of them on, or up to one."""
    first, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(trades))] * 2)))
    bare = [trade._replace(trade_id=0) for trade in trades[first:stop]]
    for known, new in ((trades, bare), (bare, trades)):
        united = merge_rows(batch_of(known), batch_of(new))
        assert trades_in(united) == trades


def test_answers_that_lack_different_ids_have_all_ids_together() -> None:
    trades = [Trade(at, 7, Decimal(at)) for at in range(1, 7)]
    halves = [
        [trade._replace(trade_id=0) if trade.trade_id % 2 == part else trade for trade in trades]
        for part in (0, 1)
    ]
    united = merge_rows(batch_of(halves[0]), batch_of(halves[1]))
    assert trades_in(united) == trades


def test_a_row_without_an_id_is_no_trade_whose_id_its_own_answer_shows() -> None:
    held, shown = [Trade(1, 7)], [Trade(1, 7), Trade(0, 7)]
    assert trades_in(merge_rows(batch_of(held), batch_of(shown))) == shown
    assert trades_in(merge_rows(batch_of(shown), batch_of(held))) == shown


def test_a_gap_is_looked_for_between_the_nearest_trades_of_its_ids() -> None:
    changed = FIRST._replace(price=Decimal(2))
    page = batch_of([FIRST, changed, Trade(8, 9), Trade(8, 9, Decimal(3))])
    (gap,), _ = find_gaps(None, page)
    shown = gap_in_answer(page, gap, Range(0, 100))
    assert shown is not None
    assert shown.rows == 0


def test_what_fills_a_gap_leaves_out_no_trade_and_repeats_none() -> None:
    changed, behind = FIRST._replace(price=Decimal(2)), Trade(8, 9, Decimal(3))
    own_rows = batch_of([FIRST, changed, Trade(0, 8), Trade(8, 9)])
    gaps, _ = find_gaps(None, own_rows)
    found = [changed, Trade(6, 8), Trade(0, 8, Decimal(4)), Trade(8, 9), behind]
    for _ in range(2):
        own_rows = fill_gaps(own_rows, gaps, batch_of(found), Range(0, 100))
        # Of the rows alike, one has no id in the first answer and the id 6 in the second.
        assert Counter(trades_in(own_rows)) == Counter([FIRST, *found])
        assert [trade.trade_id for trade in trades_in(own_rows)] == [5, 5, 6, 0, 8, 8]
