"""Partial candles by pyarrow and by DuckDB: the same to the bit, for any batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import candle_oracle
import pyarrow as pa
import pytest
from candle_cases import MADE_HISTORIES
from candle_cases import batch as rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.errors import ArchiveDamaged
from harvester.query import sql
from harvester.query.rollups import PartialCandles, parse_levels
from harvester.query.sql import TRADE_COLUMNS, recompute_partials
from harvester.schema import joined, with_ties
from harvester.storage.parquet_files import PARTIALS


def trades_batch(rows: Sequence[candle_oracle.Row]) -> pa.RecordBatch:
    return joined(list(with_ties([rows_of(rows)])))


def cut_at(batch: pa.RecordBatch, places: list[int]) -> list[pa.RecordBatch]:
    ends = [0, *sorted(place % batch.num_rows for place in places), batch.num_rows]
    parts = [batch.slice(a, b - a) for a, b in pairwise(ends)]
    return [part for part in parts if part.num_rows]


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "_PART_ROWS", 10)
        yield


@pytest.mark.parametrize("levels", [["7m", "1h"], ["1s", "1m", "5m", "1d"]])
@pytest.mark.parametrize("name", MADE_HISTORIES)
@given(
    places=st.lists(st.integers(1, 10_000), min_size=1, max_size=5),
)
@settings(max_examples=2, deadline=None)
def test_two_ways_to_count_agree_to_the_bit(
    name: str, levels: list[str], places: list[int]
) -> None:
    agree(trades_batch(MADE_HISTORIES[name]), levels, places)


@pytest.mark.parametrize("name", MADE_HISTORIES)
def test_they_agree_where_each_row_is_counted_alone(name: str) -> None:
    batch = trades_batch(MADE_HISTORIES[name]).slice(0, 30)
    agree(batch, ["1s", "1m", "5m", "1d"], [*range(1, 30)])


def agree(batch: pa.RecordBatch, levels: list[str], places: list[int]) -> None:
    widths_ns = list(parse_levels(levels).values())
    by_pyarrow = PartialCandles(widths_ns, "a test")
    parts = cut_at(batch, places)
    for part in parts:
        by_pyarrow.add(part)
    for width_ns, made in zip(widths_ns, by_pyarrow.finish(), strict=True):
        trades = (part.select(TRADE_COLUMNS) for part in parts)
        table = pa.Table.from_batches(made, schema=PARTIALS)
        again = recompute_partials(trades, width_ns, math.lcm(*widths_ns), "a test")
        assert table.equals(pa.concat_tables(again))


def test_nothing_counted_is_no_candle() -> None:
    assert PartialCandles([60, 3600], "a test").finish() == [[], []]


@pytest.mark.parametrize("column", ["price", "volume"])
def test_a_price_or_a_volume_below_0_is_not_counted(column: str) -> None:
    batch = trades_batch(MADE_HISTORIES["busy"])
    place = batch.schema.get_field_index(column)
    kind = batch.schema.field(column).type
    values = [-value if at == 3 else value for at, value in enumerate(batch[column].to_pylist())]
    batch = batch.set_column(place, batch.schema.field(column), pa.array(values, kind))
    with pytest.raises(ArchiveDamaged) as caught:
        PartialCandles([60], "roll-ups of a.parquet").add(batch)
    assert str(caught.value).startswith(
        "roll-ups of a.parquet: a price or a volume below 0 was published between 20"
    )
