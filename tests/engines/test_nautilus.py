"""nautilus_trader: the recipe of docs/recipes.md gives exact trades and bars; an engine runs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from recipes import archive, run_section, trades

import harvester

REASON = "nautilus_trader is not installed: make test-recipes"
engine = pytest.importorskip("nautilus_trader.backtest.engine", reason=REASON)
config = pytest.importorskip("nautilus_trader.config", reason=REASON)
enums = pytest.importorskip("nautilus_trader.model.enums", reason=REASON)
objects = pytest.importorskip("nautilus_trader.model.objects", reason=REASON)
strategies = pytest.importorskip("nautilus_trader.trading.strategy", reason=REASON)

__all__ = ["archive"]


@pytest.fixture
def names(archive: harvester.Archive) -> dict[str, Any]:  # noqa: ARG001 - it makes the files
    return run_section("nautilus_trader")


def test_trades_of_nautilus_equal_the_trades_digit_by_digit(names: dict[str, Any]) -> None:
    sides = {"BUYER": "buy", "SELLER": "sell", "NO_AGGRESSOR": None}
    found = [
        (
            trade.ts_event,
            trade.price.as_decimal(),
            trade.size.as_decimal(),
            sides[trade.aggressor_side.name],
        )
        for trade in names["ticks"]
    ]
    assert found == [(row[1], row[3], row[4], row[5]) for row in trades()]
    ids = [trade.trade_id.value for trade in names["ticks"]]
    assert len(set(ids)) == len(ids)
    assert [value for value in ids if value.isdigit()] == [
        str(row[0]) for row in trades() if row[0]
    ]


def test_bars_are_the_candles_at_their_end(
    names: dict[str, Any], archive: harvester.Archive
) -> None:
    def values(bar: Any) -> tuple[Decimal, ...]:
        fields = (bar.open, bar.high, bar.low, bar.close, bar.volume)
        return tuple(field.as_decimal() for field in fields)

    columns = "open, high, low, close, volume"
    hours = archive.ohlc("XBT/USD", "1h", complete_only=True)
    assert list(map(values, names["hour_bars"])) == hours.select(columns).fetchall()
    ends = hours.select("epoch_ns(time + INTERVAL 1 HOUR)").fetchall()
    assert [(bar.ts_event,) for bar in names["hour_bars"]] == ends
    hundreds = archive.bars("XBT/USD", trades=100)
    assert list(map(values, names["tick_bars"])) == hundreds.select(columns).fetchall()
    assert len(names["tick_bars"]) == len(trades()) / 100


def test_an_engine_runs_on_trades_and_bars(names: dict[str, Any]) -> None:
    class Counting(strategies.Strategy):  # type: ignore[misc, name-defined]
        def on_start(self) -> None:
            self.volume, self.bars = Decimal(0), 0
            self.subscribe_trade_ticks(names["identifier"])
            self.subscribe_bars(names["hourly"])

        def on_trade_tick(self, trade: Any) -> None:
            self.volume += trade.size.as_decimal()

        def on_bar(self, _bar: Any) -> None:
            self.bars += 1

    quiet = config.LoggingConfig(bypass_logging=True)
    backtest = engine.BacktestEngine(engine.BacktestEngineConfig(logging=quiet))
    money = [objects.Money(10_000, names["USD"])]
    venue = names["identifier"].venue
    backtest.add_venue(venue, enums.OmsType.NETTING, enums.AccountType.CASH, money)
    backtest.add_instrument(names["btc_usd"])
    backtest.add_data(names["ticks"])
    backtest.add_data(names["hour_bars"])
    strategy = Counting()
    backtest.add_strategy(strategy)
    backtest.run()
    backtest.dispose()
    assert strategy.volume == sum(row[4] for row in trades())
    assert strategy.bars == len(names["hour_bars"])
