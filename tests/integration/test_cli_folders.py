"""Candles of several pairs and intervals in one folder, and questions that are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from candle_cases import PAIR, SECOND, START, hold, trade
from candle_folders import BUSY, OTHER, archive, files_in
from cli_runner import run

from harvester.storage.trade_store import TradeStore
from harvester.times import Range

__all__ = ["archive"]
"""A fixture."""

if TYPE_CHECKING:
    from pathlib import Path

MILLION = 1_000_000


def quiet(found: tuple[int, str, str]) -> bool:
    return found[:2] == (0, "")


# --- one folder ----------------------------------------------------------------------------------


def test_each_pair_and_interval_has_the_file_it_has_alone(
    archive: TradeStore, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "candles"
    asked = ["ohlc", "xbt/usd", "ETHUSD", "-i", "1m", "-i", "60", "--all-columns"]
    status, out, err = run(archive, *asked, "-o", str(folder))
    assert (status, out) == (0, "")
    files = [
        f"interval={interval}/pair={pair}/candles.parquet"
        for pair in ("XBTUSD", "ETHUSD")
        for interval in ("1m", "60m")
    ]
    assert files_in(folder) == sorted(files)
    rows = [pq.read_metadata(folder / file).num_rows for file in files]
    assert err == "".join(
        f"{count:,} candles in {folder / file}\n" for count, file in zip(rows, files, strict=True)
    )
    for file in files:
        pair, interval = file.split("/")[1][5:], file.split("/")[0][9:]
        single = tmp_path / "one.parquet"
        assert quiet(run(archive, "ohlc", pair, "-i", interval, "--all-columns", "-o", str(single)))
        assert single.read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize("fill", ["none", "kraken"])
def test_the_folder_is_one_table_by_interval_and_pair(
    archive: TradeStore, tmp_path: Path, fill: str
) -> None:
    span = ["--until", "2030-01-01"] if fill == "none" else []
    asked = ["ohlc", "XBTUSD", "ETHUSD", "-i", "1m", "-i", "1d", "--fill", fill, *span]
    assert quiet(run(archive, *asked, "-o", str(tmp_path / "c"), "-q"))
    table = duckdb.read_parquet(f"{tmp_path}/c/**/*.parquet", hive_partitioning=True)
    sums = "interval, pair, sum(count)::BIGINT, max(typeof(high)), min(typeof(low))"
    found = sorted(table.aggregate(sums, "interval, pair").fetchall())
    kinds = ("DECIMAL(18,10)", "DECIMAL(18,10)")
    assert found == [
        ("1d", "ETHUSD", len(OTHER), *kinds),
        ("1d", "XBTUSD", len(BUSY), *kinds),
        ("1m", "ETHUSD", len(OTHER), *kinds),
        ("1m", "XBTUSD", len(BUSY), *kinds),
    ]


def test_its_own_files_are_replaced_and_others_left_alone(
    archive: TradeStore, tmp_path: Path
) -> None:
    mine = tmp_path / "interval=1h" / "pair=XBTUSD"
    mine.mkdir(parents=True)
    (mine / "candles.parquet").write_text("old")
    (mine / "notes.txt").write_text("mine")
    (tmp_path / "interval=1d").write_text("a file")
    assert quiet(run(archive, "ohlc", "XBTUSD", "-i", "1h", "-i", "2h", "-o", str(tmp_path), "-q"))
    assert (mine / "notes.txt").read_text() == "mine"
    assert (tmp_path / "interval=1d").read_text() == "a file"
    assert sum(pq.read_table(mine / "candles.parquet")["count"].to_pylist()) == len(BUSY)
    assert files_in(tmp_path) == [
        "interval=1d",
        "interval=1h/pair=XBTUSD/candles.parquet",
        "interval=1h/pair=XBTUSD/notes.txt",
        "interval=2h/pair=XBTUSD/candles.parquet",
    ]


def test_csv_goes_into_a_folder_with_the_lines_it_has_alone(
    archive: TradeStore, tmp_path: Path
) -> None:
    asked = ["ohlc", "XBTUSD", "ETHUSD", "-i", "1m", "-i", "1h", "-f", "csv"]
    assert quiet(run(archive, *asked, "-o", f"{tmp_path}/"))
    for pair in ("XBTUSD", "ETHUSD"):
        for length in ("1m", "1h"):
            file = tmp_path / f"interval={length}" / f"pair={pair}" / "candles.csv"
            alone = run(archive, "ohlc", pair, "-i", length, "-f", "csv")[1]
            assert file.read_text() == alone
    assert len(files_in(tmp_path)) == 4


def test_the_same_interval_twice_is_one(archive: TradeStore, tmp_path: Path) -> None:
    asked = ["ohlc", "XBTUSD", "BTC/USD", "-i", "60", "-i", "60m", "-i", "060m"]
    assert quiet(run(archive, *asked, "-o", str(tmp_path)))
    assert files_in(tmp_path) == ["interval=60m/pair=XBTUSD/candles.parquet"]


def test_freqtrades_folder_takes_several(archive: TradeStore, tmp_path: Path) -> None:
    asked = ["ohlc", "XBTUSD", "ETHUSD", "-i", "1m", "-i", "5m", "-f", "freqtrade"]
    assert quiet(run(archive, *asked, "-o", str(tmp_path)))
    names = [
        f"{pair}-{length}.feather" for pair in ("BTC_USD", "ETH_USD") for length in ("1m", "5m")
    ]
    assert files_in(tmp_path) == names
    single = tmp_path / "single"
    assert quiet(run(archive, "ohlc", "XBTUSD", "-i", "5m", "-f", "freqtrade", "-o", str(single)))
    name = "BTC_USD-5m.feather"
    assert pd.read_feather(single / name).equals(pd.read_feather(tmp_path / name))


def test_what_another_program_does_not_know_leaves_all_unwritten(
    archive: TradeStore, tmp_path: Path
) -> None:
    asked = ["ohlc", "XBTUSD", "ETHUSD", "-i", "1m", "-i", "2h", "-f", "lean"]
    assert run(archive, *asked, "-o", str(tmp_path)) == (
        2,
        "",
        "harvester: LEAN has no interval '2h': give one of 1s, 1m, 1h, 1d\n",
    )
    assert files_in(tmp_path) == []


def test_a_pair_that_is_not_held_leaves_all_unwritten(archive: TradeStore, tmp_path: Path) -> None:
    assert run(archive, "ohlc", "XBTUSD", "SOLUSD", "-i", "1m", "-o", str(tmp_path)) == (
        2,
        "",
        f"harvester: the archive at {archive.path} holds no trades of 'SOLUSD'; it holds ETHUSD, "
        f"XBTUSD. `harvester pairs --update --data {archive.path}` lists the markets\n",
    )
    assert files_in(tmp_path) == []


SEVERAL = "several pairs or intervals are written"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], f"{SEVERAL} into a folder: give -o FOLDER, such as -o candles"),
        (
            ["-f", "json", "-o", "x"],
            f"{SEVERAL} as Parquet or CSV, or for freqtrade or lean: --format json takes one pair "
            "and one --interval at a time",
        ),
        (
            ["-o", "x.parquet"],
            f"{SEVERAL} into a folder, and x.parquet names a file: give a folder",
        ),
        (
            ["-f", "lean"],
            "--format lean writes into a folder of its own: give -o, such as lean/data",
        ),
    ],
)
def test_an_output_that_can_not_have_several_tables_is_refused(
    archive: TradeStore, more: list[str], message: str
) -> None:
    assert run(archive, "ohlc", "XBTUSD", "-i", "1m", "-i", "1h", *more) == (
        2,
        "",
        f"harvester: {message}\n",
    )


def test_the_archive_itself_is_no_such_folder(archive: TradeStore) -> None:
    inside = f"{archive.path}/candles"
    assert run(archive, "ohlc", "XBTUSD", "-i", "1m", "-i", "1h", "-o", inside) == (
        2,
        "",
        f"harvester: {inside} lies in the archive at {archive.path}, which may contain only "
        "files of harvester: give another path\n",
    )
    assert not (archive.root / "candles").exists()


# --- bad questions -------------------------------------------------------------------------------

NO_INTERVAL = (
    "is no interval: give a number and one of ms, s, m, h, d, w, mo, q, y, such as 7m or 4h; a "
    "bare number is minutes"
)
NO_OFFSET = (
    "is no offset: give a number and one of ms, s, m, h, d, w, such as 30m, or -7h to move it back"
)
NO_ZONE = "which is no time zone of the tz database: give a name such as Europe/Berlin or UTC"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["-i", "0"], "interval '0' has no length: give 1 or more"),
        (["-i", "-5m"], f"'-5m' {NO_INTERVAL}"),
        (["-i", ""], f"'' {NO_INTERVAL}"),
        (
            ["-i", "1m", "-i", "101y"],
            "interval '101y' is longer than a century: give a shorter one",
        ),
        (["-i", "1m", "--tz", ""], f"tz is '', {NO_ZONE}"),
        (["-i", "1m", "--tz", "Nowhere/Atall"], f"tz is 'Nowhere/Atall', {NO_ZONE}"),
        (["-i", "1m", "--offset", "nonsense"], f"'nonsense' {NO_OFFSET}"),
        (["-i", "1m", "--offset", ""], f"'' {NO_OFFSET}"),
        (
            ["-i", "1m", "--since", "2024-02-01", "--until", "2024-01-01"],
            "since 2024-02-01 is not before until 2024-01-01: since is inclusive, until exclusive",
        ),
    ],
)
def test_a_bad_question_is_one_line(archive: TradeStore, asked: list[str], message: str) -> None:
    assert run(archive, "ohlc", "XBTUSD", *asked) == (2, "", f"harvester: {message}\n")


def test_an_empty_name_is_one_line(archive: TradeStore) -> None:
    message = "harvester: a pair's name is empty: give one such as XBT/USD\n"
    assert run(archive, "ohlc", "", "-i", "1m") == (2, "", message)


def test_a_span_that_is_not_covered_is_empty_with_a_hint(archive: TradeStore) -> None:
    span = ["--since", "2012-01-01", "--until", "2013-01-01", "--fill", "previous"]
    assert run(archive, "ohlc", "XBTUSD", "-i", "1m", *span, "-f", "csv") == (
        0,
        "time,open,high,low,close,vwap,volume,count\n",
        f"no candles there; `harvester status --data {archive.path}` shows what is covered\n",
    )


# --- a great many empty candles ------------------------------------------------------------------


def far_apart(path: Path, empty: int) -> TradeStore:
    """Two trades, with so many seconds between them that saw none; held up to the second."""
    last = START + (empty + 1) * SECOND
    rows = [trade(0, "5"), trade(empty + 1, "6")]
    return hold(TradeStore(path), [(Range(0, last + SECOND - 1), rows)])


@pytest.mark.parametrize("fill", ["previous", "null", "kraken"])
def test_more_than_a_million_empty_candles_need_an_end(tmp_path: Path, fill: str) -> None:
    held = far_apart(tmp_path, MILLION + 1)
    assert run(held, "ohlc", PAIR, "-i", "1s", "--fill", fill) == (
        2,
        "",
        f"harvester: 1s candles of XBTUSD: --fill {fill} would add some 1,000,001 empty ones, and "
        "no --until says where to end: give --until (now means all of them), a longer interval, "
        "or --fill none\n",
    )


def test_with_an_end_they_are_given(tmp_path: Path) -> None:
    held, file = far_apart(tmp_path / "data", MILLION + 1), tmp_path / "all.parquet"
    asked = ["ohlc", PAIR, "-i", "1s", "--fill", "previous", "--until", "now", "-o", str(file)]
    status, out, err = run(held, *asked)
    assert (status, out) == (0, "")
    gap, written = err.splitlines()
    # `now` is later than what is held.
    assert gap.startswith("not downloaded: 2020-09-25 02:13:43 to ")
    assert written == f"1,000,003 candles in {file}"


@pytest.mark.parametrize(
    "asked", [["-i", "2s", "--fill", "null"], ["-i", "1s"], ["-i", "1s", "--fill", "null"]]
)
def test_a_million_or_a_longer_interval_or_no_filling_needs_none(
    tmp_path: Path, asked: list[str]
) -> None:
    empty = MILLION if "1s" in asked and "null" in asked else MILLION + 1
    held, file = far_apart(tmp_path / "data", empty), tmp_path / "all.parquet"
    status, out, _ = run(held, "ohlc", PAIR, *asked, "-o", str(file))
    assert (status, out) == (0, "")


def test_seconds_that_saw_trades_are_not_counted(tmp_path: Path) -> None:
    # As many trades as seconds: no more rows than there are trades.
    rows = [trade(at, "5") for at in range(3)] + [trade(MILLION + 2, "5")]
    held = hold(TradeStore(tmp_path / "data"), [(Range(0, rows[-1][1] + SECOND - 1), rows)])
    file = tmp_path / "all.parquet"
    status, _, err = run(held, "ohlc", PAIR, "-i", "1s", "--fill", "null", "-o", str(file))
    assert (status, err) == (0, f"{MILLION + 3:,} candles in {file}\n")


def test_of_several_intervals_one_is_enough_to_refuse(tmp_path: Path) -> None:
    held = far_apart(tmp_path / "data", MILLION + 1)
    folder = tmp_path / "candles"
    asked: list[Any] = ["ohlc", PAIR, "-i", "1m", "-i", "1s", "--fill", "null", "-o", str(folder)]
    status, _, err = run(held, *asked)
    assert (status, err.startswith("harvester: 1s candles of XBTUSD: ")) == (2, True)
    assert not folder.exists()


def test_an_archive_without_a_trade_has_nothing_to_fill(tmp_path: Path) -> None:
    held = hold(TradeStore(tmp_path), [(Range(0, START), [])])
    status, out, _ = run(held, "ohlc", PAIR, "-i", "1ms", "--fill", "null", "-f", "csv")
    assert (status, out) == (0, "time,open,high,low,close,vwap,volume,count\n")
