"""Rows as text or files, exactly: decimals are never floats, times never lose a digit."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from harvester.archive.export import write_arrow, write_parquet
from harvester.archive.store import writing
from harvester.cli.output import columns, stdout
from harvester.columns import decimal_words
from harvester.errors import UsageError

FORMATS = ("table", "csv", "json", "jsonl", "parquet", "arrow")
_ENDINGS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_SHOWN = 40
"""Rows of a table that a terminal shows at its beginning and at its end."""

Batches = Iterable[pa.RecordBatch]


def write(batches: Batches, schema: pa.Schema, form: str | None, file: str | None) -> int:
    """Write rows to a file or to stdout, batch by batch; returns how many.

    Args:
        batches: the rows, in order.
        schema: their columns, also where there are no rows.
        form: one of `FORMATS`; None takes it from the file's ending, else `table`.
        file: where to; None for stdout.
    """
    form = form or _ENDINGS.get(Path(file).suffix.lower() if file else "", "table")
    if form in ("parquet", "arrow") and file is None and sys.stdout.isatty():
        raise UsageError(f"{form} is not for a terminal: give -o FILE, or pipe it on")
    counted = _Counted(batches)
    with _sink(file) as sink:
        _WRITERS[form](counted, schema, sink)
    return counted.rows


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
    """Stdout, or a file that stands at its place only once it is whole."""
    if file is None:
        with stdout() as sink:
            yield sink
        return
    staged = Path(f"{file}.tmp")
    try:
        with writing(file):
            with staged.open("wb") as sink:
                yield sink
            staged.replace(file)
    finally:
        staged.unlink(missing_ok=True)


def _csv(batches: Batches, schema: pa.Schema, sink: BinaryIO) -> None:
    sink.write((",".join(schema.names) + "\n").encode())
    for batch in batches:
        text = as_text(batch)
        try:
            sink.write(_csv_part(text, "none"))
        except pa.ArrowInvalid:
            # Some text of the exchange's holds a comma or a quote; then all texts are quoted.
            sink.write(_csv_part(text, "needed"))


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
    rows: list[list[str]] = []
    left_out = 0
    for batch in batches:
        text = [[_cell(v) for v in column.to_pylist()] for column in as_text(batch).columns]
        rows += [list(row) for row in zip(*text, strict=True)]
        if sink.isatty() and len(rows) > 2 * _SHOWN:
            left_out += len(rows) - 2 * _SHOWN
            rows = rows[:_SHOWN] + rows[-_SHOWN:]
    lines = columns(schema.names, _aligned(rows, schema)).split("\n")
    if left_out:
        lines.insert(_SHOWN + 1, f"... {left_out:,} rows more; -f csv shows them all ...")
    sink.write(("\n".join(lines) + "\n").encode())


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


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def as_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows with decimals and times as exact texts, for formats that know neither."""
    columns_ = [_text(column) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns_, names=batch.schema.names)


def _text(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_decimal(kind):
        return _decimal_text(column)
    if pa.types.is_timestamp(kind):
        stamps = pc.strftime(column.cast(pa.timestamp("ns")), format="%Y-%m-%dT%H:%M:%S")
        return pc.binary_join_element_wise(_short(stamps), "Z", "")
    return column.dictionary_decode() if pa.types.is_dictionary(kind) else column


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


_WRITERS: dict[str, Callable[[Batches, pa.Schema, BinaryIO], None]] = {
    "table": _table,
    "csv": _csv,
    "json": _json,
    "jsonl": _jsonl,
    "parquet": write_parquet,
    "arrow": write_arrow,
}
