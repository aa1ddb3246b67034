"""Write query results to the user's files, complete or not at all, and compressed by ending."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from harvester.errors import UsageError
from harvester.storage.filesystem import sync_to_disk, writing
from harvester.storage.locks_and_requests import is_archive
from harvester.storage.segment import is_segment

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
"""The compression of a text file by its ending."""


def write_parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, sink: BinaryIO) -> None:
    """Write one Parquet file, batch by batch.

    Args:
        batches: the rows.
        schema: of the batches.
        sink: where the file is written.
    """
    with pq.ParquetWriter(sink, schema, compression="zstd", version="2.6") as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_arrow(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    sink: BinaryIO,
    compression: str | None = None,
) -> None:
    """Write one Arrow IPC file (Feather version 2), batch by batch.

    Dictionary-encoded text becomes plain strings: such a file has one dictionary per column, and
    each segment has its own.

    Args:
        batches: the rows.
        schema: of the batches.
        sink: where the file is written.
        compression: `lz4`, `zstd`, or None.
    """
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in schema
    ]
    plain = pa.schema(fields, metadata=schema.metadata)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(sink, plain, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch if plain.equals(batch.schema) else batch.cast(plain))


@contextmanager
def file_sink(file: Path) -> Iterator[BinaryIO]:
    """Open a file for writing; it appears under its name only once it is complete.

    Pipes and devices are written to directly.

    Raises:
        UsageError: the file lies in an archive.
        ArchiveUnwritable: the operating system refused.
    """
    with writing(str(file), "place"):
        file_stat = _stat(file)
        if file_stat is not None and (stream := _direct_stream(file, file_stat)) is not None:
            with stream as sink:
                yield sink
            return
        with replacing(file) as staged, staged.open("xb") as sink:
            yield sink


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give a temporary path; the file written there replaces `file` when the block ends.

    A symbolic link stays a link: the file that it leads to is replaced. Permissions are kept.

    Raises:
        UsageError: `file` lies in an archive.
        OSError: the operating system refused.
    """
    check_outside(file)
    file_stat = _stat(file)
    if file_stat is not None and stat.S_ISDIR(file_stat.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if file_stat is not None and not os.access(file, os.W_OK):
        # A rename needs only the folder's permissions, so it would replace a read-only file.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    target = Path(os.path.realpath(file))
    # A random name, as FILE.tmp may be a file of the user.
    staged = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield staged
        if file_stat is not None:
            staged.chmod(stat.S_IMODE(file_stat.st_mode))
        sync_to_disk(staged)
        staged.replace(target)
        sync_to_disk(target.parent)
    finally:
        staged.unlink(missing_ok=True)


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


def check_outside(path: Path) -> None:
    """Refuse an output path inside an archive, where it could replace a segment.

    Raises:
        UsageError: the path lies in an archive.
    """
    # The path as typed and as resolved: folders of an archive may be links.
    spellings = dict.fromkeys((path.absolute(), Path(os.path.realpath(path))))
    folders = (folder for spelling in spellings for folder in (spelling, *spelling.parents))
    root = next((folder for folder in folders if is_archive(folder)), None)
    if root is not None:
        raise UsageError(
            f"{path} lies in the archive at {root}, which may contain only files of harvester: "
            "give another path"
        )
    if any(map(is_segment, spellings)):
        raise UsageError(f"{path} is a segment of an archive: give another path")


def _stat(file: Path) -> os.stat_result | None:
    """The status of a file, links followed; None where there is no file."""
    try:
        return file.stat()
    except FileNotFoundError:
        return None


def _direct_stream(file: Path, file_stat: os.stat_result) -> BinaryIO | None:
    """Open what can't be replaced by a rename: stdout, pipes, devices; None for other files."""
    for handle in (1, 2):
        # /dev/stdout may be a file that other programs write to, before and after us.
        with suppress(OSError):
            if os.path.samestat(file_stat, os.fstat(handle)):
                return os.fdopen(os.dup(handle), "wb")
    is_replaceable = stat.S_ISREG(file_stat.st_mode) or stat.S_ISDIR(file_stat.st_mode)
    return None if is_replaceable else file.open("wb")
