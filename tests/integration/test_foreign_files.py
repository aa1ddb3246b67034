"""What stands under trades/ and is no segment in its place, and links to folders elsewhere."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
import sample_trades
from backfills import Backfill, rows_on_disk, serve
from kraken_market import expected

import harvester
from harvester.errors import ArchiveDamaged, ArchiveUnwritable
from harvester.storage.filesystem import LocalStore
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.verify.integrity import verify
from harvester.verify.status import status

PAIR = "XBTUSD"
MARKET = sample_trades.market(sample_trades.new_years(5))
"""Trades of 2019, 2020, 2022 and 2023."""


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("downloaded")
    with serve(MARKET) as exchange:
        assert Backfill(exchange.url, folder).only(PAIR).exit_status == 0
    return folder


@pytest.fixture
def data(downloaded: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    shutil.copytree(downloaded, folder)
    return folder


def a_segment(data: Path) -> Path:
    return min((data / f"trades/pair={PAIR}/year=2020").glob("*.parquet"))


def faulty_paths(data: Path) -> list[str | None]:
    return [fault.path for fault in verify(TradeStore(data), PAIR).faults]


def plain_rows(data: Path) -> int:
    """The rows that DuckDB finds by itself."""
    source = f"read_parquet('{data}/trades/**/*.parquet')"
    with duckdb.connect() as connection:
        [(rows,)] = connection.execute(f"SELECT count(*) FROM {source}").fetchall()  # noqa: S608
    return int(rows)


PLACES: dict[str, Callable[[Path], str]] = {
    "a copy beside it": lambda name: f"pair={PAIR}/year=2020/{name.stem} copy.parquet",
    "a subfolder of the year": lambda name: f"pair={PAIR}/year=2020/old/{name.name}",
    "no year": lambda name: f"pair={PAIR}/{name.name}",
    "a folder of another kind": lambda name: f"pair={PAIR}/old/{name.name}",
    "a pair within a pair": lambda name: f"pair={PAIR}/pair={PAIR}/year=2020/{name.name}",
    "no pair": lambda name: name.name,
    "another folder": lambda name: f"backup/pair={PAIR}/year=2020/{name.name}",
    "a name like a pair's folder": lambda _: f"pair={PAIR}.parquet",
    "another year": lambda name: f"pair={PAIR}/year=2018/{name.name}",
}


@pytest.mark.parametrize(
    ("place", "read"),
    [
        ("trades", TradeStore.stored_pairs),
        (f"trades/pair={PAIR}/year=2020", lambda archive: archive.segments(PAIR)),
    ],
)
def test_a_name_that_is_not_utf8_is_named(
    data: Path, place: str, read: Callable[[TradeStore], object]
) -> None:
    name = os.path.join(os.fsencode(data / place), b"pair=\xff\xfe")  # noqa: PTH118 - of bytes
    try:
        os.mkdir(name)  # noqa: PTH102
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    with pytest.raises(ArchiveDamaged, match=r"contains b'pair=\\xff\\xfe', a name that is not"):
        read(TradeStore(data))


def test_folders_without_files_are_no_fault(data: Path) -> None:
    for place in PLACES.values():
        file = data / "trades" / place(a_segment(data))
        file.parent.mkdir(parents=True, exist_ok=True)
    assert (plain_rows(data), faulty_paths(data)) == (len(MARKET.trades), [])


@pytest.mark.parametrize("place", PLACES)
def test_what_plain_readers_would_count_is_a_fault(data: Path, place: str) -> None:
    foreign_file = data / "trades" / PLACES[place](a_segment(data))
    foreign_file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(a_segment(data), foreign_file)
    assert plain_rows(data) > len(MARKET.trades)
    assert str(foreign_file.relative_to(data)) in faulty_paths(data)


def test_a_file_in_another_pairs_folder_is_a_fault_when_all_are_verified(data: Path) -> None:
    for path in ("pair=ETHUSD/year=2020", "pair=SOLUSD/old"):
        (data / "trades" / path).mkdir(parents=True)
        shutil.copy(a_segment(data), data / "trades" / path)
    with harvester.open(data) as archive:
        faults = {report.pair: len(report.faults) > 0 for report in archive.verify()}
    assert faults == {"ETHUSD": True, "SOLUSD": True, PAIR: False}
    assert TradeStore(data).stored_pairs() == ["ETHUSD", PAIR]


def test_what_no_parquet_reader_counts_is_no_fault(data: Path) -> None:
    for path in ("README.md", f"pair={PAIR}/.DS_Store", f"pair={PAIR}/year=2020/notes.txt"):
        (data / "trades" / path).write_text("x")
    assert faulty_paths(data) == []


# Links to folders.


def pair_linked(data: Path) -> Path:
    link = data / f"trades/pair={PAIR}"
    link.rename(data.parent / "far")
    link.symlink_to(data.parent / "far")
    return link


def year_linked(data: Path) -> Path:
    link = data / f"trades/pair={PAIR}/year=2020"
    link.rename(data.parent / "far")
    link.symlink_to(data.parent / "far")
    return link


def year_on_a_disk_that_is_gone(data: Path) -> Path:
    link = year_linked(data)
    shutil.rmtree(data.parent / "far")
    return link


def loop_upwards(data: Path) -> Path:
    link = data / f"trades/pair={PAIR}/year=2020/loop"
    link.symlink_to(data / "trades")
    return link


def loop_to_itself(data: Path) -> Path:
    link = data / f"trades/pair={PAIR}/year=2021"
    link.symlink_to(link)
    return link


LINKS = [pair_linked, year_linked, year_on_a_disk_that_is_gone, loop_upwards, loop_to_itself]


@pytest.mark.parametrize("make", LINKS)
def test_a_link_to_a_folder_is_refused_by_name_by_every_reader_and_writer(
    data: Path, make: Callable[[Path], Path]
) -> None:
    link = make(data)
    archive = TradeStore(data)
    assert archive.stored_pairs() == [PAIR]

    def write() -> None:
        with open_writer(archive, PAIR):
            raise AssertionError("it could be written")

    readers: list[Callable[[], object]] = [
        lambda: archive.segments(PAIR),
        lambda: archive.gaps(PAIR),
        lambda: list(archive.scan(PAIR)),
        lambda: harvester.open(data).ohlc(PAIR, "1d").df(),
        lambda: harvester.open(data).sql("SELECT count(*) FROM trades").fetchall(),
        write,
    ]
    for read in readers:
        with pytest.raises(ArchiveDamaged, match=rf"^{link} is a symbolic link"):
            read()
    [fault] = verify(archive, PAIR).faults
    assert fault.text.startswith(f"{link} is a symbolic link")
    for pairs in (None, [PAIR]):
        [row] = status(archive, pairs, 0)
        assert (row.exit_status, row.damaged) == (4, [fault.text])


def test_a_linked_year_is_not_downloaded_again_and_stops_no_other_pair(data: Path) -> None:
    link = year_linked(data)
    other = sample_trades.market(
        sample_trades.sparse(20, 3), altname="ETHUSD", key="XETHZUSD", wsname="ETH/USD"
    )
    with serve(MARKET, other) as exchange:
        linked, sound = Backfill(exchange.url, data).run(PAIR, "ETHUSD")
    assert (linked.exit_status, linked.trades, linked.pages) == (4, 0, 0)
    assert str(linked.error).startswith(f"{link} is a symbolic link")
    assert sound.exit_status == 0
    assert rows_on_disk(data, "ETHUSD") == expected(other)


def test_a_link_beside_the_pairs_is_a_fault(data: Path) -> None:
    (data / "trades/backup").symlink_to(data.parent)
    [fault] = verify(TradeStore(data), PAIR).faults
    assert fault.text.startswith(f"{data}/trades/backup is a symbolic link")


def test_an_archive_behind_a_link_is_read_and_written(data: Path) -> None:
    (data.parent / "link").symlink_to(data)
    assert verify(TradeStore(data.parent / "link"), PAIR).faults == []


def test_a_place_on_another_disk_than_staging_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across_disks(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    store = LocalStore(tmp_path)
    monkeypatch.setattr(Path, "replace", across_disks)
    with pytest.raises(ArchiveUnwritable) as caught:
        store.write("trades/x", b"x", PAIR)
    assert str(caught.value) == (
        f"can't write {tmp_path}/trades/x: it is on another disk than the archive's staging/, "
        "and files are renamed from there: keep the whole archive on one disk"
    )
