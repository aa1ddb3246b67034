"""A ZIP's members are unpacked to the last byte, in pieces, and nothing short of it is whole."""

from __future__ import annotations

import random
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from harvester.csv_import import csv_files
from harvester.csv_import.csv_files import unpacked

ROW = b"1588888888,9000.1,0.5\n"
METHODS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}


def rows(count: int, seed: int) -> bytes:
    source = random.Random(seed)
    return b"".join(
        b"%d,%d.%d,0.%08d\n" % (1_588_888_888 + at, source.randrange(9_000), at % 10, at * 7_919)
        for at in range(count)
    )


def packed(folder: Path, data: bytes, method: int = zipfile.ZIP_DEFLATED, level: int = 6) -> Path:
    path = folder / "K.zip"
    with zipfile.ZipFile(path, "w", method, compresslevel=level) as archive:
        archive.writestr("A.csv", b"another member before it")
        archive.writestr("XBTUSD.csv", data)
    return path


@pytest.fixture(params=["ISA-L", "zlib"])
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zlib":
        monkeypatch.setattr(csv_files, "inflating", zlib)
    elif csv_files.__dict__["inflating"] is zlib:
        pytest.skip("ISA-L has no build for this machine")


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("level", [1, 6, 9])
def test_pieces_may_end_anywhere_in_what_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    """A piece may be full when all that is packed was taken in, and some of it not given out."""
    monkeypatch.setattr(csv_files, "PIECE_BYTES", 1 << 10)
    for size in [*range((1 << 10) - 3, (1 << 10) + 700, 7), *range(3 << 10, (3 << 10) + 40)]:
        data = (ROW * 200)[:size]
        pieces = list(unpacked(packed(tmp_path, data, level=level), "XBTUSD.csv"))
        assert b"".join(pieces) == data
        assert max(map(len, pieces)) <= 1 << 10


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("method", METHODS)
def test_what_comes_out_is_what_went_in(tmp_path: Path, method: str) -> None:
    data = rows(100_000, 3)
    path = packed(tmp_path, data, METHODS[method])
    assert b"".join(unpacked(path, "XBTUSD.csv")) == data


@pytest.mark.usefixtures("_library")
def test_a_member_whose_stream_does_not_end_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path, rows(20_000, 4))
    stated = zipfile.ZipFile.getinfo

    def shorter(self: zipfile.ZipFile, name: str) -> Any:
        entry = stated(self, name)
        entry.compress_size -= 10
        return entry

    monkeypatch.setattr(zipfile.ZipFile, "getinfo", shorter)
    with pytest.raises(EOFError) as caught:
        list(unpacked(path, "XBTUSD.csv"))
    assert str(caught.value) == "it ends before its last byte"
