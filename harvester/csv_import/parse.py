"""Parse CSV rows into exact Arrow columns; unreadable rows are reported by file and line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
from numpy.typing import NDArray

from harvester.csv_import.columns import ORDER_TYPES, SIDES, Layout, number
from harvester.errors import BadFile
from harvester.schema import ORDER_TYPES as ORDER_WORDS
from harvester.schema import PRICE, ROWS, VOLUME, Int64s, decimal_array, empty_strings, int64s_as
from harvester.schema import SIDES as SIDE_WORDS
from harvester.times import BEGINNING_NS, END_OF_TIME

# --- digits ---------------------------------------------------------------------------------------

# The decimal points are taken out and the numbers read as whole ones, in a third of the time that
# pyarrow takes for decimals. Lines that hold anything unusual are left to who reads one by one.

Bytes = NDArray[np.uint8]

_COMMA, _DOT, _LINE = b",.\n"
_ZERO, _NINE = b"09"
_LARGEST_INT = 2**63 - 1


class Unusual(Exception):
    """A value that the quick way does not know."""


class Letters(NamedTuple):
    """Columns of which each field is a letter for a word, or is nothing at all.

    Attributes:
        words: by column the two letters, and the two words that they stand for.
        empty: the columns that hold nothing.
    """

    words: Mapping[str, tuple[bytes, pa.Array]]
    empty: Sequence[str] = ()


NO_LETTERS = Letters({})


class Digits(NamedTuple):
    """Fields without their points, and how many digits stood behind each point.

    Attributes:
        batch: the numbers as int64, a row a line.
        decimals: by column, shape (rows,).
        words: the columns of letters, as words.
    """

    batch: pa.RecordBatch
    decimals: dict[str, Int64s]
    words: dict[str, pa.DictionaryArray]

    def refuse_points(self, names: Iterable[str]) -> None:
        """Hold columns of whole numbers to what they are.

        Raises:
            Unusual: a point was taken out of one of them.
        """
        if any(self.decimals[name].any() for name in names):
            raise Unusual

    def scaled(self, name: str, scale: int, before: int) -> Int64s:
        """Whole numbers in a unit of so many decimals, of at most so many digits before them.

        Raises:
            Unusual: one has more digits.
        """
        decimals = self.decimals[name]
        numbers: Int64s = self.batch.column(name).to_numpy()
        least, most = int(decimals.min()), int(decimals.max())
        if most > scale:
            raise Unusual
        if least == most:
            limit = min(10 ** (before + most) - 1, _LARGEST_INT // 10 ** (scale - most))
            if int(numbers.max()) > limit:
                raise Unusual
            return numbers * np.int64(10 ** (scale - most)) if most < scale else numbers
        most_by = [
            min(10 ** (before + some) - 1, _LARGEST_INT // 10 ** (scale - some))
            for some in range(scale + 1)
        ]
        if (numbers > np.array(most_by)[decimals]).any():
            raise Unusual
        factors = np.array([10 ** (scale - some) for some in range(scale + 1)])
        result: Int64s = numbers * factors[decimals]
        return result


def read(block: bytes, columns: Sequence[str], letters: Letters = NO_LETTERS) -> Digits:
    """Read whole lines of fields.

    Args:
        block: lines, each with its end.
        columns: their names, in their places.
        letters: which of them are no numbers.

    Raises:
        Unusual: a line is not of plain digits and these letters, or has another number of fields.
    """
    text = np.frombuffer(block, np.uint8)
    begins, ends, decimals = _fields(text, len(columns))
    words: dict[str, pa.DictionaryArray] = {}
    counted: dict[str, Int64s] = {}
    for at, name in enumerate(columns):
        lengths = ends[:, at] - begins[:, at]
        if name in letters.words:
            if not (lengths == 1).all():
                raise Unusual
            words[name] = _word_of(text[begins[:, at]], *letters.words[name])
        elif name in letters.empty:
            if lengths.any():
                raise Unusual
        else:
            counted[name] = decimals[:, at]
    # Any other byte above the digits would be a letter within a number, as of 1e5 or 0x1F.
    if np.count_nonzero(text > _NINE) != len(words) * len(ends):
        raise Unusual
    batch = _numbers(block, columns, list(counted))
    if batch.num_rows != len(ends):
        raise Unusual
    return Digits(batch, counted, words)


def _numbers(block: bytes, columns: Sequence[str], wanted: Sequence[str]) -> pa.RecordBatch:
    try:
        table = pc.read_csv(
            pa.BufferReader(block.replace(b".", b"")),
            pc.ReadOptions(use_threads=False, column_names=columns, block_size=len(block) + 1),
            pc.ParseOptions(quote_char=False, ignore_empty_lines=False),
            pc.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.int64()),
                include_columns=list(wanted),
                null_values=[],
            ),
        )
    except pa.ArrowInvalid as error:
        raise Unusual from error
    [batch] = table.to_batches()
    return batch


def _fields(text: Bytes, width: int) -> tuple[Int64s, Int64s, Int64s]:
    """Where fields begin and end, and how many digits follow the point in each.

    All of shape (rows, width).

    Raises:
        Unusual: a sign, a space or the like stands among them, which would be misread, or a line
            has another number of fields.
    """
    places = (text < _ZERO).nonzero()[0]
    marks = text[places]
    is_dot = marks == _DOT
    # What is left are commas and the ends of lines.
    ends = places[~is_dot]
    if len(ends) == 0 or len(ends) % width or marks[-1] != _LINE:
        raise Unusual
    by_row = text[ends].reshape(-1, width)
    if not ((by_row[:, :-1] == _COMMA).all() and (by_row[:, -1] == _LINE).all()):
        raise Unusual
    begins = np.concatenate(([0], ends[:-1] + 1))
    decimals = _decimals(places, is_dot.nonzero()[0], len(ends))
    shape = (-1, width)
    return begins.reshape(shape), ends.reshape(shape), decimals.reshape(shape)


def _decimals(places: Int64s, dots: Int64s, count: int) -> Int64s:
    """How many digits follow the point in each of `count` fields; shape (count,).

    Args:
        places: where marks stand.
        dots: which of them are points.
        count: how many fields there are.
    """
    # A field's number is that of the marks before it that are no points.
    fields = dots - np.arange(len(dots))
    behind = places[dots + 1] - places[dots] - 1
    # A point with no digit behind it would be taken out of a text without a trace.
    if (fields[1:] == fields[:-1]).any() or not behind.all():
        raise Unusual
    decimals = np.zeros(count, dtype=np.int64)
    decimals[fields] = behind
    return decimals


def _word_of(found: Bytes, letters: bytes, words: pa.Array) -> pa.DictionaryArray:
    first, second = letters
    is_second = found == second
    if not (is_second | (found == first)).all():
        raise Unusual
    return pa.DictionaryArray.from_arrays(pa.array(is_second.astype(np.int32)), words)


# --- rows -----------------------------------------------------------------------------------------

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
        "price": decimal_array(PRICE, scaled["price"]),
        "volume": decimal_array(VOLUME, scaled["volume"]),
        **fields.words,
    }
    if "trade_id" in fields.decimals:
        fields.refuse_points(["trade_id"])
        columns["trade_id"] = _ids(fields.batch.column("trade_id"))
    if fields.words:
        columns["misc"] = empty_strings(rows)
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
