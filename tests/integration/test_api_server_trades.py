from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

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
from backfills import Backfill

from harvester.config import load
from harvester.download.backfill import backfill
from harvester.download.exchange import BackfillRequest, RunOptions
from harvester.errors import HarvesterError, UsageError
from harvester.events import CancelToken
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.kraken.trades import decode_page
from harvester.schema import ROW_GROUP_ROWS, RowsChecksum, times
from harvester.server.app import kraken_api_app
from harvester.server.kraken_json import RenderedRows
from harvester.server.kraken_trade_pages import RenderedChunk, RenderedPageCache, TradePages
from harvester.server.sample_data import END_NS, SAMPLE_PAIR, create_sample_archive, sample_trades
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, END_OF_TIME, Range


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def ids(body: bytes) -> list[int]:
    [rows] = [value for key, value in json.loads(body)["result"].items() if key != "last"]
    return [row[6] for row in rows]


def last(body: bytes) -> str:
    text = json.loads(body)["result"]["last"]
    assert isinstance(text, str)
    return text


def walk(url: str, pair: str = "XBTUSD") -> list[tuple[Any, ...]]:
    """All rows of an API server by Kraken's cursor, numbers as their text; seen ones left out."""
    rows: dict[int, tuple[Any, ...]] = {}
    since = "0"
    with httpx.Client(base_url=url) as client:
        while True:
            params = {"pair": pair, "since": since}
            body = client.get("/0/public/Trades", params=params).content
            result = json.loads(body, parse_float=str, parse_int=str)["result"]
            last = result.pop("last")
            [found] = result.values()
            rows.update((int(row[6]), tuple(row)) for row in found)
            if last == since:
                return list(rows.values())
            since = last


def printed(made_rows: pa.RecordBatch) -> list[tuple[Any, ...]]:
    """Made rows as Kraken would print them, by plain Python."""
    letters = {"buy": "b", "sell": "s", "market": "m", "limit": "l"}
    return [
        (
            f"{row['price']:.1f}",
            f"{row['volume']:f}",
            f"{stamp // 10**9}.{stamp % 10**9:09d}".rstrip("0").rstrip("."),
            letters[row["side"]],
            letters[row["order_type"]],
            row["misc"],
            str(row["trade_id"]),
        )
        for row, stamp in zip(made_rows.to_pylist(), times(made_rows).tolist(), strict=True)
    ]


def checksum(archive: TradeStore) -> tuple[int, str]:
    found = RowsChecksum()
    for batch in archive.scan("XBTUSD"):
        found.update(batch)
    return found.rows, found.hexdigest()


# --- pages ---------------------------------------------------------------------------------------


def test_every_digit_of_a_row_is_printed(tmp_path: Path) -> None:
    trades: list[Trade] = [
        (7, T0, "60000", "1", "buy", "market", ""),
        (8, T0 + 1, "60000.0000000001", "0.00000001", "sell", "limit", ""),
        (9, T0 + 500_000_000, "0.1234567891", "1000000000000.12345678", "sell", "limit", ""),
        (None, T0 + 1_000_000_000, "1.25", "2", None, None, 'say "é"\\'),
        (11, T0 + 10**9, "99999999.9999999999", "99999999999999.99999999", "buy", "limit", None),
    ]

    application = kraken_api_app(archive_of(tmp_path, trades))
    body = get_as_stored(application, "Trades", pair="XBTUSD", since="0")

    assert body.decode() == (
        '{"error":[],"result":{"XXBTZUSD":['
        '["60000.0","1.00000000",1700000000,"b","m","",7],'
        '["60000.0000000001","0.00000001",1700000000.000000001,"s","l","",8],'
        '["0.1234567891","1000000000000.12345678",1700000000.5,"s","l","",9],'
        '["1.25","2.00000000",1700000001,"","","say \\"é\\"\\\\",0],'
        '["99999999.9999999999","99999999999999.99999999",1700000001,"b","l","",11]'
        '],"last":"1700000001000000001"}}'
    )


def test_values_below_zero_are_printed_as_they_are(tmp_path: Path) -> None:
    trades: list[Trade] = [(1, T0, "-1.5", "-0.00000025", "buy", "limit", "")]
    body = get(kraken_api_app(archive_of(tmp_path, trades)), "Trades", pair="XBTUSD")
    assert b'["-1.5","-0.00000025",' in body


@pytest.mark.parametrize(
    ("decimals", "price"),
    [(0, "60000"), (1, "60000.0"), (5, "60000.00000"), (12, "60000.0000000000")],
)
def test_a_price_shows_at_least_the_decimals_of_its_pair(
    tmp_path: Path, decimals: int, price: str
) -> None:
    pair = Pair(altname="ETHUSD", pair_decimals=decimals)
    archive = archive_of(tmp_path, [(1, T0, "60000", "1", "buy", "limit", "")], pair)
    assert b'{"ETHUSD":[["%b",' % price.encode() in get(
        kraken_api_app(archive), "Trades", pair="ETHUSD"
    )


def test_a_page_decodes_to_the_rows_of_the_archive(tmp_path: Path) -> None:
    body = get(kraken_api_app(archive_of(tmp_path, PLAIN)), "Trades", pair="XBTUSD", since="0")
    assert decode_page(body).rows.to_pylist() == rows_of(PLAIN).to_pylist()


def test_a_walk_by_the_cursor_finds_every_row_once_and_in_order(tmp_path: Path) -> None:
    archive = create_sample_archive(tmp_path, 5_000, 3)
    with serving(archive) as url:
        assert walk(url) == printed(sample_trades(5_000, 3))


def test_trades_of_one_time_in_two_row_groups_are_served_together(tmp_path: Path) -> None:
    rows = ROW_GROUP_ROWS + 50
    edge = slice(ROW_GROUP_ROWS - 1, ROW_GROUP_ROWS + 1)
    seed = next(n for n in range(100) if len(set(times(sample_trades(rows, n))[edge])) == 1)
    stamp = int(times(sample_trades(rows, seed))[ROW_GROUP_ROWS])
    expected = np.flatnonzero(times(sample_trades(rows, seed)) >= stamp) + 1

    application = kraken_api_app(create_sample_archive(tmp_path, rows, seed))

    body = get(application, "Trades", pair="XBTUSD", since=str(stamp))
    assert ids(body) == expected.tolist()
    assert ids(get(application, "Trades", pair="XBTUSD")) == list(range(rows - 999, rows + 1))


def test_a_page_continues_in_the_next_segment(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)
    middle = PLAIN[9][1]
    commit(archive, Range(0, middle), rows_of(PLAIN[:10]))
    commit(archive, Range(middle, T0 + DAY), rows_of(PLAIN[10:]))
    application = kraken_api_app(archive)
    assert ids(get(application, "Trades", pair="XBTUSD", since="0")) == list(range(1, 31))
    assert ids(get(application, "Trades", pair="XBTUSD", count="25")) == list(range(6, 31))


# --- since and count -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "first"),
    [("0", 1), (str(T0 + 500), 5), (str(T0 + 501), 6), ("1700000000", 1), ("66432458", 1)],
)
def test_since_is_inclusive_and_ten_digits_are_seconds(
    tmp_path: Path, since: str, first: int
) -> None:
    application = kraken_api_app(archive_of(tmp_path, PLAIN))
    body = get(application, "Trades", pair="XBTUSD", since=since)
    assert ids(body) == list(range(first, 31))


@pytest.mark.parametrize(
    ("since", "first"),
    [
        ("1700000000.5", 490),
        ("1700000000.500000001", 491),
        ("1700000000.5000000019", 491),
        ("1700000000.0", 1),
        ("0.0", 1),
    ],
)
def test_since_in_fractional_seconds_begins_with_earlier_rows(
    tmp_path: Path, since: str, first: int
) -> None:
    """By 10 ms: Kraken was seen to begin 9.7 ms before 1616666442.304882029."""
    trades: list[Trade] = [
        (n, T0 + 1_000_000 * n, "100.5", "0.1", "buy", "limit", "") for n in range(1, 501)
    ]
    body = get(kraken_api_app(archive_of(tmp_path, trades)), "Trades", pair="XBTUSD", since=since)
    assert ids(body) == list(range(first, 501))


def test_last_is_the_time_of_the_last_row(tmp_path: Path) -> None:
    body = get(
        kraken_api_app(archive_of(tmp_path, PLAIN)), "Trades", pair="XBTUSD", since="0", count="7"
    )
    assert (ids(body)[-1], last(body)) == (7, str(T0 + 700))


@pytest.mark.parametrize("since", [str(T0 + 3001), "9999999999", "9" * 30])
def test_a_page_beyond_the_end_is_empty_and_echoes_since(tmp_path: Path, since: str) -> None:
    body = get(kraken_api_app(archive_of(tmp_path, PLAIN)), "Trades", pair="XBTUSD", since=since)
    assert (ids(body), last(body)) == ([], since)


def test_a_pair_that_never_traded_has_an_empty_page(tmp_path: Path) -> None:
    body = get(kraken_api_app(archive_of(tmp_path, [])), "Trades", pair="XBTUSD")
    assert body == b'{"error":[],"result":{"XXBTZUSD":[],"last":"0"}}'


def test_without_since_the_newest_page_comes(tmp_path: Path) -> None:
    body = get(kraken_api_app(archive_of(tmp_path, PLAIN)), "Trades", pair="XBTUSD", count="4")
    assert (ids(body), last(body)) == ([27, 28, 29, 30], str(T0 + 3000))


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"since": "1616666442."}, "since"),
        ({"since": ".5"}, "since"),
        ({"since": "1616666442.3.4"}, "since"),
        ({"since": "1616666442.²"}, "since"),
        ({"since": "1616666442304882029.5"}, "since"),
        ({"since": "-1"}, "since"),
        ({"since": ""}, "since"),
        ({"since": "²"}, "since"),
        ({"count": "0"}, "count"),
        ({"count": "many"}, "count"),
        ({"pair": ""}, "pair"),
    ],
)
def test_what_can_not_be_read_is_refused_by_name(
    tmp_path: Path, params: dict[str, str], name: str
) -> None:
    body = get(
        kraken_api_app(archive_of(tmp_path, PLAIN)), "Trades", **{"pair": "XBTUSD", **params}
    )
    assert errors(body) == [f"EGeneral:Invalid arguments:{name}"]


# --- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["XBTUSD", "xbtusd", "XXBTZUSD", "XBT/USD", "BTC/USD", "btcusd"])
def test_any_spelling_of_a_pair_is_accepted(tmp_path: Path, text: str) -> None:
    body = get(kraken_api_app(archive_of(tmp_path, PLAIN)), "Trades", pair=text, count="1")
    assert ids(body) == [30]


def test_a_stored_pair_without_stored_names_is_found_by_its_altname(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)
    commit(archive, Range(0, T0 + DAY), rows_of(PLAIN[:1]), "OLDEUR")
    assert get(kraken_api_app(archive), "Trades", pair="OLDEUR").startswith(
        b'{"error":[],"result":{"OLDEUR":[["101.5000000000",'
    )


def test_a_name_of_no_pair_is_an_unknown_pair(tmp_path: Path) -> None:
    body = get(kraken_api_app(archive_of(tmp_path, PLAIN)), "Trades", pair="../wanted")
    assert errors(body) == ["EQuery:Unknown asset pair"]


def test_a_known_pair_that_is_not_stored_is_an_unknown_pair(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, PLAIN)
    other = Pair(altname="ETHUSD")
    store_pairs(archive.store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR, "ETHUSD": other}))
    body = get(kraken_api_app(archive), "Trades", pair="ETHUSD")
    assert errors(body) == ["EQuery:Unknown asset pair"]


@pytest.mark.parametrize("params", [{}, {"pair": "btc/usd"}])
def test_asset_pairs_lists_the_stored_pairs(tmp_path: Path, params: dict[str, str]) -> None:
    body = get(kraken_api_app(archive_of(tmp_path, PLAIN)), "AssetPairs", **params)
    assert json.loads(body) == {
        "error": [],
        "result": {
            "XXBTZUSD": {
                "altname": "XBTUSD",
                "wsname": "XBT/USD",
                "base": "XXBT",
                "quote": "ZUSD",
                "aclass_base": "currency",
                "pair_decimals": 1,
                "lot_decimals": 8,
                "cost_decimals": 5,
                "tick_size": "0.1",
                "status": "online",
            }
        },
    }


def test_asset_pairs_refuses_a_pair_that_is_not_stored(tmp_path: Path) -> None:
    body = get(kraken_api_app(archive_of(tmp_path, PLAIN)), "AssetPairs", pair="XBTUSD,ETHUSD")
    assert errors(body) == ["EQuery:Unknown asset pair"]


# --- other answers -------------------------------------------------------------------------------


def test_harvesters_own_client_reads_pairs_and_clock(tmp_path: Path) -> None:
    async def ask(url: str) -> tuple[dict[str, Pair], int]:
        settings = load({"exchange.url": url, "exchange.rate": 0}, environment={})
        async with Client(settings.exchange) as client:
            return await client.pairs(), await client.clock_ns()

    with serving(archive_of(tmp_path, PLAIN)) as url:
        pairs, clock_ns = asyncio.run(ask(url))
    assert pairs == {"XBTUSD": SAMPLE_PAIR}
    # The clock stands where coverage ends, so that a copy claims no more.
    assert clock_ns == T0 + DAY


def test_a_download_from_an_api_server_covers_what_the_server_covers(tmp_path: Path) -> None:
    archive = create_sample_archive(tmp_path / "there", 2_000, 5)
    with serving(archive) as url:
        outcome = Backfill(url, tmp_path / "here", {"refresh.settle_s": 0}).only("XBTUSD")
    copy = TradeStore(tmp_path / "here")
    assert (outcome.gaps, copy.coverage("XBTUSD")) == ([], archive.coverage("XBTUSD"))
    assert checksum(copy) == checksum(archive)


def test_a_page_over_a_gap_is_refused(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)
    first, second = PLAIN[9][1], PLAIN[19][1] + 60 * 10**9
    commit(archive, Range(0, first), rows_of(PLAIN[:10]))
    commit(archive, Range(second, T0 + DAY), rows_of([]))
    [text] = errors(get(kraken_api_app(archive), "Trades", pair="XBTUSD", since="0"))
    assert text == f"EQuery:Not covered by this archive:{first}-{second}"


@pytest.mark.parametrize("since", [0, PLAIN[9][1] - 1, PLAIN[9][1], PLAIN[9][1] + 30])
def test_a_page_over_the_shortest_gap_is_refused_with_all_of_the_gap(
    tmp_path: Path, since: int
) -> None:
    archive, (first, second) = archive_with_a_short_gap(tmp_path)
    [text] = errors(get(kraken_api_app(archive), "Trades", pair="XBTUSD", since=str(since)))
    assert text == f"EQuery:Not covered by this archive:{first}-{second}"
    body = get(kraken_api_app(archive), "Trades", pair="XBTUSD", since=str(second + 1))
    assert ids(body) == list(range(11, 31))


def test_a_gap_that_is_filled_while_its_page_is_read_is_not_crossed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, (after, through) = archive_with_a_short_gap(tmp_path)
    clock, get_rows = Clock(), RenderedPageCache.get

    def get_later(cache: RenderedPageCache, chunk: RenderedChunk) -> RenderedRows:
        if clock.now_s == 0.0:
            commit(archive, Range(after, through), rows_of([]))
            clock.now_s = 1.0
        return get_rows(cache, chunk)

    monkeypatch.setattr(RenderedPageCache, "get", get_later)
    application = kraken_api_app(archive, clock)
    [error] = errors(get(application, "Trades", pair="XBTUSD", since="0"))
    assert f"{after}-{through}" in error
    clock.now_s = 2.0
    assert len(ids(get(application, "Trades", pair="XBTUSD", since="0"))) == 30


@pytest.mark.parametrize("is_restarted", [False, True])
def test_an_end_that_is_lost_after_it_was_announced_is_a_gap(
    tmp_path: Path, is_restarted: bool
) -> None:
    archive, clock = TradeStore(tmp_path), Clock()
    store_pairs(archive.store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR}))
    middle, end = PLAIN[9][1], T0 + DAY
    commit(archive, Range(0, middle), rows_of(PLAIN[:10]))
    commit(archive, Range(middle, end), rows_of(PLAIN[10:]))
    application = kraken_api_app(archive, clock)
    get(application, "Time")
    segment = archive.segments("XBTUSD")[-1]
    with open_writer(archive, "XBTUSD") as pair_writer:
        if is_restarted:
            # Whatever takes coverage away records that.
            pair_writer.record_requested(segment.range, was_covered=True)
            application = kraken_api_app(archive, clock)
        pair_writer.remove(segment)
    clock.now_s = 1.0
    assert ids(get(application, "Trades", pair="XBTUSD", since="0", count="10"))[-1] == 10
    for since in (0, middle + 1):
        [text] = errors(get(application, "Trades", pair="XBTUSD", since=str(since)))
        assert text == f"EQuery:Not covered by this archive:{middle}-{end}"
    commit(archive, Range(middle, end), rows_of(PLAIN[10:]))
    clock.now_s = 2.0
    assert len(ids(get(application, "Trades", pair="XBTUSD", since="0"))) == 30


def archive_with_a_short_gap(folder: Path) -> tuple[TradeStore, Range]:
    """An archive without the 50 nanoseconds after its tenth trade."""
    archive, gap = TradeStore(folder), Range(PLAIN[9][1], PLAIN[9][1] + 50)
    store_pairs(archive.store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR}))
    commit(archive, Range(0, gap.after), rows_of(PLAIN[:10]))
    commit(archive, Range(gap.through, T0 + DAY), rows_of(PLAIN[10:]))
    return archive, gap


def test_a_gap_after_trades_of_one_time_is_not_crossed_by_their_cursor(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)
    same = [(*trade[:1], T0, *trade[2:]) for trade in PLAIN[:5]]
    commit(archive, Range(0, T0), rows_of(same))
    commit(archive, Range(T0 + 2, T0 + DAY), rows_of(PLAIN[5:]))
    application = kraken_api_app(archive)
    since = last(get(application, "Trades", pair="XBTUSD", since="0", count="5"))
    assert int(since) > T0 + 2
    [text] = errors(get(application, "Trades", pair="XBTUSD", since=since))
    assert text == f"EQuery:Not covered by this archive:{T0}-{T0 + 2}"


def test_a_copy_does_not_skip_a_short_gap(tmp_path: Path) -> None:
    source, gap = archive_with_a_short_gap(tmp_path / "there")
    with serving(source) as url:
        copied = Backfill(url, tmp_path / "here", {"refresh.settle_s": 0})
        outcome = copied.only("XBTUSD")
        assert f"{gap.after}-{gap.through}" in str(outcome.error)
        # Also where the copy begins inside of it, no matter how close to its end.
        for after in (gap.after, gap.through - 1):
            assert copied.only("XBTUSD", Range(after, T0 + DAY)).error is not None
            assert TradeStore(tmp_path / "here").coverage("XBTUSD") == []
        assert copied.only("XBTUSD", Range(gap.through, T0 + DAY)).error is None
    copy = TradeStore(tmp_path / "here")
    assert copy.coverage("XBTUSD") == [Range(gap.through, T0 + DAY)]
    assert [batch.num_rows for batch in copy.scan("XBTUSD")] == [20]


def test_a_copy_from_behind_a_gap_may_begin_with_an_id_gap(tmp_path: Path) -> None:
    source, gap = TradeStore(tmp_path / "there"), Range(PLAIN[9][1], PLAIN[9][1] + 50)
    store_pairs(source.store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR}))
    commit(source, Range(0, gap.after), rows_of(PLAIN[:10]))
    commit(source, Range(gap.through, T0 + DAY), rows_of([*PLAIN[10:12], *PLAIN[15:]]))
    with serving(source) as url:
        copied = Backfill(url, tmp_path / "here", {"refresh.settle_s": 0})
        assert copied.only("XBTUSD", Range(gap.through, T0 + DAY)).error is None
    copy = TradeStore(tmp_path / "here")
    assert copy.coverage("XBTUSD") == [Range(gap.through, T0 + DAY)]
    assert [batch.num_rows for batch in copy.scan("XBTUSD")] == [17]


def test_a_part_is_copied_from_a_server_whose_newest_time_is_a_gap(tmp_path: Path) -> None:
    trades: list[Trade] = [
        (n, T0 + n * 10**9, f"{n}.5", "0.1", "buy", "limit", "") for n in range(1, 4_501)
    ]
    begin, end, lost, last = (trades[at][1] for at in (499, 1_999, 3_999, 4_499))
    source = TradeStore(tmp_path / "there")
    store_pairs(source.store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR}))
    commit(source, Range(begin, last), rows_of(trades[500:]))
    with open_writer(source, "XBTUSD") as writer:
        writer.remove_coverage(Range(lost, last))
    with serving(source) as url:
        copied = Backfill(url, tmp_path / "here", {"refresh.settle_s": 0})
        # Its first page is full and ends near the newest trades: the newest page is a gap.
        assert copied.only("XBTUSD", Range(begin, end)).error is None
    copy = TradeStore(tmp_path / "here")
    assert copy.coverage("XBTUSD") == [Range(begin, end)]
    assert [batch.num_rows for batch in copy.scan("XBTUSD")] == [1_500]


def test_system_status_is_online(tmp_path: Path) -> None:
    answer = json.loads(get(kraken_api_app(archive_of(tmp_path, PLAIN)), "SystemStatus"))
    assert (answer["error"], answer["result"]["status"]) == ([], "online")
    assert set(answer["result"]) == {"status", "timestamp"}


def test_a_missing_endpoint_is_an_unknown_method(tmp_path: Path) -> None:
    assert errors(get(kraken_api_app(archive_of(tmp_path, PLAIN)), "Depth")) == [
        "EGeneral:Unknown method"
    ]


def test_a_damaged_segment_is_an_internal_error(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, PLAIN)
    [segment] = archive.segments("XBTUSD")
    Path(archive.location(segment)).write_bytes(b"no Parquet at all")
    [text] = errors(get(kraken_api_app(archive), "Trades", pair="XBTUSD"))
    assert text.startswith(f"EGeneral:Internal error:{archive.location(segment)} can't be read: ")


# --- an archive that changes ---------------------------------------------------------------------


def test_new_segments_show_within_a_second(tmp_path: Path) -> None:
    archive, clock = TradeStore(tmp_path), Clock()
    middle = PLAIN[9][1]
    commit(archive, Range(0, middle), rows_of(PLAIN[:10]))
    application = kraken_api_app(archive, clock)
    before = ids(get(application, "Trades", pair="XBTUSD", since="0"))
    commit(archive, Range(middle, T0 + DAY), rows_of(PLAIN[10:]))
    soon = ids(get(application, "Trades", pair="XBTUSD", since="0"))
    clock.now_s = 1.0
    after = ids(get(application, "Trades", pair="XBTUSD", since="0"))
    assert (len(before), len(soon), len(after)) == (10, 10, 30)


def test_a_new_pair_shows_within_a_second(tmp_path: Path) -> None:
    archive, clock = TradeStore(tmp_path), Clock()
    application = kraken_api_app(archive, clock)
    before = errors(get(application, "Trades", pair="XBTUSD"))
    commit(archive, Range(0, T0 + DAY), rows_of(PLAIN))
    clock.now_s = 1.0
    assert before == ["EQuery:Unknown asset pair"]
    assert len(ids(get(application, "Trades", pair="XBTUSD"))) == 30


def test_segments_that_are_merged_away_are_looked_up_again(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)
    middle = PLAIN[9][1]
    commit(archive, Range(0, middle), rows_of(PLAIN[:10]))
    commit(archive, Range(middle, T0 + DAY), rows_of(PLAIN[10:]))
    application = kraken_api_app(archive, Clock())
    assert ids(get(application, "Trades", pair="XBTUSD", since="0", count="1")) == [1]
    with open_writer(archive, "XBTUSD") as pair_writer:
        assert pair_writer.compact(merge_all=True) == (2, 1)
    assert ids(get(application, "Trades", pair="XBTUSD", since="0")) == list(range(1, 31))


def test_what_is_kept_rendered_is_bounded(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)
    ends = [0, *(trade[1] for trade in PLAIN)]
    for place, trade in enumerate(PLAIN):
        commit(archive, Range(ends[place], ends[place + 1]), rows_of([trade]))
    shelf = RenderedPageCache(archive, max_bytes=1_000)
    page = TradePages(archive, "XBTUSD", shelf, Clock()).page(0, 1000, 1)
    assert page.text.count(b"],") == 30
    assert shelf.bytes <= 1_000


# --- the server ----------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_one_clear_error(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, PLAIN)
    with serving(archive) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(HarvesterError) as caught, serving(archive, port=port):
            pass
    assert str(caught.value) == (
        f"can't listen at 127.0.0.1:{port}: Address already in use; choose another address or port"
    )


def test_a_port_is_free_again_once_the_server_ends(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, PLAIN)
    with serving(archive) as url:
        port = int(url.rpartition(":")[2])
    with serving(archive, port=port) as again:
        assert again == url


# --- the made market -----------------------------------------------------------------------------


def test_a_seed_always_makes_the_same_trades() -> None:
    assert sample_trades(5_000, 1).equals(sample_trades(5_000, 1))


def test_another_seed_makes_other_trades() -> None:
    assert not sample_trades(5_000, 1).equals(sample_trades(5_000, 2))


def test_made_times_are_those_that_kraken_prints_and_end_where_they_should() -> None:
    stamps = times(sample_trades(20_000, 1))
    assert (np.diff(stamps) >= 0).all()
    assert not (stamps % 100).any()
    assert END_NS - 10 * DAY < stamps[0] < END_NS - 9 * DAY
    assert END_NS - DAY < stamps[-1] < END_NS


def test_up_to_seventeen_made_trades_have_one_time() -> None:
    groups = Counter(times(sample_trades(20_000, 1)).tolist())
    assert max(groups.values()) == 17


def test_made_ids_count_from_one() -> None:
    assert sample_trades(20_000, 1).column("trade_id").to_pylist() == list(range(1, 20_001))


def test_made_prices_have_one_decimal_and_volumes_are_positive() -> None:
    made_rows = sample_trades(20_000, 1)
    assert all(price == round(price, 1) > 0 for price in made_rows.column("price").to_pylist())
    assert min(made_rows.column("volume").to_pylist()) > 0


@pytest.mark.parametrize("trades", [0, 1, 2])
def test_any_number_of_trades_can_be_made(tmp_path: Path, trades: int) -> None:
    archive = create_sample_archive(tmp_path, trades, 1)
    assert checksum(archive)[0] == trades


def test_a_made_archive_is_requested_and_covered_completely(tmp_path: Path) -> None:
    archive = create_sample_archive(tmp_path, 100, 1)
    assert (archive.coverage("XBTUSD"), archive.gaps("XBTUSD")) == ([Range(0, END_NS)], [])


def test_made_trades_never_mix_with_true_ones(tmp_path: Path) -> None:
    archive_of(tmp_path, PLAIN)
    with pytest.raises(UsageError) as caught:
        create_sample_archive(tmp_path, 100, 1)
    assert str(caught.value) == (
        f"the archive at {tmp_path} has trades already (XBTUSD): "
        "give another folder for the sample market"
    )


# --- the whole way -------------------------------------------------------------------------------


def test_an_archive_downloaded_from_an_api_server_equals_it(tmp_path: Path) -> None:
    source, copy = (
        create_sample_archive(tmp_path / "source", 5_000, 7),
        TradeStore(tmp_path / "copy"),
    )

    async def copied(url: str) -> None:
        settings = load({"exchange.url": url, "exchange.rate": 0}, environment={})
        async with Client(settings.exchange) as client:
            request = BackfillRequest((await client.pairs())["XBTUSD"], Range(0, END_OF_TIME))
            watch = RunOptions(lambda _event: None, CancelToken())
            [outcome] = await backfill(client, copy, [request], settings, watch)
        assert (outcome.error, outcome.gaps) == (None, [])

    with serving(source) as url:
        asyncio.run(copied(url))

    assert checksum(copy) == checksum(source)
    assert checksum(copy)[0] == 5_000
