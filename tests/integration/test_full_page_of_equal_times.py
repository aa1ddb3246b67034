"""A download ends where trades stand so close that no page can show all of them."""

from __future__ import annotations

import pytest
import sample_trades
from backfills import Backfill, serve, set_page_rows
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kraken_faults import Faults
from kraken_market import Trade

from harvester.storage.trade_store import TradeStore
from harvester.times import Range

BEGIN_NS = 1_546_300_799_999_990_100
LIES = ("later", "first_rows", "newest", "last_rows", "late_row")


@settings(max_examples=10, deadline=None)
@example(calls=1, lie="later", seed=0)
@example(calls=2, lie="first_rows", seed=0)
@example(calls=3, lie="newest", seed=0)
@example(calls=4, lie="last_rows", seed=0)
@example(calls=5, lie="late_row", seed=0)
@given(calls=st.integers(0, 7), lie=st.sampled_from(LIES), seed=st.integers(0, 99))
def test_trades_that_no_page_can_show_do_not_hold_a_backfill_up(
    calls: int, lie: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Five trades within the margin of pages of five rows; the exchange lies once."""
    offsets = ((0, 1), (0, 2), (5, 3), (125, 0), (125, 0), (99_767, 6))
    trades = [
        Trade(BEGIN_NS + offset, "41450.0", "0.0001", "b", "m", "", number)
        for offset, number in offsets
    ]
    market, folder = sample_trades.market(trades), tmp_path_factory.mktemp("archive")
    faults = Faults(script=[None] * calls + [lie], seed=seed)
    with (
        pytest.MonkeyPatch.context() as patch,
        serve(market, faults=faults, page_size=5) as exchange,
    ):
        set_page_rows(5, patch)
        backfill = Backfill(exchange.url, folder)
        backfill.only(market.altname, Range(BEGIN_NS - 101, BEGIN_NS + 99_901))
        result = backfill.only(market.altname)
        assert len(exchange.calls) < 2_500
    assert result.exit_status == 0 or TradeStore(folder).gaps(market.altname)
