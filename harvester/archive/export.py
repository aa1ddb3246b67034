"""Answers for other tools: files that are no part of an archive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from harvester.archive.store import writing


def write_parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, sink: BinaryIO) -> None:
    """One Parquet file, written batch by batch."""
    with pq.ParquetWriter(sink, schema, compression="zstd", version="2.6") as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_arrow(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    sink: BinaryIO,
    compression: str | None = None,
) -> None:
    """One Arrow IPC file (Feather, version 2), written batch by batch; `compression`: lz4, zstd."""
    options = pa.ipc.IpcWriteOptions(unify_dictionaries=True, compression=compression)
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)


@contextmanager
def file_sink(file: Path) -> Iterator[BinaryIO]:
    """A file that stands at its place only once it is whole."""
    staged = Path(f"{file}.tmp")
    try:
        with writing(str(file)):
            with staged.open("wb") as sink:
                yield sink
            staged.replace(file)
    finally:
        staged.unlink(missing_ok=True)
