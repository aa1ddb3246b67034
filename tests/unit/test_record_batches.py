"""Rows as Arrow batches: joined, cut and read without losing or moving one."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from trade_batches import batch

from harvester.schema import (
    NO_ROWS,
    PAGE_SCHEMA,
    PRICE,
    VOLUME,
    clip,
    decimal_array,
    decimal_words,
    joined,
    split_at,
    times,
    trade_ids,
)
from harvester.times import Range


def stamps_of(rows: pa.RecordBatch) -> list[int]:
    """The published times, by Arrow's own conversion to Python."""
    return [value.value for value in rows.column("time")]


STAMPS = st.lists(st.integers(1, 30), max_size=20).map(sorted)
CUTS = st.tuples(st.integers(0, 31), st.integers(0, 31)).map(lambda pair: Range(*sorted(pair)))


@settings(deadline=None)
@given(STAMPS, CUTS)
def test_clip_keeps_what_lies_past_after_and_up_to_through(stamps: list[int], cut: Range) -> None:
    expected = [stamp for stamp in stamps if cut.after < stamp <= cut.through]
    assert stamps_of(clip(batch(stamps), cut)) == expected


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), max_size=20).map(sorted), st.integers(0, 31), st.data())
def test_cut_parts_batches_by_time_and_leaves_none_empty(
    stamps: list[int], through: int, data: st.DataObject
) -> None:
    places = sorted(data.draw(st.lists(st.integers(0, len(stamps)), max_size=3)))
    whole = batch(stamps)
    ends = pairwise([0, *places, len(stamps)])
    upto, behind = split_at([whole.slice(start, end - start) for start, end in ends], through)
    assert [stamp for part in upto for stamp in stamps_of(part)] == [
        stamp for stamp in stamps if stamp <= through
    ]
    assert [stamp for part in behind for stamp in stamps_of(part)] == [
        stamp for stamp in stamps if stamp > through
    ]
    assert all(part.num_rows for part in upto + behind)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=1))
def test_decimals_of_integers_are_those_at_their_scale(unscaled: list[int]) -> None:
    kind = pa.decimal128(19, 4)
    made = decimal_array(kind, np.array(unscaled, dtype=np.int64))
    assert made.type == kind
    assert made.to_pylist() == [Decimal(number).scaleb(-4) for number in unscaled]


@settings(deadline=None)
@given(st.lists(STAMPS, max_size=5))
def test_joined_batches_hold_all_rows_in_order(parts: list[list[int]]) -> None:
    whole = joined([batch(part) for part in parts])
    assert stamps_of(whole) == [stamp for part in parts for stamp in part]


def test_joined_batches_keep_their_words_though_dictionaries_differ() -> None:
    whole = joined([batch([1], "sell"), batch([2], "buy"), batch([3], "sell")])
    assert whole.column("side").to_pylist() == ["sell", "buy", "sell"]


def test_joined_batches_have_the_schema_of_rows() -> None:
    for batches in ([], [batch([])], [batch([1])], [batch([1]), batch([2])], [batch([])] * 2):
        assert joined(batches).schema == PAGE_SCHEMA


def test_no_rows_is_a_batch_of_none() -> None:
    assert (NO_ROWS.num_rows, NO_ROWS.schema) == (0, PAGE_SCHEMA)


def test_times_are_the_nanoseconds_of_a_slice() -> None:
    stamps = [1, 1_700_000_000_123_456_789, 9_223_372_036_854_775_806]
    assert times(batch(stamps).slice(1, 2)).tolist() == stamps[1:]


def test_ids_that_are_null_are_zero() -> None:
    rows = batch([1, 2, 3]).to_pylist()
    rows[1]["trade_id"] = None
    assert trade_ids(pa.RecordBatch.from_pylist(rows, schema=PAGE_SCHEMA)).tolist() == [1, 0, 3]


def signed(low: int, high: int) -> int:
    """Two words of 64 bits as one integer."""
    return high * 2**64 + low % 2**64


UNSCALED = st.lists(st.integers(-(10**22) + 1, 10**22 - 1), min_size=1, max_size=6)


@settings(deadline=None)
@given(UNSCALED, st.data())
def test_decimal_words_are_the_unscaled_integers_of_a_slice(
    numbers: list[int], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(numbers) - 1))
    values = pa.array([Decimal(number).scaleb(-8) for number in numbers], VOLUME)[start:]
    low, high = decimal_words(values)
    assert [signed(int(a), int(b)) for a, b in zip(low, high, strict=True)] == numbers[start:]


def test_the_price_takes_ten_decimals_below_a_hundred_million() -> None:
    most = Decimal("99999999.9999999999")
    assert pa.array([most], PRICE).to_pylist() == [most]


def test_the_volume_takes_eight_decimals_below_ten_to_the_fourteenth() -> None:
    most = Decimal("99999999999999.99999999")
    assert pa.array([most], VOLUME).to_pylist() == [most]


def test_rows_are_what_a_trade_is_made_of() -> None:
    expected: list[tuple[str, Any, bool]] = [
        ("trade_id", pa.int64(), True),
        ("time", pa.timestamp("ns"), False),
        ("price", pa.decimal128(18, 10), False),
        ("volume", pa.decimal128(22, 8), False),
        ("side", pa.dictionary(pa.int32(), pa.string()), True),
        ("order_type", pa.dictionary(pa.int32(), pa.string()), True),
        ("misc", pa.string(), True),
    ]
    assert [(field.name, field.type, field.nullable) for field in PAGE_SCHEMA] == expected
