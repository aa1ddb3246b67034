"""The API server's candles equal those of the test exchange, which are made by other means."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import sample_trades
from api_server import PLAIN, T0, archive_of, commit, errors, get, rows_of
from backfills import serve
from kraken_market import Clock, Market
from kraken_server import INTERVALS_MIN, Shelf, ohlc_rows

import harvester
from harvester.kraken.client import Client
from harvester.server.app import kraken_api_app
from harvester.server.kraken_json import ohlc_rows as candles_of
from harvester.server.sample_data import END_NS, create_sample_archive
from harvester.server.sample_data import sample_trades as made_up_trades
from harvester.storage.trade_store import TradeStore
from harvester.times import DAY, Range
from harvester.verify.against_kraken import Comparer
from harvester.verify.reports import ExchangeReport

MARKETS = {
    "busy": sample_trades.market(sample_trades.xbtusd_like(3_000, 61)),
    "quiet": sample_trades.market(sample_trades.sparse(60, 61)),
    "tiny coin": sample_trades.tiny_coin(500, 61),
}
MINUTE = 60 * 10**9


MADE_UP = "MADE-UP-XBTUSD"
"""The key of the made-up market."""


def rows(body: bytes, key: str = "XXBTZUSD") -> list[list[Any]]:
    found: list[list[Any]] = json.loads(body)["result"][key]
    return found


@pytest.mark.parametrize("market", MARKETS.values(), ids=MARKETS)
def test_candles_are_those_that_the_exchange_makes(tmp_path: Path, market: Market) -> None:
    now_ns = market.trades[-1].true_ns + 3 * 3600 * 10**9
    with serve(market, clock=Clock(now_ns)) as exchange:
        settings = {"exchange.url": exchange.url, "exchange.rate": 0}
        harvester.open(tmp_path, settings=settings).backfill(market.altname)
    archive = TradeStore(tmp_path)
    reached_ns = archive.coverage(market.altname)[-1].through
    for minutes in INTERVALS_MIN:
        body = get(kraken_api_app(archive), "OHLC", pair=market.altname, interval=str(minutes))
        assert rows(body, market.key) == ohlc_rows(Shelf(market), minutes, reached_ns)
        last_s = (reached_ns // (minutes * MINUTE) - 1) * minutes * 60
        assert json.loads(body)["result"]["last"] == last_s


@pytest.mark.parametrize("size", [1, 7, 200])
def test_candles_may_go_over_from_one_batch_to_the_next(size: int) -> None:
    made = made_up_trades(300, 3)
    batches = [made.slice(start, size) for start in range(0, len(made), size)]
    for minutes in (1, 240, 10080):
        width_ns = minutes * MINUTE
        numbers = range(END_NS // width_ns - 720, END_NS // width_ns + 1)
        whole = candles_of([made], width_ns, numbers, 1)
        assert candles_of(batches, width_ns, numbers, 1) == whole


def test_since_leaves_out_what_opens_then_or_before(tmp_path: Path) -> None:
    application = kraken_api_app(create_sample_archive(tmp_path, 2_000, 3))
    everything = rows(get(application, "OHLC", pair="XBTUSD", interval="60"), MADE_UP)
    since = everything[100][0]
    later = rows(get(application, "OHLC", pair="XBTUSD", interval="60", since=str(since)), MADE_UP)
    assert later == everything[101:]


def test_there_are_720_closed_candles_and_the_running_one(tmp_path: Path) -> None:
    found = rows(
        get(kraken_api_app(create_sample_archive(tmp_path, 2_000, 3)), "OHLC", pair="XBTUSD"),
        MADE_UP,
    )
    end_s = END_NS // 10**9
    assert [row[0] for row in found] == list(range(end_s - 720 * 60, end_s + 1, 60))


def test_they_begin_behind_the_last_gap(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)
    gap = Range(PLAIN[9][1], T0 + 90 * MINUTE)
    trade = PLAIN[10]
    inside = [(trade[0], gap.through + 1, *trade[2:]), (trade[0], T0 + 200 * MINUTE, *trade[2:])]
    commit(archive, Range(0, gap.after), rows_of(PLAIN[:10]))
    commit(archive, Range(gap.through, T0 + DAY), rows_of(inside))
    [first, *_] = rows(get(kraken_api_app(archive), "OHLC", pair="XBTUSD", interval="60"), "XBTUSD")
    # The hour that the gap ends in is not whole; the next one is, and shows the close before it.
    assert first[0] == (gap.through // (60 * MINUTE) + 1) * 3600
    assert first[4:] == ["111.5000000000", "0.0000000000", "0.00000000", 0]


def test_a_pair_without_trades_has_none(tmp_path: Path) -> None:
    assert rows(get(kraken_api_app(archive_of(tmp_path, [])), "OHLC", pair="XBTUSD")) == []


@pytest.mark.parametrize(
    ("params", "name"),
    [({"interval": "7"}, "interval"), ({"since": "1.5"}, "since"), ({"pair": ""}, "pair")],
)
def test_what_can_not_be_read_is_refused_by_name(
    tmp_path: Path, params: dict[str, str], name: str
) -> None:
    body = get(kraken_api_app(archive_of(tmp_path, PLAIN)), "OHLC", **{"pair": "XBTUSD"} | params)
    assert errors(body) == [f"EGeneral:Invalid arguments:{name}"]


def test_a_copy_is_equal_in_every_candle_that_can_be_compared(tmp_path: Path) -> None:
    with harvester.sample_exchange(5_000) as exchange:
        archive = harvester.open(tmp_path, settings=exchange.settings)
        archive.backfill("XBT/USD")
        [pair] = archive.pairs("XBT/USD")

        async def compare() -> ExchangeReport:
            async with Client(archive.settings.exchange) as client:
                return await Comparer(client, TradeStore(tmp_path)).compare(pair)

        report = asyncio.run(compare())
    assert [interval.differing for interval in report.intervals] == [0] * len(INTERVALS_MIN)
    # 720 candles where ten days have as many; the running one is skipped.
    found = {interval.minutes: interval.compared for interval in report.intervals}
    assert found == dict.fromkeys((1, 5, 15), 720) | {30: 480, 60: 240, 240: 60, 1440: 10} | {
        10080: 2,
        21600: 1,
    }


def test_a_stand_in_leaves_nothing_behind() -> None:
    exchange = harvester.sample_exchange(1_000)
    assert exchange.path.is_dir()
    exchange.close()
    assert not exchange.path.exists()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(exchange.url)  # noqa: S310 - its own address


def test_a_folder_that_was_named_stays(tmp_path: Path) -> None:
    with harvester.sample_exchange(1_000, folder=tmp_path / "there") as exchange:
        assert exchange.path == tmp_path / "there"
    assert TradeStore(tmp_path / "there").stored_pairs() == ["XBTUSD"]
