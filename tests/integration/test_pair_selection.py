"""Which pairs are meant: names, patterns, quotes, all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import sample_trades
from api_server import PLAIN, archive_of
from backfills import serve
from kraken_market import named
from kraken_server import Exchange

from harvester import config
from harvester.errors import UnknownPair, UsageError
from harvester.kraken.client import Client
from harvester.pair_selection import (
    PairName,
    PairSelection,
    altname_of_known_pair,
    resolve_stored,
    select_pairs,
)
from harvester.storage.trade_store import TradeStore


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with serve(*(named(n, sample_trades.xbtusd_like(5, n)) for n in range(6))) as server:
        yield server


def chosen(exchange: Exchange, folder: Path, choice: PairSelection) -> list[str]:
    async def ask() -> list[str]:
        settings = config.load({"exchange.url": exchange.url}, environment={})
        async with Client(settings.exchange) as client:
            pairs = await select_pairs(client, TradeStore(folder), choice)
        return [pair.altname for pair in pairs]

    return asyncio.run(ask())


def names(*texts: str, quotes: tuple[str, ...] = ()) -> PairSelection:
    return PairSelection([PairName(text) for text in texts], quotes=quotes)


ALL = ["XBTUSD", "ETHUSD", "XBTEUR", "XDGUSD", "SOLUSD", "C5USD"]


@pytest.mark.parametrize(
    ("choice", "want"),
    [
        (names("*/EUR"), ["XBTEUR"]),
        (names("xbt/*"), ["XBTUSD", "XBTEUR"]),
        (names("BTC/*"), ["XBTUSD", "XBTEUR"]),
        (names("btc*"), ["XBTUSD", "XBTEUR"]),
        (names("doge/???"), ["XDGUSD"]),
        (names("*eur"), ["XBTEUR"]),
        (names("?ETHUSD"), []),
        (names("sol/usd", "XBT*", "XBTUSD"), ["SOLUSD", "XBTUSD", "XBTEUR"]),
        (names("XBT/*", quotes=("EUR",)), ["XBTEUR"]),
        (names("XBT/*", quotes=("usd",)), ["XBTUSD"]),
        (names("XBT/*", quotes=("zusd", "EUR")), ["XBTUSD", "XBTEUR"]),
        (names("XBT/EUR", quotes=("EUR",)), ["XBTEUR"]),
        (PairSelection(all_pairs=True), ALL),
        (PairSelection(all_pairs=True, quotes=["EUR"]), ["XBTEUR"]),
    ],
)
def test_what_is_typed_means_these_pairs(
    choice: PairSelection, want: list[str], exchange: Exchange, tmp_path: Path
) -> None:
    if want:
        assert chosen(exchange, tmp_path, choice) == want
    else:
        with pytest.raises(UnknownPair):
            chosen(exchange, tmp_path, choice)


@pytest.mark.parametrize(
    ("choice", "kind", "message"),
    [
        (
            names("*/JPY"),
            UnknownPair,
            "no pair matches '*/JPY': `harvester pairs` lists the markets",
        ),
        (
            names("ETH/*", quotes=("EUR",)),
            UnknownPair,
            "no pair matches 'ETH/*' and is quoted in EUR",
        ),
        (
            names("XBT/USD", quotes=("EUR",)),
            UsageError,
            "'XBT/USD' is not quoted in EUR: leave out the pair or the quote filter",
        ),
        (
            PairSelection(all_pairs=True, quotes=["JPY"]),
            UnknownPair,
            "no pair is quoted in 'JPY': the exchange quotes in USD, EUR",
        ),
        (
            PairSelection([PairName("XBTUSD"), PairName("*/JPY", "pairs.txt, line 7")]),
            UnknownPair,
            "pairs.txt, line 7: no pair matches '*/JPY': `harvester pairs` lists the markets",
        ),
    ],
)
def test_a_name_of_no_pair_is_an_error(
    choice: PairSelection, kind: type[Exception], message: str, exchange: Exchange, tmp_path: Path
) -> None:
    with pytest.raises(kind) as caught:
        chosen(exchange, tmp_path, choice)
    assert (type(caught.value), str(caught.value)) == (kind, message)


def test_names_that_are_known_cost_no_call(exchange: Exchange, tmp_path: Path) -> None:
    chosen(exchange, tmp_path, names("XBTUSD"))
    before = len(exchange.calls)
    assert chosen(exchange, tmp_path, names("btc/usd", "XXBTZUSD", "SOLUSD")) == [
        "XBTUSD",
        "SOLUSD",
    ]
    assert len(exchange.calls) == before


def test_a_pattern_means_what_is_listed_now(tmp_path: Path) -> None:
    """A pair that left the market, and is held, can't be fetched any more."""
    with serve(*(named(n, sample_trades.xbtusd_like(5, n)) for n in range(3))) as exchange:
        assert chosen(exchange, tmp_path, names("XBT/*")) == ["XBTUSD", "XBTEUR"]
        (tmp_path / "trades/pair=XBTEUR/year=2024").mkdir(parents=True)
        name = f"{1:019}-{2:019}.parquet"
        (tmp_path / "trades/pair=XBTEUR/year=2024" / name).write_bytes(b"")
        exchange.delist("XBTEUR")
        assert chosen(exchange, tmp_path, names("XBT/*")) == ["XBTUSD"]
        assert chosen(exchange, tmp_path, names("XBT/EUR")) == ["XBTEUR"]


def test_an_odd_row_of_the_list_loses_no_other_pair(tmp_path: Path) -> None:
    with serve(*(named(n, sample_trades.xbtusd_like(5, n)) for n in range(3))) as exchange:
        exchange.odd_pairs = {
            "XETHZUSD": {"altname": "ETHUSD", "status": None, "wsname": None},
            "NULL": None,
            "PATH": {"altname": "../up"},
        }
        assert chosen(exchange, tmp_path, PairSelection(all_pairs=True)) == [
            "XBTUSD",
            "ETHUSD",
            "XBTEUR",
        ]


def test_an_altname_is_resolved_without_listing_all_other_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(tmp_path, PLAIN)
    monkeypatch.setattr(
        TradeStore, "stored_pairs", lambda _self: pytest.fail("all pairs were listed")
    )
    assert resolve_stored(archive, "XBTUSD").wsname == "XBT/USD"
    assert altname_of_known_pair(archive, "XBTUSD") == "XBTUSD"
