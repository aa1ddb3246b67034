"""What stands where an answer is to go: links, pipes, other people's files, the archive itself."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from candle_folders import archive, files_in
from cli_runner import run
from command_line import own_environment, run_harvester

from harvester.errors import ArchiveUnwritable
from harvester.storage.output_files import file_sink
from harvester.storage.trade_store import TradeStore

__all__ = ["archive"]

CANDLES = ("ohlc", "XBTUSD", "-i", "1m")


def in_a_file(archive: TradeStore, form: str) -> bytes:
    file = archive.root.parent / f"plain.{form}"
    assert run(archive, *CANDLES, "-f", form, "-o", str(file))[0] == 0
    return file.read_bytes()


def held(archive: TradeStore) -> dict[str, bytes]:
    return {name: (archive.root / name).read_bytes() for name in files_in(archive.root)}


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stands", [True, False], ids=["to a file", "to nothing yet"])
def test_a_link_stays_and_what_it_leads_to_is_replaced(
    archive: TradeStore, tmp_path: Path, *, stands: bool
) -> None:
    real, link = tmp_path / "far" / "real.csv", tmp_path / "link.csv"
    real.parent.mkdir()
    if stands:
        real.write_text("old")
        real.chmod(0o600)
    link.symlink_to("far/real.csv")
    assert run(archive, *CANDLES, "-o", str(link))[0] == 0
    assert link.readlink() == Path("far/real.csv")
    assert real.read_bytes() == in_a_file(archive, "csv")
    if stands:
        assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert files_in(tmp_path) == ["far/real.csv", "link.csv"]


def test_a_link_in_a_folder_of_another_program_stays(archive: TradeStore, tmp_path: Path) -> None:
    real, folder = tmp_path / "real.zip", tmp_path / "lean"
    link = folder / "crypto/kraken/hour/btcusd_trade.zip"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    assert run(archive, "ohlc", "XBTUSD", "-i", "1h", "-f", "lean", "-o", str(folder))[0] == 0
    assert link.is_symlink()
    assert real.read_bytes()[:2] == b"PK"


def test_the_link_to_a_database_stays(archive: TradeStore, tmp_path: Path) -> None:
    real, link = tmp_path / "real.db", tmp_path / "link.db"
    link.symlink_to(real)
    for _ in range(2):
        assert run(archive, "sql", "--db", str(link))[0] == 0
    assert link.is_symlink()
    assert files_in(tmp_path) == ["link.db", "real.db"]
    for file in (link, real):
        with duckdb.connect(str(file), read_only=True) as connection:
            assert connection.execute("SELECT count(*) FROM tape('ETHUSD')").fetchall() == [(400,)]


def test_a_link_to_itself_is_an_error(archive: TradeStore, tmp_path: Path) -> None:
    link = tmp_path / "link.csv"
    link.symlink_to(link)
    reason = "Too many levels of symbolic links"
    assert run(archive, *CANDLES, "-o", str(link)) == (
        1,
        "",
        f"harvester: can't write {link}: {reason}\n",
    )
    assert link.is_symlink()


# --- pipes, folders, and other files -------------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "json", "parquet", "arrow", "table"])
def test_a_pipe_is_written_to(archive: TradeStore, tmp_path: Path, form: str) -> None:
    pipe, found = tmp_path / "pipe", io.BytesIO()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.write(pipe.read_bytes()), daemon=True)
    reader.start()
    status, out, _ = run(archive, *CANDLES, "-f", form, "-o", str(pipe))
    reader.join(20)
    assert (status, out) == (0, "")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert found.getvalue() == in_a_file(archive, form)


def test_a_database_is_not_written_to_a_pipe(archive: TradeStore, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert run(archive, "sql", "--db", str(pipe)) == (
        2,
        "",
        f"harvester: {pipe} is there already and is not, or not only, a database of such views: "
        "choose another name, or remove it first\n",
    )
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_is_no_file(archive: TradeStore, tmp_path: Path) -> None:
    assert run(archive, *CANDLES, "-f", "csv", "-o", str(tmp_path)) == (
        1,
        "",
        f"harvester: can't write {tmp_path}: Is a directory\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_be_written_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.csv"
    file.write_text("mine")
    file.chmod(0o444)
    # Who runs the tests may be allowed to write all the same.
    may = os.access
    monkeypatch.setattr(
        os, "access", lambda at, mode: may(at, mode) and not (at == file and mode == os.W_OK)
    )
    message = f"can't write {file}: no permission to write there: choose another place"
    with pytest.raises(ArchiveUnwritable, match=message), file_sink(file) as sink:
        sink.write(b"x")
    assert (file.read_text(), files_in(tmp_path)) == ("mine", ["x.csv"])


def test_what_is_written_is_synced_before_it_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that loses its power leaves the old file or the new one, whole."""
    file, synced = tmp_path / "x.csv", []
    file.write_text("old")
    sync = os.fsync

    def noted(handle: int) -> None:
        sync(handle)
        name = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append((name.suffix, name.read_text() if name.is_file() else "", file.read_text()))

    monkeypatch.setattr(os, "fsync", noted)
    with file_sink(file) as sink:
        sink.write(b"new")
    assert synced == [(".tmp", "new", "old"), ("", "", "new")]


TERMINATED = """
import os, signal
from harvester.cli import query_output
from harvester.cli.main import main

def half_way(*_):
    os.kill(os.getpid(), signal.SIGTERM)

query_output._WRITERS["parquet"] = half_way
main()
"""


def test_what_sigterm_cuts_short_leaves_nothing(archive: TradeStore, tmp_path: Path) -> None:
    words = (*CANDLES, "-f", "parquet", "-o", str(tmp_path / "x.parquet"), "-d", archive.path)
    done = subprocess.run(
        [sys.executable, "-c", TERMINATED, *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")
    assert done.stderr.strip() == "harvester: interrupted"
    assert files_in(tmp_path) == []


def test_files_beside_it_stay_as_they_are(archive: TradeStore, tmp_path: Path) -> None:
    for name in ("x.csv.tmp", "y.db.tmp"):
        (tmp_path / name).write_text("mine")
    assert run(archive, *CANDLES, "-o", str(tmp_path / "x.csv"))[0] == 0
    assert run(archive, "sql", "--db", str(tmp_path / "y.db"))[0] == 0
    assert files_in(tmp_path) == ["x.csv", "x.csv.tmp", "y.db", "y.db.tmp"]
    assert (tmp_path / "x.csv.tmp").read_text() == (tmp_path / "y.db.tmp").read_text() == "mine"


# --- the archive ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        CANDLES,
        ("trades", "XBTUSD"),
        ("bars", "XBTUSD", "--trades", "100"),
        ("sql", "SELECT 1"),
        (*CANDLES, "-f", "lean"),
        (*CANDLES, "-i", "1h", "-f", "lean"),
        (*CANDLES, "-f", "freqtrade"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("by_link", [False, True], ids=["by its path", "by a link"])
def test_nothing_of_an_archive_is_written_over(
    archive: TradeStore, tmp_path: Path, asked: tuple[str, ...], *, by_link: bool
) -> None:
    before = held(archive)
    place = archive.root / next(name for name in before if name.endswith(".parquet"))
    if by_link:
        (tmp_path / "link.parquet").symlink_to(place)
        place = tmp_path / "link.parquet"
    assert run(archive, *asked, "-o", str(place)) == (
        2,
        "",
        f"harvester: {place} lies in the archive at {archive.root}, which may contain only files "
        "of harvester: give another path\n",
    )
    assert held(archive) == before


@pytest.mark.parametrize("how", ["the mark is gone", "its folder is a link"])
def test_a_segment_is_not_written_over_wherever_it_stands(
    archive: TradeStore, tmp_path: Path, how: str
) -> None:
    copy = shutil.copytree(archive.root, tmp_path / "data")
    if how == "the mark is gone":
        (copy / "archive.json").unlink()
    else:
        (copy / "trades").rename(tmp_path / "far")
        (copy / "trades").symlink_to(tmp_path / "far")
    place = copy / TradeStore(copy).segments("XBTUSD")[0].path
    before = place.read_bytes()
    (tmp_path / "link.parquet").symlink_to(place)
    for given in (place, place.resolve(), tmp_path / "link.parquet"):
        status, _, err = run(TradeStore(copy), "trades", "XBTUSD", "-o", str(given))
        assert (status, "give another path" in err) == (2, True), err
    assert place.read_bytes() == before


def test_a_mark_that_nobody_can_read_is_none(archive: TradeStore, tmp_path: Path) -> None:
    (tmp_path / "archive.json").write_text("[" * 100_000)
    assert run(archive, *CANDLES, "-o", str(tmp_path / "x.csv"))[0] == 0


def test_what_others_write_to_stdout_stays_around_it(archive: TradeStore, tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    program = [sys.executable, "-m", "harvester", *CANDLES, "-d", str(archive.root), "-f", "csv"]
    file.write_text("kept\n")
    with file.open("ab") as sink:
        for words in ([*program, "-o", "/dev/fd/1"], ["echo", "behind"]):
            subprocess.run(words, stdout=sink, stderr=subprocess.DEVNULL, check=True)
    assert file.read_bytes() == b"kept\n" + in_a_file(archive, "csv") + b"behind\n"
    assert files_in(tmp_path) == ["all.csv"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("asked", [(*CANDLES, "-f", "csv"), ("status",)], ids=["candles", "status"])
def test_a_full_disk_behind_stdout_is_an_error(archive: TradeStore, asked: tuple[str, ...]) -> None:
    program = [sys.executable, "-m", "harvester", *asked, "-d", str(archive.root)]
    with Path("/dev/full").open("wb") as sink:
        done = subprocess.run(program, stdout=sink, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "harvester: can't write to stdout: No space left on device\n",
    )


@pytest.mark.parametrize(
    "asked",
    [("sql", "--db"), ("ohlc", "XBTUSD", "-i", "1h", "-i", "1d", "-o")],
    ids=["database", "folder"],
)
def test_a_name_that_is_too_long_is_an_error(archive: TradeStore, asked: tuple[str, ...]) -> None:
    name = "x" * 300
    status, out, err = run(archive, *asked, name)
    assert (status, out) == (1, "")
    # Of a folder, Python 3.14 meets the error at the first file in it.
    inside = "(/interval=1h/pair=XBTUSD/candles.parquet)?"
    assert re.fullmatch(f"harvester: can't write {name}{inside}: File name too long\n", err)


def test_a_database_is_not_written_into_an_archive(archive: TradeStore) -> None:
    before = held(archive)
    place = archive.root / "views.db"
    status, _, err = run(archive, "sql", "--db", str(place))
    assert (status, "lies in the archive" in err) == (2, True)
    assert held(archive) == before


def test_a_folder_with_a_mark_of_another_program_is_no_archive(
    archive: TradeStore, tmp_path: Path
) -> None:
    (tmp_path / "archive.json").write_text('{"format": 1, "made_by": "another"}')
    assert run(archive, *CANDLES, "-f", "parquet", "-o", str(tmp_path / "x"))[0] == 0
    assert isinstance(pq.read_table(tmp_path / "x"), pa.Table)


def test_a_demo_in_a_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    done = run_harvester(["demo", "--folder", str(file)], own_environment())
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        f"harvester: can't write {file}: Not a directory\n",
    )
    assert file.read_text() == "mine"
