"""Write rows as table, CSV, JSON, Parquet or Arrow: decimals exact, times to the nanosecond."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from harvester.cli.output import columns, stdout
from harvester.errors import UsageError
from harvester.escaping import printable
from harvester.schema import decimal_words
from harvester.storage.export import file_sink, write_arrow, write_parquet

# --- texts ----------------------------------------------------------------------------------------


def as_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows with decimals, times and bytes as exact texts, also inside lists and structs.

    What is left besides are whole numbers, floats, truths and nulls.
    """
    return pa.RecordBatch.from_arrays(
        [_text(column) for column in batch.columns], names=batch.schema.names
    )


def as_flat_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same with each list and struct as one text of JSON."""
    columns = [
        _json_texts(column) if pa.types.is_nested(column.type) else column
        for column in as_text(batch).columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _json_texts(column: pa.Array) -> pa.Array:
    values = column.to_pylist()
    texts = [None if value is None else msgspec.json.encode(value).decode() for value in values]
    return pa.array(texts, pa.string())


def _text(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_decimal(kind):
        return _decimal_text(column)
    if pa.types.is_timestamp(kind):
        return _moment_text(column)
    if pa.types.is_time(kind):
        return _short(column.cast(pa.time64("ns")).cast(pa.string()))
    if pa.types.is_date(kind):
        return column.cast(pa.string())
    if pa.types.is_binary(kind):
        return pa.array([v and v.hex() for v in column.to_pylist()], pa.string())
    if pa.types.is_nested(kind):
        return _nested_text(column)
    return column.dictionary_decode() if pa.types.is_dictionary(kind) else column


def _nested_text(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_struct(kind):
        fields = [_text(field) for field in column.flatten()]
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, names, mask=column.is_null())
    if pa.types.is_map(kind):
        entries = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        return _text(column.cast(pa.list_(entries)))
    if pa.types.is_fixed_size_list(kind):
        return _text(column.cast(pa.list_(kind.value_type)))
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, _text(column.flatten()), mask=column.is_null())


def _moment_text(column: pa.Array) -> pa.Array:
    """UTC, whatever zone the moments were to be shown in."""
    try:
        moments = column.cast(pa.timestamp("ns"))
    except pa.ArrowInvalid:
        # Before 1677 or after 2262 there are no nanoseconds.
        moments = column.cast(pa.timestamp(column.type.unit))
    stamps = pc.strftime(moments, format="%Y-%m-%dT%H:%M:%S")
    return pc.binary_join_element_wise(_short(stamps), "Z", "")


def _short(texts: pa.Array) -> pa.Array:
    """Without the zeros that end a fraction."""
    return pc.utf8_rtrim(pc.utf8_rtrim(texts, characters="0"), characters=".")


def _decimal_text(column: pa.Array) -> pa.Array:
    """Plain digits without an exponent, and without zeros at the end."""
    low, high = decimal_words(column)
    scale = column.type.scale
    if scale == 0 or ((high != 0) | (low < 0)).any() or column.null_count:
        # Rare: sums beyond 64 bits, negative values, gaps.
        texts = [None if v is None else _plain(format(v, "f")) for v in column.to_pylist()]
        return pa.array(texts, pa.string())
    whole, fraction = np.divmod(low, 10**scale)
    digits = pc.utf8_lpad(pa.array(fraction).cast(pa.string()), width=scale, padding="0")
    return _short(pc.binary_join_element_wise(pa.array(whole).cast(pa.string()), digits, "."))


def _plain(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def cell(value: Any) -> str:
    """A value of a text's column as a table shows it, in one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, float) else str(value).replace("\n", "\\n")


# --- formats --------------------------------------------------------------------------------------

FORMATS = ("table", "csv", "json", "jsonl", "parquet", "arrow")
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
"""What a file's ending says of its format; a Feather file is an Arrow IPC file."""
_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_TYPED = ("parquet", "arrow")
_SHOWN = 40
"""Rows of a table that a terminal shows at its beginning and at its end."""
_BLOCK = 10_000
"""Rows of a table that are lined up together where all are written."""

Batches = Iterable[pa.RecordBatch]


def write(
    batches: Batches,
    schema: pa.Schema,
    form: str | None,
    file: str | None,
    notes: Sequence[str] = (),
) -> int:
    """Write rows to a file or to stdout, batch by batch; returns how many.

    Args:
        batches: the rows, in order.
        schema: their columns, also where there are no rows.
        form: one of `FORMATS`; None takes it from the file's ending, else `table`.
        file: where to; None for stdout.
        notes: what is to be known of the rows, such as gaps; typed formats keep them as
            metadata `harvester.notes`, a JSON list of texts.
    """
    form = form_of(form, file)
    if form in _TYPED and file is None and sys.stdout.isatty():
        raise UsageError(f"{form} is not for a terminal: give -o FILE, or pipe it on")
    counted = _Counted(batches)
    if notes:
        kept = {**(schema.metadata or {}), b"harvester.notes": msgspec.json.encode(notes)}
        schema = schema.with_metadata(kept)
    with _sink(file) as sink:
        _WRITERS[form](counted, schema, sink)
    return counted.rows


def form_of(form: str | None, file: str | None) -> str:
    """The format that rows are written in: `form` where it is given, else by the file's ending.

    Raises:
        UsageError: the ending is none that is known, or says otherwise than the format, or the
            file is a folder.
    """
    if file is None:
        return form or "table"
    if file.endswith(("/", os.sep)):
        raise UsageError(
            f"-o {file} names a folder, and one answer is written into a file: give a name such as "
            f"-o {file}answer.csv"
        )
    if form in _TYPED and Path(file).suffix.lower() in _COMPRESSED:
        raise UsageError(f"-o {file}: {form} is not written compressed: give another ending")
    if form is not None:
        return form
    ending = ending_of(file)
    if ending is not None:
        return ENDINGS[ending]
    if _is_stream(Path(file)):
        return "table"
    what = f"is no ending that is known (of {file})" if Path(file).suffix else "has no ending"
    raise UsageError(
        f"-o: {Path(file).suffix or file} {what}: give one of {', '.join(ENDINGS)}, or -f and a "
        "format"
    )


def ending_of(file: str) -> str | None:
    """The ending of a file's name that says its format; None for no such ending."""
    name = Path(file).name.lower()
    return next((one for one in sorted(ENDINGS, key=len)[::-1] if name.endswith(one)), None)


def _is_stream(file: Path) -> bool:
    """Whether a pipe or a device stands there, whose name says nothing."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


class _Counted:
    """Counts rows as they pass."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.rows = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            self.rows += batch.num_rows
            yield batch


@contextmanager
def _sink(file: str | None) -> Iterator[BinaryIO]:
    """Stdout, or a file; of texts, one whose ending is .gz or .zst is compressed."""
    if file is None:
        with stdout() as sink:
            yield sink
        return
    with file_sink(Path(file)) as sink:
        compression = _COMPRESSED.get(Path(file).suffix.lower())
        if compression is None:
            yield sink
            return
        with pa.CompressedOutputStream(sink, compression) as packed:
            yield packed


def _csv(batches: Batches, schema: pa.Schema, sink: BinaryIO) -> None:
    sink.write((",".join(_csv_name(name) for name in schema.names) + "\n").encode())
    for batch in batches:
        text = as_flat_text(batch)
        try:
            sink.write(_csv_part(text, "none"))
        except pa.ArrowInvalid:
            # Some text of the exchange's holds a comma or a quote; then all texts are quoted.
            sink.write(_csv_part(text, "needed"))


def _csv_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\r\n') else name


def _csv_part(text: pa.RecordBatch, quoting: str) -> bytes:
    part = io.BytesIO()
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style=quoting)
    pyarrow.csv.write_csv(text, part, options)
    return part.getvalue()


def _jsonl(batches: Batches, _schema: pa.Schema, sink: BinaryIO) -> None:
    encoder = msgspec.json.Encoder()
    sink.writelines(encoder.encode_lines(as_text(batch).to_pylist()) for batch in batches)


def _json(batches: Batches, _schema: pa.Schema, sink: BinaryIO) -> None:
    encoder = msgspec.json.Encoder()
    sink.write(b"[")
    begun = False
    for batch in batches:
        for row in as_text(batch).to_pylist():
            sink.write((b",\n " if begun else b"\n ") + encoder.encode(row))
            begun = True
    sink.write(b"\n]\n")


def _table(batches: Batches, schema: pa.Schema, sink: BinaryIO) -> None:
    shown = _abridged(batches) if sink.isatty() else _blocks(batches)
    header = [printable(name) for name in schema.names]
    widths = [0] * len(header)
    for number, (rows, left_out) in enumerate(shown):
        lines = columns(header, _aligned(rows, schema)).split("\n")
        if left_out:
            lines.insert(_SHOWN + 1, f"... {left_out:,} rows more; -f csv shows them all ...")
        sink.write("".join(f"{line}\n" for line in lines[number > 0 :]).encode())
        # What follows is as wide as what came before, or wider, and has no header.
        table = [header, *rows]
        widths = [max(len(line[i]) for line in table) for i in range(len(widths))]
        header = ["-" * width for width in widths]


def _abridged(batches: Batches) -> Iterator[tuple[list[list[str]], int]]:
    """The first rows and the last, and how many were left out between them."""
    rows: list[list[str]] = []
    left_out = 0
    for batch in batches:
        rows += _cells(batch)
        if len(rows) > 2 * _SHOWN:
            left_out += len(rows) - 2 * _SHOWN
            rows = rows[:_SHOWN] + rows[-_SHOWN:]
    yield rows, left_out


def _blocks(batches: Batches) -> Iterator[tuple[list[list[str]], int]]:
    """All rows, some thousands at a time, so that no table is held whole."""
    rows: list[list[str]] = []
    begun = False
    for batch in batches:
        rows += _cells(batch)
        if len(rows) >= _BLOCK:
            yield rows, 0
            rows, begun = [], True
    if rows or not begun:
        yield rows, 0


def _cells(batch: pa.RecordBatch) -> list[list[str]]:
    text = [
        [printable(cell(v)) for v in column.to_pylist()] for column in as_flat_text(batch).columns
    ]
    return [list(row) for row in zip(*text, strict=True)]


def _aligned(rows: list[list[str]], schema: pa.Schema) -> list[list[str]]:
    """Decimals of one column with as many digits behind the point."""
    for i, kind in enumerate(schema.types):
        if pa.types.is_decimal(kind):
            digits = max((len(row[i].partition(".")[2]) for row in rows), default=0)
            for row in rows:
                whole, _, fraction = row[i].partition(".")
                if whole and digits:
                    row[i] = f"{whole}.{fraction.ljust(digits, '0')}"
    return rows


_WRITERS: dict[str, Callable[[Batches, pa.Schema, BinaryIO], None]] = {
    "table": _table,
    "csv": _csv,
    "json": _json,
    "jsonl": _jsonl,
    "parquet": write_parquet,
    "arrow": write_arrow,
}
