"""The rules by which pages are joined, held against a plain model of the exchange."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import sample_trades
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_market import Market, Trade, expected

from harvester.download import page_merge
from harvester.download.page_merge import JoinResult, PageMerger, fill_gaps, gap_in_answer
from harvester.schema import NO_ROWS, PAGE_SCHEMA, merge_rows, sort_rows
from harvester.storage.id_gaps import IdGap, LastId, find_gaps
from harvester.times import Range

FAR = 4_000_000_000_000_000_000
Row = tuple[int | None, int, str]


def batch(*rows: Row) -> pa.RecordBatch:
    """Rows of (id, published ns, price), all else alike."""
    return pa.RecordBatch.from_pylist(
        [
            {
                "trade_id": number,
                "time": stamp,
                "price": Decimal(price),
                "volume": Decimal(1),
                "side": "buy",
                "order_type": "limit",
                "misc": "",
            }
            for number, stamp, price in rows
        ],
        schema=PAGE_SCHEMA,
    )


def rows_of(rows: pa.RecordBatch) -> list[Row]:
    """The same back."""
    stamps = rows.column("time").cast(pa.int64()).to_pylist()
    prices = [format(price.normalize(), "f") for price in rows.column("price").to_pylist()]
    return list(zip(rows.column("trade_id").to_pylist(), stamps, prices, strict=True))


class Served(NamedTuple):
    """A market as a function of `since`, without sockets."""

    market: Market
    inclusive: bool
    page_size: int

    def page(self, since: int) -> tuple[pa.RecordBatch, int, int]:
        stamps = [trade.true_ns for trade in self.market.trades]
        start = (bisect_left if self.inclusive else bisect_right)(stamps, since)
        some = self.market.trades[start : start + self.page_size]
        rows = [
            {
                "trade_id": trade.trade_id or None,
                "time": self.market.published_ns(trade),
                "price": Decimal(trade.price),
                "volume": Decimal(trade.volume),
                "side": "buy" if trade.side == "b" else "sell",
                "order_type": "market" if trade.order_type == "m" else "limit",
                "misc": trade.misc,
            }
            for trade in some
        ]
        unit = 100_000 if self.market.decimals == 4 else 100
        cursor = some[-1].true_ns if some else since
        return pa.RecordBatch.from_pylist(rows, schema=PAGE_SCHEMA), cursor, unit


def walk(served: Served, after: int, *, cursors: bool = True) -> list[tuple[Any, ...]]:
    """The rows after `after`, to the newest."""
    merger, found = PageMerger(after), []
    for _ in range(10_000):
        rows, cursor, unit = served.page(merger.next_since())
        step = merger.join(rows, cursor if cursors else None, unit, FAR)
        found.append(step.rows)
        if step.result is JoinResult.NO_NEW_ROWS:
            found.append(merger.finish())
            break
    else:
        raise AssertionError("it never ended")
    table = pa.Table.from_batches(found, schema=PAGE_SCHEMA)
    columns = table.set_column(1, "time", table.column("time").cast(pa.int64())).to_pydict()
    return list(zip(*columns.values(), strict=True))


def truth(market: Market, after: int) -> list[tuple[Any, ...]]:
    """The rows behind `after`, without their place."""
    return [(row[0], row[1], *row[3:]) for row in expected(market) if row[1] > after]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_trades_with_less_than_a_page_between_margins_are_merged_exactly(
    data: st.DataObject,
) -> None:
    market = data.draw(sample_trades.markets(max_size=60))
    after = data.draw(st.sampled_from([0, *(row[1] for row in expected(market))]))
    served = Served(market, data.draw(st.booleans()), 1_000)
    assert walk(served, after, cursors=data.draw(st.booleans())) == truth(market, after)


@given(st.integers(0, 1_000_000), st.booleans(), st.booleans())
@settings(max_examples=12, deadline=None)
def test_any_long_history_is_merged_exactly(seed: int, inclusive: bool, cursors: bool) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(3_500, seed))
    assert walk(Served(market, inclusive, 1_000), 0, cursors=cursors) == truth(market, 0)


def test_the_next_page_is_requested_from_the_margin_before_the_last_row() -> None:
    merger = PageMerger(0)
    merger.join(batch((1, 5_000_000_000_000_000_000 - 10**18, "1")), None, 100, FAR)
    assert merger.next_since() == 4_000_000_000_000_000_000 - 1_000


def test_a_page_of_four_decimals_widens_the_margin() -> None:
    merger = PageMerger(0)
    merger.join(batch((1, 1_600_000_000_000_100_000, "1")), None, 100_000, FAR)
    assert merger.next_since() == 1_600_000_000_000_000_000


def test_a_cursor_before_the_margin_is_stepped_back_from() -> None:
    merger = PageMerger(0)
    merger.join(batch((1, 1_600_000_000_000_100_000, "1")), 1_600_000_000_000_050_000, 100, FAR)
    assert merger.next_since() == 1_600_000_000_000_049_999


def test_a_cursor_that_does_not_advance_is_not_believed() -> None:
    merger = PageMerger(0)
    merger.join(batch((1, 1_600_000_000_000_100_000, "1")), 1_600_000_000_000_100_000, 100, FAR)
    merger.join(
        batch((1, 1_600_000_000_000_100_000, "1"), (2, 1_600_000_000_500_000_000, "1")),
        1_600_000_000_000_100_000,
        100,
        FAR,
    )
    assert merger.next_since() == 1_600_000_000_499_999_000


def test_a_full_page_that_ends_before_what_is_held_is_stale() -> None:
    merger = PageMerger(0)
    merger.join(batch((9, 1_600_000_001_000_000_000, "1")), None, 100, FAR)
    old = batch(*((None, 1_500_000_000_000_000_000 + i, "1") for i in range(1_000)))
    assert merger.join(old, None, 100, FAR).result is JoinResult.MISSING_OVERLAP


def test_a_page_that_leaves_out_the_last_row_held_is_never_joined() -> None:
    merger = PageMerger(0)
    merger.join(batch((1, 1_600_000_000_000_000_000, "1")), None, 100, FAR)
    later = batch((5, 1_600_000_005_000_000_000, "1"))
    verdicts = {merger.join(later, None, 100, FAR).result for _ in range(5)}
    assert (verdicts, merger.finish().num_rows) == ({JoinResult.MISSING_OVERLAP}, 1)


@pytest.mark.parametrize("has_ids", [True, False])
def test_a_last_row_that_every_answer_prints_too_late_does_not_end_the_range(
    has_ids: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_merge, "PAGE_ROWS", 5)
    second_ns, limit = 1_000_000_000, 1_600_000_012_000_000_000
    merger, found = PageMerger(1_599_999_999_000_000_000), 0
    for _ in range(20):
        first = max(0, merger.next_since() - 1_600_000_000_000_000_000 + second_ns) // second_ns
        page = [
            (
                number + 1 if has_ids else None,
                1_600_000_000_000_000_000 + (number + 7_000 * (number == 4)) * second_ns,
                str(number + 1),
            )
            for number in range(first, min(first + 5, 20))
        ]
        step = merger.join(batch(*page), None, 100, limit)
        found += step.rows.num_rows
        if step.result is JoinResult.REACHED_END:
            break
    assert (step.result, found) == (JoinResult.REACHED_END, 12)


def test_rows_beyond_the_limit_are_left_out_and_end_the_range() -> None:
    step = PageMerger(0).join(batch((1, 10, "1"), (2, 20, "1"), (3, 30, "1")), None, 1, 20)
    assert (rows_of(step.rows), step.result) == (
        [(1, 10, "1"), (2, 20, "1")],
        JoinResult.REACHED_END,
    )


def test_rows_of_the_last_time_of_a_page_wait_for_the_next_page() -> None:
    step = PageMerger(0).join(batch((1, 10, "1"), (2, 20, "1"), (3, 20, "1")), None, 1, FAR)
    assert rows_of(step.rows) == [(1, 10, "1")]


def test_rows_of_one_time_are_sorted_by_id() -> None:
    assert rows_of(sort_rows(batch((3, 7, "3"), (1, 7, "1"), (2, 5, "2")))) == [
        (2, 5, "2"),
        (1, 7, "1"),
        (3, 7, "3"),
    ]


def test_a_row_without_an_id_stays_behind_the_row_it_followed() -> None:
    rows = batch((1, 7, "1"), (None, 7, "2"), (None, 7, "3"), (4, 7, "4"))
    assert rows_of(sort_rows(rows)) == rows_of(rows)


def test_a_row_repeated_with_its_id_counts_once() -> None:
    assert rows_of(sort_rows(batch((1, 5, "1"), (2, 7, "2"), (1, 5, "1")))) == [
        (1, 5, "1"),
        (2, 7, "2"),
    ]


def test_rows_that_look_alike_without_ids_all_stay() -> None:
    rows = batch((None, 5, "1"), (None, 5, "1"), (None, 5, "1"))
    assert rows_of(sort_rows(rows)) == rows_of(rows)


def test_rows_of_one_time_from_two_pages_are_merged_by_id() -> None:
    assert rows_of(
        merge_rows(batch((1, 5, "1"), (2, 5, "2")), batch((2, 5, "2"), (3, 5, "3")))
    ) == [
        (1, 5, "1"),
        (2, 5, "2"),
        (3, 5, "3"),
    ]


def test_of_two_views_without_ids_the_longer_is_right() -> None:
    short, long = batch((None, 5, "1")), batch((None, 5, "1"), (None, 5, "1"))
    assert merge_rows(long, short).num_rows == merge_rows(short, long).num_rows == 2


def test_rows_without_an_id_count_in_where_ids_go_on() -> None:
    gaps, edge = find_gaps(None, batch((1, 1, "1"), (None, 2, "1"), (3, 3, "1"), (None, 4, "1")))
    assert (gaps, edge) == ([], LastId(3, 1, 3))


def test_an_id_gap_names_the_trades_on_both_sides() -> None:
    gaps, _ = find_gaps(LastId(4, 1, 90), batch((7, 100, "1"), (8, 101, "1"), (11, 105, "1")))
    assert gaps == [IdGap(4, 7, 90, 100, 1), IdGap(8, 11, 101, 105, 0)]


def test_trades_of_another_answer_fill_the_id_gap() -> None:
    known = batch((1, 1, "1"), (4, 4, "4"), (6, 6, "6"))
    found = batch((1, 1, "1"), (2, 2, "2"), (None, 3, "3"), (4, 4, "4"), (5, 5, "5"), (6, 6, "6"))
    gaps = [IdGap(1, 4, 1, 4), IdGap(4, 6, 4, 6)]
    assert rows_of(fill_gaps(known, gaps, found, Range(0, FAR))) == rows_of(found)


def test_what_lies_outside_of_the_range_does_not_go_into_the_gap() -> None:
    known = batch((4, 4, "4"))
    found = batch((1, 1, "1"), (2, 2, "2"), (3, 3, "3"), (4, 4, "4"))
    assert rows_of(fill_gaps(known, [IdGap(1, 4, 1, 4)], found, Range(2, FAR))) == [
        (3, 3, "3"),
        (4, 4, "4"),
    ]


def test_an_answer_with_only_one_side_of_an_id_gap_decides_nothing() -> None:
    found = batch((1, 1, "1"), (2, 2, "2"))
    assert gap_in_answer(found, IdGap(1, 4, 1, 4), Range(0, FAR)) is None


def test_an_empty_page_has_no_new_rows() -> None:
    assert PageMerger(0).join(NO_ROWS, None, 1, FAR).result is JoinResult.NO_NEW_ROWS


def test_coarse_times_are_requested_again_from_further_back() -> None:
    merger = PageMerger(1_600_000_000_000_000_000)
    coarse = batch((1, 1_600_000_000_500_000_000, "1"))
    verdict = merger.join(coarse, None, 100_000_000, FAR).result
    assert (verdict, merger.next_since()) == (JoinResult.REQUEST_EARLIER, 1_599_999_999_900_000_000)


def test_a_trade_alike_at_the_neighbouring_nanosecond_is_never_taken_for_a_repeat() -> None:
    twins = [
        Trade(sample_trades.BUSY_NS + i, "1.0", "1.00000000", "b", "l", "", None) for i in (0, 1, 2)
    ]
    market = sample_trades.market(twins)
    for inclusive in (True, False):
        assert walk(Served(market, inclusive, 1_000), 0) == truth(market, 0)
