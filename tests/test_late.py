"""Trades that show up late: the next run has them, or somebody is told."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tapes
from crawling import Crawl, serve, strangers, tape_of
from exchange import SECOND_NS, Clock, Exchange, Faults, Market, Tape, expected

from harvester.archive.archive import Archive
from harvester.checks.verify import verify

TRADES = tapes.xbtusd_like(1_700, 91, first_id=1)
MARKET = tapes.market(TRADES)
NOW_NS = TRADES[1_500].true_ns // SECOND_NS * SECOND_NS
SETTLED_NS = NOW_NS - 60 * SECOND_NS
SETTLED = [place for place, one in enumerate(TRADES) if one.true_ns <= SETTLED_NS]
UNSETTLED = [place for place, one in enumerate(TRADES) if SETTLED_NS < one.true_ns <= NOW_NS]


def late(places: Iterable[int]) -> Faults:
    """The exchange does not show these for as long as the fault is on."""
    return Faults(hide={"XBTUSD": dict.fromkeys(places, 10**6)})


def two_runs(exchange: Exchange, folder: Path, clock: Clock, **options: float) -> None:
    """A run while trades are late, and one a minute later, when all are there."""
    settings = {f"refresh.{name}": value for name, value in options.items()}
    Crawl(exchange.url, folder, settings).only("XBTUSD")
    exchange.faults = Faults()
    clock.advance(60)
    Crawl(exchange.url, folder, settings).only("XBTUSD")


def shown_by(clock: Clock, settle_s: int = 60, market: Market = MARKET) -> Tape:
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
    assert tape_of(tmp_path, "XBTUSD") == shown_by(clock)


def test_trades_without_ids_that_are_late_by_less_than_settle_come_with_the_next_run(
    tmp_path: Path,
) -> None:
    market = tapes.market(tapes.ids_unknown(TRADES))
    clock = Clock(NOW_NS)
    with serve(market, clock=clock, faults=late(UNSETTLED[::2])) as exchange:
        two_runs(exchange, tmp_path, clock)
    assert tape_of(tmp_path, "XBTUSD") == shown_by(clock, market=market)


def test_settle_tells_how_late_a_trade_may_be(tmp_path: Path) -> None:
    clock = Clock(NOW_NS)
    places = [p for p, one in enumerate(TRADES) if 0 <= NOW_NS - one.true_ns < 600 * SECOND_NS]
    with serve(MARKET, clock=clock, faults=late(places)) as exchange:
        two_runs(exchange, tmp_path, clock, settle_s=600)
    assert tape_of(tmp_path, "XBTUSD") == shown_by(clock, 600)


def test_a_trade_that_comes_behind_what_is_held_ends_the_next_run_and_names_the_file(
    tmp_path: Path,
) -> None:
    clock = Clock(NOW_NS)
    with serve(MARKET, clock=clock, faults=late(SETTLED[-1:])) as exchange:
        Crawl(exchange.url, tmp_path).only("XBTUSD")
        exchange.faults = Faults()
        clock.advance(60)
        [file] = tmp_path.glob("trades/**/*.parquet")
        crawl = Crawl(exchange.url, tmp_path)
        outcome = crawl.only("XBTUSD")
        last = TRADES[SETTLED[-1]].trade_id or 0
        assert (outcome.exit_status, str(outcome.error)) == (
            4,
            (
                f"XBTUSD: trades between ids {last - 1} and {last + 1} were left out of {file}: "
                "remove it, and run the same command again"
            ),
        )
        file.unlink()
        assert crawl.only("XBTUSD").exit_status == 0
    assert tape_of(tmp_path, "XBTUSD") == shown_by(clock)
    assert strangers(tmp_path) == []


def test_a_trade_that_is_late_by_more_than_settle_is_on_record_as_a_jump(tmp_path: Path) -> None:
    clock = Clock(NOW_NS)
    missing = SETTLED[-200]
    with serve(MARKET, clock=clock, faults=late([missing])) as exchange:
        two_runs(exchange, tmp_path, clock)
    number = TRADES[missing].trade_id or 0
    jumps = [
        json.loads(pq.read_metadata(file).metadata[b"harvester.jumps"])
        for file in sorted(tmp_path.glob("trades/**/*.parquet"))
    ]
    assert [each for one in jumps for each in one] == [[number - 1, number + 1]]
    kept = [row[0] for row in tape_of(tmp_path, "XBTUSD")]
    assert kept == [row[0] for row in shown_by(clock) if row[0] != number]
    assert verify(Archive(tmp_path), "XBTUSD").jumps == 1
