"""What is broken is set aside, never deleted: each file in a folder of its own, with a note."""

from __future__ import annotations

import time

import msgspec

from harvester.errors import BAD_JSON
from harvester.storage.store import Store
from harvester.times import SECOND, Range, show

NOTE = "note.json"


def _now() -> str:
    return show(time.time_ns() // SECOND * SECOND)


class Note(msgspec.Struct):
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


def set_aside(store: Store, note: Note) -> str:
    """Move a file into quarantine; its note is there before it is. Returns where it is now.

    Raises:
        ArchiveUnwritable: the machine refused; the file is where it was.
    """
    to = _prepared(store, note)
    store.move(note.path, to)
    return to


def keep_copy(store: Store, note: Note) -> str:
    """Put the bytes of a small file into quarantine, with a note; returns where they are."""
    to = _prepared(store, note)
    store.write(to, store.read(note.path) or b"", note.pair)
    return to


def keep_segment(store: Store, note: Note) -> str:
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


def _prepared(store: Store, note: Note) -> str:
    """Where a file is to go, its note written there."""
    folder = _free_folder(store, note)
    data = msgspec.json.format(msgspec.json.encode(note), indent=2) + b"\n"
    store.write(f"{folder}/{NOTE}", data, note.pair)
    return f"{folder}/{note.path.rpartition('/')[2]}"


def _free_folder(store: Store, note: Note) -> str:
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
        return msgspec.json.decode(store.read(path) or b"", type=Note).path
    except BAD_JSON:
        return ""
