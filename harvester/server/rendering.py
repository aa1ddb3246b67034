"""Rows of the tape as the JSON that Kraken prints them in, many at once and digit by digit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.schema import PRICE, VOLUME, Int64s, decimal_words, times

_LETTERS = {"buy": "b", "sell": "s", "market": "m", "limit": "l"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A stretch of the tape, ready to be cut into pages.

    Attributes:
        stamps: published times in nanoseconds, ascending; shape (rows,).
        text: the rows as JSON one after the other, each with a comma behind it.
        ends: where each row begins and the last one ends in `text`; shape (rows + 1,).
    """

    stamps: Int64s
    text: memoryview
    ends: NDArray[np.int32]

    @property
    def size(self) -> int:
        """Bytes of memory that this takes."""
        return len(self.text) + self.stamps.nbytes + self.ends.nbytes

    def rows(self, start: int, stop: int) -> memoryview:
        """The JSON of some rows, a comma behind each."""
        return self.text[int(self.ends[start]) : int(self.ends[stop])]


def render(trades: pa.RecordBatch, pair_decimals: int) -> Rendered:
    """Rows of `archive.schema.TRADES` as Kraken's rows.

    A price shows `pair_decimals` and whatever digits it has beyond them; a time shows all its
    digits up to the last that is not zero, as text: a float has no room for them.
    """
    stamps = np.ascontiguousarray(times(trades))
    price = _trimmed(_decimals(trades.column("price"), PRICE), PRICE.scale, pair_decimals)
    volume = _decimals(trades.column("volume"), VOLUME)
    text = pc.binary_join_element_wise(
        '["',
        price,
        '","',
        volume,
        '",',
        _trimmed(_fixed(stamps, 9), 9, 0),
        ',"',
        _letters(trades.column("side")),
        '","',
        _letters(trades.column("order_type")),
        '",',
        _quoted(trades.column("misc")),
        ",",
        trades.column("trade_id").fill_null(0).cast(pa.string()),
        "],",
        "",
    )
    _, ends, data = text.buffers()
    places = np.frombuffer(ends, dtype=np.int32)[text.offset : text.offset + len(text) + 1]
    return Rendered(stamps, memoryview(data), places)


def _decimals(values: pa.Array, kind: Any) -> pa.Array:  # noqa: ANN401 - pyarrow has no types
    """Decimals as text with all digits of their scale, never in scientific notation."""
    low, high = decimal_words(values)
    if high.any() or (low < 0).any():
        # Below zero, or beyond 64 bits as volumes of the tiniest coins are: slow, and as exact.
        return pa.array([f"{value:f}" for value in values.to_pylist()], pa.string())
    return _fixed(low, kind.scale)


def _fixed(units: Int64s, scale: int) -> pa.Array:
    """Whole numbers of 10^-scale as text with that many decimals; none is negative."""
    whole, fraction = np.divmod(units, 10**scale)
    digits = pc.utf8_lpad(pa.array(fraction).cast(pa.string()), width=scale, padding="0")
    return pc.binary_join_element_wise(pa.array(whole).cast(pa.string()), digits, ".")


def _trimmed(texts: pa.Array, scale: int, least: int) -> pa.Array:
    """Texts of `scale` decimals without zeros at their end, but with `least` decimals."""
    spare = scale - max(0, min(scale, least))
    if spare == 0:
        return texts
    kept = pc.utf8_slice_codeunits(texts, 0, -spare)
    tail = pc.utf8_rtrim(pc.utf8_slice_codeunits(texts, -spare), characters="0")
    return pc.utf8_rtrim(pc.binary_join_element_wise(kept, tail, ""), characters=".")


def _letters(words: pa.DictionaryArray) -> pa.Array:
    letters = pa.array([_LETTERS[word] for word in words.dictionary.to_pylist()], pa.string())
    return letters.take(words.indices).fill_null("")


def _quoted(words: pa.DictionaryArray) -> pa.Array:
    quoted = [msgspec.json.encode(word).decode() for word in words.dictionary.to_pylist()]
    return pa.array(quoted, pa.string()).take(words.indices).fill_null('""')
