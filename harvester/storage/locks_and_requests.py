"""Locks of pairs, records of requested ranges, and other small files: format, pairs, quarantine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from harvester.config import read_small_file
from harvester.errors import (
    BAD_JSON,
    ArchiveDamaged,
    ArchiveLocked,
    ArchiveTooNew,
    ArchiveUnwritable,
)
from harvester.schema import FORMAT
from harvester.storage.filesystem import LocalStore, writing
from harvester.times import END_OF_TIME, Range, now_text, union

# --- format version, requested ranges, list of pairs ----------------------------------------------

MADE_BY = "harvester"


class _FormatFile(msgspec.Struct):
    """The content of `archive.json`."""

    format: int
    made_by: str = ""


class _RequestsFile(msgspec.Struct, omit_defaults=True):
    """The content of `wanted/PAIR.json`; see `Requests`."""

    pair: str
    spans: list[tuple[int, int]]
    unlisted: bool = False
    counts_through: int = 0
    rows_through: int = 0


class Requests(NamedTuple):
    """What was requested of a pair.

    Attributes:
        ranges: all that was ever requested, merged.
        is_unlisted: the exchange did not list the pair when last asked. Only what was requested up
            to the latest of coverage end, `counts_through` and `rows_through` can then be a gap.
        counts_through: the latest time that was ever covered (ns).
        rows_through: the latest time of a row in an imported file, readable or not (ns).
    """

    ranges: list[Range]
    is_unlisted: bool = False
    counts_through: int = 0
    rows_through: int = 0


def check_format(store: LocalStore) -> None:
    """Check the format version in `archive.json`; an archive without that file is new.

    Raises:
        ArchiveTooNew: a newer harvester made the archive.
        ArchiveDamaged: the file can't be read.
    """
    raw = store.read("archive.json")
    if raw is None:
        return
    try:
        found = msgspec.json.decode(raw, type=_FormatFile)
    except BAD_JSON as error:
        raise ArchiveDamaged(
            f"{store.location('archive.json')} can't be read ({error}): if the segments are "
            "sound, remove it; the next run writes it again"
        ) from error
    if found.format > FORMAT:
        raise ArchiveTooNew(
            f"the archive at {store.location('')} has format {found.format}, this harvester reads "
            f"up to {FORMAT}: install a newer one"
        )


def is_archive(folder: Path) -> bool:
    """Whether a folder is an archive: its `archive.json` was written by harvester."""
    try:
        raw = (folder / "archive.json").read_bytes()
        return msgspec.json.decode(raw, type=_FormatFile).made_by == MADE_BY
    except (OSError, *BAD_JSON):
        return False


def write_format_file(store: LocalStore, staging: str) -> None:
    """Write `archive.json` with the format version, before anything else is written.

    Args:
        store: the archive's files.
        staging: the staging folder of the lock that is held; other writers may do the same now.
    """
    if store.read("archive.json") is None:
        write_json(store, "archive.json", _FormatFile(FORMAT, MADE_BY), staging)


def read_requests(store: LocalStore, pair: str) -> Requests:
    """Read what was requested of a pair; nothing where there is no file.

    If there are segments and no file, the file was lost: see `TradeStore.requested`.

    Args:
        store: the archive's files.
        pair: altname.

    Raises:
        ArchiveDamaged: the file can't be read, or contains what harvester never writes.
    """
    raw = store.read(f"wanted/{pair}.json")
    if raw is None:
        return Requests([])
    try:
        found = msgspec.json.decode(raw, type=_RequestsFile)
        # A file may have been edited by hand, or copied from another pair.
        if found.pair != pair:
            raise msgspec.ValidationError(f"it is of pair {found.pair!r}, its name says {pair!r}")
        for after, through in found.spans:
            if not 0 <= after < through <= END_OF_TIME:
                why = "its start is below 0" if after < 0 else "it ends after the last nanosecond"
                why = why if through > after else "its end is not after its start"
                text = f"the range [{after}, {through}] is impossible: {why}"
                raise msgspec.ValidationError(text)
    except BAD_JSON as error:
        raise ArchiveDamaged(
            f"{store.location(f'wanted/{pair}.json')} can't be read ({error}): `harvester verify "
            f"{pair} --repair` writes it again, as does the next run once it is removed: then "
            "everything from the first segment to the last counts as requested"
        ) from error
    ranges = union(Range(*bounds) for bounds in found.spans)
    return Requests(ranges, found.unlisted, found.counts_through, found.rows_through)


def write_requests(store: LocalStore, pair: str, known: Requests) -> None:
    """Replace the record of requested ranges.

    Args:
        store: the archive's files.
        pair: altname; its lock is held.
        known: all that was requested.
    """
    write_format_file(store, pair)
    bounds = [(requested.after, requested.through) for requested in union(known.ranges)]
    content = _RequestsFile(
        pair, bounds, known.is_unlisted, known.counts_through, known.rows_through
    )
    write_json(store, f"wanted/{pair}.json", content, pair)


def store_pairs(store: LocalStore, data: bytes) -> None:
    """Store the list of pairs, by which names are resolved, as `pairs.json`.

    Args:
        store: the archive's files.
        data: the list as JSON.

    Raises:
        ArchiveLocked: another run was storing its list for ten seconds.
        ArchiveUnwritable: the operating system refused.
    """
    with locked(store.root / "locks", "_pairs", wait_s=10.0):
        store.remove_folder("staging/_pairs")
        write_format_file(store, "_pairs")
        store.write("pairs.json", msgspec.json.format(data) + b"\n", "_pairs")
        store.remove_folder("staging/_pairs")


def write_json(store: LocalStore, path: str, value: msgspec.Struct, staging: str) -> None:
    """Write a file of JSON, indented.

    Args:
        store: the archive's files.
        path: the file within the archive.
        value: its content.
        staging: the folder in staging where it is written first.
    """
    data = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    store.write(path, data, staging)


# --- names that differ by case --------------------------------------------------------------------

# Two pairs whose names differ by case only would share one folder on a disk that ignores case, so
# the second one is refused there.

_PAIR_NAMES = (("trades", "pair=", ""), ("wanted", "", ".json"), ("locks", "", ".lock"))
"""Where names of pairs are on disk: the folder, and the prefix and suffix of the name there."""


def check_case(root: Path, pair: str) -> None:
    """Refuse to write a pair that would share its folder with another pair.

    Args:
        root: the archive's folder.
        pair: altname.

    Raises:
        ArchiveUnwritable: the disk ignores case, and has a pair whose name differs by case only.
    """
    with writing(str(root)):
        for folder, prefix, suffix in _PAIR_NAMES:
            own = f"{prefix}{pair}{suffix}"
            for path in (root / folder).glob(f"{prefix}*{suffix}"):
                is_other = path.name != own and path.name.lower() == own.lower()
                if is_other and ignores_case(path):
                    other = path.name.removeprefix(prefix).removesuffix(suffix)
                    raise ArchiveUnwritable(
                        f"{pair} can't be stored next to {other} in {root}: the disk ignores case, "
                        "so both would share one folder. Choose another folder for one of them"
                    )


def ignores_case(path: Path) -> bool:
    """Whether the disk also finds a file or folder under its name in another case."""
    try:
        return path.samefile(path.with_name(path.name.swapcase()))
    except FileNotFoundError:
        return False


# --- locks ----------------------------------------------------------------------------------------


class Holder(msgspec.Struct):
    """The process that holds a lock, as its note says."""

    pid: int
    host: str
    since: str
    command: str = ""


@contextmanager
def locked(
    folder: Path, name: str, *, wait_s: float = 0.0, doing: str = "", command: str = ""
) -> Iterator[None]:
    """Hold the lock `name` while the block runs.

    The operating system releases it when the process ends, however it ends. A note next to the
    lock file says who holds it, for messages.

    Args:
        folder: where locks are kept.
        name: of the lock, such as a pair's altname.
        wait_s: how many seconds to wait for another holder.
        doing: what a holder does, for the message; by default, that `name` is being written.
        command: what this run is, for the messages of others; empty if it ends by itself.

    Raises:
        ArchiveLocked: another run holds it; the message says who, and since when.
        ArchiveUnwritable: the folder can't be written.
    """
    # It loads asyncio, which commands that only read have no use for: a fifteenth of their time.
    import filelock  # noqa: PLC0415

    note = folder / f"{name}.json"
    path = folder / f"{name}.lock"
    lock = filelock.FileLock(path, timeout=wait_s)
    with writing(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        # Older versions of filelock truncate the file that a link leads to.
        if path.is_symlink():
            raise ArchiveUnwritable(
                f"{path} is a symbolic link, but harvester's locks are files: remove it"
            )
        try:
            lock.acquire(poll_interval=0.02)
        except filelock.Timeout as error:
            raise ArchiveLocked(
                f"{doing or f'{name} is being written'} by another run ({_holder_text(note)}): "
                "wait until it is done, or stop it"
            ) from error
    try:
        with writing(str(note)):
            # A new file: a link of that name is never written through.
            note.unlink(missing_ok=True)
            note.touch(exist_ok=False)
            holder = Holder(os.getpid(), socket.gethostname(), now_text(), command)
            note.write_bytes(msgspec.json.encode(holder))
        try:
            yield
        finally:
            with writing(str(note)):
                note.unlink(missing_ok=True)
    finally:
        lock.release()


def _holder_text(note: Path) -> str:
    """Describe the holder of a lock for a message."""
    try:
        holder = msgspec.json.decode(read_small_file(str(note)), type=Holder)
    except (OSError, *BAD_JSON):
        return "its process is unknown"
    command = f"`harvester {holder.command}`, " if holder.command else ""
    return f"{command}process {holder.pid} on {holder.host}, since {holder.since}"


# --- quarantine -----------------------------------------------------------------------------------

NOTE = "note.json"


class QuarantineNote(msgspec.Struct):
    """Why a file was quarantined; stored next to it as JSON.

    Attributes:
        pair: altname.
        path: where the file was within the archive; moving it back there undoes the quarantine.
        range: `after` and `through` by its name, in nanoseconds.
        faults: what is wrong with it, one text each.
        wanted: the ranges that were recorded as requested, so that they are downloaded again.
        when: by this machine's clock.
    """

    pair: str
    path: str
    range: Range
    faults: list[str]
    wanted: list[Range] = []
    when: str = msgspec.field(default_factory=now_text)


def quarantine_file(store: LocalStore, note: QuarantineNote) -> str:
    """Move a file into quarantine and return its new path; the note is written first.

    Args:
        store: the archive's files.
        note: which file, and why.

    Raises:
        ArchiveUnwritable: the operating system refused; the file is where it was.
    """
    to = _prepare_folder(store, note)
    store.move(note.path, to)
    return to


def quarantine_copy(store: LocalStore, note: QuarantineNote, staged: str = "") -> str:
    """Copy a file of any size into quarantine, unless an equal copy is there; return its path.

    Args:
        store: the archive's files.
        note: which file, and why.
        staged: a staged file to be moved there instead of a copy of the file in the note.
    """
    name, parent = note.path.rpartition("/")[2], f"quarantine/{note.pair}"
    for folder in store.folders(parent):
        to = f"{parent}/{folder}/{name}"
        if _path_in_note(store, f"{parent}/{folder}/{NOTE}") == note.path and store.same(
            staged or note.path, to
        ):
            return to
    to = _prepare_folder(store, note)
    if staged:
        store.commit(staged, to)
    else:
        store.copy(note.path, to, note.pair)
    return to


def _prepare_folder(store: LocalStore, note: QuarantineNote) -> str:
    """Write the note into a quarantine folder, and return the path for the file.

    It is the folder of the next number, or one that a crash left without its file: such a folder is
    empty, or has only the note about this same file.
    """
    parent = f"quarantine/{note.pair}"
    numbers = [name for name in store.folders(parent) if name.isdecimal()]
    left = [number for number in numbers if _is_unused(store, f"{parent}/{number}", note.path)]
    number = left[0] if left else f"{max(map(int, numbers), default=0) + 1:04d}"
    write_json(store, f"{parent}/{number}/{NOTE}", note, note.pair)
    return f"{parent}/{number}/{note.path.rpartition('/')[2]}"


def _is_unused(store: LocalStore, folder: str, path: str) -> bool:
    files = [entry.path for entry in store.files(folder)]
    is_only_note = files == [f"{folder}/{NOTE}"]
    return not files or (is_only_note and _path_in_note(store, files[0]) == path)


def _path_in_note(store: LocalStore, path: str) -> str:
    """The path of the quarantined file by its note; empty where the note can't be read."""
    try:
        return msgspec.json.decode(store.read(path) or b"", type=QuarantineNote).path
    except BAD_JSON:
        return ""
