"""Read Kraken's files of candles (OHLCVT) as a stream, with all digits."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from harvester.csv_import.csv_files import Member, blocks
from harvester.csv_import.parse import (
    LARGEST_INT64,
    NO_LINE_END,
    BadLine,
    Digits,
    Unusual,
    parse_field,
    parse_number,
    parse_plain,
)
from harvester.errors import BadFile
from harvester.kraken.ohlc import VALUES, Candle
from harvester.schema import PRICE, SUM_OF_VOLUMES, Int64s, decimal_array, times
from harvester.times import BEGINNING_NS, END_OF_TIME, SECOND, UNITS_NS, show

COLUMNS = ("time", "open", "high", "low", "close", "volume", "count")
PRICES = COLUMNS[1:5]
ROWS = pa.schema(
    [
        pa.field("time", pa.timestamp("ns"), nullable=False),
        *(pa.field(name, PRICE) for name in PRICES),
        pa.field("vwap", PRICE),
        pa.field("volume", SUM_OF_VOLUMES),
        pa.field("count", pa.int64()),
        pa.field("exact", pa.string()),
    ]
)
"""Columns of a candle; null stands for a number with more digits than the archive can store. Then
`exact` has the whole candle as JSON; otherwise it is null."""

MAX_DIGITS = 30
"""A number with more digits before or after its point is refused."""

# More than twice as many digits, so that nothing is ever rounded.
_EXACT = Context(prec=80)


def read_candle_file(
    member: Member, minutes: int, on_read: Callable[[int], None] = lambda _size: None
) -> Iterator[pa.RecordBatch]:
    """Read the candles of a file in batches of `ROWS`, in order of time.

    Args:
        member: a file of seven columns, with or without a header: time in UNIX seconds, open,
            high, low, close, volume, number of trades.
        minutes: the length of its candles.
        on_read: called with the number of bytes so far whenever a batch was used.

    Raises:
        BadFile: a row can't be read, does not begin at a multiple of `minutes`, or is out of order.
        DamagedFile: its bytes do not match the checksum in its ZIP.
    """
    reader, done = _Reader(str(member), minutes * UNITS_NS["m"]), 0
    for block in blocks(member, None):
        yield reader.read(block)
        done += len(block)
        on_read(done)


@dataclass(slots=True)
class _Reader:
    """Reads one file, block by block.

    Attributes:
        name: the name of the file, for messages.
        width_ns: the length of its candles.
        line: the number of the next line.
        latest_ns: when the last candle opened; -1 before the first one.
    """

    name: str
    width_ns: int
    line: int = 1
    latest_ns: int = -1

    def read(self, block: bytes) -> pa.RecordBatch:
        """Parse complete lines: all at once if they are plain, line by line if not.

        Raises:
            BadFile: a line is not a candle.
        """
        block = block.replace(b"\r\n", b"\n")
        if self.line == 1:
            block = block.removeprefix(BOM_UTF8)
        if self.line == 1 and _is_header(block.partition(b"\n")[0]):
            block, self.line = block.partition(b"\n")[2], 2
        try:
            rows = self._parse_at_once(block)
            self.line += rows.num_rows
        except Unusual:
            rows = self._parse_by_line(block)
        if rows.num_rows:
            self.latest_ns = int(times(rows)[-1])
        return rows

    def _parse_at_once(self, block: bytes) -> pa.RecordBatch:
        """Parse lines of plain numbers.

        Raises:
            Unusual: there is anything else, or a line is not a candle.
        """
        rows = _columns(parse_plain(block, COLUMNS))
        stamps = times(rows)
        is_rising = int(stamps[0]) > self.latest_ns and bool((np.diff(stamps) > 0).all())
        if not is_rising or (stamps % self.width_ns).any():
            raise Unusual
        return rows

    def _parse_by_line(self, block: bytes) -> pa.RecordBatch:
        """Parse line by line.

        Raises:
            BadFile: a line is not a candle.
        """
        candles: list[Candle] = []
        latest_ns = self.latest_ns
        *lines, rest = block.split(b"\n")
        for raw in lines:
            if raw.strip():
                try:
                    candle = _candle(raw.decode(errors="replace"))
                    candles.append(self._check_time(candle, latest_ns))
                except BadLine as reason:
                    raise self._error(raw, reason) from None
                latest_ns = candles[-1].time_ns
            self.line += 1
        if rest.strip():
            raise self._error(rest, NO_LINE_END)
        return candle_rows(candles)

    def _error(self, line: bytes, reason: object) -> BadFile:
        text = line.decode(errors="replace")
        return BadFile(
            f"{self.name}, line {self.line}: {text!r} can't be read: {reason}; "
            "nothing is concluded from this file"
        )

    def _check_time(self, candle: Candle, latest_ns: int) -> Candle:
        """Return a candle if it begins at a multiple of the length, and after `latest_ns`.

        Raises:
            BadLine: it does not.
        """
        if candle.time_ns % self.width_ns:
            raise BadLine(f"no candle of {self.width_ns // UNITS_NS['m']} minutes opens then")
        if candle.time_ns <= latest_ns:
            raise BadLine(f"it does not come after the one of {show(latest_ns)} above it")
        return candle


def _is_header(line: bytes) -> bool:
    fields = line.decode(errors="replace").split(",")
    return len(fields) == len(COLUMNS) and all(
        parse_number(field.strip()) is None for field in fields
    )


def _columns(fields: Digits) -> pa.RecordBatch:
    """Convert numbers to a batch of `ROWS`.

    Raises:
        Unusual: a number is out of bounds, or has too many digits.
    """
    fields.refuse_points(["time", "count"])
    seconds: Int64s = fields.batch.column("time").to_numpy()
    if int(seconds.min()) * SECOND < BEGINNING_NS or int(seconds.max()) > END_OF_TIME // SECOND:
        raise Unusual
    columns = [pa.array(seconds * np.int64(SECOND)).view(pa.timestamp("ns"))]
    columns += [decimal_array(PRICE, fields.scaled(name, PRICE.scale, 8)) for name in PRICES]
    rows = fields.batch.num_rows
    columns.append(pa.nulls(rows, PRICE))
    columns.append(decimal_array(SUM_OF_VOLUMES, fields.scaled("volume", SUM_OF_VOLUMES.scale, 14)))
    columns += [fields.batch.column("count"), pa.nulls(rows, pa.string())]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS)


# --- parsing line by line -------------------------------------------------------------------------


def _candle(text: str) -> Candle:
    """Parse a line as a candle.

    Raises:
        BadLine: it is not a candle.
    """
    fields = [field.strip() for field in text.split(",")]
    if len(fields) != len(COLUMNS):
        raise BadLine(f"it has {len(fields)} fields instead of {len(COLUMNS)}")
    values = {name: _number(name, field) for name, field in zip(COLUMNS, fields, strict=True)}
    seconds, count = values.pop("time"), values.pop("count")
    if not BEGINNING_NS // SECOND <= seconds <= END_OF_TIME // SECOND:
        raise BadLine(f"its time {fields[0]} lies outside 2011 to 2262")
    if seconds != int(seconds):
        raise BadLine(f"its time {fields[0]} is no whole second")
    if count > LARGEST_INT64 or count != int(count):
        raise BadLine(f"its number of trades {fields[-1]} is no whole number of 64 bits")
    return Candle(int(seconds) * SECOND, **values, vwap=Decimal(0), count=int(count))


def _number(name: str, text: str) -> Decimal:
    value = parse_field(name, text)
    if value < 0:
        raise BadLine(f"{name} {text} is below 0")
    if int(value.as_tuple().exponent) < -MAX_DIGITS or value.adjusted() >= MAX_DIGITS:
        raise BadLine(f"{name} {text} has more than {MAX_DIGITS} digits before or after its point")
    return value


def candle_rows(candles: Sequence[Candle]) -> pa.RecordBatch:
    """Return candles as a batch of `ROWS`."""
    rows = []
    for candle in candles:
        row: dict[str, Any] = {
            name: _fitting(getattr(candle, name), ROWS.field(name).type) for name in VALUES
        }
        exact = msgspec.json.encode(candle).decode() if None in row.values() else None
        rows.append({"time": candle.time_ns, **row, "exact": exact})
    return pa.RecordBatch.from_pylist(rows, ROWS)


def _fitting(value: Decimal | int, kind: pa.DataType) -> Decimal | int | None:
    """A value for a column; None if the value has more digits than the column can store."""
    if isinstance(value, int):
        return value if value <= LARGEST_INT64 else None
    exact = value.quantize(Decimal(1).scaleb(-kind.scale), context=_EXACT)
    fits = exact == value and exact < 10 ** (kind.precision - kind.scale)
    return exact if fits else None
