"""Render rows of the trade history as JSON in Kraken's form."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.exporters.formats import decimal_text, fixed_text
from harvester.schema import PRICE, Int64s, decimal_words, times, trade_ids
from harvester.times import show

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
    """Render a batch of `schema.TRADES` as Kraken's JSON rows.

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
        _trimmed(fixed_text(times_ns, 9), 9, 0),
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
