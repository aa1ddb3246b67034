"""Backfills from Python: on an event loop or beside one, interrupted, cancelled, gone wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sample_trades
from backfills import foreign_files, rows_on_disk, serve
from kraken_faults import Faults
from kraken_market import Clock, Trade, expected
from kraken_server import Exchange

import harvester
from harvester.async_runner import run_in_thread
from harvester.errors import (
    ArchiveLocked,
    ExchangeUnreachable,
    NothingStored,
    UnknownPair,
    UsageError,
    ValueDoesNotFit,
)
from harvester.events import Begun, Committed, Event, PageRead, Started
from harvester.operations.run_log import latest_runs
from harvester.storage.trade_store import TradeStore as Disk
from harvester.storage.writer import open_writer

MARKET = sample_trades.market(sample_trades.xbtusd_like(5_000, 61), wsname="XBT/USD")
HISTORY = list(expected(MARKET))
UNTIL = "2024-06-01"


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with serve(
        MARKET, sample_trades.tiny_coin(500, 61), sample_trades.thirteen_decimals(5, 61)
    ) as server:
        yield server


def opened(url: str, path: Path, **more: Any) -> harvester.Archive:
    settings = {
        "exchange.url": url,
        "exchange.rate": 0,
        "exchange.retry_wait_s": 0.005,
        "exchange.give_up_s": 1,
    }
    return harvester.open(path, settings=settings | more)


@pytest.fixture
def archive(exchange: Exchange, tmp_path: Path) -> harvester.Archive:
    return opened(exchange.url, tmp_path)


def test_a_backfill_stores_the_history_and_returns_its_counts(archive: harvester.Archive) -> None:
    [outcome] = archive.backfill("btc/usd", until=UNTIL)
    assert outcome[:3] == ("XBTUSD", 5_000, 8)
    assert (outcome.gaps, outcome.error) == ([], None)
    assert rows_on_disk(Path(archive.path), "XBTUSD") == HISTORY


def test_it_leaves_a_record_as_the_command_does(archive: harvester.Archive) -> None:
    archive.backfill("btc/usd", since="2024-01-21", until=UNTIL)
    with pytest.raises(UnknownPair):
        archive.backfill("nothing")
    archive.refresh("XBT/USD")
    refreshed, wrong, backfilled = latest_runs(Disk(archive.path), 9)
    assert [run.command for run in (refreshed, wrong, backfilled)] == [
        "refresh",
        "backfill",
        "backfill",
    ]
    assert [run.exit_status for run in (refreshed, wrong, backfilled)] == [0, 2, 0]
    assert backfilled.asked == {
        "pairs": ["btc/usd"],
        "since": "2024-01-21T00:00:00Z",
        "until": "2024-06-01T00:00:00Z",
        "newest_first": False,
        "replace_imported": False,
    }
    assert backfilled.trades == archive.status()[0].trades
    assert backfilled.calls > 2


def test_a_refresh_brings_a_pair_up_to_now(archive: harvester.Archive) -> None:
    archive.backfill("XBTUSD", until=UNTIL)
    done = archive.refresh()
    assert [(pair.pair, pair.state, pair.trades) for pair in done.pairs] == [
        ("XBTUSD", "complete", 0)
    ]
    assert (done.exit_status, done.exchange) == (0, "online")
    assert archive.gaps("XBTUSD") == []


def test_a_refresh_that_runs_out_of_time_ends_with_status_0_and_a_message(
    archive: harvester.Archive,
) -> None:
    archive.backfill("XBTUSD", until=UNTIL)
    done = archive.refresh("XBTUSD", max_minutes=1e-9)
    assert str(done.error) == "time limit reached; the next run continues from here"
    assert ([pair.state for pair in done.pairs], done.exit_status) == (["unfinished"], 0)


def test_a_refresh_of_an_empty_archive_is_an_error_that_names_backfill(
    archive: harvester.Archive,
) -> None:
    with pytest.raises(NothingStored) as caught:
        archive.refresh()
    assert str(caught.value) == (
        f"nothing to refresh: the archive at {archive.path} is empty, and [refresh] pairs names "
        "none. `harvester backfill XBT/USD` creates it"
    )


def test_several_pairs_have_a_result_each(archive: harvester.Archive) -> None:
    outcomes = archive.backfill("BTTUSD", "XBT/USD", until=UNTIL)
    assert [(outcome.pair, outcome.trades) for outcome in outcomes] == [
        ("BTTUSD", 500),
        ("XBTUSD", 5_000),
    ]
    assert archive.stored_pairs() == ["BTTUSD", "XBTUSD"]


def test_what_it_fetched_is_seen_by_the_archive_that_was_open(archive: harvester.Archive) -> None:
    middle = HISTORY[2_000][1]
    archive.backfill("XBTUSD", until=middle)
    first = archive.trades("XBTUSD")
    assert len(first) == len([row for row in HISTORY if row[1] < middle])
    archive.backfill("XBTUSD", until=UNTIL)
    assert len(archive.trades("XBTUSD")) == 5_000


def test_it_works_while_an_event_loop_runs(archive: harvester.Archive) -> None:
    async def cell() -> int:
        return archive.backfill("XBTUSD", until=UNTIL)[0].trades

    assert asyncio.run(cell()) == 5_000


def test_it_works_in_a_thread(archive: harvester.Archive) -> None:
    thread = threading.Thread(target=archive.backfill, args=["XBTUSD"], kwargs={"until": UNTIL})
    thread.start()
    thread.join()
    assert rows_on_disk(Path(archive.path), "XBTUSD") == HISTORY


def test_awaited_it_runs_on_the_loop_that_runs(archive: harvester.Archive) -> None:
    seen: set[int] = set()

    async def both() -> int:
        listener: Callable[[Event], None] = lambda _: seen.add(threading.get_ident())  # noqa: E731
        return (await archive.abackfill("XBTUSD", until=UNTIL, progress=listener))[0].trades

    assert asyncio.run(both()) == 5_000
    assert threading.get_ident() in seen


def test_progress_events_read_as_lines(archive: harvester.Archive) -> None:
    log: list[Event] = []
    archive.backfill("XBTUSD", since="2020-01-01", until=UNTIL, progress=log.append)
    kinds = [type(event) for event in log]
    assert (kinds[:2], kinds[-1]) == ([Begun, Started], harvester.BackfillResult)
    assert {PageRead, Committed} <= set(kinds)
    assert [str(log[1]), str(log[-1])] == [
        "XBTUSD: downloading from 2020-01-01 to 2024-06-01",
        "XBTUSD: 5,000 trades in 10 pages, complete through 2024-05-31T23:59:59Z",
    ]


def test_a_cancelled_backfill_keeps_what_was_fetched(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(20_000, 62))

    async def cancelled(archive: harvester.Archive) -> None:
        page = asyncio.Event()
        loop = asyncio.get_running_loop()

        def listener(event: Event) -> None:
            if isinstance(event, PageRead):
                loop.call_soon_threadsafe(page.set)

        task = asyncio.create_task(archive.abackfill("XBTUSD", until=UNTIL, progress=listener))
        await page.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with serve(market, latency_s=0.01) as exchange:
        archive = opened(exchange.url, tmp_path)
        asyncio.run(cancelled(archive))
        kept = rows_on_disk(tmp_path, "XBTUSD")
        assert 0 < len(kept) < 20_000
        assert kept == list(expected(market))[: len(kept)]
        archive.backfill("XBTUSD", until=UNTIL)
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))
    assert foreign_files(tmp_path) == []


PROGRAM = """
import harvester
from harvester.async_runner import run_in_thread
archive = harvester.open("data")
def listener(event):
    if type(event).__name__ == "PageRead":
        print("page", flush=True)
try:
    archive.backfill("XBTUSD", until="2024-06-01", progress=listener)
except KeyboardInterrupt:
    print("kept", archive.status()[0].trades)
"""


def test_ctrl_c_keeps_what_was_fetched(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(20_000, 63))
    with serve(market, latency_s=0.02) as exchange:
        known = {k: v for k, v in os.environ.items() if not k.startswith("HARVESTER_")}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=known | {"HARVESTER_EXCHANGE_URL": exchange.url, "HARVESTER_EXCHANGE_RATE": "0"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "page\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        kept = rows_on_disk(tmp_path / "data", "XBTUSD")
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == f"kept {len(kept)}"
    assert 0 < len(kept) < 20_000
    assert kept == list(expected(market))[: len(kept)]


def test_ctrl_c_that_reaches_another_thread_ends_the_work() -> None:
    """As when it comes just before the main thread begins to wait: nothing wakes that thread."""

    async def work(cancel: harvester.CancelToken) -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        with contextlib.suppress(harvester.Interrupted):
            await cancel.guard(asyncio.sleep(20))
        ended.append(cancel.is_cancelled)

    ended: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        run_in_thread(work)
    assert ended == [True]


def test_a_cancel_token_ends_a_backfill_from_another_thread(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(20_000, 64))
    cancel = harvester.CancelToken()

    def cancel_after_a_page(event: Event) -> None:
        if isinstance(event, PageRead):
            threading.Thread(target=cancel.cancel).start()

    with serve(market, latency_s=0.01) as exchange:
        archive = opened(exchange.url, tmp_path)
        with pytest.raises(harvester.Interrupted):
            archive.backfill("XBTUSD", until=UNTIL, progress=cancel_after_a_page, cancel=cancel)
    kept = rows_on_disk(tmp_path, "XBTUSD")
    assert 0 < len(kept) < 20_000
    assert kept == list(expected(market))[: len(kept)]


def test_a_cancelled_token_downloads_nothing(archive: harvester.Archive) -> None:
    cancel = harvester.CancelToken()
    cancel.cancel()
    with pytest.raises(harvester.Interrupted):
        archive.backfill("XBTUSD", until=UNTIL, cancel=cancel)
    assert archive.stored_pairs() == []


def test_an_estimate_counts_what_is_missing_and_downloads_no_trades(
    archive: harvester.Archive, exchange: Exchange, tmp_path: Path
) -> None:
    calls = len(exchange.calls)
    estimate = archive.estimate_backfill("XBT/USD", "BTTUSD", until=UNTIL)
    assert [(pair.pair, pair.trades) for pair in estimate.pairs] == [
        ("XBTUSD", 5_000),
        ("BTTUSD", 500),
    ]
    assert (estimate.total.pairs, estimate.total.trades, estimate.total.calls) == (2, 5_500, 10)
    assert [call for call in exchange.calls[calls:] if call.path.endswith("Trades")] == []
    assert list(tmp_path.iterdir()) == []


def test_an_estimate_of_a_week_that_has_not_ended(tmp_path: Path) -> None:
    # Kraken's weeks begin on Thursday: 30 May 2024 was one. A trade each minute of three days.
    begin_ns, minute_ns = sample_trades.utc_ns(2024, 5, 30), 60 * 10**9
    market = sample_trades.market(
        Trade(begin_ns + place * minute_ns + 1, "1.0", "1.0", "b", "l", "", place + 1)
        for place in range(3 * 1440)
    )
    with serve(market, clock=Clock(begin_ns + 3 * 1440 * minute_ns)) as exchange:
        archive = opened(exchange.url, tmp_path, **{"refresh.settle_s": 60})
        everything = archive.estimate_backfill(market.altname)
        last_day = archive.estimate_backfill(market.altname, since="2024-06-01")
    assert everything.total.trades == pytest.approx(3 * 1440, abs=3)
    assert last_day.total.trades == pytest.approx(1440, abs=3)


def test_all_pairs_of_a_quote(archive: harvester.Archive) -> None:
    results = archive.backfill(all_pairs=True, quotes=["XBT"], until=UNTIL, check=False)
    assert [result.pair for result in results] == ["PEPEXBT"]
    [record] = latest_runs(Disk(archive.path), 1)
    assert (record.asked["pairs"], record.asked["quotes"]) == (["*"], ["XBT"])


def test_all_pairs_and_names_contradict_each_other(archive: harvester.Archive) -> None:
    with pytest.raises(UsageError, match="all_pairs already selects every pair"):
        archive.backfill("XBTUSD", all_pairs=True)


# --- what is wrong -------------------------------------------------------------------------------


def test_a_pair_that_fails_is_raised_once_the_others_are_done(archive: harvester.Archive) -> None:
    with pytest.raises(ValueDoesNotFit):
        archive.backfill("PEPEXBT", "XBTUSD", until=UNTIL)
    assert rows_on_disk(Path(archive.path), "XBTUSD") == HISTORY


def test_the_gravest_error_is_raised_with_the_others_in_its_notes(
    archive: harvester.Archive,
) -> None:
    with open_writer(Disk(archive.path), "XBTUSD"), pytest.raises(ValueDoesNotFit) as caught:
        archive.backfill("XBTUSD", "PEPEXBT", until=UNTIL)
    [note] = caught.value.__notes__
    assert note.startswith("XBTUSD is being written by another run")


def test_without_check_an_error_is_only_returned(archive: harvester.Archive) -> None:
    with open_writer(Disk(archive.path), "XBTUSD"):
        [outcome] = archive.backfill("XBTUSD", until=UNTIL, check=False)
    assert isinstance(outcome.error, ArchiveLocked)
    assert outcome.exit_status == 5


def test_a_gap_that_stays_is_an_error(tmp_path: Path) -> None:
    with serve(sample_trades.market(sample_trades.one_stamp(1_500))) as exchange:
        with pytest.raises(harvester.ArchiveHasGaps) as caught:
            opened(exchange.url, tmp_path).backfill("XBTUSD")
        [gap] = harvester.open(tmp_path).gaps("XBTUSD")
    assert str(caught.value).endswith(f"1 gap remains: {gap}")


def test_a_pair_that_nobody_knows_is_refused(archive: harvester.Archive) -> None:
    with pytest.raises(UnknownPair, match="no pair is called 'FOO/BAR'"):
        archive.backfill("FOO/BAR")


def test_nothing_to_fetch_is_refused(archive: harvester.Archive) -> None:
    with pytest.raises(UsageError) as caught:
        archive.backfill()
    assert str(caught.value) == "no pair is given: give one or several, such as 'XBT/USD'"


def test_an_unreachable_exchange_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExchangeUnreachable):
        opened("http://127.0.0.1:9", tmp_path).backfill("XBTUSD")


def test_a_wait_is_an_event(tmp_path: Path) -> None:
    log: list[str] = []
    with serve(MARKET, faults=Faults(script=["http:503"])) as exchange:
        listener: Callable[[Event], None] = lambda event: log.append(str(event))  # noqa: E731
        opened(exchange.url, tmp_path).backfill("XBTUSD", until=UNTIL, progress=listener)
    assert [line for line in log if line.startswith("XBTUSD: waiting: ")]


# --- names ---------------------------------------------------------------------------------------


def test_markets_are_requested_if_none_is_known(archive: harvester.Archive) -> None:
    assert [pair.altname for pair in archive.pairs()] == ["BTTUSD", "PEPEXBT", "XBTUSD"]
    assert [pair.altname for pair in archive.pairs("btc")] == ["PEPEXBT", "XBTUSD"]


def test_known_markets_are_not_requested_again_if_all_of_them_are_stored(tmp_path: Path) -> None:
    with serve(sample_trades.market(sample_trades.xbtusd_like(9, 1))) as exchange:
        archive = opened(exchange.url, tmp_path)
        archive.backfill("XBTUSD")
    assert [pair.altname for pair in archive.pairs()] == ["XBTUSD"]


def test_unknown_markets_are_an_error(archive: harvester.Archive) -> None:
    with pytest.raises(UnknownPair) as caught:
        archive.pairs("nothing")
    assert str(caught.value) == (
        "no market matches 'nothing'; `harvester pairs --update` asks the exchange again"
    )
