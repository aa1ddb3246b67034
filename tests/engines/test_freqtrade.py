"""freqtrade as it comes from the index, pointed at `harvester serve` by its configuration alone."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
import pytest
from engines import REASON, RECIPE_URL, recipe, sample_archive, served

import harvester

pytestmark = pytest.mark.skipif(find_spec("freqtrade") is None, reason=REASON.format("freqtrade"))

PROGRAM = str(Path(sys.executable).with_name("freqtrade"))
SINCE, UNTIL = "2026-01-22", "2026-01-28"
COMMANDS = recipe("tools.md", "freqtrade", "sh").splitlines()


Fill = Literal["none", "previous"]


class Downloaded(NamedTuple):
    """The folder that freqtrade ran in, after the recipe's two downloads."""

    folder: Path
    data: Path


def run(folder: Path, line: str, *more: str) -> str:
    program, *words = shlex.split(line)
    assert program == "freqtrade"
    done = subprocess.run(
        [PROGRAM, *words, *more], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> harvester.Archive:
    return sample_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def downloaded(
    archive: harvester.Archive, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Downloaded]:
    folder = tmp_path_factory.mktemp("freqtrade")
    strategies = folder / "user_data" / "strategies"
    strategies.mkdir(parents=True)
    (strategies / "crossing.py").write_text(recipe("tools.md", "freqtrade", "python"))
    with served(Path(archive.path)) as url:
        config = recipe("tools.md", "freqtrade", "json").replace(RECIPE_URL, url)
        (folder / "config.json").write_text(config)
        for line in COMMANDS[:2]:
            run(folder, line)
        yield Downloaded(folder, folder / "user_data" / "data" / "kraken")


def stored_candles(archive: harvester.Archive, interval: str, fill: Fill = "none") -> pd.DataFrame:
    """Candles as freqtrade keeps them: floats, and `date`."""
    frame = archive.ohlc("XBT/USD", interval, since=SINCE, until=UNTIL, fill=fill).df()
    names = ["open", "high", "low", "close", "volume"]
    frame = frame.set_index("time")[names].astype(float)
    frame.index = pd.to_datetime(frame.index, utc=True)
    return frame


def kept_candles(downloaded: Downloaded, timeframe: str) -> pd.DataFrame:
    frame = pd.read_feather(downloaded.data / f"BTC_USD-{timeframe}.feather").set_index("date")
    until = pd.Timestamp(UNTIL, tz="UTC")
    return frame[frame.index < until]


def assert_equal(found: pd.DataFrame, stored: pd.DataFrame) -> None:
    assert found.index.tolist() == stored.index.tolist()
    prices = ["open", "high", "low", "close"]
    assert (found[prices].to_numpy() == stored[prices].to_numpy()).all()
    # freqtrade adds floats up where it makes candles of trades.
    assert found["volume"].to_numpy() == pytest.approx(stored["volume"].to_numpy(), rel=1e-12)


def test_downloaded_candles_are_the_archives(
    archive: harvester.Archive, downloaded: Downloaded
) -> None:
    found = kept_candles(downloaded, "5m")
    assert len(found) == 6 * 288
    assert_equal(found, stored_candles(archive, "5m", fill="previous"))


def test_downloaded_trades_are_the_archives(
    archive: harvester.Archive, downloaded: Downloaded
) -> None:
    found = pd.read_feather(downloaded.data / "BTC_USD-trades.feather")
    stored = archive.trades("XBT/USD", since=SINCE, until=UNTIL).df()
    found = found[found["timestamp"] < pd.Timestamp(UNTIL).value // 10**6]
    assert len(found) == len(stored) > 10_000
    # ccxt sorts trades of one millisecond by their ids as texts.
    found = found.assign(number=found["id"].astype(int)).sort_values("number")
    assert found["number"].tolist() == stored["trade_id"].tolist()
    assert found["price"].tolist() == stored["price"].astype(float).tolist()
    assert found["amount"].tolist() == stored["volume"].astype(float).tolist()
    assert found["side"].tolist() == stored["side"].tolist()


def test_candles_that_freqtrade_makes_of_trades_are_the_archives(
    archive: harvester.Archive, downloaded: Downloaded
) -> None:
    assert_equal(kept_candles(downloaded, "1h"), stored_candles(archive, "1h"))


def test_a_backtest_trades_at_the_archives_prices(
    archive: harvester.Archive, downloaded: Downloaded
) -> None:
    run(downloaded.folder, COMMANDS[2], "--cache", "none", "--export", "trades")
    results = downloaded.folder / "user_data" / "backtest_results"
    [exported] = results.glob("*.zip")
    with zipfile.ZipFile(exported) as file:
        made = json.loads(file.read(f"{exported.stem}.json"))["strategy"]["Crossing"]["trades"]
    opens = stored_candles(archive, "5m", fill="previous")["open"]
    assert len(made) > 5
    for trade in made:
        assert trade["open_rate"] == opens[pd.Timestamp(trade["open_date"])]
        if trade["exit_reason"] == "exit_signal":
            assert trade["close_rate"] == opens[pd.Timestamp(trade["close_date"])]
    assert any(trade["exit_reason"] == "exit_signal" for trade in made)
