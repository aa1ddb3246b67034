"""Quarantine: damaged files, each with a note in a numbered folder of its own."""

from __future__ import annotations

import msgspec

from harvester.errors import (
    BAD_JSON,
)
from harvester.storage.archive_files import write_json
from harvester.storage.filesystem import LocalStore
from harvester.times import Range, now_text

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


def quarantine_copy(store: LocalStore, note: QuarantineNote) -> str:
    """Copy a small file into quarantine, with a note, and return the copy's path.

    Args:
        store: the archive's files.
        note: which file, and why.
    """
    to = _prepare_folder(store, note)
    store.write(to, store.read(note.path) or b"", note.pair)
    return to


def quarantine_segment_copy(store: LocalStore, note: QuarantineNote) -> str:
    """Copy a file of any size into quarantine, unless an equal copy is there; return its path.

    Args:
        store: the archive's files.
        note: which file, and why.
    """
    name, parent = note.path.rpartition("/")[2], f"quarantine/{note.pair}"
    for folder in store.folders(parent):
        to = f"{parent}/{folder}/{name}"
        if _path_in_note(store, f"{parent}/{folder}/{NOTE}") == note.path and store.same(
            note.path, to
        ):
            return to
    to = _prepare_folder(store, note)
    store.copy(note.path, to, note.pair)
    return to


def _prepare_folder(store: LocalStore, note: QuarantineNote) -> str:
    """Write the note into a quarantine folder, and return the path for the file.

    It is the folder of the next number, or one that a crash left without its file: such a folder is
    empty, or has only the note about this same file.
    """
    parent = f"quarantine/{note.pair}"
    numbers = [name for name in store.folders(parent) if name.isdecimal()]
    left = [number for number in numbers if _is_left(store, f"{parent}/{number}", note.path)]
    number = left[0] if left else f"{max(map(int, numbers), default=0) + 1:04d}"
    write_json(store, f"{parent}/{number}/{NOTE}", note, note.pair)
    return f"{parent}/{number}/{note.path.rpartition('/')[2]}"


def _is_left(store: LocalStore, folder: str, path: str) -> bool:
    files = [entry.path for entry in store.files(folder)]
    is_only_note = files == [f"{folder}/{NOTE}"]
    return not files or (is_only_note and _path_in_note(store, files[0]) == path)


def _path_in_note(store: LocalStore, path: str) -> str:
    """The path of the quarantined file by its note; empty where the note can't be read."""
    try:
        return msgspec.json.decode(store.read(path) or b"", type=QuarantineNote).path
    except BAD_JSON:
        return ""
