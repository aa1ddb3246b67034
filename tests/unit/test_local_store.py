"""Files of a store are whole or absent, and the system's errors become errors of harvester."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harvester.errors import ArchiveError, ArchiveUnwritable
from harvester.storage.filesystem import MAX_LISTINGS, Entry, LocalStore, writing


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A store that has nothing on disk yet."""
    return LocalStore(tmp_path / "data")


def put(store: LocalStore, path: str, data: bytes = b"x") -> None:
    """Write a file past the store."""
    target = store.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def refusing(number: int) -> Callable[..., Any]:
    """An operation that the machine refuses."""

    def refuse(*_args: object, **_more: object) -> Any:
        raise OSError(number, os.strerror(number))

    return refuse


# Listing.


def test_a_store_that_is_not_there_yet_holds_nothing(store: LocalStore) -> None:
    assert (store.files("trades"), store.folders("trades"), store.read("a.json")) == ([], [], None)


def test_opening_a_store_makes_nothing(store: LocalStore) -> None:
    assert not store.root.exists()


def test_files_are_listed_with_their_sizes_in_order(store: LocalStore) -> None:
    put(store, "trades/b/2.parquet", b"22")
    put(store, "trades/b/1.parquet", b"1")
    put(store, "trades/a/3.parquet", b"333")
    put(store, "elsewhere/4.parquet", b"4444")
    found = store.files("trades")
    assert [(file.path, file.size) for file in found] == [
        ("trades/a/3.parquet", 3),
        ("trades/b/1.parquet", 1),
        ("trades/b/2.parquet", 2),
    ]


def test_files_are_listed_with_when_they_were_last_written(store: LocalStore) -> None:
    put(store, "trades/1", b"1")
    os.utime(store.root / "trades/1", ns=(5, 1_700_000_000_000_000_000))
    assert store.files("trades") == [Entry("trades/1", 1, 1_700_000_000_000_000_000)]


class Scan:
    """Stands for `os.scandir`: something happens while a folder is listed."""

    def __init__(self, happens: Callable[[], object], *, is_late: bool = True) -> None:
        """Happens after the names were read, or before any is."""
        self._scan, self._happens, self._is_late = os.scandir, happens, is_late
        self.listings = 0

    @contextmanager
    def __call__(self, folder: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        self.listings += 1
        with self._scan(folder) as items:
            found = list(items)
        self._happens()
        is_missed = self.listings == 1 and not self._is_late
        yield iter([] if is_missed else found)


@pytest.mark.parametrize("reads_first", [True, False])
def test_files_that_become_another_while_they_are_listed_are_not_both_missing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, reads_first: bool
) -> None:
    """A merge between the names and their sizes, or among the names."""
    for name in "123":
        put(store, f"trades/{name}")
    # Two changes within one step of the system's clock leave the same time on the folder.
    os.utime(store.root / "trades", ns=(5, 1_700_000_000_000_000_000))

    def merge() -> None:
        put(store, "trades/1-3")
        for name in "123":
            (store.root / "trades" / name).unlink(missing_ok=True)

    monkeypatch.setattr(os, "scandir", Scan(merge, is_late=reads_first))
    assert [file.path for file in store.files("trades")] == ["trades/1-3"]


def test_a_folder_that_changes_all_the_time_is_listed_in_the_end(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "trades/1")
    scan = Scan(lambda: put(store, f"trades/new-{scan.listings}"))
    monkeypatch.setattr(os, "scandir", scan)
    assert "trades/1" in [file.path for file in store.files("trades")]
    assert scan.listings == MAX_LISTINGS


def test_folders_are_listed_without_files(store: LocalStore) -> None:
    put(store, "trades/b/1")
    put(store, "trades/a/1")
    put(store, "trades/c")
    assert store.folders("trades") == ["a", "b"]


def test_a_file_that_vanishes_during_a_listing_is_left_out(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "trades/1")
    put(store, "trades/2")
    put(store, "trades/gone/3")
    real = os.scandir

    def scandir(path: Path) -> Any:
        (store.root / "trades/1").unlink(missing_ok=True)
        if (store.root / "trades/gone").exists():
            (store.root / "trades/gone/3").unlink()
            found = real(path)
            (store.root / "trades/gone").rmdir()
            return found
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [file.path for file in store.files("trades")] == ["trades/2"]


def test_an_unreadable_folder_is_an_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "trades/1")
    monkeypatch.setattr(os, "scandir", refusing(errno.EACCES))
    for ask in (store.files, store.folders):
        with pytest.raises(ArchiveError) as caught:
            ask("trades")
        assert str(caught.value) == (
            f"can't read {store.root}/trades: no permission to read there: change its owner"
        )


def test_an_unreadable_file_is_an_error(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", refusing(errno.EIO))
    with pytest.raises(ArchiveError) as caught:
        store.read("archive.json")
    assert str(caught.value) == f"can't read {store.root}/archive.json: Input/output error"


# Writing.


def test_a_small_file_is_replaced_whole(store: LocalStore) -> None:
    store.write("wanted/A.json", b"old", "A")
    store.write("wanted/A.json", b"new", "A")
    assert store.read("wanted/A.json") == b"new"
    assert store.files("staging") == []


def test_a_crash_before_the_rename_leaves_the_old_file(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("wanted/A.json", b"old", "A")
    monkeypatch.setattr(Path, "replace", refusing(errno.EIO))
    with pytest.raises(ArchiveUnwritable):
        store.write("wanted/A.json", b"new", "A")
    assert store.read("wanted/A.json") == b"old"


def spied(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The renames and syncs that follow, in order, each sync with the path within the store."""
    opened: dict[int, str] = {}
    done: list[str] = []
    real_open, real_replace = os.open, Path.replace

    def spy_open(path: Any, *args: Any, **more: Any) -> int:
        handle = real_open(path, *args, **more)
        opened[handle] = str(Path(path).relative_to(store.root))
        return handle

    def spy_replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "open", spy_open)
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(f"sync {opened[handle]}"))
    monkeypatch.setattr(Path, "replace", spy_replace)
    return done


def test_a_commit_syncs_file_then_renames_then_syncs_each_new_folder(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = store.stage("A")
    (store.root / staged).write_bytes(b"x")
    done = spied(store, monkeypatch)
    store.commit(staged, "trades/pair=A/1.parquet")
    assert done == [
        f"sync {staged}",
        "sync .",
        "sync trades",
        "rename",
        "sync trades/pair=A",
    ]


def test_staged_names_are_never_the_same(store: LocalStore) -> None:
    assert len({store.stage("A") for _ in range(50)}) == 50


def test_removing_a_missing_file_is_no_error(store: LocalStore) -> None:
    store.remove("trades/1")
    store.remove_folder("staging/A")
    assert not store.root.exists()


def test_removing_a_folder_removes_everything_below_it(store: LocalStore) -> None:
    put(store, "staging/A/deep/1")
    put(store, "staging/B/1")
    store.remove_folder("staging/A")
    assert store.folders("staging") == ["B"]


def test_a_location_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert LocalStore("data").location("trades/1") == str(tmp_path / "data/trades/1")


# The machine's refusals.

FULL = "the disk is full: make room, then run the same command again"
DENIED = "no permission to write there: choose another --data or change its owner"


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.ENOSPC, FULL),
        (errno.EDQUOT, FULL),
        (errno.EACCES, DENIED),
        (errno.EPERM, DENIED),
        (errno.EROFS, "the disk is mounted read-only: choose another --data"),
        (errno.EIO, "Input/output error"),
        (errno.ENOTDIR, "Not a directory"),
        (errno.ENAMETOOLONG, "File name too long"),
    ],
)
def test_a_refusal_to_write_names_place_and_reason(number: int, what: str) -> None:
    with pytest.raises(ArchiveUnwritable) as caught, writing("/data/x"):
        refusing(number)()
    assert str(caught.value) == f"can't write /data/x: {what}"


def test_an_error_without_a_number_is_shown_by_its_text() -> None:
    with pytest.raises(ArchiveUnwritable) as caught, writing("/data/x"):
        raise OSError("odd")
    assert str(caught.value) == "can't write /data/x: odd"


def test_other_errors_pass_through() -> None:
    with pytest.raises(ValueError, match=r"^odd$"), writing("/data/x"):
        raise ValueError("odd")


@pytest.mark.parametrize(
    ("patched", "place"),
    [
        ((os, "fsync"), "archive.json"),
        ((Path, "replace"), "archive.json"),
        ((Path, "write_bytes"), "archive.json"),
    ],
)
def test_a_full_disk_at_any_call_is_an_error_that_says_so(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, patched: tuple[object, str], place: str
) -> None:
    monkeypatch.setattr(*patched, refusing(errno.ENOSPC))
    with pytest.raises(ArchiveUnwritable) as caught:
        store.write(place, b"x", "A")
    assert str(caught.value) == f"can't write {store.root}/{place}: {FULL}"


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(ArchiveUnwritable) as caught:
        LocalStore(tmp_path / "data").write("archive.json", b"x", "A")
    assert str(caught.value).endswith(": Not a directory")
    assert str(caught.value).startswith(f"can't write {tmp_path}/data/staging/A/")


@pytest.mark.parametrize("act", ["remove", "remove_folder"])
def test_a_failed_removal_is_an_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    put(store, "trades/A/1")
    monkeypatch.setattr(Path, "unlink", refusing(errno.EACCES))
    monkeypatch.setattr("shutil.rmtree", refusing(errno.EACCES))
    with pytest.raises(ArchiveUnwritable) as caught:
        getattr(store, act)("trades/A")
    assert str(caught.value) == f"can't write {store.root}/trades/A: {DENIED}"


# Moving.


def test_a_file_that_is_moved_stands_in_its_new_place_alone(store: LocalStore) -> None:
    put(store, "trades/1", b"1")
    store.move("trades/1", "quarantine/A/1")
    assert (store.read("trades/1"), store.read("quarantine/A/1")) == (None, b"1")


def test_a_move_never_takes_the_place_of_another_file(store: LocalStore) -> None:
    put(store, "trades/1", b"1")
    put(store, "quarantine/1", b"2")
    with pytest.raises(ArchiveUnwritable) as caught:
        store.move("trades/1", "quarantine/1")
    assert str(caught.value) == (f"can't write {store.root}/quarantine/1: another file is there")
    assert (store.read("trades/1"), store.read("quarantine/1")) == (b"1", b"2")


def test_a_move_syncs_the_new_folder_before_the_old_one(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "trades/1", b"1")
    (store.root / "quarantine").mkdir()
    done = spied(store, monkeypatch)
    store.move("trades/1", "quarantine/1")
    assert done == ["rename", "sync quarantine", "sync trades"]


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_folder_that_vanishes_is_not_made_again(tmp_path: Path, is_replaced: bool) -> None:
    """As where a disk is unplugged: what would be written to its mount point is lost later."""
    root = tmp_path / "data"
    store = LocalStore(root)
    store.write("kept.json", b"{}", "XBTUSD")
    root.rename(tmp_path / "away")
    if is_replaced:
        root.mkdir()
    with pytest.raises(ArchiveUnwritable, match="the archive's folder vanished meanwhile"):
        store.stage("XBTUSD")
    assert not root.exists() or list(root.iterdir()) == []
    if is_replaced:
        root.rmdir()
    (tmp_path / "away").rename(root)
    store.write("kept.json", b"[]", "XBTUSD")
    assert store.read("kept.json") == b"[]"
