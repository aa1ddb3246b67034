"""ccxt as it comes from the index, pointed at `harvester serve` by its configuration alone."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from engines import REASON, RECIPE_URL, imported_archive, recipe, sample_archive, served

import harvester

ccxt = pytest.importorskip("ccxt", reason=REASON.format("ccxt"))

DAY = ("2026-01-25", "2026-01-26")
SIDES = {"b": "buy", "s": "sell"}


def connected(url: str) -> Any:
    return ccxt.kraken({"enableRateLimit": False, "urls": {"api": {"public": url}}})


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> harvester.Archive:
    return sample_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> harvester.Archive:
    return imported_archive(tmp_path_factory.mktemp("imported"))


@pytest.fixture(scope="module")
def url(archive: harvester.Archive) -> Iterator[str]:
    with served(Path(archive.path)) as url:
        yield url


@pytest.fixture(scope="module")
def exchange(url: str) -> Any:
    return connected(url)


def stored_trades(
    archive: harvester.Archive, since: str = "2026-01-01", until: str = "2026-02-01"
) -> list[tuple[Any, ...]]:
    """Id, seconds as a float, price, volume, side and order type of the archive's trades."""
    rows = archive.trades("XBT/USD", since=since, until=until).arrow().read_all().to_pylist()
    return [
        (
            row["trade_id"],
            float(Decimal(row["time"].value).scaleb(-9)),
            row["price"],
            row["volume"],
            row["side"],
            row["order_type"],
        )
        for row in rows
    ]


def fetched_trades(trades: list[Any]) -> list[tuple[Any, ...]]:
    """The same of ccxt's trades, by id. Its numbers are floats: digits come from its `info`."""
    found = []
    for trade in sorted(trades, key=lambda trade: int(trade["id"])):
        price, volume, seconds = trade["info"][:3]
        assert (trade["price"], trade["amount"]) == (float(price), float(volume))
        assert abs(trade["timestamp"] - 1_000 * float(seconds)) <= 1
        found.append(
            (
                int(trade["id"]),
                float(seconds),
                Decimal(price),
                Decimal(volume),
                trade["side"],
                trade["type"],
            )
        )
    return found


def cursor(page: list[Any]) -> Any:
    """Where the next page begins: ccxt appends it to a row."""
    [row] = [trade["info"] for trade in page if len(trade["info"]) == 8]
    return row[7]


def stored_candles(archive: harvester.Archive, interval: str, since: str, until: str) -> list[Any]:
    """Candles as ccxt has them: the time in ms, and floats."""
    rows = archive.ohlc("XBT/USD", interval, since=since, until=until, fill="previous")
    names = ("open", "high", "low", "close", "volume")
    return [
        [row["time"].value // 10**6, *(float(row[name]) for name in names)]
        for row in rows.arrow().read_all().to_pylist()
    ]


def test_markets_and_currencies_are_loaded(exchange: Any) -> None:
    market = exchange.load_markets()["BTC/USD"]
    assert (market["id"], market["wsId"], market["active"]) == ("MADE-UP-XBTUSD", "XBT/USD", True)
    assert market["precision"] == {"amount": 1e-8, "price": 0.1}
    assert {code: exchange.currencies[code]["id"] for code in ("BTC", "USD")} == {
        "BTC": "XXBT",
        "USD": "ZUSD",
    }
    assert exchange.fetch_status()["status"] == "ok"


def test_the_recipe_gives_a_whole_day(archive: harvester.Archive, url: str) -> None:
    names: dict[str, Any] = {}
    code = recipe("tools.md", "ccxt", "python").replace(RECIPE_URL, url)
    exec(compile(code, "docs/tools.md", "exec"), names)  # noqa: S102
    stored = stored_trades(archive, since=DAY[0], until=DAY[1])
    assert len(stored) > 2_000
    assert fetched_trades(list(names["trades"].values())) == stored
    assert len(names["candles"]) == 1_440
    assert names["candles"] == stored_candles(archive, "1m", *DAY)


def test_a_day_is_also_found_by_the_time_of_the_last_trade(
    archive: harvester.Archive, exchange: Any
) -> None:
    begin, end = map(exchange.parse8601, (f"{day}T00:00:00Z" for day in DAY))
    found: dict[str, Any] = {}
    since = begin
    while since < end:
        page = exchange.fetch_trades("BTC/USD", since, 1000)
        found |= {trade["id"]: trade for trade in page}
        since = page[-1]["timestamp"]
    trades = [trade for trade in found.values() if trade["timestamp"] < end]
    assert fetched_trades(trades) == stored_trades(archive, since=DAY[0], until=DAY[1])


def test_a_walk_of_small_pages_finds_every_trade(archive: harvester.Archive, exchange: Any) -> None:
    """Of 5 trades: up to 17 have one time."""
    stored = stored_trades(archive, since="2026-01-30T23:00", until="2026-02-01")
    found: dict[str, Any] = {}
    since: Any = int(stored[0][1])
    while True:
        page = exchange.fetch_trades("BTC/USD", None, 5, {"since": since})
        found |= {trade["id"]: trade for trade in page}
        if cursor(page) == since:
            break
        since = cursor(page)
    assert fetched_trades(list(found.values())) == stored


@pytest.mark.parametrize("timeframe", ["5m", "1h", "1d"])
def test_candles_are_the_archives(
    archive: harvester.Archive, exchange: Any, timeframe: str
) -> None:
    begin, end = ("2026-01-22", "2026-01-24")
    count = len(stored_candles(archive, timeframe, begin, end))
    since = exchange.parse8601(f"{begin}T00:00:00Z")
    assert exchange.fetch_ohlcv("BTC/USD", timeframe, since, count) == stored_candles(
        archive, timeframe, begin, end
    )


def test_without_since_the_newest_minutes_come(archive: harvester.Archive, exchange: Any) -> None:
    newest = exchange.fetch_ohlcv("BTC/USD", "1m")
    stored = stored_candles(archive, "1m", "2026-01-30T12:00", "2026-01-31")
    assert newest[:-1] == stored
    assert (len(newest), newest[-1][5]) == (721, 0.0)


def test_a_ticker_is_that_of_the_last_day(archive: harvester.Archive, exchange: Any) -> None:
    ticker = exchange.fetch_ticker("BTC/USD")
    [candle] = stored_candles(archive, "1d", "2026-01-30", "2026-01-31")
    _, _, high, low, close, volume = candle
    names = ("high", "low", "last", "baseVolume")
    assert tuple(ticker[name] for name in names) == (high, low, close, volume)
    assert (ticker["bid"], ticker["ask"]) == (None, None)
    assert list(exchange.fetch_tickers()) == ["BTC/USD"]


def test_imported_trades_are_not_read_as_buys(imported: harvester.Archive) -> None:
    with served(Path(imported.path)) as url, pytest.raises(ccxt.ExchangeError) as caught:
        connected(url).fetch_trades("BTC/USD", params={"since": 0})
    assert "EQuery:Side not stored:the trade of 2026-01-2" in str(caught.value)
    assert "serve --guess-sides" in str(caught.value)


def test_imported_trades_with_guessed_sides_are_all_found(imported: harvester.Archive) -> None:
    found: dict[str, Any] = {}
    stored = stored_trades(imported)
    since: Any = int(stored[0][1])
    with served(Path(imported.path), "--guess-sides") as url:
        exchange = connected(url)
        while True:
            page = exchange.fetch_trades("BTC/USD", None, 1000, {"since": since})
            found |= {trade["id"]: trade for trade in page}
            if cursor(page) == since:
                break
            since = cursor(page)
    assert sorted(map(int, found)) == list(range(1, len(stored) + 1))
    fetched = fetched_trades(list(found.values()))
    assert [trade[1:4] for trade in fetched] == [trade[1:4] for trade in stored]
    assert {trade[4] for trade in fetched} == {"buy", "sell"}


def test_a_range_that_is_not_stored_is_an_error_and_not_empty(
    exchange: Any, imported: harvester.Archive
) -> None:
    early = exchange.parse8601("2025-06-01T00:00:00Z")
    with served(Path(imported.path), "--guess-sides") as url:
        for fetch in ("fetch_trades", "fetch_ohlcv"):
            with pytest.raises(ccxt.ExchangeError, match="Not covered by this archive"):
                getattr(connected(url), fetch)("BTC/USD", since=early)
