"""`follow` is killed again and again while trades are made: nothing is lost, nothing is twice."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from backfills import foreign_files, serve
from following import Following, busy_market
from kraken_market import SECOND_NS, Clock
from process import Victims, hunt

from harvester.storage.trade_store import TradeStore
from harvester.verify.integrity import verify

KILLS = 6


def test_kills_lose_nothing(tmp_path: Path) -> None:
    chances = random.Random(0)
    busy = busy_market()
    clock = Clock(busy.trades[0].true_ns + 90 * SECOND_NS)
    settings = {"HARVESTER_EXCHANGE_RATE": "0", "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.005"}
    with serve(busy, clock=clock) as exchange:
        victims = Victims(tmp_path, exchange.url, settings)
        run = Following(tmp_path, exchange, clock)
        for _ in range(KILLS):
            process = victims.fork(["follow", "XBTUSD", "--since", "start", "--every", "1ms"])
            pages = exchange.pages() + chances.randint(1, 40)

            def is_due(pages: int = pages) -> bool:
                if clock.now_ns < busy.trades[-1].true_ns:
                    clock.advance(0.01)
                return exchange.pages() >= pages

            assert hunt(process, is_due).killed
        process = victims.fork(["follow", "XBTUSD", "--every", "1ms"])
        pages_s: list[int] = []

        def has_polled_again() -> bool:
            if run.is_caught_up():
                pages_s.append(exchange.pages())
            return bool(pages_s) and exchange.pages() > pages_s[0] + 2

        done = hunt(process, has_polled_again, signal.SIGTERM)
    assert done.status == 0, done.err
    assert run.stored() == run.shown(busy)
    assert run.files() <= 12
    assert foreign_files(tmp_path) == []
    assert verify(TradeStore(tmp_path), "XBTUSD").faults == []
