"""Fast path of decoding a page of trades: read the form that nearly every page has, with numpy.

Since late 2022 the exchange prints nearly every page in one form: no space between tokens, seven
elements per row, an empty misc, and the same number of decimals in all prices of the page. Every
byte of the body is compared with that form. If one differs, the fast path gives up, and the general
path in `trades`, which knows every form, reads the page and says what is wrong. So the fast path
can be missing, but not wrong. Tests compare both paths on arbitrary bytes.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.schema import (
    ORDER_TYPES,
    PRICE,
    ROWS,
    SIDES,
    VOLUME,
    Int64s,
    decimal_array,
    empty_strings,
    int64s_as,
)
from harvester.times import BEGINNING_NS, END_OF_TIME, SECOND

Words = NDArray[np.unsignedinteger[Any]]

_HEAD = re.compile(rb'\{"error":\[\],"result":\{"(?!last")([A-Za-z0-9./_-]+)":\[(?=\[")')
_TAIL = re.compile(rb'\]\],"last":"([0-9]+)"\}\}')
_TAIL_BEGINS = b']],"last":"'
_QUOTES = 10
"""Quotation marks in each row."""
_WORD = 8
"""Digits that are read at a time: one 64-bit word of characters."""


class FastPage(NamedTuple):
    """A page read by the fast path.

    Attributes:
        rows: a batch of `schema.ROWS`.
        times_ns: the rows' times.
        last: the cursor verbatim.
        market: the name that the answer gives the market.
    """

    rows: pa.RecordBatch
    times_ns: Int64s
    last: str
    market: str


class _Offsets(NamedTuple):
    """Byte offsets of the numbers of each row in the body, and two flags; shapes (rows,)."""

    price: Int64s
    price_point: Int64s
    price_end: Int64s
    volume_end: Int64s
    time_end: Int64s
    id_end: Int64s
    is_sell: NDArray[np.bool_]
    is_limit: NDArray[np.bool_]


def decode_fast(body: bytes) -> FastPage | None:
    """Read a page of the usual form, to the last digit; None if the body has any other form.

    It raises nothing: the general path says what is wrong with a body.
    """
    head = _HEAD.match(body)
    end = body.rfind(_TAIL_BEGINS)
    tail = _TAIL.fullmatch(body, end) if end > 0 else None
    if head is None or tail is None:
        return None
    offsets = _find_numbers(body, head.end(), end)
    numbers = offsets and _read_numbers(body, offsets)
    if not (offsets and numbers):
        return None
    prices, volumes, times_ns, ids = numbers
    columns = [
        int64s_as(pa.int64(), ids) if ids.all() else pa.array(ids, mask=ids == 0),
        int64s_as(pa.timestamp("ns"), times_ns),
        decimal_array(PRICE, prices),
        decimal_array(VOLUME, volumes),
        pa.DictionaryArray.from_arrays(pa.array(offsets.is_sell.astype(np.int32)), SIDES),
        pa.DictionaryArray.from_arrays(pa.array(offsets.is_limit.astype(np.int32)), ORDER_TYPES),
        empty_strings(len(ids)),
    ]
    rows = pa.RecordBatch.from_arrays(columns, schema=ROWS)
    return FastPage(rows, times_ns, tail[1].decode(), head[1].decode())


def _find_numbers(body: bytes, begin: int, end: int) -> _Offsets | None:
    """Find the numbers of all rows; None if anything between them differs from the usual form.

    Args:
        body: the answer.
        begin: offset of the first row's opening bracket.
        end: offset of the last row's closing bracket.
    """
    text = np.frombuffer(body, np.uint8)
    quotes = np.flatnonzero(text[begin:end] == ord('"'))
    if len(quotes) % _QUOTES:
        return None
    price, price_end, volume_end, side = quotes.reshape(-1, _QUOTES).T[[0, 1, 3, 4]] + begin
    decimals = int(price_end[0]) - 1 - body.rfind(b".", int(price[0]), int(price_end[0]))
    words = _windows(body, "<u4")
    sides, types = words[side - 1], words[side + 3]
    is_sell, is_limit = sides == _word(b',"s"'), types == _word(b',"l"')
    is_usual = (
        (words[price[1:] - 3] == _word(b'],["')).all()
        and (text[price_end - decimals - 1] == ord(".")).all()
        and (words[price_end] & 0xFFFFFF == _word(b'","')).all()
        and (text[volume_end - 9] == ord(".")).all()
        and (words[volume_end] & 0xFFFF == _word(b'",')).all()
        and (text[volume_end + 12] == ord(".")).all()
        and (is_sell | (sides == _word(b',"b"'))).all()
        and (is_limit | (types == _word(b',"m"'))).all()
        and (words[side + 7] == _word(b',"",')).all()
    )
    if not is_usual:
        return None
    ids_end = np.append(price[1:] - 3, end)
    return _Offsets(
        price=price + 1,
        price_point=price_end - decimals - 1,
        price_end=price_end,
        volume_end=volume_end,
        time_end=side - 1,
        id_end=ids_end,
        is_sell=is_sell,
        is_limit=is_limit,
    )


def _read_numbers(body: bytes, at: _Offsets) -> tuple[Int64s, Int64s, Int64s, Int64s] | None:
    """Read prices and volumes (unscaled), times in ns and ids; None if one is out of bounds."""
    seconds_end = at.volume_end + 12
    runs = [
        _DigitRun(at.price, at.price_point, 0, 8),
        _DigitRun(at.price_point + 1, at.price_end, 1, PRICE.scale),
        _DigitRun(at.price_end + 3, at.volume_end - 9, 0, 10),
        _DigitRun(at.volume_end - 8, at.volume_end, 8, 8),
        _DigitRun(at.volume_end + 2, seconds_end, 10, 10),
        _DigitRun(seconds_end + 1, at.time_end, 1, 9),
        _DigitRun(at.time_end + 12, at.id_end, 1, 16),
    ]
    values = _read_digits(body, runs)
    if values is None:
        return None
    price_whole, price_part, volume_whole, volume_part, seconds, fractions, ids = values
    prices = price_whole * _TENS[PRICE.scale] + price_part * _TENS[PRICE.scale - runs[1].lengths]
    volumes = volume_whole * _TENS[VOLUME.scale] + volume_part
    times_ns = seconds * SECOND + fractions * _TENS[9 - runs[5].lengths]
    is_in_bounds = (
        (prices > 0).all()
        and (seconds >= BEGINNING_NS // SECOND).all()
        and (seconds < END_OF_TIME // SECOND).all()
        # In JSON no number but 0 itself begins with a zero.
        and ((ids >= _TENS[runs[6].lengths - 1]) | (runs[6].lengths == 1)).all()
    )
    return (prices, volumes, times_ns, ids) if is_in_bounds else None


class _DigitRun:
    """One run of digits in each row.

    `fits` is whether each has at least `fewest` and at most `most` digits.
    """

    def __init__(self, begins: Int64s, ends: Int64s, fewest: int, most: int) -> None:
        self.ends = ends
        self.lengths = ends - begins
        self.shortest, self.longest = int(self.lengths.min()), int(self.lengths.max())
        self.fits = fewest <= self.shortest and self.longest <= most


def _read_digits(body: bytes, runs: list[_DigitRun]) -> list[Int64s] | None:
    """The numbers of all runs; None if one has too many characters or one that is not a digit."""
    if not all(run.fits for run in runs):
        return None
    ends = [run.ends for run in runs]
    lengths = [np.minimum(run.lengths, _WORD) for run in runs]
    # A longer run takes two words; its upper digits are read as a run of their own.
    long = [index for index, run in enumerate(runs) if run.longest > _WORD]
    ends += [runs[index].ends - _WORD for index in long]
    lengths += [np.maximum(runs[index].lengths - _WORD, 0) for index in long]
    words = _windows(body, "<u8")[np.stack(ends) - _WORD]
    # The characters 0 to 9 become the bytes 0 to 9.
    words ^= np.uint64(0x3030303030303030)
    # The first character is in the lowest byte: shifting there and back clears what precedes a run.
    preceding_bits = (8 * (_WORD - np.stack(lengths))).astype(np.uint64)
    words >>= preceding_bits
    words <<= preceding_bits
    # The sum sets the top bit of each byte above 9; a carry changes its neighbour at worst.
    if ((words + np.uint64(0x7676767676767676) | words) & np.uint64(0x8080808080808080)).any():
        return None
    values = list(_combine_digits(words))
    for index, upper in zip(long, values[len(runs) :], strict=True):
        values[index] += upper * _TENS[_WORD]
    return values[: len(runs)]


def _combine_digits(words: Words) -> Int64s:
    """The numbers that 64-bit words spell: each byte is a digit, the first in the lowest byte.

    Neighbours are combined in three steps for all words at once: two digits, then four, then eight.
    """
    words *= np.uint64(10 * 2**8 + 1)
    words >>= np.uint64(8)
    words &= np.uint64(0x00FF00FF00FF00FF)
    words *= np.uint64(100 * 2**16 + 1)
    words >>= np.uint64(16)
    words &= np.uint64(0x0000FFFF0000FFFF)
    words *= np.uint64(10_000 * 2**32 + 1)
    words >>= np.uint64(32)
    return words.view(np.int64)


def _windows(body: bytes, word: str) -> Words:
    """A view of the body: for each byte the word of type `word` that begins there."""
    size = np.dtype(word).itemsize
    return np.ndarray((len(body) - size + 1,), word, body, strides=(1,))


def _word(text: bytes) -> int:
    """A text as the number that its bytes are in memory."""
    return int.from_bytes(text, "little")


_TENS: Int64s = 10 ** np.arange(18, dtype=np.int64)
