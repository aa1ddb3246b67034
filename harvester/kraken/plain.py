"""A page in its plain form, read column by column instead of row by row.

Plain is how the exchange prints nearly every page since late 2022: no space between tokens, seven
elements a row, an empty misc, as many decimals in each price of the page. Every byte of the body is
held against that form. Where one differs, nothing is concluded but that `pages` must read the page
in its own way, which knows every form and says what is wrong: so this is never wrong, only absent.
Tests hold the two ways to the same answer, whatever bytes they are given.
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
    decimals_of,
    empty_texts,
    int64s_as,
)
from harvester.times import BEGINNING_NS, END_OF_TIME, SECOND

Words = NDArray[np.unsignedinteger[Any]]

_HEAD = re.compile(rb'\{"error":\[\],"result":\{"(?!last")([A-Za-z0-9./_-]+)":\[(?=\[")')
_TAIL = re.compile(rb'\]\],"last":"([0-9]+)"\}\}')
_TAIL_BEGINS = b']],"last":"'
_QUOTES = 10
"""Of them each row has as many; what stands between them has none."""
_WORD = 8
"""So many digits are read at a time."""


class Plain(NamedTuple):
    """What a plain page holds: a batch of `columns.ROWS`, its times in ns, its cursor verbatim.

    `market` is the name that it gives the market.
    """

    rows: pa.RecordBatch
    stamps: Int64s
    last: str
    market: str


class _Places(NamedTuple):
    """Where the numbers of each row begin and end in the body; shapes (rows,), or one for all."""

    price: Int64s
    price_point: Int64s
    price_end: Int64s
    volume_end: Int64s
    time_end: Int64s
    id_end: Int64s
    sells: NDArray[np.bool_]
    limits: NDArray[np.bool_]


def read_plain(body: bytes) -> Plain | None:
    """The page of a body of plain form, to the last digit; None where it has any other.

    Nothing is raised: what is wrong with other bodies is for others to say.
    """
    head = _HEAD.match(body)
    end = body.rfind(_TAIL_BEGINS)
    tail = _TAIL.fullmatch(body, end) if end > 0 else None
    if head is None or tail is None:
        return None
    places = _places(body, head.end(), end)
    numbers = places and _numbers(body, places)
    if not (places and numbers):
        return None
    prices, volumes, stamps, ids = numbers
    columns = [
        int64s_as(pa.int64(), ids) if ids.all() else pa.array(ids, mask=ids == 0),
        int64s_as(pa.timestamp("ns"), stamps),
        decimals_of(PRICE, prices),
        decimals_of(VOLUME, volumes),
        pa.DictionaryArray.from_arrays(pa.array(places.sells.astype(np.int32)), SIDES),
        pa.DictionaryArray.from_arrays(pa.array(places.limits.astype(np.int32)), ORDER_TYPES),
        empty_texts(len(ids)),
    ]
    rows = pa.RecordBatch.from_arrays(columns, schema=ROWS)
    return Plain(rows, stamps, tail[1].decode(), head[1].decode())


def _places(body: bytes, begin: int, end: int) -> _Places | None:
    """Where the numbers stand, once all that is not a number stands where it should.

    The rows reach from the bracket at `begin` to the one at `end`, which is that of the last row.
    """
    text = np.frombuffer(body, np.uint8)
    quotes = np.flatnonzero(text[begin:end] == ord('"'))
    if len(quotes) % _QUOTES:
        return None
    price, price_end, volume_end, side = quotes.reshape(-1, _QUOTES).T[[0, 1, 3, 4]] + begin
    decimals = int(price_end[0]) - 1 - body.rfind(b".", int(price[0]), int(price_end[0]))
    words = _windows(body, "<u4")
    sides, types = words[side - 1], words[side + 3]
    sells, limits = sides == _word(b',"s"'), types == _word(b',"l"')
    plain = (
        (words[price[1:] - 3] == _word(b'],["')).all()
        and (text[price_end - decimals - 1] == ord(".")).all()
        and (words[price_end] & 0xFFFFFF == _word(b'","')).all()
        and (text[volume_end - 9] == ord(".")).all()
        and (words[volume_end] & 0xFFFF == _word(b'",')).all()
        and (text[volume_end + 12] == ord(".")).all()
        and (sells | (sides == _word(b',"b"'))).all()
        and (limits | (types == _word(b',"m"'))).all()
        and (words[side + 7] == _word(b',"",')).all()
    )
    if not plain:
        return None
    ids_end = np.append(price[1:] - 3, end)
    return _Places(
        price + 1, price_end - decimals - 1, price_end, volume_end, side - 1, ids_end, sells, limits
    )


def _numbers(body: bytes, at: _Places) -> tuple[Int64s, Int64s, Int64s, Int64s] | None:
    """Prices and volumes at their scales, times in ns, ids; None where one is out of bounds."""
    seconds_end = at.volume_end + 12
    runs = [
        _Run(at.price, at.price_point, 0, 8),
        _Run(at.price_point + 1, at.price_end, 1, PRICE.scale),
        _Run(at.price_end + 3, at.volume_end - 9, 0, 10),
        _Run(at.volume_end - 8, at.volume_end, 8, 8),
        _Run(at.volume_end + 2, seconds_end, 10, 10),
        _Run(seconds_end + 1, at.time_end, 1, 9),
        _Run(at.time_end + 12, at.id_end, 1, 16),
    ]
    read = _digits(body, runs)
    if read is None:
        return None
    units, parts, whole, lots, seconds, fractions, ids = read
    prices = units * _TENS[PRICE.scale] + parts * _TENS[PRICE.scale - runs[1].lengths]
    volumes = whole * _TENS[VOLUME.scale] + lots
    stamps = seconds * SECOND + fractions * _TENS[9 - runs[5].lengths]
    in_bounds = (
        (prices > 0).all()
        and (seconds >= BEGINNING_NS // SECOND).all()
        and (seconds < END_OF_TIME // SECOND).all()
        # JSON has no number that begins with a zero, but zero.
        and ((ids >= _TENS[runs[6].lengths - 1]) | (runs[6].lengths == 1)).all()
    )
    return (prices, volumes, stamps, ids) if in_bounds else None


class _Run:
    """The digits of one number in each row, and how many of them there may be."""

    def __init__(self, begins: Int64s, ends: Int64s, fewest: int, most: int) -> None:
        self.ends = ends
        self.lengths = ends - begins
        self.shortest, self.longest = int(self.lengths.min()), int(self.lengths.max())
        self.fits = fewest <= self.shortest and self.longest <= most


def _digits(body: bytes, runs: list[_Run]) -> list[Int64s] | None:
    """What runs of digits come to; None where one is too long, or anything in it is no digit."""
    if not all(run.fits for run in runs):
        return None
    ends = [run.ends for run in runs]
    lengths = [np.minimum(run.lengths, _WORD) for run in runs]
    long = [place for place, run in enumerate(runs) if run.longest > _WORD]
    ends += [runs[place].ends - _WORD for place in long]
    lengths += [np.maximum(runs[place].lengths - _WORD, 0) for place in long]
    words = _windows(body, "<u8")[np.stack(ends) - _WORD]
    # The characters 0 to 9 become the bytes 0 to 9. What stands before a run falls out: the first
    # character is in the lowest byte.
    words ^= np.uint64(0x3030303030303030)
    before = (8 * (_WORD - np.stack(lengths))).astype(np.uint64)
    words >>= before
    words <<= before
    # A byte above 9 goes over 0x7F by this, and so does its neighbour at worst.
    if ((words + np.uint64(0x7676767676767676) | words) & np.uint64(0x8080808080808080)).any():
        return None
    values = list(_values(words))
    for place, upper in zip(long, values[len(runs) :], strict=True):
        values[place] += upper * _TENS[_WORD]
    return values[: len(runs)]


def _values(words: Words) -> Int64s:
    """The numbers that words of eight bytes spell, each a digit, the first in the lowest byte.

    Neighbours are put together, all at once: tens and units first, then pairs, then fours.
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
    """The word that begins at each byte of the body; a view without a copy."""
    size = np.dtype(word).itemsize
    return np.ndarray((len(body) - size + 1,), word, body, strides=(1,))


def _word(text: bytes) -> int:
    return int.from_bytes(text, "little")


_TENS: Int64s = 10 ** np.arange(18, dtype=np.int64)
