"""File system of an archive: listings, atomic and durable writes, errors of the system."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os.path import samestat
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow import fs

from harvester.errors import ArchiveDamaged, ArchiveError, ArchiveUnwritable

# Arrow reads through `filesystem`, so an archive in an object store differs in its listings only.


class Entry(NamedTuple):
    """A file as a listing of the store shows it."""

    path: str
    size: int
    changed_ns: int = 0
    """When it was last written, by the store's clock: distinguishes two files of one name."""


MAX_LISTINGS = 20
"""A folder that changes while it is listed is listed again, up to this many times in all."""


class LocalStore:
    """The files of an archive, in a folder of this machine. Paths are relative to that folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Open a folder; it is not created before the first write."""
        self.root = Path(root).absolute()
        self._folder: os.stat_result | None = None
        """The folder itself: another one of this name, as where a disk is gone, is not written."""
        with suppress(OSError, ValueError):
            self._folder = self.root.stat() if self.root.is_dir() else None
        self.filesystem: Any = fs.LocalFileSystem()

    duckdb_files: Any = None
    """The fsspec file system to register with DuckDB; None if DuckDB reads the files itself."""

    def location(self, path: str) -> str:
        """The absolute path of a file, as any Parquet reader opens it."""
        return f"{self.root}/{path}" if path else str(self.root)

    def files(
        self, folder: str, *, refuse_links: bool = False, excluding: str | None = None
    ) -> list[Entry]:
        """List all files below a folder; none where the folder is absent.

        Args:
            folder: path within the store.
            refuse_links: a symbolic link that leads to no file raises ArchiveDamaged; otherwise it
                is listed as a file.
            excluding: leave out folders whose path begins with this.
        """
        entries: list[Entry] = []
        if refuse_links and (self.root / folder).is_symlink():
            raise _linked(self.location(folder))
        pending = [folder]
        while pending:
            current = pending.pop()
            with reading(self.location(current)):
                for item in self._scan(current):
                    path = f"{current}/{item.name}"
                    is_folder, is_link = item.is_dir(follow_symlinks=False), _is_folder_link(item)
                    if (
                        excluding is not None
                        and path.startswith(excluding)
                        and (is_folder or is_link)
                    ):
                        continue
                    if is_folder:
                        pending.append(path)
                    elif refuse_links and is_link:
                        raise _linked(self.location(path))
                    else:
                        stat = item.stat(follow_symlinks=False)
                        entries.append(Entry(path, stat.st_size, stat.st_mtime_ns))
        return sorted(entries)

    def folders(self, folder: str) -> list[str]:
        """List the names of the folders directly below a folder.

        Symbolic links that lead to no file count as folders.
        """
        return sorted(
            item.name
            for item in self._scan(folder)
            if item.is_dir(follow_symlinks=False) or _is_folder_link(item)
        )

    def _scan(self, folder: str) -> list[os.DirEntry[str]]:
        """What a folder contains, files with their `stat`; listed again if it changes meanwhile.

        A writer may merge files: a listing that has neither these nor the one that they became
        would show a gap where there is none.

        Raises:
            ArchiveDamaged: a name is not UTF-8. DuckDB can't read such a file, either.
        """
        path = self.root / folder
        with suppress(FileNotFoundError, NotADirectoryError), reading(str(path)):
            for _ in range(MAX_LISTINGS):
                found, is_complete, changed_ns = [], True, path.stat().st_mtime_ns
                with os.scandir(path) as items:
                    for item in items:
                        try:
                            if not item.is_dir(follow_symlinks=False):
                                item.stat(follow_symlinks=False)
                            found.append(item)
                        except FileNotFoundError:
                            is_complete = False
                if is_complete and path.stat().st_mtime_ns == changed_ns:
                    break
            for name in (item.name for item in found):
                if name != name.encode(errors="replace").decode():
                    raise ArchiveDamaged(
                        f"{path} contains {os.fsencode(name)!r}, a name that is not UTF-8 and not "
                        "harvester's: move it out of the archive"
                    )
            return found
        return []

    def read(self, path: str) -> bytes | None:
        """Read a small file; None where it is absent."""
        try:
            with reading(self.location(path)):
                return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, data: bytes, staging: str) -> None:
        """Replace a small file atomically.

        Args:
            path: within the store.
            data: its new content.
            staging: the staging folder that it is written in first.
        """
        staged = self.stage(staging)
        with writing(self.location(path)):
            (self.root / staged).write_bytes(data)
        self.commit(staged, path)

    def write_locked(self, path: str, data: bytes, staging: str) -> None:
        """Replace a small file atomically, while a lock keeps others out of the staging folder.

        The folder is removed afterwards, and before, with what a killed run left in it.
        """
        self.remove_folder(f"staging/{staging}")
        self.write(path, data, staging)
        self.remove_folder(f"staging/{staging}")

    def stage(self, folder: str) -> str:
        """Return a new path in a staging folder, to be written and committed; make the folder.

        Raises:
            ArchiveUnwritable: the archive's folder is gone, or is another one, or can't be written.
        """
        name = f"staging/{folder}/{uuid.uuid4().hex}.tmp"
        with writing(self.location(name)):
            is_there = self.root.is_dir()
            if self._folder and not (is_there and samestat(self.root.stat(), self._folder)):
                raise FileNotFoundError(errno.ENOENT, "the archive's folder vanished meanwhile")
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            self._folder = self._folder or self.root.stat()
        return name

    def commit(self, staged: str, path: str) -> None:
        """Sync a staged file, rename it into place, sync the folder: atomic and durable.

        Args:
            staged: as `stage` returned it.
            path: within the store; a file there is replaced.
        """
        target = self.root / path
        with writing(str(target)):
            sync_to_disk(self.root / staged)
            _make_folder(target.parent)
            (self.root / staged).replace(target)
            sync_to_disk(target.parent)

    def move(self, path: str, to: str) -> None:
        """Rename a file and sync both folders, the new one first: atomic and durable.

        Args:
            path: within the store.
            to: where no file is yet.
        """
        source, target = self.root / path, self.root / to
        with writing(str(target)):
            _make_folder(target.parent)
            if target.exists():
                raise FileExistsError(errno.EEXIST, "another file is there")
            source.replace(target)
            sync_to_disk(target.parent)
            sync_to_disk(source.parent)

    def copy(self, path: str, to: str, staging: str) -> None:
        """Copy a file of any size.

        Args:
            path: within the store.
            to: a file there is replaced.
            staging: the staging folder that the copy is written in first.
        """
        staged = self.stage(staging)
        with writing(self.location(to)):
            shutil.copyfile(self.root / path, self.root / staged)
        self.commit(staged, to)

    def same(self, path: str, other: str) -> bool:
        """Whether both files exist and have the same bytes."""
        try:
            return filecmp.cmp(self.root / path, self.root / other, shallow=False)
        except FileNotFoundError:
            return False

    def remove(self, path: str) -> None:
        """Delete a file; it is no error if it is gone already."""
        with writing(self.location(path)):
            (self.root / path).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        """Delete a folder and everything below it."""
        with writing(self.location(folder)), suppress(FileNotFoundError):
            shutil.rmtree(self.root / folder)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn read errors of the operating system into ArchiveError; "not found" passes unchanged.

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
    """Turn write errors of the operating system into ArchiveUnwritable, with path and reason.

    Args:
        path: what is written, for the message.
        place: the option or argument that the message says to change if a permission is missing.

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
                "it is on another disk than the archive's staging/, and files are renamed from "
                "there: keep the whole archive on one disk"
            )
        elif error.errno == errno.EROFS:
            what = f"the disk is mounted read-only: choose another {place}"
        elif error.errno in (errno.EACCES, errno.EPERM):
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
        f"{location} is a symbolic link and leads to no file: some readers follow linked folders, "
        "others ignore them, so harvester refuses them; move the folder itself here, or the whole "
        "archive to the other disk"
    )


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, each made durable by a sync of its own parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_to_disk(folder.parent)


def sync_to_disk(path: Path) -> None:
    """Flush a file's bytes, or a folder's names, to the disk (fsync).

    Raises:
        OSError: the operating system refused.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
