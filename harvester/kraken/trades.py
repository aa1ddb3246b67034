"""Decode an answer of the Trades endpoint into an Arrow batch, exact to the last digit."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.errors import UnreadableAnswer, ValueDoesNotFit, brief, shortened
from harvester.schema import (
    NO_ROWS,
    ORDER_TYPES,
    PAGE_SCHEMA,
    PRICE,
    SIDES,
    VOLUME,
    Int64s,
    decimal_array,
    decimal_words,
    empty_strings,
    int64s_as,
)
from harvester.times import BEGINNING_NS, END_OF_TIME, SECOND

# Source of every rule: Kraken's public REST documentation for `GET /0/public/Trades`, and bodies
# captured from 2013 to 2026 (docs/kraken.md).

PAGE_ROWS = 1000
"""Rows of a full page. A page with fewer is a short one."""

_CURSOR = re.compile(r"[0-9]{19}")


@dataclass(frozen=True, slots=True)
class TradesPage:
    """One page of trades: exact rows in the exchange's order, and the cursor.

    Attributes:
        rows: a batch of `schema.PAGE_SCHEMA`; the id is null if the exchange sent none or 0.
        last: the cursor verbatim; None if it is missing.
        unit_ns: one unit of the last decimal that the page's times have, in nanoseconds.
        market: the name that the answer gives the market; see `pairs.check_market`.
        unknown: the first element after a trade id, which is not stored; None if rows have no
            more elements than are known.
    """

    rows: pa.RecordBatch
    last: str | None
    unit_ns: int
    market: str
    unknown: str | None = None

    @property
    def cursor_ns(self) -> int | None:
        """The cursor as nanoseconds; None unless it has nineteen digits."""
        return int(self.last) if self.last and _CURSOR.fullmatch(self.last) else None


def decode_page(body: bytes) -> TradesPage:
    """Decode the body of a Trades answer, exact to the last digit.

    Raises:
        msgspec.DecodeError: it is not JSON, or is cut short.
        UnreadableAnswer: it does not have the documented shape; the message shows the row.
        ValueDoesNotFit: a number needs more digits than the format has; the message shows the
            row and the limit.
    """
    return decode_fast(body) or decode_general(body)


def _unit_ns(times_ns: Int64s) -> int:
    """One unit of the last decimal that any of the times has: 1 to a second, in nanoseconds."""
    unit = 1
    while unit < SECOND and not (times_ns % (10 * unit)).any():
        unit *= 10
    return unit


# --- pages of the usual form ----------------------------------------------------------------------

# Since late 2022 the exchange prints nearly every page in one form: no space between tokens, seven
# elements per row, an empty misc, and the same number of decimals in all prices of the page. Every
# byte of the body is compared with that form. If one differs, `decode_fast` gives up, and
# `decode_general`, which knows every form, reads the page and says what is wrong. The fast path
# may decline a page, but never misreads it. Tests compare both paths on arbitrary bytes. It
# is kept because it takes a third of the time of `decode_general`: see benchmarks/pages.py.

Words = NDArray[np.unsignedinteger[Any]]

_HEAD = re.compile(rb'\{"error":\[\],"result":\{"(?!last")([A-Za-z0-9./_-]+)":\[(?=\[")')
_TAIL = re.compile(rb'\]\],"last":"([0-9]+)"\}\}')
_TAIL_BEGINS = b']],"last":"'
_QUOTES = 10
"""Quotation marks in each row."""
_WORD = 8
"""Digits that are read at a time: one 64-bit word of characters."""


def _word(text: bytes) -> int:
    """A text as the number that its bytes are in memory."""
    return int.from_bytes(text, "little")


_TENS: Int64s = 10 ** np.arange(18, dtype=np.int64)
_ROW_BEGIN = _word(b'],["')
_TEXT_NEXT = _word(b'","')
_TEXT_END = _word(b'",')
_SELL = _word(b',"s"')
_LIMIT = _word(b',"l"')
_BUY = _word(b',"b"')
_MARKET = _word(b',"m"')
_NO_MISC = _word(b',"",')


class _Found(NamedTuple):
    """Where the numbers of all rows are in a body, and two flags of each row.

    Attributes:
        runs: seven runs of digits per row: price before and after the point, volume before and
            after, seconds, fraction, trade id. Of each: where it begins and ends in each row, and
            its fewest and most digits.
        is_sell, is_limit: shape (rows,).
    """

    runs: list[tuple[Int64s, Int64s, int, int]]
    is_sell: NDArray[np.bool_]
    is_limit: NDArray[np.bool_]


def decode_fast(body: bytes) -> TradesPage | None:
    """Read a page of the usual form, to the last digit; None if the body has any other form."""
    head = _HEAD.match(body)
    end = body.rfind(_TAIL_BEGINS)
    tail = _TAIL.fullmatch(body, end) if end > 0 else None
    if head is None or tail is None:
        return None
    found = _find_numbers(body, head.end(), end)
    numbers = found and _read_numbers(body, found.runs)
    if not (found and numbers):
        return None
    prices, volumes, times_ns, ids = numbers
    columns = [
        int64s_as(pa.int64(), ids) if ids.all() else pa.array(ids, mask=ids == 0),
        int64s_as(pa.timestamp("ns"), times_ns),
        decimal_array(PRICE, prices),
        decimal_array(VOLUME, volumes),
        pa.DictionaryArray.from_arrays(pa.array(found.is_sell.astype(np.int32)), SIDES),
        pa.DictionaryArray.from_arrays(pa.array(found.is_limit.astype(np.int32)), ORDER_TYPES),
        empty_strings(len(ids)),
    ]
    rows = pa.RecordBatch.from_arrays(columns, schema=PAGE_SCHEMA)
    return TradesPage(rows, tail[1].decode(), _unit_ns(times_ns), head[1].decode())


def _find_numbers(body: bytes, begin: int, end: int) -> _Found | None:
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
    # For each byte, the four that begin there as a number: a view of the body.
    words: Words = np.ndarray((len(body) - 3,), "<u4", body, strides=(1,))
    sides, types = words[side - 1], words[side + 3]
    is_sell, is_limit = sides == _SELL, types == _LIMIT
    is_usual = (
        (words[price[1:] - 3] == _ROW_BEGIN).all()
        and (text[price_end - decimals - 1] == ord(".")).all()
        and (words[price_end] & 0xFFFFFF == _TEXT_NEXT).all()
        and (text[volume_end - 9] == ord(".")).all()
        and (words[volume_end] & 0xFFFF == _TEXT_END).all()
        and (text[volume_end + 12] == ord(".")).all()
        and (is_sell | (sides == _BUY)).all()
        and (is_limit | (types == _MARKET)).all()
        and (words[side + 7] == _NO_MISC).all()
    )
    if not is_usual:
        return None
    point, seconds_end, time_end = price_end - decimals - 1, volume_end + 12, side - 1
    runs = [
        (price + 1, point, 0, 8),
        (point + 1, price_end, 1, PRICE.scale),
        (price_end + 3, volume_end - 9, 0, 10),
        (volume_end - 8, volume_end, 8, 8),
        (volume_end + 2, seconds_end, 10, 10),
        (seconds_end + 1, time_end, 1, 9),
        (time_end + 12, np.append(price[1:] - 3, end), 1, 16),
    ]
    return _Found(runs, is_sell, is_limit)


def _read_numbers(
    body: bytes, runs: list[tuple[Int64s, Int64s, int, int]]
) -> tuple[Int64s, Int64s, Int64s, Int64s] | None:
    """Read prices and volumes (unscaled), times in ns and ids; None if one is out of bounds."""
    values = _read_digits(body, runs)
    if values is None:
        return None
    price_whole, price_part, volume_whole, volume_part, seconds, fractions, ids = values
    price_decimals, time_decimals, id_lengths = (runs[i][1] - runs[i][0] for i in (1, 5, 6))
    prices = price_whole * _TENS[PRICE.scale] + price_part * _TENS[PRICE.scale - price_decimals]
    volumes = volume_whole * _TENS[VOLUME.scale] + volume_part
    times_ns = seconds * SECOND + fractions * _TENS[9 - time_decimals]
    is_in_bounds = (
        (prices > 0).all()
        and (seconds >= BEGINNING_NS // SECOND).all()
        and (seconds < END_OF_TIME // SECOND).all()
        # In JSON no number but 0 itself begins with a zero.
        and ((ids >= _TENS[id_lengths - 1]) | (id_lengths == 1)).all()
    )
    return (prices, volumes, times_ns, ids) if is_in_bounds else None


def _read_digits(body: bytes, runs: list[tuple[Int64s, Int64s, int, int]]) -> list[Int64s] | None:
    """The numbers of runs of digits; None if one has too few or many of them, or other characters.

    Args:
        body: the answer.
        runs: where each begins and ends in each row, and its fewest and most digits.
    """
    ends, lengths, upper_ends, upper_lengths, long = [], [], [], [], []
    for index, (begin, end, fewest, most) in enumerate(runs):
        length = end - begin
        longest = int(length.max())
        if longest > most or int(length.min()) < fewest:
            return None
        ends.append(end)
        lengths.append(np.minimum(length, _WORD))
        if longest > _WORD:
            # It takes two words; its upper digits are read as a run of their own.
            long.append(index)
            upper_ends.append(end - _WORD)
            upper_lengths.append(np.maximum(length - _WORD, 0))
    ends += upper_ends
    lengths += upper_lengths
    # For each byte, the eight that begin there as a number: a view of the body.
    windows: Words = np.ndarray((len(body) - _WORD + 1,), "<u8", body, strides=(1,))
    words = windows[np.stack(ends) - _WORD]
    # The characters 0 to 9 become the bytes 0 to 9.
    words ^= np.uint64(0x3030303030303030)
    # The first character is in the lowest byte: shifting there and back clears what precedes a run.
    preceding_bits = (8 * (_WORD - np.stack(lengths))).astype(np.uint64)
    words >>= preceding_bits
    words <<= preceding_bits
    # The sum sets the top bit of each byte above 9; a carry changes its neighbour at worst.
    if ((words + np.uint64(0x7676767676767676) | words) & np.uint64(0x8080808080808080)).any():
        return None
    # Each byte is a digit. Neighbours are combined in three steps, for all words at once: two
    # digits, then four, then eight.
    for digits, mask in ((1, 0x00FF00FF00FF00FF), (2, 0x0000FFFF0000FFFF), (4, 0xFFFFFFFF)):
        words *= np.uint64(10**digits * 2 ** (8 * digits) + 1)
        words >>= np.uint64(8 * digits)
        words &= np.uint64(mask)
    values = list(words.view(np.int64))
    for index, upper in zip(long, values[len(runs) :], strict=True):
        values[index] += upper * _TENS[_WORD]
    return values[: len(runs)]


# --- pages of any form ----------------------------------------------------------------------------

LONGEST_NUMBER = 64
"""Most characters of a number. Arrow misreads a thousand digits, and crashes at a million."""

_TIME = pa.decimal128(28, 9)
_SIDE_CODES = {"b": 0, "s": 1, "": None}
_TYPE_CODES = {"m": 0, "l": 1, "": None}


class Row(msgspec.Struct, array_like=True, gc=False):
    """One row as the exchange sends it: six elements before late 2022, seven since.

    `unknown` is an eighth element, if there is one: the exchange has added columns before.
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


_answers = msgspec.json.Decoder(_Answer)


def decode_general(body: bytes) -> TradesPage:
    """Decode a page of any form, row by row; raises the same errors as `decode_page`."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        # Bytes damaged in transit count as no JSON, like a body cut short, and are requested again.
        raise msgspec.DecodeError(str(error)) from error
    try:
        result = _answers.decode(body).result
    except msgspec.ValidationError as error:
        # Of a body that is cut short the shape says nothing: this raises the error of its end.
        msgspec.json.decode(body, type=msgspec.Raw)
        raise _unreadable(body, error) from error
    last = result.pop("last", None)
    if len(result) != 1:
        raise UnreadableAnswer(
            f"the exchange's answer names {len(result)} markets ({brief(', '.join(result))}), but "
            "one was requested; nothing of it was stored"
        )
    [(market, rows)] = result.items()
    if not isinstance(rows, list):
        raise UnreadableAnswer(
            f"the exchange's answer has {shortened(repr(rows))} in place of rows"
        )
    batch, unit_ns = _batch_of(rows) if rows else (NO_ROWS, 1)
    raws = (bytes(row.unknown) for row in rows if row.unknown is not msgspec.UNSET)
    unknown = next((brief(raw.decode(errors="replace")) for raw in raws), None)
    return TradesPage(batch, None if last is None else str(last), unit_ns, market, unknown)


def _batch_of(rows: list[Row]) -> tuple[pa.RecordBatch, int]:
    """The rows as a batch of `schema.PAGE_SCHEMA`, and the unit of their times in nanoseconds."""
    prices, volumes = [row.price for row in rows], [row.volume for row in rows]
    stamps = [bytes(row.time).decode() for row in rows]
    if max(map(len, [*prices, *volumes, *stamps])) > LONGEST_NUMBER:
        raise _first_bad_row(rows, ValueError("a number has too many digits"))
    try:
        sides = pa.array([_SIDE_CODES[row.side] for row in rows], pa.int32())
        types = pa.array([_TYPE_CODES[row.order_type] for row in rows], pa.int32())
        # Read digit by digit: a float can't hold all digits of a time.
        times_ns, too_late = decimal_words(pa.array(stamps).cast(_TIME))
        columns = [
            pa.array([row.trade_id or None for row in rows], pa.int64()),
            pa.array(np.ascontiguousarray(times_ns)).cast(pa.timestamp("ns")),
            pa.array(prices).cast(PRICE),
            pa.array(volumes).cast(VOLUME),
            pa.DictionaryArray.from_arrays(sides, SIDES),
            pa.DictionaryArray.from_arrays(types, ORDER_TYPES),
            pa.array([row.misc for row in rows], pa.string()),
        ]
    except (pa.ArrowInvalid, KeyError, OverflowError) as error:
        raise _first_bad_row(rows, error) from error
    # A volume of 0 has been seen.
    if (
        too_late.any()
        or not ((times_ns >= BEGINNING_NS) & (times_ns <= END_OF_TIME)).all()
        or (decimal_words(columns[2])[0] <= 0).any()
        or (decimal_words(columns[3])[1] < 0).any()
        or (pc.min(columns[0]).as_py() or 0) < 0
    ):
        raise _first_bad_row(rows, ValueError("a number is out of bounds"))
    return pa.RecordBatch.from_arrays(columns, schema=PAGE_SCHEMA), _unit_ns(times_ns)


def _unreadable(body: bytes, error: Exception) -> UnreadableAnswer:
    """The error that shows the first row that the typed decoder can't read."""
    lists = []
    with suppress(msgspec.DecodeError):
        result = msgspec.json.decode(body, type=_LooseAnswer).result
        lists = [entry for entry in result.values() if isinstance(entry, list)]
    for raw in chain(*lists):
        try:
            msgspec.json.decode(raw, type=Row)
        except msgspec.DecodeError as reason:
            return _bad_row(bytes(raw), str(reason))
    return UnreadableAnswer(f"the exchange's answer is not a page of trades: {error}")


def _first_bad_row(rows: list[Row], error: Exception) -> UnreadableAnswer | ValueDoesNotFit:
    """The error that shows the first row with a bad value, and what is wrong with it."""
    for row in rows:
        values = [getattr(row, name) for name in row.__struct_fields__]
        raw = msgspec.json.encode([value for value in values if value is not msgspec.UNSET])
        for value, kind, limit in (
            (row.price, PRICE, "a price has at most 10 decimals and is below 100,000,000"),
            (row.volume, VOLUME, "a volume has at most 8 decimals and is below 10^14"),
            (bytes(row.time).decode(), _TIME, "a time has at most 9 decimals"),
        ):
            try:
                if len(value) <= LONGEST_NUMBER:
                    pa.array([value]).cast(kind)
                    continue
            except pa.ArrowInvalid as reason:
                if "not a valid" in str(reason) or "Empty string" in str(reason):
                    return _bad_row(raw, f"{value!r} is not a number")
            return ValueDoesNotFit(
                f"trade {brief(raw.decode())}: {shortened(value, LONGEST_NUMBER)} does not fit, "
                f"{limit}; values are never rounded, so this pair stops here"
            )
        if wrong := _invalid_value(row):
            return _bad_row(raw, brief(wrong))
    return UnreadableAnswer(f"the exchange's answer can't be read: {error}")


def _invalid_value(row: Row) -> str | None:
    """What is wrong with a row whose numbers can all be read; None if nothing is."""
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
            "its time is outside 2011 to 2262",
        ),
    )
    return next((text for is_wrong, text in checks if is_wrong), None)


def _bad_row(raw: bytes, reason: str) -> UnreadableAnswer:
    row = brief(raw.decode(errors="replace"))
    return UnreadableAnswer(
        f"the exchange sent a trade that can't be read: {row} ({reason}); "
        "nothing of this page was stored"
    )
