"""Exact sums of pyarrow decimals against Python's own integers."""

from __future__ import annotations

import random
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.errors import ValueDoesNotFit
from harvester.query.rollups import (
    EXACT_VALUE,
    merge_adjacent,
    partials_of_trades,
    stored_columns,
    unscaled_integers,
)
from harvester.schema import SEGMENT_SCHEMA

PRICES = st.integers(1, 10**18 - 1) | st.just(10**18 - 1)
VOLUMES = st.integers(0, 10**22 - 1) | st.sampled_from((0, 1, 2**60, 2**63, 2**64 - 1, 2**64))
MOST = (10**18 - 1, 10**22 - 1)
"""The largest price and volume that can be stored, in units of their last digits."""


def trades_of(numbers: list[tuple[int, int]]) -> pa.RecordBatch:
    """Trades with these prices and volumes, bought and sold in turn."""
    rows = [
        {
            "trade_id": None,
            "time": index,
            "tie": 0,
            "price": Decimal(price).scaleb(-10),
            "volume": Decimal(volume).scaleb(-8),
            "side": "buy" if index % 2 else "sell",
            "order_type": None,
            "misc": None,
        }
        for index, (price, volume) in enumerate(numbers)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=SEGMENT_SCHEMA)


@given(
    st.lists(st.tuples(PRICES, VOLUMES), min_size=1, max_size=20),
    st.sets(st.integers(1, 19), max_size=5),
)
def test_sums_of_groups_are_exact(numbers: list[tuple[int, int]], cuts: set[int]) -> None:
    starts = [0, *sorted(cut for cut in cuts if cut < len(numbers))]
    bars = partials_of_trades(trades_of(numbers), "a test", all_columns=True)
    merged = merge_adjacent(bars, np.array(starts))
    groups = [
        list(enumerate(numbers))[a:b]
        for a, b in zip(starts, [*starts[1:], len(numbers)], strict=True)
    ]
    for side, kept in (("", (0, 1)), ("sell_", (0,)), ("buy_", (1,))):
        assert unscaled_integers(merged.column(f"{side}value")) == [
            sum(price * volume for i, (price, volume) in group if i % 2 in kept) for group in groups
        ]
        assert unscaled_integers(merged.column(f"{side}volume")) == [
            sum(volume for i, (_, volume) in group if i % 2 in kept) for group in groups
        ]


def test_the_largest_sums_of_a_step_are_exact_and_have_no_order() -> None:
    numbers = [MOST] * 3_000 + [(1, 1), (7, 10**21 + 3)] * 2_000
    sums = []
    for seed in (1, 2):
        random.Random(seed).shuffle(numbers)
        bars = partials_of_trades(trades_of(numbers), "a test", all_columns=False)
        sums.append(unscaled_integers(merge_adjacent(bars, np.array([0])).column("value"))[0])
    assert sums == [sum(price * volume for price, volume in numbers)] * 2


@given(st.lists(st.integers(0, 10**76 - 1), min_size=1, max_size=9), st.integers(0, 8))
def test_integers_are_those_of_the_decimals(numbers: list[int], first: int) -> None:
    # Python's default context would round to 28 digits.
    decimals = pa.array([Decimal((0, tuple(map(int, str(n))), -18)) for n in numbers], EXACT_VALUE)
    assert unscaled_integers(decimals.slice(first)) == numbers[first:]


@pytest.mark.parametrize("trades", [1, 2])
def test_a_value_from_10_to_the_20_on_does_not_fit_and_none_below(trades: int) -> None:
    """10^20 has 39 digits with its eighteen decimals."""
    half = (5 * 10**17, 10**20)
    fits = partials_of_trades(
        trades_of([(5 * 10**17, 10**20 - 1), half]), "a test", all_columns=False
    )
    merged = merge_adjacent(fits, np.array([0]))
    [value] = stored_columns(merged, "a test")["value"].to_pylist()
    assert value == Decimal(10**38 - 5 * 10**17).scaleb(-18)
    too_large = [(10**18 - 1, 10**22 - 1)] if trades == 1 else [half, half]
    bars = partials_of_trades(trades_of(too_large), "a test", all_columns=False)
    with pytest.raises(ValueDoesNotFit) as caught:
        stored_columns(merge_adjacent(bars, np.array([0])), "a test")
    assert str(caught.value) == (
        "a test: the sum of price x volume from 1970-01-01T00:00:00Z on reaches 10^20, "
        "more than fits 38 exact digits"
    )
