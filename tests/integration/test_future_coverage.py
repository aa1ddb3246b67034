"""Coverage that ends in the future: a fault until `verify --repair` cuts it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import csv_files
import pytest
import sample_trades
from backfills import Backfill, foreign_files, rows_on_disk
from clock_shift import DAY_NS, MARKET, NOW_NS, SETTLED_NS, TRADES, Lying, all_settled
from csv_imports import imported
from kraken_market import SECOND_NS, Clock, Market, expected
from kraken_server import Exchange
from nightly_runs import FIRST_NS, Nights, daily

from harvester.cli.main import cli
from harvester.config import load
from harvester.csv_import.csv_files import CompletePeriod
from harvester.download.exchange import DownloadContext, RunOptions
from harvester.errors import HarvesterError, UnreadableAnswer
from harvester.events import CancelToken
from harvester.kraken.client import Client
from harvester.schema import NO_ROWS
from harvester.storage.compaction import verified_rows
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer, open_writer
from harvester.times import END_OF_TIME, Range, show
from harvester.verify.integrity import verify
from harvester.verify.repair import Repairer
from harvester.verify.reports import RepairReport
from harvester.verify.status import status

YEAR_NS = 365 * DAY_NS
# The wrong clock's moment lies four days before now; what is traded since is what it hides.
THEN_NS = NOW_NS - 4 * DAY_NS
FUTURES = {
    "a year ahead": THEN_NS + YEAR_NS,
    "the year 2223": 8_000_000_000 * SECOND_NS,
}


def written_ahead(exchange: Lying, folder: Path, future_ns: int, *, since: int = 0) -> None:
    """Download with both clocks wrong, as it was possible while only one was believed."""
    exchange.right.now_ns = THEN_NS
    exchange.lie, exchange.times = (lambda _now_s: future_ns // SECOND_NS), 10**6
    run = Backfill(exchange.url, folder, {"candles.rollups": "1m"}, now_ns=lambda: future_ns)
    assert run.only("XBTUSD", Range(since, END_OF_TIME)).exit_status == 0
    exchange.right.now_ns, exchange.times = NOW_NS, 0


def repaired(exchange: Exchange, folder: Path, now_ns: int = NOW_NS) -> RepairReport:
    """Verify and repair, by this machine's clock."""

    async def work() -> RepairReport:
        settings = load(
            {
                "exchange.url": exchange.url,
                "exchange.rate": 0,
                "exchange.retry_wait_s": 0.005,
                "candles.rollups": "1m",
            },
            environment={},
        )
        archive = TradeStore(folder)
        watch = RunOptions(lambda _event: None, CancelToken(), now_ns=lambda: now_ns)
        async with Client(settings.exchange) as client:
            run = DownloadContext(client, archive, settings, watch)
            found = verify(archive, "XBTUSD", now_ns=now_ns)
            return await Repairer(run, lambda _moved: None).repair(found)

    return asyncio.run(work())


def one_file(exchange: Lying, folder: Path, future_ns: int) -> None:
    """One segment, with trades, ends in the future."""
    written_ahead(exchange, folder, future_ns)


def an_empty_file(exchange: Lying, folder: Path, future_ns: int) -> None:
    """All that was traded is in an honest segment; an empty one follows it into the future."""
    exchange.right.now_ns, exchange.times = THEN_NS, 0
    run = Backfill(exchange.url, folder, {"refresh.settle_s": 0}, now_ns=lambda: THEN_NS)
    assert run.only("XBTUSD").exit_status == 0
    written_ahead(exchange, folder, future_ns)
    assert len(TradeStore(folder).segments("XBTUSD")) == 2


def a_file_from_the_middle(exchange: Lying, folder: Path, future_ns: int) -> None:
    """The segment in question begins behind another."""
    middle_ns = TRADES[2_000].true_ns
    exchange.right.now_ns, exchange.times = THEN_NS, 0
    run = Backfill(exchange.url, folder, now_ns=lambda: THEN_NS)
    assert run.only("XBTUSD", Range(0, middle_ns)).exit_status == 0
    written_ahead(exchange, folder, future_ns)
    assert len(TradeStore(folder).segments("XBTUSD")) == 2


SHAPES = (one_file, an_empty_file, a_file_from_the_middle)
Shape = Callable[[Lying, Path, int], None]


@pytest.mark.parametrize(
    ("shape", "future"),
    [*((shape, "a year ahead") for shape in SHAPES), (an_empty_file, "the year 2223")],
)
def test_coverage_in_the_future_is_a_fault_of_every_command_until_a_repair_cuts_it(
    shape: Shape, future: str, tmp_path: Path
) -> None:
    with Lying(MARKET, lambda now_s: now_s) as exchange:
        shape(exchange, tmp_path, FUTURES[future])
        archive = TradeStore(tmp_path)
        [covered] = archive.coverage("XBTUSD")
        assert covered.through > NOW_NS + DAY_NS
        before = rows_on_disk(tmp_path, "XBTUSD")
        said = f"its range ends in the future, at {show(covered.through)}, while this machine's"

        report = verify(archive, "XBTUSD", now_ns=NOW_NS)
        assert report.exit_status == 4
        assert [said in fault.text for fault in report.faults] == [True]
        [found] = status(archive, None, NOW_NS)
        assert (found.exit_status, [said in text for text in found.damaged]) == (4, [True])
        run = Backfill(exchange.url, tmp_path, now_ns=lambda: NOW_NS)
        outcome = run.only("XBTUSD")
        assert (outcome.exit_status, said in str(outcome.error)) == (4, True)
        assert rows_on_disk(tmp_path, "XBTUSD") == before

        done = repaired(exchange, tmp_path)
        assert (done.error, done.after.faults, done.exit_status) == (None, [], 0)
        assert archive.coverage("XBTUSD") == [Range(0, SETTLED_NS)]
        assert rows_on_disk(tmp_path, "XBTUSD") == all_settled()
        assert run.only("XBTUSD").exit_status == 0
        [found] = status(archive, None, NOW_NS)
        assert (found.exit_status, found.wanted) == (0, [Range(0, SETTLED_NS)])
    assert foreign_files(tmp_path) == []


@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "record lost"])
def test_a_repair_keeps_the_rows_and_downloads_only_what_follows(
    is_recorded: bool, tmp_path: Path
) -> None:
    with Lying(MARKET, lambda now_s: now_s) as exchange:
        one_file(exchange, tmp_path, FUTURES["a year ahead"])
        if not is_recorded:
            (tmp_path / "wanted/XBTUSD.json").unlink()
        held = len(rows_on_disk(tmp_path, "XBTUSD"))
        done = repaired(exchange, tmp_path)
    assert held > 2_000
    assert done.trades == len(all_settled()) - held
    [moved] = done.moved
    assert str(moved) == f"XBTUSD: cut {moved.path} to {moved.new_path}"
    last_ns = expected(MARKET)[held - 1][1]
    assert moved.new_path.endswith(f"/{0:019d}-{last_ns:019d}.parquet")
    assert moved.wanted == (Range(last_ns, SETTLED_NS),)
    assert not (tmp_path / "quarantine").exists()


@pytest.mark.parametrize("rounding", csv_files.ROUNDINGS)
def test_an_imported_range_is_cut_at_a_quiet_moment(rounding: str, tmp_path: Path) -> None:
    """The last trades of a file may be later than it says: they must not be stored twice."""
    folder, file = tmp_path / "data", tmp_path / "XBTUSD.csv"
    file.write_bytes(csv_files.three_columns(TRADES[:2_000], rounding))
    imported(folder, file, whole=CompletePeriod(0, NOW_NS // SECOND_NS + 90 * 86_400))
    with Lying(MARKET, lambda now_s: now_s, times=0) as exchange:
        done = repaired(exchange, folder)
    assert (done.error, done.after.faults, done.moved) == (None, [], [])
    assert [gap.through for gap in done.uncovered] == [SETTLED_NS]
    assert len(all_settled()) - 2_000 < done.trades < len(all_settled()) - 1_900
    volumes = [row[4] for row in rows_on_disk(folder, "XBTUSD")]
    assert volumes == [row[4] for row in all_settled()]
    assert TradeStore(folder).coverage("XBTUSD") == [Range(0, SETTLED_NS)]
    assert TradeStore(folder).requested("XBTUSD")[-1].through == SETTLED_NS


def test_an_imported_range_of_a_pair_that_is_not_listed_any_more_is_not_cut(
    tmp_path: Path,
) -> None:
    folder, file = tmp_path / "data", tmp_path / "XBTUSD.csv"
    file.write_bytes(csv_files.three_columns(TRADES[:2_000]))
    imported(folder, file, whole=CompletePeriod(0, NOW_NS // SECOND_NS + 90 * 86_400))
    before = rows_on_disk(folder, "XBTUSD")
    with Lying(MARKET, lambda now_s: now_s, times=0) as exchange:
        exchange.add(sample_trades.tiny_coin(60, 172))
        exchange.delist("XBTUSD")
        done = repaired(exchange, folder)
    assert (done.exit_status, done.moved, done.uncovered) == (4, [], [])
    assert rows_on_disk(folder, "XBTUSD") == before


def test_a_crash_between_the_new_file_and_the_old_file_is_repaired_by_the_next_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with Lying(MARKET, lambda now_s: now_s) as exchange:
        one_file(exchange, tmp_path, FUTURES["a year ahead"])
        before = rows_on_disk(tmp_path, "XBTUSD")
        with monkeypatch.context() as patch:
            patch.setattr(Writer, "remove", crash)
            with pytest.raises(KeyboardInterrupt):
                repaired(exchange, tmp_path)
        assert len(TradeStore(tmp_path).segments("XBTUSD")) == 2
        rows = [tuple(row.values()) for row in _scanned(tmp_path)]
        assert len(rows) == len(before)
        done = repaired(exchange, tmp_path)
        assert (done.error, done.exit_status) == (None, 0)
    assert rows_on_disk(tmp_path, "XBTUSD") == all_settled()
    assert foreign_files(tmp_path) == []


def _scanned(folder: Path) -> list[dict[str, Any]]:
    return [row for batch in TradeStore(folder).scan("XBTUSD") for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("machine_ns", "exchange_ns"),
    [
        (60 * SECOND_NS, NOW_NS),
        (NOW_NS - YEAR_NS, NOW_NS),
        (NOW_NS - YEAR_NS, THEN_NS - 2 * YEAR_NS),
    ],
    ids=["1970", "a year back", "a year back, and an exchange farther back"],
)
def test_nothing_is_cut_by_a_machine_whose_clock_nobody_confirms(
    machine_ns: int, exchange_ns: int, tmp_path: Path
) -> None:
    with Exchange([MARKET], clock=Clock(NOW_NS)) as exchange:
        Backfill(exchange.url, tmp_path, now_ns=lambda: NOW_NS).only("XBTUSD")
        before = sorted(tmp_path.rglob("*.parquet"))
        exchange.clock = Clock(exchange_ns)
        done = repaired(exchange, tmp_path, machine_ns)
    assert isinstance(done.error, UnreadableAnswer)
    assert show(machine_ns) in str(done.error)
    assert (done.exit_status, done.moved) == (3, [])
    assert sorted(tmp_path.rglob("*.parquet")) == before


def test_what_a_wrong_clock_wanted_of_the_future_is_trimmed_by_the_next_run(tmp_path: Path) -> None:
    """It was interrupted, so that coverage is right and only the request is wrong."""
    with Exchange([MARKET], clock=Clock(NOW_NS)) as exchange:
        run = Backfill(exchange.url, tmp_path, now_ns=lambda: NOW_NS)
        run.only("XBTUSD", Range(0, THEN_NS))
        path = tmp_path / "wanted/XBTUSD.json"
        path.write_text(json.dumps({"pair": "XBTUSD", "spans": [[0, END_OF_TIME]]}))
        archive = TradeStore(tmp_path)
        [found] = status(archive, None, NOW_NS)
        assert (found.exit_status, found.gaps) == (4, [Range(THEN_NS, NOW_NS)])
        [fault] = verify(archive, "XBTUSD", now_ns=NOW_NS).faults
        assert fault.range == Range(THEN_NS, NOW_NS)
        assert run.only("XBTUSD").exit_status == 0
    assert json.loads(path.read_text())["spans"] == [[0, SETTLED_NS]]
    assert rows_on_disk(tmp_path, "XBTUSD") == all_settled()
    [found] = status(archive, None, NOW_NS)
    assert (found.exit_status, found.gaps) == (0, [])


def _until_now(trades: int) -> Market:
    """Trades of the last days by the real clock, as the commands go by it."""
    made = sample_trades.xbtusd_like(trades, 62, start_ns=time.time_ns() - 3 * DAY_NS, first_id=1)
    return sample_trades.market(made)


def test_the_commands_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    market = _until_now(1_500)
    monkeypatch.setenv("HARVESTER_EXCHANGE_RATE", "0")

    def command(words: str) -> int:
        try:
            code = cli([*words.split(), "-d", str(tmp_path)], standalone_mode=False)
        except HarvesterError as error:
            code = error.exit_status
        return int(code)

    commands = ("status", "verify", "refresh", "backfill XBTUSD")
    with Exchange([market]) as exchange:
        monkeypatch.setenv("HARVESTER_EXCHANGE_URL", exchange.url)
        assert command("backfill XBTUSD") == 0
        _rename_into_the_future(tmp_path)
        for words in (*commands, "status --digest"):
            assert (words, command(words)) == (words, 4)
        capsys.readouterr()
        assert command("verify --repair") == 0
        assert "XBTUSD: cut trades/" in capsys.readouterr().out
        for words in commands:
            assert (words, command(words)) == (words, 0)
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


def _rename_into_the_future(folder: Path) -> None:
    """Make of a segment what a clock a year ahead would have made."""
    archive = TradeStore(folder)
    [segment] = archive.segments("XBTUSD")
    footer = archive.footer(segment)
    span = Range(0, segment.range.through + YEAR_NS)
    pair_writer = Writer(archive, "XBTUSD")
    pair_writer._write(verified_rows(archive, [segment]), replace(footer, range=span))
    pair_writer.remove(segment)


def test_a_refresh_finds_it_in_a_pair_that_is_not_listed_any_more(tmp_path: Path) -> None:
    clock = Clock(FIRST_NS + DAY_NS)
    with Exchange([daily("ETHEUR", 50, 2), daily("SOLEUR", 50, 2)], clock=clock) as exchange:
        nights = Nights(tmp_path, exchange, clock)
        nights.refresh("ETHEUR", "SOLEUR")
        exchange.delist("ETHEUR")
        archive = TradeStore(tmp_path)
        future = Range(archive.coverage("ETHEUR")[-1].through, END_OF_TIME)
        with open_writer(archive, "ETHEUR") as pair_writer:
            pair_writer.commit(future, NO_ROWS, Footer(future, '{"altname":"ETHEUR"}'))
        nights.pass_day()
        rows = {row["pair"]: row for row in nights.refresh()["pairs"]}
    assert (rows["ETHEUR"]["exit_status"], rows["SOLEUR"]["exit_status"]) == (4, 0)
    assert "ends in the future" in rows["ETHEUR"]["error"]
