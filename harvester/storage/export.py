"""Write query results to files of the user: Parquet, Arrow, CSV; each is complete or absent."""

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
from harvester.storage.filesystem import sync, writing
from harvester.storage.metadata import is_marked
from harvester.storage.segment import is_segment

# --- export ---------------------------------------------------------------------------------------


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
    """One Arrow IPC file (Feather, version 2), written batch by batch; `compression`: lz4, zstd.

    Words are plain strings: such a file has one dictionary a column, and segments have their own.
    """
    plain = pa.schema([_without_dictionary(field) for field in schema], metadata=schema.metadata)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(sink, plain, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch if plain.equals(batch.schema) else batch.cast(plain))


def _without_dictionary(field: pa.Field) -> pa.Field:
    kind = field.type
    return field.with_type(kind.value_type) if pa.types.is_dictionary(kind) else field


@contextmanager
def file_sink(file: Path) -> Iterator[BinaryIO]:
    """A file that stands at its place only once it is whole; pipes and devices are written to.

    Raises:
        UsageError: it lies in an archive.
        ArchiveUnwritable: the machine refused.
    """
    with writing(str(file), "place"):
        facts = _facts(file)
        if facts is not None and (stream := _stream(file, facts)) is not None:
            with stream as sink:
                yield sink
            return
        with replacing(file) as staged, staged.open("xb") as sink:
            yield sink


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to make a file at, which takes the place of `file` once it is whole.

    A link stays a link: the file that it leads to is replaced, and keeps its permissions.

    Raises:
        UsageError: it lies in an archive.
        OSError: the machine refused.
    """
    check_outside(file)
    facts = _facts(file)
    if facts is not None and stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if facts is not None and not os.access(file, os.W_OK):
        # The folder's permissions alone would let it be replaced.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    target = Path(os.path.realpath(file))
    # A name of its own: FILE.tmp may be somebody's.
    staged = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield staged
        if facts is not None:
            staged.chmod(stat.S_IMODE(facts.st_mode))
        sync(staged)
        staged.replace(target)
        sync(target.parent)
    finally:
        staged.unlink(missing_ok=True)


def check_outside(place: Path) -> None:
    """See that what is to be written does not lie in an archive: a segment might be replaced.

    Raises:
        UsageError: it does.
    """
    # By the way that is given, and by where it leads: folders of an archive may be links.
    ways = dict.fromkeys((place.absolute(), Path(os.path.realpath(place))))
    root = next((one for way in ways for one in (way, *way.parents) if is_marked(one)), None)
    if root is not None:
        raise UsageError(
            f"{place} lies in the archive at {root}, where nothing else may stand: "
            "give another place"
        )
    if any(map(is_segment, ways)):
        raise UsageError(f"{place} is a segment of an archive: give another place")


def _facts(file: Path) -> os.stat_result | None:
    """What stands there, behind all links; None where nothing does."""
    try:
        return file.stat()
    except FileNotFoundError:
        return None


def _stream(file: Path, facts: os.stat_result) -> BinaryIO | None:
    """What stands there, to be written to, where nothing can take its place."""
    for handle in (1, 2):
        # /dev/stdout may be a file that others write to, before and behind.
        with suppress(OSError):
            if os.path.samestat(facts, os.fstat(handle)):
                return os.fdopen(os.dup(handle), "wb")
    is_replaceable = stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)
    return None if is_replaceable else file.open("wb")
