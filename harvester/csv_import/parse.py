"""Parse CSV rows into exact Arrow columns; unreadable rows are reported by file and line."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from harvester import schema
from harvester.csv_import.csv_files import BadRow
from harvester.schema import PRICE, VOLUME, Int64s, decimal_array, empty_strings, int64s_as
from harvester.times import BEGINNING_NS, END_OF_TIME, show

# --- fast parsing of plain digits -----------------------------------------------------------------

# Decimal points are removed and numbers are parsed as integers, which takes a third of the time
# that pyarrow needs for decimals. A block with anything unusual is parsed line by line instead.
Bytes = NDArray[np.uint8]

_COMMA, _DOT, _LINE = b",.\n"
_ZERO, _NINE = b"09"
LARGEST_INT64 = 2**63 - 1


class Unusual(Exception):
    """The fast parser can't read a block: it must be parsed line by line."""


def _indexes(letters: bytes) -> NDArray[np.int32]:
    """The index of each byte among some letters; -1 for the others; shape (256,)."""
    indexes = np.full(256, -1, dtype=np.int32)
    indexes[list(letters)] = range(len(letters))
    return indexes


_LETTERS = {
    "side": (_indexes(b"bs"), schema.SIDES),
    "order_type": (_indexes(b"ml"), schema.ORDER_TYPES),
}
"""By column, the index of each letter that occurs, and the words that the letters stand for."""


class Digits(NamedTuple):
    """Numbers without their decimal points, and the number of decimals of each.

    Attributes:
        batch: the numbers as int64, one row per line.
        decimals: by column, the number of digits after the point, shape (rows,).
        words: the columns of letters, as words.
    """

    batch: pa.RecordBatch
    decimals: dict[str, Int64s]
    words: dict[str, pa.DictionaryArray]

    def refuse_points(self, names: Iterable[str]) -> None:
        """Raise Unusual if a column of whole numbers has a decimal point."""
        if any(self.decimals[name].any() for name in names):
            raise Unusual

    def scaled(self, name: str, scale: int, before: int) -> Int64s:
        """A column as integers in units of 10^-scale.

        Args:
            name: the column.
            scale: the number of decimals.
            before: the largest number of digits before the point.

        Raises:
            Unusual: a number has more digits.
        """
        decimals = self.decimals[name]
        numbers: Int64s = self.batch.column(name).to_numpy()
        least, most = int(decimals.min()), int(decimals.max())
        if most > scale:
            raise Unusual
        largest = [
            min(10 ** (before + count) - 1, LARGEST_INT64 // 10 ** (scale - count))
            for count in range(scale + 1)
        ]
        if least == most:
            if int(numbers.max()) > largest[most]:
                raise Unusual
            return numbers * np.int64(10 ** (scale - most)) if most < scale else numbers
        if (numbers > np.array(largest)[decimals]).any():
            raise Unusual
        factors = np.array([10 ** (scale - count) for count in range(scale + 1)])
        result: Int64s = numbers * factors[decimals]
        return result


def parse_plain(block: bytes, columns: Sequence[str]) -> Digits:
    """Parse complete lines of plain numbers, and of letters in their columns; `misc` is empty.

    Args:
        block: lines, each with its line end.
        columns: the names of the columns, in order.

    Raises:
        Unusual: a line has other characters, or another number of fields, or no line end.
    """
    if not block.endswith(b"\n"):
        raise Unusual
    text = np.frombuffer(block, np.uint8)
    ends, decimals = _fields(text, len(columns))
    words: dict[str, pa.DictionaryArray] = {}
    counted: dict[str, Int64s] = {}
    for at, name in enumerate(columns):
        if name in _LETTERS:
            index_of, meant = _LETTERS[name]
            begins = _begins(ends, at)
            indexes = index_of[text[begins]]
            if (indexes < 0).any() or (ends[:, at] - begins != 1).any():
                raise Unusual
            words[name] = pa.DictionaryArray.from_arrays(pa.array(indexes), meant)
        elif name == "misc":
            if not (ends[:, at] == _begins(ends, at)).all():
                raise Unusual
        else:
            counted[name] = decimals[:, at]
    # Any other byte above the digits would be a letter within a number, as in 1e5 or 0x1F.
    if np.count_nonzero(text > _NINE) != len(words) * len(ends):
        raise Unusual
    batch = _numbers(block, columns, list(counted))
    if batch.num_rows != len(ends):
        raise Unusual
    return Digits(batch, counted, words)


def _numbers(block: bytes, columns: Sequence[str], numeric: Sequence[str]) -> pa.RecordBatch:
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(block.replace(b".", b"")),
            pa_csv.ReadOptions(use_threads=False, column_names=columns, block_size=len(block) + 1),
            pa_csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            pa_csv.ConvertOptions(
                column_types=dict.fromkeys(numeric, pa.int64()),
                include_columns=list(numeric),
                null_values=[],
            ),
        )
    except pa.ArrowInvalid as error:
        raise Unusual from error
    [batch] = table.to_batches()
    return batch


def _fields(text: Bytes, width: int) -> tuple[Int64s, Int64s]:
    """Find the end and the number of decimals of each field; both of shape (rows, width).

    Args:
        text: lines, each with its line end.
        width: the number of fields of a line.

    Raises:
        Unusual: there is another character, such as a sign or a space, which would be misread, or
            a line has another number of fields, or a field has two points or ends with one.
    """
    positions = (text < _ZERO).nonzero()[0]
    separators = text[positions]
    is_dot = separators == _DOT
    # All others are commas and line ends.
    fields = (~is_dot).nonzero()[0]
    if not (width and len(fields)) or len(fields) % width or is_dot[-1]:
        raise Unusual
    by_row = separators[fields].reshape(-1, width)
    if not ((by_row[:, :-1] == _COMMA).all() and (by_row[:, -1] == _LINE).all()):
        raise Unusual
    is_after_dot = is_dot[:-1]
    # The digits between a point and the next separator; 0 between other separators.
    digits = np.zeros(len(positions), dtype=np.int64)
    digits[1:] = (positions[1:] - positions[:-1] - 1) * is_after_dot
    # A point without a digit after it would disappear without a trace.
    if (is_after_dot & is_dot[1:]).any() or (is_after_dot & (digits[1:] == 0)).any():
        raise Unusual
    shape = (-1, width)
    return positions[fields].reshape(shape), digits[fields].reshape(shape)


def _begins(ends: Int64s, column: int) -> Int64s:
    """Where the fields of a column begin: after the end of the field before; shape (rows,).

    Args:
        ends: the ends of all fields, of shape (rows, width).
        column: its index.
    """
    return ends[:, column - 1] + 1 if column else np.append(0, ends[:-1, -1] + 1)


# --- rows of trades -------------------------------------------------------------------------------

SIDES = {"b": "buy", "s": "sell", "buy": "buy", "sell": "sell"}
ORDER_TYPES = {"m": "market", "l": "limit", "market": "market", "limit": "limit"}

_NUMBER = re.compile(r"-?[0-9]*\.?[0-9]*(?:[eE][-+]?[0-9]+)?", re.ASCII)


class Layout(NamedTuple):
    """The columns of a file.

    Attributes:
        columns: their names in `schema.PAGE_SCHEMA`, in order; none if the file has no rows.
        has_header: whether the first line has names instead of a trade.
    """

    columns: tuple[str, ...]
    has_header: bool

    def __str__(self) -> str:
        """The layout as text: `time,price,volume without header`."""
        if not self.columns:
            return "no rows"
        return f"{','.join(self.columns)} with{'' if self.has_header else 'out'} header"


MAX_EXPONENT = 100
"""Beyond this power of ten, calculations with a number may overflow."""


def parse_number(text: str) -> Decimal | None:
    """Parse a number exactly; None if the text is not a number that a trade can have."""
    try:
        value = Decimal(text) if text and _NUMBER.fullmatch(text) else None
    except InvalidOperation:
        return None
    return value if value is None or abs(value.adjusted()) < MAX_EXPONENT else None


_DECIMALS = {"time": 9, "price": 10, "volume": 8}
"""Decimals of each number: of a time down to nanoseconds, of the others as in the archive."""
_DIGITS_BEFORE = {"time": 10, "price": 8, "volume": 14}
_LIMITS = {
    "time": "a time has at most 9 decimals",
    "price": "a price has at most 10 decimals and lies below 100,000,000",
    "volume": "a volume has at most 8 decimals and lies below 10^14",
}
_EXACT = Context(prec=60)


@dataclass(slots=True)
class Parsed:
    """The result of parsing a block of lines.

    Attributes:
        rows: the readable rows, a batch of `schema.PAGE_SCHEMA`.
        line_count: the number of lines.
        lines: the line number of each row; empty if there is nothing but rows.
        bad: the unreadable rows.
    """

    rows: pa.RecordBatch
    line_count: int
    lines: list[int] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


def parse(block: bytes, layout: Layout, first_line: int, latest_ns: int = END_OF_TIME) -> Parsed:
    """Parse lines: all at once if they are plain, line by line if not.

    Args:
        block: lines, each with its line end; a last one without it is unreadable.
        layout: their columns.
        first_line: the number of the first line.
        latest_ns: rows of a later time are unreadable.
    """
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    try:
        rows = _columns(parse_plain(block, layout.columns), latest_ns)
        return Parsed(rows, rows.num_rows)
    except Unusual:
        return _parse_by_line(block, layout, first_line, latest_ns)


def _columns(fields: Digits, latest_ns: int) -> pa.RecordBatch:
    """Convert numbers to a batch of `schema.PAGE_SCHEMA`.

    Raises:
        Unusual: a number is out of bounds, or has too many digits.
    """
    rows = fields.batch.num_rows
    scaled = {
        name: fields.scaled(name, decimals, _DIGITS_BEFORE[name])
        for name, decimals in _DECIMALS.items()
    }
    stamps = scaled["time"]
    if not (
        int(stamps.min()) >= BEGINNING_NS
        and int(stamps.max()) <= latest_ns
        and int(scaled["price"].min()) > 0
        and int(scaled["volume"].min()) >= 0
    ):
        raise Unusual
    columns = {
        "time": int64s_as(schema.PAGE_SCHEMA.field("time").type, stamps),
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
        [columns.get(field.name, _nulls(rows, field.type)) for field in schema.PAGE_SCHEMA],
        schema=schema.PAGE_SCHEMA,
    )


_most_nulls: dict[pa.DataType, pa.Array] = {}


def _nulls(rows: int, kind: pa.DataType) -> pa.Array:
    """A column of nulls; all columns of a type share their memory, as nothing changes it."""
    nulls = _most_nulls.get(kind)
    if nulls is None or len(nulls) < rows:
        # Another thread may put fewer there.
        nulls = _most_nulls[kind] = pa.nulls(rows, kind)
    return nulls.slice(0, rows)


def _ids(column: pa.Array) -> pa.Array:
    """Trade ids as the archive has them: 0 means that there is none, which is null."""
    numbers = column.to_numpy()
    return column if numbers.all() else pa.array(numbers, mask=numbers == 0)


# --- parsing line by line -------------------------------------------------------------------------

NO_LINE_END = "it has no line end, so the file may have been cut off: give an undamaged copy of it"


def _parse_by_line(block: bytes, layout: Layout, first_line: int, latest_ns: int) -> Parsed:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    bad: list[BadRow] = []
    *texts, rest = block.split(b"\n")
    for line, raw in enumerate(texts, first_line):
        text = raw.decode(errors="replace")
        if not text.strip():
            continue
        try:
            rows.append(_row(text, layout.columns, latest_ns))
            lines.append(line)
        except BadLine as reason:
            bad.append(BadRow(line, text, str(reason)))
    if rest.strip():
        text = rest.decode(errors="replace")
        bad.append(BadRow(first_line + len(texts), text, NO_LINE_END))
    batch = pa.RecordBatch.from_pylist(rows, schema.PAGE_SCHEMA)
    return Parsed(batch, len(texts), lines, bad)


class BadLine(Exception):
    """Why a line is not a trade, or not a candle."""


def _row(text: str, columns: Sequence[str], latest_ns: int) -> dict[str, Any]:
    """Parse a line as a trade.

    Raises:
        BadLine: it is not a trade.
    """
    if "\ufffd" in text:
        raise BadLine("it is no UTF-8")
    texts = _split(text, columns)
    row: dict[str, Any] = {name: _parse_scaled_field(name, texts[name]) for name in _DECIMALS}
    row["time"] = _time_ns(texts["time"], latest_ns)
    if row["price"] <= 0:
        raise BadLine(f"price {texts['price']} is not above 0")
    if row["volume"] < 0:
        raise BadLine(f"volume {texts['volume']} is below 0")
    if "trade_id" in texts:
        row["trade_id"] = _id(texts["trade_id"].strip())
    if "side" in texts:
        row["side"] = _parse_side_or_type(texts["side"], SIDES, "neither b nor s")
        row["order_type"] = _parse_side_or_type(texts["order_type"], ORDER_TYPES, "neither m nor l")
        row["misc"] = texts["misc"]
    return row


def _split(text: str, columns: Sequence[str]) -> dict[str, str]:
    """The fields of a line, by column."""
    try:
        [fields] = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise BadLine(str(error)) from error
    if len(fields) != len(columns):
        raise BadLine(f"it has {len(fields)} fields instead of {len(columns)}")
    return dict(zip(columns, fields, strict=True))


def _time_ns(text: str, latest_ns: int) -> int:
    stamp = int(_parse_scaled_field("time", text).scaleb(9, _EXACT))
    if not BEGINNING_NS <= stamp <= END_OF_TIME:
        raise BadLine(f"its time {text} lies outside 2011 to 2262")
    if stamp > latest_ns:
        raise BadLine(f"its time {show(stamp)} is still to come, by this machine's clock")
    return stamp


def parse_field(name: str, text: str) -> Decimal:
    """Parse a field exactly.

    Args:
        name: its column.
        text: the field.

    Raises:
        BadLine: it is not a number.
    """
    value = parse_number(text.strip())
    if value is None:
        raise BadLine(f"{name} {text.strip()!r} is no number")
    return value


def _parse_scaled_field(name: str, text: str) -> Decimal:
    value = parse_field(name, text)
    try:
        exact = value.quantize(Decimal(1).scaleb(-_DECIMALS[name]), context=_EXACT)
    except InvalidOperation:
        raise BadLine(f"{text} does not fit, {_LIMITS[name]}") from None
    if exact != value or abs(exact) >= 10 ** _DIGITS_BEFORE[name]:
        raise BadLine(f"{text} does not fit, {_LIMITS[name]}")
    return exact


def _id(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= LARGEST_INT64):
        raise BadLine(f"trade id {text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text) or None


def _parse_side_or_type(text: str, known: Mapping[str, str], what: str) -> str | None:
    if text not in known:
        raise BadLine(f"{text!r} is {what}")
    return known[text]
