"""File formats of query results: CSV, JSON, JSON lines, Parquet, Arrow; formats by file ending."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.csv

from harvester.exporters.text import as_flat_text, as_text
from harvester.storage.export import file_sink, write_arrow, write_parquet

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
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}


def ending_of(file: str) -> str | None:
    """The ending of a file's name that decides its format; None if it has no such ending."""
    name = Path(file).name.lower()
    by_length = sorted(ENDINGS, key=len, reverse=True)
    return next((ending for ending in by_length if name.endswith(ending)), None)


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


@contextmanager
def compressed_file_sink(file: str) -> Iterator[BinaryIO]:
    """A file to write to; text is compressed if the ending is .gz or .zst.

    Raises:
        UsageError: the file lies in an archive.
        ArchiveUnwritable: it can't be written.
    """
    with file_sink(Path(file)) as sink:
        compression = COMPRESSED.get(Path(file).suffix.lower())
        if compression is None:
            yield sink
            return
        with pa.CompressedOutputStream(sink, compression) as compressed:
            yield compressed


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
    lines = io.BytesIO()
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style=quoting)
    pyarrow.csv.write_csv(text, lines, options)
    return lines.getvalue()


def _write_jsonl(batches: Batches, _schema: pa.Schema, sink: BinaryIO) -> None:
    encoder = msgspec.json.Encoder()
    sink.writelines(encoder.encode_lines(as_text(batch).to_pylist()) for batch in batches)


def _write_json(batches: Batches, _schema: pa.Schema, sink: BinaryIO) -> None:
    encoder = msgspec.json.Encoder()
    sink.write(b"[")
    has_rows = False
    for batch in batches:
        for row in as_text(batch).to_pylist():
            sink.write((b",\n " if has_rows else b"\n ") + encoder.encode(row))
            has_rows = True
    sink.write(b"\n]\n")


WRITERS: dict[str, Writer] = {
    "csv": _write_csv,
    "json": _write_json,
    "jsonl": _write_jsonl,
    "parquet": write_parquet,
    "arrow": write_arrow,
}
"""The function that writes a format, by the format's name."""
