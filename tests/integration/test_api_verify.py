"""Archive.verify, .digest and .runs: the reports, the events, and what a command adds to them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import corruption
import pytest
from backfills import serve
from corruption import MARKET, PAIR
from kraken_server import Exchange

import harvester
from harvester.events import Event, Reported
from harvester.verify.reports import (
    CsvReport,
    ExchangeReport,
    PairReport,
    RepairedFile,
    RepairReport,
)


class Opened(NamedTuple):
    """An archive of four segments, and the exchange that its trades are of."""

    archive: harvester.Archive
    folder: Path
    exchange: Exchange


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corruption.build(
        tmp_path_factory.mktemp("sound"), lambda: tmp_path_factory.mktemp("part")
    )


@pytest.fixture
def opened(built: Path, tmp_path: Path) -> Iterator[Opened]:
    folder = Path(shutil.copytree(built, tmp_path / "data"))
    with serve(MARKET) as exchange:
        settings = {
            "exchange.url": exchange.url,
            "exchange.rate": 0,
            "exchange.give_up_s": 1,
            "candles.rollups": [],
        }
        yield Opened(harvester.open(folder, settings=settings), folder, exchange)


def reported(events: list[Event]) -> list[type]:
    """The types of the reports among some events, in their order."""
    return [type(event.report) for event in events if isinstance(event, Reported)]


def test_verify_reports_faults_and_raises_nothing(opened: Opened) -> None:
    corruption.digit_changed(opened.folder, 1)
    [report] = opened.archive.verify(PAIR)
    assert (len(report.faults), report.exit_status, report.repair) == (1, 4, None)


def test_a_repair_gives_the_state_after_it_and_what_was_done(opened: Opened) -> None:
    corruption.digit_changed(opened.folder, 1)
    events: list[Event] = []
    [report] = opened.archive.verify(repair=True, progress=events.append)
    assert report.repair is not None
    assert (report.faults, report.exit_status, report.rows) == ([], 0, 800)
    assert (len(report.repair.before.faults), report.repair.trades) == (1, 200)
    assert reported(events) == [PairReport, RepairedFile, RepairReport]


def test_a_repair_is_in_the_run_log(opened: Opened) -> None:
    corruption.digit_changed(opened.folder, 1)
    opened.archive.verify(repair=True)
    [run] = opened.archive.runs()
    assert (run.command, run.exit_status, run.asked) == ("repair", 0, {"pairs": [PAIR]})
    assert [(pair.pair, pair.moved, pair.trades) for pair in run.pairs] == [(PAIR, 1, 200)]


def test_a_sound_pair_is_not_repaired_and_leaves_no_run(opened: Opened) -> None:
    [report] = opened.archive.verify(repair=True)
    assert (report.repair, opened.archive.runs()) == (None, [])


def test_a_comparison_with_the_exchange_is_a_part_of_the_report(opened: Opened) -> None:
    events: list[Event] = []
    [report] = opened.archive.verify(against_exchange=True, progress=events.append)
    assert report.exchange is not None
    assert (report.exchange.error, report.exchange.differing) == (None, 0)
    assert reported(events) == [PairReport, ExchangeReport]


def test_an_unreachable_exchange_is_an_error_in_the_report_and_no_fault_of_the_archive(
    opened: Opened,
) -> None:
    settings = {
        "exchange.url": "http://127.0.0.1:9",
        "exchange.retry_wait_s": 0.01,
        "exchange.give_up_s": 0.1,
    }
    [report] = harvester.open(opened.folder, settings=settings).verify(against_exchange=True)
    assert report.exchange is not None
    assert isinstance(report.exchange.error, harvester.ExchangeUnreachable)
    assert (report.exchange.exit_status, report.exit_status) == (3, 0)


def test_a_comparison_with_candle_files_is_a_part_of_the_report(
    opened: Opened, tmp_path: Path
) -> None:
    path = tmp_path / f"{PAIR}_60.csv"
    path.write_text("0,1,1,1,1,1,1\n")
    events: list[Event] = []
    [report] = opened.archive.verify(against_csv=[path], progress=events.append)
    assert report.csv is not None
    assert [file.file for file in report.csv.files] == [path.name]
    assert reported(events)[-1] is CsvReport


def test_a_file_that_is_not_there_is_an_error_before_trades_are_read(opened: Opened) -> None:
    events: list[Event] = []
    with pytest.raises(harvester.BadFile):
        opened.archive.verify(against_csv=["nowhere.csv"], progress=events.append)
    assert events == []


def test_a_pair_that_is_named_twice_is_checked_once(opened: Opened) -> None:
    assert [report.pair for report in opened.archive.verify(PAIR, "xbt/usd")] == [PAIR]


def test_runs_of_count_0_is_a_usage_error(opened: Opened) -> None:
    with pytest.raises(harvester.UsageError, match="count is 0: give 1 or more"):
        opened.archive.runs(0)


def test_a_pair_that_is_named_twice_is_handled_once(opened: Opened) -> None:
    names = [PAIR, PAIR.lower()]
    assert opened.archive.digest(*names) == opened.archive.digest(PAIR)
    assert [result.pair for result in opened.archive.compact(*names)] == [PAIR]
    assert [result.pair for result in opened.archive.rollup(*names)] == [PAIR]


def test_digests_are_those_of_the_report(opened: Opened) -> None:
    [report] = opened.archive.verify()
    assert opened.archive.digest() == report.digests
    assert opened.archive.digest(PAIR, since="2100-01-01") == []
