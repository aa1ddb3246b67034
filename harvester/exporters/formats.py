"""File formats of query results: CSV, JSON, JSON lines, Parquet, Arrow; formats by file ending.

Decimals, times and nested values become exact text in CSV, JSON and tables.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.query.calendar import offset_changes
from harvester.storage.output_files import write_arrow, write_parquet
from harvester.times import DAY, SECOND

Batches = Iterable[pa.RecordBatch]
Writer = Callable[[Batches, pa.Schema, BinaryIO], None]

ENDINGS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".csv.zst": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
"""The format of a file by its ending; a Feather file is an Arrow IPC file."""

Layout = Literal["parquet", "csv", "freqtrade", "lean"]
"""How an export of several files lays them out."""
LAYOUTS: tuple[str, ...] = get_args(Layout)
OTHER_PROGRAMS = ("freqtrade", "lean")
"""Layouts that other programs define: their folders, file names, and complete candles only."""


def ending_of(file: str) -> str | None:
    """The ending of a file's name that decides its format; None if it has no such ending."""
    name = Path(file).name.lower()
    return next((ending for ending in ENDINGS if name.endswith(ending)), None)


def write_rows(
    batches: Batches, schema: pa.Schema, writer: Writer, sink: BinaryIO, notes: Sequence[str] = ()
) -> int:
    """Write rows batch by batch; return their number.

    Args:
        batches: the rows, in order.
        schema: their columns, also if there are no rows.
        writer: the function that writes the format, such as one of `WRITERS`.
        sink: the open file.
        notes: remarks about the rows, such as gaps. Parquet and Arrow files store them as metadata
            `harvester.notes`, a JSON list of texts.
    """
    counter = RowCounter(batches)
    if notes:
        metadata = {**(schema.metadata or {}), b"harvester.notes": msgspec.json.encode(notes)}
        schema = schema.with_metadata(metadata)
    writer(counter, schema, sink)
    return counter.rows


class RowCounter:
    """Batches whose rows are counted while they are read."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.rows = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            self.rows += batch.num_rows
            yield batch


def _write_csv(batches: Batches, schema: pa.Schema, sink: BinaryIO) -> None:
    sink.write((",".join(_csv_name(name) for name in schema.names) + "\n").encode())
    for batch in batches:
        text = as_flat_text(batch)
        try:
            sink.write(_csv_lines(text, "none"))
        except pa.ArrowInvalid:
            # A text of the exchange has a comma or a quote; then all texts are quoted.
            sink.write(_csv_lines(text, "needed"))


def _csv_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\r\n') else name


def _csv_lines(text: pa.RecordBatch, quoting: str) -> bytes:
    from pyarrow.csv import WriteOptions, write_csv  # noqa: PLC0415 - most answers are tables

    lines = io.BytesIO()
    write_csv(text, lines, WriteOptions(include_header=False, quoting_style=quoting))
    return lines.getvalue()


def _write_jsonl(batches: Batches, _schema: pa.Schema, sink: BinaryIO) -> None:
    encoder = msgspec.json.Encoder()
    sink.writelines(encoder.encode_lines(as_text(batch).to_pylist()) for batch in batches)


def _write_json(batches: Batches, _schema: pa.Schema, sink: BinaryIO) -> None:
    encoder = msgspec.json.Encoder()
    sink.write(b"[")
    separator = b"\n "
    for batch in batches:
        for row in as_text(batch).to_pylist():
            sink.write(separator + encoder.encode(row))
            separator = b",\n "
    sink.write(b"\n]\n")


WRITERS: dict[str, Writer] = {
    "csv": _write_csv,
    "json": _write_json,
    "jsonl": _write_jsonl,
    "parquet": write_parquet,
    "arrow": write_arrow,
}
"""The function that writes a format, by the format's name."""


# Exact text of values


def as_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with decimals, times and bytes as exact texts, also inside lists and structs.

    Whole numbers, floats, booleans and nulls stay as they are.
    """
    return pa.RecordBatch.from_arrays(
        [_text(column) for column in batch.columns], names=batch.schema.names
    )


def as_flat_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows as `as_text` has them, with each list and struct as one text of JSON."""
    columns = [
        _as_json(column) if pa.types.is_nested(column.type) else column
        for column in as_text(batch).columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _as_json(column: pa.Array) -> pa.Array:
    values = column.to_pylist()
    texts = [None if value is None else msgspec.json.encode(value).decode() for value in values]
    return pa.array(texts, pa.string())


def _text(column: pa.Array) -> pa.Array:
    type_ = column.type
    if pa.types.is_decimal(type_):
        # Without zeros at the end.
        return _without_zeros(decimal_text(column)) if type_.scale else decimal_text(column)
    if pa.types.is_timestamp(type_):
        return _time_text(column)
    if pa.types.is_time(type_):
        return _without_zeros(column.cast(pa.time64("ns")).cast(pa.string()))
    if pa.types.is_date(type_):
        days = column.cast(pa.date32()).cast(pa.int32())
        return _with_infinity(days, column.cast(pa.string()))
    if pa.types.is_binary(type_):
        return pa.array([v and v.hex() for v in column.to_pylist()], pa.string())
    if pa.types.is_nested(type_):
        return _nested_text(column)
    return column.dictionary_decode() if pa.types.is_dictionary(type_) else column


def _nested_text(column: pa.Array) -> pa.Array:
    type_ = column.type
    if pa.types.is_struct(type_):
        fields = [_text(field) for field in column.flatten()]
        names = [type_.field(i).name for i in range(type_.num_fields)]
        return pa.StructArray.from_arrays(fields, names, mask=column.is_null())
    if pa.types.is_map(type_):
        entries = pa.struct([("key", type_.key_type), ("value", type_.item_type)])
        return _text(column.cast(pa.list_(entries)))
    if pa.types.is_fixed_size_list(type_):
        return _text(column.cast(pa.list_(type_.value_type)))
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, _text(column.flatten()), mask=column.is_null())


def _time_text(column: pa.Array) -> pa.Array:
    """Times as ISO texts in UTC, whatever their time zone."""
    try:
        texts = _utc_text(column.cast(pa.timestamp("ns")))
    except pa.ArrowInvalid:
        # Before 1677 or after 2262 there are no nanoseconds.
        times = column.cast(pa.timestamp(column.type.unit))
        plain = times.cast(pa.string())
        # Arrow can't format a year above 32767, or writes another one.
        is_far = pc.starts_with(plain, "<")
        texts = _utc_text(pc.if_else(is_far, pa.scalar(None, times.type), times))
        texts = pc.if_else(is_far, plain, texts)
    return _with_infinity(column.cast(pa.int64()), texts)


def _with_infinity(numbers: pa.Array, texts: pa.Array) -> pa.Array:
    """The texts of times, but for those that are infinite: the ends of DuckDB's integers."""
    last = 2 ** (numbers.type.bit_width - 1) - 1
    for name, end in (("infinity", last), ("-infinity", -last)):
        is_infinite = pc.equal(numbers, end)
        if pc.any(is_infinite).as_py():
            texts = pc.if_else(is_infinite, name, texts)
    return texts


def _utc_text(times: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(_iso_text(times), "Z", "")


def _iso_text(times: pa.Array) -> pa.Array:
    """Times as ISO texts without a zone, with as many decimals of a second as they need."""
    texts = pc.strftime(times, format="%Y-%m-%dT%H:%M:%S")
    return texts if times.type.unit == "s" else _without_zeros(texts)


def with_local_times(
    batches: Batches, schema: pa.Schema, zone: tzinfo | None
) -> tuple[Iterator[pa.RecordBatch], pa.Schema]:
    """Rows and columns with times as ISO texts on the clocks of a zone, with their UTC offset.

    Times inside lists and structs stay as they are, so they are written in UTC.

    Args:
        batches: the rows.
        schema: their columns.
        zone: the time zone; None for this machine's.
    """
    are_times = [pa.types.is_timestamp(type_) for type_ in schema.types]
    fields = [
        pa.field(field.name, pa.string()) if is_time else field
        for field, is_time in zip(schema, are_times, strict=True)
    ]
    local_schema = pa.schema(fields, schema.metadata)

    def converted() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = [
                _local_time_text(column, zone) if is_time else column
                for column, is_time in zip(batch.columns, are_times, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=local_schema)

    return converted(), local_schema


def _local_time_text(column: pa.Array, zone: tzinfo | None) -> pa.Array:
    """Times as ISO texts with a UTC offset: 2024-01-31T13:00:00.5+01:00.

    Beyond the years that have nanoseconds, times are in UTC.
    """
    try:
        stamps = column.cast(pa.timestamp("ns")).cast(pa.int64())
    except pa.ArrowInvalid:
        return _time_text(column)
    bounds = pc.min_max(stamps).as_py()
    first_ns, last_ns = bounds["min"], bounds["max"]
    if first_ns is None or first_ns - DAY < -(2**63) or last_ns + DAY >= 2**63:
        return _time_text(column)
    changes = offset_changes(zone, first_ns, last_ns)
    stamps_ns = pc.fill_null(stamps, first_ns).to_numpy()
    places = np.searchsorted([change.at_ns for change in changes], stamps_ns, side="right") - 1
    offsets_ns = np.array([change.utc_offset_ns for change in changes])[places]
    local = pa.array(stamps_ns + offsets_ns, mask=column.is_null().to_numpy(zero_copy_only=False))
    offsets = pa.array([_offset_text(change.utc_offset_ns) for change in changes])
    texts = _iso_text(local.cast(pa.timestamp("ns")))
    return pc.binary_join_element_wise(texts, offsets.take(pa.array(places)), "")


def _offset_text(offset_ns: int) -> str:
    """A UTC offset as ISO 8601 has it, such as +01:00."""
    zone = timezone(timedelta(seconds=offset_ns // SECOND))
    return datetime(1970, 1, 1, tzinfo=zone).isoformat().removeprefix("1970-01-01T00:00:00")


def _without_zeros(texts: pa.Array) -> pa.Array:
    """Texts without the zeros at the end of a fraction."""
    return pc.utf8_rtrim(pc.utf8_rtrim(texts, characters="0"), characters=".")


def decimal_text(column: pa.Array) -> pa.Array:
    """Decimals as text with all digits of their scale, without an exponent."""
    scale = column.type.scale
    with suppress(pa.ArrowInvalid):
        units = column.view(pa.decimal128(38, 0)).cast(pa.int64())
        if (pc.min(units).as_py() or 0) >= 0:
            return fixed_text(units, scale) if scale else units.cast(pa.string())
    # Rare: sums beyond 64 bits, negative values.
    return pa.array([v if v is None else f"{v:f}" for v in column.to_pylist()], pa.string())


def fixed_text(units: pa.Array, scale: int) -> pa.Array:
    """Integers in units of 10^-scale as text with `scale` > 0 decimals; none is negative."""
    digits = pc.ascii_lpad(units.cast(pa.string()), width=scale + 1, padding="0")
    return pc.binary_replace_slice(digits, start=-scale, stop=-scale, replacement=".")


def cell(value: object) -> str:
    """A value of a column of `as_flat_text` as a table shows it; a text may have several lines."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, float) else str(value)
