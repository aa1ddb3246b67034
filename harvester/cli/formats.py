"""Rows as text or files, exactly: decimals are never floats, times never lose a digit."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.csv

from harvester.cli.output import columns, stdout
from harvester.cli.texts import as_flat_text, as_text, cell
from harvester.errors import UsageError
from harvester.escaping import printable
from harvester.storage.export import file_sink, write_arrow, write_parquet

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
