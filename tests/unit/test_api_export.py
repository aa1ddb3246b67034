"""`Archive.export`: several pairs and intervals, other programs' layouts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sample_trades
from candle_cases import PAIR, cut, hold
from kraken_market import expected

import harvester
from harvester.errors import BadInterval, BadSetting, HarvesterError, NothingStored, UsageError
from harvester.storage.trade_store import TradeStore

TRADES = expected(sample_trades.market(sample_trades.xbtusd_like(300, 4)))
NAMES = {PAIR: {"altname": PAIR, "wsname": "XBT/USD"}}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> harvester.Archive:
    folder = tmp_path_factory.mktemp("archive")
    (folder / "pairs.json").write_text(json.dumps(NAMES))
    hold(TradeStore(folder), cut(TRADES, [0, TRADES[-1][1]]))
    return harvester.open(folder)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_each_file_has_the_rows_of_ohlc(archive: harvester.Archive, tmp_path: Path) -> None:
    files = archive.export(PAIR, folder=tmp_path, intervals=["1m", 60])
    assert [(file.pair, file.interval) for file in files] == [(PAIR, "1m"), (PAIR, "60")]
    for file in files:
        candles = archive.ohlc(PAIR, str(file.interval)).to_arrow_table()
        assert pq.read_table(file.path, partitioning=None).equals(candles)
        assert file.rows == candles.num_rows


def test_progress_is_called_with_each_file_once_it_is_written(
    archive: harvester.Archive, tmp_path: Path
) -> None:
    seen: list[tuple[harvester.ExportedFile, bool]] = []
    files = archive.export(
        PAIR,
        folder=tmp_path,
        intervals=["1m", "1h"],
        layout="csv",
        progress=lambda file: seen.append((file, Path(file.path).is_file())),
    )
    assert seen == [(file, True) for file in files]


def test_pairs_and_intervals_of_one_meaning_are_written_once(
    archive: harvester.Archive, tmp_path: Path
) -> None:
    files = archive.export(PAIR, "btc/usd", folder=tmp_path, intervals=["60", "60m", 60])
    assert [file.path for file in files] == [
        str(tmp_path / "interval=60m" / f"pair={PAIR}" / "candles.parquet")
    ]


def test_without_intervals_freqtrade_gets_trades(
    archive: harvester.Archive, tmp_path: Path
) -> None:
    [file] = archive.export(PAIR, folder=tmp_path, layout="freqtrade")
    assert file == harvester.ExportedFile(
        PAIR, None, str(tmp_path / "BTC_USD-trades.feather"), len(TRADES)
    )


def test_incomplete_candles_are_left_out_for_other_programs(
    archive: harvester.Archive, tmp_path: Path
) -> None:
    [file] = archive.export(PAIR, folder=tmp_path, intervals=["1m"], layout="lean")
    candles = archive.ohlc(PAIR, "1m", all_columns=True).select("is_complete").fetchall()
    assert (file.rows, file.left_out) == (candles.count((True,)), candles.count((False,)))
    assert file.left_out > 0


@pytest.mark.parametrize(
    ("pairs", "options", "error", "message"),
    [
        ((), {}, UsageError, "no pair is given: give one or several, such as 'XBT/USD'"),
        (
            (PAIR,),
            {"layout": "xlsx"},
            BadSetting,
            "layout is 'xlsx': give one of parquet, csv, freqtrade, lean",
        ),
        (
            (PAIR,),
            {"intervals": ()},
            UsageError,
            "the layout parquet has no trades: give intervals such as ['1h'], or the layout "
            "'freqtrade'",
        ),
        (
            (PAIR,),
            {"intervals": "1h"},
            BadInterval,
            "intervals must be a list of intervals, such as ['1m', '1h'], not str",
        ),
        (
            (PAIR,),
            {"intervals": ["1h", 1.5]},
            BadInterval,
            "each of intervals must be text such as '4h', a whole number of minutes, or a "
            "timedelta, not float",
        ),
        ((PAIR, "SOLUSD"), {}, NothingStored, None),
        ((PAIR,), {"intervals": ["1h", "2h"], "layout": "lean"}, BadInterval, None),
        ((PAIR,), {"until": "2026-01-01", "strict": True}, harvester.ArchiveHasGaps, None),
    ],
)
def test_what_is_wrong_leaves_all_unwritten(
    archive: harvester.Archive,
    tmp_path: Path,
    pairs: tuple[str, ...],
    options: dict[str, Any],
    error: type[HarvesterError],
    message: str | None,
) -> None:
    arguments: dict[str, Any] = {"folder": tmp_path / "out", "intervals": ["1h"]} | options
    with pytest.raises(error) as caught:
        archive.export(*pairs, **arguments)
    assert message in (None, str(caught.value))
    assert files_in(tmp_path) == []


def test_a_database_file_finds_the_trades(archive: harvester.Archive, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    archive.write_database(tmp_path / "views.duckdb")
    with duckdb.connect(str(tmp_path / "views.duckdb"), read_only=True) as connection:
        assert connection.sql("SELECT count(*) FROM trades").fetchall() == [(len(TRADES),)]


def test_explain_names_the_files_that_ohlc_reads(archive: harvester.Archive) -> None:
    plan = archive.explain(PAIR, "1h", fill="previous")
    assert [read.rows for read in plan.reads] == [len(TRADES)]
    assert plan.query.fill == "previous"
