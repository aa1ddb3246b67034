"""Any tape, any page size, any faults, killed at any step on the disk: the tape comes out whole."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import tapes
from crawling import Crawl, serve, strangers, tape_of
from exchange_faults import Faults
from exchange_market import Market, expected
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import Ledger
from test_crawl_faults import KINDS

from harvester.storage.filesystem import LocalStore
from harvester.storage.trade_store import TradeStore

WINDOW_NS = 200_000
"""Twice the margin of times with four decimals: a page must show more than such a span."""


class Killed(Exception):
    """The process is gone."""


class Dying(LocalStore):
    """A disk on which nothing happens any more after some steps, as after kill -9."""

    def __init__(self, folder: Path, steps: int, *, torn: bool) -> None:
        """`torn`: a file that was being written is cut in half."""
        super().__init__(folder)
        self._steps = steps
        self._torn = torn

    @property
    def is_dead(self) -> bool:
        """Whether the last step was done."""
        return self._steps < 0

    def _take_a_step(self) -> None:
        self._steps -= 1
        if self.is_dead:
            raise Killed

    def stage(self, folder: str) -> str:
        self._take_a_step()
        return super().stage(folder)

    def commit(self, staged: str, path: str) -> None:
        try:
            self._take_a_step()
        except Killed:
            file = self.root / staged
            if self._torn and file.exists():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            raise
        super().commit(staged, path)
        self._take_a_step()

    def move(self, path: str, to: str) -> None:
        self._take_a_step()
        super().move(path, to)
        self._take_a_step()

    def remove(self, path: str) -> None:
        self._take_a_step()
        super().remove(path)
        self._take_a_step()

    def remove_folder(self, folder: str) -> None:
        self._take_a_step()
        super().remove_folder(folder)


def dying(folder: Path, steps: int, *, torn: bool = False) -> TradeStore:
    """An archive on such a disk."""
    archive = TradeStore(folder)
    archive.store = Dying(folder, steps, torn=torn)
    return archive


def same(archive: TradeStore, _folder: Path) -> TradeStore:
    """An archive that is open already."""
    return archive


def is_dead(archive: TradeStore) -> bool:
    """Whether its disk is."""
    return isinstance(archive.store, Dying) and archive.store.is_dead


def most_at_once(market: Market) -> int:
    """How many trades lie within the longest span that pages overlap by."""
    stamps = [trade.true_ns for trade in market.trades]
    return max(
        (sum(at - WINDOW_NS <= stamp <= at + WINDOW_NS for stamp in stamps) for at in stamps),
        default=0,
    )


SMALL = {"archive.flush_rows": 10}
KILLS = st.tuples(st.integers(0, 40), st.booleans())


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_tape_of_any_pages_under_any_faults_and_kills_is_exact(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    market = data.draw(tapes.tapes(min_size=1))
    faults = Faults(
        seed=data.draw(st.integers(0, 10_000)),
        chances=dict.fromkeys(data.draw(st.sets(st.sampled_from(KINDS), max_size=4)), 0.1),
        throttle_s=0,
    )
    page_size = data.draw(st.one_of(st.integers(1, 40), st.just(1000))) + most_at_once(market)
    options = {"archive.flush_rows": data.draw(st.integers(1, 30))}
    folder = tmp_path_factory.mktemp("tape")
    ledger = Ledger(folder, market)
    mode = data.draw(st.sampled_from(["inclusive", "exclusive"]))
    with serve(market, faults=faults, since_mode=mode, page_size=min(page_size, 1000)) as exchange:
        for steps, torn in data.draw(st.lists(KILLS, max_size=4)):
            crawl = Crawl(
                exchange.url,
                folder,
                options,
                newest_first=data.draw(st.booleans()),
                open=partial(dying, steps=steps, torn=torn),
            )
            crawl.only("XBTUSD")
            ledger.check()
        exchange.faults = Faults()
        last = Crawl(exchange.url, folder, options).only("XBTUSD")
    ledger.check()
    assert (last.error, tape_of(folder, "XBTUSD")) == (None, list(expected(market)))
    assert strangers(folder) == []


def test_a_run_killed_at_every_third_step_in_turn_comes_to_its_end(tmp_path: Path) -> None:
    market = tapes.market(tapes.new_years(92, each=3))
    deaths = 0
    with serve(market, page_size=60) as exchange:
        while True:
            folder = tmp_path / str(deaths)
            archive = dying(folder, deaths, torn=bool(deaths % 2))
            Crawl(exchange.url, folder, SMALL, open=partial(same, archive)).only("XBTUSD")
            ledger = Ledger(folder, market)
            ledger.check()
            if not is_dead(archive):
                break
            deaths += 3
            Crawl(exchange.url, folder, SMALL).only("XBTUSD")
            ledger.check()
            assert tape_of(folder, "XBTUSD") == list(expected(market))
            assert strangers(folder) == []
    assert deaths > 20
