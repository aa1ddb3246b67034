"""Sums beyond 64 bits against Python's own integers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from harvester.query import aggregate
from harvester.schema import Int64s

WORD = 1 << 64
VOLUMES = st.integers(0, 10**22 - 1) | st.sampled_from((0, 1, 2**60, 2**63, 2**64 - 1, 2**64))
PRICES = st.integers(1, 10**18 - 1)
TRADES = st.lists(st.tuples(PRICES, VOLUMES), min_size=1, max_size=20)


def as_limbs(numbers: list[int]) -> Int64s:
    """Numbers below 2**90 as a decimal's words hold them."""
    low = np.array([number % WORD for number in numbers], dtype=np.uint64).view(np.int64)
    return aggregate.limbs_from_words(
        low, np.array([number // WORD for number in numbers], dtype=np.int64)
    )


def as_numbers(limbs: Int64s) -> list[int]:
    return [aggregate.to_int(limbs[:, i]) for i in range(limbs.shape[1])]


@given(TRADES)
def test_a_number_goes_in_and_comes_out(trades: list[tuple[int, int]]) -> None:
    volumes = [volume for _, volume in trades]
    assert as_numbers(as_limbs(volumes)) == volumes


@given(TRADES)
def test_products_are_exact(trades: list[tuple[int, int]]) -> None:
    prices = np.array([price for price, _ in trades])
    made = aggregate.multiply(prices, as_limbs([volume for _, volume in trades]))
    assert as_numbers(made) == [price * volume for price, volume in trades]


@given(TRADES, st.sets(st.integers(1, 19), max_size=5))
def test_totals_are_exact(trades: list[tuple[int, int]], cuts: set[int]) -> None:
    starts = [0, *sorted(cut for cut in cuts if cut < len(trades))]
    made = aggregate.multiply(
        np.array([price for price, _ in trades]), as_limbs([volume for _, volume in trades])
    )
    values = [price * volume for price, volume in trades]
    assert as_numbers(aggregate.group_sums(made, np.array(starts))) == [
        sum(values[a:b]) for a, b in zip(starts, [*starts[1:], len(values)], strict=True)
    ]


def test_as_many_of_the_largest_as_may_be_added_up_are_exact() -> None:
    """No limb leaves 64 bits on the way."""
    price, volume = 10**18 - 1, 10**22 - 1
    made = aggregate.multiply(
        np.full(aggregate.MAX_ROWS, price), as_limbs([volume] * aggregate.MAX_ROWS)
    )
    assert as_numbers(aggregate.group_sums(made, np.array([0]))) == [
        price * volume * aggregate.MAX_ROWS
    ]


@given(st.lists(st.integers(0, 10**38 - 1), min_size=1, max_size=9))
def test_words_are_those_of_a_decimal(numbers: list[int]) -> None:
    limbs = np.array([[number >> 30 * i & (1 << 30) - 1 for number in numbers] for i in range(5)])
    words = aggregate.words_from_limbs(limbs)
    kind = pa.decimal128(38, 0)
    made = pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(words)])
    assert [int(one) for one in made.to_pylist()] == numbers


def test_what_reaches_38_digits_is_found_and_nothing_below() -> None:
    numbers = [10**38 - 1, 10**38, 5, 10**38 + 1, 2**149, 10**38 - 2**90]
    limbs = np.array([[number >> 30 * i & (1 << 30) - 1 for number in numbers] for i in range(5)])
    assert aggregate.indices_of_overflow(limbs).tolist() == [1, 3, 4]
