"""Exact OHLCV aggregation of Arrow batches with pyarrow: from trades to bars and candles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import ArchiveDamaged, ValueDoesNotFit
from harvester.schema import (
    PRICE,
    SUM_OF_VALUES,
    SUM_OF_VOLUMES,
    VOLUME,
    Int64s,
    decimal_array,
    decimal_words,
    times,
)
from harvester.storage.parquet_files import PARTIALS
from harvester.times import show

# DuckDB's SQL (`source_choice.BASE`) is the definition of a candle; `verify` compares both. For a
# small segment pyarrow needs a third of the time, and a download need not load DuckDB.

# --- from trades to bars --------------------------------------------------------------------------

# A bar is a row with the columns of `PARTIALS`, but a value has 76 digits, which no sum of stored
# trades exceeds: a value of one trade has 40. A sum of volumes needs 10^16 trades to exceed 38.

TIME = PARTIALS.field("time").type
EXACT_VALUE = pa.decimal256(76, SUM_OF_VALUES.scale)
PRICES = ("open", "high", "low", "close")
_WIDE_PRICE = pa.decimal256(PRICE.precision, PRICE.scale)
_WIDE_VOLUME = pa.decimal256(VOLUME.precision, VOLUME.scale)


def bars_of_trades(batch: pa.RecordBatch, what: str, *, all_columns: bool) -> pa.RecordBatch:
    """Return each trade as a bar of its own.

    Args:
        batch: the trades, a batch of `schema.TRADES` that is not empty.
        what: names the work in messages.
        all_columns: also return the columns about sides and trade ids.

    Raises:
        ArchiveDamaged: a price or a volume is below 0.
    """
    price, volume, time = (batch.column(name) for name in ("price", "volume", "time"))
    if pc.min(price).as_py() < 0 or pc.min(volume).as_py() < 0:
        stamps = times(batch)
        raise ArchiveDamaged(
            f"{what}: a price or a volume below 0 was published between "
            f"{show(int(stamps[0]))} and {show(int(stamps[-1]))}: nothing can be counted"
        )
    value = pc.multiply(price.cast(_WIDE_PRICE), volume.cast(_WIDE_VOLUME)).view(EXACT_VALUE)
    volume = volume.cast(SUM_OF_VOLUMES)
    columns = dict.fromkeys(PRICES, price)
    columns |= dict.fromkeys(("first_time", "last_time"), time)
    columns |= {"volume": volume, "value": value, "count": pa.array(np.ones(len(price), np.int64))}
    if all_columns:
        sides = batch.column("side")
        for side in ("buy", "sell"):
            code = pc.index(sides.dictionary, side).cast(sides.indices.type)
            is_side = pc.equal(sides.indices, code).fill_null(False)
            columns[f"{side}_volume"] = pc.if_else(is_side, volume, pa.scalar(0, volume.type))
            columns[f"{side}_value"] = pc.if_else(is_side, value, pa.scalar(0, value.type))
            columns[f"{side}_count"] = is_side.cast(pa.int64())
        columns |= dict.fromkeys(("first_trade_id", "last_trade_id"), batch.column("trade_id"))
    return pa.RecordBatch.from_pydict(columns)


def merge_bars(bars: pa.RecordBatch, starts: Int64s) -> pa.RecordBatch:
    """Merge neighbouring bars.

    Args:
        bars: the bars, in order.
        starts: the index of the first bar of each group, which ends where the next one starts.
    """
    if len(starts) == bars.num_rows:
        return bars
    ends = np.append(starts[1:], bars.num_rows)
    merged: dict[str, pa.Array] = {}
    summed = {"group": pa.array(np.repeat(np.arange(len(starts)), ends - starts))}
    how = []
    for name, column in zip(bars.schema.names, bars.columns, strict=True):
        way = _MERGE.get(name, "sum")
        if way in ("first", "last") and not column.null_count:
            merged[name] = column.take(pa.array(starts if way == "first" else ends - 1))
        elif way in ("max", "min"):
            # A price fits the low word of its decimal.
            extreme = np.maximum if way == "max" else np.minimum
            merged[name] = decimal_array(PRICE, extreme.reduceat(decimal_words(column)[0], starts))
        elif column.type == pa.int64() and way == "sum":
            merged[name] = pa.array(np.add.reduceat(column.to_numpy(), starts))
        else:
            # Of ids, the first or the last that is not null.
            summed[name] = column
            how.append((name, way))
    # Without threads, the groups come in order.
    sums = pa.table(summed).group_by("group", use_threads=False).aggregate(how)
    merged |= {name: sums.column(f"{name}_{way}").chunk(0) for name, way in how}
    return pa.RecordBatch.from_pydict({name: merged[name] for name in bars.schema.names})


_MERGE = {
    "open": "first",
    "high": "max",
    "low": "min",
    "close": "last",
    "first_time": "first",
    "last_time": "last",
    "first_trade_id": "first",
    "last_trade_id": "last",
}


def continue_bar(
    open_bar: Sequence[pa.RecordBatch], bars: pa.RecordBatch, *, is_continued: bool
) -> pa.RecordBatch:
    """Return an open bar, if there is one, and the bars after it.

    Args:
        open_bar: a batch of one bar, or nothing.
        bars: the bars after it, in order.
        is_continued: whether the first of them is a part of the open bar.
    """
    if open_bar and is_continued:
        first = pa.concat_batches([*open_bar, bars.slice(0, 1)])
        open_bar, bars = [merge_bars(first, np.array([0]))], bars.slice(1)
    return pa.concat_batches([*open_bar, bars]) if open_bar else bars


def begins_ns(bars: pa.RecordBatch) -> Int64s:
    """Return the published time of each bar's first trade in nanoseconds; shape (bars,)."""
    begins: Int64s = bars.column("first_time").cast(pa.int64()).to_numpy()
    return begins


def unscaled_integers(values: pa.Array) -> list[int]:
    """Return decimals or integers, 0 or more and without nulls, in units of their last digit."""
    words = np.frombuffer(values.buffers()[1], dtype=np.uint64)
    words = words.reshape(-1, values.type.bit_width // 64)
    low, *rest = words[values.offset : values.offset + len(values)].T
    numbers: list[int] = low.tolist()
    for i, word in enumerate(rest, 1):
        if word.any():
            pairs = zip(numbers, word.tolist(), strict=True)
            numbers = [number + (high << 64 * i) for number, high in pairs]
    return numbers


def stored_columns(bars: pa.RecordBatch, what: str) -> dict[str, pa.Array]:
    """Return the columns of bars with values of 38 digits, as they are stored and returned.

    Args:
        bars: the bars.
        what: names the work in messages.

    Raises:
        ValueDoesNotFit: a value has more digits.
    """
    columns = dict(zip(bars.schema.names, bars.columns, strict=True))
    for name, column in columns.items():
        if column.type == EXACT_VALUE:
            index = pc.index(pc.greater_equal(column, _VALUE_END), True).as_py()
            if index >= 0:
                begin_ns = columns["first_time"][index].value
                raise ValueDoesNotFit(
                    f"{what}: the sum of price x volume from {show(begin_ns)} on reaches 10^20, "
                    "more than fits 38 exact digits"
                )
            columns[name] = column.cast(SUM_OF_VALUES)
    return columns


_VALUE_END = pa.scalar(10**20, EXACT_VALUE)


# --- candles --------------------------------------------------------------------------------------


class CandleBuilder:
    """Merges bars into candles of one interval. Memory holds the open candle only."""

    def __init__(self, width_ns: int) -> None:
        """Start without bars; `width_ns` is the length of a candle."""
        self.width_ns = width_ns
        self._open: list[pa.RecordBatch] = []

    def add(self, bars: pa.RecordBatch) -> pa.RecordBatch:
        """Add the next bars, in order; returns the candles that are complete now."""
        numbers = begins_ns(bars) // self.width_ns
        candles = merge_bars(bars, np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1)))
        is_continued = (
            bool(self._open) and begins_ns(self._open[0])[0] // self.width_ns == numbers[0]
        )
        candles = continue_bar(self._open, candles, is_continued=is_continued)
        self._open = [candles.slice(candles.num_rows - 1)]
        return candles.slice(0, candles.num_rows - 1)

    def finish(self) -> list[pa.RecordBatch]:
        """Return the open candle, as a batch; nothing if there were no bars."""
        last, self._open = self._open, []
        return last


def candles_of_trades(
    batches: Iterable[pa.RecordBatch], width_ns: int, what: str
) -> Iterator[pa.RecordBatch]:
    """Yield the candles of one interval, in order; their `first_time` is that of a trade.

    Args:
        batches: trades in order, batches of `schema.TRADES` that are not empty.
        width_ns: the length of a candle.
        what: names the work in messages.

    Raises:
        ArchiveDamaged: a price or a volume is below 0.
    """
    candles = CandleBuilder(width_ns)
    for batch in batches:
        yield candles.add(bars_of_trades(batch, what, all_columns=False))
    yield from candles.finish()
