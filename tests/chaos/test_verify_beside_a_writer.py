"""What looks at an archive while its files are replaced tells no damage, and finds all there is."""

from __future__ import annotations

from typing import Any

import csv_files
import pytest
from backfills import Crawl
from concurrent_writer import disturbed
from csv_comparison import only, zipped
from exchange_comparison import interval
from redownload_damage import without_a_row
from redownloads import PAIR, TRADES, started

from harvester.storage.segment import Segment
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import writer
from harvester.times import DAY, Range
from harvester.verify.boundary_trades import read_boundary_trades
from harvester.verify.integrity import digests, verify
from harvester.verify.reports import IntervalReport

__all__ = ["started"]


@pytest.mark.parametrize("at", range(1, 6))
def test_a_file_that_is_replaced_while_it_is_checked_is_no_damage(started: Any, at: int) -> None:
    """Before each opening of a file, a re-download replaces it by one of the same name."""
    one = started(TRADES)
    one.take_in(csv_files.three_columns(TRADES[:4_000]))
    one.fill()
    done: list[int] = []

    def happens() -> None:
        done.append(one.redownload().exit_status)

    archive, between = disturbed(one.folder, at, happens)
    report = verify(archive, PAIR, workers=1)
    assert (report.faults, report.rows, done) == ([], len(TRADES), [0] * (between.opened >= at))


def test_damage_is_told_though_files_are_replaced_all_the_time(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = started(TRADES)
    one.fill()
    [file] = (one.folder / "trades").rglob("*.parquet")
    without_a_row(file)
    listings: list[int] = []
    segments = TradeStore.segments

    def changing(archive: TradeStore, pair: str) -> list[Segment]:
        listings.append(1)
        return [each._replace(changed_ns=len(listings)) for each in segments(archive, pair)]

    monkeypatch.setattr(TradeStore, "segments", changing)
    report = verify(TradeStore(one.folder), PAIR)
    assert "the checksum of its rows is not that of its footer" in [
        fault.text for fault in report.faults
    ]


def test_files_that_are_merged_while_their_months_are_counted(started: Any) -> None:
    one = started(TRADES)
    for through in (TRADES[4_000].true_ns, TRADES[4_500].true_ns, TRADES[-1].true_ns + 40 * DAY):
        assert Crawl(one.exchange.url, one.folder).only(PAIR, Range(0, through)).exit_status == 0
    assert len(TradeStore(one.folder).segments(PAIR)) == 3
    whole = digests(TradeStore(one.folder), PAIR)
    assert [found.rows for found in whole] == [len(TRADES)]

    def merged() -> None:
        with writer(TradeStore(one.folder), PAIR) as writing:
            writing.compact(every=True)

    archive, _ = disturbed(one.folder, 1, merged)
    assert digests(archive, PAIR) == whole


# --- candles --------------------------------------------------------------------------------------


def comparing(one: Any, archive: TradeStore, against: str) -> IntervalReport:
    """Hold its candles of a minute against the true ones, as a file or as the exchange's answer."""
    if against == "exchange":
        return interval(archive, 1, market=one.market, now_ns=TRADES[3_900].true_ns)
    return only(archive, zipped(one.folder.parent, minutes=[1], rows=one.truth))


@pytest.mark.parametrize("against", ["csv", "exchange"])
def test_candles_whose_trades_are_replaced_while_they_are_compared_are_compared_again(
    started: Any, monkeypatch: pytest.MonkeyPatch, against: str
) -> None:
    """Before the trades at a candle's edges are read, a re-download moves them elsewhere."""
    one = started(TRADES)
    one.take_in(csv_files.three_columns(TRADES[:4_000], "up"))
    one.fill()
    archive = TradeStore(one.folder)
    undisturbed = comparing(one, archive, against)
    assert (undisturbed.differing, undisturbed.at_boundary > 10) == (0, True)
    done: list[int] = []

    def late(*given: Any) -> Any:
        if not done:
            done.append(one.redownload().exit_status)
        return read_boundary_trades(*given)

    monkeypatch.setattr("harvester.verify.candle_comparison.read_boundary_trades", late)
    found = comparing(one, archive, against)
    assert (done, found.differing, found.at_boundary) == ([0], 0, 0)
    assert found.compared == undisturbed.compared
