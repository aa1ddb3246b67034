"""The API server for other programs: ids, sides, cursors, old candles, figures, clocks."""

from __future__ import annotations

import json
import time
import tracemalloc
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

import cli_output
import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from api_server import (
    PLAIN,
    T0,
    Trade,
    archive_of,
    commit,
    errors,
    get,
    get_as_stored,
    rows_of,
    serving,
)
from backfills import Backfill, serve
from engines import served
from kraken_market import Clock, Market
from kraken_server import Shelf, ohlc_rows
from sample_trades import xbtusd_like
from starlette.applications import Starlette

import harvester
from harvester.config import load
from harvester.errors import UnknownPair
from harvester.kraken.pairs import Pair
from harvester.kraken.transport import HttpClient
from harvester.schema import times
from harvester.server.app import kraken_api_app
from harvester.server.kraken_endpoints import ApiResponder, ServedPairs
from harvester.server.kraken_json import ticker_from_archive
from harvester.server.sample_data import END_NS, SAMPLE_PAIR, create_sample_archive, sample_trades
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.parquet_files import READ_ROWS
from harvester.storage.segment import Footer
from harvester.storage.trade_store import SnapshotStore, TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, SECOND, Range

MINUTE = 60 * SECOND


def trade(number: int, trade_id: int | None, side: str | None = "buy") -> Trade:
    """The trade of a second."""
    order_type = None if side is None else "limit"
    return (trade_id, T0 + number * SECOND, f"{100 + number}.5", "0.5", side, order_type, "")


def result(body: bytes) -> Any:
    answer = json.loads(body)
    assert answer["error"] == []
    return answer["result"]


def rows(body: bytes, key: str = "XXBTZUSD") -> list[list[Any]]:
    found: list[list[Any]] = result(body)[key]
    return found


def served_ids(application: Starlette, **params: str) -> list[int]:
    body = get(application, "Trades", **{"pair": "XBTUSD", "since": "0", **params})
    return [row[6] for row in rows(body)]


# --- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "served"),
    [
        ([None, None, None], [1, 2, 3]),
        ([None, None, 70, 71, None, None, 90, None], [1, 2, 70, 71, 72, 73, 90, 91]),
        ([5, 6, 7], [5, 6, 7]),
    ],
)
def test_a_trade_without_an_id_has_one_more_than_the_trade_before_it(
    tmp_path: Path, stored: list[int | None], served: list[int]
) -> None:
    trades = [trade(number, trade_id) for number, trade_id in enumerate(stored)]
    application = kraken_api_app(archive_of(tmp_path, trades))
    assert served_ids(application) == served
    middle = str(trades[2][1])
    assert served_ids(application, since=middle) == served[2:]


def test_ids_go_on_from_segment_to_segment(tmp_path: Path) -> None:
    trades = [trade(number, 9 if number == 1 else None) for number in range(8)]
    archive = archive_of(tmp_path, [])
    [empty] = archive.segments("XBTUSD")
    Path(archive.location(empty)).unlink()
    ends = [0, trades[3][1], trades[5][1], T0 + DAY]
    parts = [trades[:4], trades[4:6], trades[6:]]
    for after, through, part in zip(ends, ends[1:], parts, strict=False):
        commit(archive, Range(after, through), rows_of(part))
    expected = [1, 9, 10, 11, 12, 13, 14, 15]
    application = kraken_api_app(archive)
    assert served_ids(application) == expected
    assert [
        row[6] for row in rows(get(application, "Trades", pair="XBTUSD", count="3"))
    ] == expected[-3:]


def test_without_since_the_newest_trades_come_back_to_the_last_gap(tmp_path: Path) -> None:
    trades = [trade(number, number) for number in range(1, 9)]
    archive = TradeStore(tmp_path)
    store_pairs(archive.store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR}))
    before, behind, end = trades[2][1], trades[5][1], T0 + DAY

    def newest() -> list[int]:
        return [row[6] for row in rows(get(kraken_api_app(archive), "Trades", pair="XBTUSD"))]

    commit(archive, Range(0, before), rows_of(trades[:3]))
    commit(archive, Range(behind - 1, end), rows_of(trades[5:]))
    assert newest() == [6, 7, 8]
    commit(archive, Range(before, behind - 1), rows_of(trades[3:5]))
    assert newest() == list(range(1, 9))
    # Where nothing is stored behind the gap, trades in it may be newer.
    commit(archive, Range(end + DAY, end + 2 * DAY), rows_of([]))
    [refused] = errors(get(kraken_api_app(archive), "Trades", pair="XBTUSD"))
    assert refused == f"EQuery:Not covered by this archive:{end}-{end + DAY}"


def test_ids_go_on_from_chunk_to_chunk_also_within_one_time(tmp_path: Path) -> None:
    count = READ_ROWS + 500
    made = sample_trades(count, 1)
    columns = {name: made.column(name) for name in made.schema.names}
    # The edge of the rows that are read at once lies between two trades of one time.
    stamps = times(made).copy()
    stamps[READ_ROWS - 3 : READ_ROWS + 4] = stamps[READ_ROWS]
    columns["time"] = pa.array(stamps).cast(pa.timestamp("ns"))
    columns["trade_id"] = pa.nulls(count, pa.int64())
    archive = TradeStore(tmp_path)
    store_pairs(archive.store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR}))
    rows_without_ids = pa.RecordBatch.from_pydict(columns, schema=made.schema)
    commit(archive, Range(0, END_NS), rows_without_ids)
    first = int(np.searchsorted(stamps, stamps[READ_ROWS - 20]))
    served = served_ids(kraken_api_app(archive), since=str(stamps[first]), count="100")
    assert served == list(range(first + 1, first + 101))
    [newest] = rows(get(kraken_api_app(archive), "Trades", pair="XBTUSD", count="1"))
    assert newest[6] == count


# --- sides ---------------------------------------------------------------------------------------

WITHOUT_SIDES = [
    trade(0, 1, "sell"),
    *((n, T0 + n * SECOND, price, "1", None, None, "") for n, price in enumerate("2334431", 1)),
    trade(8, 8, "sell"),
]


def test_a_trade_without_a_side_is_refused_and_the_others_are_not(tmp_path: Path) -> None:
    application = kraken_api_app(
        archive_of(tmp_path, [trade(0, 1), trade(1, 2, None), trade(2, 3)])
    )
    text = (
        "EQuery:Side not stored:the trade of 2023-11-14T22:13:21Z was imported without its side; "
        "`harvester serve --guess-sides` answers with a guess"
    )
    assert errors(get(application, "Trades", pair="XBTUSD", since="0")) == [text]
    assert errors(get(application, "Trades", pair="XBTUSD", count="2")) == [text]
    assert len(rows(get(application, "Trades", pair="XBTUSD", since="0", count="1"))) == 1
    assert len(rows(get(application, "Trades", pair="XBTUSD", count="1"))) == 1


def test_a_guessed_side_is_the_direction_of_the_last_change_of_the_price(tmp_path: Path) -> None:
    application = kraken_api_app(archive_of(tmp_path, WITHOUT_SIDES), guess_sides=True)
    served = rows(get(application, "Trades", pair="XBTUSD", since="0"))
    assert "".join(row[3] for row in served) == "s" + "sbbbb" + "ss" + "s"
    assert "".join(row[4] for row in served) == "l" + "m" * 7 + "l"


@pytest.mark.parametrize(("options", "error"), [([], "EQuery:Side"), (["--guess-sides"], None)])
def test_the_command_guesses_sides_with_the_option(
    tmp_path: Path, options: list[str], error: str | None
) -> None:
    archive_of(tmp_path, WITHOUT_SIDES)
    with served(tmp_path, *options) as url:
        answer = httpx.get(f"{url}/0/public/Trades?pair=XBTUSD")
    assert answer.headers["Vary"] == "Prefer"
    assert [text[: len(error or "")] for text in answer.json()["error"]] == [error] * bool(error)


def test_a_copy_has_neither_made_up_ids_nor_guessed_sides(tmp_path: Path) -> None:
    trades = [trade(number, None, None) for number in range(5)]
    source = archive_of(tmp_path / "source", trades)
    settings = {"exchange.rate": 0, "refresh.settle_s": 0}
    with serving(source) as url:
        harvester.open(tmp_path / "copy", settings=settings | {"exchange.url": url}).backfill(
            "XBTUSD"
        )
    copied = list(TradeStore(tmp_path / "copy").scan("XBTUSD"))
    assert [batch.to_pylist() for batch in copied] == [
        batch.to_pylist() for batch in source.scan("XBTUSD")
    ]


DOWNLOADED_FROM = T0 + 100 * SECOND


def archive_with_imported_part(path: Path) -> TradeStore:
    """Trades of a CSV file, one a second for 50 s, and downloaded ones from 100 s on."""
    archive = TradeStore(path)
    store_pairs(archive.store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR}))
    with open_writer(archive, "XBTUSD") as pair_writer:
        imported = Range(0, DOWNLOADED_FROM - 1)
        rows_without_ids = rows_of([trade(n, None, None) for n in range(50)])
        pair_writer.commit(imported, rows_without_ids, Footer(imported, "{}", source="csv"))
    commit(
        archive,
        Range(DOWNLOADED_FROM - 1, T0 + DAY),
        rows_of([trade(number, number) for number in range(100, 150)]),
    )
    return archive


def test_imported_trades_are_not_copied_as_downloaded_ones(tmp_path: Path) -> None:
    """Their times may be rounded: continued from Kraken, a copy had a second's trades twice."""
    source = archive_with_imported_part(tmp_path / "source")
    copy = tmp_path / "data"
    with serving(source) as url:
        result = cli_output.run(url, tmp_path, "backfill", "XBTUSD", "--rate", "0")
    assert result.returncode == 3
    assert (
        "EQuery:Imported, not downloaded:the trades of the beginning to 2023-11-14 22:15 come from "
        "CSV files; copy the folder of the archive, or import the files there, too"
    ) in " ".join(result.stderr.split())
    assert TradeStore(copy).coverage("XBTUSD") == []


def test_downloaded_trades_after_imported_ones_are_copied(tmp_path: Path) -> None:
    source = archive_with_imported_part(tmp_path / "source")
    copy = tmp_path / "data"
    with serving(source) as url:
        words = ("--rate", "0", "--since", "2023-11-14T22:15:00")
        result = cli_output.run(url, tmp_path, "backfill", "XBTUSD", *words)
    assert result.returncode == 0, result.stderr
    copied = [batch.to_pylist() for batch in TradeStore(copy).scan("XBTUSD")]
    later = Range(DOWNLOADED_FROM - 1, T0 + DAY)
    assert copied == [batch.to_pylist() for batch in source.scan("XBTUSD", later)]
    assert sum(map(len, copied)) == 50


def test_other_programs_are_still_answered_with_imported_trades(tmp_path: Path) -> None:
    application = kraken_api_app(archive_with_imported_part(tmp_path), guess_sides=True)
    assert len(served_ids(application)) == 100


def test_a_copy_of_an_archive_with_a_gap_ends_at_once_with_its_name(tmp_path: Path) -> None:
    source = archive_of(tmp_path / "source", [])
    commit(source, Range(T0 + 2 * DAY, T0 + 3 * DAY), rows_of([trade(200_000, 1)]))
    with serving(source) as url:
        result = cli_output.run(url, tmp_path, "backfill", "XBTUSD", "--rate", "0")
    assert result.returncode == 3
    assert f"Not covered by this archive:{T0 + DAY}-{T0 + 2 * DAY}" in result.stderr


@pytest.mark.parametrize(
    ("url", "sent"), [("https://api.kraken.com", None), ("http://127.0.0.1:1", "rows=stored")]
)
def test_only_an_api_server_gets_the_header_for_rows_as_stored(url: str, sent: str | None) -> None:
    client = HttpClient(load({"exchange.url": url}, environment={}).exchange)
    assert client._client.headers.get("Prefer") == sent


# --- cursors and counts --------------------------------------------------------------------------


def test_a_walk_in_small_pages_passes_many_trades_of_one_time(tmp_path: Path) -> None:
    trades: list[Trade] = [
        (n, T0 + n // 25 * 100, "1", "1", "buy", "limit", "") for n in range(1, 61)
    ]
    application = kraken_api_app(archive_of(tmp_path, trades))
    since, seen = "0", list[int]()
    while True:
        body = get(application, "Trades", pair="XBTUSD", since=since, count="10")
        seen += [row[6] for row in rows(body) if row[6] not in seen]
        if result(body)["last"] == since:
            break
        since = result(body)["last"]
    assert seen == list(range(1, 61))


def test_a_copy_of_more_trades_of_one_time_than_a_page_has_is_exact(tmp_path: Path) -> None:
    trades: list[Trade] = [
        (n, T0 + 100 + n // 2_500 * 10_000, f"{n}", "1", "buy", "limit", "")
        for n in range(1, 6_001)
    ]
    source = archive_of(tmp_path / "source", trades)
    with serving(source) as url:
        outcome = Backfill(url, tmp_path / "copy", {"refresh.settle_s": 0}).only("XBTUSD")
    assert (outcome.trades, outcome.gaps, outcome.error) == (6_000, [], None)


def test_a_count_above_a_page_is_a_page(tmp_path: Path) -> None:
    application = kraken_api_app(create_sample_archive(tmp_path, 1_500, 1))
    body = get(application, "Trades", pair="XBTUSD", count="5000")
    assert len(rows(body, "MADE-UP-XBTUSD")) == 1_000


# --- candles -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market() -> Market:
    """A day and a half of a quiet market."""
    return Market(trades=xbtusd_like(4_000, 61, gap_s=150))


@pytest.fixture(scope="module")
def copied(market: Market, tmp_path_factory: pytest.TempPathFactory) -> TradeStore:
    """An archive of the whole market."""
    folder = tmp_path_factory.mktemp("copied")
    clock = Clock(market.trades[-1].true_ns + 3 * 3600 * SECOND)
    with serve(market, clock=clock) as exchange:
        settings = {"exchange.url": exchange.url, "exchange.rate": 0}
        harvester.open(folder, settings=settings).backfill(market.altname)
    return TradeStore(folder)


def old_candles(market: Market, first_s: int, count: int) -> list[list[Any]]:
    """Minutes of the test exchange, which shows the newest 720: as it did when they ended."""
    shelf, found = Shelf(market), list[list[Any]]()
    while len(found) < count:
        wanted = min(720, count - len(found))
        end_s = first_s + (len(found) + wanted) * 60
        found += ohlc_rows(shelf, 1, end_s * SECOND - 1)[-wanted:]
    return found


def test_since_reaches_back_beyond_the_last_720_candles(market: Market, copied: TradeStore) -> None:
    begin_s = market.trades[0].true_ns // MINUTE * 60
    since = begin_s + 100 * 60
    body = get(kraken_api_app(copied), "OHLC", pair="XBTUSD", since=str(since))
    assert rows(body) == old_candles(market, since + 60, 721)
    assert result(body)["last"] == since + 721 * 60


def test_all_candles_are_found_by_following_last(market: Market, copied: TradeStore) -> None:
    application = kraken_api_app(copied)
    reached_ns = copied.coverage("XBTUSD")[-1].through
    since, found = -60, list[list[Any]]()
    while True:
        body = get(application, "OHLC", pair="XBTUSD", since=str(since))
        found += [row for row in rows(body) if not found or row[0] > found[-1][0]]
        if result(body)["last"] <= since:
            break
        since = result(body)["last"]
    first_s, last_s = market.trades[0].true_ns // MINUTE * 60, reached_ns // MINUTE * 60
    assert [row[0] for row in found] == list(range(first_s, last_s + 60, 60))
    assert found[:-1] == old_candles(market, first_s, len(found) - 1)


def test_without_since_the_newest_candles_come(market: Market, copied: TradeStore) -> None:
    reached_ns = copied.coverage("XBTUSD")[-1].through
    for params in ({}, {"since": "0"}):
        body = get(kraken_api_app(copied), "OHLC", pair="XBTUSD", **params)
        assert rows(body) == ohlc_rows(Shelf(market), 1, reached_ns)


@pytest.mark.parametrize("since_ns", [T0 - DAY, T0 + 30 * MINUTE, T0 + 100 * MINUTE])
def test_candles_of_a_range_that_is_not_covered_are_refused(tmp_path: Path, since_ns: int) -> None:
    archive = TradeStore(tmp_path)
    gap = Range(T0 + 50 * MINUTE, T0 + 110 * MINUTE)
    commit(archive, Range(T0, gap.after), rows_of(PLAIN))
    commit(archive, Range(gap.through, T0 + DAY), rows_of([]))
    since = str(since_ns // SECOND)
    [text] = errors(get(kraken_api_app(archive), "OHLC", pair="XBTUSD", since=since))
    assert text.startswith("EQuery:Not covered by this archive:")
    later = str((T0 + 120 * MINUTE) // SECOND)
    assert result(get(kraken_api_app(archive), "OHLC", pair="XBTUSD", since=later))["XBTUSD"] == []


def test_candles_and_figures_end_where_a_file_was_lost_a_moment_ago(tmp_path: Path) -> None:
    """The archive is listed once a second, and `verify --repair` moves a damaged file away."""
    archive = TradeStore(tmp_path)
    store_pairs(archive.store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR}))
    spans = [Range(T0 + 15 * MINUTE * at, T0 + 15 * MINUTE * (at + 1)) for at in range(2)]
    for number, span in enumerate(spans):
        rows: list[Trade] = [
            (15 * number + at, span.after + at * MINUTE, "9.5", "0.5", "buy", "limit", "")
            for at in range(1, 16)
        ]
        commit(archive, span, rows_of(rows))
    answers = ApiResponder(archive)

    def counts() -> tuple[list[int], int]:
        candles = result(answers.ohlc({"pair": "XBTUSD", "since": str(T0 // SECOND)})())["XXBTZUSD"]
        figures = result(answers.ticker({"pair": "XBTUSD"})())["XXBTZUSD"]
        return [candle[-1] for candle in candles], figures["t"][1]

    whole = counts()
    Path(archive.location(archive.segments("XBTUSD")[-1])).unlink()
    candles, count = counts()
    assert 0 not in candles
    assert len(candles) < len(whole[0])
    assert (count, whole[1]) == (15, 30)


def test_a_pair_whose_only_file_was_lost_a_moment_ago_is_unknown(tmp_path: Path) -> None:
    """An empty answer would say that nothing was traded."""
    archive = TradeStore(tmp_path)
    store_pairs(archive.store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR}))
    commit(archive, Range(T0, T0 + DAY), rows_of(PLAIN))
    answers = ApiResponder(archive)
    answers.ticker({"pair": "XBTUSD"})
    Path(archive.location(archive.segments("XBTUSD")[0])).unlink()
    for endpoint in (answers.ohlc, answers.ticker):
        with pytest.raises(UnknownPair):
            endpoint({"pair": "XBTUSD"})


def test_figures_of_all_pairs_are_shown_without_one_that_was_lost_a_moment_ago(
    tmp_path: Path,
) -> None:
    archive = TradeStore(tmp_path)
    other = msgspec.structs.replace(SAMPLE_PAIR, altname="ETHUSD", key="XETHZUSD")
    store_pairs(archive.store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR, "ETHUSD": other}))
    for name in ("XBTUSD", "ETHUSD"):
        commit(archive, Range(T0, T0 + DAY), rows_of(PLAIN), name)
    answers = ApiResponder(archive)
    assert sorted(result(answers.ticker({})())) == ["XETHZUSD", "XXBTZUSD"]
    Path(archive.location(archive.segments("XBTUSD")[0])).unlink()
    assert sorted(result(answers.ticker({})())) == ["XETHZUSD"]


# --- figures of the last day ---------------------------------------------------------------------


def replace_after_last_time(
    folder: Path, patch: pytest.MonkeyPatch, second: Trade, exact: Trade
) -> ApiResponder:
    """An archive with one imported trade, which the exchange's replaces once its time was read."""
    archive, span = TradeStore(folder), Range(T0, T0 + DAY)
    store_pairs(archive.store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR}))
    with open_writer(archive, "XBTUSD") as pair_writer:
        file = pair_writer.commit(span, rows_of([second]), Footer(span, "{}", source="csv"))[0]
    last_time = SnapshotStore.last_time

    def replaced_after(store: SnapshotStore, pair: str, moment: int) -> int | None:
        found = last_time(store, pair, moment)
        commit(archive, span, rows_of([exact]))
        Path(archive.location(file)).unlink()
        return found

    patch.setattr(SnapshotStore, "last_time", replaced_after)
    return ApiResponder(archive)


SECOND_TRADE: Trade = (1, T0 + MINUTE, "9.5", "0.5", "buy", "limit", "")


def test_ticker_has_a_last_trade_while_imported_trades_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exchange's own time of a trade is up to a second later than that of the file."""
    exact: Trade = (1, T0 + MINUTE + SECOND // 5, *SECOND_TRADE[2:])
    responder = replace_after_last_time(tmp_path, monkeypatch, SECOND_TRADE, exact)
    answer = responder.ticker({"pair": "XBTUSD"})
    assert result(answer())["XXBTZUSD"]["c"] == ["9.5", "0.50000000"]


def test_candles_repeat_the_last_close_while_imported_trades_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that rounds up, the exchange's own time is up to a second earlier."""
    exact: Trade = (1, T0 + MINUTE - SECOND // 5, *SECOND_TRADE[2:])
    responder = replace_after_last_time(tmp_path, monkeypatch, SECOND_TRADE, exact)
    answer = responder.ohlc({"pair": "XBTUSD", "interval": "1"})
    rows = result(answer())["XXBTZUSD"]
    assert len(rows) > 600
    assert {row[4] for row in rows} == {"9.5"}


def expected_figures(trades: list[Trade], decimals: int = 1) -> dict[str, Any]:
    """Figures of some trades by plain Python: volume, vwap, count, low, high."""
    prices = [Decimal(row[2]) for row in trades]
    volumes = [Decimal(row[3]) for row in trades]
    value = sum(map(Decimal.__mul__, prices, volumes), Decimal(0))
    vwap = (value / sum(volumes)).quantize(Decimal(1).scaleb(-decimals), ROUND_DOWN)
    return {
        "v": f"{sum(volumes):.8f}",
        "p": str(vwap),
        "t": len(trades),
        "l": str(min(prices)),
        "h": str(max(prices)),
    }


def test_ticker_has_the_figures_of_the_day_and_of_the_last_24_hours(tmp_path: Path) -> None:
    midnight = (T0 // DAY + 1) * DAY
    trades: list[Trade] = [
        (n, midnight + hour * 60 * MINUTE, f"{price}.5", "1.5", "buy", "limit", "")
        for n, (hour, price) in enumerate([(-23, 1), (-15, 90), (-2, 40), (0, 60), (3, 50)], 1)
    ]
    archive = archive_of(tmp_path, [])
    [empty] = archive.segments("XBTUSD")
    Path(archive.location(empty)).unlink()
    commit(archive, Range(0, midnight + 6 * 60 * MINUTE), rows_of(trades))
    today, day = expected_figures(trades[3:]), expected_figures(trades[1:])
    expected: dict[str, Any] = {name: [today[name], day[name]] for name in today}
    expected |= {"c": ["50.5", "1.50000000"], "o": "60.5"}
    for params in ({}, {"pair": "btc/usd"}):
        assert result(get(kraken_api_app(archive), "Ticker", **params)) == {"XXBTZUSD": expected}


def test_ticker_of_a_day_without_trades_shows_the_last_price(tmp_path: Path) -> None:
    figures = result(get(kraken_api_app(archive_of(tmp_path, PLAIN)), "Ticker"))["XXBTZUSD"]
    assert figures["c"] == ["130.5", "0.00000030"]
    assert (figures["t"], figures["o"]) == ([0, 30], "130.5")
    assert (figures["v"][0], figures["h"]) == ("0.00000000", ["130.5", "130.5"])


def test_ticker_leaves_out_a_pair_that_never_traded(tmp_path: Path) -> None:
    assert result(get(kraken_api_app(archive_of(tmp_path, [])), "Ticker")) == {}


def test_ticker_refuses_a_pair_that_is_not_stored(tmp_path: Path) -> None:
    body = get(kraken_api_app(archive_of(tmp_path, PLAIN)), "Ticker", pair="XBTUSD,ETHUSD")
    assert errors(body) == ["EQuery:Unknown asset pair"]


def test_a_pair_that_is_named_often_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []

    def counted(archive: TradeStore, pair: Pair, now_ns: int) -> object:
        computed.append(pair.altname)
        return ticker_from_archive(archive, pair, now_ns)

    monkeypatch.setattr("harvester.server.kraken_endpoints.ticker_from_archive", counted)
    names = ",".join(["XBTUSD", "btc/usd", "XXBTZUSD"] * 500)
    application = kraken_api_app(archive_of(tmp_path, PLAIN))
    assert list(result(get(application, "Ticker", pair=names))) == ["XXBTZUSD"]
    assert computed == ["XBTUSD"]


def test_spellings_are_not_kept(tmp_path: Path) -> None:
    """A client may send any number of them."""
    archive = archive_of(tmp_path, PLAIN)
    pairs = ServedPairs(archive, lambda: 0.0)
    pairs.resolve("XBTUSD", "currency")
    tracemalloc.start()
    for dashes in range(1_000, 1_200):
        assert pairs.resolve("XBT" + "-" * dashes + "USD", "currency").altname == "XBTUSD"
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000


# --- assets and pairs ----------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"asset": "XXBT,ZUSD"}, {"asset": "XBT,USD"}])
def test_assets_are_those_of_the_stored_pairs(tmp_path: Path, params: dict[str, str]) -> None:
    assert result(get(kraken_api_app(archive_of(tmp_path, PLAIN)), "Assets", **params)) == {
        "XXBT": {
            "aclass": "currency",
            "altname": "XBT",
            "decimals": 8,
            "display_decimals": 5,
            "status": "enabled",
        },
        "ZUSD": {
            "aclass": "currency",
            "altname": "USD",
            "decimals": 5,
            "display_decimals": 5,
            "status": "enabled",
        },
    }


def test_a_stock_is_an_asset_of_its_class_and_its_currency_is_none(tmp_path: Path) -> None:
    stock = Pair(
        altname="AAPLxUSD",
        key="AAPLxUSD",
        wsname="AAPLx/USD",
        base="AAPLx",
        quote="ZUSD",
        aclass_base="tokenized_asset",
    )
    application = kraken_api_app(archive_of(tmp_path, PLAIN, stock))
    assert list(result(get(application, "Assets", aclass="tokenized_asset"))) == ["AAPLx"]
    assert list(result(get(application, "Assets"))) == ["ZUSD"]


def test_an_asset_of_no_stored_pair_is_unknown(tmp_path: Path) -> None:
    body = get(kraken_api_app(archive_of(tmp_path, PLAIN)), "Assets", asset="XETH")
    assert errors(body) == ["EQuery:Unknown asset"]


def test_a_pair_of_unknown_status_is_online_for_other_programs(tmp_path: Path) -> None:
    application = kraken_api_app(archive_of(tmp_path, PLAIN, Pair(altname="XBTUSD")))
    assert result(get(application, "AssetPairs"))["XBTUSD"]["status"] == "online"
    assert "status" not in result(get_as_stored(application, "AssetPairs"))["XBTUSD"]


# --- clocks --------------------------------------------------------------------------------------

OLD = Pair(altname="OLDUSD", key="OLDUSD", wsname="OLD/USD", base="OLD", quote="ZUSD")
OLD_END = T0 + 90 * MINUTE


@pytest.fixture
def two_pairs(tmp_path: Path) -> TradeStore:
    """XBTUSD, covered through a day, and a pair of which only the first 90 minutes are stored."""
    archive = archive_of(tmp_path / "source", PLAIN)
    pairs = {"XBTUSD": SAMPLE_PAIR, "OLDUSD": OLD}
    store_pairs(archive.store, msgspec.json.encode(pairs))
    commit(archive, Range(0, OLD_END), rows_of(PLAIN[:7]), "OLDUSD")
    return archive


def test_the_clock_is_that_of_the_pair_that_is_covered_furthest(two_pairs: TradeStore) -> None:
    clock = result(get(kraken_api_app(two_pairs), "Time"))
    assert clock["unixtime"] == (T0 + DAY) // SECOND
    assert clock["coverage_ends"] == {"OLDUSD": OLD_END}


def test_the_clock_is_not_ahead_of_this_machines(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)
    before_s = int(time.time())
    commit(archive, Range(0, (before_s + 3_000) * SECOND), rows_of(PLAIN))
    clock = result(get(kraken_api_app(archive), "Time"))
    assert before_s <= clock["unixtime"] <= time.time()
    assert "coverage_ends" not in clock


def test_candles_of_a_pair_end_by_its_own_clock(two_pairs: TradeStore) -> None:
    application = kraken_api_app(two_pairs)
    ends = {
        pair: rows(get(application, "OHLC", pair=pair, interval="60"), key)[-1][0]
        for pair, key in (("XBTUSD", "XXBTZUSD"), ("OLDUSD", "OLDUSD"))
    }
    hour = 60 * MINUTE
    assert ends == {
        "XBTUSD": (T0 + DAY) // hour * 3600,
        "OLDUSD": OLD_END // hour * 3600,
    }


def test_figures_of_a_pair_are_of_its_own_last_day(two_pairs: TradeStore) -> None:
    figures = result(get(kraken_api_app(two_pairs), "Ticker"))
    assert {name: row["t"][1] for name, row in figures.items()} == {"XXBTZUSD": 30, "OLDUSD": 7}


@pytest.mark.parametrize("settle_s", [0, 600])
def test_a_copy_has_of_each_pair_what_is_covered(
    two_pairs: TradeStore, tmp_path: Path, settle_s: int
) -> None:
    with serving(two_pairs) as url:
        settings = {"exchange.url": url, "exchange.rate": 0, "refresh.settle_s": settle_s}
        archive = harvester.open(tmp_path / "copy", settings=settings)
        results = archive.backfill("XBTUSD", "OLDUSD")
        again = archive.backfill("XBTUSD", "OLDUSD")
        refreshed = archive.refresh()
    assert [(done.pair, done.trades, done.error) for done in results] == [
        ("XBTUSD", 30, None),
        ("OLDUSD", 7, None),
    ]
    assert [(done.trades, done.error) for done in again] == [(0, None)] * 2
    assert [(pair.state, pair.trades) for pair in refreshed.pairs] == [("complete", 0)] * 2
    copy = TradeStore(tmp_path / "copy")
    settle_ns = settle_s * SECOND
    assert copy.coverage("XBTUSD") == [Range(0, T0 + DAY - settle_ns)]
    assert copy.coverage("OLDUSD") == [Range(0, OLD_END - settle_ns)]
    assert copy.gaps("OLDUSD") == []
