"""What is set aside has its note before it goes, and never takes the place of anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harvester.errors import ArchiveUnwritable
from harvester.storage.filesystem import LocalStore
from harvester.storage.locks_and_requests import QuarantineNote, quarantine_copy, quarantine_file
from harvester.times import Range

PATH = "trades/pair=A/year=2024/x.parquet"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def put(store: LocalStore, path: str, data: bytes) -> None:
    target = store.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def note(path: str = PATH, fault: str = "odd") -> QuarantineNote:
    return QuarantineNote(
        "A", path, Range(1, 9), [fault], [Range(2, 9)], when="2024-01-01T00:00:00Z"
    )


def test_a_quarantined_file_is_kept_whole_with_a_note_of_its_origin(store: LocalStore) -> None:
    put(store, PATH, b"1")
    assert quarantine_file(store, note()) == "quarantine/A/0001/x.parquet"
    assert store.read("quarantine/A/0001/x.parquet") == b"1"
    assert store.read(PATH) is None
    assert json.loads(store.read("quarantine/A/0001/note.json") or b"") == {
        "pair": "A",
        "path": PATH,
        "range": [1, 9],
        "faults": ["odd"],
        "wanted": [[2, 9]],
        "when": "2024-01-01T00:00:00Z",
    }


def test_files_of_one_name_go_side_by_side(store: LocalStore) -> None:
    for body in (b"1", b"2", b"3"):
        put(store, PATH, body)
        quarantine_file(store, note())
    assert [
        store.read(f"quarantine/A/{number}/x.parquet") for number in ("0001", "0002", "0003")
    ] == [b"1", b"2", b"3"]


def test_pairs_are_kept_apart(store: LocalStore) -> None:
    put(store, PATH, b"1")
    put(store, "trades/pair=B/y.parquet", b"2")
    quarantine_file(store, note())
    other = QuarantineNote("B", "trades/pair=B/y.parquet", Range(1, 9), [])
    assert quarantine_file(store, other) == "quarantine/B/0001/y.parquet"


def test_a_copy_leaves_the_file_where_it_is(store: LocalStore) -> None:
    put(store, "wanted/A.json", b"{")
    assert quarantine_copy(store, note("wanted/A.json")) == "quarantine/A/0001/A.json"
    assert (store.read("wanted/A.json"), store.read("quarantine/A/0001/A.json")) == (b"{", b"{")


class Unmovable(LocalStore):
    """A disk that is gone between the note and the move."""

    def move(self, path: str, to: str) -> None:
        raise ArchiveUnwritable(f"{path} to {to}")


def test_a_note_whose_file_never_came_waits_for_it(store: LocalStore) -> None:
    put(store, PATH, b"1")
    with pytest.raises(ArchiveUnwritable):
        quarantine_file(Unmovable(store.root), note())
    assert (store.read(PATH), store.folders("quarantine/A")) == (b"1", ["0001"])
    assert quarantine_file(store, note(fault="odder")) == "quarantine/A/0001/x.parquet"
    assert json.loads(store.read("quarantine/A/0001/note.json") or b"")["faults"] == ["odder"]


@pytest.mark.parametrize(
    "raw",
    [None, b"{", b"\xff", b'{"x":' + b"[" * 100_000],
    ids=["of another file", "torn", "no text", "nested"],
)
def test_a_note_that_is_not_of_the_file_is_never_overwritten(
    store: LocalStore, raw: bytes | None
) -> None:
    put(store, PATH, b"1")
    with pytest.raises(ArchiveUnwritable):
        quarantine_file(Unmovable(store.root), note("trades/pair=A/year=2024/y.parquet"))
    if raw is not None:
        put(store, "quarantine/A/0001/note.json", raw)
    before = store.read("quarantine/A/0001/note.json")
    assert quarantine_file(store, note()) == "quarantine/A/0002/x.parquet"
    assert store.read("quarantine/A/0001/note.json") == before


def test_folders_of_people_are_left_alone(store: LocalStore) -> None:
    put(store, PATH, b"1")
    put(store, "quarantine/A/mine/x.parquet", b"2")
    put(store, "quarantine/A/0041/x.parquet", b"3")
    assert quarantine_file(store, note()) == "quarantine/A/0042/x.parquet"


def test_a_folder_that_a_crash_left_empty_is_used(store: LocalStore) -> None:
    put(store, PATH, b"1")
    (store.root / "quarantine/A/0001").mkdir(parents=True)
    assert quarantine_file(store, note()) == "quarantine/A/0001/x.parquet"
