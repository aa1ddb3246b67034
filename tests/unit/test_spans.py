"""Where a range is cut in two."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from harvester.download.range_split import SplitPoint, cut_between, middle
from harvester.schema import ROWS
from harvester.times import UNITS_NS, Range

WEEK = UNITS_NS["w"]
ALL = Range(0, 10**18)


def rows(*trades: tuple[int, int | None]) -> pa.RecordBatch:
    """A page of trades, each (time, id)."""
    one = {
        "price": Decimal(1),
        "volume": Decimal(1),
        "side": "buy",
        "order_type": "market",
        "misc": "",
    }
    return pa.RecordBatch.from_pylist(
        [{"trade_id": number, "time": at, **one} for at, number in trades], schema=ROWS
    )


# The middle.


def test_without_counts_the_middle_is_that_of_the_time() -> None:
    assert middle(Range(100, 300), []) == 200


def test_counts_of_other_times_do_not_count() -> None:
    assert middle(Range(10 * WEEK, 12 * WEEK), [(0, 500), (20 * WEEK, 500)]) == 11 * WEEK


def test_half_of_the_trades_lie_on_either_side() -> None:
    weeks = [(0, 10), (WEEK, 10), (2 * WEEK, 60), (3 * WEEK, 20)]
    # Twenty before the third week, so thirty of its sixty are wanted.
    assert middle(Range(0, 4 * WEEK), weeks) == 2 * WEEK + WEEK // 2


def test_only_the_part_of_a_week_that_is_wanted_counts() -> None:
    # Half of the first week: 50 trades, and 100 of the second.
    assert middle(Range(WEEK // 2, 2 * WEEK), [(0, 100), (WEEK, 100)]) == WEEK + WEEK // 4


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=30),
    st.integers(0, 20 * WEEK),
    st.integers(2, 20 * WEEK),
)
def test_the_middle_lies_in_the_range(counts: list[int], after: int, length: int) -> None:
    span = Range(after, after + length)
    weeks = [(number * WEEK, count) for number, count in enumerate(counts)]
    assert span.after <= middle(span, weeks) <= span.through


# The cut.


def test_a_cut_lies_between_two_trades_whose_ids_go_on_by_one() -> None:
    page = rows((10, 1), (20, 4), (30, 5), (40, 6))
    assert cut_between(page, ALL) == SplitPoint(20, (4, 0, 20), (5, 0))


def test_trades_of_one_time_are_not_cut_apart() -> None:
    page = rows((10, 1), (10, 2), (10, 3), (20, 4))
    assert cut_between(page, ALL) == SplitPoint(10, (3, 0, 10), (4, 0))


def test_a_page_out_of_order_is_put_in_order_first() -> None:
    assert cut_between(rows((30, 9), (20, 8), (10, 5)), ALL) == SplitPoint(20, (8, 0, 20), (9, 0))


def test_without_neighbouring_ids_any_two_times_do() -> None:
    assert cut_between(rows((10, None), (10, None), (20, None)), ALL) == SplitPoint(10, None, None)
    assert cut_between(rows((10, 1), (20, 3)), ALL) == SplitPoint(10, None, None)


def test_rows_without_an_id_are_nobodys_neighbours() -> None:
    page = rows((10, None), (20, 1), (30, None), (40, 2), (50, 3))
    assert cut_between(page, ALL) == SplitPoint(40, (2, 0, 40), (3, 0))


def test_both_sides_of_a_cut_lie_in_the_range() -> None:
    page = rows((10, 1), (20, 2), (30, 3), (40, 4))
    assert cut_between(page, Range(10, 35)) == SplitPoint(20, (2, 0, 20), (3, 0))
    assert cut_between(page, Range(20, 40)) is None
    assert cut_between(page, Range(40, 100)) is None


def test_a_page_of_one_time_or_of_nothing_can_not_be_cut() -> None:
    assert cut_between(rows((10, 1), (10, 2)), ALL) is None
    assert cut_between(rows(), ALL) is None
