"""ZIPs are held against what they can hide before anything of them is read."""

from __future__ import annotations

import codecs
import errno
import stat
import time
import zipfile
from pathlib import Path

import csv_files
import pytest

from harvester.csv_import.csv_files import CompletePeriod, blocks, checksum, find
from harvester.csv_import.file_chains import chains
from harvester.csv_import.file_scan import scan_file
from harvester.errors import BadFile, DamagedFile
from harvester.times import DAY, SECOND

LINE = b"1588888888,9000.1,0.5\n"


def found(*paths: Path) -> list[str]:
    return [str(source) for source in find(map(str, paths))]


def refusal(path: Path) -> str:
    with pytest.raises(BadFile) as caught:
        find([str(path)])
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def test_csvs_are_found_in_zips_and_folders_and_by_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "ETHUSD.csv").write_bytes(LINE)
    (folder / "notes.txt").write_bytes(b"none")
    members = {
        "TimeAndSales_Combined/XBTUSD.csv": LINE,
        "__MACOSX/TimeAndSales_Combined/._XBTUSD.csv": b"x",
        "readme.txt": b"x",
    }
    packed = csv_files.packed(tmp_path / "K.zip", members)
    single = tmp_path / "XBTEUR.csv"
    single.write_bytes(LINE)
    assert found(packed, folder, single) == [
        "K.zip:TimeAndSales_Combined/XBTUSD.csv",
        "ETHUSD.csv",
        "XBTEUR.csv",
    ]


def test_a_folder_that_vanishes_while_it_is_listed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(path: Path, _pattern: str) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path / "inner"))

    monkeypatch.setattr(Path, "rglob", vanish)
    assert refusal(tmp_path) == "FILE can't be read: No such file or directory"


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("Kraken_Trading_History_Q1_2026.zip", (1_767_225_600, 1_775_001_600)),
        ("Kraken_Trading_History_Q4_2023.zip", (1_696_118_400, 1_704_067_200)),
        ("Kraken_Trading_History.zip", (0, None)),
        ("Kraken_OHLCVT.zip", (0, None)),
        ("Kraken_OHLCVT_Q1_2026.zip", (1_767_225_600, 1_775_001_600)),
        ("mine.zip", (None, None)),
    ],
)
def test_a_file_name_of_the_exchange_gives_the_complete_range(
    tmp_path: Path, name: str, whole: tuple[int | None, int | None]
) -> None:
    packed = csv_files.packed(tmp_path / name, {"XBTUSD.csv": LINE})
    assert find([str(packed)])[0].complete == whole


@pytest.mark.parametrize(
    "folder",
    [
        "Kraken_Trading_History_Q3_2023",
        "Kraken_Trading_History_Q3_2023/TimeAndSales_Combined",
        "Kraken_Trades_Q3_2023 (1)",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_an_unpacked_quarter_is_as_whole_as_its_zip(
    tmp_path: Path, folder: str, packed: bool
) -> None:
    row = LINE
    names = [f"{folder}/ETHUSD.csv", f"{folder}/._ETHUSD.csv", f"__MACOSX/{folder}/._ETHUSD.csv"]
    if packed:
        files = csv_files.packed(tmp_path / "mine.zip", dict.fromkeys(names, row))
    else:
        files = tmp_path
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(row)
    [member] = find([str(files)])
    assert (member.complete, member.stem) == (
        CompletePeriod(1_688_169_600, 1_696_118_400),
        "ETHUSD",
    )


def test_an_unpacked_history_begins_with_history(tmp_path: Path) -> None:
    for folder, since_s in (("Kraken_Trading_History", 0), ("mine", None)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ETHUSD.csv").write_bytes(LINE)
        [member] = find([str(tmp_path / folder / "ETHUSD.csv")])
        assert member.complete == CompletePeriod(since_s, None)


def test_a_range_stated_by_the_user_overrides_the_file_name(tmp_path: Path) -> None:
    row = b"1770000000,9000.1,0.5\n"
    packed = csv_files.packed(tmp_path / "K_Q1_2026.zip", {"XBTUSD.csv": row})
    [[scanned]] = chains([scan_file(member) for member in find([str(packed)])], CompletePeriod(5))
    assert scanned.member.complete == (5, 1_775_001_600)


@pytest.mark.parametrize(
    "name", ["../XBTUSD.csv", "/XBTUSD.csv", "a/../b.csv", "a\\b.csv", "c:b.csv"]
)
def test_a_path_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    path = csv_files.packed(tmp_path / "K.zip", {name: LINE})
    assert refusal(path) == (
        f"FILE: its member {name!r} has a path that leads out of the archive: nothing of it was "
        "read"
    )


def test_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "K.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("XBTUSD.csv")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    assert refusal(path) == "FILE: its member 'XBTUSD.csv' is a link: nothing of it was read"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "K.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("XBTUSD.csv", LINE)
        archive.writestr("XBTUSD.csv", LINE)
    assert refusal(path) == "FILE: its member 'XBTUSD.csv' is there twice: nothing of it was read"


def test_a_zip_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = csv_files.packed(tmp_path / "K.zip", {"inner.zip": b"PK"})
    assert refusal(path) == (
        "FILE: its member 'inner.zip' is a ZIP itself; unpack it first: nothing of it was read"
    )


def altered(path: Path, old: bytes, new: bytes) -> Path:
    """Alter the only place in a file that holds some bytes."""
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = csv_files.packed(tmp_path / "K.zip", {"XBTUSD.csv": LINE})
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02")
    data[place + 8] |= 1
    path.write_bytes(data)
    assert refusal(path) == "FILE: its member 'XBTUSD.csv' is encrypted: nothing of it was read"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_packed_as_kraken_never_does_is_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "K.zip", "w", method) as archive:
        archive.writestr("XBTUSD.csv", LINE)
    assert refusal(tmp_path / "K.zip") == (
        "FILE: its member 'XBTUSD.csv' is packed by an unknown method; pack it again by "
        "deflate, as Kraken does: nothing of it was read"
    )


def test_a_zip_bomb_is_refused_by_its_stated_size(tmp_path: Path) -> None:
    path = csv_files.packed(tmp_path / "K.zip", {"XBTUSD.csv": b"0" * (20 << 20)})
    assert refusal(path) == (
        "FILE: its member 'XBTUSD.csv' says that it unpacks to more than 200 times its size: "
        "nothing of it was read"
    )


def test_a_zip_bomb_with_a_false_size_is_read_no_further_than_that_size(tmp_path: Path) -> None:
    """Nothing more than the directory says is ever handed on."""
    path = csv_files.packed(tmp_path / "K.zip", {"XBTUSD.csv": LINE * 100_000})
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = (22 * 1_000).to_bytes(4, "little")
    path.write_bytes(data)
    [member] = find([str(path)])
    given: list[bytes] = []
    with pytest.raises(DamagedFile) as caught:
        given.extend(blocks(member, checksum(member)))
    assert str(caught.value) == "K.zip:XBTUSD.csv is damaged: it has more than 22,000 bytes"
    assert len(b"".join(given)) <= 22_000


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = csv_files.packed(tmp_path / "K.zip", {"AAAAAA.csv": LINE * 9, "BBBBBB.csv": LINE * 9})
    data = bytearray(path.read_bytes())
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[second + 42 : second + 46] = (0).to_bytes(4, "little")
    path.write_bytes(data)
    assert refusal(path) == "FILE: its member 'BBBBBB.csv' shares bytes with another one"


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "K.zip"
    path.write_bytes(b"<html>not found</html>")
    assert refusal(path) == ("FILE is no CSV, no ZIP and no folder: give Kraken's files")


def test_a_download_that_broke_off_is_refused(tmp_path: Path) -> None:
    path = csv_files.packed(tmp_path / "K.zip", {"XBTUSD.csv": LINE * 1_000})
    path.write_bytes(path.read_bytes()[:-30])
    assert refusal(path) == ("FILE is no CSV, no ZIP and no folder: give Kraken's files")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    for name in ("K.zip", "K.csv"):
        with pytest.raises(BadFile, match="can't be read: "):
            find([str(tmp_path / name)])


def test_a_line_without_end_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD.csv"
    path.write_bytes(b"1" * 200_000)
    [member] = find([str(path)])
    with pytest.raises(BadFile) as caught:
        list(blocks(member, checksum(member)))
    assert str(caught.value) == "XBTUSD.csv has a line of more than 65,536 bytes"


def test_a_file_that_changes_while_it_is_read_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD.csv"
    path.write_bytes(LINE * 10)
    [member] = find([str(path)])
    expected = checksum(member)
    path.write_bytes(LINE * 9 + LINE.replace(b"5", b"6"))
    with pytest.raises(DamagedFile) as caught:
        list(blocks(member, expected))
    assert str(caught.value) == "XBTUSD.csv is damaged: its bytes do not match its checksum"


@pytest.mark.parametrize("size", [1, 7, 22, 64])
def test_blocks_hold_whole_lines_and_lose_none(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harvester.csv_import.csv_files.BLOCK_BYTES", size)
    lines = [b"%d,%d,%d\n" % (i, i * 7, i * 13) for i in range(50)]
    data = b"".join(lines)[:-1]
    path = csv_files.packed(tmp_path / "K.zip", {"XBTUSD.csv": data})
    [member] = find([str(path)])
    given = list(blocks(member, checksum(member)))
    assert b"".join(given) == data + b"\n"
    assert all(block.endswith(b"\n") for block in given)


@pytest.mark.parametrize(
    "header", [b"price,volume,timestamp,b/s,m/l,misc\n", b"\r\n", codecs.BOM_UTF8, b""]
)
def test_an_only_row_without_its_line_end_is_read(tmp_path: Path, header: bytes) -> None:
    """A pair that was traded once in a quarter, in a file whose last line has no end."""
    row = b"9000.1,0.5,1588888888.5,b,m,,17"
    member = csv_files.packed(tmp_path / "K.zip", {"XBTUSD.csv": header + row})
    [scanned] = [scan_file(found) for found in find([str(member)])]
    assert (scanned.rows, scanned.first_ns) == (1, 1_588_888_888_500_000_000)


def test_a_clock_that_moves_back_between_two_readings_costs_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = time.time_ns()
    lines = [b"%d,9000.1,0.5\n" % (now_ns // SECOND - 600 + 60 * at) for at in range(10)]
    (tmp_path / "XBTUSD.csv").write_bytes(b"".join(lines))
    [member] = find([str(tmp_path / "XBTUSD.csv")])
    scanned = scan_file(member)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns - 30 * DAY)
    assert [rows.num_rows for rows, _ in scanned.batches()] == [scanned.rows] == [10]
