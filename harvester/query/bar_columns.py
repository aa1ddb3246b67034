"""What a bar tells of its trades: ticks grouped into columns, and those as Arrow.

Columns are named as those of a candle. Numbers are int64 of shape (bars,), sums the limbs of
`sums`, of shape (limbs, bars), so that the bars always stand along the last axis.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.query import sums
from harvester.schema import PRICE, Int64s, decimal_words, decimals_of, times, trade_ids

SUM_OF_VOLUMES = pa.decimal128(38, 8)
SUM_OF_VALUES = pa.decimal128(38, 18)
TIME = pa.timestamp("ns")

BASE = {
    "time": TIME,
    "open": PRICE,
    "high": PRICE,
    "low": PRICE,
    "close": PRICE,
    "vwap": pa.float64(),
    "volume": SUM_OF_VOLUMES,
    "count": pa.int64(),
}
MORE = {
    "value": SUM_OF_VALUES,
    "buy_volume": SUM_OF_VOLUMES,
    "sell_volume": SUM_OF_VOLUMES,
    "buy_value": SUM_OF_VALUES,
    "sell_value": SUM_OF_VALUES,
    "buy_count": pa.int64(),
    "sell_count": pa.int64(),
    "first_trade_id": pa.int64(),
    "last_trade_id": pa.int64(),
    "first_time": TIME,
}
END = {"last_time": TIME, "is_complete": pa.bool_()}

Columns = dict[str, Int64s]


def schema_of(*, all_columns: bool) -> pa.Schema:
    """The columns shown, in order."""
    return pa.schema(BASE | (MORE if all_columns else {}) | END)


class Ticks(NamedTuple):
    """A stretch of the tape in integers: prices in 1e-10, volumes in 1e-8, values in 1e-18."""

    time: Int64s
    price: Int64s
    volume: Int64s
    value: Int64s

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Self:
        """The ticks of a batch of `TRADES`, `sums.MOST` at most."""
        # A decimal of 18 digits fits its low word.
        price = np.ascontiguousarray(decimal_words(batch.column("price"))[0])
        volume = sums.of_words(*decimal_words(batch.column("volume")))
        return cls(times(batch), price, volume, sums.product(price, volume))


# --- from ticks to bars --------------------------------------------------------------------------


def grouped(batch: pa.RecordBatch, ticks: Ticks, starts: Int64s, *, all_columns: bool) -> Columns:
    """The columns of bars that begin at `starts`, the first of which is 0."""
    last = np.append(starts[1:], batch.num_rows) - 1
    made = {
        "time": ticks.time[starts],
        "open": ticks.price[starts],
        "high": np.maximum.reduceat(ticks.price, starts),
        "low": np.minimum.reduceat(ticks.price, starts),
        "close": ticks.price[last],
        "value": sums.totals(ticks.value, starts),
        "volume": sums.totals(ticks.volume, starts),
        "count": last - starts + 1,
        "last_time": ticks.time[last],
    }
    if all_columns:
        ids = trade_ids(batch)
        made |= _sides(batch, ticks, starts) | ids_of(ids, ids, starts)
    return made


def _sides(batch: pa.RecordBatch, ticks: Ticks, starts: Int64s) -> Columns:
    made = {}
    for side in ("buy", "sell"):
        taken = _is_side(batch.column("side"), side)
        made[f"{side}_volume"] = sums.totals(ticks.volume * taken, starts)
        made[f"{side}_value"] = sums.totals(ticks.value * taken, starts)
        made[f"{side}_count"] = np.add.reduceat(taken, starts)
    return made


def _is_side(sides: pa.DictionaryArray, side: str) -> Int64s:
    """1 where the taker's side is this one, else 0; shape (rows,)."""
    place = pc.index(sides.dictionary, side).as_py()
    # Unknown sides are null; a word that the dictionary lacks has the place -1.
    places = sides.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    taken: Int64s = ((places == place) & (places >= 0)).astype(np.int64)
    return taken


def ids_of(firsts: Int64s, lasts: Int64s, starts: Int64s) -> Columns:
    """The first and the last id of each group, of what has one; 0 where nothing has."""
    places = np.arange(len(firsts))
    first = np.minimum.reduceat(np.where(firsts != 0, places, len(firsts)), starts)
    last = np.maximum.reduceat(np.where(lasts != 0, places, -1), starts)
    # Where nothing in a group has one, both point at the 0 behind the last.
    return {
        "first_trade_id": np.append(firsts, 0)[first],
        "last_trade_id": np.append(lasts, 0)[last],
    }


# --- a bar that goes on --------------------------------------------------------------------------


def carry_on(under_way: Columns, bars: Columns) -> None:
    """Put what a bar under way has so far into the first of the bars, which continues it."""
    for name, so_far in under_way.items():
        here = bars[name][..., :1]
        if name in ("time", "open"):
            here[:] = so_far
        elif name == "high":
            np.maximum(here, so_far, out=here)
        elif name == "low":
            np.minimum(here, so_far, out=here)
        elif name == "first_trade_id":
            here[:] = so_far if so_far[0] else here
        elif name == "last_trade_id":
            here[:] = here if here[0] else so_far
        elif name not in ("close", "last_time"):
            here += so_far
            if here.ndim > 1:
                sums.carried(here)


def part(bars: Columns, start: int, stop: int | None = None) -> Columns:
    """Some of the bars, as columns of their own."""
    return {name: column[..., start:stop].copy() for name, column in bars.items()}


# --- as Arrow ------------------------------------------------------------------------------------


def as_batch(bars: Columns, *, is_complete: bool, all_columns: bool) -> pa.RecordBatch:
    """The bars with the columns shown; every sum must fit 38 digits."""
    schema = schema_of(all_columns=all_columns)
    arrays = {field.name: array_of(bars, field) for field in schema if field.name in bars}
    value, volume = (array_of(bars, field) for field in _SUMS)
    arrays["vwap"] = _vwap(value, volume)
    arrays["first_time"] = arrays["time"]
    arrays["is_complete"] = pa.array(np.full(len(volume), is_complete))
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


_SUMS = (pa.field("value", SUM_OF_VALUES), pa.field("volume", SUM_OF_VOLUMES))


def array_of(bars: Columns, field: pa.Field) -> pa.Array:
    """One column as Arrow; every sum must fit 38 digits."""
    column = bars[field.name]
    if column.ndim > 1:
        return _from_words(sums.words(column), field.type)
    if pa.types.is_decimal(field.type):
        return _from_words(np.stack([column, np.zeros_like(column)], axis=1), field.type)
    if field.name.endswith("_id"):
        return pa.array(column, mask=column == 0)
    return pa.array(column).cast(field.type)


def _from_words(words: Int64s, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(words), [None, pa.py_buffer(words)])


def _vwap(value: pa.Array, volume: pa.Array) -> pa.Array:
    """Value by volume, the nearest double; null where nothing was traded.

    As candles have it (`sql.with_vwap`): a multiple of 1e-10, without its rounding error, and what
    that leaves of the value, worked out in decimals.
    """
    total = volume.cast(pa.float64()).to_numpy()
    is_empty = total == 0.0
    total = np.where(is_empty, 1.0, total)
    units = np.rint(value.cast(pa.float64()).to_numpy() / total * 1e10)
    # The greatest prices may be rounded up to 19 digits.
    price = decimals_of(pa.decimal128(19, 10), units.astype(np.int64))
    product = pc.multiply(price.cast(pa.decimal256(19, 10)), volume.cast(pa.decimal256(38, 8)))
    rest = pc.subtract(value.cast(pa.decimal256(38, 18)), product).cast(pa.float64()).to_numpy()
    near = units / 1e10
    wide = near * 134217729.0
    upper = wide - (wide - near)
    rounding = ((units - upper * 1e10) - (near - upper) * 1e10) / 1e10
    return pa.array(near + (rounding + rest / total), mask=is_empty)
