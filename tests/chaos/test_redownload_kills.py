"""A re-download that is killed at any step loses no trade, and the next run continues it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sample_trades
from backfills import serve
from download_kills import Steps, dying
from kraken_market import Clock, Trade
from kraken_server import Exchange
from process import Victims, hunt
from redownload_kills import (
    MIDNIGHT_NS,
    PAIR,
    Begun,
    busy_new_year,
    numbered,
)

from harvester.csv_import import redownload
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, Range

NOW_NS = sample_trades.utc_ns(2025, 3, 1)


def quiet_new_year() -> list[Trade]:
    """A trade that a file which rounds up has in the next year."""
    far = [MIDNIGHT_NS + at * DAY // 3 for at in (-9, -8, 2, 3, 7)]
    return numbered([*far, MIDNIGHT_NS - 200_000_000])


@pytest.fixture(params=["busy", "quiet"])
def begun(request: Any, tmp_path: Path) -> Iterator[Begun]:
    trades = busy_new_year() if request.param == "busy" else quiet_new_year()
    early = None if request.param == "busy" else Range(0, MIDNIGHT_NS - DAY // 2)
    with serve(sample_trades.market(trades), clock=Clock(NOW_NS)) as exchange:
        yield Begun(tmp_path, exchange, trades, early)


def test_a_redownload_killed_at_any_step_on_the_disk_is_continued(
    begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it left two files of one time, a sweep by any writer leaves one of them."""
    deaths = doubled = 0
    while True:
        folder, steps = begun.copy(f"{deaths}"), Steps(deaths)

        def opened(path: Path, steps: Steps = steps) -> TradeStore:
            return dying(path, steps)

        with monkeypatch.context() as patch:
            patch.setattr(redownload, "TradeStore", opened)
            begun.backfill(folder, replace_imported=True, open=opened).only(PAIR)
        if not steps.is_dead:
            break
        deaths += 1
        begun.check_between(folder)
        doubled += is_swept(begun, folder)
        begun.backfill(folder, replace_imported=True).only(PAIR)
        begun.check_end(folder)
        assert len(list((folder / "quarantine").rglob("*.parquet"))) == 1
        shutil.rmtree(folder)
    begun.check_end(folder)
    assert deaths > 20
    assert doubled


def is_swept(begun: Begun, folder: Path) -> bool:
    """Whether two files had trades of one time in an archive; a writer's sweep leaves one."""
    archive = TradeStore(folder)
    if len(archive.pieces(PAIR)) == len(archive.segments(PAIR)):
        return False
    swept = TradeStore(shutil.copytree(folder, folder.with_name("swept")))
    with open_writer(swept, PAIR):
        assert len(swept.pieces(PAIR)) == len(swept.segments(PAIR))
    begun.check_between(swept.root)
    shutil.rmtree(swept.root)
    return True


def called(exchange: Exchange, times: int) -> bool:
    return len(exchange.calls) >= times


def test_killed_at_random_moments_a_redownload_is_exact(begun: Begun) -> None:
    """The real process, by SIGKILL; the run that is left alone comes to the end."""
    chance = random.Random(5)
    victims = Victims(
        begun.copy("killed"),
        begun.exchange.url,
        {"HARVESTER_EXCHANGE_RATE": "0", "HARVESTER_ARCHIVE_FLUSH_ROWS": "30"},
    )
    words = ["backfill", PAIR, "--replace-imported", "-q"]
    killed = 0
    for _ in range(6):
        due = partial(called, begun.exchange, len(begun.exchange.calls) + chance.choice((1, 3, 5)))
        end = hunt(victims.fork(words), due)
        killed += end.killed
        begun.check_between(victims.folder)
    assert killed
    assert victims.run(words).status in (0, 4)
    begun.check_end(victims.folder)
