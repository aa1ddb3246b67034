"""Decode an answer of the Trades endpoint into exact Arrow columns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.errors import UnreadableAnswer, ValueDoesNotFit
from harvester.escaping import printable, shortened
from harvester.schema import (
    ORDER_TYPES,
    PRICE,
    ROWS,
    SIDES,
    VOLUME,
    Int64s,
    decimal_words,
    decimals_of,
    empty_texts,
    int64s_as,
    no_rows,
)
from harvester.times import BEGINNING_NS, END_OF_TIME, SECOND

# --- plain ----------------------------------------------------------------------------------------

# Plain is how the exchange prints nearly every page since late 2022: no space between tokens,
# seven elements a row, an empty misc, as many decimals in each price of the page. Every byte of
# the body is held against that form. Where one differs, nothing is concluded but that `pages`
# must read the page in its own way, which knows every form and says what is wrong: so this is
# never wrong, only absent. Tests hold the two ways to the same answer, whatever bytes they are
# given.

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
    numbers = places and _columns_of_numbers(body, places)
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


def _columns_of_numbers(body: bytes, at: _Places) -> tuple[Int64s, Int64s, Int64s, Int64s] | None:
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


# --- pages ----------------------------------------------------------------------------------------

# Source of every rule: Kraken's public REST documentation for `GET /0/public/Trades`, and bodies
# captured from 2013 to 2026 (docs/kraken.md).

PAGE_ROWS = 1000
"""A page of fewer rows is a short one."""

LONGEST_NUMBER = 64
"""Characters of a number. Arrow misreads one of a thousand digits, and crashes at a million."""

_STAMP = pa.decimal128(28, 9)
_SIDE_CODES = {"b": 0, "s": 1, "": None}
_TYPE_CODES = {"m": 0, "l": 1, "": None}
_CURSOR = re.compile(r"[0-9]{19}")


class Row(msgspec.Struct, array_like=True, gc=False):
    """One row as the exchange sends it; six elements before late 2022, seven since.

    `unknown` is an eighth element, should there be one: the exchange has added columns before.
    """

    price: str
    volume: str
    time: msgspec.Raw
    side: str
    order_type: str
    misc: str
    trade_id: int | None = None
    unknown: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Answer(msgspec.Struct):
    result: dict[str, list[Row] | str | int | float | None]


class _LooseAnswer(msgspec.Struct):
    result: dict[str, list[msgspec.Raw] | str | int | float | None]


@dataclass(frozen=True, slots=True)
class TradesPage:
    """One page: exact rows in the exchange's order, and its cursor.

    Attributes:
        rows: a batch of `columns.ROWS`; no id where the exchange gave none or 0.
        last: the cursor verbatim, None where it is missing.
        unit_ns: one unit of the last decimal that the page's times print.
        market: the name that the answer gives the market; see `pairs.check_market`.
        unknown: the first row's element behind its trade id, which is not kept; None where rows
            have no more elements than are known.
    """

    rows: pa.RecordBatch
    last: str | None
    unit_ns: int
    market: str
    unknown: str | None = None

    @property
    def cursor_ns(self) -> int | None:
        """The cursor as nanoseconds; None unless it has its nineteen digits."""
        return int(self.last) if self.last and _CURSOR.fullmatch(self.last) else None


_answers = msgspec.json.Decoder(_Answer)
_loose_answers = msgspec.json.Decoder(_LooseAnswer)
_rows = msgspec.json.Decoder(Row)


def decode_page(body: bytes) -> TradesPage:
    """Read the body of a Trades answer, every digit of it.

    Raises:
        msgspec.DecodeError: it is no JSON, or is cut short.
        UnreadableAnswer: it is not of the documented shape; the message shows the row.
        ValueDoesNotFit: a number needs more digits than the format has; the message shows the
            row and the limit.
    """
    plain = read_plain(body)
    if plain is not None:
        return TradesPage(plain.rows, plain.last, _unit_ns(plain.stamps), plain.market)
    return decode_any_page(body)


def decode_any_page(body: bytes) -> TradesPage:
    """Read a page row by row, whatever its form; raises as `decode_page` does."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        # Bytes spoilt on the way are no row to be shown: no JSON at all, like a body cut short.
        raise msgspec.DecodeError(str(error)) from error
    try:
        result = _answers.decode(body).result
    except msgspec.ValidationError as error:
        raise _unreadable(body, error) from error
    last = result.pop("last", None)
    if len(result) != 1:
        raise UnreadableAnswer(
            f"the exchange's answer names {len(result)} markets ({_names(result)}) where one "
            "was asked for; nothing of it was kept"
        )
    [(market, rows)] = result.items()
    if not isinstance(rows, list):
        raise UnreadableAnswer(
            f"the exchange's answer holds {shortened(repr(rows))} where rows should be"
        )
    batch, unit_ns = _columns(rows) if rows else (no_rows(), 1)
    return TradesPage(batch, None if last is None else str(last), unit_ns, market, _unknown(rows))


def _unknown(rows: list[Row]) -> str | None:
    """The first element that is not known, as printable text."""
    raws = (row.unknown for row in rows if row.unknown is not msgspec.UNSET)
    raw = next(raws, None)
    return None if raw is None else _brief(bytes(raw))


def _columns(rows: list[Row]) -> tuple[pa.RecordBatch, int]:
    if any(max(map(len, _numbers(row))) > LONGEST_NUMBER for row in rows):
        raise _first_bad_row(rows, ValueError("a number has too many digits"))
    try:
        stamps = _stamps_ns(rows)
        columns = [
            _ids(rows),
            pa.array(stamps).cast(pa.timestamp("ns")),
            pa.array([row.price for row in rows]).cast(PRICE),
            pa.array([row.volume for row in rows]).cast(VOLUME),
            pa.DictionaryArray.from_arrays(
                pa.array([_SIDE_CODES[row.side] for row in rows], pa.int32()), SIDES
            ),
            pa.DictionaryArray.from_arrays(
                pa.array([_TYPE_CODES[row.order_type] for row in rows], pa.int32()),
                ORDER_TYPES,
            ),
            pa.array([row.misc for row in rows], pa.string()),
        ]
        _check_signs(*columns[:4])
    except (pa.ArrowInvalid, KeyError, OverflowError) as error:
        raise _first_bad_row(rows, error) from error
    return pa.RecordBatch.from_arrays(columns, schema=ROWS), _unit_ns(stamps)


def _numbers(row: Row) -> tuple[str, str, bytes]:
    """What Arrow is to read as a decimal."""
    return row.price, row.volume, bytes(row.time)


def _check_signs(ids: pa.Array, _times: pa.Array, prices: pa.Array, volumes: pa.Array) -> None:
    """Nothing is traded at a price of 0, or backwards. A volume of 0 has been seen."""
    below = (decimal_words(volumes)[1] < 0).any() or (decimal_words(prices)[0] <= 0).any()
    if below or (pc.min(ids).as_py() or 0) < 0:
        raise pa.ArrowInvalid("a number below what it can be")


def _ids(rows: list[Row]) -> pa.Array:
    return pa.array([row.trade_id or None for row in rows], pa.int64())


def _stamps_ns(rows: list[Row]) -> Int64s:
    """The literals, digit by digit, as nanoseconds: a float has no room for them."""
    stamps = pa.array([bytes(row.time).decode() for row in rows]).cast(_STAMP)
    low, high = decimal_words(stamps)
    if high.any() or not ((low >= BEGINNING_NS) & (low <= END_OF_TIME)).all():
        raise pa.ArrowInvalid("time out of bounds")
    return np.ascontiguousarray(low)


def _unit_ns(stamps: Int64s) -> int:
    unit = 1
    while unit < SECOND and not (stamps % (10 * unit)).any():
        unit *= 10
    return unit


def _names(names: Iterable[str]) -> str:
    return printable(shortened(", ".join(names)))


def _unreadable(body: bytes, error: Exception) -> UnreadableAnswer:
    """Say which row the typed decoder stumbled over."""
    try:
        lists = [v for v in _loose_answers.decode(body).result.values() if isinstance(v, list)]
    except msgspec.DecodeError:
        return UnreadableAnswer(f"the exchange's answer is not a page of trades: {error}")
    for raw in (raw for rows in lists for raw in rows):
        try:
            _rows.decode(raw)
        except msgspec.DecodeError as reason:
            row = _brief(bytes(raw))
            return UnreadableAnswer(
                f"the exchange sent a trade that can't be read: {row} ({reason}); "
                "nothing of this page was kept"
            )
    return UnreadableAnswer(f"the exchange's answer is not a page of trades: {error}")


def _first_bad_row(rows: list[Row], error: Exception) -> UnreadableAnswer | ValueDoesNotFit:
    for row in rows:
        for value, kind, limit in (
            (
                row.price,
                PRICE,
                "a price has at most 10 decimals and lies below 100,000,000",
            ),
            (
                row.volume,
                VOLUME,
                "a volume has at most 8 decimals and lies below 10^14",
            ),
            (bytes(row.time).decode(), _STAMP, "a time has at most 9 decimals"),
        ):
            try:
                if len(value) <= LONGEST_NUMBER:
                    pa.array([value]).cast(kind)
                    continue
            except pa.ArrowInvalid as reason:
                if "not a valid" in str(reason) or "Empty string" in str(reason):
                    return _bad_row(row, f"{value!r} is no number")
            return ValueDoesNotFit(
                f"trade {_show(row)}: {shortened(value, LONGEST_NUMBER)} does not fit, {limit}; "
                "it is never rounded, so this pair stops here"
            )
        if wrong := _impossible(row):
            return _bad_row(row, printable(shortened(wrong)))
    return UnreadableAnswer(f"the exchange's answer can't be read: {error}")


def _impossible(row: Row) -> str | None:
    """What in a row can't be, though each value is a number."""
    checks = (
        (row.side not in _SIDE_CODES, f"side {row.side!r} is neither b nor s"),
        (row.order_type not in _TYPE_CODES, f"order type {row.order_type!r} is neither m nor l"),
        (
            row.trade_id is not None and not 0 <= row.trade_id < 2**63,
            f"trade id {row.trade_id} is below 0 or has more than 64 bits",
        ),
        (float(row.price) <= 0, f"price {row.price} is not above 0"),
        (float(row.volume) < 0, f"volume {row.volume} is below 0"),
        (
            not BEGINNING_NS <= Decimal(bytes(row.time).decode()) * SECOND <= END_OF_TIME,
            "its time lies outside 2011 to 2262",
        ),
    )
    return next((text for wrong, text in checks if wrong), None)


def _bad_row(row: Row, reason: str) -> UnreadableAnswer:
    return UnreadableAnswer(
        f"the exchange sent a trade that can't be read: {_show(row)} ({reason}); "
        "nothing of this page was kept"
    )


def _show(row: Row) -> str:
    values = (getattr(row, name) for name in row.__struct_fields__)
    return _brief(msgspec.json.encode([value for value in values if value is not msgspec.UNSET]))


def _brief(raw: bytes) -> str:
    return printable(shortened(raw.decode(errors="replace")))
