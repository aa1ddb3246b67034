"""What a page leaves out at the edges of ranges is found, or said; never believed."""

from __future__ import annotations

from pathlib import Path

import pytest
import sample_trades
from backfills import Backfill, rows_on_disk, serve
from kraken_faults import Faults
from kraken_market import Clock, Market, Trade, expected
from kraken_server import Exchange

from harvester.download.page_merge import PageMerger
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, Range
from harvester.verify.integrity import verify

TRADES = sample_trades.xbtusd_like(3_000, 81)
MARKET = sample_trades.market(TRADES)
START_NS = 1_700_000_000_000_000_000


def hiding(*places: int, times: int = 1) -> Faults:
    return Faults(hide={"XBTUSD": dict.fromkeys(places, times)})


def numbered(*ids: int) -> Market:
    """A trade a second with these ids."""
    return sample_trades.market(
        [
            Trade(START_NS + i * 10**9, "1.5", "1.00000000", "b", "l", "", number)
            for i, number in enumerate(ids)
        ]
    )


def test_a_trade_left_out_at_the_end_of_a_range_is_found(tmp_path: Path) -> None:
    until = TRADES[1_500].true_ns + 200
    with serve(MARKET, faults=hiding(1_500)) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD", Range(0, until))
    assert rows_on_disk(tmp_path, "XBTUSD") == [row for row in expected(MARKET) if row[1] <= until]


def test_a_trade_left_out_at_the_settled_head_is_found(tmp_path: Path) -> None:
    settled = TRADES[1_500].true_ns + 200
    clock = Clock((settled // 10**9 + 61) * 10**9)
    last = max(i for i, trade in enumerate(TRADES) if trade.true_ns <= clock.now_ns - 60 * 10**9)
    with Exchange([MARKET], clock=clock, faults=hiding(last)) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
    [covered] = TradeStore(tmp_path).coverage("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == [
        row for row in expected(MARKET) if row[1] <= covered.through
    ]


def test_a_trade_left_out_at_the_beginning_of_a_range_is_found(tmp_path: Path) -> None:
    with serve(MARKET) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        backfill.only("XBTUSD", Range(0, TRADES[1_000].true_ns + 300))
        exchange.faults = hiding(1_001, 1_002)
        backfill.only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(MARKET))


def test_a_range_end_before_a_long_quiet_time_is_requested_again(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.sparse(40, 82))
    middle = market.trades[20].true_ns
    with serve(market) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        backfill.only("XBTUSD", Range(0, middle + 3_600 * 10**9))
        exchange.faults = hiding(21)
        backfill.only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


def test_trades_left_out_at_the_end_of_a_range_are_all_found(tmp_path: Path) -> None:
    cut = TRADES[2_000].true_ns
    with serve(MARKET) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        backfill.only("XBTUSD", Range(cut, END_OF_TIME))
        exchange.faults = hiding(1_997, 1_998, 1_999, times=1)
        backfill.only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(MARKET))


def test_a_trade_that_a_covered_range_lacks_is_no_id_gap(tmp_path: Path) -> None:
    cut = TRADES[1_000].true_ns + 300
    with serve(sample_trades.market(TRADES[:1_000])) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD", Range(0, TRADES[999].true_ns + 300))
    name = TradeStore(tmp_path).segments("XBTUSD")[0].path
    held = tmp_path / name
    _widen(held, Range(0, cut))
    with serve(MARKET) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert (outcome.exit_status, rows_on_disk(tmp_path, "XBTUSD")) == (0, list(expected(MARKET)))
    report = verify(TradeStore(tmp_path), "XBTUSD")
    assert (report.faults, report.confirmed_id_gaps) == ([], 0)


def test_trades_that_the_next_covered_range_lacks_are_downloaded(tmp_path: Path) -> None:
    cut = TRADES[990].true_ns + 300
    with serve(MARKET) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        backfill.only("XBTUSD", Range(TRADES[1_000].true_ns + 300, END_OF_TIME))
        segment = TradeStore(tmp_path).segments("XBTUSD")[0]
        _widen(tmp_path / segment.path, Range(cut, segment.range.through))
        outcome = backfill.only("XBTUSD", Range(0, cut))
    assert (outcome.exit_status, rows_on_disk(tmp_path, "XBTUSD")) == (0, list(expected(MARKET)))
    assert verify(TradeStore(tmp_path), "XBTUSD").faults == []


def _widen(file: Path, span: Range) -> None:
    """Make a segment claim more than it holds, name and footer alike."""
    import pyarrow.parquet as pq

    from harvester.storage.parquet_files import WRITER_OPTIONS

    table = pq.ParquetFile(file).read()
    footer = {
        k: v
        for k, v in pq.ParquetFile(file).metadata.metadata.items()
        if k.startswith(b"harvester.")
    }
    name = f"{span.after:019d}-{span.through:019d}"
    footer[b"harvester.range"] = name.encode()
    file.unlink()
    wide = file.with_name(f"{name}.parquet")
    pq.write_table(table.replace_schema_metadata(footer), wide, **WRITER_OPTIONS)


@pytest.mark.parametrize(
    "ids",
    [
        (60, 61, 62, 50, 60, 61),
        (1, 3, 2, 4, 6, 5, 7),
        (5, 9, 5, 9, 5, 9),
        (10, 20, 1, 30, 2, 40),
        (7, 7, 7, 9, 9, 8),
    ],
    ids=str,
)
def test_descending_or_repeated_ids_lose_no_trade(ids: tuple[int, ...], tmp_path: Path) -> None:
    market = numbered(*ids)
    with serve(market) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert (outcome.error, rows_on_disk(tmp_path, "XBTUSD")) == (None, list(expected(market)))


def test_id_gaps_far_apart_do_not_stop_the_requests_for_later_gaps(tmp_path: Path) -> None:
    trades = sample_trades.xbtusd_like(30_000, 83)
    gone = set(range(500, 12_500, 1_000))
    market = sample_trades.market([trade for i, trade in enumerate(trades) if i not in gone])
    with serve(market, faults=hiding(20_300, 25_700)) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))


@pytest.mark.parametrize("flush_rows", [50, 250_000])
def test_a_pair_with_id_gaps_everywhere_is_sound_across_new_year(
    flush_rows: int, tmp_path: Path
) -> None:
    trades = sample_trades.new_years(84, each=800)
    with_id_gaps = [
        Trade(t.true_ns, t.price, t.volume, t.side, t.order_type, t.misc, 3 * i + i % 2 + 1)
        for i, t in enumerate(trades)
    ]
    market = sample_trades.market(with_id_gaps)
    with serve(market) as exchange:
        Backfill(exchange.url, tmp_path, {"archive.flush_rows": flush_rows}).only("XBTUSD")
    assert rows_on_disk(tmp_path, "XBTUSD") == list(expected(market))
    assert verify(TradeStore(tmp_path), "XBTUSD").faults == []


def test_an_internal_error_in_one_pair_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PageMerger.join

    def join(self: object, rows: object, *more: object) -> object:
        if getattr(rows, "num_rows", 0) == 40:
            raise ZeroDivisionError("made by the test")
        return real(self, rows, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(PageMerger, "join", join)
    odd = sample_trades.market(
        sample_trades.sparse(40, 85),
        altname="ETHUSD",
        key="XETHZUSD",
        wsname="ETH/USD",
        base="XETH",
    )
    with serve(MARKET, odd) as exchange:
        good, bad = Backfill(exchange.url, tmp_path).run("XBTUSD", "ETHUSD")
    assert (good.exit_status, good.trades) == (0, 3_000)
    assert (bad.exit_status, str(bad.error)) == (
        1,
        "internal error: ZeroDivisionError: made by the test",
    )
