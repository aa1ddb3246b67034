"""Files of an archive on a local disk: atomic writes, listings, quarantine, case of names."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
from pyarrow import fs

from harvester.errors import BAD_JSON, ArchiveDamaged, ArchiveError, ArchiveUnwritable
from harvester.times import SECOND, Range, show

# --- store ----------------------------------------------------------------------------------------

# Reading goes through a `pyarrow.fs` filesystem, so an object store differs in `commit` alone:
# there a put-if-absent is atomic, here a rename is.


class Entry(NamedTuple):
    """A file that stands in the store."""

    path: str
    size: int
    changed_ns: int = 0
    """When it was last written, by the store's own clock: two files of one name differ in it."""


class Store(Protocol):
    """What the archive asks of a place to keep files in."""

    filesystem: fs.FileSystem

    def location(self, path: str) -> str:
        """The name that any Parquet reader opens this file by."""

    def files(
        self, folder: str, *, refuse_links: bool = False, but: str | None = None
    ) -> list[Entry]:
        """All files below a folder, none where it is absent.

        With `refuse_links` a symbolic link that leads to no file raises ArchiveDamaged; else it is
        listed as a file. Folders whose path begins with `but` are passed over.
        """

    def folders(self, folder: str) -> list[str]:
        """The names of the folders right below a folder.

        Those of symbolic links that lead to no file are among them.
        """

    def read(self, path: str) -> bytes | None:
        """A small file's content, None where it is absent."""

    def write(self, path: str, data: bytes, staging: str) -> None:
        """Replace a small file whole, by way of the folder `staging`."""

    def stage(self, folder: str) -> str:
        """A new name in a staging folder, to be written and then committed."""

    def commit(self, staged: str, path: str) -> None:
        """Make a staged file stand at its place: all at once, and for good."""

    def move(self, path: str, to: str) -> None:
        """Give a file another place, where none stands yet: all at once, and for good."""

    def copy(self, path: str, to: str, staging: str) -> None:
        """Put the bytes of a file of any size elsewhere, by way of the folder `staging`."""

    def same(self, path: str, other: str) -> bool:
        """Whether two files stand there, and hold the same bytes."""

    def remove(self, path: str) -> None:
        """Take a file away; one that is gone already is no fault."""

    def remove_folder(self, folder: str) -> None:
        """Take a folder and all below it away."""


class LocalStore:
    """A folder on this machine."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Nothing is made before the first write."""
        self.root = Path(root).absolute()
        self._root = str(self.root)
        self.filesystem: fs.FileSystem = fs.LocalFileSystem()

    def location(self, path: str) -> str:
        """An absolute path."""
        return f"{self._root}/{path}" if path else self._root

    def files(
        self, folder: str, *, refuse_links: bool = False, but: str | None = None
    ) -> list[Entry]:
        """All files below a folder."""
        entries: list[Entry] = []
        if refuse_links and (self.root / folder).is_symlink():
            raise _linked(self.location(folder))
        # A file may go between being named and being looked at: a writer compacts meanwhile.
        pending = [folder]
        while pending:
            here = pending.pop()
            try:
                with reading(self.location(here)), os.scandir(self.location(here)) as found:
                    for one in found:
                        path = f"{here}/{one.name}"
                        is_folder = one.is_dir(follow_symlinks=False)
                        is_link = _is_folder_link(one)
                        if but is not None and path.startswith(but) and (is_folder or is_link):
                            continue
                        if is_folder:
                            pending.append(path)
                        elif refuse_links and is_link:
                            raise _linked(self.location(path))
                        elif (facts := _facts(one)) is not None:
                            entries.append(Entry(path, facts.st_size, facts.st_mtime_ns))
            except (FileNotFoundError, NotADirectoryError):
                continue
        return sorted(entries)

    def folders(self, folder: str) -> list[str]:
        """The names of the folders right below a folder."""
        try:
            with reading(self.location(folder)), os.scandir(self.root / folder) as found:
                return sorted(
                    one.name
                    for one in found
                    if one.is_dir(follow_symlinks=False) or _is_folder_link(one)
                )
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, path: str) -> bytes | None:
        """A small file's content."""
        try:
            with reading(self.location(path)):
                return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, data: bytes, staging: str) -> None:
        """Replace a small file whole."""
        staged = self.stage(staging)
        with writing(self.location(path)):
            (self.root / staged).write_bytes(data)
        self.commit(staged, path)

    def stage(self, folder: str) -> str:
        """A new name in a staging folder."""
        name = f"staging/{folder}/{uuid.uuid4().hex}.tmp"
        with writing(self.location(name)):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        return name

    def commit(self, staged: str, path: str) -> None:
        """Sync the file, rename it into place, sync the folder."""
        target = self.root / path
        with writing(str(target)):
            sync(self.root / staged)
            _make_folder(target.parent)
            (self.root / staged).replace(target)
            sync(target.parent)

    def move(self, path: str, to: str) -> None:
        """Rename a file, and sync both folders: the one where it is found from now on first."""
        source, target = self.root / path, self.root / to
        with writing(str(target)):
            _make_folder(target.parent)
            if target.exists():
                raise FileExistsError(errno.EEXIST, "another file stands there")
            source.replace(target)
            sync(target.parent)
            sync(source.parent)

    def copy(self, path: str, to: str, staging: str) -> None:
        """Put the bytes of a file of any size elsewhere."""
        staged = self.stage(staging)
        with writing(self.location(to)):
            shutil.copyfile(self.root / path, self.root / staged)
        self.commit(staged, to)

    def same(self, path: str, other: str) -> bool:
        """Whether two files stand there, and hold the same bytes."""
        try:
            return filecmp.cmp(self.root / path, self.root / other, shallow=False)
        except FileNotFoundError:
            return False

    def remove(self, path: str) -> None:
        """Take a file away."""
        with writing(self.location(path)):
            (self.root / path).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        """Take a folder and all below it away."""
        with writing(self.location(folder)):
            try:
                shutil.rmtree(self.root / folder)
            except FileNotFoundError:
                return


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn the machine's refusals to read into ours; that nothing is there is no refusal.

    Raises:
        ArchiveError: a permission is missing, or the like.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        denied = error.errno in (errno.EACCES, errno.EPERM)
        what = "no permission to read there: change its owner" if denied else error.strerror
        raise ArchiveError(f"can't read {path}: {what or error}") from error


@contextmanager
def writing(path: str, place: str = "--data") -> Iterator[None]:
    """Turn the machine's refusals to write into ours, with the place and the reason.

    `place` is what may be chosen otherwise where a permission is missing.

    Raises:
        ArchiveUnwritable: the disk is full, a permission is missing, or the like.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "the disk is full: make room, then run the same command again"
        elif error.errno == errno.EXDEV:
            what = (
                "it lies on another disk than the archive's staging/, and a file is renamed from "
                "there into its place: keep the whole archive on one disk"
            )
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            what = f"no permission to write there: choose another {place} or change its owner"
        else:
            what = error.strerror or str(error)
        raise ArchiveUnwritable(f"can't write {path}: {what}") from error


def _is_folder_link(entry: os.DirEntry[str]) -> bool:
    """Whether this is a symbolic link that leads to no file: to a folder, nowhere or in a loop."""
    try:
        return entry.is_symlink() and not entry.is_file()
    except OSError:
        return True


def _linked(location: str) -> ArchiveDamaged:
    return ArchiveDamaged(
        f"{location} is a symbolic link and leads to no file: some readers follow a linked folder, "
        "others pass it over, so none is taken; move the folder itself here, or the whole archive "
        "to the other disk"
    )


def _facts(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each made to last by a sync of its parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """See that a file's bytes, or a folder's names, outlast a loss of power.

    Raises:
        OSError: the machine refused.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- case -----------------------------------------------------------------------------------------

# There the folder of one is the folder of the other, so the second one is refused.

_BESIDE = (("trades", "pair=", ""), ("wanted", "", ".json"), ("locks", "", ".lock"))
"""Where a pair leaves its name: the folder, and what stands before and behind the name there."""


def check_case(root: Path, pair: str) -> None:
    """Refuse to write a pair that would share its folder with another one.

    Raises:
        ArchiveUnwritable: the disk ignores case, and a pair is there whose name differs by case.
    """
    with writing(str(root)):
        for folder, before, behind in _BESIDE:
            mine = f"{before}{pair}{behind}"
            for entry in _entries(root / folder):
                is_other = entry != mine and entry.lower() == mine.lower()
                if is_other and ignores_case(root / folder / entry):
                    other = entry.removeprefix(before).removesuffix(behind)
                    raise ArchiveUnwritable(
                        f"{pair} can't be kept beside {other} in {root}: the disk ignores case, so "
                        "both would share one folder. Choose another folder for one of them"
                    )


def ignores_case(path: Path) -> bool:
    """Whether the disk finds a file or folder by another case of its name, too."""
    try:
        return path.samefile(path.with_name(path.name.swapcase()))
    except FileNotFoundError:
        return False


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


# --- quarantine -----------------------------------------------------------------------------------

NOTE = "note.json"


def _now() -> str:
    return show(time.time_ns() // SECOND * SECOND)


class QuarantineNote(msgspec.Struct):
    """Why a file was set aside, as it stands beside it in JSON.

    Attributes:
        pair: altname.
        path: where the file stood within the archive; moving it back there undoes all.
        range: `after` and `through` by its name, in nanoseconds.
        faults: what is wrong with it, one text each.
        wanted: the ranges that were put on record to be fetched in its stead.
        when: by this machine's clock.
    """

    pair: str
    path: str
    range: Range
    faults: list[str]
    wanted: list[Range] = []
    when: str = msgspec.field(default_factory=_now)


def set_aside(store: Store, note: QuarantineNote) -> str:
    """Move a file into quarantine; its note is there before it is. Returns where it is now.

    Raises:
        ArchiveUnwritable: the machine refused; the file is where it was.
    """
    to = _prepared(store, note)
    store.move(note.path, to)
    return to


def keep_copy(store: Store, note: QuarantineNote) -> str:
    """Put the bytes of a small file into quarantine, with a note; returns where they are."""
    to = _prepared(store, note)
    store.write(to, store.read(note.path) or b"", note.pair)
    return to


def keep_segment(store: Store, note: QuarantineNote) -> str:
    """Put a copy of a file into quarantine, however large; one that is there already will do.

    Returns where it is.
    """
    name, above = note.path.rpartition("/")[2], f"quarantine/{note.pair}"
    for folder in store.folders(above):
        to = f"{above}/{folder}/{name}"
        if _path_noted(store, f"{above}/{folder}/{NOTE}") == note.path and store.same(
            note.path, to
        ):
            return to
    to = _prepared(store, note)
    store.copy(note.path, to, note.pair)
    return to


def _prepared(store: Store, note: QuarantineNote) -> str:
    """Where a file is to go, its note written there."""
    folder = _free_folder(store, note)
    data = msgspec.json.format(msgspec.json.encode(note), indent=2) + b"\n"
    store.write(f"{folder}/{NOTE}", data, note.pair)
    return f"{folder}/{note.path.rpartition('/')[2]}"


def _free_folder(store: Store, note: QuarantineNote) -> str:
    """The next number; or one that waits for this very file, since a crash came in between."""
    above = f"quarantine/{note.pair}"
    numbers = [name for name in store.folders(above) if name.isdecimal()]
    for name in numbers:
        standing = [entry.path for entry in store.files(f"{above}/{name}")]
        if not standing or (
            standing == [f"{above}/{name}/{NOTE}"] and _path_noted(store, standing[0]) == note.path
        ):
            return f"{above}/{name}"
    return f"{above}/{max(map(int, numbers), default=0) + 1:04d}"


def _path_noted(store: Store, path: str) -> str:
    try:
        return msgspec.json.decode(store.read(path) or b"", type=QuarantineNote).path
    except BAD_JSON:
        return ""
