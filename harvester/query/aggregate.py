"""Exact OHLCV aggregation of Arrow batches with numpy, in integers of up to 150 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import ArchiveDamaged, ValueDoesNotFit
from harvester.schema import PRICE, Int64s, decimal_array, decimal_words, times, trade_ids
from harvester.storage.rollup_files import PARTIALS
from harvester.times import show

# --- large integers -------------------------------------------------------------------------------

# A number is a column of limbs: limb `i` counts in units of 2**(30 i). All limbs but the highest
# are below 2**30, so 2**17 numbers can be added limb by limb without exceeding 64 bits.

BITS = 30
MAX_ROWS = 1 << 17
"""How many numbers may be added at once."""

_MASK = (1 << BITS) - 1
_LIMBS = 5
_DECIMAL_END = 10**38


def limbs_from_words(low: Int64s, high: Int64s) -> Int64s:
    """Return decimals below 2**90 as limbs of shape (3, numbers).

    Args:
        low: the lower 64 bits of each decimal.
        high: the upper 64 bits.
    """
    limbs = np.empty((3, len(low)), dtype=np.int64)
    np.bitwise_and(low, _MASK, out=limbs[0])
    np.bitwise_and(low >> BITS, _MASK, out=limbs[1])
    np.bitwise_and(low >> 2 * BITS, 15, out=limbs[2])
    limbs[2] |= high << 4
    return limbs


def multiply(factors: Int64s, limbs: Int64s) -> Int64s:
    """Multiply numbers; returns limbs of shape (4, numbers).

    Args:
        factors: numbers below 2**60, shape (numbers,).
        limbs: numbers below 2**75, shape (3, numbers).
    """
    low, high = factors & _MASK, factors >> BITS
    result = np.empty((4, len(factors)), dtype=np.int64)
    # Each limb is at most two products of 60 bits.
    np.multiply(low, limbs[0], out=result[0])
    np.multiply(low, limbs[1], out=result[1])
    np.multiply(low, limbs[2], out=result[2])
    np.multiply(high, limbs[2], out=result[3])
    result[1] += high * limbs[0]
    result[2] += high * limbs[1]
    return propagate_carries(result)


def propagate_carries(limbs: Int64s) -> Int64s:
    """Carry over, in place, until all limbs but the highest are below 2**30."""
    for i in range(len(limbs) - 1):
        limbs[i + 1] += limbs[i] >> BITS
        limbs[i] &= _MASK
    return limbs


def group_sums(limbs: Int64s, starts: Int64s) -> Int64s:
    """Add up groups of neighbouring numbers; returns limbs of shape (5, groups).

    Args:
        limbs: the numbers, shape (limbs, numbers).
        starts: the index of the first number of each group, which ends where the next starts.
    """
    result = np.zeros((_LIMBS, len(starts)), dtype=np.int64)
    np.add.reduceat(limbs, starts, axis=1, out=result[: len(limbs)])
    return propagate_carries(result)


def to_int(limbs: Int64s) -> int:
    """Return one number, of shape (limbs,), as a Python integer."""
    return sum(limb << (BITS * i) for i, limb in enumerate(limbs.tolist()))


def words_from_limbs(limbs: Int64s) -> Int64s:
    """Return numbers below 10**38 as low and high words of decimals; shape (numbers, 2)."""
    result = np.empty((limbs.shape[1], 2), dtype=np.int64)
    result[:, 0] = limbs[0] | limbs[1] << BITS | limbs[2] << 2 * BITS
    result[:, 1] = limbs[2] >> 4 | limbs[3] << BITS - 4 | limbs[4] << 2 * BITS - 4
    return result


def indices_of_overflow(limbs: Int64s) -> Int64s:
    """Return the indices of the numbers from 10**38 on, which do not fit a decimal of 38 digits."""
    # The two highest limbs decide most cases; only the doubtful ones are computed exactly.
    high = limbs[4] << BITS | limbs[3]
    doubtful = np.flatnonzero(high >= _DECIMAL_END >> 3 * BITS)
    return doubtful[[to_int(limbs[:, i]) >= _DECIMAL_END for i in doubtful]]


# --- bar columns ----------------------------------------------------------------------------------

# Columns have the names of candle columns. Numbers are int64 of shape (bars,), sums are limbs of
# shape (limbs, bars): the bars are always along the last axis.

VOLUME_SUM = pa.decimal128(38, 8)
VALUE_SUM = pa.decimal128(38, 18)
TIME = pa.timestamp("ns")

BASE_COLUMNS = {
    "time": TIME,
    "open": PRICE,
    "high": PRICE,
    "low": PRICE,
    "close": PRICE,
    "vwap": pa.float64(),
    "volume": VOLUME_SUM,
    "count": pa.int64(),
}
EXTRA_COLUMNS = {
    "value": VALUE_SUM,
    "buy_volume": VOLUME_SUM,
    "sell_volume": VOLUME_SUM,
    "buy_value": VALUE_SUM,
    "sell_value": VALUE_SUM,
    "buy_count": pa.int64(),
    "sell_count": pa.int64(),
    "first_trade_id": pa.int64(),
    "last_trade_id": pa.int64(),
    "first_time": TIME,
}
LAST_COLUMNS = {"last_time": TIME, "is_complete": pa.bool_()}

Columns = dict[str, Int64s]


def bar_schema(*, all_columns: bool) -> pa.Schema:
    """Return the columns of a result, in order."""
    return pa.schema(BASE_COLUMNS | (EXTRA_COLUMNS if all_columns else {}) | LAST_COLUMNS)


class TradeArrays(NamedTuple):
    """Consecutive trades as integers: prices in 1e-10, volumes in 1e-8, values in 1e-18."""

    time: Int64s
    price: Int64s
    volume: Int64s
    value: Int64s

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Self:
        """Convert a batch of `schema.TRADES`, of at most `MAX_ROWS` rows."""
        # A decimal of 18 digits fits its low word.
        price = np.ascontiguousarray(decimal_words(batch.column("price"))[0])
        volume = limbs_from_words(*decimal_words(batch.column("volume")))
        return cls(times(batch), price, volume, multiply(price, volume))


# --- from trades to bars --------------------------------------------------------------------------


def group_trades(
    batch: pa.RecordBatch, trades: TradeArrays, starts: Int64s, *, all_columns: bool
) -> Columns:
    """Return the columns of bars.

    Args:
        batch: the trades.
        trades: the same trades as integers.
        starts: the index of the first trade of each bar; the first one is 0.
        all_columns: also return the columns of `EXTRA_COLUMNS`.
    """
    last = np.append(starts[1:], batch.num_rows) - 1
    result = {
        "time": trades.time[starts],
        "open": trades.price[starts],
        "high": np.maximum.reduceat(trades.price, starts),
        "low": np.minimum.reduceat(trades.price, starts),
        "close": trades.price[last],
        "value": group_sums(trades.value, starts),
        "volume": group_sums(trades.volume, starts),
        "count": last - starts + 1,
        "last_time": trades.time[last],
    }
    if all_columns:
        ids = trade_ids(batch)
        result |= _side_columns(batch, trades, starts) | group_ids(ids, ids, starts)
    return result


def _side_columns(batch: pa.RecordBatch, trades: TradeArrays, starts: Int64s) -> Columns:
    result = {}
    for side in ("buy", "sell"):
        mask = _side_mask(batch.column("side"), side)
        result[f"{side}_volume"] = group_sums(trades.volume * mask, starts)
        result[f"{side}_value"] = group_sums(trades.value * mask, starts)
        result[f"{side}_count"] = np.add.reduceat(mask, starts)
    return result


def _side_mask(sides: pa.DictionaryArray, side: str) -> Int64s:
    """Return 1 where the taker's side is this one, otherwise 0; shape (rows,)."""
    code = pc.index(sides.dictionary, side).as_py()
    # Unknown sides are null; a word that is not in the dictionary has the index -1.
    codes = sides.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    mask: Int64s = ((codes == code) & (codes >= 0)).astype(np.int64)
    return mask


def group_ids(firsts: Int64s, lasts: Int64s, starts: Int64s) -> Columns:
    """Return the first and the last trade id of each group; 0 if no row of a group has an id.

    Args:
        firsts: the first id of each row; 0 for none.
        lasts: the last id of each row; 0 for none.
        starts: the index of the first row of each group.
    """
    indices = np.arange(len(firsts))
    first = np.minimum.reduceat(np.where(firsts != 0, indices, len(firsts)), starts)
    last = np.maximum.reduceat(np.where(lasts != 0, indices, -1), starts)
    # If no row has an id, both point at the 0 that is appended.
    return {
        "first_trade_id": np.append(firsts, 0)[first],
        "last_trade_id": np.append(lasts, 0)[last],
    }


# --- open bars ------------------------------------------------------------------------------------


def merge_open_bar(open_bar: Columns, bars: Columns) -> None:
    """Merge an open bar into the first of the bars, which continues it.

    Args:
        open_bar: the columns of one bar.
        bars: the columns of the following bars; changed in place.
    """
    for name, so_far in open_bar.items():
        first = bars[name][..., :1]
        if name in ("time", "open"):
            first[:] = so_far
        elif name == "high":
            np.maximum(first, so_far, out=first)
        elif name == "low":
            np.minimum(first, so_far, out=first)
        elif name == "first_trade_id":
            first[:] = so_far if so_far[0] else first
        elif name == "last_trade_id":
            first[:] = first if first[0] else so_far
        elif name not in ("close", "last_time"):
            first += so_far
            if first.ndim > 1:
                propagate_carries(first)


def slice_bars(bars: Columns, start: int, stop: int | None = None) -> Columns:
    """Return a copy of some of the bars.

    Args:
        bars: the columns.
        start: index of the first bar that is copied.
        stop: index after the last one; None for the end.
    """
    return {name: column[..., start:stop].copy() for name, column in bars.items()}


# --- conversion to Arrow --------------------------------------------------------------------------


def to_batch(bars: Columns, *, is_complete: bool, all_columns: bool) -> pa.RecordBatch:
    """Return bars as a batch; every sum must fit 38 digits.

    Args:
        bars: the columns.
        is_complete: the value of the column `is_complete`.
        all_columns: also return the columns of `EXTRA_COLUMNS`.
    """
    schema = bar_schema(all_columns=all_columns)
    arrays = {field.name: to_array(bars, field) for field in schema if field.name in bars}
    value, volume = (to_array(bars, field) for field in _SUMS)
    arrays["vwap"] = _vwap(value, volume)
    arrays["first_time"] = arrays["time"]
    arrays["is_complete"] = pa.array(np.full(len(volume), is_complete))
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


_SUMS = (pa.field("value", VALUE_SUM), pa.field("volume", VOLUME_SUM))


def to_array(bars: Columns, field: pa.Field) -> pa.Array:
    """Return one column as an Arrow array; every sum must fit 38 digits.

    Args:
        bars: the columns.
        field: the name and the type of the column.
    """
    column = bars[field.name]
    if column.ndim > 1:
        return _decimal_array(words_from_limbs(column), field.type)
    if pa.types.is_decimal(field.type):
        return _decimal_array(np.stack([column, np.zeros_like(column)], axis=1), field.type)
    if field.name.endswith("_id"):
        return pa.array(column, mask=column == 0)
    return pa.array(column).cast(field.type)


def _decimal_array(words: Int64s, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(words), [None, pa.py_buffer(words)])


def _vwap(value: pa.Array, volume: pa.Array) -> pa.Array:
    """Return the double nearest to value / volume; null where the volume is 0.

    It is computed as for candles (`candle_sql.with_vwap`): a multiple of 1e-10 without its
    rounding error, plus the remainder of the value, computed in decimals.
    """
    total = volume.cast(pa.float64()).to_numpy()
    is_empty = total == 0.0
    total = np.where(is_empty, 1.0, total)
    units = np.rint(value.cast(pa.float64()).to_numpy() / total * 1e10)
    # The largest prices may be rounded up to 19 digits.
    price = decimal_array(pa.decimal128(19, 10), units.astype(np.int64))
    product = pc.multiply(price.cast(pa.decimal256(19, 10)), volume.cast(pa.decimal256(38, 8)))
    rest = pc.subtract(value.cast(pa.decimal256(38, 18)), product).cast(pa.float64()).to_numpy()
    near = units / 1e10
    wide = near * 134217729.0
    upper = wide - (wide - near)
    rounding = ((units - upper * 1e10) - (near - upper) * 1e10) / 1e10
    return pa.array(near + (rounding + rest / total), mask=is_empty)


# --- partial candles ------------------------------------------------------------------------------

# `rollups.RollupRecomputation` computes the same with DuckDB, and `verify` compares both. For a
# small segment numpy needs a third of the time, and a download need not load DuckDB.

_SUMMED = ("volume", "value", "buy_volume", "sell_volume", "buy_value", "sell_value")
_COUNTS = ("count", "buy_count", "sell_count")


class PartialCandles:
    """Builds partial candles from trades. Memory holds some thousand trades and the candles."""

    def __init__(self, widths_ns: Sequence[int], what: str) -> None:
        """Start with no trades.

        Args:
            widths_ns: the widths of the candles, the finest first.
            what: names the work in messages.
        """
        self._what = what
        self._levels: list[_Level] = []
        for width_ns in widths_ns:
            level = _Level(width_ns, what)
            finer = [other for other in self._levels if width_ns % other.width_ns == 0]
            if finer:
                finer[-1].coarser.append(level)
            else:
                level.reads_trades = True
            self._levels.append(level)

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the next trades, a batch of `schema.TRADES`.

        Raises:
            ArchiveDamaged: a price or a volume is below 0.
            ValueDoesNotFit: a sum has too many digits.
        """
        for start in range(0, batch.num_rows, MAX_ROWS):
            rows = batch.slice(start, MAX_ROWS)
            trades = TradeArrays.of(rows)
            if trades.price.min() < 0 or trades.volume.min() < 0:
                raise ArchiveDamaged(
                    f"{self._what}: a price or a volume below 0 was published behind "
                    f"{show(int(trades.time[0]))}: nothing can be counted"
                )
            for level in self._levels:
                if level.reads_trades:
                    starts = _interval_starts(trades.time, level.width_ns)
                    level.add(group_trades(rows, trades, starts, all_columns=True))

    def finish(self) -> list[list[pa.RecordBatch]]:
        """Return the candles of all trades: batches of `PARTIALS` for each width."""
        # A finer level ends before the levels that are computed from it.
        for level in self._levels:
            level.finish()
        return [level.batches for level in self._levels]


class _Level:
    """The candles of one width."""

    def __init__(self, width_ns: int, what: str) -> None:
        self.width_ns = width_ns
        self.reads_trades = False
        self.coarser: list[_Level] = []
        self.batches: list[pa.RecordBatch] = []
        self._what = what
        self._open_candle: Columns | None = None

    def add(self, candles: Columns) -> None:
        """Add the next candles, in order; the first may continue the last one so far."""
        open_candle = self._open_candle
        if open_candle is not None:
            if self._number(open_candle) == self._number(candles):
                merge_open_bar(open_candle, candles)
            else:
                self._emit(open_candle)
        last = len(candles["time"]) - 1
        self._open_candle = slice_bars(candles, last)
        if last:
            self._emit(slice_bars(candles, 0, last))

    def finish(self) -> None:
        """Emit the last candle; no more candles follow."""
        if self._open_candle is not None:
            self._emit(self._open_candle)
            self._open_candle = None

    def _emit(self, candles: Columns) -> None:
        for name in _SUMMED:
            if len(indices_of_overflow(candles[name])):
                raise ValueDoesNotFit(
                    f"{self._what}: a sum of price x volume reaches 10^20, more than fits 38 "
                    "exact digits"
                )
        self.batches.append(_to_partials(candles, self.width_ns))
        for level in self.coarser:
            level.add(_group_candles(candles, _interval_starts(candles["time"], level.width_ns)))

    def _number(self, candles: Columns) -> int:
        """Return the number of the first candle's interval."""
        return int(candles["time"][0]) // self.width_ns


def _interval_starts(stamps: Int64s, width_ns: int) -> Int64s:
    """Return the indices at which another interval begins among sorted times, with index 0."""
    numbers = stamps // width_ns
    return np.append(0, (numbers[1:] != numbers[:-1]).nonzero()[0] + 1)


def _group_candles(candles: Columns, starts: Int64s) -> Columns:
    """Merge neighbouring candles into one from each start to the next."""
    last = np.append(starts[1:], len(candles["time"])) - 1
    result = {name: candles[name][starts] for name in ("time", "open")}
    result |= {name: candles[name][last] for name in ("close", "last_time")}
    result["high"] = np.maximum.reduceat(candles["high"], starts)
    result["low"] = np.minimum.reduceat(candles["low"], starts)
    result |= {name: group_sums(candles[name], starts) for name in _SUMMED}
    result |= {name: np.add.reduceat(candles[name], starts) for name in _COUNTS}
    return result | group_ids(candles["first_trade_id"], candles["last_trade_id"], starts)


def _to_partials(candles: Columns, width_ns: int) -> pa.RecordBatch:
    """Return candles as a batch of `PARTIALS`; `time` is the start of the interval."""
    first = candles["time"]
    columns = candles | {"time": first // width_ns * width_ns, "first_time": first}
    return pa.RecordBatch.from_arrays(
        [to_array(columns, field) for field in PARTIALS], schema=PARTIALS
    )
