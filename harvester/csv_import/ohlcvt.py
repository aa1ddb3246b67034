"""Kraken's files of candles (OHLCVT), read as a stream: every digit, or the line that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from harvester.csv_import.columns import number
from harvester.csv_import.files import Member, blocks
from harvester.csv_import.parse import Digits, Unusual, read
from harvester.errors import BadFile
from harvester.kraken.ohlc import Candle
from harvester.schema import PRICE, SUM_OF_VOLUMES, Int64s, decimal_array, times
from harvester.times import BEGINNING_NS, END_OF_TIME, SECOND, UNITS_NS, show

COLUMNS = ("time", "open", "high", "low", "close", "volume", "count")
PRICES = COLUMNS[1:5]
ROWS = pa.schema(
    [
        pa.field("time", pa.timestamp("ns"), nullable=False),
        *(pa.field(name, PRICE) for name in PRICES),
        pa.field("volume", SUM_OF_VOLUMES),
        pa.field("count", pa.int64()),
    ]
)
"""A candle; null stands where a number has more digits than an archive can hold."""

_LARGEST = 2**63 - 1
MOST_DIGITS = 30
"""More of them before or behind its point no number of a file can have."""

# Twice as many and some: nothing is ever rounded.
_EXACT = Context(prec=80)


class _Wrong(Exception):
    """Why a line is no candle."""


@dataclass(slots=True)
class Block:
    """Some candles that follow one another.

    Attributes:
        rows: a batch of `ROWS`.
        size: bytes read for them.
        text: their lines, one a row.
    """

    rows: pa.RecordBatch
    size: int
    text: bytes | list[bytes]

    def candle(self, place: int) -> Candle:
        """A row in all of its digits, as the file prints it; the vwap, which files lack, is 0."""
        if isinstance(self.text, bytes):
            self.text = self.text.split(b"\n")
        return _candle(self.text[place].decode())


def read_candles(member: Member, minutes: int) -> Iterator[Block]:
    """The candles of a member in blocks, in order of time.

    Args:
        member: seven columns, with a header or without: time in UNIX seconds, open, high, low,
            close, volume, trades.
        minutes: their length.

    Raises:
        BadFile: a row can't be read, opens where no such candle does, or comes too late.
        DamagedFile: its bytes are not those that its ZIP tells the checksum of.
    """
    reader = _Reader(str(member), minutes * UNITS_NS["m"])
    for block in blocks(member, None):
        yield reader.take(block)


@dataclass(slots=True)
class _Reader:
    """Reads block after block of one file."""

    name: str
    width_ns: int
    line: int = 1
    latest_ns: int = -1

    def take(self, block: bytes) -> Block:
        """Read whole lines: at once where all is as it should be, else one by one.

        Raises:
            BadFile: a line is no candle.
        """
        size = len(block)
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n")
        if self.line == 1 and _is_header(block.partition(b"\n")[0]):
            block, self.line = block.partition(b"\n")[2], 2
        try:
            made = Block(self._at_once(block), size, block)
            self.line += made.rows.num_rows
        except Unusual:
            made = self._one_by_one(block, size)
        if made.rows.num_rows:
            self.latest_ns = int(times(made.rows)[-1])
        return made

    def _at_once(self, block: bytes) -> pa.RecordBatch:
        """The rows of lines that hold nothing unusual.

        Raises:
            Unusual: one does, or is no candle.
        """
        rows = _columns(read(block, COLUMNS))
        stamps = times(rows)
        rises = int(stamps[0]) > self.latest_ns and bool((np.diff(stamps) > 0).all())
        if not rises or (stamps % self.width_ns).any():
            raise Unusual
        return rows

    def _one_by_one(self, block: bytes, size: int) -> Block:
        candles: list[Candle] = []
        lines: list[bytes] = []
        latest = self.latest_ns
        for raw in block.split(b"\n")[:-1]:
            if raw.strip():
                text = raw.decode(errors="replace")
                try:
                    candles.append(self._held_to_grid(_candle(text), latest))
                except _Wrong as reason:
                    raise BadFile(
                        f"{self.name}, line {self.line}: {text!r} can't be read: {reason}; "
                        "nothing is concluded from this file"
                    ) from None
                latest = candles[-1].time_ns
                lines.append(raw)
            self.line += 1
        return Block(_rows(candles), size, lines)

    def _held_to_grid(self, candle: Candle, latest_ns: int) -> Candle:
        if candle.time_ns % self.width_ns:
            raise _Wrong(f"no candle of {self.width_ns // UNITS_NS['m']} minutes opens then")
        if candle.time_ns <= latest_ns:
            raise _Wrong(f"it does not come after the one of {show(latest_ns)} above it")
        return candle


def _is_header(line: bytes) -> bool:
    fields = line.decode(errors="replace").split(",")
    return len(fields) == len(COLUMNS) and all(number(field.strip()) is None for field in fields)


def _columns(fields: Digits) -> pa.RecordBatch:
    fields.refuse_points(["time", "count"])
    seconds: Int64s = fields.batch.column("time").to_numpy()
    if int(seconds.min()) * SECOND < BEGINNING_NS or int(seconds.max()) > END_OF_TIME // SECOND:
        raise Unusual
    columns = [pa.array(seconds * np.int64(SECOND)).view(pa.timestamp("ns"))]
    columns += [decimal_array(PRICE, fields.scaled(name, PRICE.scale, 8)) for name in PRICES]
    columns.append(decimal_array(SUM_OF_VOLUMES, fields.scaled("volume", SUM_OF_VOLUMES.scale, 14)))
    columns.append(fields.batch.column("count"))
    return pa.RecordBatch.from_arrays(columns, schema=ROWS)


# --- one by one ----------------------------------------------------------------------------------


def _candle(text: str) -> Candle:
    """A line as a candle.

    Raises:
        _Wrong: it is none.
    """
    fields = [one.strip() for one in text.split(",")]
    if len(fields) != len(COLUMNS):
        raise _Wrong(f"it has {len(fields)} fields where {len(COLUMNS)} should be")
    values = {name: _number(name, one) for name, one in zip(COLUMNS, fields, strict=True)}
    seconds, count = values.pop("time"), values.pop("count")
    if not BEGINNING_NS // SECOND <= seconds <= END_OF_TIME // SECOND:
        raise _Wrong(f"its time {fields[0]} lies outside 2011 to 2262")
    if seconds != int(seconds):
        raise _Wrong(f"its time {fields[0]} is no whole second")
    if count > _LARGEST or count != int(count):
        raise _Wrong(f"its number of trades {fields[-1]} is no whole number of 64 bits")
    return Candle(int(seconds) * SECOND, **values, vwap=Decimal(0), count=int(count))


def _number(name: str, text: str) -> Decimal:
    value = number(text)
    if value is None:
        raise _Wrong(f"{name} {text!r} is no number")
    if value < 0:
        raise _Wrong(f"{name} {text} is below 0")
    if int(value.as_tuple().exponent) < -MOST_DIGITS or value.adjusted() >= MOST_DIGITS:
        raise _Wrong(f"{name} {text} has more than {MOST_DIGITS} digits before or behind its point")
    return value


def _rows(candles: list[Candle]) -> pa.RecordBatch:
    columns: list[Any] = [
        pa.array([candle.time_ns for candle in candles], pa.int64()).view(pa.timestamp("ns"))
    ]
    for field in list(ROWS)[1:-1]:
        values = [_fitting(getattr(candle, field.name), field.type) for candle in candles]
        columns.append(pa.array(values, field.type))
    columns.append(pa.array([candle.count for candle in candles], pa.int64()))
    return pa.RecordBatch.from_arrays(columns, schema=ROWS)


def _fitting(value: Decimal, kind: pa.Decimal128Type) -> Decimal | None:
    """The value, where a column has room for all of its digits."""
    exact = value.quantize(Decimal(1).scaleb(-kind.scale), context=_EXACT)
    fits = exact == value and exact < 10 ** (kind.precision - kind.scale)
    return exact if fits else None
