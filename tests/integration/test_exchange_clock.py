"""The exchange's clock is checked: against this machine's, and against the newest trade."""

from __future__ import annotations

from pathlib import Path

import pytest
import sample_trades
from backfills import ALL, Backfill, rows_on_disk
from clock_shift import (
    DAY_NS,
    DAY_S,
    MARKET,
    NOW_NS,
    SETTLED_NS,
    SPAN_S,
    TRADES,
    Lie,
    Lying,
    all_settled,
)
from kraken_market import SECOND_NS, Clock, expected
from kraken_server import Exchange

from harvester.errors import UnreadableAnswer
from harvester.events import BackfillResult
from harvester.storage.trade_store import TradeStore
from harvester.times import Range, show

AHEAD: dict[str, Lie] = {
    "in milliseconds": lambda now_s: now_s * 1_000,
    "in nanoseconds": lambda now_s: now_s * SECOND_NS,
    "two days ahead": lambda now_s: now_s + 2 * DAY_S,
    "a year ahead": lambda now_s: now_s + 365 * DAY_S,
}
BEHIND: dict[str, Lie] = {
    "two days back": lambda now_s: now_s - 2 * DAY_S,
    "three days back": lambda now_s: now_s - 3 * DAY_S,
    "years back": lambda now_s: now_s - 2_000 * DAY_S,
}
NEVER: dict[str, Lie] = {
    "zero": lambda _now_s: 0,
    "below zero": lambda now_s: -now_s,
    "far below zero": lambda now_s: -now_s * SECOND_NS,
    "before there was an exchange": lambda _now_s: 1_000_000_000,
}


def backfill_at(
    exchange: Exchange, folder: Path, now_ns: int = NOW_NS, span: Range = ALL
) -> BackfillResult:
    return Backfill(exchange.url, folder, now_ns=lambda: now_ns).only("XBTUSD", span)


def test_the_made_trades_are_what_these_tests_are_about() -> None:
    assert SPAN_S > 5 * DAY_S
    late = [trade for trade in TRADES if trade.true_ns > NOW_NS - 2 * DAY_NS]
    assert len(late) > 1_000


@pytest.mark.parametrize("name", [*AHEAD, *NEVER])
def test_an_impossible_clock_ends_a_run_before_anything_is_covered(
    name: str, tmp_path: Path
) -> None:
    lie = (AHEAD | NEVER)[name]
    with Lying(MARKET, lie) as exchange:
        with pytest.raises(UnreadableAnswer) as caught:
            backfill_at(exchange, tmp_path)
        said_s = lie(NOW_NS // SECOND_NS)
        is_moment = 0 <= said_s < 2**33
        spoken = show(said_s * SECOND_NS) if is_moment else f"{said_s} s"
        assert str(caught.value).startswith(
            f"the exchange's clock says {spoken}, this machine's {show(NOW_NS)}: "
        )
        assert caught.value.exit_status == 3
        assert TradeStore(tmp_path).coverage("XBTUSD") == []
        exchange.times = 0
        assert backfill_at(exchange, tmp_path).exit_status == 0
    assert rows_on_disk(tmp_path, "XBTUSD") == all_settled()


@pytest.mark.parametrize("name", [*AHEAD, *NEVER, *BEHIND])
def test_one_wrong_time_among_right_ones_costs_calls_alone(name: str, tmp_path: Path) -> None:
    with Lying(MARKET, (AHEAD | NEVER | BEHIND)[name], times=1) as exchange:
        outcome = backfill_at(exchange, tmp_path)
    assert (outcome.exit_status, outcome.error) == (0, None)
    assert rows_on_disk(tmp_path, "XBTUSD") == all_settled()


@pytest.mark.parametrize("name", BEHIND)
@pytest.mark.parametrize("is_held", [False, True], ids=["a new pair", "a held pair"])
def test_a_clock_that_the_newest_trade_contradicts_is_no_success(
    is_held: bool, name: str, tmp_path: Path
) -> None:
    with Lying(MARKET, BEHIND[name]) as exchange:
        if is_held:
            exchange.times = 0
            exchange.right.now_ns = NOW_NS - 3_600 * SECOND_NS
            assert backfill_at(exchange, tmp_path).exit_status == 0
            exchange.right.now_ns, exchange.times = NOW_NS, 10**6
        outcome = backfill_at(exchange, tmp_path)
        said_ns = BEHIND[name](NOW_NS // SECOND_NS) * SECOND_NS
        assert outcome.exit_status == 3
        assert f"clock says {show(said_ns)}" in str(outcome.error)
        last_ns = TradeStore(tmp_path).coverage("XBTUSD")
        assert is_held or all(last_n.through <= said_ns for last_n in last_ns)
        exchange.times = 0
        assert backfill_at(exchange, tmp_path).exit_status == 0
    assert rows_on_disk(tmp_path, "XBTUSD") == all_settled()


def test_both_clocks_and_the_newest_trade_are_named(tmp_path: Path) -> None:
    with Lying(MARKET, BEHIND["two days back"]) as exchange:
        outcome = backfill_at(exchange, tmp_path)
    newest_ns = expected(MARKET)[-1][1]
    assert str(outcome.error) == (
        f"XBTUSD: its newest trade is of {show(newest_ns)}, but the exchange's clock says "
        f"{show(NOW_NS - 2 * DAY_NS)}, this machine's {show(NOW_NS)}: by that clock nothing later "
        "can be downloaded; what was downloaded is kept"
    )
    assert rows_on_disk(tmp_path, "XBTUSD") == all_settled(SETTLED_NS - 2 * DAY_NS)


def test_a_request_that_begins_after_a_slow_clock_is_no_success(tmp_path: Path) -> None:
    since_ns = NOW_NS + 5 * DAY_NS
    with Exchange([MARKET], clock=Clock(NOW_NS)) as exchange:
        outcome = backfill_at(exchange, tmp_path, NOW_NS + 9 * DAY_NS, Range(since_ns, ALL.through))
    assert outcome.exit_status == 3
    assert str(outcome.error).startswith(
        f"XBTUSD: it is requested from {show(since_ns)}, but the exchange's clock says "
        f"{show(NOW_NS)}, this machine's {show(NOW_NS + 9 * DAY_NS)}: "
    )


def test_a_clock_far_behind_what_is_covered_is_no_success(tmp_path: Path) -> None:
    """Such as that of an API server whose archive is older than this one."""
    old = sample_trades.market(TRADES[:3_000])
    old_ns = TRADES[2_999].true_ns // SECOND_NS * SECOND_NS + 60 * SECOND_NS
    with Exchange([MARKET], clock=Clock(NOW_NS)) as exchange:
        backfill_at(exchange, tmp_path)
    with Exchange([old], clock=Clock(old_ns)) as exchange:
        outcome = backfill_at(exchange, tmp_path)
    assert outcome.exit_status == 3
    assert str(outcome.error).startswith(f"XBTUSD: it is covered through {show(SETTLED_NS)}, but ")
    assert rows_on_disk(tmp_path, "XBTUSD") == all_settled()


def test_a_slow_clock_does_not_affect_a_range_that_ends_before_it(tmp_path: Path) -> None:
    """Nothing that was asked for depends on it."""
    until = Range(0, NOW_NS - 3 * DAY_NS)
    with Lying(MARKET, BEHIND["two days back"]) as exchange:
        outcome = backfill_at(exchange, tmp_path, span=until)
    assert (outcome.exit_status, outcome.error) == (0, None)
    assert rows_on_disk(tmp_path, "XBTUSD") == all_settled(until.through)


@pytest.mark.parametrize("years", [0, 1, 9])
def test_a_clock_that_stands_where_all_trades_end_is_fine(years: int, tmp_path: Path) -> None:
    """As that of an API server over an old archive does."""
    now_ns = NOW_NS + years * 365 * DAY_NS
    with Exchange([MARKET], clock=Clock(NOW_NS)) as exchange:
        for _ in range(2):
            outcome = backfill_at(exchange, tmp_path, now_ns)
            assert (outcome.exit_status, outcome.error) == (0, None)
    assert rows_on_disk(tmp_path, "XBTUSD") == all_settled()
    assert TradeStore(tmp_path).coverage("XBTUSD") == [Range(0, SETTLED_NS)]


@pytest.mark.parametrize("ahead_s", [0, 3_600, 80_000])
def test_a_run_without_anything_new_by_equal_clocks_requests_no_page(
    ahead_s: int, tmp_path: Path
) -> None:
    now_ns = NOW_NS + ahead_s * SECOND_NS
    with Exchange([MARKET], clock=Clock(NOW_NS)) as exchange:
        backfill_at(exchange, tmp_path, now_ns)
        pages = exchange.pages("XBTUSD")
        assert backfill_at(exchange, tmp_path, now_ns).exit_status == 0
        assert exchange.pages("XBTUSD") == pages
        assert sum(call.path.endswith("Time") for call in exchange.calls) == 2


def test_a_machine_whose_clock_has_lost_its_battery_claims_nothing(tmp_path: Path) -> None:
    with (
        Exchange([MARKET], clock=Clock(NOW_NS)) as exchange,
        pytest.raises(UnreadableAnswer, match="this machine's 1970-01-01T00:01:00Z"),
    ):
        backfill_at(exchange, tmp_path, now_ns=60 * SECOND_NS)
    assert TradeStore(tmp_path).coverage("XBTUSD") == []


def test_coverage_ends_by_the_earlier_of_two_clocks(tmp_path: Path) -> None:
    """Hours ahead it would cover trades that are still to come, and no later run fetch them."""
    with Lying(MARKET, lambda now_s: now_s + DAY_S // 2) as exchange:
        exchange.right.now_ns = NOW_NS - DAY_NS
        run = Backfill(exchange.url, tmp_path, now_ns=lambda: exchange.right.now_ns)
        assert run.only("XBTUSD").exit_status == 0
        assert TradeStore(tmp_path).coverage("XBTUSD") == [Range(0, SETTLED_NS - DAY_NS)]
        assert run.notes == [
            f"the exchange's clock says {show(NOW_NS - DAY_NS // 2)}, this machine's "
            f"{show(NOW_NS - DAY_NS)}: trades are downloaded up to the earlier of the two"
        ]
        exchange.right.now_ns, exchange.times = NOW_NS, 0
        assert run.only("XBTUSD").exit_status == 0
    assert rows_on_disk(tmp_path, "XBTUSD") == all_settled()
