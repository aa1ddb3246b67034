"""Find CSV files in folders and ZIPs, check them, and read them as a stream of blocks."""

from __future__ import annotations

import re
import stat
import struct
import time
import zipfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, NamedTuple, TypeVar, cast

import numpy as np

from harvester.errors import BadFile, DamagedFile

# --- unpacking ZIP members ------------------------------------------------------------------------

try:
    import isal.isal_zlib as inflating
except ImportError:  # pragma: no cover - where ISA-L has no build, zlib does the same
    import zlib as inflating  # type: ignore[no-redef]

UNPACK_ERRORS = (cast("type[Exception]", inflating.error),)

PIECE_BYTES = 1 << 20
PACKED_BYTES = 1 << 18
_HEADER_BYTES = 30
_RAW = -15
"""zlib's name for deflate data in a ZIP: a window of 32 KiB, and no header."""

crc32 = inflating.crc32


def unpacked(path: Path, inner: str) -> Iterator[bytes]:
    """Read a member of a ZIP as a stream. The caller checks its checksum.

    Args:
        path: the ZIP.
        inner: the member's name.

    Raises:
        zipfile.BadZipFile, EOFError, OSError, one of `UNPACK_ERRORS`: it can't be read.
    """
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(inner)
        with archive.open(entry) as stream:
            if entry.compress_type != zipfile.ZIP_DEFLATED:
                yield from _pieces(stream, PIECE_BYTES)
                return
        # `archive.open` has compared the member's own header with the ZIP's directory.
        with path.open("rb") as file:
            file.seek(entry.header_offset)
            file.seek(sum(struct.unpack("<HH", file.read(_HEADER_BYTES)[-4:])), 1)
            yield from _inflated(file, entry.compress_size)


def _pieces(stream: IO[bytes], size: int) -> Iterator[bytes]:
    while data := stream.read(size):
        yield data


def _inflated(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Unpack the next `size` bytes of a file, with at most one piece of them in memory."""
    inflate = inflating.decompressobj(_RAW)
    packed = b""
    while not inflate.eof:
        if not packed:
            packed = file.read(min(PACKED_BYTES, size))
            size -= len(packed)
        # All input may have been read while output is left, so ask also with empty input.
        piece = inflate.decompress(packed, PIECE_BYTES)
        if not (piece or packed or inflate.eof):
            raise EOFError("it ends before its last byte")
        packed = inflate.unconsumed_tail
        if piece:
            yield piece


# --- finding CSV files ----------------------------------------------------------------------------

BLOCK_BYTES = 1 << 20
LONGEST_LINE = 1 << 16
HEAD_BYTES = 4 * LONGEST_LINE
MAX_COMPRESSION = 200
"""Members that unpack to more than this many times their size are refused as ZIP bombs. Files of
numbers shrink to a third or a tenth."""
SMALL_BYTES = 10 << 20
"""Members up to this size are accepted however well they are packed."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_QUARTER = re.compile(r"_Q([1-4])_(\d{4})(?!\d)", re.IGNORECASE)
_HISTORY = re.compile(r"Kraken_(?:Trading_History|OHLCVT)(?: ?\(\d+\))?(?:\.zip)?", re.IGNORECASE)
_NAMES_CHECKED = 2
_READ_ERRORS: tuple[type[Exception], ...] = (
    *UNPACK_ERRORS,
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    # Of members whose name is damaged, empty, or gone.
    ValueError,
    LookupError,
)


class BadRow(NamedTuple):
    """A line that is not a trade, and the reason.

    Attributes:
        line: its number, from 1.
        text: the line.
        reason: why it is not a trade.
        file: the name of the file.
    """

    line: int
    text: str
    reason: str
    file: str = ""

    def error(self, name: str) -> BadFile:
        """The error that ends an import at this row; `name`: the file's name."""
        return BadFile(
            f"{name}, line {self.line}: {self.text!r} can't be read: {self.reason}; its range was "
            "not imported. --skip-bad-rows leaves such rows out and lists them"
        )


class CompletePeriod(NamedTuple):
    """The time for which a file is known to contain every trade, in UNIX seconds.

    Attributes:
        since_s: the first second; None if the beginning is not known.
        until_s: the second after the last one; None if the end is not known.
    """

    since_s: int | None = None
    until_s: int | None = None

    def without_future(self) -> CompletePeriod:
        """The same, without an end that is still to come: no file has trades up to there."""
        is_past = self.until_s is not None and self.until_s <= time.time()
        return self if is_past else self._replace(until_s=None)


NO_KNOWN_PERIOD = CompletePeriod()


class Member(NamedTuple):
    """A CSV file, on disk or in a ZIP.

    Attributes:
        path: the path of the file, or of the ZIP.
        inner: the member's name in the ZIP; empty for a file on disk.
        size: bytes, unpacked.
        crc: CRC-32 of the unpacked bytes, from the ZIP's directory; None for a file on disk.
        complete: the time for which the file is known to contain every trade.
        period_by_name: that time by the names around the file alone.
    """

    path: Path
    inner: str
    size: int
    crc: int | None
    complete: CompletePeriod
    period_by_name: CompletePeriod

    def __str__(self) -> str:
        """The name shown to users: `Kraken.zip:folder/XBTUSD.csv`."""
        if self.inner:
            return f"{self.path.name}:{self.inner}"
        folder = self.path.absolute().parent.name
        # Files of all quarters have the same names, so the folder is shown as well.
        return f"{folder}/{self.path.name}" if _QUARTER.search(folder) else self.path.name

    @property
    def stem(self) -> str:
        """The file's name without its ending, which is the name of a pair."""
        return PurePosixPath(self.inner or self.path.name).stem


def find(files: Iterable[str]) -> list[Member]:
    """List the CSV files in some files, ZIPs and folders; of ZIPs only the directory is read.

    Raises:
        BadFile: a file does not exist or has another type, or a ZIP is unsafe.
    """
    return [member for text in files for path in _files_in(Path(text)) for member in _members(path)]


def _files_in(path: Path) -> list[Path]:
    """The CSV files and ZIPs in a folder; a path that is no folder, by itself."""
    try:
        if not path.is_dir():
            return [path]
        found = [
            file
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in (".csv", ".zip")
            and file.is_file()
            and not _is_hidden(file.relative_to(path))
        ]
    except OSError as error:
        # Also where a folder vanishes while it is listed.
        raise BadFile(f"{path} can't be read: {error.strerror or error}") from error
    if not found:
        raise BadFile(f"{path} has neither a CSV nor a ZIP: give another folder")
    return found


def _members(path: Path) -> list[Member]:
    try:
        if path.exists() and not path.is_file():
            raise BadFile(f"{path} is no regular file: give a CSV, a ZIP or a folder")
        if path.suffix.lower() == ".csv":
            return [_member(path, "", path.stat().st_size, None)]
        if not path.exists():
            raise FileNotFoundError(2, "there is no such file")
        if not zipfile.is_zipfile(path):
            raise BadFile(f"{path} is no CSV, no ZIP and no folder: give Kraken's files")
        with zipfile.ZipFile(path) as archive:
            return _zip_members(path, archive.infolist())
    except _READ_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadFile(f"{path} can't be read: {reason or error}") from error


def _member(path: Path, inner: str, size: int, crc: int | None) -> Member:
    period = _period_by_name(path, inner)
    return Member(path, inner, size, crc, period, period)


def _period_by_name(path: Path, inner: str) -> CompletePeriod:
    """The time for which a file contains every trade by the names around it.

    Two are read, the innermost first: Kraken's ZIPs contain one folder.

    Args:
        path: of the file, or of its ZIP.
        inner: the member's name in the ZIP; empty for a file on disk.
    """
    outer = (path.name,) if inner else path.absolute().parts[:-1]
    names = (*outer, *PurePosixPath(inner).parts[:-1])
    for name in reversed(names[-_NAMES_CHECKED:]):
        if quarter := _QUARTER.search(name):
            opens = np.datetime64(f"{quarter[2]}-{3 * int(quarter[1]) - 2:02d}", "M")
            seconds = [int(month.astype("M8[s]").astype(np.int64)) for month in (opens, opens + 3)]
            return CompletePeriod(*seconds).without_future()
        if _HISTORY.fullmatch(name):
            return CompletePeriod(0)
    return NO_KNOWN_PERIOD


def _zip_members(path: Path, entries: list[zipfile.ZipInfo]) -> list[Member]:
    """The CSV files of a ZIP.

    Raises:
        BadFile: a member is unsafe (its path leads out of the ZIP, say), or none is a CSV file.
    """
    seen: set[str] = set()
    for entry in entries:
        if reason := _fault(entry, seen):
            raise BadFile(f"{path}: its member {entry.filename!r} {reason}: nothing of it was read")
        seen.add(entry.filename)
    _check_overlaps(path, entries)
    files = [entry for entry in entries if _is_csv(entry)]
    if not files:
        raise BadFile(f"{path} has no CSV: give one of Kraken's ZIPs")
    return [_member(path, file.filename, file.file_size, file.CRC) for file in files]


def _is_csv(entry: zipfile.ZipInfo) -> bool:
    """Whether a member is a CSV file, and not one that an operating system adds."""
    path = PurePosixPath(entry.filename)
    return not entry.is_dir() and path.suffix.lower() == ".csv" and not _is_hidden(path)


def _is_hidden(path: PurePath) -> bool:
    """Whether an operating system adds such a file to others, for example `._XBTUSD.csv`."""
    return path.name.startswith(".") or "__MACOSX" in path.parts


def _fault(entry: zipfile.ZipInfo, seen: set[str]) -> str | None:
    """Why a member is refused; None if it is not. `seen`: the names of the members before it."""
    name = entry.filename
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
        return "has a path that leads out of the archive"
    if name in seen:
        return "is there twice"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if name.lower().endswith(".zip"):
        return "is a ZIP itself; unpack it first"
    if entry.compress_type not in _METHODS:
        return "is packed by an unknown method; pack it again by deflate, as Kraken does"
    if entry.file_size > max(SMALL_BYTES, MAX_COMPRESSION * entry.compress_size):
        return f"says that it unpacks to more than {MAX_COMPRESSION} times its size"
    return None


def _check_overlaps(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse a ZIP whose members share bytes: a small file could unpack to any size.

    Raises:
        BadFile: members share bytes, or the file is shorter than its directory says.
    """
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise BadFile(f"{path}: its member {entry.filename!r} shares bytes with another one")
        end = entry.header_offset + entry.compress_size
    if end > path.stat().st_size:
        raise BadFile(f"{path} is shorter than its directory says: it was not downloaded whole")


# --- reading --------------------------------------------------------------------------------------


def pieces(member: Member, expected: str | None = None) -> Iterator[bytes]:
    """Read a CSV file as a stream of unpacked bytes, at most as many as its ZIP's directory says.

    Args:
        member: the file.
        expected: its checksum, as `checksum` returned it; None for the one in its ZIP, if any.

    Raises:
        DamagedFile: it can't be read, has another size, or does not match its checksum.
    """
    crc = size = 0
    try:
        for piece in unpacked(member.path, member.inner) if member.inner else _read(member.path):
            crc, size = crc32(piece, crc), size + len(piece)
            if size > member.size:
                raise DamagedFile(f"{member} is damaged: it has more than {member.size:,} bytes")
            yield piece
    except _READ_ERRORS as error:
        raise DamagedFile(f"{member} can't be read: {error}") from error
    if expected is None and member.crc is not None:
        expected = _crc_text(member.crc)
    if size != member.size or expected not in (None, _crc_text(crc)):
        raise DamagedFile(f"{member} is damaged: its bytes do not match its checksum")


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from _pieces(file, BLOCK_BYTES)


def checksum(member: Member) -> str:
    """The CRC-32 of a file as text, from the ZIP's directory or computed from the file on disk."""
    crc = member.crc
    if crc is None:
        crc = 0
        for piece in pieces(member):
            crc = crc32(piece, crc)
    return _crc_text(crc)


def _crc_text(crc: int) -> str:
    return f"crc32:{crc:08x}"


def head(member: Member) -> bytes:
    """The first lines of a file, some hundred kilobytes."""
    data = b""
    for piece in pieces(member):
        data += piece
        if len(data) > HEAD_BYTES:
            lines, end, _ = data[:HEAD_BYTES].rpartition(b"\n")
            return lines + end or data + b"\n"
    # The last line may lack its end, and be the only one with a trade.
    return data + b"\n"


def blocks(member: Member, expected: str | None) -> Iterator[bytes]:
    """Read a file in blocks of complete lines. The last block comes after the checksum is checked.

    A last line without a line end has none there, either; in a ZIP, whose checksum shows that it is
    whole, it gets one.

    Args:
        member: the file.
        expected: its checksum, as `checksum` returned it; None if it is read only once. A ZIP's
            member is compared with the checksum in the ZIP in any case.

    Raises:
        DamagedFile: its bytes do not match the checksum.
        BadFile: a line is too long to be a trade or a candle.
    """
    rest = b""
    for data in pieces(member, expected):
        end = data.rfind(b"\n") + 1
        if not end:
            rest += data
        else:
            yield b"".join((rest, data[:end]))
            rest = data[end:]
        if len(rest) > LONGEST_LINE:
            raise BadFile(f"{member} has a line of more than {LONGEST_LINE:,} bytes")
    if rest:
        yield rest if member.crc is None else rest + b"\n"


# --- blocks read ahead ----------------------------------------------------------------------------

T = TypeVar("T")

BLOCKS_AHEAD = 4
"""Number of blocks that are read while earlier ones are written."""


def iterate_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """Produce items in a thread of their own, while earlier items are used.

    Args:
        items: runs in the thread; no item is None.
    """
    pool = ThreadPoolExecutor(1)
    produced = deque(pool.submit(next, items, None) for _ in range(BLOCKS_AHEAD))
    try:
        while (item := produced.popleft().result()) is not None:
            produced.append(pool.submit(next, items, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
