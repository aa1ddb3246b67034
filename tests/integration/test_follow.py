"""`follow` stores what is settled, poll by poll: exact, in few files, through outages."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import csv_files
import pytest
import sample_trades
from backfills import Backfill, foreign_files, serve
from following import SETTLE_NS, Following, busy_market
from kraken_faults import Faults
from kraken_market import SECOND_NS, Clock, expected, named
from kraken_server import Exchange
from process import Victims, ended, wait_for
from redownloads import NOW_NS, PAIR, TRADES, RedownloadScenario

import harvester
from harvester.errors import (
    ArchiveLocked,
    BadInterval,
    ExchangeRefused,
    ExchangeUnreachable,
    ImportIncomplete,
    Interrupted,
    UnreadableAnswer,
)
from harvester.events import Event, Followed
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.operations.follow import MAX_UNMERGED
from harvester.operations.run_log import latest_runs
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.verify.integrity import verify

# About three trades a minute.
QUIET = named(1, sample_trades.xbtusd_like(400, 6, gap_s=90.0))
BEGIN_NS = sample_trades.BUSY_NS // SECOND_NS * SECOND_NS


def clock_at(seconds: float) -> Clock:
    """An exchange whose trades began so many seconds ago."""
    return Clock(BEGIN_NS + round(seconds * SECOND_NS))


@pytest.mark.parametrize("mode", ["inclusive", "exclusive"])
def test_each_settled_trade_is_stored_once(mode: str, tmp_path: Path) -> None:
    clock = clock_at(90)
    with serve(busy_market(), clock=clock, since_mode=mode) as exchange:
        run = Following(tmp_path, exchange, clock)
        [result] = run.run_steps(run.minutes(1.5), "XBTUSD", after=0)
    assert run.stored() == run.shown(busy_market())
    assert len(run.stored()) > 8_000
    assert (result.exit_status, result.trades, result.gaps) == (0, len(run.stored()), [])
    assert (foreign_files(tmp_path), run.notes) == ([], [])
    assert verify(TradeStore(tmp_path), "XBTUSD").faults == []


def test_newer_trades_are_shown_and_stored_later(tmp_path: Path) -> None:
    clock = clock_at(600)
    with serve(QUIET, clock=clock) as exchange:
        run = Following(tmp_path, exchange, clock)
        run.run_steps(run.minutes(0), "ETHUSD", after=0)
        poll = run.polls[-1]
        seen = [row for row in expected(QUIET) if row[1] <= clock.now_ns]
        newer = [row for row in seen if row[1] > run.settled_ns]
        assert newer
        assert run.stored("ETHUSD") == run.shown(QUIET)
        assert poll.unsettled == len(newer)
        assert (poll.last_ns, poll.last_price) == (seen[-1][1], f"{seen[-1][3].normalize():f}")
        run.run_steps(run.minutes(2, seconds=60), "ETHUSD")
    assert run.stored("ETHUSD") == run.shown(QUIET)
    assert run.stored("ETHUSD")[-1][1] >= newer[-1][1]


def test_a_quiet_pair_costs_a_request_a_poll_and_a_commit_a_minute(tmp_path: Path) -> None:
    last_s = (QUIET.trades[-1].true_ns - BEGIN_NS) / SECOND_NS
    clock = clock_at(last_s + 120)
    with serve(QUIET, clock=clock) as exchange:
        run = Following(tmp_path, exchange, clock)
        run.run_steps(run.minutes(0), "ETHUSD", after=0)
        pages, polls, commits = exchange.pages(), len(run.polls), len(run.commits)

        def on_event(event: Event) -> None:
            if isinstance(event, Followed):
                clock.advance(10)
                if len(run.polls) == polls + 30:
                    run.cancel.cancel()

        run.run("ETHUSD", on_event=on_event)
    # The first poll of a run stores what there is; after that, five minutes have five commits.
    assert len(run.commits) - commits in (5, 6)
    # A commit takes at most two more requests: from where coverage ends, and the newest page.
    assert exchange.pages() - pages <= 30 + 2 * (len(run.commits) - commits)


def test_files_stay_few_and_hours_that_are_over_are_rolled_up(tmp_path: Path) -> None:
    clock = clock_at(3_700)
    market = sample_trades.market(sample_trades.xbtusd_like(15_000, 8, gap_s=4.0))
    most_files = 0
    with serve(market, clock=clock) as exchange:
        run = Following(tmp_path, exchange, clock)

        def steps() -> Iterator[None]:
            nonlocal most_files
            for _ in run.minutes(75, seconds=60):
                most_files = max(most_files, run.files())
                yield

        run.run_steps(steps(), "XBTUSD", after=0)
    assert run.stored() == run.shown(market)
    assert most_files <= MAX_UNMERGED + 12
    assert run.files() <= 12
    hour_ns = 3_600 * SECOND_NS
    store = TradeStore(tmp_path)
    rolled_up = {rollup.segment_path for rollup in store.rollups("XBTUSD")}
    over = [
        segment.path
        for segment in store.segments("XBTUSD")
        if segment.range.after < run.settled_ns // hour_ns * hour_ns
    ]
    assert over
    assert set(over) <= rolled_up


def test_an_outage_is_reported_once_and_leaves_no_gap(tmp_path: Path) -> None:
    clock = clock_at(90)
    with serve(busy_market(), clock=clock) as exchange:
        run = Following(tmp_path, exchange, clock)

        def steps() -> Iterator[None]:
            yield from run.minutes(0.5)
            exchange.stop()
            clock.advance(60)
            yield
            yield from run.minutes(0.5)

        stepping = steps()

        def on_event(event: Event) -> None:
            if isinstance(event, Followed) and event.state == "waiting" and len(run.notes) == 1:
                exchange.start()
            elif isinstance(event, Followed) and event.state == "live" and run.is_caught_up():
                run.take_step(stepping)

        [result] = run.run("XBTUSD", on_event=on_event, after=0)
    assert run.stored() == run.shown(busy_market())
    assert (result.exit_status, result.gaps) == (0, [])
    outage, recovery = run.notes
    assert outage.startswith(("XBTUSD: no good answer (", "Time: no good answer ("))
    assert recovery.startswith("XBTUSD: the exchange answers again, after ")


def test_an_exchange_that_was_never_reached_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = clock_at(90)
    with serve(busy_market(), clock=clock) as exchange:
        run = Following(tmp_path, exchange, clock)
        run.run_steps(run.minutes(0), "XBTUSD", after=0)
    # The pair is known from before, so nothing but the clock is requested.
    monkeypatch.setattr("harvester.kraken.client.NEVER_ANSWERED_GIVE_UP_S", 0.05)
    with pytest.raises(ExchangeUnreachable):
        run.run("XBTUSD", on_event=lambda _: None)


def test_a_pair_that_becomes_unknown_ends_alone(tmp_path: Path) -> None:
    clock = clock_at(600)
    other = named(2, sample_trades.xbtusd_like(2_000, 9, gap_s=2.0))
    with serve(QUIET, other, clock=clock) as exchange:
        run = Following(tmp_path, exchange, clock)

        def steps() -> Iterator[None]:
            yield
            exchange.delist("ETHUSD")
            for _ in range(12):
                clock.advance(10)
                while not run.is_caught_up("XBTEUR"):
                    yield

        stepping = steps()

        def on_event(event: Event) -> None:
            if isinstance(event, Followed) and event.pair == "XBTEUR":
                run.take_step(stepping)

        gone, stays = run.run("ETHUSD", "XBTEUR", on_event=on_event, after=0)
    assert isinstance(gone.error, ExchangeRefused)
    assert "Unknown asset pair" in str(gone.error)
    assert (stays.exit_status, stays.error) == (0, None)
    assert run.stored("XBTEUR") == run.shown(other)


def test_a_pair_that_is_being_written_ends_with_status_5(tmp_path: Path) -> None:
    clock = clock_at(600)
    with serve(QUIET, clock=clock) as exchange, open_writer(TradeStore(tmp_path), "ETHUSD"):
        run = Following(tmp_path, exchange, clock)
        [result] = run.run("ETHUSD", on_event=lambda _: None)
    assert isinstance(result.error, ArchiveLocked)
    assert result.exit_status == 5


def test_a_pair_that_is_not_stored_begins_now(tmp_path: Path) -> None:
    clock = clock_at(600)
    with serve(QUIET, clock=clock) as exchange:
        run = Following(tmp_path, exchange, clock)
        begin_ns = run.settled_ns
        first = True

        def on_event(event: Event) -> None:
            nonlocal first
            if isinstance(event, Followed):
                if not first and run.is_caught_up("ETHUSD"):
                    run.cancel.cancel()
                elif first:
                    clock.advance(300)
                first = False

        [result] = run.run("ETHUSD", on_event=on_event)
    assert result.exit_status == 0
    assert run.stored("ETHUSD") == run.shown(QUIET, begin_ns)
    assert TradeStore(tmp_path).coverage("ETHUSD") == [(begin_ns, run.settled_ns)]


def test_follow_of_a_stored_pair_starts_where_its_last_request_began(tmp_path: Path) -> None:
    clock = clock_at(600)
    with serve(QUIET, clock=clock) as exchange:
        Backfill(exchange.url, tmp_path).only("ETHUSD")
        clock.advance(7_200)
        run = Following(tmp_path, exchange, clock)
        [result] = run.run_steps(run.minutes(2, seconds=60), "ETHUSD")
    assert run.stored("ETHUSD") == run.shown(QUIET)
    assert "catching up" in {poll.state for poll in run.polls}
    assert result.exit_status == 0


def test_a_stop_while_a_pair_catches_up_is_an_interruption(tmp_path: Path) -> None:
    clock = clock_at(300)
    with serve(busy_market(), clock=clock) as exchange:
        clock.advance(7_200)
        run = Following(tmp_path, exchange, clock)
        [result] = run.run(
            "XBTUSD",
            after=0,
            archive__flush_rows=2_000,
            on_event=lambda _: run.cancel.cancel(),
        )
    assert isinstance(result.error, Interrupted)
    assert result.exit_status == 130


def test_a_stop_while_pages_cannot_be_read_is_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pair is not live, though no download is under way."""
    clock = clock_at(300)
    page, is_broken = Client.page, False
    states: list[str] = []

    async def maybe_broken(self: Client, pair: Pair, since: int | None) -> Any:
        if is_broken:
            raise UnreadableAnswer(f"{pair.altname}: a row can't be read")
        return await page(self, pair, since)

    monkeypatch.setattr(Client, "page", maybe_broken)
    with serve(busy_market(), clock=clock) as exchange:
        run = Following(tmp_path, exchange, clock)

        def on_event(event: Event) -> None:
            nonlocal is_broken
            if isinstance(event, Followed) and is_broken:
                states.append(event.state)
                if len(states) == 5:
                    run.cancel.cancel()
            elif isinstance(event, Followed) and run.is_caught_up():
                is_broken = True

        [result] = run.run("XBTUSD", on_event=on_event, after=0)
    assert states[-3:] == ["waiting"] * 3
    assert result.exit_status == 130


def test_an_imported_range_that_lacks_trades_decides_the_status(tmp_path: Path) -> None:
    scenario = RedownloadScenario(tmp_path, TRADES)
    scenario.take_in(csv_files.three_columns([*TRADES[1_000:2_000], *TRADES[2_005:4_000]]))
    with scenario.exchange:
        run = Following(scenario.folder, scenario.exchange, Clock(NOW_NS))

        def on_event(event: Event) -> None:
            if isinstance(event, Followed) and event.state == "live" and run.is_caught_up(PAIR):
                run.cancel.cancel()

        [result] = run.run(PAIR, on_event=on_event, after=0)
    assert isinstance(result.error, ImportIncomplete)
    assert result.exit_status == 4


def test_a_trade_that_is_later_than_settled_is_stored_by_the_next_poll(tmp_path: Path) -> None:
    clock = clock_at(600)
    settled = [
        p for p, trade in enumerate(QUIET.trades) if trade.true_ns <= clock.now_ns - SETTLE_NS
    ]
    faults = Faults(hide={"ETHUSD": {settled[-1]: 10**6}})
    with serve(QUIET, clock=clock, faults=faults) as exchange:
        run = Following(tmp_path, exchange, clock)

        def steps() -> Iterator[None]:
            exchange.faults = Faults()
            yield from run.minutes(5, seconds=60)

        run.run_steps(steps(), "ETHUSD", after=0)
    assert run.stored("ETHUSD") == run.shown(QUIET)
    assert TradeStore(tmp_path).gaps("ETHUSD") == []


@pytest.mark.parametrize("ids", ["with ids", "without ids"])
def test_answers_that_lag_behind_the_newest_page_of_a_poll_cost_no_trade(
    ids: str, tmp_path: Path
) -> None:
    trades = QUIET.trades if ids == "with ids" else sample_trades.ids_unknown(QUIET.trades)
    market = named(1, trades)
    clock = clock_at(600)
    with serve(market, clock=clock) as exchange:
        run = Following(tmp_path, exchange, clock)

        def steps() -> Iterator[None]:
            assert run.stored("ETHUSD") == run.shown(market)
            clock.advance(900)
            new = len([row for row in expected(market) if row[1] <= clock.now_ns])
            assert len(run.shown(market)) > len(run.stored("ETHUSD")) + 5
            # Every answer of the poll but the first one lacks what is not stored.
            lagging = [f"last_rows:{new - len(run.stored('ETHUSD'))}"] * 12
            exchange.faults = Faults(script={"ETHUSD": [None, *lagging]})
            yield
            exchange.faults = Faults()
            yield from run.minutes(2, seconds=60)

        run.run_steps(steps(), "ETHUSD", after=0)
    assert run.stored("ETHUSD") == run.shown(market)
    assert TradeStore(tmp_path).gaps("ETHUSD") == []


# --- the command ----------------------------------------------------------------------------------


def command(exchange: Exchange, folder: Path, *words: str) -> subprocess.Popen[str]:
    """`harvester follow` as a process, of which each poll prints a line."""
    settings = {"HARVESTER_EXCHANGE_RATE": "0", "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.005"}
    return Victims(folder, exchange.url, settings).start(["follow", "XBTUSD", *words])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_status_0(number: int, tmp_path: Path) -> None:
    with serve(busy_market(), clock=clock_at(100)) as exchange:
        process = command(exchange, tmp_path, "--since", "start", "--every", "1ms")
        run = Following(tmp_path, exchange, clock_at(100))
        wait_for(run.is_caught_up)
        # Coverage is there a moment before the poll has ended.
        pages = exchange.pages()
        wait_for(lambda: exchange.pages() > pages + 2)
        process.send_signal(number)
        done = ended(process)
    assert done.status == 0
    assert done.err.splitlines()[0] == (
        "following XBTUSD: trades are stored every 1ms (Ctrl-C ends it)"
    )
    assert "stopping; storing what is complete" in done.err
    assert f"XBTUSD: {len(run.stored()):,}" in done.err
    assert run.stored() == run.shown(busy_market())


def test_json_is_an_object_per_poll_and_a_reader_that_leaves_ends_it(tmp_path: Path) -> None:
    clock = clock_at(100)
    with serve(busy_market(), clock=clock) as exchange:
        process = command(exchange, tmp_path, "--json", "--since", "start", "--every", "1ms", "-q")
        assert process.stdout is not None
        assert process.stderr is not None
        live = json.loads(process.stdout.readline())
        while live["state"] != "live":
            live = json.loads(process.stdout.readline())
        process.stdout.close()
        with process.stderr as stderr:
            assert (stderr.read(), process.wait(60)) == ("", 0)
    assert list(live) == [
        *("pair", "state", "trades", "through_ns", "last_ns", "last_price", "unsettled")
    ]
    run = Following(tmp_path, exchange, clock)
    assert (live["through_ns"], live["trades"]) == (run.settled_ns, len(run.stored()))
    seen = [row for row in expected(busy_market()) if row[1] <= clock.now_ns]
    assert (live["last_ns"], live["last_price"]) == (seen[-1][1], f"{seen[-1][3].normalize():f}")


def test_a_refresh_beside_follow_has_status_5_and_names_the_holder(tmp_path: Path) -> None:
    with serve(busy_market(), clock=clock_at(100)) as exchange:
        process = command(exchange, tmp_path, "--since", "start")
        wait_for(Following(tmp_path, exchange, clock_at(100)).is_caught_up)
        refresh = Victims(tmp_path, exchange.url).run(["refresh", "--json"])
        process.terminate()
        ended(process)
    assert refresh.status == 5
    [pair] = json.loads(refresh.out)["pairs"]
    assert (pair["state"], pair["exit_status"]) == ("locked", 5)
    assert "is being written by another run (`harvester follow" in pair["error"]


# --- from Python ----------------------------------------------------------------------------------


def opened(exchange: Exchange, folder: Path) -> harvester.Archive:
    return harvester.open(folder, settings={"exchange.url": exchange.url, "exchange.rate": 0})


def test_python_follows_until_the_token_is_cancelled(tmp_path: Path) -> None:
    clock, enough, prices = clock_at(100), harvester.CancelToken(), list[str | None]()

    def watch(event: Event) -> None:
        if isinstance(event, Followed) and event.state == "live":
            prices.append(event.last_price)
            if len(prices) == 3:
                enough.cancel()

    with serve(busy_market(), clock=clock) as exchange:
        every = timedelta(milliseconds=1)
        archive = opened(exchange, tmp_path)
        [result] = archive.follow("BTC/USD", every=every, since=0, progress=watch, cancel=enough)
        run = Following(tmp_path, exchange, clock)
    assert run.stored() == run.shown(busy_market())
    assert (result.trades, result.exit_status, len(prices)) == (len(run.stored()), 0, 3)
    [record] = latest_runs(TradeStore(tmp_path), 5)
    assert (record.command, record.state, record.exit_status) == ("follow", "ended", 0)
    assert record.asked["pairs"] == ["BTC/USD"]
    assert record.calls > record.pairs[0].pages > 0


def test_python_raises_the_error_that_ended_a_pair(tmp_path: Path) -> None:
    with (
        serve(busy_market(), clock=clock_at(100)) as exchange,
        open_writer(TradeStore(tmp_path), "XBTUSD"),
        pytest.raises(ArchiveLocked),
    ):
        opened(exchange, tmp_path).follow("XBTUSD")


@pytest.mark.parametrize("every", ["1mo", "soon", 0])
def test_a_length_that_is_none_is_refused(every: str | int, tmp_path: Path) -> None:
    with pytest.raises(BadInterval):
        harvester.open(tmp_path).follow("XBTUSD", every=every)
