"""One answer of the Trades endpoint, from bytes to exact columns.

Source of every rule: Kraken's public REST documentation for `GET /0/public/Trades`, and bodies
captured from 2013 to 2026 (docs/kraken.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import UnreadableAnswer, ValueDoesNotFit
from harvester.escaping import printable, shortened
from harvester.kraken.plain import read_plain
from harvester.schema import ORDER_TYPES, PRICE, ROWS, SIDES, VOLUME, Int64s, decimal_words, no_rows
from harvester.times import BEGINNING_NS, END_OF_TIME, SECOND

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
class Page:
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


def decode_page(body: bytes) -> Page:
    """Read the body of a Trades answer, every digit of it.

    Raises:
        msgspec.DecodeError: it is no JSON, or is cut short.
        UnreadableAnswer: it is not of the documented shape; the message shows the row.
        ValueDoesNotFit: a number needs more digits than the format has; the message shows the
            row and the limit.
    """
    plain = read_plain(body)
    if plain is not None:
        return Page(plain.rows, plain.last, _unit_ns(plain.stamps), plain.market)
    return decode_any_page(body)


def decode_any_page(body: bytes) -> Page:
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
    return Page(batch, None if last is None else str(last), unit_ns, market, _unknown(rows))


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
    return _brief(msgspec.json.encode([one for one in values if one is not msgspec.UNSET]))


def _brief(raw: bytes) -> str:
    return printable(shortened(raw.decode(errors="replace")))
