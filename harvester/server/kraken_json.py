"""Render trades and candles of an archive as JSON in Kraken's form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.exporters.formats import decimal_text, fixed_text
from harvester.kraken.pairs import Pair
from harvester.query.rollups import begins_ns, candles_of_trades
from harvester.schema import PRICE, Int64s, decimal_words, times, trade_ids
from harvester.storage.parquet_files import PRICES
from harvester.storage.trade_store import TradeStore
from harvester.times import DAY, SECOND, Range, show

# --- trades ---------------------------------------------------------------------------------------

_LETTERS = {"buy": "b", "sell": "s", "market": "m", "limit": "l"}


class SideUnknown(Exception):
    """A page has a trade without a side. The message is the time of the trade."""


@dataclass(frozen=True, slots=True)
class RenderedRows:
    """Rows of the trade history as JSON, from which pages are cut.

    Attributes:
        times_ns: published times, ascending; shape (rows,).
        cursors_ns: the cursor of each row, see `_cursors`; shape (rows,).
        text: the rows as JSON, each followed by a comma.
        offsets: where each row begins in `text`, and where the last one ends; shape (rows + 1,).
        without_side: indexes of the rows whose side is not known, ascending.
    """

    times_ns: Int64s
    cursors_ns: Int64s
    text: memoryview
    offsets: NDArray[np.int32]
    without_side: Int64s

    @property
    def size(self) -> int:
        """Size in memory, in bytes."""
        arrays = (self.times_ns, self.cursors_ns, self.offsets, self.without_side)
        return len(self.text) + sum(array.nbytes for array in arrays)

    def rows(self, start: int, stop: int) -> memoryview:
        """The JSON of the rows from index `start` up to before `stop`, each followed by a comma."""
        return self.text[int(self.offsets[start]) : int(self.offsets[stop])]

    def check_sides(self, start: int, stop: int) -> None:
        """Raise SideUnknown if a row from index `start` up to before `stop` has no side."""
        first, last = np.searchsorted(self.without_side, (start, stop))
        if first < last:
            raise SideUnknown(show(int(self.times_ns[self.without_side[first]])))


def render(
    trades: pa.RecordBatch, pair_decimals: int, id_before: int | None, *, guess_sides: bool = False
) -> RenderedRows:
    """Render a batch of `schema.SEGMENT_SCHEMA` as Kraken's JSON rows.

    A time is printed without trailing zeros, from its integer: a float can't hold all its digits.

    Args:
        trades: the rows.
        pair_decimals: decimals of a price; more are printed if the price has more.
        id_before: the id of the row before them: a row without an id has one more than the row
            before it. None prints rows as they are stored: without an id as 0, without a side or
            an order type as an empty text.
        guess_sides: whether a row without a side has one by the tick rule, and is a market order.
    """
    times_ns = np.ascontiguousarray(times(trades))
    ids, sides, order_types = trade_ids(trades), trades.column("side"), trades.column("order_type")
    side_letters, type_letters = _letters(sides), _letters(order_types)
    without_side = np.empty(0, np.int64)
    if id_before is not None:
        ids = _continued(ids, id_before)
        if sides.null_count and guess_sides:
            side_letters = pc.if_else(sides.is_null(), _tick_rule(trades), side_letters)
        elif sides.null_count:
            without_side = np.flatnonzero(sides.is_null().to_numpy(zero_copy_only=False))
        type_letters = pc.if_else(order_types.is_null(), "m", type_letters)
    price = _trimmed(decimal_text(trades.column("price")), PRICE.scale, pair_decimals)
    text = pc.binary_join_element_wise(
        '["',
        price,
        '","',
        decimal_text(trades.column("volume")),
        '",',
        _trimmed(fixed_text(trades.column("time").cast(pa.int64()), 9), 9, 0),
        ',"',
        side_letters,
        '","',
        type_letters,
        '",',
        _quoted(trades.column("misc")),
        ",",
        pa.array(ids).cast(pa.string()),
        "],",
        "",
    )
    _, offset_buffer, data = text.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int32)
    return RenderedRows(
        times_ns,
        _cursors(times_ns),
        memoryview(data),
        offsets[text.offset : text.offset + len(text) + 1],
        without_side,
    )


def _cursors(times_ns: Int64s) -> Int64s:
    """A time of its own for each row, ascending: its time, plus its place among equal times in ns.

    Kraken's cursor is the true time of a row, and no two rows share it. So a client that follows
    the cursor gets on, however many rows have the same published time.
    """
    place = np.arange(len(times_ns)) - np.searchsorted(times_ns, times_ns)
    cursors: Int64s = np.maximum.accumulate(times_ns + place)
    return cursors


def _continued(ids: Int64s, id_before: int) -> Int64s:
    """Trade ids in which a 0 is replaced by one more than the id of the row before it."""
    indexes = np.arange(len(ids))
    with_id = np.maximum.accumulate(np.where(ids != 0, indexes, -1))
    known = np.where(with_id < 0, id_before, ids[with_id])
    continued: Int64s = known + indexes - with_id
    return continued


def _tick_rule(trades: pa.RecordBatch) -> pa.Array:
    """A guess of each taker's side: the direction of the last change of the price.

    Before the first change it is a sell.
    """
    change = np.diff(decimal_words(trades.column("price"))[0], prepend=0)
    change[0] = 0
    changed = np.maximum.accumulate(np.where(change != 0, np.arange(len(change)), 0))
    return pa.array(np.where(change[changed] > 0, "b", "s"))


def _trimmed(texts: pa.Array, scale: int, min_decimals: int) -> pa.Array:
    """Texts with `scale` decimals without trailing zeros, but with at least `min_decimals`."""
    optional = scale - max(0, min(scale, min_decimals))
    if optional == 0:
        return texts
    kept = pc.utf8_slice_codeunits(texts, 0, -optional)
    tail = pc.utf8_rtrim(pc.utf8_slice_codeunits(texts, -optional), characters="0")
    return pc.utf8_rtrim(pc.binary_join_element_wise(kept, tail, ""), characters=".")


def _letters(words: pa.DictionaryArray) -> pa.Array:
    """Sides or order types as Kraken's letters; empty for null."""
    letters = pa.array([_LETTERS[word] for word in words.dictionary.to_pylist()], pa.string())
    return letters.take(words.indices).fill_null("")


def _quoted(words: pa.DictionaryArray) -> pa.Array:
    """Texts as JSON strings; an empty one for null."""
    quoted = [msgspec.json.encode(word).decode() for word in words.dictionary.to_pylist()]
    return pa.array(quoted, pa.string()).take(words.indices).fill_null('""')


# --- candles --------------------------------------------------------------------------------------

# Source: Kraken's public REST documentation for `GET /0/public/OHLC` and `GET /0/public/Ticker`,
# and captured answers (docs/kraken.md).

CLOSED_CANDLES = 720
"""Closed candles in an answer; the open one follows them."""

_EXACT = Context(prec=76)

Row = tuple[int, str, str, str, str, str, str, int]
"""Time in seconds, open, high, low, close, vwap, volume, count; prices and volumes as text."""


def ohlc_from_archive(
    archive: TradeStore, pair: Pair, width_ns: int, numbers: range, now_ns: int
) -> list[Row]:
    """Candles of a pair, from the first one that is complete and has a price.

    Args:
        archive: an archive that covers some range of the pair.
        pair: the market; prices are printed with its `pair_decimals`.
        width_ns: a candle's length in nanoseconds.
        numbers: which candles; number 0 begins at the UNIX epoch. Candles before the last gap that
            ends among them are left out.
        now_ns: the exchange's clock, UNIX nanoseconds.

    Raises:
        ArchiveDamaged: a file can't be read.
    """
    begin_ns, end_ns = numbers.start * width_ns, min(numbers.stop * width_ns - 1, now_ns)
    covered = [part for part in archive.coverage(pair.altname) if part.after < max(end_ns, 1)]
    if not covered:
        return []
    # A candle without trades repeats the previous close, which may be far back. If that is an
    # imported trade which is replaced by the exchange's meanwhile, its time changes by a second.
    previous_ns = archive.last_time(pair.altname, begin_ns)
    earliest_ns = begin_ns if previous_ns is None else previous_ns - 2 * SECOND
    after = max(covered[-1].after, earliest_ns - 1)
    batches = archive.scan(pair.altname, Range(after, max(after, end_ns)))
    rows = ohlc_rows(batches, width_ns, numbers, pair.pair_decimals)
    return [row for row in rows if row[0] * SECOND > covered[-1].after]


def ohlc_rows(
    batches: Iterable[pa.RecordBatch], width_ns: int, numbers: range, decimals: int
) -> list[Row]:
    """Candles by their numbers, from the first one with a price on.

    An interval without trades repeats the previous close, with a volume and a vwap of zero. The
    vwap is truncated to the pair's decimals, not rounded.

    Args:
        batches: rows in the trade history's order; they may begin earlier.
        width_ns: a candle's length in nanoseconds.
        numbers: which candles; number 0 begins at the UNIX epoch.
        decimals: the decimals of the pair's prices.
    """
    by_number: dict[int, dict[str, Any]] = {}
    for candles in candles_of_trades(batches, width_ns, "OHLC"):
        values = candles.drop_columns(["first_time", "last_time"]).to_pylist()
        by_number |= zip((begins_ns(candles) // width_ns).tolist(), values, strict=True)
    if not by_number:
        return []
    first = max(min(by_number), numbers.start)
    earlier = (number for number in by_number if number <= first)
    close = by_number[max(earlier, default=min(by_number))]["close"]
    rows: list[Row] = []
    for number in range(first, numbers.stop):
        candle = by_number.get(number) or _without_trades(close)
        rows.append(_row(number * width_ns // SECOND, candle, decimals))
        close = candle["close"]
    return rows


def ticker_from_archive(archive: TradeStore, pair: Pair, now_ns: int) -> dict[str, Any] | None:
    """The figures of the day and of the last 24 hours in the form of Ticker; None without trades.

    Figures begin after the last gap. There is no order book in an archive, so best bid and ask are
    left out.

    Args:
        archive: an archive that covers some range of the pair.
        pair: the market; prices are printed with its `pair_decimals`.
        now_ns: the exchange's clock, UNIX nanoseconds.

    Raises:
        ArchiveDamaged: a file can't be read.
    """
    last_ns = archive.last_time(pair.altname, now_ns)
    if last_ns is None:
        return None
    covered = archive.coverage(pair.altname)[-1]
    today_ns = now_ns // DAY * DAY
    # If an imported trade is replaced by the exchange's meanwhile, its time changes by a second.
    [*_, last] = archive.scan(pair.altname, Range(max(0, last_ns - 2 * SECOND), now_ns))
    price, volume = last.column("price")[-1].as_py(), last.column("volume")[-1].as_py()
    since_midnight = _as_single_candle(
        archive, pair, Range(max(today_ns - 1, covered.after), now_ns), price
    )
    last_day = _as_single_candle(
        archive, pair, Range(max(now_ns - DAY, covered.after), now_ns), price
    )
    both = [_row(0, candle, pair.pair_decimals) for candle in (since_midnight, last_day)]
    return {
        "c": [_price_text(price, pair.pair_decimals), f"{volume:.8f}"],
        "v": [row[6] for row in both],
        "p": [row[5] for row in both],
        "t": [row[7] for row in both],
        "l": [row[3] for row in both],
        "h": [row[2] for row in both],
        "o": both[0][1],
    }


def _as_single_candle(
    archive: TradeStore, pair: Pair, within: Range, close: Decimal
) -> dict[str, Any]:
    """All trades of a range as one candle; at the price `close` if there are none."""
    # Empty if the day begins after `now_ns`.
    within = Range(min(within.after, within.through), within.through)
    batches = archive.scan(pair.altname, within)
    # Any width that holds the range in one interval.
    candles: list[dict[str, Any]] = [
        candle
        for bars in candles_of_trades(batches, 2 * within.through + 1, "Ticker")
        for candle in bars.drop_columns(["first_time", "last_time"]).to_pylist()
    ]
    return candles[0] if candles else _without_trades(close)


def _without_trades(close: Decimal) -> dict[str, Any]:
    return dict.fromkeys(PRICES, close) | dict.fromkeys(("volume", "value", "count"), 0)


def _row(time_s: int, candle: Mapping[str, Any], decimals: int) -> Row:
    vwap = Decimal(0)
    if candle["volume"]:
        units = _EXACT.divide_int(candle["value"].scaleb(decimals, _EXACT), candle["volume"])
        vwap = units.scaleb(-decimals, _EXACT)
    open_, high, low, close = (_price_text(candle[name], decimals) for name in PRICES)
    vwap_text, volume_text = f"{vwap:.{decimals}f}", f"{candle['volume']:.8f}"
    return (time_s, open_, high, low, close, vwap_text, volume_text, candle["count"])


def _price_text(price: Decimal, decimals: int) -> str:
    """A price with the pair's decimals, or with more if it has more."""
    short = price.quantize(Decimal(1).scaleb(-decimals), context=_EXACT)
    return f"{short if short == price else price.normalize(_EXACT):f}"
