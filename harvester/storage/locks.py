"""Locks: one run at a time writes a pair, and a note says who holds the lock."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from harvester.config import read_small_file
from harvester.errors import (
    BAD_JSON,
    ArchiveLocked,
    ArchiveUnwritable,
)
from harvester.storage.filesystem import writing
from harvester.times import now_text


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
