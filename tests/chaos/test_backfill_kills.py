"""Any trades, any page size, any faults, killed at any step on the disk: every trade is stored."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import sample_trades
from backfills import Backfill, foreign_files, rows_on_disk, serve
from download_faults import KINDS
from download_kills import dying, is_dead, most_at_once, same
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_faults import Faults
from kraken_market import expected
from ledger import Ledger

SMALL = {"archive.flush_rows": 10}
KILLS = st.tuples(st.integers(0, 25), st.booleans())


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_trades_in_any_pages_under_any_faults_and_kills_are_stored_exactly(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    market = data.draw(sample_trades.markets(min_size=1))
    faults = Faults(
        seed=data.draw(st.integers(0, 10_000)),
        chances=dict.fromkeys(data.draw(st.sets(st.sampled_from(KINDS), max_size=4)), 0.1),
        throttle_s=0,
    )
    page_size = data.draw(st.one_of(st.integers(1, 40), st.just(1000))) + most_at_once(market)
    options = {"archive.flush_rows": data.draw(st.integers(1, 30))}
    folder = tmp_path_factory.mktemp("history")
    ledger = Ledger(folder, market)
    mode = data.draw(st.sampled_from(["inclusive", "exclusive"]))
    with serve(market, faults=faults, since_mode=mode, page_size=min(page_size, 1000)) as exchange:
        for steps, is_truncating in data.draw(st.lists(KILLS, max_size=4)):
            backfill = Backfill(
                exchange.url,
                folder,
                options,
                newest_first=data.draw(st.booleans()),
                open=partial(dying, steps=steps, is_truncating=is_truncating),
            )
            backfill.only("XBTUSD")
            ledger.check()
        exchange.faults = Faults()
        last = Backfill(exchange.url, folder, options).only("XBTUSD")
    ledger.check()
    assert (last.error, rows_on_disk(folder, "XBTUSD")) == (None, list(expected(market)))
    assert foreign_files(folder) == []


def test_a_run_killed_at_every_second_step_in_turn_comes_to_its_end(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.new_years(92, each=3))
    deaths = 0
    with serve(market, page_size=60) as exchange:
        while True:
            folder = tmp_path / str(deaths)
            archive = dying(folder, deaths, is_truncating=bool(deaths // 2 % 2))
            Backfill(exchange.url, folder, SMALL, open=partial(same, archive)).only("XBTUSD")
            ledger = Ledger(folder, market)
            ledger.check()
            if not is_dead(archive):
                break
            deaths += 2
            Backfill(exchange.url, folder, SMALL).only("XBTUSD")
            ledger.check()
            assert rows_on_disk(folder, "XBTUSD") == list(expected(market))
            assert foreign_files(folder) == []
    assert deaths > 20
