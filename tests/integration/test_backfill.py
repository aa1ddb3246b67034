"""The trades on disk equal the exchange's, digit by digit, and no call is wasted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import pytest
import sample_trades
from backfills import Backfill, foreign_files, rows_on_disk, serve, serve_100
from kraken_faults import Faults
from kraken_market import Clock, Market, Trade, expected, named
from kraken_server import Exchange

from harvester.events import Started
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, Range, parse_moment

__all__ = ["serve_100"]

Mode = Literal["inclusive", "exclusive"]
MODES: tuple[Mode, Mode] = ("inclusive", "exclusive")
CAPTURED = Path(__file__).parents[2] / "shared" / "kraken"

needs_captures = pytest.mark.skipif(
    not CAPTURED.is_dir(), reason="the captured answers of Kraken lie outside of the project"
)

MARKETS: dict[str, Callable[[], Market]] = {
    "like XBTUSD": lambda: sample_trades.market(sample_trades.xbtusd_like(1_200, 1)),
    "without ids, times of four decimals": lambda: sample_trades.old_style(800, 2),
    "without ids, times of today": lambda: sample_trades.market(
        sample_trades.ids_unknown(sample_trades.xbtusd_like(800, 3))
    ),
    "runs of id 0": lambda: sample_trades.market(sample_trades.zero_ids(800, 4)),
    "pages that end inside a stamp": lambda: sample_trades.market(
        sample_trades.inside_stamps(800, 5, page_size=100)
    ),
    "alike at neighbouring nanoseconds": lambda: sample_trades.market(
        sample_trades.look_alikes(500, 6)
    ),
    "alike at neighbouring nanoseconds, without ids": lambda: sample_trades.market(
        sample_trades.look_alikes(500, 6, first_id=None)
    ),
    "nearly a page of one stamp": lambda: sample_trades.market(
        sample_trades.one_stamp(90, 7, before=30, after=30)
    ),
    "nearly a page of one stamp, without ids": lambda: sample_trades.market(
        sample_trades.one_stamp(90, 7, before=30, after=30, first_id=None)
    ),
    "a page of stamps within 14 microseconds": lambda: sample_trades.market(
        sample_trades.packed_stamps(100)
    ),
    "ids with gaps": lambda: sample_trades.market(sample_trades.ids_with_gaps(800, 8)),
    "trades of one time and id that differ": lambda: sample_trades.market(
        sample_trades.shared_ids(500, 12)
    ),
    "an id gap at nearly every trade": lambda: sample_trades.market(
        sample_trades.ids_with_gaps(400, 8, chance=0.9)
    ),
    "across New Year": lambda: sample_trades.market(sample_trades.new_years(9)),
    "across New Year, without ids": lambda: sample_trades.market(
        sample_trades.new_years(9, first_id=None)
    ),
    "a coin at 0.0000123 dollars": lambda: sample_trades.tiny_coin(500, 10),
    "hardly any trades": lambda: sample_trades.market(sample_trades.sparse(60, 11)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MARKETS)
def test_a_backfill_stores_every_trade_exactly(
    name: str, mode: Mode, serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = MARKETS[name]()
    with serve_100(market, since_mode=mode) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname)
    assert (outcome.exit_status, rows_on_disk(tmp_path, market.altname)) == (
        0,
        list(expected(market)),
    )
    assert foreign_files(tmp_path) == []


@needs_captures
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("files", "altname"),
    [("trades_GRTETH_2021_page?.json", "GRTETH"), ("trades_XBTUSDT_2025-11-10.json", "XBTUSDT")],
)
def test_captured_pages_are_exact(files: str, altname: str, mode: Mode, tmp_path: Path) -> None:
    bodies = [path.read_text() for path in sorted(CAPTURED.glob(files))]
    market = Market.from_bodies(*bodies, altname=altname)
    with serve(market, since_mode=mode) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(altname)
    assert (outcome.exit_status, rows_on_disk(tmp_path, altname)) == (0, list(expected(market)))


@needs_captures
def test_captured_rows_are_held_against_the_bodies_themselves(tmp_path: Path) -> None:
    body = json.loads((CAPTURED / "trades_XBTUSDT_2025-11-10.json").read_text(), parse_float=str)
    market = Market.from_bodies(json.dumps(body), altname="XBTUSDT")
    with serve(market) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSDT")
    rows = body["result"]["XBTUSDT"]
    kept = rows_on_disk(tmp_path, "XBTUSDT")
    assert [row[0] for row in kept] == [row[6] for row in rows]
    assert [f"{row[1]:019d}" for row in kept] == [
        row[2].replace(".", "").ljust(19, "0") for row in rows
    ]
    assert [f"{row[3]:.5f}" for row in kept] == [row[0] for row in rows]
    assert [f"{row[4]:.8f}" for row in kept] == [row[1] for row in rows]


def test_sixty_thousand_trades_take_at_most_66_pages(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(60_000, 12))
    with serve(market) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
        assert exchange.pages("XBTUSD") <= 66


def test_a_second_run_requests_only_the_newest_trades(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(5_000, 13))
    with serve(market) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
        before = exchange.pages("XBTUSD")
        again = Backfill(exchange.url, tmp_path, {"refresh.settle_s": 0}).only("XBTUSD")
        assert (again.exit_status, again.trades) == (0, 0)
        assert exchange.pages("XBTUSD") - before <= 2


def test_an_earlier_since_fetches_only_the_front(
    serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    trades = sample_trades.xbtusd_like(2_000, 14)
    market = sample_trades.market(trades)
    middle = trades[1_500].true_ns
    with serve_100(market) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        backfill.only("XBTUSD", Range(middle, END_OF_TIME))
        before = exchange.pages("XBTUSD")
        backfill.only("XBTUSD")
        assert exchange.pages("XBTUSD") - before <= 18
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


def test_gaps_at_the_front_in_the_middle_and_at_the_end_are_filled(
    serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    trades = sample_trades.xbtusd_like(1_200, 15)
    market = sample_trades.market(trades)
    cuts = [trades[i].true_ns for i in (200, 400, 800, 1_000)]
    with serve_100(market) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        backfill.only("XBTUSD", Range(cuts[0], cuts[1]))
        backfill.only("XBTUSD", Range(cuts[2], cuts[3]))
        outcome = backfill.only("XBTUSD")
    assert (outcome.gaps, rows_on_disk(tmp_path, "XBTUSD")) == ([], list(expected(market)))


def test_a_gap_between_files_stays_a_gap_if_the_record_of_requests_is_lost(
    tmp_path: Path,
) -> None:
    trades = sample_trades.xbtusd_like(400, 15)
    cuts = [trades[i].true_ns for i in (100, 200, 300, 399)]
    with serve(sample_trades.market(trades)) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        backfill.only("XBTUSD", Range(cuts[0], cuts[1]))
        backfill.only("XBTUSD", Range(cuts[2], cuts[3]))
        (tmp_path / "wanted/XBTUSD.json").unlink()
        for _ in range(2):
            assert TradeStore(tmp_path).gaps("XBTUSD") == [Range(cuts[1], cuts[2])]
            backfill.only("XBTUSD", Range(cuts[0], cuts[1]))


@pytest.mark.parametrize("mode", MODES)
def test_newest_first_stores_the_same_trades(
    mode: Mode, serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    trades = sample_trades.xbtusd_like(600, 16, gap_s=20_000)
    market = sample_trades.market(trades)
    # Until now there would be a download a month.
    span = Range(trades[0].true_ns - 1_000, trades[-1].true_ns + 10**9)
    with serve_100(market, since_mode=mode) as exchange:
        Backfill(exchange.url, tmp_path, newest_first=True).only("XBTUSD", span)
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


def test_newest_first_begins_with_the_newest_month(tmp_path: Path) -> None:
    trades = sample_trades.xbtusd_like(3_000, 17, gap_s=20_000)
    span = Range(trades[0].true_ns - 1_000, trades[-1].true_ns + 1_000)
    with serve(sample_trades.market(trades)) as exchange:
        # Two requests show where the month begins, the next one that it is whole.
        backfill = Backfill(exchange.url, tmp_path, newest_first=True, stop_after_pages=3)
        backfill.only("XBTUSD", span)
    coverage = TradeStore(tmp_path).coverage("XBTUSD")
    assert coverage[-1].through == span.through
    assert coverage[0].after > span.after


def test_an_interrupted_run_keeps_its_trades_and_the_next_continues(
    serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(2_000, 18))
    with serve_100(market) as exchange:
        first = Backfill(exchange.url, tmp_path, stop_after_pages=8).only("XBTUSD")
        kept = len(rows_on_disk(tmp_path, "XBTUSD"))
        assert (first.exit_status, kept > 600) == (130, True)
        before = exchange.pages("XBTUSD")
        Backfill(exchange.url, tmp_path).only("XBTUSD")
        assert exchange.pages("XBTUSD") - before <= 22 - kept // 100
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


@pytest.mark.parametrize("name", ["runs of id 0", "alike at neighbouring nanoseconds"])
def test_an_interrupted_run_counts_the_trades_that_it_stored(
    name: str, serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market, stored = MARKETS[name](), 0
    with serve_100(market) as exchange:
        for pages in (1, 2):
            run = Backfill(exchange.url, tmp_path, stop_after_pages=pages).only(market.altname)
            before, stored = stored, len(rows_on_disk(tmp_path, market.altname))
            assert (run.exit_status, run.trades) == (130, stored - before)


def test_a_resumed_run_begins_with_how_many_trades_of_the_request_are_stored(
    serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(2_000, 18))
    with serve_100(market) as exchange:
        Backfill(exchange.url, tmp_path, stop_after_pages=8).only("XBTUSD")
        kept = len(rows_on_disk(tmp_path, "XBTUSD"))
        again = Backfill(exchange.url, tmp_path, estimates=True)
        again.only("XBTUSD")
    begun = [event for event in again.events if isinstance(event, Started)]
    # The exchange's counts are of weeks; within one, trades are taken to be evenly spread.
    assert [event.stored for event in begun] == [kept]
    assert begun[0].expected is not None


def test_a_typed_boundary_loses_nothing_to_the_rounding_of_times(tmp_path: Path) -> None:
    # True 10 µs before midnight, printed with four decimals as midnight itself.
    midnight = parse_moment("2021-03-28", 0)
    trades = [
        Trade(midnight + off, "1.5", "1.00000000", "b", "l", "", None)
        for off in (-30_000_000_000, -10_000, 5_000_000_000)
    ]
    market = sample_trades.market(trades, decimals=4)
    with serve(market, since_mode="exclusive") as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD", Range(midnight - 1, END_OF_TIME))
    assert rows_on_disk(tmp_path, "XBTUSD") == [
        (*row[:2], tie, *row[3:])
        for tie, row in zip((0, 0), list(expected(market))[1:], strict=True)
    ]


@pytest.mark.parametrize("mode", MODES)
def test_more_trades_of_one_time_than_a_page_has_are_a_gap_with_a_warning(
    mode: Mode, tmp_path: Path
) -> None:
    trades = sample_trades.one_stamp(1_500, 19)
    market = sample_trades.market(trades)
    with serve(market, since_mode=mode) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        outcome = backfill.only("XBTUSD")
        assert exchange.pages("XBTUSD") < 15
    stamp = market.published_ns(trades[300])
    around = [row for row in expected(market) if row[1] != stamp]
    assert rows_on_disk(tmp_path, "XBTUSD") == around
    assert (outcome.exit_status, outcome.gaps) == (4, [Range(stamp - 1, stamp)])
    assert backfill.notes == [
        (
            "more trades share the time 2024-01-20T23:12:11.7778208Z than a page can show: they "
            "are left out as a gap, and the download continues after them"
        )
    ]


def test_a_price_of_thirteen_decimals_stops_its_pair_and_no_other(tmp_path: Path) -> None:
    bad, good = (
        sample_trades.thirteen_decimals(50, 20),
        sample_trades.market(sample_trades.xbtusd_like(3_000, 20)),
    )
    with serve(bad, good) as exchange:
        stopped, whole = Backfill(exchange.url, tmp_path).run(bad.altname, "XBTUSD")
    first = bad.trades[0]
    row = (
        f'["{first.price}","{first.volume}",{bad.literal(0)},"{first.side}",'
        f'"{first.order_type}","",{first.trade_id}]'
    )
    assert (stopped.exit_status, str(stopped.error)) == (
        1,
        (
            f"trade {row}: {first.price} does not fit, a price has at most 10 decimals and is "
            "below 100,000,000; values are never rounded, so this pair stops here"
        ),
    )
    assert (whole.exit_status, rows_on_disk(tmp_path, "XBTUSD")) == (0, list(expected(good)))
    assert rows_on_disk(tmp_path, bad.altname) == []


def test_confirmed_id_gaps_are_recorded(tmp_path: Path) -> None:
    trades = sample_trades.xbtusd_like(3_000, 21)
    gone = {500, 501, 1_700}
    market = sample_trades.market([t for i, t in enumerate(trades) if i not in gone])
    with serve(market) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
    archive = TradeStore(tmp_path)
    id_gaps = [
        id_gap
        for segment in archive.segments("XBTUSD")
        for id_gap in archive.footer(segment).confirmed_id_gaps
    ]
    first = trades[0].trade_id or 0
    assert id_gaps == [(first + 499, first + 502), (first + 1_699, first + 1_701)]


def test_trades_that_a_page_skipped_are_found_again(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(5_000, 22))
    hidden = {"XBTUSD": dict.fromkeys((10, 1_500, 1_501, 2_999, 3_000, 4_321), 1)}
    with serve(market, faults=Faults(hide=hidden)) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


def test_a_pair_with_many_id_gaps_is_not_requested_three_times_for_each_page(
    serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = sample_trades.market(sample_trades.ids_with_gaps(6_000, 23, chance=0.5))
    with serve_100(market) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        backfill.only("XBTUSD")
        assert exchange.pages("XBTUSD") < 66 + 40
    assert backfill.notes == [
        (
            "it has many id gaps, and requesting them again finds nothing; from here on they are "
            "recorded without requesting them again"
        )
    ]


def test_what_is_younger_than_settle_is_left_for_the_next_run(tmp_path: Path) -> None:
    trades = sample_trades.xbtusd_like(2_000, 24)
    clock = Clock(trades[1_500].true_ns)
    with Exchange([sample_trades.market(trades)], clock=clock) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
        kept = rows_on_disk(tmp_path, "XBTUSD")
        assert kept[-1][1] <= clock.now_ns - 59_000_000_000
        clock.advance(10**7)
        Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(sample_trades.market(trades)))


def test_one_schema_in_every_file(tmp_path: Path) -> None:
    markets = [sample_trades.tiny_coin(500, 25), sample_trades.old_style(500, 25), named(1, [])]
    with serve(*markets) as exchange:
        Backfill(exchange.url, tmp_path).run(*(m.altname for m in markets))
    schemas = {
        str(pq.ParquetFile(f).schema_arrow.remove_metadata())
        for f in tmp_path.glob("trades/**/*.parquet")
    }
    assert len(schemas) == 1
