"""Trades that show up late: the next run stores them, or reports them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sample_trades
from backfills import Backfill, foreign_files, rows_on_disk, serve
from kraken_faults import Faults
from kraken_market import SECOND_NS, Clock, Market, TradeRows, expected
from kraken_server import Exchange

from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, Range, show
from harvester.verify.integrity import verify

TRADES = sample_trades.xbtusd_like(1_700, 91, first_id=1)
MARKET = sample_trades.market(TRADES)
NOW_NS = TRADES[1_500].true_ns // SECOND_NS * SECOND_NS
SETTLED_NS = NOW_NS - 60 * SECOND_NS
SETTLED = [place for place, trade in enumerate(TRADES) if trade.true_ns <= SETTLED_NS]
UNSETTLED = [place for place, trade in enumerate(TRADES) if SETTLED_NS < trade.true_ns <= NOW_NS]


def late(places: Iterable[int]) -> Faults:
    """The exchange does not show these for as long as the fault is on."""
    return Faults(hide={"XBTUSD": dict.fromkeys(places, 10**6)})


def two_runs(exchange: Exchange, folder: Path, clock: Clock, **options: float) -> None:
    """A run while trades are late, and one a minute later, when all are there."""
    settings = {f"refresh.{name}": value for name, value in options.items()}
    Backfill(exchange.url, folder, settings).only("XBTUSD")
    exchange.faults = Faults()
    clock.advance(60)
    Backfill(exchange.url, folder, settings).only("XBTUSD")


def shown_by(clock: Clock, settle_s: int = 60, market: Market = MARKET) -> TradeRows:
    return [row for row in expected(market) if row[1] <= clock.now_ns - settle_s * SECOND_NS]


@pytest.mark.parametrize("mode", ["inclusive", "exclusive"])
@pytest.mark.parametrize(
    "places",
    [UNSETTLED, UNSETTLED[:1], UNSETTLED[-1:], UNSETTLED[::3]],
    ids=["all of them", "the first", "the last", "each third"],
)
def test_trades_that_are_late_by_less_than_settle_come_with_the_next_run(
    places: list[int], mode: str, tmp_path: Path
) -> None:
    clock = Clock(NOW_NS)
    with serve(MARKET, clock=clock, faults=late(places), since_mode=mode) as exchange:
        two_runs(exchange, tmp_path, clock)
    assert rows_on_disk(tmp_path, "XBTUSD") == shown_by(clock)


def test_trades_without_ids_that_are_late_by_less_than_settle_come_with_the_next_run(
    tmp_path: Path,
) -> None:
    market = sample_trades.market(sample_trades.ids_unknown(TRADES))
    clock = Clock(NOW_NS)
    with serve(market, clock=clock, faults=late(UNSETTLED[::2])) as exchange:
        two_runs(exchange, tmp_path, clock)
    assert rows_on_disk(tmp_path, "XBTUSD") == shown_by(clock, market=market)


def test_trades_late_by_less_than_settle_are_stored(tmp_path: Path) -> None:
    clock = Clock(NOW_NS)
    places = [p for p, trade in enumerate(TRADES) if 0 <= NOW_NS - trade.true_ns < 600 * SECOND_NS]
    with serve(MARKET, clock=clock, faults=late(places)) as exchange:
        two_runs(exchange, tmp_path, clock, settle_s=600)
    assert rows_on_disk(tmp_path, "XBTUSD") == shown_by(clock, 600)


def test_a_trade_that_comes_behind_what_is_stored_is_downloaded_by_the_next_run(
    tmp_path: Path,
) -> None:
    clock = Clock(NOW_NS)
    with serve(MARKET, clock=clock, faults=late(SETTLED[-1:])) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
        exchange.faults = Faults()
        clock.advance(60)
        backfill = Backfill(exchange.url, tmp_path)
        outcome = backfill.only("XBTUSD")
    last = TRADES[SETTLED[-1]].trade_id or 0
    assert (outcome.exit_status, rows_on_disk(tmp_path, "XBTUSD")) == (0, shown_by(clock))
    assert [text.partition(" lacked ")[2] for text in backfill.notes] == [
        f"trades between ids {last - 1} and {last + 1}: it is a gap now, and is downloaded again"
    ]
    assert foreign_files(tmp_path) == []


def test_a_trade_late_by_more_than_settle_is_recorded_as_an_id_gap(tmp_path: Path) -> None:
    clock = Clock(NOW_NS)
    missing = SETTLED[-200]
    with serve(MARKET, clock=clock, faults=late([missing])) as exchange:
        two_runs(exchange, tmp_path, clock)
    number = TRADES[missing].trade_id or 0
    id_gaps = [
        json.loads(pq.read_metadata(file).metadata[b"harvester.jumps"])
        for file in sorted(tmp_path.glob("trades/**/*.parquet"))
    ]
    assert [each for id_gap in id_gaps for each in id_gap] == [[number - 1, number + 1]]
    kept = [row[0] for row in rows_on_disk(tmp_path, "XBTUSD")]
    assert kept == [row[0] for row in shown_by(clock) if row[0] != number]
    assert verify(TradeStore(tmp_path), "XBTUSD").confirmed_id_gaps == 1


QUIET = sample_trades.sparse(30, 3)
LAST_NS = QUIET[-1].true_ns


@pytest.mark.parametrize("ids", ["with ids", "without ids"])
def test_a_late_last_trade_of_a_quiet_market_is_found_by_the_next_run(
    ids: str, tmp_path: Path
) -> None:
    market = sample_trades.market(QUIET if ids == "with ids" else sample_trades.ids_unknown(QUIET))
    clock = Clock(LAST_NS + 100 * SECOND_NS)
    with serve(market, clock=clock, faults=late([len(QUIET) - 1])) as exchange:
        assert Backfill(exchange.url, tmp_path).only(market.altname).exit_status == 0
        assert rows_on_disk(tmp_path, market.altname) == expected(market)[:-1]
        exchange.faults = Faults()
        clock.advance(3600)
        pages = exchange.pages(market.altname)
        backfill = Backfill(exchange.url, tmp_path)
        outcome = backfill.only(market.altname)
        assert exchange.pages(market.altname) - pages <= 5
    assert (outcome.exit_status, rows_on_disk(tmp_path, market.altname)) == (0, expected(market))
    newest = show(expected(market)[-1][1])
    assert [text.partition(" lacked ")[2] for text in backfill.notes] == [
        f"the newest trade ({newest}): it is a gap now, and is downloaded again"
    ]


def test_a_quiet_head_where_nothing_is_missing_ends_well(tmp_path: Path) -> None:
    market = sample_trades.market(QUIET)
    clock = Clock(LAST_NS + 100 * SECOND_NS)
    with serve(market, clock=clock) as exchange:
        for _ in range(3):
            assert Backfill(exchange.url, tmp_path).only(market.altname).exit_status == 0
            clock.advance(3600)
    assert rows_on_disk(tmp_path, market.altname) == expected(market)


@pytest.mark.parametrize("last_digits", [749, 849], ids=["later", "earlier"])
@pytest.mark.parametrize("forms", [(None, 9), (9, None), (4, None), (None, 4)])
def test_times_in_another_form_repeat_no_trade_of_a_quiet_market(
    forms: tuple[int | None, int | None], last_digits: int, tmp_path: Path
) -> None:
    """The last trade's time is then printed a little later, or earlier, than it is stored."""
    last = replace(
        QUIET[-1], true_ns=LAST_NS // sample_trades.MICRO_NS * sample_trades.MICRO_NS + last_digits
    )
    market = sample_trades.market([*QUIET[:-1], last], decimals=forms[0])
    rows = expected(market)
    clock = Clock(LAST_NS + 100 * SECOND_NS)
    with serve(market, clock=clock) as exchange:
        assert Backfill(exchange.url, tmp_path).only(market.altname).exit_status == 0
        exchange.change(market.altname, decimals=forms[1])
        for _ in range(2):
            clock.advance(3600)
            assert Backfill(exchange.url, tmp_path).only(market.altname).exit_status == 0
        assert rows_on_disk(tmp_path, market.altname) == rows
        more = replace(last, true_ns=LAST_NS + 1800 * SECOND_NS, trade_id=len(QUIET) + 1)
        exchange.change(market.altname, trades=[*market.trades, more])
        clock.advance(3600)
        assert Backfill(exchange.url, tmp_path).only(market.altname).exit_status == 0
    stored = rows_on_disk(tmp_path, market.altname)
    assert (stored[:-1], stored[-1][0]) == (rows, more.trade_id)


@pytest.mark.parametrize("last_digits", [749, 849], ids=["later", "earlier"])
@pytest.mark.parametrize("forms", [(None, 9), (9, None), (4, None), (None, 4)])
def test_times_in_another_form_repeat_no_trade_at_the_ends_of_a_gap(
    forms: tuple[int | None, int | None], last_digits: int, tmp_path: Path
) -> None:
    trades = [
        replace(trade, true_ns=trade.true_ns // 1_000 * 1_000 + last_digits) for trade in QUIET
    ]
    market = sample_trades.market(trades, decimals=forms[0])
    before, after = (market.published_ns(trades[place]) for place in (9, 20))
    with serve(market, clock=Clock(LAST_NS + 100 * SECOND_NS)) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        for part in (Range(0, before), Range(after - 1, END_OF_TIME)):
            assert backfill.only(market.altname, part).exit_status == 0
        exchange.change(market.altname, decimals=forms[1])
        assert backfill.only(market.altname).exit_status == 0
    stored = [row[0] for row in rows_on_disk(tmp_path, market.altname)]
    assert stored == list(range(1, len(trades) + 1))


@pytest.mark.parametrize("place", [9, 20])
def test_two_trades_of_one_id_at_an_end_of_a_gap_are_both_stored(
    place: int, tmp_path: Path
) -> None:
    """They differ in their price, so neither is the other in another form."""
    twin = replace(QUIET[place], true_ns=QUIET[place].true_ns + 300_000, price="7.5", trade_id=None)
    trades = [replace(trade, trade_id=number) for number, trade in enumerate(QUIET[: place + 1], 1)]
    trades += [replace(twin, trade_id=place + 1)]
    trades += [
        replace(trade, trade_id=number)
        for number, trade in enumerate(QUIET[place + 1 :], place + 2)
    ]
    market = sample_trades.market(trades)
    end = market.published_ns(trades[place])
    parts = Range(0, end), Range(end, END_OF_TIME)
    with serve(market, clock=Clock(LAST_NS + 100 * SECOND_NS)) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        for part in parts if place == 9 else reversed(parts):
            assert backfill.only(market.altname, part).exit_status == 0
    assert rows_on_disk(tmp_path, market.altname) == expected(market)


def test_coverage_of_future_time_is_noted(tmp_path: Path) -> None:
    clock = Clock(LAST_NS + 3600 * SECOND_NS)
    with serve(sample_trades.market(QUIET), clock=clock) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
        clock.advance(-1800)
        backfill = Backfill(exchange.url, tmp_path)
        assert backfill.only("XBTUSD").exit_status == 0
    now = clock.now_ns // SECOND_NS * SECOND_NS
    assert backfill.notes == [
        f"it is covered through {show(now + 1740 * SECOND_NS)}, which by the exchange's clock is "
        f"still to come ({show(now)}): if that clock was wrong before, trades may be missing; "
        "`harvester verify XBTUSD --against-exchange` checks that"
    ]


def test_a_trade_in_the_future_is_not_the_end_of_the_history(tmp_path: Path) -> None:
    """Taken as true, it would end the download there, and all behind it would be lost."""
    rows = sample_trades.xbtusd_like(3_000, 5)
    literals = [f"{row.true_ns // 1000 / 10**6:.6f}" for row in rows]
    future_s = rows[-1].true_ns // SECOND_NS + 40 * 86_400
    literals[500] = f"{future_s}.5"
    market = Market(trades=rows, literals=literals)
    clock = Clock(rows[-1].true_ns + 120 * SECOND_NS)
    with serve(market, clock=clock) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert outcome.exit_status == 3
    assert str(outcome.error) == (
        f"XBTUSD: the exchange sent a trade of {show(future_s * SECOND_NS + SECOND_NS // 2)}, "
        f"id {rows[500].trade_id}, price {Decimal(rows[500].price):.10f}, volume "
        f"{Decimal(rows[500].volume):.8f}, while its clock says "
        f"{show(clock.now_ns // SECOND_NS * SECOND_NS)}; nothing of this page was kept"
    )
    assert rows_on_disk(tmp_path, "XBTUSD") == []
