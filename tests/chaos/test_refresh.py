"""What a refresh brings up to date, and which state it reports for each kind of failure."""

from __future__ import annotations

import json
import signal
import socket
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sample_trades
from backfills import Backfill
from kraken_faults import Fault
from kraken_market import Clock, Market
from kraken_server import Exchange
from nightly_runs import DAY_NS, FIRST_NS, NAMES, SETTLE_NS, Nights, daily, states, until
from process import ended, wait_for

from harvester.errors import NothingStored
from harvester.events import (
    BackfillResult,
    Begun,
    CancelToken,
    Event,
    PageRead,
    Started,
)
from harvester.events import Ended as EndedPair
from harvester.kraken.pairs import Pair
from harvester.operations import refresh as module
from harvester.pair_selection import RefreshCandidates, select_refresh_targets
from harvester.progress import RunProgress
from harvester.storage.locks_and_requests import locked
from harvester.storage.trade_store import TradeStore
from harvester.times import Range

XBT, ETH = daily("XBTUSD", 100, 12), daily("ETHEUR", 40, 12, 2)


@pytest.fixture
def nights(tmp_path: Path) -> Iterator[Nights]:
    """Ten days have passed, nothing is held."""
    clock = Clock(FIRST_NS + 10 * DAY_NS)
    with Exchange([XBT, ETH], clock=clock, page_size=100) as exchange:
        yield Nights(tmp_path / "data", exchange, clock)


def only(report: Any) -> Any:
    """The report of the only pair."""
    [outcome] = report["pairs"]
    return outcome


def backfill_range(nights: Nights, name: str, span: Range) -> None:
    """Ask for a span of a pair, as a backfill does."""
    outcome = Backfill(nights.exchange.url, nights.folder).only(name, span)
    assert outcome.exit_status == 0


def day(number: int) -> int:
    """The moment at which a day begins."""
    return FIRST_NS + number * DAY_NS


# --- which pairs, and from when on ---------------------------------------------------------------


def test_without_names_the_pairs_held_are_brought_up_to_now(nights: Nights) -> None:
    nights.refresh("XBT/USD")
    nights.pass_day()
    assert states(nights.refresh()) == {"XBTUSD": "complete"}
    assert nights.history("XBTUSD") == until(XBT, nights.settled_ns)


def test_trades_that_are_not_settled_are_left_for_the_next_run(tmp_path: Path) -> None:
    market = daily("XBTUSD", 40_000, 1)
    clock = Clock(FIRST_NS + 3600 * 10**9)
    with Exchange([market], clock=clock) as exchange:
        nights = Nights(tmp_path / "data", exchange, clock)
        outcome = only(nights.refresh("XBTUSD"))
        assert nights.history("XBTUSD") == until(market, clock.now_ns - SETTLE_NS)
        assert outcome["trades_added"] < len(until(market, clock.now_ns))
        clock.advance(600)
        nights.refresh()
        assert nights.history("XBTUSD") == until(market, clock.now_ns - SETTLE_NS)


def test_config_names_pairs_and_patterns_each_pair_once(nights: Nights) -> None:
    nights.pairs = ["*/eur", "ETH/EUR", "xbtusd"]
    assert states(nights.refresh()) == {"ETHEUR": "complete", "XBTUSD": "complete"}


def test_names_on_the_command_line_count_instead_of_those_in_config(nights: Nights) -> None:
    nights.pairs = ["XBT/USD"]
    assert states(nights.refresh("ETH/EUR")) == {"ETHEUR": "complete"}


def test_a_refresh_starts_at_the_start_of_the_last_request(nights: Nights) -> None:
    backfill_range(nights, "XBTUSD", Range(day(1), day(2)))
    backfill_range(nights, "XBTUSD", Range(day(5), day(6)))
    assert only(nights.refresh())["state"] == "complete"
    through = nights.settled_ns
    assert TradeStore(nights.folder).coverage("XBTUSD") == [
        Range(day(1), day(2)),
        Range(day(5), through),
    ]


def test_a_refresh_of_an_imported_pair_starts_at_its_first_trade(nights: Nights) -> None:
    backfill_range(nights, "XBTUSD", Range(day(1), day(2)))
    (nights.folder / "wanted" / "XBTUSD.json").unlink()
    nights.refresh()
    assert TradeStore(nights.folder).coverage("XBTUSD") == [Range(day(1), nights.settled_ns)]


def test_nothing_named_and_nothing_held_is_no_quiet_success(nights: Nights) -> None:
    with pytest.raises(NothingStored) as caught:
        nights.refresh()
    assert str(caught.value) == (
        f"nothing to refresh: the archive at {nights.folder} is empty, and [refresh] pairs names "
        "none. `harvester backfill XBT/USD` creates it"
    )
    assert not nights.folder.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("FOO/USD", "no pair is called 'FOO/USD'. `harvester pairs` lists the markets"),
        ("*/FOO", "no pair matches '*/FOO': `harvester pairs` lists the markets"),
    ],
)
def test_a_name_that_nobody_knows_stops_no_other_pair(nights: Nights, text: str, why: str) -> None:
    nights.pairs = [text, "XBT/USD"]
    report = nights.refresh()
    assert report["exit_status"] == 2
    assert states(report) == {text: "failed", "XBTUSD": "complete"}
    assert (report["pairs"][0]["exit_status"], report["pairs"][0]["error"]) == (2, why)


# --- gaps, files, roll-ups ----------------------------------------------------------------------


def remove_first_file(nights: Nights, pair: str) -> None:
    """Make a gap: what was wanted is not there any more."""
    min((nights.folder / "trades" / f"pair={pair}").rglob("*.parquet")).unlink()


def test_gaps_of_earlier_runs_are_filled_wherever_they_are(nights: Nights) -> None:
    spans = [Range(day(1), day(2)), Range(day(3), day(4)), Range(day(5), day(6))]
    for span in spans:
        backfill_range(nights, "XBTUSD", span)
    remove_first_file(nights, "XBTUSD")
    assert TradeStore(nights.folder).gaps("XBTUSD") == [spans[0]]
    outcome = only(nights.refresh())
    assert (outcome["state"], outcome["gaps"]) == ("complete", [])
    rows = until(XBT, nights.settled_ns)
    asked = [*spans[:2], Range(day(5), nights.settled_ns)]
    assert nights.history("XBTUSD") == [
        row for row in rows if any(span.after < row[1] <= span.through for span in asked)
    ]
    inside = [row for row in rows if day(1) < row[1] <= day(2) or day(6) < row[1]]
    assert outcome["trades_added"] == len(inside)


def test_no_pair_runs_on_once_its_earlier_gaps_are_filled(nights: Nights) -> None:
    """Else its line stays on the terminal, and in a log it is repeated every half minute."""
    for span in (Range(day(1), day(2)), Range(day(3), day(4))):
        backfill_range(nights, "XBTUSD", span)
    remove_first_file(nights, "XBTUSD")
    nights.refresh()
    run = RunProgress()
    for event in nights.events:
        run.add(event)
    assert (run.running, run.done, run.failed) == ({}, 1, 0)


def test_earlier_gaps_are_filled_with_as_many_jobs_as_set_and_one_clock(nights: Nights) -> None:
    for pair in ("XBTUSD", "ETHEUR"):
        for span in (Range(day(1), day(2)), Range(day(3), nights.settled_ns)):
            backfill_range(nights, pair, span)
        remove_first_file(nights, pair)
    nights.exchange.calls.clear()
    assert set(states(nights.refresh(exchange__jobs=1)).values()) == {"complete"}
    last = max(i for i, event in enumerate(nights.events) if isinstance(event, BackfillResult))
    filling = [event for event in nights.events[last:] if isinstance(event, Started | EndedPair)]
    assert [type(event) for event in filling] == [Started, EndedPair] * 2
    assert [call.path.rpartition("/")[2] for call in nights.exchange.calls].count("Time") == 2


def test_a_gap_that_can_not_be_filled_stays_a_gap(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.one_stamp(1500, first_id=None))
    with Exchange([market]) as exchange:
        nights = Nights(tmp_path / "data", exchange, Clock(0))
        for _ in range(2):
            report = nights.refresh("XBTUSD")
            outcome = only(report)
            assert (report["exit_status"], outcome["state"], outcome["exit_status"]) == (
                4,
                "gaps",
                4,
            )
            [(after, through)] = outcome["gaps"]
            assert after < sample_trades.BUSY_NS <= through


def test_roll_ups_are_made_where_nothing_new_was_traded(nights: Nights) -> None:
    nights.refresh("XBTUSD")
    made = sorted((nights.folder / "candles").rglob("*.parquet"))
    made[0].unlink()
    assert only(nights.refresh())["trades_added"] == 0
    assert sorted((nights.folder / "candles").rglob("*.parquet")) == made
    assert len(made) == 2


def test_files_of_a_past_year_are_merged(tmp_path: Path) -> None:
    """Two nights that are not worth a merge, as long as more may come in their year."""
    new_year_ns = sample_trades.utc_ns(2025, 1, 1)
    start_ns = sample_trades.utc_ns(2024, 12, 30)
    trades = sample_trades.xbtusd_like(4_000, start_ns=start_ns, gap_s=300, first_id=1)
    market = Market(*NAMES["XBTUSD"], trades=trades)
    before = len([trade for trade in trades if trade.true_ns < new_year_ns])
    assert 2_200 < before < 3_900
    clock = Clock(trades[before * 52 // 100].true_ns + SETTLE_NS)
    with Exchange([market], clock=clock) as exchange:
        nights = Nights(tmp_path / "data", exchange, clock)
        nights.refresh("XBTUSD")
        clock.now_ns = new_year_ns + 3600 * 10**9
        outcome = only(nights.refresh())
    rows = until(market, nights.settled_ns)
    assert nights.history("XBTUSD") == rows
    assert (outcome["first_ns"], outcome["last_ns"]) == (rows[0][1], rows[-1][1])
    folder = nights.folder / "trades" / "pair=XBTUSD"
    assert {year.name: len(list(year.iterdir())) for year in folder.iterdir()} == {
        "year=2024": 1,
        "year=2025": 1,
    }


# --- what is no failure --------------------------------------------------------------------------


def test_a_pair_that_was_delisted_is_complete_up_to_then(nights: Nights) -> None:
    nights.refresh("XBTUSD", "ETHEUR")
    through = nights.settled_ns
    nights.exchange.delist("XBTUSD")
    nights.pass_day()
    report = nights.refresh()
    assert report["exit_status"] == 0
    assert states(report) == {"ETHEUR": "complete", "XBTUSD": "delisted"}
    assert report["pairs"][1]["covered_through_ns"] == through


def test_a_pair_missing_from_the_list_that_still_answers_is_refreshed(nights: Nights) -> None:
    nights.refresh("XBTUSD")
    nights.pass_day()
    nights.exchange.unlisted = {"XBTUSD", "ETHEUR"}
    outcome = only(nights.refresh())
    assert (outcome["state"], outcome["exit_status"]) == ("complete", 0)
    assert nights.history("XBTUSD") == until(XBT, nights.settled_ns)


def test_a_pair_missing_from_the_list_that_can_not_be_requested_has_failed(nights: Nights) -> None:
    nights.refresh("XBTUSD")
    nights.exchange.unlisted = {"XBTUSD"}
    nights.exchange.faults.push(*["unavailable"] * 1000, pair="XBTUSD")
    outcome = only(nights.refresh(exchange__give_up_s=0.05))
    assert (outcome["state"], outcome["exit_status"]) == ("failed", 3)


def test_a_gap_of_a_delisted_pair_is_a_gap(nights: Nights) -> None:
    backfill_range(nights, "XBTUSD", Range(day(1), day(2)))
    backfill_range(nights, "XBTUSD", Range(day(3), day(4)))
    remove_first_file(nights, "XBTUSD")
    nights.exchange.delist("XBTUSD")
    outcome = only(nights.refresh())
    assert (outcome["state"], outcome["exit_status"]) == ("delisted", 4)
    assert outcome["gaps"] == [[day(1), day(2)]]


def test_a_pair_that_is_delisted_during_the_run_fails_once_and_is_delisted_afterwards(
    nights: Nights,
) -> None:
    nights.refresh("XBTUSD")
    nights.pass_day()
    nights.exchange.faults.push("unknown_pair", pair="XBTUSD")
    outcome = only(nights.refresh())
    assert (outcome["state"], outcome["exit_status"], outcome["error"]) == (
        "failed",
        3,
        "XBTUSD: the exchange refused: EQuery:Unknown asset pair",
    )
    nights.exchange.delist("XBTUSD")
    outcome = only(nights.refresh())
    assert (outcome["state"], outcome["exit_status"], outcome["gaps"]) == ("delisted", 0, [])


def test_a_renamed_pair_is_refreshed_under_its_old_name(nights: Nights) -> None:
    nights.pairs = ["XBT/USD"]
    nights.refresh()
    nights.exchange.change("XBTUSD", altname="BTCUSD", wsname="BTC/USD")
    nights.pass_day()
    for name in ("XBT/USD", "BTC/USD", "*/USD"):
        nights.pairs = [name]
        outcome = only(nights.refresh())
        assert (outcome["pair"], outcome["state"], outcome["renamed_to"]) == (
            "XBTUSD",
            "complete",
            "BTCUSD",
        )
    assert nights.history("XBTUSD") == until(XBT, nights.settled_ns)
    assert nights.rows().keys() == {"XBTUSD"}


def test_during_maintenance_nothing_is_requested_and_the_status_is_3(
    nights: Nights,
) -> None:
    nights.refresh("XBTUSD")
    calls = len(nights.exchange.calls)
    nights.exchange.status = "maintenance"
    nights.pairs = ["XBTUSD", "SOL/EUR"]
    report = nights.refresh()
    assert [call.path for call in nights.exchange.calls[calls:]] == ["/0/public/SystemStatus"]
    assert (report["exit_status"], report["exchange"]) == (3, "maintenance")
    assert report["error"] == (
        "the exchange is in maintenance: nothing was requested; run refresh again later"
    )
    assert states(report) == {"XBTUSD": "maintenance", "SOL/EUR": "maintenance"}


def test_maintenance_that_begins_during_the_run_is_no_failure(nights: Nights) -> None:
    nights.refresh("XBTUSD")
    nights.pass_day()
    nights.exchange.faults.push(*["unavailable"] * 1000, pair="XBTUSD")

    def begins(event: Event) -> None:
        if isinstance(event, BackfillResult):
            nights.exchange.status = "maintenance"

    outcome = only(nights.refresh(exchange__give_up_s=0.05, listener=begins))
    assert (outcome["state"], outcome["exit_status"]) == ("maintenance", 3)


@pytest.mark.parametrize("status", ["cancel_only", "post_only", "limit_only", "reduce_only"])
def test_a_market_with_limited_trading_is_refreshed(nights: Nights, status: str) -> None:
    nights.exchange.change("XBTUSD", status=status)
    nights.exchange.status = status
    outcome = only(nights.refresh("XBTUSD"))
    assert (outcome["state"], outcome["exit_status"]) == ("complete", 0)


# --- what ends it --------------------------------------------------------------------------------


def test_a_second_run_is_an_error_with_the_holder_and_time_of_the_lock(nights: Nights) -> None:
    nights.pairs = ["XBTUSD"]
    with locked(nights.folder / "locks", "_refresh"):
        note = json.loads((nights.folder / "locks" / "_refresh.json").read_text())
        report = nights.refresh()
    assert (report["exit_status"], report["pairs"], report["calls"]) == (5, [], 0)
    assert report["error"] == (
        f"the archive at {nights.folder} is being refreshed by another run (process "
        f"{note['pid']} on {socket.gethostname()}, since {note['since']}): "
        "wait until it is done, or stop it"
    )


def test_a_pair_that_another_run_writes_is_left_alone(nights: Nights) -> None:
    with locked(nights.folder / "locks", "XBTUSD"):
        note = json.loads((nights.folder / "locks" / "XBTUSD.json").read_text())
        report = nights.refresh("XBTUSD", "ETHEUR")
    assert report["exit_status"] == 5
    assert states(report) == {"XBTUSD": "locked", "ETHEUR": "complete"}
    assert report["pairs"][0]["error"] == (
        f"XBTUSD is being written by another run (process {note['pid']} on "
        f"{socket.gethostname()}, since {note['since']}): wait until it is done, or stop it"
    )


def test_what_was_fetched_before_an_interruption_is_kept(nights: Nights) -> None:
    cancel = CancelToken()

    def listen(event: Event) -> None:
        if isinstance(event, PageRead) and event.pages == 4:
            cancel.cancel()

    outcome = only(nights.refresh("XBTUSD", cancel=cancel, listener=listen))
    assert (outcome["state"], outcome["exit_status"]) == ("interrupted", 130)
    assert outcome["trades_added"] == nights.rows()["XBTUSD"] > 200
    assert only(nights.refresh())["state"] == "complete"
    assert nights.history("XBTUSD") == until(XBT, nights.settled_ns)


def test_a_run_whose_time_is_up_names_what_is_unfinished(nights: Nights) -> None:
    nights.pairs = ["XBTUSD", "ETHEUR"]
    report = nights.refresh(max_s=0)
    assert report["exit_status"] == 0
    assert report["error"] == "time limit reached; the next run continues from here"
    assert nights.refresh()["exit_status"] == 0


@pytest.mark.parametrize("is_quiet", [False, True])
def test_a_run_whose_time_is_up_ends_well_and_names_what_is_unfinished(
    nights: Nights, is_quiet: bool
) -> None:
    nights.refresh("XBTUSD", "ETHEUR")
    nights.pass_day()
    done = nights.command("--max-minutes", "0.0000001", *(["-q"] if is_quiet else []))
    assert done.status == 0
    assert done.err.splitlines()[-1] == (
        "time limit reached: 2 pairs are unfinished (ETHEUR, XBTUSD); the next run continues"
    )


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[module._Refresh]:
    """Every refresh that is begun, so that a test can end its time."""
    begun: list[module._Refresh] = []

    class Refreshing(module._Refresh):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            begun.append(self)

    monkeypatch.setattr(module, "_Refresh", Refreshing)
    return begun


def test_a_pair_whose_time_is_up_after_some_pages_is_unfinished_and_well(
    nights: Nights, runs: list[module._Refresh]
) -> None:
    def listen(event: Event) -> None:
        if isinstance(event, PageRead) and event.pages == 4:
            runs[0].stop_at_time_limit()

    report = nights.refresh("XBTUSD", listener=listen)
    assert states(report) == {"XBTUSD": "unfinished"}
    assert (report["exit_status"], only(report)["exit_status"]) == (0, 0)
    assert nights.rows()["XBTUSD"] == only(report)["trades_added"] > 0


def test_a_run_that_is_cancelled_after_its_time_limit_stays_cancelled(
    nights: Nights, runs: list[module._Refresh]
) -> None:
    """A sync follows the refresh if the time is up, and not if the user has ended the run."""
    for is_cancelled in (False, True):
        cancel = CancelToken()

        def listen(event: Event, cancel: CancelToken = cancel, ends: bool = is_cancelled) -> None:
            if isinstance(event, PageRead):
                runs[-1].stop_at_time_limit()
                if ends:
                    cancel.cancel()

        assert states(nights.refresh("XBTUSD", cancel=cancel, listener=listen)) != {}
        assert cancel.is_cancelled == is_cancelled


def test_a_cancelled_run_with_delisted_pairs_only_says_so(nights: Nights) -> None:
    nights.refresh("XBTUSD")
    nights.exchange.delist("XBTUSD")
    clock_calls = len([call for call in nights.exchange.calls if call.path.endswith("/Time")])
    cancel = CancelToken()

    def listen(event: Event) -> None:
        if isinstance(event, Begun):
            cancel.cancel()

    outcome = only(nights.refresh(cancel=cancel, listener=listen))
    assert (outcome["state"], outcome["exit_status"]) == ("interrupted", 130)
    calls = [call for call in nights.exchange.calls if call.path.endswith("/Time")]
    assert len(calls) == clock_calls


def test_that_the_time_is_up_hides_no_damage(nights: Nights) -> None:
    nights.refresh("XBTUSD", "ETHEUR")
    (nights.folder / "wanted" / "XBTUSD.json").write_bytes(b"{")
    report = nights.refresh(max_s=0)
    assert report["exit_status"] == 4
    assert states(report) == {"ETHEUR": "unfinished", "XBTUSD": "failed"}


def test_a_record_that_can_not_be_read_stops_no_other_pair(nights: Nights) -> None:
    nights.refresh("XBTUSD", "ETHEUR")
    (nights.folder / "wanted" / "XBTUSD.json").write_bytes(b"{")
    report = nights.refresh()
    assert report["exit_status"] == 4
    assert states(report) == {"ETHEUR": "complete", "XBTUSD": "failed"}
    assert report["pairs"][1]["error"].startswith(f"{nights.folder}/wanted/XBTUSD.json can't be")


def test_a_record_that_becomes_unreadable_during_the_run_stops_no_other_pair(
    nights: Nights,
) -> None:
    for span in (Range(day(1), day(2)), Range(day(5), day(6))):
        backfill_range(nights, "XBTUSD", span)
        backfill_range(nights, "ETHEUR", span)
    remove_first_file(nights, "ETHEUR")

    def damage(event: Event) -> None:
        if isinstance(event, BackfillResult) and event.pair == "XBTUSD":
            (nights.folder / "wanted" / "XBTUSD.json").write_bytes(b"{")

    report = nights.refresh(listener=damage)
    assert report["exit_status"] == 4
    assert states(report) == {"ETHEUR": "complete", "XBTUSD": "failed"}
    assert "wanted/XBTUSD.json can't be" in report["pairs"][1]["error"]
    assert TradeStore(nights.folder).gaps("ETHEUR") == []


def test_a_linked_folder_is_refused_by_name_and_stops_no_other_pair(nights: Nights) -> None:
    nights.refresh("XBTUSD", "ETHEUR")
    link = min((nights.folder / "trades/pair=XBTUSD").glob("year=*"))
    link.rename(nights.folder.parent / "far")
    link.symlink_to(nights.folder.parent / "far")
    report = nights.refresh()
    assert report["exit_status"] == 4
    assert states(report) == {"ETHEUR": "complete", "XBTUSD": "failed"}
    assert report["pairs"][1]["error"].startswith(f"{link} is a symbolic link")
    assert report["pairs"][1]["trades_added"] == 0


def test_a_gap_is_filled_where_the_record_of_what_was_wanted_is_lost(nights: Nights) -> None:
    cuts = [XBT.published_ns(XBT.trades[place]) for place in (100, 200, 300)]
    backfill_range(nights, "XBTUSD", Range(0, cuts[0]))
    backfill_range(nights, "XBTUSD", Range(cuts[1], cuts[2]))
    (nights.folder / "wanted" / "XBTUSD.json").unlink()
    assert only(nights.refresh("XBTUSD"))["state"] == "complete"
    assert nights.history("XBTUSD") == until(XBT, nights.settled_ns)


def test_an_exchange_without_a_status_counts_as_online(nights: Nights) -> None:
    nights.exchange.faults.elsewhere["SystemStatus"] = deque([(Fault("http", 404),)])
    assert only(nights.refresh("XBTUSD"))["state"] == "complete"


def test_an_exchange_that_nobody_reaches_fails_every_pair(nights: Nights) -> None:
    nights.refresh("XBTUSD", "ETHEUR")
    nights.exchange.stop()
    report = nights.refresh(exchange__give_up_s=0.05)
    nights.exchange.start()
    assert (report["exit_status"], report["exchange"]) == (3, "")
    assert states(report) == {"ETHEUR": "failed", "XBTUSD": "failed"}
    assert report["error"].startswith(f"SystemStatus: {nights.exchange.url} gave no good answer")


# --- names ---------------------------------------------------------------------------------------

OLD = Pair(altname="OLDUSD", key="K", wsname="OLD/USD")
NEW = Pair(altname="NEWUSD", key="K", wsname="NEW/USD")


def test_a_pair_fetched_under_both_names_is_two_pairs() -> None:
    known = {"OLDUSD": OLD, "NEWUSD": NEW}
    market = RefreshCandidates({"NEWUSD": NEW}, known, ["NEWUSD", "OLDUSD"])
    assert [
        (t.pair.altname, t.listed, t.renamed_to) for t in select_refresh_targets([], market)
    ] == [
        ("NEWUSD", True, None),
        ("OLDUSD", False, "NEWUSD"),
    ]


def test_a_renamed_pair_keeps_its_altname_and_takes_its_new_wsname() -> None:
    market = RefreshCandidates({"NEWUSD": NEW}, {"OLDUSD": OLD, "NEWUSD": NEW}, ["OLDUSD"])
    [target] = select_refresh_targets(["NEW/USD", "OLDUSD"], market)
    assert target.pair == Pair(altname="OLDUSD", key="K", wsname="NEW/USD")


def test_a_pair_without_a_key_is_not_taken_for_another() -> None:
    nameless = Pair(altname="OLDUSD")
    market = RefreshCandidates({"NEWUSD": Pair(altname="NEWUSD")}, {"OLDUSD": nameless}, ["OLDUSD"])
    [target] = select_refresh_targets([], market)
    assert (target.listed, target.renamed_to) == (False, None)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_the_results_as_a_table(nights: Nights) -> None:
    done = nights.command("XBTUSD", "ETH/EUR", "DOGE/USD")
    assert done.status == 2
    lines = [line.split() for line in done.out.splitlines()]
    # The last column is the time that it took.
    assert [line[:-1] for line in lines] == [
        ["pair", "state", "added", "first", "last", "gaps", "calls", "refused"],
        ["XBTUSD", "complete", *_row(nights, XBT)],
        ["ETHEUR", "complete", *_row(nights, ETH)],
        ["DOGE/USD", "failed", "0", "0", "0", "0"],
    ]


def _row(nights: Nights, market: Market) -> list[str]:
    rows = until(market, nights.settled_ns)
    ends = [datetime.fromtimestamp(rows[n][1] // 10**9, UTC) for n in (0, -1)]
    pages = nights.exchange.pages(market.altname)
    times = [f"{end:%Y-%m-%dT%H:%M:%SZ}" for end in ends]
    return [f"{len(rows):,}", *times, "0", str(pages), "0"]


def test_a_quiet_run_without_errors_prints_nothing(nights: Nights) -> None:
    done = nights.command("-q", "XBTUSD")
    assert (done.status, done.out, done.err) == (0, "", "")


def test_a_quiet_run_prints_only_errors(nights: Nights) -> None:
    nights.pairs = ["XBTUSD", "FOO/USD"]
    done = nights.command("-q")
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "harvester: FOO/USD: no pair is called 'FOO/USD'. `harvester pairs` lists the markets\n"
    )


def test_the_command_prints_the_report_as_json(nights: Nights) -> None:
    done = nights.command("--json", "-q", "XBTUSD")
    report = json.loads(done.out)
    rows = until(XBT, nights.settled_ns)
    pages = nights.exchange.pages("XBTUSD")
    seconds = [report.pop("seconds"), report["pairs"][0].pop("seconds")]
    assert all(isinstance(second, float) and second >= 0 for second in seconds)
    assert (done.status, done.err) == (0, "")
    assert report == {
        "exit_status": 0,
        "exchange": "online",
        "calls": len(nights.exchange.calls),
        "refusals": 0,
        "error": None,
        "notes": [],
        "sync": None,
        "sync_error": None,
        "pairs": [
            {
                "pair": "XBTUSD",
                "state": "complete",
                "exit_status": 0,
                "trades_added": len(rows),
                "first_ns": rows[0][1],
                "last_ns": rows[-1][1],
                "covered_through_ns": nights.settled_ns,
                "gaps": [],
                "calls": pages,
                "refusals": 0,
                "renamed_to": None,
                "error": None,
            }
        ],
    }


def test_a_signal_ends_the_command_in_good_order(nights: Nights) -> None:
    nights.exchange.faults.push(None, None, None, "hang:60", pair="XBTUSD")
    process = nights.machine.fork(["refresh", "XBTUSD", "--json", "-q"])
    wait_for(lambda: nights.exchange.faults.done["hang"] > 0)
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    report = json.loads(done.out)
    assert (done.status, states(report)) == (130, {"XBTUSD": "interrupted"})
    assert only(report)["trades_added"] == nights.rows()["XBTUSD"] > 200


@pytest.mark.parametrize("minutes", ["0", "-1", "soon"])
def test_time_that_is_none_is_wrong_use(nights: Nights, minutes: str) -> None:
    done = nights.command("--max-minutes", minutes)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("harvester: Invalid value for '--max-minutes': ")
