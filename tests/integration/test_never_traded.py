"""A market without trades: covered only where the exchange shows that nobody ever traded there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sample_trades
from backfills import Backfill, rows_on_disk, serve
from kraken_faults import Faults
from kraken_market import SECOND_NS, Clock, expected

from harvester.storage.trade_store import TradeStore
from harvester.times import Range

WEEK_S = 7 * 86_400
FIRST_WEEK_S = 2_800 * WEEK_S
NOW_NS = (FIRST_WEEK_S + 3 * WEEK_S + 1_000) * SECOND_NS
SETTLED_NS = NOW_NS - 60 * SECOND_NS


def weeks(*, count: int = 0, close: str = "0.0", volume: str = "0.00000000") -> list[Any]:
    """Three weekly candles as the exchange prints them; the last one differs as given."""
    empty = ["0.0"] * 5 + ["0.00000000", 0]
    last = ["0.0", "0.0", "0.0", close, "0.0", volume, count]
    return [
        [FIRST_WEEK_S, *empty],
        [FIRST_WEEK_S + WEEK_S, *empty],
        [FIRST_WEEK_S + 2 * WEEK_S, *last],
    ]


def showing(rows: list[Any], **faults: Any) -> Faults:
    """Whatever the market is, its candles are these."""
    return Faults(candles=lambda _pair, _minutes, _rows: rows, **faults)


def test_a_market_whose_candles_are_there_and_hold_no_trade_is_covered_and_empty(
    tmp_path: Path,
) -> None:
    with serve(sample_trades.empty(), clock=Clock(NOW_NS), faults=showing(weeks())) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert (outcome.exit_status, outcome.error) == (0, None)
    assert TradeStore(tmp_path).coverage("XBTUSD") == [Range(0, SETTLED_NS)]
    assert rows_on_disk(tmp_path, "XBTUSD") == []


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "shows no trade of it, and shows no candles of it either"),
        (weeks(count=1), "answers contradict one another"),
        (weeks(close="7.5"), "answers contradict one another"),
        (weeks(volume="0.00000001"), "answers contradict one another"),
    ],
    ids=["no candles", "a trade", "the price of an earlier trade", "a volume"],
)
@pytest.mark.parametrize("trades", [0, 900])
def test_empty_answers_prove_nothing_where_candles_do_not_show_that_nobody_traded(
    trades: int, rows: list[Any], why: str, tmp_path: Path
) -> None:
    market = (
        sample_trades.market(sample_trades.xbtusd_like(trades, 20))
        if trades
        else sample_trades.empty()
    )
    with serve(market, faults=showing(rows, script=["empty"] * 40)) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
        assert (outcome.exit_status, why in str(outcome.error)) == (3, True)
        assert TradeStore(tmp_path).coverage("XBTUSD") == []
        exchange.faults = Faults()
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert outcome.exit_status == (0 if trades else 3)
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


def test_a_market_that_seems_empty_once_is_requested_again_though_its_candles_agree(
    tmp_path: Path,
) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(900, 20))
    with serve(market, faults=showing(weeks(), script=["empty", "empty"])) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert (outcome.exit_status, rows_on_disk(tmp_path, "XBTUSD")) == (0, list(expected(market)))


def test_a_market_with_stored_trades_never_counts_as_one_that_was_not_traded(
    tmp_path: Path,
) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(900, 20))
    clock = Clock(expected(market)[-1][1] + 3_600 * SECOND_NS)
    with serve(market, clock=clock) as exchange:
        assert Backfill(exchange.url, tmp_path).only("XBTUSD").exit_status == 0
    covered = TradeStore(tmp_path).coverage("XBTUSD")
    clock.advance(86_400)
    with serve(sample_trades.empty(), clock=clock, faults=showing(weeks())) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert (outcome.exit_status, TradeStore(tmp_path).coverage("XBTUSD")) == (3, covered)


@pytest.mark.parametrize(
    "fault", ["denied", "invalid", "unknown_pair", "lockout", "http:404", "http:503", "not_json"]
)
def test_candles_that_are_refused_prove_nothing(fault: str, tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(900, 20))
    faults = Faults(script=["empty"] * 40, elsewhere={"OHLC": [fault] * 40})
    with serve(market, faults=faults) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
        assert outcome.exit_status == 3
        assert str(outcome.error).startswith("XBTUSD: the exchange shows no trade of it")
        assert TradeStore(tmp_path).coverage("XBTUSD") == []
        exchange.faults = Faults()
        Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))
