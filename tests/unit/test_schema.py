"""The columns of a segment, its ties, and a checksum that another program can reckon."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sample_trades
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_market import expected
from segment_rows import NAMES, Row, batch, checksum

from harvester.schema import (
    PAGE_SCHEMA,
    SEGMENT_SCHEMA,
    STEP_ROWS,
    RowsChecksum,
    tie_indexes,
    with_ties,
)


def product(*batches: pa.RecordBatch) -> str:
    """The checksum as the product reckons it."""
    reckoned = RowsChecksum()
    for part in batches:
        reckoned.update(part)
    return reckoned.hexdigest()


ROW = st.tuples(
    st.one_of(st.none(), st.integers(0, 2**63 - 1)),
    st.integers(1, 2**63 - 2),
    st.integers(0, 2**31 - 1),
    st.integers(0, 10**18 - 1).map(lambda number: Decimal(number).scaleb(-10)),
    st.integers(0, 10**22 - 1).map(lambda number: Decimal(number).scaleb(-8)),
    st.sampled_from((None, "buy", "sell")),
    st.sampled_from((None, "market", "limit")),
    st.one_of(st.none(), st.just(""), st.text(st.characters(codec="utf-8"), max_size=5)),
)


@settings(deadline=None, max_examples=20)
@given(st.lists(ROW, max_size=12))
def test_the_checksum_is_computed_as_documented(rows: list[Row]) -> None:
    assert product(batch(rows)) == checksum(rows)


@pytest.mark.parametrize(
    "market",
    [
        sample_trades.market(sample_trades.xbtusd_like(300, 1)),
        sample_trades.market(sample_trades.zero_ids(300, 2)),
        sample_trades.tiny_coin(300, 3),
        sample_trades.old_style(300, 4),
    ],
    ids=["busy", "zero ids", "tiny coin", "old"],
)
def test_the_checksum_of_made_markets_is_computed_as_documented(market: Any) -> None:
    rows = expected(market)
    assert product(batch(rows)) == checksum(rows)


@settings(deadline=None, max_examples=20)
@given(st.lists(ROW, max_size=12), st.integers(0, 12))
def test_the_checksum_does_not_know_how_rows_were_cut(rows: list[Row], cut: int) -> None:
    whole = batch(rows)
    assert product(whole.slice(0, cut), whole.slice(cut)) == product(whole)


BASE: Row = (7, 1_700_000_000_000_000_001, 0, Decimal("1.5"), Decimal("2.5"), "buy", "limit", "")


@pytest.mark.parametrize(
    "change",
    [
        {"trade_id": 8},
        {"trade_id": None},
        {"time": BASE[1] + 1},
        {"tie": 1},
        {"price": Decimal("1.5000000001")},
        {"volume": Decimal("2.50000001")},
        {"side": "sell"},
        {"side": None},
        {"order_type": "market"},
        {"order_type": None},
        {"misc": "x"},
        {"misc": None},
    ],
)
def test_any_change_of_any_value_changes_the_checksum(change: dict[str, Any]) -> None:
    changed = tuple(change.get(name, value) for name, value in zip(NAMES, BASE, strict=True))
    assert product(batch([changed])) != product(batch([BASE]))


def test_the_order_of_rows_changes_the_checksum() -> None:
    other = (8, *BASE[1:])
    assert product(batch([BASE, other])) != product(batch([other, BASE]))


def test_an_id_of_zero_is_another_than_none() -> None:
    assert product(batch([(0, *BASE[1:])])) != product(batch([(None, *BASE[1:])]))


def test_the_checksum_of_nothing_is_that_of_no_bytes() -> None:
    assert product() == product(batch([])) == hashlib.sha256().hexdigest()


def test_the_checksum_counts_its_rows() -> None:
    reckoned = RowsChecksum()
    reckoned.update(batch([BASE] * 3))
    reckoned.update(batch([BASE] * 2))
    assert reckoned.rows == 5


def test_a_word_that_the_format_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown values among") as caught:
        product(batch([(*BASE[:5], "both", "limit", "")]))
    assert "both" in str(caught.value)


# Ties.


def counted(stamps: Sequence[int]) -> list[int]:
    """Each stamp's place among its equal neighbours, one after the other."""
    places: list[int] = []
    for at, stamp in enumerate(stamps):
        places.append(places[-1] + 1 if at and stamps[at - 1] == stamp else 0)
    return places


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), max_size=30).map(sorted))
def test_a_tie_is_the_place_among_rows_of_equal_time(stamps: list[int]) -> None:
    assert tie_indexes(np.array(stamps, dtype=np.int64)).tolist() == counted(stamps)


def test_rows_get_their_ties_and_lose_nothing() -> None:
    rows = expected(sample_trades.market(sample_trades.one_stamp(20, before=3, after=3)))
    (made,) = with_ties([batch(rows, PAGE_SCHEMA)])
    assert made.schema == SEGMENT_SCHEMA
    assert made.equals(batch(rows))


def test_rows_of_a_slice_get_their_ties_too() -> None:
    rows = expected(sample_trades.market(sample_trades.one_stamp(20, before=3, after=3)))
    (made,) = with_ties([batch(rows, PAGE_SCHEMA).slice(3, 21)])
    assert made.equals(batch(rows[3:24]))


HISTORY = expected(sample_trades.market(sample_trades.one_stamp(20, before=3, after=3)))


@settings(deadline=None)
@given(st.lists(st.integers(0, len(HISTORY)), max_size=4).map(sorted))
def test_rows_in_several_batches_get_the_ties_of_the_whole(cuts: list[int]) -> None:
    ends = [0, *cuts, len(HISTORY)]
    whole = batch(HISTORY, PAGE_SCHEMA)
    parts = [whole.slice(start, end - start) for start, end in pairwise(ends)]
    assert (
        pa.Table.from_batches(with_ties(parts))
        .combine_chunks()
        .equals(pa.Table.from_batches([batch(HISTORY)]))
    )


def test_ties_count_on_in_a_group_longer_than_a_step() -> None:
    rows = 2 * STEP_ROWS + 5
    single = batch(HISTORY[:1], PAGE_SCHEMA)
    many = pa.Table.from_batches([single]).take(np.zeros(rows, dtype=np.int64)).to_batches()
    made = list(with_ties(many))
    assert [part.num_rows for part in made] == [STEP_ROWS, STEP_ROWS, 5]
    assert np.concatenate([part.column("tie") for part in made]).tolist() == list(range(rows))


def test_the_columns_are_those_of_the_format() -> None:
    word = pa.dictionary(pa.int32(), pa.string())
    assert [(field.name, field.type, field.nullable) for field in SEGMENT_SCHEMA] == [
        ("trade_id", pa.int64(), True),
        ("time", pa.timestamp("ns"), False),
        ("tie", pa.int32(), False),
        ("price", pa.decimal128(18, 10), False),
        ("volume", pa.decimal128(22, 8), False),
        ("side", word, True),
        ("order_type", word, True),
        ("misc", word, True),
    ]
