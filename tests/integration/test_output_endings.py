"""Endings of `-o`: those that are known say the format, others are refused."""

from __future__ import annotations

import gzip
import json
import subprocess
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from candle_cases import cut, hold
from candle_folders import BUSY, PAIRS
from cli_runner import run

from harvester.storage.trade_store import TradeStore

if TYPE_CHECKING:
    from pathlib import Path

ASKED = {
    "ohlc": ["ohlc", "XBTUSD", "-i", "1m"],
    "trades": ["trades", "XBTUSD"],
    "bars": ["bars", "XBTUSD", "--trades", "100"],
    "sql": ["sql", "SELECT 1 AS a, '2.50'::DECIMAL(9, 2) AS b"],
}
KNOWN = ".csv, .csv.gz, .csv.zst, .json, .jsonl, .parquet, .arrow, .feather"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> TradeStore:
    """Two segments, whose words have dictionaries of their own."""
    path = tmp_path_factory.mktemp("archive")
    (path / "pairs.json").write_text(json.dumps(PAIRS))
    return hold(TradeStore(path), cut(BUSY, [0, BUSY[700][1], BUSY[-1][1]]))


@pytest.mark.parametrize("what", ASKED)
def test_compressed_csv_holds_the_very_text(archive: TradeStore, what: str, tmp_path: Path) -> None:
    text = run(archive, *ASKED[what], "-f", "csv")[1].encode()
    for name in ("x.csv.gz", "y.CSV.GZ", "x.csv.zst"):
        assert run(archive, *ASKED[what], "-o", str(tmp_path / name))[0] == 0
    assert gzip.decompress((tmp_path / "x.csv.gz").read_bytes()) == text
    assert gzip.decompress((tmp_path / "y.CSV.GZ").read_bytes()) == text
    with pa.input_stream(tmp_path / "x.csv.zst", compression="zstd") as stream:
        assert stream.read() == text


@pytest.mark.parametrize("what", ASKED)
def test_feather_is_written(archive: TradeStore, what: str, tmp_path: Path) -> None:
    feather, arrow = tmp_path / "x.feather", tmp_path / "x.arrow"
    assert run(archive, *ASKED[what], "-o", str(feather))[0] == 0
    assert run(archive, *ASKED[what], "-o", str(arrow))[0] == 0
    assert len(pd.read_feather(feather)) > 0
    with pa.ipc.open_file(feather) as feather_file, pa.ipc.open_file(arrow) as other:
        assert feather_file.read_all().equals(other.read_all())


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("foo.xlsx", "-o: .xlsx is no ending that is known (of {file}): give one of {known}"),
        ("x.gz", "-o: .gz is no ending that is known (of {file}): give one of {known}"),
        ("x.csv.bz2", "-o: .bz2 is no ending that is known (of {file}): give one of {known}"),
        ("x", "-o: {file} has no ending: give one of {known}"),
    ],
)
def test_an_ending_that_is_not_known_is_refused_with_those_that_are(
    archive: TradeStore, what: str, name: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    hint = message.format(file=file, known=KNOWN)
    assert run(archive, *ASKED[what], "-o", str(file)) == (
        2,
        "",
        f"harvester: {hint}, or -f and a format\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ASKED)
def test_a_format_that_contradicts_the_ending_is_refused(
    archive: TradeStore, what: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.parquet"
    assert run(archive, *ASKED[what], "-f", "csv", "-o", str(file)) == (
        2,
        "",
        f"harvester: -o {file} ends with .parquet, and --format is csv: leave one out\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["arrow", "feather"])
def test_trades_of_several_segments_are_one_arrow_file(
    archive: TradeStore, ending: str, tmp_path: Path
) -> None:
    """Segments have dictionaries of their own for words, and such a file has room for one."""
    assert len(archive.segments("XBTUSD")) > 1
    file, other = tmp_path / f"x.{ending}", tmp_path / "x.parquet"
    assert run(archive, *ASKED["trades"], "-o", str(file))[0] == 0
    assert run(archive, *ASKED["trades"], "-o", str(other))[0] == 0
    with pa.ipc.open_file(file) as reader:
        assert reader.read_all().to_pylist() == pq.read_table(other).to_pylist()


@pytest.mark.parametrize("more", [[], ["-f", "csv"], ["-f", "parquet"]])
def test_a_folder_is_refused_for_one_answer(
    archive: TradeStore, more: list[str], tmp_path: Path
) -> None:
    place = f"{tmp_path}/folder/"
    assert run(archive, *ASKED["ohlc"], *more, "-o", place) == (
        2,
        "",
        f"harvester: -o {place} names a folder, and one answer is written into a file: give a name "
        f"such as -o {place}answer.csv\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_is_given_needs_no_ending(archive: TradeStore, tmp_path: Path) -> None:
    text = run(archive, *ASKED["ohlc"], "-f", "csv")[1]
    for name in ("x", "x.txt", "x.gz"):
        assert run(archive, *ASKED["ohlc"], "-f", "csv", "-o", str(tmp_path / name))[0] == 0
    assert (tmp_path / "x").read_text() == (tmp_path / "x.txt").read_text() == text
    assert gzip.decompress((tmp_path / "x.gz").read_bytes()).decode() == text


@pytest.mark.parametrize("form", ["table", "json", "jsonl"])
def test_any_text_is_compressed_by_the_files_ending(
    archive: TradeStore, form: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.gz"
    assert run(archive, *ASKED["sql"], "-f", form, "-o", str(file))[0] == 0
    text = run(archive, *ASKED["sql"], "-f", form)[1]
    assert gzip.decompress(file.read_bytes()).decode() == text


def test_typed_files_are_not_compressed_from_outside(archive: TradeStore, tmp_path: Path) -> None:
    file = tmp_path / "x.parquet.gz"
    assert run(archive, *ASKED["ohlc"], "-f", "parquet", "-o", str(file)) == (
        2,
        "",
        f"harvester: -o {file}: parquet is not written compressed: give another ending\n",
    )


@pytest.mark.parametrize("what", ASKED)
def test_a_dash_is_stdout(archive: TradeStore, what: str) -> None:
    assert run(archive, *ASKED[what], "-f", "csv", "-o", "-") == run(
        archive, *ASKED[what], "-f", "csv"
    )


def test_a_device_needs_no_ending(archive: TradeStore) -> None:
    assert run(archive, *ASKED["sql"], "-o", "/dev/null")[0] == 0


def test_the_zstd_tool_reads_it(archive: TradeStore, tmp_path: Path) -> None:
    file = tmp_path / "x.csv.zst"
    assert run(archive, *ASKED["sql"], "-o", str(file))[0] == 0
    try:
        done = subprocess.run(["zstd", "-dc", file], capture_output=True, check=True)  # noqa: S607
    except FileNotFoundError:
        pytest.skip("zstd is not installed here")
    assert done.stdout == b"a,b\n1,2.5\n"
