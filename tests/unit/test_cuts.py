"""Where bars end, against counting trade by trade in Python's own integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.query import bars
from harvester.schema import Int64s

LARGEST = 10**40 - 1
"""More than any value: a price of 18 digits times a volume of 22."""


def naive(size: int, amounts: list[int], got: int) -> list[int]:
    ends = []
    for place, amount in enumerate(amounts):
        got += amount
        if got >= size:
            ends.append(place)
            got = 0
    return ends


def as_limbs(numbers: list[int]) -> Int64s:
    """As `sums.product` makes them: three limbs of 30 bits, and what is above them."""
    mask = (1 << 30) - 1
    limbs = [[number >> 30 * i & mask for number in numbers] for i in range(3)]
    return np.array([*limbs, [number >> 90 for number in numbers]])


def reaching(size: int, amounts: list[int], got: int) -> list[int]:
    return [int(one) for one in bars.ends_by_sum(size, as_limbs(amounts), got)]


AMOUNTS = (
    st.integers(0, 3)
    | st.integers(0, 10**10)
    | st.integers(0, 10**24)
    | st.sampled_from((0, 1, 2**62, 2**63, 2**64, 10**30, LARGEST))
)


@given(st.lists(AMOUNTS, min_size=1, max_size=60), st.data())
@settings(max_examples=400, deadline=None)
def test_bars_end_where_counting_ends_them(amounts: list[int], data: st.DataObject) -> None:
    total = sum(amounts)
    near = st.integers(max(1, total // 7 - 2), total // 7 + 2)
    size = data.draw(st.integers(1, total + 2) | st.sampled_from((1, 2, 3, total + 1)) | near)
    got = data.draw(st.integers(0, size - 1))
    assert reaching(size, amounts, got) == naive(size, amounts, got)


@given(st.lists(AMOUNTS, min_size=1, max_size=5), st.integers(1, 400), st.integers(1, 9), st.data())
@settings(max_examples=200, deadline=None)
def test_few_bars_of_many_trades_end_where_counting_ends_them(
    pattern: list[int], times: int, bars: int, data: st.DataObject
) -> None:
    amounts = pattern * times
    size = sum(amounts) // bars + data.draw(st.integers(0, 2)) or 1
    got = data.draw(st.integers(0, min(size - 1, 10**12)))
    assert reaching(size, amounts, got) == naive(size, amounts, got)


@pytest.mark.parametrize("rows", [10, 2_000])
@pytest.mark.parametrize("dust", [1, 2, 3])
def test_dust_behind_a_whale_is_counted_to_its_last_unit(rows: int, dust: int) -> None:
    """All sums of a tape look alike in their first eighteen digits."""
    bar = [10**37, *[1] * dust]
    amounts = [*bar, *bar, *[1] * rows]
    assert reaching(10**37 + dust, amounts, 0) == [dust, 2 * dust + 1]


def test_a_size_beyond_all_digits_ends_no_bar() -> None:
    assert reaching(10**38 - 1, [5, 5], 10**38 - 12) == []


def test_what_a_bar_has_already_counts() -> None:
    assert reaching(10**38 - 1, [5, 5, 5, 5], 10**38 - 11) == [1]


@given(st.integers(1, 9), st.integers(1, 40), st.data())
def test_every_nth_trade_ends_a_bar(size: int, rows: int, data: st.DataObject) -> None:
    got = data.draw(st.integers(0, size - 1))
    assert bars.ends_by_count(size, rows, got).tolist() == naive(size, [1] * rows, got)
