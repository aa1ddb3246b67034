"""Many pairs: the largest first, as many at once as are allowed, none stopped by another."""

from __future__ import annotations

import gc
from pathlib import Path

import pyarrow as pa
import pytest
import sample_trades
from backfills import Backfill, rows_on_disk, serve
from kraken_faults import Faults
from kraken_market import Clock, Market, expected, named
from kraken_server import Exchange

from harvester.errors import Interrupted
from harvester.events import BackfillResult, Started
from harvester.storage.trade_store import TradeStore
from harvester.times import DAY


def markets(*sizes: int) -> list[Market]:
    """Markets of so many trades: the well-known names first."""
    return [named(n, sample_trades.xbtusd_like(size, n)) for n, size in enumerate(sizes)]


def began(backfill: Backfill) -> list[str]:
    """The pairs in the order that they were begun in."""
    return [event.pair for event in backfill.events if isinstance(event, Started)]


def asked(exchange: Exchange, endpoint: str) -> list[str]:
    """The pairs that an endpoint was asked for, in order."""
    return [call.pair or "" for call in exchange.calls if call.path.endswith(endpoint)]


def test_the_largest_pair_is_downloaded_first(tmp_path: Path) -> None:
    several = markets(30, 10, 2_500, 20, 1_200)
    with serve(*several, clock=Clock(sample_trades.BUSY_NS + DAY)) as exchange:
        backfill = Backfill(exchange.url, tmp_path, options={"exchange.jobs": 1})
        outcomes = backfill.run(*(market.altname for market in several))
    assert began(backfill) == ["XBTEUR", "SOLUSD", "XBTUSD", "XDGUSD", "ETHUSD"]
    assert [outcome.pair for outcome in outcomes] == [market.altname for market in several]
    for market in several:
        assert rows_on_disk(tmp_path, market.altname) == list(expected(market))


def test_the_order_costs_one_call(tmp_path: Path) -> None:
    several = markets(30, 10, 50)
    with serve(*several) as exchange:
        backfill = Backfill(exchange.url, tmp_path, options={"exchange.jobs": 1})
        backfill.run(*(market.altname for market in several))
        assert (asked(exchange, "Ticker"), asked(exchange, "OHLC")) == ([""], [])


def test_a_pair_that_lacks_less_is_downloaded_later(tmp_path: Path) -> None:
    """A large market that is nearly complete is done sooner than a small one that is not begun."""
    clock = Clock(sample_trades.BUSY_NS + DAY)
    with serve(*markets(900, 30), clock=clock) as exchange:
        Backfill(exchange.url, tmp_path).run("XBTUSD")
        clock.advance(8 * 86_400)
        for name, size, first_id in (("XBTUSD", 90, 901), ("ETHUSD", 30, 31)):
            start_ns = clock.now_ns - DAY // 2
            newer = sample_trades.xbtusd_like(size, start_ns=start_ns, first_id=first_id)
            exchange.extend(name, newer)
        backfill = Backfill(exchange.url, tmp_path, options={"exchange.jobs": 1})
        backfill.run("XBTUSD", "ETHUSD")
        assert asked(exchange, "Ticker") == [""]
    assert began(backfill) == ["ETHUSD", "XBTUSD"]


def test_sizes_are_not_requested_if_all_pairs_run_at_once(tmp_path: Path) -> None:
    several = markets(30, 10, 50)
    with serve(*several) as exchange:
        backfill = Backfill(exchange.url, tmp_path, options={"exchange.jobs": 3})
        backfill.run(*(market.altname for market in several))
        assert asked(exchange, "Ticker") == []
    assert sorted(began(backfill)) == sorted(market.altname for market in several)


def test_no_size_is_requested_of_a_pair_that_lacks_less_than_a_week(tmp_path: Path) -> None:
    """A nightly run over hundreds of pairs makes no call more for their order."""
    several = markets(30, 2_000)
    with serve(*several) as exchange:
        backfill = Backfill(exchange.url, tmp_path, options={"exchange.jobs": 1})
        backfill.run("XBTUSD", "ETHUSD")
        calls = len(exchange.calls)
        again = Backfill(
            exchange.url, tmp_path, options={"exchange.jobs": 1, "refresh.settle_s": 0}
        )
        again.run("XBTUSD", "ETHUSD")
        assert "Ticker" not in {call.path.rpartition("/")[2] for call in exchange.calls[calls:]}
    assert began(again) == ["XBTUSD", "ETHUSD"]


@pytest.mark.parametrize("fault", ["rate_limit", "denied", "http:404", "bad_json", "close"])
def test_sizes_that_are_refused_change_the_order_and_nothing_else(
    fault: str, tmp_path: Path
) -> None:
    several = markets(30, 10, 2_500, 20, 40)
    faults = Faults(elsewhere={"Ticker": [fault] * 9})
    with serve(*several, faults=faults) as exchange:
        backfill = Backfill(exchange.url, tmp_path, options={"exchange.jobs": 1})
        outcomes = backfill.run(*(market.altname for market in several))
        assert len(asked(exchange, "Ticker")) == 1
    assert began(backfill) == [market.altname for market in several]
    assert [outcome.exit_status for outcome in outcomes] == [0] * 5


def test_a_failed_pair_does_not_end_the_others(tmp_path: Path) -> None:
    several = markets(*[50] * 12)
    script = {"ETHUSD": ["denied"]}
    with serve(*several, faults=Faults(script=script)) as exchange:
        backfill = Backfill(exchange.url, tmp_path, options={"exchange.jobs": 4})
        outcomes = backfill.run(*(market.altname for market in several))
    failed = {outcome.pair: str(outcome.error) for outcome in outcomes if outcome.error is not None}
    assert failed == {"ETHUSD": "ETHUSD: the exchange refused: EGeneral:Permission denied"}
    for market in several:
        want = [] if market.altname == "ETHUSD" else list(expected(market))
        assert rows_on_disk(tmp_path, market.altname) == want


def test_pairs_that_are_done_or_failed_keep_no_trades_in_memory(tmp_path: Path) -> None:
    """Their errors are raised at the end, and must not hold on to what their downloads had read."""
    several = markets(*[3_000] * 6)
    script = {market.altname: [None, None, "denied"] for market in several[:3]}
    archive = TradeStore(tmp_path)
    gc.collect()
    before = pa.total_allocated_bytes()
    with serve(*several, faults=Faults(script=script)) as exchange:
        backfill = Backfill(exchange.url, tmp_path, open=lambda _folder: archive)
        outcomes = backfill.run(*(market.altname for market in several))
        left = pa.total_allocated_bytes() - before
    assert [outcome.exit_status for outcome in outcomes] == [3, 3, 3, 0, 0, 0]
    assert left < 50_000
    assert archive._caches == {}


def test_a_silent_exchange_is_not_waited_for_by_each_pair(tmp_path: Path) -> None:
    several = markets(*[2_500] * 6)
    with serve(*several) as exchange:
        options = {"exchange.jobs": 2, "exchange.give_up_s": 0.05}
        backfill = Backfill(exchange.url, tmp_path, options=options)
        faults = {market.altname: [None, *["http:503"] * 1000] for market in several}
        exchange.faults = Faults(script=faults)
        outcomes = backfill.run(*(market.altname for market in several))
        known = {call.pair for call in exchange.calls if call.path.endswith("Trades")}
    begun = [outcome for outcome in outcomes if outcome.pair in known]
    assert len(begun) == 2
    assert {str(outcome.error) for outcome in outcomes if outcome not in begun} == {
        f"{outcome.pair}: not started, as the exchange gave no good answer to other pairs for "
        "0.05 s; the same command goes on where it stopped"
        for outcome in outcomes
        if outcome not in begun
    }
    assert [outcome.exit_status for outcome in outcomes] == [3] * 6


def test_after_a_cancellation_no_pair_is_begun(tmp_path: Path) -> None:
    several = markets(*[2_500] * 5)
    with serve(*several) as exchange:
        backfill = Backfill(exchange.url, tmp_path, options={"exchange.jobs": 2})
        backfill.stop_after_pages = 1
        outcomes = backfill.run(*(market.altname for market in several))
    assert {type(outcome.error) for outcome in outcomes} == {Interrupted}
    results = [event for event in backfill.events if isinstance(event, BackfillResult)]
    assert len(results) == len(began(backfill)) <= 2


def test_pairs_are_begun_as_long_as_any_other_is_answered(tmp_path: Path) -> None:
    """Only silence to all ends the run: one pair that is never answered does not."""
    several = markets(8_000, 10, 10)
    with serve(*several) as exchange:
        options = {"exchange.jobs": 2, "exchange.give_up_s": 0.1, "exchange.rate": 20}
        backfill = Backfill(exchange.url, tmp_path, options=options)
        exchange.faults = Faults(script={"ETHUSD": ["http:503"] * 1000, "XBTEUR": ["denied"]})
        outcomes = backfill.run("XBTUSD", "ETHUSD", "XBTEUR")
    assert [outcome.exit_status for outcome in outcomes] == [0, 3, 3]
    assert "gave no good answer" in str(outcomes[1].error)
    assert str(outcomes[2].error) == "XBTEUR: the exchange refused: EGeneral:Permission denied"


def test_a_backfill_of_no_pairs_returns_no_results(tmp_path: Path) -> None:
    with serve(*markets(5)) as exchange:
        assert Backfill(exchange.url, tmp_path).run() == []
