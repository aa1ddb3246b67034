"""An archive of few trades, and its comparison with the test exchange's candles."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sample_trades
from backfills import Backfill, serve
from command_line import own_environment, run_harvester
from kraken_market import Clock, Market
from kraken_server import Exchange, Shelf, ohlc_rows

from harvester import config
from harvester.kraken.client import Client
from harvester.kraken.ohlc import read_candles
from harvester.pair_selection import known_pairs, request_pairs
from harvester.storage.trade_store import TradeStore
from harvester.verify import against_kraken
from harvester.verify.against_kraken import Comparer, compare_interval
from harvester.verify.candle_comparison import LocalCandles
from harvester.verify.reports import ExchangeReport, IntervalReport

FIELDS = ("open", "high", "low", "close", "vwap", "volume", "count")


HOUR = 3600 * 10**9


DAY = 24 * HOUR


SPARSE = sample_trades.market(sample_trades.sparse(150, 2))


NOW = SPARSE.trades[-1].true_ns + 30 * DAY


FAST = {"exchange.rate": 0, "exchange.retry_wait_s": 0.005, "exchange.give_up_s": 1}


FEW = (240, 1440, 10080, 21600)
"""The intervals with the fewest candles."""


T = TypeVar("T")


Rows = list[list[Any]]


Change = Callable[[Rows], Rows]


@pytest.fixture
def few_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare no more than these in this process, which takes a third of the time."""
    monkeypatch.setattr(against_kraken, "INTERVALS_MIN", FEW)


def shown(minutes: int, market: Market = SPARSE, now_ns: int = NOW) -> Rows:
    """What the test exchange answers without faults."""
    return ohlc_rows(Shelf(market), minutes, now_ns)


def traded(minutes: int, market: Market = SPARSE) -> list[Any]:
    """The last closed candle of a length that saw a trade."""
    return [row for row in shown(minutes, market)[:-1] if row[-1]][-1]


def interval(
    archive: TradeStore,
    minutes: int,
    change: Change = list,
    market: Market = SPARSE,
    now_ns: int = NOW,
) -> IntervalReport:
    """One length of candles compared, after something was done to the exchange's rows."""
    rows = change(shown(minutes, market, now_ns))
    body = json.dumps({"error": [], "result": {"XXBTZUSD": rows, "last": 0}}).encode()
    asker = LocalCandles(archive, "XBTUSD", market.pair_decimals)
    return compare_interval(asker, archive.coverage("XBTUSD"), minutes, read_candles(body, minutes))


def altering(opens_s: int, **values: Any) -> Change:
    """Change some values of the candle that opens then."""

    def change(rows: Rows) -> Rows:
        [row] = [row for row in rows if row[0] == opens_s]
        for name, value in values.items():
            row[FIELDS.index(name) + 1] = value
        return rows

    return change


def more(value: Any) -> Any:
    """A value with its last digit raised by one."""
    if isinstance(value, int):
        return value + 1
    decimals = value.partition(".")[2]
    return f"{Decimal(value) + Decimal(1).scaleb(-len(decimals)):f}"


def downloaded_from(exchange: Exchange, folder: Path) -> TradeStore:
    """An archive of the first market, up to the exchange's clock, and of its names."""
    name = next(iter(exchange._shelves))
    assert Backfill(exchange.url, folder, {"refresh.settle_s": 0}).only(name).error is None
    archive = TradeStore(folder)
    with_client(exchange, lambda client: request_pairs(client, archive))
    return archive


def with_client(exchange: Exchange, ask: Callable[[Client], Awaitable[T]]) -> T:
    settings = config.load(FAST | {"exchange.url": exchange.url}, environment={})

    async def session() -> T:
        async with Client(settings.exchange) as client:
            return await ask(client)

    return asyncio.run(session())


def serve_sparse(market: Market = SPARSE) -> Exchange:
    return serve(market, clock=Clock(NOW))


def compare(exchange: Exchange, archive: TradeStore, name: str = "XBTUSD") -> ExchangeReport:
    """All lengths of one pair compared."""
    pair = known_pairs(archive)[name]
    return with_client(exchange, lambda client: Comparer(client, archive).compare(pair))


def asked(exchange: Exchange) -> list[str]:
    return [call.path.rpartition("/")[2] for call in exchange.calls]


def environment(url: str, folder: str) -> dict[str, str]:
    given = {"HARVESTER_API_URL": url, "HARVESTER_DATA": folder}
    given |= {f"HARVESTER_{k.upper().replace('.', '_')}": str(v) for k, v in FAST.items()}
    return own_environment(**given)


def verify(url: str, archive: TradeStore, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_harvester(["verify", *arguments], environment(url, archive.path))
