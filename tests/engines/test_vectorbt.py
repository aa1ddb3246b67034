"""vectorbt: the recipe of docs/recipes.md, and what the library makes of the candles."""

from __future__ import annotations

import pytest
from recipes import archive, run_section

import harvester

pytest.importorskip("vectorbt", reason="vectorbt is not installed: make test-recipes")

__all__ = ["archive"]


@pytest.mark.filterwarnings("ignore")  # of the library's own code
def test_a_portfolio_is_computed_from_the_candles(archive: harvester.Archive) -> None:
    names = run_section("vectorbt")
    candles = archive.ohlc("XBT/USD", "1h", fill="previous")
    portfolio = names["portfolio"]
    assert portfolio.close.tolist() == candles.df()["close"].tolist()
    assert str(portfolio.close.index.dtype) == "datetime64[ns, UTC]"
    orders = portfolio.orders.records_readable
    assert len(orders) > 0
    assert set(orders["Price"]) <= set(candles.df()["close"])
