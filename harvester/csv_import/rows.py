"""Lines of text become rows, every digit of them; what can't be read is named by file and line."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, InvalidOperation
from typing import Any, NamedTuple

import pyarrow as pa

from harvester.csv_import.digits import Digits, Letters, Unusual, read
from harvester.csv_import.layout import ORDER_TYPES, SIDES, Layout, number
from harvester.errors import BadFile
from harvester.schema import ORDER_TYPES as ORDER_WORDS
from harvester.schema import PRICE, ROWS, VOLUME, decimals_of, empty_texts, int64s_as
from harvester.schema import SIDES as SIDE_WORDS
from harvester.times import BEGINNING_NS, END_OF_TIME

_DECIMALS = {"time": 9, "price": 10, "volume": 8}
"""Decimals kept: of a time as many as make nanoseconds, else the format's."""
_DIGITS_BEFORE = {"time": 10, "price": 8, "volume": 14}
_LIMITS = {
    "time": "a time has at most 9 decimals",
    "price": "a price has at most 10 decimals and lies below 100,000,000",
    "volume": "a volume has at most 8 decimals and lies below 10^14",
}
_EXACT = Context(prec=60)
_LARGEST = 2**63 - 1


class BadRow(NamedTuple):
    """A line that can't be a trade, and why."""

    line: int
    text: str
    reason: str
    file: str = ""

    def error(self, name: str) -> BadFile:
        """As what ends an import."""
        return BadFile(
            f"{name}, line {self.line}: {self.text!r} can't be read: {self.reason}; its range was "
            "not imported. --skip-bad-rows leaves such rows out and lists them"
        )


@dataclass(slots=True)
class Parsed:
    """The rows of a block of lines, a batch of `columns.ROWS`, and the lines that are none.

    `lines` tells the line of each row where it is not `first_line` and so on; `bad_times` the time
    of each bad one in nanoseconds, None where that can't be read.
    """

    rows: pa.RecordBatch
    first_line: int
    line_count: int
    lines: list[int] | None = None
    bad: list[BadRow] = field(default_factory=list)
    bad_times: list[int | None] = field(default_factory=list)

    def line_of(self, place: int) -> int:
        """The line that a row stands on."""
        return self.first_line + place if self.lines is None else self.lines[place]


def parse(block: bytes, layout: Layout, first_line: int) -> Parsed:
    """Read whole lines: at once where all is as it should be, else one by one.

    Args:
        block: lines, each with its end.
        layout: what their columns are.
        first_line: the number of the first.
    """
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    rows = _at_once(block, layout) if layout.columns else None
    if rows is not None:
        return Parsed(rows, first_line, rows.num_rows)
    return _one_by_one(block, layout, first_line)


def _at_once(block: bytes, layout: Layout) -> pa.RecordBatch | None:
    """The rows of lines that hold nothing unusual; None where any does."""
    try:
        return _columns(read(block, layout.columns, _LETTERS))
    except Unusual:
        return None


_LETTERS = Letters({"side": (b"bs", SIDE_WORDS), "order_type": (b"ml", ORDER_WORDS)}, ("misc",))


def _columns(fields: Digits) -> pa.RecordBatch:
    rows = fields.batch.num_rows
    scaled = {
        name: fields.scaled(name, decimals, _DIGITS_BEFORE[name])
        for name, decimals in _DECIMALS.items()
    }
    stamps = scaled["time"]
    if not (
        int(stamps.min()) >= BEGINNING_NS
        and int(stamps.max()) <= END_OF_TIME
        and int(scaled["price"].min()) > 0
        and int(scaled["volume"].min()) >= 0
    ):
        raise Unusual
    columns = {
        "time": int64s_as(ROWS.field("time").type, stamps),
        "price": decimals_of(PRICE, scaled["price"]),
        "volume": decimals_of(VOLUME, scaled["volume"]),
        **fields.words,
    }
    if "trade_id" in fields.decimals:
        fields.refuse_points(["trade_id"])
        columns["trade_id"] = _ids(fields.batch.column("trade_id"))
    if fields.words:
        columns["misc"] = empty_texts(rows)
    return pa.RecordBatch.from_arrays(
        [columns.get(one.name, pa.nulls(rows, one.type)) for one in ROWS], schema=ROWS
    )


def _ids(column: pa.Array) -> pa.Array:
    """Trade ids; 0 stands for none."""
    numbers = column.to_numpy()
    return column if numbers.all() else pa.array(numbers, mask=numbers == 0)


# --- one by one ----------------------------------------------------------------------------------


def _one_by_one(block: bytes, layout: Layout, first_line: int) -> Parsed:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    bad: list[BadRow] = []
    bad_times: list[int | None] = []
    texts = block.split(b"\n")[:-1]
    for line, raw in enumerate(texts, first_line):
        text = raw.decode(errors="replace")
        if not text.strip():
            continue
        try:
            rows.append(_row(text, layout.columns))
            lines.append(line)
        except _Wrong as reason:
            bad.append(BadRow(line, text, str(reason)))
            bad_times.append(_time_of(text, layout.columns))
    stamps = [row.pop("time") for row in rows]
    columns = [
        pa.array(stamps, pa.int64()).view(pa.timestamp("ns"))
        if one.name == "time"
        else pa.array([row.get(one.name) for row in rows], one.type)
        for one in ROWS
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=ROWS)
    return Parsed(batch, first_line, len(texts), lines, bad, bad_times)


class _Wrong(Exception):
    """Why a line is no trade."""


def _row(text: str, columns: Sequence[str]) -> dict[str, Any]:
    """A line as a trade.

    Raises:
        _Wrong: it is none.
    """
    if "\ufffd" in text:
        raise _Wrong("it is no UTF-8")
    try:
        [fields] = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise _Wrong(str(error)) from error
    if len(fields) != len(columns):
        raise _Wrong(f"it has {len(fields)} fields where {len(columns)} should be")
    given = dict(zip(columns, fields, strict=True))
    row: dict[str, Any] = {name: _number(name, given[name].strip()) for name in _DECIMALS}
    row["time"] = _stamp(given["time"].strip())
    if row["price"] <= 0:
        raise _Wrong(f"price {given['price']} is not above 0")
    if row["volume"] < 0:
        raise _Wrong(f"volume {given['volume']} is below 0")
    if "trade_id" in given:
        row["trade_id"] = _id(given["trade_id"].strip())
    if "side" in given:
        row["side"] = _word(given["side"], SIDES, "neither b nor s")
        row["order_type"] = _word(given["order_type"], ORDER_TYPES, "neither m nor l")
        row["misc"] = given["misc"]
    return row


def _stamp(text: str) -> int:
    stamp = int(_number("time", text).scaleb(9, _EXACT))
    if not BEGINNING_NS <= stamp <= END_OF_TIME:
        raise _Wrong(f"its time {text} lies outside 2011 to 2262")
    return stamp


def _time_of(text: str, columns: Sequence[str]) -> int | None:
    """The time of a line that is no trade, in nanoseconds; None where it can't be read."""
    try:
        [fields] = csv.reader([text], strict=True)
        return _stamp(dict(zip(columns, fields, strict=True))["time"].strip())
    except (_Wrong, csv.Error, ValueError, KeyError):
        return None


def _number(name: str, text: str) -> Decimal:
    value = number(text)
    if value is None:
        raise _Wrong(f"{name} {text!r} is no number")
    try:
        exact = value.quantize(Decimal(1).scaleb(-_DECIMALS[name]), context=_EXACT)
    except InvalidOperation:
        raise _Wrong(f"{text} does not fit, {_LIMITS[name]}") from None
    if exact != value or abs(exact) >= 10 ** _DIGITS_BEFORE[name]:
        raise _Wrong(f"{text} does not fit, {_LIMITS[name]}")
    return exact


def _id(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= _LARGEST):
        raise _Wrong(f"trade id {text!r} is no whole number of 64 bits from 0 on")
    return int(text) or None


def _word(text: str, known: Mapping[str, str], what: str) -> str | None:
    if text not in known:
        raise _Wrong(f"{text!r} is {what}")
    return known[text]
