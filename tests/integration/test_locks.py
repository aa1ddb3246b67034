"""One writer a pair: the lock says who holds it, and goes with the process that held it."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harvester.errors import ArchiveLocked, ArchiveUnwritable
from harvester.storage.locks_and_requests import locked

HOLDER = """
import sys
from pathlib import Path
from harvester.storage.locks_and_requests import locked
with locked(Path(sys.argv[1]), "XBTUSD"):
    print("held", flush=True)
    sys.stdin.read()
"""
ROOT = Path(__file__).parents[2]


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> int:
    """End a process that is or was waiting, and close its pipes."""
    process.communicate(timeout=10)
    return process.returncode


def test_a_lock_can_be_held_again_once_it_is_free(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path, "XBTUSD"):
            pass


def test_a_lock_of_another_process_is_an_error_with_its_holder_and_time(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with pytest.raises(ArchiveLocked) as caught, locked(tmp_path, "XBTUSD"):
            pass
    finally:
        end(process)
    assert re.fullmatch(
        r"XBTUSD is being written by another run \(process "
        + f"{process.pid} on {re.escape(socket.gethostname())}"
        + r", since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\): wait until it is done, or stop it",
        str(caught.value),
    )
    assert caught.value.exit_status == 5


def test_a_note_is_not_written_through_a_link(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("kept")
    (tmp_path / "XBTUSD.json").symlink_to(other)
    with locked(tmp_path, "XBTUSD"):
        note = json.loads((tmp_path / "XBTUSD.json").read_text())
    assert (other.read_text(), note["pid"]) == ("kept", os.getpid())


@pytest.mark.parametrize("is_there", [True, False])
def test_a_lock_that_is_a_link_is_refused(tmp_path: Path, *, is_there: bool) -> None:
    other, lock = tmp_path / "other", tmp_path / "XBTUSD.lock"
    if is_there:
        other.write_text("kept")
    lock.symlink_to(other)
    with pytest.raises(ArchiveUnwritable) as caught, locked(tmp_path, "XBTUSD"):
        pass
    assert (
        str(caught.value)
        == f"{lock} is a symbolic link, but harvester's locks are files: remove it"
    )
    assert (other.exists() and other.read_text()) == ("kept" if is_there else False)


@pytest.mark.parametrize("plant", ["fifo", "zero"])
def test_a_note_that_never_ends_is_not_read(tmp_path: Path, plant: str) -> None:
    process = holder(tmp_path)
    note = tmp_path / "XBTUSD.json"
    note.unlink()
    os.mkfifo(note) if plant == "fifo" else note.symlink_to("/dev/zero")
    try:
        with pytest.raises(ArchiveLocked) as caught, locked(tmp_path, "XBTUSD"):
            pass
    finally:
        end(process)
    assert "its process is unknown" in str(caught.value)


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    process = holder(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    assert end(process) == -signal.SIGKILL
    with locked(tmp_path, "XBTUSD"):
        note = json.loads((tmp_path / "XBTUSD.json").read_text())
    assert (note["pid"], note["host"]) == (os.getpid(), socket.gethostname())


def test_a_lock_of_this_process_keeps_out_another_writer_of_it(tmp_path: Path) -> None:
    with locked(tmp_path, "XBTUSD"):
        with pytest.raises(ArchiveLocked), locked(tmp_path, "XBTUSD"):
            pass
        # Who was refused has not taken the note away.
        assert json.loads((tmp_path / "XBTUSD.json").read_text())["pid"] == os.getpid()


def test_locks_of_two_pairs_do_not_meet(tmp_path: Path) -> None:
    with locked(tmp_path, "XBTUSD"), locked(tmp_path, "ETHUSD"):
        assert len(list(tmp_path.glob("*.json"))) == 2


def test_an_error_in_the_block_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path, "XBTUSD"):
        raise KeyError
    assert list(tmp_path.glob("*.json")) == []
    with locked(tmp_path, "XBTUSD"):
        pass


def test_no_note_is_left_by_whoever_is_done(tmp_path: Path) -> None:
    with locked(tmp_path, "XBTUSD"):
        pass
    assert list(tmp_path.glob("*.json")) == []


def test_a_short_wait_outlasts_a_holder_that_ends(tmp_path: Path) -> None:
    process = holder(tmp_path)
    timer = threading.Timer(0.1, process.communicate)
    timer.start()
    with locked(tmp_path, "XBTUSD", wait_s=10):
        timer.join()
        assert process.returncode == 0


NOTES = [
    *(b"", b"{}", b'{"pid":1,"host":"\xff","since":""}', None),
    pytest.param(b'{"x":' + b"[" * 100_000, id="nested"),
]


@pytest.mark.parametrize("note", NOTES)
def test_a_note_that_cannot_be_read_is_no_fault(tmp_path: Path, note: bytes | None) -> None:
    with locked(tmp_path, "XBTUSD"):
        if note is None:
            (tmp_path / "XBTUSD.json").unlink()
        else:
            (tmp_path / "XBTUSD.json").write_bytes(note)
        with pytest.raises(ArchiveLocked) as caught, locked(tmp_path, "XBTUSD"):
            pass
    assert str(caught.value) == (
        "XBTUSD is being written by another run (its process is unknown): "
        "wait until it is done, or stop it"
    )


def test_a_note_that_finds_no_room_releases_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        # The error is kept, and with it all that its frames hold on to.
        with pytest.raises(ArchiveUnwritable) as caught, locked(tmp_path, "XBTUSD"):
            pass
    assert str(caught.value) == (
        f"can't write {tmp_path}/XBTUSD.json: the disk is full: make room, then run the same "
        "command again"
    )
    with locked(tmp_path, "XBTUSD"):
        pass


def test_a_note_that_may_not_be_taken_away_still_releases_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_path: Path, **_more: bool) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", denied)
        with pytest.raises(ArchiveUnwritable) as caught, locked(tmp_path, "XBTUSD"):
            pass
    assert str(caught.value) == (
        f"can't write {tmp_path}/XBTUSD.json: no permission to write there: choose another "
        "--data or change its owner"
    )
    with locked(tmp_path, "XBTUSD"):
        pass


def test_a_forbidden_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_path: Path, **_more: bool) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(ArchiveUnwritable) as caught, locked(tmp_path / "locks", "XBTUSD"):
        pass
    assert str(caught.value) == (
        f"can't write {tmp_path}/locks: no permission to write there: choose another --data or "
        "change its owner"
    )
