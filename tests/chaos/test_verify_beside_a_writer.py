"""`verify` while files are replaced: no false damage is reported, and all true damage is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import csv_files
import pytest
import sample_trades
from backfills import Backfill
from concurrent_writer import disturbed
from csv_comparison import only, zipped
from exchange_comparison import interval
from redownload_damage import without_a_row
from redownloads import PAIR, TRADES, started
from stored_trades import made_rows, put

from harvester.errors import ArchiveDamaged
from harvester.storage.segment import Segment
from harvester.storage.trade_store import SnapshotStore, TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, SECOND, Range, missing
from harvester.verify.boundary_trades import read_boundary_trades
from harvester.verify.integrity import digests, verify, verify_with_digests
from harvester.verify.reports import Digest, IntervalReport

__all__ = ["started"]

HOUR = 3600 * SECOND


@pytest.mark.parametrize("at", range(1, 6))
def test_a_file_that_is_replaced_while_it_is_checked_is_no_damage(started: Any, at: int) -> None:
    """Before each opening of a file, a re-download replaces it by one of the same name."""
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES[:4_000]))
    scenario.fill()
    done: list[int] = []

    def happens() -> None:
        done.append(scenario.redownload().exit_status)

    archive, between = disturbed(scenario.folder, at, happens)
    report = verify(archive, PAIR, workers=1)
    assert (report.faults, report.rows, done) == ([], len(TRADES), [0] * (between.opened >= at))


def test_damage_is_found_while_files_are_replaced_all_the_time(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = started(TRADES)
    scenario.fill()
    [file] = (scenario.folder / "trades").rglob("*.parquet")
    without_a_row(file)
    listings: list[int] = []
    segments = TradeStore.segments

    def changing(archive: TradeStore, pair: str) -> list[Segment]:
        listings.append(1)
        return [each._replace(changed_ns=len(listings)) for each in segments(archive, pair)]

    monkeypatch.setattr(TradeStore, "segments", changing)
    report = verify(TradeStore(scenario.folder), PAIR)
    assert "the checksum of its rows is not that of its footer" in [
        fault.text for fault in report.faults
    ]


def test_files_that_are_merged_while_their_months_are_counted(started: Any) -> None:
    scenario = started(TRADES)
    for through in (TRADES[4_000].true_ns, TRADES[4_500].true_ns, TRADES[-1].true_ns + 40 * DAY):
        assert (
            Backfill(scenario.exchange.url, scenario.folder)
            .only(PAIR, Range(0, through))
            .exit_status
            == 0
        )
    assert len(TradeStore(scenario.folder).segments(PAIR)) == 3
    whole = digests(TradeStore(scenario.folder), PAIR)
    assert [found.rows for found in whole] == [len(TRADES)]

    def merged() -> None:
        with open_writer(TradeStore(scenario.folder), PAIR) as writing:
            writing.compact(merge_all=True)

    archive, _ = disturbed(scenario.folder, 1, merged)
    assert digests(archive, PAIR) == whole


NAMES = '{"altname":"XBTUSD"}'
HOURLY = [sample_trades.utc_ns(2024, 1, 1) + at * HOUR + 5 for at in range(24 * 60)]
IMPORTED = Range(sample_trades.utc_ns(2024, 1, 10) - 1, sample_trades.utc_ns(2024, 2, 20) - 1)
STORED = Range(0, sample_trades.utc_ns(2024, 3, 1))


def two_months(folder: Path) -> TradeStore:
    """Trades of January and February 2024, of which six weeks were imported."""
    archive = TradeStore(folder)
    without_id: list[int | None] = [None] * len(HOURLY)
    for span, is_imported in (
        (Range(0, IMPORTED.after), False),
        (IMPORTED, True),
        (Range(IMPORTED.through, STORED.through), False),
    ):
        rows = made_rows(HOURLY, without_id if is_imported else None)
        put(archive, span, rows, is_imported=is_imported, pair_json=NAMES)
    return archive


def replace_by_downloaded(folder: Path) -> None:
    """Do what a re-download does at its end."""
    archive = TradeStore(folder)
    put(archive, IMPORTED, made_rows(HOURLY), pair_json=NAMES)
    with open_writer(archive, PAIR) as writing:
        for segment in archive.segments(PAIR):
            if segment.is_imported:
                writing.remove(segment)


@pytest.mark.parametrize("read", [digests, verify_with_digests])
@pytest.mark.parametrize("at", range(1, 11))
def test_digests_beside_a_replacement_are_those_before_or_after_it(
    at: int, read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    before = digests(two_months(tmp_path / "before"), PAIR)
    replaced = two_months(tmp_path / "after")
    replace_by_downloaded(tmp_path / "after")
    after = digests(replaced, PAIR)
    two_months(tmp_path / "data")
    archive, _ = disturbed(tmp_path / "data", at, lambda: replace_by_downloaded(tmp_path / "data"))
    found = read(archive, PAIR)
    assert getattr(found, "digests", found) in (before, after)
    assert before != after


@pytest.mark.parametrize("at", range(1, 11))
def test_a_report_beside_a_new_gap_has_digests_of_the_trades_before_it_or_the_gap(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    whole = digests(two_months(tmp_path), PAIR)
    gap = Range(HOURLY[24 * 55], HOURLY[24 * 56])

    def happens() -> None:
        with open_writer(TradeStore(tmp_path), PAIR) as writing:
            writing.remove_coverage(gap)

    archive, _ = disturbed(tmp_path, at, happens)
    report = verify_with_digests(archive, PAIR)
    assert report.faults or report.digests == whole


def test_digests_are_not_of_a_month_that_was_covered_for_a_moment(tmp_path: Path) -> None:
    """A gap is filled, its month is counted as whole, and it is a gap again."""
    two_months(tmp_path)
    gap = Range(HOURLY[24 * 55], HOURLY[24 * 56])
    with open_writer(TradeStore(tmp_path), PAIR) as writing:
        writing.remove_coverage(gap)
    snapshot = SnapshotStore(TradeStore(tmp_path))
    snapshot.segments(PAIR)
    put(TradeStore(tmp_path), gap, made_rows(HOURLY), pair_json=NAMES)
    assert not missing([gap], snapshot.coverage(PAIR))
    with open_writer(TradeStore(tmp_path), PAIR) as writing:
        writing.remove_coverage(gap)
    with pytest.raises(ArchiveDamaged, match="is not covered any more"):
        digests(snapshot, PAIR)


def test_an_error_that_stays_ends_a_verification_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_months(tmp_path)
    calls: list[str] = []

    def fail(_archive: TradeStore, pair: str, **_: Any) -> list[Digest]:
        calls.append(pair)
        raise ArchiveDamaged("the disk refuses")

    monkeypatch.setattr("harvester.verify.integrity.digests", fail)
    with pytest.raises(ArchiveDamaged, match="the disk refuses"):
        verify_with_digests(TradeStore(tmp_path), PAIR)
    assert calls == [PAIR]


# --- candles --------------------------------------------------------------------------------------


def comparing(scenario: Any, archive: TradeStore, against: str) -> IntervalReport:
    """Hold its candles of a minute against the true ones, as a file or as the exchange's answer."""
    if against == "exchange":
        return interval(archive, 1, market=scenario.market, now_ns=TRADES[3_900].true_ns)
    return only(archive, zipped(scenario.folder.parent, minutes=[1], rows=scenario.truth))


@pytest.mark.parametrize("against", ["csv", "exchange"])
def test_candles_whose_trades_are_replaced_while_they_are_compared_are_compared_again(
    started: Any, monkeypatch: pytest.MonkeyPatch, against: str
) -> None:
    """Before the trades at a candle's edges are read, a re-download moves them elsewhere."""
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES[:4_000], "up"))
    scenario.fill()
    archive = TradeStore(scenario.folder)
    undisturbed = comparing(scenario, archive, against)
    assert (undisturbed.differing, undisturbed.at_boundary > 10) == (0, True)
    done: list[int] = []

    def late(*given: Any) -> Any:
        if not done:
            done.append(scenario.redownload().exit_status)
        return read_boundary_trades(*given)

    monkeypatch.setattr("harvester.verify.candle_comparison.read_boundary_trades", late)
    found = comparing(scenario, archive, against)
    assert (done, found.differing, found.at_boundary) == ([0], 0, 0)
    assert found.compared == undisturbed.compared
