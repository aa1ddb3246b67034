"""backtrader: the recipe of docs/recipes.md, and what the library makes of the candles."""

from __future__ import annotations

import pytest
from recipes import archive, run_section

import harvester

pytest.importorskip("backtrader", reason="backtrader is not installed: make test-recipes")

__all__ = ["archive"]


@pytest.mark.filterwarnings("ignore")  # of the library's own code
def test_every_candle_reaches_the_strategy(archive: harvester.Archive) -> None:
    names = run_section("backtrader")
    candles = archive.ohlc("XBT/USD", "1h", fill="previous").df()
    feed = names["strategy"].data
    for name in ("open", "high", "low", "close", "volume"):
        assert list(getattr(feed, name).array) == candles[name].tolist()
    opens = [feed.num2date(number) for number in feed.datetime.array]
    shift_s = [
        abs((at - time).total_seconds()) for at, time in zip(opens, candles["time"], strict=True)
    ]
    assert max(shift_s) < 1e-4
    assert names["cerebro"].broker.getvalue() != 100_000
