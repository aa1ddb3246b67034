"""Whatever the exchange answers, every trade is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sample_trades
from backfills import Backfill, foreign_files, rows_on_disk, serve, serve_100
from download_faults import KINDS
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_faults import Faults
from kraken_market import Market, expected
from kraken_server import Exchange

from harvester.errors import ArchiveUnwritable
from harvester.events import PageRead
from harvester.storage.segment import Segment
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import END_OF_TIME, Range

__all__ = ["serve_100"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_costs_calls_and_never_a_trade(
    kind: str, serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(600, 31))
    faults = Faults(seed=5, chances={kind: 0.3}, throttle_s=0)
    with serve_100(market, faults=faults) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
        assert faults.done[kind]
    assert (outcome.exit_status, rows_on_disk(tmp_path, "XBTUSD")) == (0, list(expected(market)))


@pytest.mark.parametrize("seed", range(6))
def test_all_faults_at_once_never_cost_a_trade(
    seed: int, serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(800, seed))
    faults = Faults(seed=seed, chances=dict.fromkeys(KINDS, 0.015), throttle_s=0)
    with serve_100(market, faults=faults) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


@pytest.mark.parametrize("kind", ["hang", "dribble"])
def test_an_answer_that_never_ends_is_dropped_in_time(kind: str, tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(2_500, 32))
    with serve(market, faults=Faults(script=[None, kind], hang_s=20, dribble_s=20)) as exchange:
        Backfill(exchange.url, tmp_path, {"exchange.timeout_s": 0.3}).only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("unknown_pair", "XBTUSD: the exchange refused: EQuery:Unknown asset pair"),
        ("invalid", "XBTUSD: the exchange refused: EGeneral:Invalid arguments"),
        ("denied", "XBTUSD: the exchange refused: EGeneral:Permission denied"),
        ("lockout", "XBTUSD: the exchange refused: EGeneral:Temporary lockout"),
    ],
)
def test_a_lasting_error_ends_the_backfill_without_a_retry(
    kind: str, message: str, tmp_path: Path
) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(2_500, 33))
    with serve(market, faults=Faults(script=[None, kind])) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
        assert exchange.pages("XBTUSD") == 1
    assert (outcome.exit_status, str(outcome.error)) == (3, message)


def test_what_was_fetched_before_a_stop_is_kept(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(2_500, 34))
    with serve(market, faults=Faults(script=[None, None, "denied"])) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
    kept = rows_on_disk(tmp_path, "XBTUSD")
    assert len(kept) > 1_900
    assert kept == list(expected(market))[: len(kept)]


def test_a_market_that_shows_nothing_at_first_is_not_believed_to_be_empty(tmp_path: Path) -> None:
    """Its candles have trades: an outage must not stand for a history without any."""
    market = sample_trades.market(sample_trades.xbtusd_like(900, 20))
    with serve(market, faults=Faults(script=["empty"] * 40)) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
        assert (outcome.exit_status, str(outcome.error)) == (
            3,
            "XBTUSD: the exchange's answers contradict one another (the newest page is empty); "
            "nothing in doubt was kept, the same command goes on where it stopped",
        )
        assert TradeStore(tmp_path).coverage("XBTUSD") == []
        exchange.faults = Faults()
        Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


def test_a_disk_error_during_a_wait_ends_the_backfill_with_the_next_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was fetched by then is written, if it can be by then."""
    market = sample_trades.market(sample_trades.xbtusd_like(2_000, 21))
    commit, calls = Writer.commit, []

    def full(writer: Writer, *given: Any) -> list[Segment]:
        calls.append(writer)
        if len(calls) == 1:
            raise ArchiveUnwritable("the disk is full")
        return commit(writer, *given)

    monkeypatch.setattr(Writer, "commit", full)
    options = {"archive.flush_s": 0.02}
    with serve(market, page_size=100, latency_s=0.2) as exchange:
        outcome = Backfill(exchange.url, tmp_path, options).only("XBTUSD")
        asked = exchange.pages("XBTUSD")
    assert (outcome.exit_status, str(outcome.error)) == (1, "the disk is full")
    assert asked <= 3
    held = rows_on_disk(tmp_path, "XBTUSD")
    # The first page whole, but for the trades of its last time.
    assert len(held) > 80
    assert held == list(expected(market))[: len(held)]


def test_an_empty_answer_alone_covers_no_years(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(5_000, 35))
    script = [None, "empty", None, None, "empty"]
    with serve(market, faults=Faults(script=script)) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


def test_answers_that_keep_contradicting_one_another_end_the_pair(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(5_000, 36))
    # Every page from a stamp is empty, every newest page is full.
    with serve(market, faults=Faults(script=["empty", None] * 20)) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert outcome.exit_status == 3
    assert str(outcome.error) == (
        "XBTUSD: the exchange's answers contradict one another (by one answer nothing follows "
        f"1970-01-01T00:00:00Z, the newest page ends {_last(market)}); nothing in doubt was kept, "
        "the same command goes on where it stopped"
    )


def _last(market: Market) -> str:
    stamp = list(expected(market))[-1][1]
    whole = datetime.fromtimestamp(stamp // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{stamp % 10**9:09d}".rstrip("0").rstrip(".") + "Z"


def test_a_cancelled_backfill_leaves_no_task_and_keeps_its_trades(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(3_000, 20))

    async def cancelled(backfill: Backfill) -> int:
        task = asyncio.create_task(backfill._run(["XBTUSD"], Range(0, END_OF_TIME)))
        while sum(isinstance(event, PageRead) for event in backfill.events) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return len(asyncio.all_tasks() - {asyncio.current_task()})

    with serve(market, page_size=100, latency_s=0.004) as exchange:
        assert asyncio.run(cancelled(Backfill(exchange.url, tmp_path))) == 0
        assert TradeStore(tmp_path).coverage("XBTUSD")
        Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_trades_under_any_faults_and_interruptions_are_stored_exactly(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    market = data.draw(sample_trades.markets())
    # Rows without ids that a page leaves out can't be known to be missing.
    kinds = [kind for kind in KINDS if kind not in ("skip", "throttled")]
    faults = Faults(
        seed=data.draw(st.integers(0, 10_000)),
        chances=dict.fromkeys(data.draw(st.sets(st.sampled_from(kinds), max_size=4)), 0.15),
    )
    folder = tmp_path_factory.mktemp("history")
    mode = data.draw(st.sampled_from(["inclusive", "exclusive"]))
    with serve(market, faults=faults, since_mode=mode) as exchange:
        for stop_after in data.draw(st.lists(st.integers(1, 4), max_size=2)):
            Backfill(exchange.url, folder, stop_after_pages=stop_after).only("XBTUSD")
        last = Backfill(exchange.url, folder).only("XBTUSD")
    # The test exchange shows no candles where nobody traded, so nothing proves that nobody did.
    status = 0 if market.trades else 3
    assert (last.exit_status, rows_on_disk(folder, "XBTUSD")) == (status, list(expected(market)))
    assert foreign_files(folder) == []
