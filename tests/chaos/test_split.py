"""Where answers take longer than the pace, two spans are crawled at once, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sample_trades
from backfills import Crawl, strangers, tape_of
from download_faults import KINDS
from download_kills import dying, most_at_once, same
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_faults import Faults
from kraken_market import Clock, Market, expected
from kraken_server import Exchange
from kraken_socket import Call
from ledger import Ledger

from harvester.download import range as range_module
from harvester.download.events import PageRead
from harvester.download.range import RangeDownload, SplitDownload
from harvester.download.range_split import SplitPoint
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import Range

LATENCY_S = 0.004
FAST = {"exchange.rate": 2_000.0}
"""A call in half a millisecond, where an answer takes eight times as long."""


@pytest.fixture(autouse=True)
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where ranges were cut."""
    places: list[int] = []
    shorten = RangeDownload.shorten

    def spy(crawl: RangeDownload, cut: SplitPoint) -> bool:
        done = shorten(crawl, cut)
        if done:
            places.append(cut.at)
        return done

    monkeypatch.setattr(RangeDownload, "shorten", spy)
    return places


def serve(market: Market, **options: Any) -> Exchange:
    """The stand-in with this market, at the time when its last trade has just settled."""
    last_ns = market.trades[-1].true_ns if market.trades else sample_trades.BUSY_NS
    options = {"page_size": 100, "latency_s": LATENCY_S} | options
    return Exchange([market], clock=Clock(last_ns + 100 * 10**9), **options)


TAPES: dict[str, Callable[[], Market]] = {
    "like XBTUSD": lambda: sample_trades.market(sample_trades.xbtusd_like(4_000, 1)),
    "without ids, times of four decimals": lambda: sample_trades.old_style(4_000, 2),
    "runs of id 0": lambda: sample_trades.market(sample_trades.zero_ids(4_000, 4)),
    "ids that jump": lambda: sample_trades.market(sample_trades.jumping_ids(4_000, 8)),
    "ids that jump at nearly every trade": lambda: sample_trades.market(
        sample_trades.jumping_ids(3_000, 8, chance=0.9)
    ),
    "pages that end inside a stamp": lambda: sample_trades.market(
        sample_trades.inside_stamps(4_000, 5)
    ),
}


@pytest.mark.parametrize("mode", ["inclusive", "exclusive"])
@pytest.mark.parametrize("name", TAPES)
def test_the_tape_is_exact(name: str, mode: str, tmp_path: Path, cuts: list[int]) -> None:
    market = TAPES[name]()
    options = FAST | {"archive.flush_rows": 300}
    with serve(market, since_mode=mode) as exchange:
        outcome = Crawl(exchange.url, tmp_path, options).only("XBTUSD")
    assert cuts
    assert (outcome.exit_status, tape_of(tmp_path, "XBTUSD")) == (0, list(expected(market)))
    assert strangers(tmp_path) == []


def test_two_calls_are_in_flight_at_once_and_no_more(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(6_000, 11))
    with serve(market, latency_s=0.03) as exchange:
        Crawl(exchange.url, tmp_path, FAST).only("XBTUSD")
        calls = [call for call in exchange.calls if call.path.endswith("Trades")]
    assert most_in_flight(calls, 0.03) == 2


def test_with_answers_faster_than_the_pace_nothing_is_cut(tmp_path: Path, cuts: list[int]) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(3_000, 12))
    with serve(market, latency_s=0) as exchange:
        Crawl(exchange.url, tmp_path, {"exchange.rate": 30.0}).only("XBTUSD")
    assert cuts == []


def test_a_mirror_is_asked_one_page_at_a_time(tmp_path: Path, cuts: list[int]) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(3_000, 12))
    with serve(market) as exchange:
        Crawl(exchange.url, tmp_path, {"exchange.rate": 0}).only("XBTUSD")
    assert cuts == []


def test_two_spans_cost_next_to_no_calls_more(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(8_000, 13))
    calls = []
    for folder, options in (("one", {"exchange.rate": 0}), ("two", FAST)):
        with serve(market) as exchange:
            outcome = Crawl(exchange.url, tmp_path / folder, options).only("XBTUSD")
            assert outcome.pages == exchange.pages("XBTUSD")
            calls.append(exchange.pages("XBTUSD"))
    # Each cut costs a page to find the place, and an overlap; halves end at about the same time.
    assert calls[1] <= calls[0] + 16


def test_what_is_told_adds_up_over_both_spans(tmp_path: Path, cuts: list[int]) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(6_000, 14))
    with serve(market) as exchange:
        crawl = Crawl(exchange.url, tmp_path, FAST)
        outcome = crawl.only("XBTUSD")
    told = [event for event in crawl.events if isinstance(event, PageRead)]
    # The last trade is held back until nothing is seen to follow it.
    assert (outcome.trades, told[-1].trades) == (6_000, 5_999)
    assert [event.trades for event in told] == sorted(event.trades for event in told)
    # While the earlier span is under way, it tells how far the pair is.
    assert told[len(told) // 2].reached_ns < cuts[0]


@pytest.mark.parametrize("stop_after", [6, 10, 17, 30, 45])
def test_a_stop_keeps_what_both_spans_fetched(stop_after: int, tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(6_000, 15))
    with serve(market) as exchange:
        first = Crawl(exchange.url, tmp_path, FAST, stop_after_pages=stop_after).only("XBTUSD")
        kept = tape_of(tmp_path, "XBTUSD")
        Ledger(tmp_path, market).check()
        last = Crawl(exchange.url, tmp_path, FAST).only("XBTUSD")
    assert (first.exit_status, last.exit_status) == (130, 0)
    assert len(kept) > 90 * (stop_after - 5)
    assert tape_of(tmp_path, "XBTUSD") == list(expected(market))


def test_newest_first_comes_to_the_same_tape(tmp_path: Path, cuts: list[int]) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(6_000, 16, gap_s=6_000))
    with serve(market) as exchange:
        Crawl(exchange.url, tmp_path, FAST, newest_first=True).only("XBTUSD")
    assert cuts
    assert tape_of(tmp_path, "XBTUSD") == list(expected(market))


def test_a_span_that_fails_ends_the_other_and_what_both_fetched_is_kept(
    tmp_path: Path, cuts: list[int]
) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(8_000, 17))
    with serve(market) as exchange:
        crawl = Crawl(exchange.url, tmp_path, FAST)
        begun = RangeDownload.run
        denied = [False]

        async def run(self: RangeDownload, *given: object) -> None:
            if cuts and not denied[0]:
                denied[0] = True
                exchange.faults.push(*[None] * 6, "denied")
            await begun(self, *given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RangeDownload, "run", run)
            outcome = crawl.only("XBTUSD")
        asked = exchange.pages("XBTUSD")
        assert str(outcome.error) == ("XBTUSD: the exchange refused: EGeneral:Permission denied")
        Ledger(tmp_path, market).check()
        assert len(TradeStore(tmp_path).coverage("XBTUSD")) == 2
        assert asked < 40
        Crawl(exchange.url, tmp_path, FAST).only("XBTUSD")
    assert tape_of(tmp_path, "XBTUSD") == list(expected(market))


def test_a_page_that_leaves_out_the_first_trades_behind_a_cut_costs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(6_000, 18))
    places = {market.published_ns(trade): place for place, trade in enumerate(market.trades)}
    with serve(market) as exchange:
        shorten = RangeDownload.shorten

        def hide(crawl: RangeDownload, cut: SplitPoint) -> bool:
            behind = places[cut.at] + 1
            exchange.faults.hide.setdefault("XBTUSD", {}).update({behind: 1, behind + 1: 1})
            return shorten(crawl, cut)

        monkeypatch.setattr(RangeDownload, "shorten", hide)
        outcome = Crawl(exchange.url, tmp_path, FAST).only("XBTUSD")
        assert exchange.faults.hide["XBTUSD"]
        assert not any(exchange.faults.hide["XBTUSD"].values())
    assert (outcome.error, tape_of(tmp_path, "XBTUSD")) == (None, list(expected(market)))


def test_an_exchange_that_shows_nothing_for_a_while_is_not_believed_behind_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trade is known where the second span begins, even while the archive holds none yet."""
    market = sample_trades.market(sample_trades.xbtusd_like(6_000, 22))
    with serve(market) as exchange:
        shorten = RangeDownload.shorten

        def empty(crawl: RangeDownload, cut: SplitPoint) -> bool:
            exchange.faults.push(*["empty"] * 30)
            return shorten(crawl, cut)

        monkeypatch.setattr(RangeDownload, "shorten", empty)
        first = Crawl(exchange.url, tmp_path, FAST).only("XBTUSD")
        monkeypatch.undo()
        Ledger(tmp_path, market).check()
        exchange.faults = Faults()
        Crawl(exchange.url, tmp_path, FAST).only("XBTUSD")
    assert first.exit_status == 3
    assert tape_of(tmp_path, "XBTUSD") == list(expected(market))


def test_both_spans_take_turns_in_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: list[int]
) -> None:
    writing, most = [0], [0]

    def alone(work: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any, **more: Any) -> Any:
            writing[0] += 1
            most[0] = max(most[0], writing[0])
            try:
                return work(*given, **more)
            finally:
                writing[0] -= 1

        return watched

    for name in ("commit", "compact"):
        monkeypatch.setattr(Writer, name, alone(getattr(Writer, name)))
    market = sample_trades.market(sample_trades.xbtusd_like(6_000, 21))
    with serve(market) as exchange:
        Crawl(exchange.url, tmp_path, FAST | {"archive.flush_rows": 100}).only("XBTUSD")
    assert (bool(cuts), most) == (True, [1])
    assert tape_of(tmp_path, "XBTUSD") == list(expected(market))


def test_cutting_is_given_up_for_a_while_where_no_place_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_module, "cut_between", lambda _rows, _within: None)
    market = sample_trades.market(sample_trades.xbtusd_like(6_000, 19))
    with serve(market) as exchange:
        Crawl(exchange.url, tmp_path, FAST).only("XBTUSD")
        assert exchange.pages("XBTUSD") <= 62 + 4 * range_module.SPLIT_ATTEMPTS
    assert tape_of(tmp_path, "XBTUSD") == list(expected(market))


@pytest.mark.parametrize("script", [[], [None] * 20 + ["denied"]])
def test_a_place_to_cut_is_looked_for_no_longer_than_the_crawl_lasts(
    script: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where that page alone is asked for again and again."""
    looked = []

    async def never(_crawl: object, since_ns: int) -> None:
        looked.append(since_ns)
        await asyncio.Event().wait()

    monkeypatch.setattr(SplitDownload, "_split_page", never)
    market = sample_trades.market(sample_trades.xbtusd_like(3_000, 23))

    async def hurried(crawl: Crawl) -> Any:
        async with asyncio.timeout(20):
            return await crawl._run(["XBTUSD"], Range(0, 2**62))

    with serve(market, faults=Faults(script=script)) as exchange:
        [outcome] = asyncio.run(hurried(Crawl(exchange.url, tmp_path, FAST)))
    assert (len(looked), outcome.exit_status) == (1, 3 if script else 0)


def test_a_crawl_that_is_cancelled_takes_its_spans_with_it(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(6_000, 20))

    async def cancelled(crawl: Crawl) -> set[str]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await crawl._run(["XBTUSD"], Range(0, 2**62))
        return {task.get_name() for task in asyncio.all_tasks()}

    with serve(market) as exchange:
        left = asyncio.run(cancelled(Crawl(exchange.url, tmp_path, FAST)))
        assert len(left) == 1
        Crawl(exchange.url, tmp_path, FAST).only("XBTUSD")
    assert tape_of(tmp_path, "XBTUSD") == list(expected(market))


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_tape_under_any_faults_and_kills_is_exact(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    market = data.draw(sample_trades.tapes())
    kinds = [kind for kind in KINDS if kind not in ("rate_limit", "too_many", "http:429")]
    faults = Faults(
        seed=data.draw(st.integers(0, 10_000)),
        chances=dict.fromkeys(data.draw(st.sets(st.sampled_from(kinds), max_size=4)), 0.1),
        throttle_s=0,
    )
    page_size = data.draw(st.integers(1, 10)) + most_at_once(market)
    options = FAST | {"archive.flush_rows": data.draw(st.integers(1, 30))}
    folder = tmp_path_factory.mktemp("tape")
    ledger = Ledger(folder, market)
    mode = data.draw(st.sampled_from(["inclusive", "exclusive"]))
    with serve(
        market, faults=faults, since_mode=mode, page_size=min(page_size, 1000), latency_s=0.002
    ) as exchange:
        for steps, torn in data.draw(
            st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=2)
        ):
            disk = partial(dying, steps=steps, torn=torn)
            Crawl(exchange.url, folder, options, open=disk).only("XBTUSD")
            ledger.check()
        exchange.faults = Faults()
        last = Crawl(exchange.url, folder, options).only("XBTUSD")
    ledger.check()
    # The stand-in shows no candles where nobody traded, so nothing proves that nobody did.
    status = 0 if market.trades else 3
    assert (last.exit_status, tape_of(folder, "XBTUSD")) == (status, list(expected(market)))
    assert strangers(folder) == []


@pytest.mark.parametrize("kind", ["skip", "stale", "older", "shuffle", "empty", "cut", "busy"])
def test_a_fault_costs_calls_and_never_a_trade(kind: str, tmp_path: Path, cuts: list[int]) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(5_000, 31))
    faults = Faults(seed=5, chances={kind: 0.2})
    with serve(market, faults=faults) as exchange:
        outcome = Crawl(exchange.url, tmp_path, FAST).only("XBTUSD")
        assert faults.done[kind]
    assert cuts
    assert (outcome.exit_status, tape_of(tmp_path, "XBTUSD")) == (0, list(expected(market)))


def test_a_run_killed_at_every_tenth_step_comes_to_its_end(tmp_path: Path, cuts: list[int]) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(1_500, 32))
    options = FAST | {"archive.flush_rows": 60}
    deaths = 0
    with serve(market, page_size=50, latency_s=0.002) as exchange:
        for deaths in range(0, 140, 10):
            folder = tmp_path / str(deaths)
            archive = dying(folder, deaths, torn=bool(deaths % 2))
            Crawl(exchange.url, folder, options, open=partial(same, archive)).only("XBTUSD")
            ledger = Ledger(folder, market)
            ledger.check()
            Crawl(exchange.url, folder, options).only("XBTUSD")
            ledger.check()
            assert tape_of(folder, "XBTUSD") == list(expected(market))
            assert strangers(folder) == []
    assert len(cuts) > 10


def most_in_flight(calls: list[Call], latency_s: float) -> int:
    """How many calls were unanswered at once, by the times at which they came in."""
    at = [call.at_s for call in calls]
    return max(sum(one <= other < one + 0.9 * latency_s for one in at) for other in at)
