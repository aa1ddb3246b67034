"""A ZIP's member as a stream of bytes, unpacked by ISA-L: a third of what zlib takes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

try:
    import isal.isal_zlib as inflating
except ImportError:  # pragma: no cover - where ISA-L has no build, zlib does the same
    import zlib as inflating  # type: ignore[no-redef]

REFUSALS = (cast("type[Exception]", inflating.error),)

PIECE_BYTES = 1 << 20
PACKED_BYTES = 1 << 18
_HEADER_BYTES = 30
_RAW = -15
"""A window of 32 KiB, and no header: what ZIPs hold."""

crc32 = inflating.crc32


def unpacked(path: Path, inner: str) -> Iterator[bytes]:
    """The bytes of a member, some at a time; whoever takes them holds them against its checksum.

    Raises:
        zipfile.BadZipFile, EOFError, OSError, one of `REFUSALS`: it can't be read.
    """
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(inner)
        with archive.open(entry) as stream:
            if entry.compress_type != zipfile.ZIP_DEFLATED:
                yield from _pieces(stream)
                return
        # Opening it has held its own header against the directory.
        with path.open("rb") as file:
            file.seek(entry.header_offset)
            header = file.read(_HEADER_BYTES)
            file.seek(_number(header[26:28]) + _number(header[28:30]), 1)
            yield from _inflated(file, entry.compress_size)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while data := stream.read(PIECE_BYTES):
        yield data


def _inflated(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next `size` bytes of a file, unpacked; never more than a piece of them in memory."""
    inflate = inflating.decompressobj(_RAW)
    packed = b""
    while not inflate.eof:
        if not packed:
            packed = file.read(min(PACKED_BYTES, size))
            size -= len(packed)
        # All may have been taken in, and some of it not be given out yet: it is asked for, too.
        piece = inflate.decompress(packed, PIECE_BYTES)
        if not (piece or packed or inflate.eof):
            raise EOFError("it ends before its last byte")
        packed = inflate.unconsumed_tail
        if piece:
            yield piece
