"""Find CSV files in folders and ZIPs, check them, and read them as a stream of blocks."""

from __future__ import annotations

import queue
import re
import stat
import threading
import zipfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, NamedTuple, TypeVar, cast

from harvester.errors import BadFile, DamagedFile
from harvester.times import SECOND, parse_moment

# --- unpacking ------------------------------------------------------------------------------------

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


# --- sources --------------------------------------------------------------------------------------

BLOCK_BYTES = 1 << 20
LONGEST_LINE = 1 << 16
HEAD_BYTES = 4 * LONGEST_LINE
MOST_PACKED = 200
"""A file that packs better than this is none of numbers: those pack to a third or a tenth."""
SMALL_BYTES = 10 << 20

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_QUARTER = re.compile(r"_Q([1-4])_(\d{4})(?!\d)", re.IGNORECASE)
_HISTORY = re.compile(r"Kraken_(?:Trading_History|OHLCVT)(?: ?\(\d+\))?(?:\.zip)?", re.IGNORECASE)
_NAMES_LOOKED_AT = 2
_REFUSALS: tuple[type[Exception], ...] = (
    *REFUSALS,
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
)


class KnownComplete(NamedTuple):
    """From which second on, and up to before which, a file holds all trades; None: not known."""

    since_s: int | None = None
    until_s: int | None = None


UNKNOWN = KnownComplete()


class Member(NamedTuple):
    """One CSV: a file of its own, or a member of a ZIP.

    Attributes:
        path: of the file, or of the ZIP.
        inner: the member's name in the ZIP; empty for a file of its own.
        size: bytes, unpacked.
        crc: of these bytes, as the ZIP tells; None for a file of its own.
        whole: which time it is known to hold whole.
    """

    path: Path
    inner: str
    size: int
    crc: int | None
    whole: KnownComplete

    def __str__(self) -> str:
        """The name by which people know it: `Kraken.zip:folder/XBTUSD.csv`."""
        if self.inner:
            return f"{self.path.name}:{self.inner}"
        folder = self.path.absolute().parent.name
        # The same name stands in each quarter's folder.
        return f"{folder}/{self.path.name}" if _QUARTER.search(folder) else self.path.name

    @property
    def stem(self) -> str:
        """What a pair is called in the file's name."""
        return PurePosixPath(self.inner or self.path.name).stem


def find(files: Iterable[str], whole: KnownComplete = UNKNOWN) -> list[Member]:
    """The CSVs in some files, ZIPs and folders, in order; only directories of ZIPs are read.

    Args:
        files: as typed.
        whole: what is known of each of them; else the name of its ZIP or folder says it.

    Raises:
        BadFile: one is not there, or is none of these, or a ZIP is not to be trusted.
    """
    found: list[Member] = []
    for text in files:
        path = Path(text)
        if path.is_dir():
            inside = [
                one
                for one in sorted(path.rglob("*"))
                if one.is_file() and not _is_hidden(one.relative_to(path))
            ]
            kept = [one for one in inside if one.suffix.lower() in (".csv", ".zip")]
            if not kept:
                raise BadFile(f"{text} holds neither a CSV nor a ZIP: give another folder")
            for one in kept:
                found += _members(one, whole)
        else:
            found += _members(path, whole)
    return found


def _members(path: Path, whole: KnownComplete) -> list[Member]:
    try:
        if path.exists() and not path.is_file():
            raise BadFile(f"{path} is no regular file: give a CSV, a ZIP or a folder")
        if path.suffix.lower() == ".csv":
            folders = path.absolute().parts[:-1]
            return [Member(path, "", path.stat().st_size, None, _known(folders, whole))]
        if not path.exists():
            raise FileNotFoundError(2, "there is no such file")
        if not zipfile.is_zipfile(path):
            raise BadFile(f"{path} is no ZIP, no CSV and no folder: give files of Kraken's")
        with zipfile.ZipFile(path) as archive:
            return _checked(path, archive.infolist(), whole)
    except _REFUSALS as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadFile(f"{path} can't be read: {reason or error}") from error


def _known(names: Sequence[str], whole: KnownComplete) -> KnownComplete:
    """What time a file holds whole: as said, else by the name that the exchange gives it.

    Args:
        names: of the ZIP and of the folders that it lies in, the nearest one last: two are looked
            at, as Kraken's ZIPs have one folder inside.
        whole: what was said.
    """
    since, until = whole
    for name in reversed(names[-_NAMES_LOOKED_AT:]):
        if quarter := _QUARTER.search(name):
            number, year = int(quarter[1]), int(quarter[2])
            begins = (year, 3 * number - 2)
            ends = (year + number // 4, (3 * number) % 12 + 1)
            since = _month(*begins) if since is None else since
            until = _month(*ends) if until is None else until
            break
        if _HISTORY.fullmatch(name):
            since = 0 if since is None else since
            break
    return KnownComplete(since, until)


def _month(year: int, month: int) -> int:
    return parse_moment(f"{year:04d}-{month:02d}-01", 0) // SECOND


def _checked(path: Path, entries: list[zipfile.ZipInfo], whole: KnownComplete) -> list[Member]:
    """The CSVs of a ZIP.

    Raises:
        BadFile: an entry is such as no honest archive holds.
    """
    seen: set[str] = set()
    for entry in entries:
        if reason := _fault(entry, seen):
            raise BadFile(f"{path}: its member {entry.filename!r} {reason}: nothing of it was read")
        seen.add(entry.filename)
    _check_places(path, entries)
    return [
        Member(
            path,
            entry.filename,
            entry.file_size,
            entry.CRC,
            _known([path.name, *PurePosixPath(entry.filename).parts[:-1]], whole),
        )
        for entry in entries
        if _is_csv(entry)
    ]


def _is_csv(entry: zipfile.ZipInfo) -> bool:
    """Whether a member is a CSV; what systems put beside files is none."""
    place = PurePosixPath(entry.filename)
    return not entry.is_dir() and place.suffix.lower() == ".csv" and not _is_hidden(place)


def _is_hidden(place: PurePath) -> bool:
    """Whether a file is one that systems put beside others, such as `._XBTUSD.csv`."""
    return place.name.startswith(".") or "__MACOSX" in place.parts


def _fault(entry: zipfile.ZipInfo, seen: set[str]) -> str | None:
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
        return "is packed in a way that is not read; pack it anew by deflate, as Kraken does"
    if entry.file_size > max(SMALL_BYTES, MOST_PACKED * entry.compress_size):
        return f"says that it unpacks to more than {MOST_PACKED} times its size"
    return None


def _check_places(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Members that share bytes unpack to more than any file could hold."""
    end = 0
    for entry in sorted(entries, key=lambda one: one.header_offset):
        if entry.header_offset < end:
            raise BadFile(f"{path}: its member {entry.filename!r} shares bytes with another one")
        end = entry.header_offset + entry.compress_size
    if end > path.stat().st_size:
        raise BadFile(f"{path} is shorter than its directory says: it was not downloaded whole")


def pieces(member: Member) -> Iterator[bytes]:
    """A member's bytes as a stream, unpacked on the way; never more of them than it says to hold.

    Raises:
        DamagedFile: what can't be read.
    """
    size = 0
    try:
        inner = member.inner
        for piece in unpacked(member.path, inner) if inner else _read(member.path):
            size += len(piece)
            if size > member.size:
                raise DamagedFile(f"{member} is damaged: it holds more than {member.size:,} bytes")
            yield piece
    except _REFUSALS as error:
        raise DamagedFile(f"{member} can't be read: {error}") from error


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(BLOCK_BYTES):
            yield data


def checksum(member: Member) -> str:
    """The CRC-32 of a member's bytes: as its ZIP tells, or of the file as it is now."""
    crc = member.crc
    if crc is None:
        crc = 0
        for piece in pieces(member):
            crc = crc32(piece, crc)
    return _told(crc)


def _told(crc: int) -> str:
    return f"crc32:{crc:08x}"


def check(member: Member) -> None:
    """Hold a ZIP's member against the checksum that its ZIP tells, whatever it holds.

    Raises:
        DamagedFile: its bytes are others.
    """
    crc = size = 0
    for piece in pieces(member):
        crc, size = crc32(piece, crc), size + len(piece)
    if member.crc is not None and (crc, size) != (member.crc, member.size):
        raise DamagedFile(f"{member} is damaged: its bytes are not those of its checksum")


def head(member: Member) -> bytes:
    """The first lines of a member, some hundred kilobytes."""
    data = b""
    for piece in pieces(member):
        data += piece
        if len(data) >= HEAD_BYTES:
            break
    lines, end, _ = data[:HEAD_BYTES].rpartition(b"\n")
    return lines + end or data + b"\n"


def blocks(member: Member, expected: str | None) -> Iterator[bytes]:
    """A member's lines in blocks, each ended; the last is given once the whole was read and held.

    Args:
        member: to be read.
        expected: its checksum; None where it is read only once. A ZIP's member is held against its
            own in any case.

    Raises:
        DamagedFile: its bytes are not those that the checksum was made of.
        BadFile: a line is too long to be a trade or a candle.
    """
    crc = size = 0
    rest = b""
    for data in pieces(member):
        size += len(data)
        crc = crc32(data, crc)
        end = data.rfind(b"\n") + 1
        if not end:
            rest += data
        else:
            yield b"".join((rest, data[:end]))
            rest = data[end:]
        if len(rest) > LONGEST_LINE:
            raise BadFile(f"{member} holds a line of more than {LONGEST_LINE:,} bytes")
    known = expected if expected or member.crc is None else _told(member.crc)
    if size != member.size or known not in (None, _told(crc)):
        raise DamagedFile(f"{member} is damaged: its bytes are not those of its checksum")
    if rest:
        yield rest + b"\n"


# --- ahead ----------------------------------------------------------------------------------------

T = TypeVar("T")

DEPTH = 4
"""Blocks that are read while earlier ones are written."""


class _End(NamedTuple):
    error: BaseException | None = None


def ahead(items: Iterator[T], depth: int = DEPTH) -> Generator[T, None, None]:
    """The same items, made by a thread of their own, up to `depth` of them ahead."""
    made: queue.Queue[T | _End] = queue.Queue(depth)
    gone = threading.Event()

    def hand_on(item: T | _End) -> None:
        while not gone.is_set():
            with suppress(queue.Full):
                made.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                hand_on(item)
                if gone.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised anew where items are taken
            hand_on(_End(error))
        else:
            hand_on(_End())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while not isinstance(item := made.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        gone.set()
        thread.join()
