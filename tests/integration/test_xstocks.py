"""Tokenized stocks: listed and answered only with their class, beside coins of nearly that name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sample_trades
from api_server import errors, get, serving
from backfills import rows_on_disk, serve
from click.testing import CliRunner
from kraken_market import Market, expected
from kraken_server import Exchange, Shelf, ohlc_rows

import harvester
from harvester import Archive, config
from harvester.cli.main import cli
from harvester.errors import NothingStored, UnknownPair, UsageError
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.server.app import kraken_api_app
from harvester.server.kraken_endpoints import ApiResponder
from harvester.storage.trade_store import TradeStore

STOCK_CLASS = "tokenized_asset"
COIN = Market("XBTUSD", trades=sample_trades.xbtusd_like(300, 1))
TWIN = Market("AAPLXUSD", "XAAPLXZUSD", "AAPLX/USD", "AAPLX", trades=sample_trades.sparse(40))
STOCK = Market(
    "AAPLxUSD",
    "AAPLxUSD",
    "AAPLx/USD",
    "AAPLx",
    pair_decimals=2,
    trades=sample_trades.xbtusd_like(2_500, 3),
    aclass_base=STOCK_CLASS,
)
IN_EUROS = Market(
    "TSLAxEUR",
    "TSLAxEUR",
    "TSLAx/EUR",
    "TSLAx",
    "ZEUR",
    trades=sample_trades.xbtusd_like(20, 4),
    aclass_base=STOCK_CLASS,
)
MARKETS = (COIN, TWIN, STOCK, IN_EUROS)
NAMES = [market.altname for market in MARKETS]
STOCKS = ["AAPLxUSD", "TSLAxEUR"]


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with serve(*MARKETS) as running:
        yield running


def opened(url: str, folder: Path, **settings: Any) -> Archive:
    known = {"exchange.url": url, "exchange.rate": 0, "exchange.retry_wait_s": 0.01}
    return harvester.open(folder, settings=known | {"refresh.settle_s": 0} | settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with every trade of all markets."""
    path = tmp_path_factory.mktemp("stocks")
    with serve(*MARKETS) as exchange:
        results = opened(exchange.url, path).backfill(all_pairs=True)
    assert [(result.pair, result.error) for result in results] == [(name, None) for name in NAMES]
    return path


def test_everything_is_downloaded_exactly(folder: Path) -> None:
    for market in MARKETS:
        assert rows_on_disk(folder, market.altname) == expected(market)


def test_the_class_is_kept_in_the_list_of_pairs(folder: Path) -> None:
    listed = json.loads((folder / "pairs.json").read_bytes())
    assert {name for name, pair in listed.items() if pair.get("aclass_base") == STOCK_CLASS} == set(
        STOCKS
    )


def test_both_classes_are_requested_once(exchange: Exchange, tmp_path: Path) -> None:
    opened(exchange.url, tmp_path).backfill("AAPLx/USD")
    asked = [call.params for call in exchange.calls if call.path.endswith("AssetPairs")]
    assert asked == [{}, {"aclass_base": STOCK_CLASS}]
    assert rows_on_disk(tmp_path, "AAPLxUSD") == expected(STOCK)


@pytest.mark.parametrize("classes", ["ignored", "refused"])
def test_an_exchange_without_classes_lists_its_currencies(
    classes: str, exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    exchange.classes = classes

    async def ask() -> dict[str, Pair]:
        settings = config.load({"exchange.url": exchange.url}, environment={})
        async with Client(settings.exchange) as client:
            return await client.pairs()

    assert list(asyncio.run(ask())) == ["XBTUSD", "AAPLXUSD"]
    assert caplog.messages == []


def test_the_largest_are_found_in_both_classes(exchange: Exchange, tmp_path: Path) -> None:
    opened(exchange.url, tmp_path, **{"exchange.jobs": 2}).backfill(all_pairs=True)
    asked = [call.params for call in exchange.calls if call.path.endswith("Ticker")]
    assert asked == [{}, {"asset_class": STOCK_CLASS}]


@pytest.mark.parametrize(
    ("names", "options", "pairs"),
    [
        ([], {"all_pairs": True}, NAMES),
        ([], {"all_pairs": True, "asset_class": STOCK_CLASS}, STOCKS),
        ([], {"all_pairs": True, "asset_class": "currency"}, ["XBTUSD", "AAPLXUSD"]),
        ([], {"all_pairs": True, "quotes": ["EUR"]}, ["TSLAxEUR"]),
        (["*/EUR"], {}, ["TSLAxEUR"]),
        (["aaplx*"], {}, ["AAPLXUSD", "AAPLxUSD"]),
        (["aaplx*"], {"asset_class": STOCK_CLASS}, ["AAPLxUSD"]),
        (["aaplx/usd"], {"asset_class": STOCK_CLASS}, ["AAPLxUSD"]),
        (["AAPLXUSD", "AAPLxUSD"], {}, ["AAPLXUSD", "AAPLxUSD"]),
    ],
)
def test_a_selection_knows_the_classes(
    names: list[str],
    options: dict[str, Any],
    pairs: list[str],
    exchange: Exchange,
    tmp_path: Path,
) -> None:
    estimate = opened(exchange.url, tmp_path).estimate_backfill(*names, **options)
    assert sorted(pair.pair for pair in estimate.pairs) == sorted(pairs)


@pytest.mark.parametrize(
    ("names", "options", "kind", "message"),
    [
        (
            ["XBTUSD"],
            {"asset_class": STOCK_CLASS},
            UsageError,
            "'XBTUSD' is not of the class tokenized_asset: leave out the pair or the class filter",
        ),
        (
            ["XBT*"],
            {"asset_class": STOCK_CLASS},
            UnknownPair,
            "no pair in the class tokenized_asset matches 'XBT*': "
            "`harvester pairs` lists the markets",
        ),
        (
            ["XBT*"],
            {"asset_class": "stock"},
            UsageError,
            "there is no asset class 'stock': give currency or tokenized_asset",
        ),
    ],
)
def test_a_name_of_no_pair_of_a_class_is_an_error(
    names: list[str],
    options: dict[str, Any],
    kind: type[Exception],
    message: str,
    exchange: Exchange,
    tmp_path: Path,
) -> None:
    with pytest.raises(kind) as caught:
        opened(exchange.url, tmp_path).estimate_backfill(*names, **options)
    assert str(caught.value) == message


def test_all_stocks_of_an_exchange_without_any_is_an_error(
    exchange: Exchange, tmp_path: Path
) -> None:
    exchange.classes = "refused"
    with pytest.raises(
        UnknownPair, match="the exchange lists no pair of the class tokenized_asset"
    ):
        opened(exchange.url, tmp_path).backfill(all_pairs=True, asset_class=STOCK_CLASS)


def test_a_refresh_brings_the_new_trades_of_a_stock(exchange: Exchange, tmp_path: Path) -> None:
    whole = STOCK.trades
    exchange.delist("AAPLxUSD")
    exchange.add(Market(**vars(STOCK) | {"trades": whole[:1_200]}))
    archive = opened(exchange.url, tmp_path)
    archive.backfill("AAPLXUSD", "AAPLxUSD", until=whole[1_200].true_ns)
    exchange.extend("AAPLxUSD", whole[1_200:])
    result = archive.refresh()
    assert [(pair.pair, pair.state) for pair in result.pairs] == [
        ("AAPLXUSD", "complete"),
        ("AAPLxUSD", "complete"),
    ]
    assert rows_on_disk(tmp_path, "AAPLxUSD") == expected(STOCK)
    assert rows_on_disk(tmp_path, "AAPLXUSD") == expected(TWIN)


@pytest.mark.parametrize(
    ("names", "asset_class", "pairs"),
    [
        ([], STOCK_CLASS, ["AAPLxUSD"]),
        ([], "currency", ["AAPLXUSD"]),
        (["AAPL*"], STOCK_CLASS, ["AAPLxUSD"]),
        (["*/EUR"], None, ["TSLAxEUR"]),
        (["AAPLXUSD", "TSLA*"], STOCK_CLASS, ["AAPLXUSD", "TSLAxEUR"]),
    ],
)
def test_a_refresh_is_limited_to_a_class(
    names: list[str],
    asset_class: str | None,
    pairs: list[str],
    exchange: Exchange,
    tmp_path: Path,
) -> None:
    archive = opened(exchange.url, tmp_path)
    archive.backfill("AAPLXUSD", "AAPLxUSD")
    result = archive.refresh(*names, asset_class=asset_class)
    assert [pair.pair for pair in result.pairs] == pairs
    [run] = archive.runs(1)
    assert run.asked.get("class") == asset_class


def test_a_refresh_of_a_class_that_is_not_stored_is_refused(
    exchange: Exchange, tmp_path: Path
) -> None:
    archive = opened(exchange.url, tmp_path)
    archive.backfill("XBTUSD")
    with pytest.raises(NothingStored, match="no stored pair is of the class tokenized_asset"):
        archive.refresh(asset_class=STOCK_CLASS)


def test_a_stock_is_verified_and_repaired(exchange: Exchange, tmp_path: Path) -> None:
    archive = opened(exchange.url, tmp_path)
    archive.backfill("AAPLxUSD", "AAPLXUSD")
    [compared] = archive.verify("AAPLxUSD", against_exchange=True)
    assert (compared.rows, compared.faults) == (len(STOCK.trades), [])
    assert compared.exchange is not None
    assert compared.exchange.exit_status == 0
    assert compared.exchange.compared > 100
    broken = min((tmp_path / "trades" / "pair=AAPLxUSD").rglob("*.parquet"))
    broken.write_bytes(broken.read_bytes()[:-100])
    [repaired] = archive.verify("AAPLxUSD", repair=True)
    assert repaired.faults == []
    assert rows_on_disk(tmp_path, "AAPLxUSD") == expected(STOCK)
    assert rows_on_disk(tmp_path, "AAPLXUSD") == expected(TWIN)


def test_candles_of_a_stock_are_the_exchanges(folder: Path) -> None:
    now_ns = STOCK.trades[-1].true_ns
    archive = harvester.open(folder)
    for market in (STOCK, TWIN):
        traded = [row for row in ohlc_rows(Shelf(market), 60, now_ns) if row[7]]
        rows = archive.ohlc(market.wsname, "1h").to_arrow_table().to_pylist()
        known = {int(row["time"].timestamp()): row for row in rows}
        assert traded or market is TWIN
        for opens_s, *prices, _, volume, count in traded:
            row = known[int(str(opens_s))]
            names = ("open", "high", "low", "close")
            assert [row[name] for name in names] == [Decimal(str(price)) for price in prices]
            assert (row["volume"], row["count"]) == (Decimal(str(volume)), count)


def test_both_are_exported_and_imported(folder: Path, tmp_path: Path) -> None:
    stored, out = harvester.open(folder), tmp_path / "out"
    files = stored.export("AAPLxUSD", "AAPLXUSD", folder=out, intervals=["1h"], layout="csv")
    assert [(file.pair, file.rows) for file in files] == [
        (name, stored.ohlc(name, "1h").shape[0]) for name in ("AAPLxUSD", "AAPLXUSD")
    ]
    assert len({file.path for file in files}) == 2
    csv = tmp_path / "kraken" / "AAPLxUSD.csv"
    csv.parent.mkdir()
    csv.write_text("1700000000,189.5,2.0\n1700000001,189.6,1.0\n")
    with serve(*MARKETS) as exchange:
        archive = opened(exchange.url, tmp_path / "data")
        archive.import_csv(csv, whole_since="2023-11-14", whole_until="2023-11-15")
        [row] = archive.status()
        assert (row.pair, row.trades) == ("AAPLxUSD", 2)
        # Where the import ends, the exchange goes on: it is asked with the class.
        [result] = archive.backfill("AAPLxUSD", since="2024-01-01")
    assert (result.error, result.trades) == (None, len(STOCK.trades))


# --- the API server ------------------------------------------------------------------------------


def test_the_server_lists_a_class_at_a_time(folder: Path) -> None:
    responder = ApiResponder(TradeStore(folder))
    coins = json.loads(responder.asset_pairs({}))["result"]
    stocks = json.loads(responder.asset_pairs({"aclass_base": STOCK_CLASS}))["result"]
    assert sorted(coins) == ["XAAPLXZUSD", "XXBTZUSD"]
    assert sorted(stocks) == STOCKS
    assert {row["aclass_base"] for row in stocks.values()} == {STOCK_CLASS}


@pytest.mark.parametrize("endpoint", ["trades", "ohlc", "asset_pairs"])
def test_the_server_answers_about_a_stock_only_with_its_class(endpoint: str, folder: Path) -> None:
    answer: Any = getattr(ApiResponder(TradeStore(folder)), endpoint)
    name = "aclass_base" if endpoint == "asset_pairs" else "asset_class"
    for pair, right, wrong in (
        ("AAPLxUSD", STOCK_CLASS, "currency"),
        ("AAPLXUSD", "currency", STOCK_CLASS),
    ):
        assert answer({"pair": pair, name: right})
        if endpoint != "asset_pairs":
            with pytest.raises(UnknownPair):
                answer({"pair": {"AAPLxUSD": "TSLAxEUR", "AAPLXUSD": "XBTUSD"}[pair], name: wrong})
    with pytest.raises(UnknownPair):
        answer({"pair": "TSLAxEUR"})


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [("Trades", "asset_class"), ("OHLC", "asset_class"), ("AssetPairs", "aclass_base")],
)
def test_the_server_refuses_a_class_that_there_is_not(
    endpoint: str, name: str, folder: Path
) -> None:
    body = get(kraken_api_app(TradeStore(folder)), endpoint, **{"pair": "XBTUSD", name: "stock"})
    assert errors(body) == [f"EGeneral:Invalid arguments:{name}"]


def test_a_copy_by_the_server_is_exact(folder: Path, tmp_path: Path) -> None:
    with serving(TradeStore(folder)) as url:
        results = opened(url, tmp_path).backfill(all_pairs=True)
    assert sorted(result.pair for result in results) == sorted(NAMES)
    for market in MARKETS:
        assert rows_on_disk(tmp_path, market.altname) == expected(market)


# --- the command line ----------------------------------------------------------------------------


def test_the_option_class_selects(exchange: Exchange, tmp_path: Path) -> None:
    environment = {
        "HARVESTER_API_URL": exchange.url,
        "HARVESTER_DATA": str(tmp_path),
        "HARVESTER_EXCHANGE_RATE": "0",
    }

    def ran(*arguments: str) -> Any:
        made = CliRunner().invoke(cli, [*arguments, "--json", "-q"], env=environment)
        assert made.exit_code == 0, made.output
        return json.loads(made.stdout)

    stocks = ("--class", STOCK_CLASS)
    assert [pair["altname"] for pair in ran("pairs", *stocks)] == STOCKS
    ran("backfill", "XBTUSD", "AAPLXUSD")
    ran("backfill", "AAPL*", *stocks)
    assert sorted(path.name for path in (tmp_path / "trades").iterdir()) == [
        "pair=AAPLXUSD",
        "pair=AAPLxUSD",
        "pair=XBTUSD",
    ]
    assert [pair["pair"] for pair in ran("refresh", *stocks)["pairs"]] == ["AAPLxUSD"]
