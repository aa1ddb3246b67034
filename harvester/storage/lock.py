"""One writer per pair: a file lock that a crash releases, and that names its holder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import msgspec

from harvester.errors import BAD_JSON, ArchiveLocked, ArchiveUnwritable
from harvester.escaping import read_small_file
from harvester.storage.filesystem import writing
from harvester.times import SECOND, show

# --- locks ----------------------------------------------------------------------------------------


class Holder(msgspec.Struct):
    """Who holds a lock."""

    pid: int
    host: str
    since: str


@contextmanager
def held(folder: Path, name: str, *, wait_s: float = 0.0, doing: str = "") -> Iterator[None]:
    """Hold the lock `name` for as long as the block runs.

    The operating system releases it when the process ends, however it ends; the note beside it
    tells people who that was.

    Args:
        folder: where locks are.
        name: of the lock, such as a pair's altname.
        wait_s: how long to wait for whoever holds it.
        doing: what a holder does, for messages; without it, that `name` is being written.

    Raises:
        ArchiveLocked: another run holds it; the message says who, and since when.
        ArchiveUnwritable: the folder can't be written.
    """
    note = folder / f"{name}.json"
    path = folder / f"{name}.lock"
    lock = filelock.FileLock(path, timeout=wait_s)
    with writing(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        # Older versions of filelock empty what a link leads to.
        if path.is_symlink():
            raise ArchiveUnwritable(f"{path} is a link, and no lock of harvester's: remove it")
        try:
            lock.acquire(poll_interval=0.02)
        except filelock.Timeout as error:
            raise ArchiveLocked(
                f"{doing or f'{name} is being written'} by another run ({_holder(note)}): "
                "wait until it is done, or stop it"
            ) from error
    try:
        with writing(str(note)):
            _write_new(note, msgspec.json.encode(_myself()))
        try:
            yield
        finally:
            with writing(str(note)):
                note.unlink(missing_ok=True)
    finally:
        lock.release()


def _write_new(path: Path, data: bytes) -> None:
    """Write a file in place of what stands there, never through a link."""
    path.unlink(missing_ok=True)
    path.touch(exist_ok=False)
    path.write_bytes(data)


def _myself() -> Holder:
    now = show(time.time_ns() // SECOND * SECOND)
    return Holder(os.getpid(), socket.gethostname(), now)


def _holder(note: Path) -> str:
    try:
        holder = msgspec.json.decode(read_small_file(str(note)), type=Holder)
    except (OSError, *BAD_JSON):
        return "it has not said who it is"
    return f"process {holder.pid} on {holder.host}, since {holder.since}"
