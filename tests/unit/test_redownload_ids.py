"""Footers record exactly the id gaps of their own rows, after a re-download as well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import csv_files
import pyarrow as pa
import pytest
import sample_trades
from kraken_market import SECOND_NS, Trade
from redownloads import NOW_NS, PAIR, TRADES, started, years

from harvester.csv_import.csv_files import CompletePeriod
from harvester.download import completeness
from harvester.errors import ImportIncomplete
from harvester.storage.segment import Footer, IdPair, Segment
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer, open_writer
from harvester.times import DAY, Range
from harvester.verify.integrity import verify

__all__ = ["started"]


def footers(folder: Path) -> list[Footer]:
    archive = TradeStore(folder)
    return [archive.footer(segment) for segment in archive.segments(PAIR)]


def excused(folder: Path) -> int:
    """How many skips of ids are excused, wherever they are."""
    return sum(each.unconfirmed_id_gaps for each in footers(folder))


def open_skips(folder: Path, trades: Sequence[Trade]) -> int:
    """How many id gaps of the true trades are not on record as confirmed."""
    known = {tuple(id_gap) for each in footers(folder) for id_gap in each.confirmed_id_gaps}
    ids = [each.trade_id or 0 for each in trades]
    return sum(here - before > 1 and (before, here) not in known for before, here in pairwise(ids))


def merged(folder: Path) -> None:
    with open_writer(TradeStore(folder), PAIR) as pair_writer:
        pair_writer.compact(merge_all=True)


def lose(folder: Path, ids: Iterable[int]) -> None:
    """Take trades out of their segments, the footers agreeing with what is left."""
    archive, gone = TradeStore(folder), set(ids)
    with open_writer(archive, PAIR) as pair_writer:
        for segment in archive.segments(PAIR):
            batches = archive.scan(PAIR, segment.range)
            if gone & {
                number for batch in batches for number in batch.column("trade_id").to_pylist()
            }:
                lose_of(pair_writer, segment, gone)


def lose_of(writer: Writer, segment: Segment, ids: Iterable[int]) -> None:
    archive, gone = writer.archive, set(ids)
    batches = list(archive.scan(PAIR, segment.range))
    kept = [
        batch.filter(pa.array([each not in gone for each in ids]))
        for batch, ids in ((scanned, scanned.column("trade_id").to_pylist()) for scanned in batches)
    ]
    for rollup in archive.rollups(PAIR):
        if rollup.segment_path == segment.path:
            archive.store.remove(rollup.path)
    writer._write(kept, archive.footer(segment))


def alone(trades: Sequence[Trade], count: int) -> list[int]:
    """Ids of trades of a moment of their own, no two of them neighbours."""
    stamps = [each.true_ns for each in trades]
    places = range(10, len(trades) - 10, 60)
    return [
        trades[at].trade_id or 0 for at in places if stamps[at - 1] < stamps[at] < stamps[at + 1]
    ][:count]


def id_faults(folder: Path) -> list[str]:
    return [fault.text for fault in verify(TradeStore(folder), PAIR).faults]


def test_what_a_file_lacked_excuses_no_loss_once_it_is_replaced(started: Any) -> None:
    missing_places = set(range(1_500, 2_500, 10))
    scenario: Any = started(TRADES)
    file = [each for at, each in enumerate(TRADES[1_000:4_000], 1_000) if at not in missing_places]
    scenario.take_in(csv_files.seven_columns(file))
    scenario.backfill().run(PAIR)
    merged(scenario.folder)
    assert [(footer.source, footer.unconfirmed_id_gaps) for footer in footers(scenario.folder)] == [
        ("api", 0),
        ("csv", 100),
        ("api", 0),
    ]
    assert scenario.redownload().exit_status == 4
    scenario.check()
    assert excused(scenario.folder) == 0
    [lost] = alone(TRADES, 1)
    lose(scenario.folder, [lost])
    assert id_faults(scenario.folder) == [
        f"unconfirmed id gap: {lost - 1} is followed by {lost + 1}"
    ]


def test_what_a_file_lacked_is_forgotten_by_the_year_behind_it(started: Any) -> None:
    """Replaced is the year whose last trade the file lacks; the next one stays a file's."""
    trades = years(60, 70)
    scenario: Any = started(trades)
    whole = CompletePeriod(0, sample_trades.utc_ns(2018, 1, 1) // SECOND_NS)
    scenario.take_in(csv_files.seven_columns([*trades[:59], *trades[60:]]), whole)
    scenario.backfill().only(PAIR)
    first_year = Range(0, sample_trades.utc_ns(2017, 1, 1) - 1)
    scenario.backfill(replace_imported=True).only(PAIR, span=first_year)
    assert [each.source for each in footers(scenario.folder)][:2] == ["api", "csv"]
    assert (id_faults(scenario.folder), excused(scenario.folder)) == ([], 0)
    [lost] = alone(trades[:59], 1)
    with open_writer(TradeStore(scenario.folder), PAIR) as writing:
        lose_of(writing, TradeStore(scenario.folder).segments(PAIR)[0], [lost])
    assert id_faults(scenario.folder) == [
        f"unconfirmed id gap: {lost - 1} is followed by {lost + 1}"
    ]


def test_a_loss_is_a_fault_before_and_after_a_redownload(started: Any) -> None:
    """What a file lacked excuses no loss among the exchange's own trades."""
    missing_places = set(range(1_500, 2_500, 10))
    scenario: Any = started(TRADES)
    file = [each for at, each in enumerate(TRADES[1_000:4_000], 1_000) if at not in missing_places]
    scenario.take_in(csv_files.seven_columns(file))
    scenario.backfill().run(PAIR)
    merged(scenario.folder)
    lost = alone(TRADES[4_500:], 7)
    lose(scenario.folder, lost)
    assert len(id_faults(scenario.folder)) >= 7
    scenario.redownload()
    assert id_faults(scenario.folder) == [
        f"unconfirmed id gap: {each - 1} is followed by {each + 1}" for each in lost
    ]


def test_what_a_file_lacked_at_its_edge_excuses_no_loss_either(started: Any) -> None:
    scenario: Any = started(TRADES)
    edge = TRADES[999].true_ns // SECOND_NS * SECOND_NS + SECOND_NS - 1
    assert scenario.backfill().only(PAIR, span=Range(0, edge)).exit_status == 0
    whole = CompletePeriod(0, TRADES[4_000].true_ns // SECOND_NS)
    scenario.take_in(csv_files.seven_columns(TRADES[1_005:4_000]), whole)
    scenario.backfill().run(PAIR)
    merged(scenario.folder)
    found = footers(scenario.folder)
    assert [footer.source for footer in found] == ["api", "csv", "api"]
    # What it lacked was not covered, and is downloaded.
    assert sum(footer.rows for footer in found) == len(TRADES)
    assert sum(len(footer.id_gaps_across_imports) for footer in found) == 0
    assert excused(scenario.folder) == 0
    [lost] = alone(TRADES[4_500:], 1)
    lose(scenario.folder, [lost])
    assert len(id_faults(scenario.folder)) == 1
    scenario.redownload()
    assert id_faults(scenario.folder) == [
        f"unconfirmed id gap: {lost - 1} is followed by {lost + 1}"
    ]


@pytest.mark.parametrize(("chance", "max_pages"), [(0.003, 12), (0.5, 3)])
def test_id_gaps_of_the_exchange_stay_on_record(
    started: Any, monkeypatch: pytest.MonkeyPatch, chance: float, max_pages: int
) -> None:
    """Confirmed where they are few, counted where there are many: just so many as there are."""
    monkeypatch.setattr(completeness, "MAX_FRUITLESS_PAGES", max_pages)
    trades = sample_trades.ids_with_gaps(7_000, 7, chance=chance)
    ids = [each.trade_id or 0 for each in trades]
    skips = sum(here - before > 1 for before, here in pairwise([0, *ids]))
    scenario: Any = started(trades)
    scenario.take_in(csv_files.seven_columns(trades[5_500:6_800]))
    scenario.backfill().run(PAIR)
    merged(scenario.folder)
    assert scenario.redownload().exit_status == 0
    scenario.check()
    found = footers(scenario.folder)
    # The id gap at an end of what was downloaded again is on record on both sides of it.
    confirmed = {id_gap for each in found for id_gap in each.confirmed_id_gaps}
    assert len(confirmed) + excused(scenario.folder) == skips
    assert bool(sum(each.unconfirmed_id_gaps for each in found)) == (chance == 0.5)


def test_frequent_id_gaps_stay_excused_where_two_years_of_a_file_touch(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One replacement makes of it what the other takes away: nobody ever counted that skip."""
    # Many before the file are only counted; a year of the file has fewer pages than that.
    monkeypatch.setattr(completeness, "MAX_FRUITLESS_PAGES", 3)
    trades = sample_trades.ids_with_gaps(7_000, 1, chance=0.5)
    stamps = [each.true_ns for each in trades]
    half = SECOND_NS // 2
    turn = next(at for at in range(5_700, 6_600) if 1_000 < stamps[at] - stamps[at - 1] < half)
    later = sample_trades.utc_ns(2024, 1, 1) - stamps[turn] + 500
    trades = [replace(each, true_ns=each.true_ns + later) for each in trades]
    scenario: Any = started(trades)
    scenario.take_in(csv_files.three_columns(trades[5_500:6_800], "nearest"))
    assert scenario.backfill().only(PAIR).exit_status == 0
    merged(scenario.folder)
    assert scenario.redownload().exit_status == 0
    scenario.check()
    assert excused(scenario.folder) == open_skips(scenario.folder, trades) > 1_000


def test_a_confirmed_id_gap_stays_with_its_trades(started: Any) -> None:
    """The exchange has trades in the next year that the file lacks: one segment becomes two."""
    trades = [
        Trade(
            sample_trades.utc_ns(2023, 1, 5) + at * 7 * DAY, "41450.1", "1.0", "b", "m", "", number
        )
        for at, number in enumerate([1, 2, 3, 104, *range(105, 201)])
    ]
    this_year = sum(each.true_ns < sample_trades.utc_ns(2024, 1, 1) for each in trades)
    scenario: Any = started(trades)
    early = Range(0, trades[9].true_ns + DAY)
    assert scenario.backfill().only(PAIR, span=early).exit_status == 0
    file = csv_files.three_columns(trades[10:this_year])
    scenario.take_in(file, CompletePeriod(0, sample_trades.utc_ns(2024, 6, 1) // SECOND_NS))
    assert scenario.backfill().only(PAIR, span=Range(0, trades[12].true_ns)).exit_status == 0
    merged(scenario.folder)
    assert [(each.source, each.confirmed_id_gaps) for each in footers(scenario.folder)] == [
        ("api", (IdPair(3, 104),)),
        ("csv", ()),
    ]
    assert scenario.redownload().replacement.left == ()
    merged(scenario.folder)
    scenario.check()
    archive = TradeStore(scenario.folder)
    assert [
        (each.year, archive.footer(each).confirmed_id_gaps) for each in archive.segments(PAIR)
    ] == [
        (2023, (IdPair(3, 104),)),
        (2024, ()),
    ]


# --- without a file -------------------------------------------------------------------------------


@pytest.fixture
def soon_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one page without success, id gaps are not requested again: few trades suffice."""
    monkeypatch.setattr(completeness, "MAX_FRUITLESS_PAGES", 1)


def always_skipping(seed: int) -> tuple[list[Trade], int]:
    """Trades, and a place where ids skip and no trade follows for some seconds."""
    trades = sample_trades.ids_with_gaps(6_000, seed, chance=0.5)
    for at in range(3_500, 5_000):
        before, other = trades[at], trades[at + 1]
        skips = (other.trade_id or 0) - (before.trade_id or 0) > 1
        if skips and other.true_ns - before.true_ns > 4 * SECOND_NS:
            return trades, at
    raise AssertionError("there is none")


@pytest.mark.usefixtures("soon_only_counted")
def test_an_id_gap_between_two_runs_is_excused_once(started: Any) -> None:
    trades, at = always_skipping(0)
    scenario: Any = started(trades)
    until = trades[at].true_ns + 2 * SECOND_NS
    assert scenario.backfill().only(PAIR, span=Range(0, until)).exit_status == 0
    assert excused(scenario.folder) == open_skips(scenario.folder, trades[: at + 1])
    assert scenario.backfill().only(PAIR).exit_status == 0
    assert excused(scenario.folder) == open_skips(scenario.folder, trades) > 1_000


@pytest.mark.usefixtures("soon_only_counted")
def test_an_id_gap_at_the_end_of_a_filled_gap_is_excused_once(started: Any) -> None:
    trades, at = always_skipping(0)
    scenario: Any = started(trades)
    for span in (Range(trades[at].true_ns + 2 * SECOND_NS, NOW_NS), Range(0, NOW_NS)):
        assert scenario.backfill().only(PAIR, span=span).exit_status == 0
    assert id_faults(scenario.folder) == []
    assert excused(scenario.folder) == open_skips(scenario.folder, trades) > 1_000


def test_an_id_gap_across_a_gap_without_trades_is_on_record(started: Any) -> None:
    trades = [
        each if at < 500 else sample_trades._renumbered(each, (each.trade_id or 0) + 7)
        for at, each in enumerate(sample_trades.xbtusd_like(1_000, 5, first_id=1, gap_s=60.0))
    ]
    left, right = trades[499].true_ns + 1, trades[500].true_ns - 1
    scenario: Any = started(trades)
    for span in (Range(0, left), Range(right, NOW_NS), Range(0, NOW_NS)):
        assert scenario.backfill().only(PAIR, span=span).exit_status == 0
    assert id_faults(scenario.folder) == []
    assert {id_gap for each in footers(scenario.folder) for id_gap in each.confirmed_id_gaps} == {
        IdPair(500, 508)
    }


@pytest.mark.parametrize("pages", [7, 8, 9])
@pytest.mark.usefixtures("soon_only_counted")
def test_an_id_gap_where_a_run_was_interrupted_is_excused_once(started: Any, pages: int) -> None:
    trades, _ = always_skipping(pages)
    scenario: Any = started(trades)
    scenario.backfill(stop_after_pages=pages).only(PAIR)
    assert scenario.backfill().only(PAIR).exit_status == 0
    assert id_faults(scenario.folder) == []
    assert excused(scenario.folder) == open_skips(scenario.folder, trades) > 1_000


# --- a file without ids between the exchange's ----------------------------------------------------

LONG = sample_trades.xbtusd_like(14_000, 82)
"""A file has more of it than is requested again: only the number of its trades counts."""


def around_a_file_that_lacks_five(started: Any) -> tuple[Any, str]:
    """An archive, and what is to be said of it."""
    scenario: Any = started(LONG)
    scenario.take_in(csv_files.three_columns([*LONG[1_000:6_000], *LONG[6_005:12_000]]))
    backfill = scenario.backfill()
    result = backfill.only(PAIR)
    [[found]] = [each.imported for each in footers(scenario.folder) if each.imported]
    inside = [each.trade_id or 0 for each in LONG if found.after < each.true_ns <= found.through]
    text = (
        f"between ids {inside[0] - 1} and {inside[-1] + 1} there are {len(inside) - 5:,} imported "
        f"trades, but {len(inside):,} unused ids: the imported file lacks trades, or the exchange "
        f"skipped ids; `harvester backfill {PAIR} --replace-imported` downloads them again"
    )
    assert backfill.notes == [text]
    assert (result.exit_status, str(result.error)) == (4, f"{PAIR}: {text}")
    assert result.gaps == []
    assert isinstance(scenario.backfill().only(PAIR).error, ImportIncomplete)
    return scenario, text


@pytest.mark.parametrize("is_merged", [False, True])
def test_missing_trades_of_a_file_are_a_fault_until_it_is_replaced(
    started: Any, is_merged: bool
) -> None:
    scenario, text = around_a_file_that_lacks_five(started)
    if is_merged:
        merged(scenario.folder)
    report = verify(TradeStore(scenario.folder), PAIR)
    assert [fault.text for fault in report.faults] == [text]
    assert (report.notes, report.unconfirmed_id_gaps) == ([], 0)
    scenario.redownload()
    scenario.check()
    report = verify(TradeStore(scenario.folder), PAIR)
    assert (report.faults, report.notes, report.unconfirmed_id_gaps) == ([], [], 0)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_that_a_file_lacks_trades_excuses_no_loss_of_the_exchanges(
    started: Any, is_replaced: bool
) -> None:
    scenario, text = around_a_file_that_lacks_five(started)
    if is_replaced:
        scenario.redownload()
    merged(scenario.folder)
    [lost] = alone(LONG[12_500:], 1)
    lose(scenario.folder, [lost])
    gap = f"unconfirmed id gap: {lost - 1} is followed by {lost + 1}"
    assert id_faults(scenario.folder) == ([gap] if is_replaced else [gap, text])


def test_a_quiet_range_before_a_file_hides_nothing_that_it_lacks(started: Any) -> None:
    """The gap that is fetched last ends at a range without rows, and behind that is the file."""
    scenario: Any = started(LONG)
    scenario.take_in(csv_files.three_columns([*LONG[1_000:6_000], *LONG[6_005:12_000]]))
    [file] = TradeStore(scenario.folder).coverage(PAIR)
    before = max(each.true_ns for each in LONG if each.true_ns <= file.after)
    for span in (Range(before, file.after), Range(file.through, NOW_NS)):
        assert scenario.backfill().only(PAIR, span=span).error is None
    assert footers(scenario.folder)[0].rows == 0
    assert isinstance(scenario.backfill().only(PAIR).error, ImportIncomplete)
    report = verify(TradeStore(scenario.folder), PAIR)
    assert (report.notes, report.unconfirmed_id_gaps) == ([], 0)
    assert ["imported trades" in fault.text for fault in report.faults] == [True]
    scenario.redownload()
    scenario.check()
    merged(scenario.folder)
    [lost] = alone(LONG[12_500:], 1)
    lose(scenario.folder, [lost])
    assert id_faults(scenario.folder) == [
        f"unconfirmed id gap: {lost - 1} is followed by {lost + 1}"
    ]


def test_trades_shown_to_be_missing_from_a_file_are_a_fault(started: Any) -> None:
    scenario: Any = started(TRADES)
    scenario.take_in(csv_files.three_columns([*TRADES[1_000:2_000], *TRADES[2_005:4_000]]))
    assert isinstance(scenario.backfill().only(PAIR).error, ImportIncomplete)
    [fault] = id_faults(scenario.folder)
    assert "the imported file lacks trades" in fault


FROM_THE_FIRST = CompletePeriod(0, None)


def renumbered(trades: Sequence[Trade], by: int) -> list[Trade]:
    return [sample_trades._renumbered(each, (each.trade_id or 0) + by) for each in trades]


@pytest.mark.parametrize("trades", [TRADES, LONG], ids=["shown again", "only counted"])
def test_a_file_from_the_first_trade_on_that_lacks_trades_is_an_error(
    started: Any, trades: list[Trade]
) -> None:
    scenario: Any = started(trades)
    end = len(trades) - 1_000
    file = csv_files.three_columns([*trades[:1_500], *trades[1_505:end]])
    scenario.take_in(file, whole=FROM_THE_FIRST)
    result = scenario.backfill().only(PAIR)
    assert (result.exit_status, type(result.error)) == (4, ImportIncomplete)
    assert isinstance(scenario.backfill().only(PAIR).error, ImportIncomplete)
    [fault] = id_faults(scenario.folder)
    assert fault.startswith("between ids 0 and ")
    scenario.redownload()
    scenario.check()
    assert id_faults(scenario.folder) == []


@pytest.mark.parametrize("by", [0, 700])
@pytest.mark.parametrize("trades", [TRADES, LONG], ids=["short", "long"])
def test_a_whole_file_from_the_first_trade_on_is_sound_whatever_its_first_id(
    started: Any, trades: list[Trade], by: int
) -> None:
    trades = renumbered(trades, by)
    scenario: Any = started(trades)
    scenario.take_in(csv_files.three_columns(trades[: len(trades) - 1_000]), whole=FROM_THE_FIRST)
    backfill = scenario.backfill()
    assert (backfill.only(PAIR).error, backfill.notes) == (None, [])
    assert id_faults(scenario.folder) == []
    assert scenario.backfill().only(PAIR).exit_status == 0
    scenario.redownload()
    assert id_faults(scenario.folder) == []


@pytest.mark.parametrize("by", [0, 700])
@pytest.mark.parametrize("start", [0, 1_000], ids=["from the first trade", "between ids"])
def test_rows_that_a_file_has_twice_are_an_error(started: Any, start: int, by: int) -> None:
    trades = renumbered(TRADES, by)
    scenario: Any = started(trades)
    file = [*trades[start:2_000], *trades[1_990:4_000]]
    whole = CompletePeriod() if start else FROM_THE_FIRST
    scenario.take_in(csv_files.three_columns(file), whole=whole)
    result = scenario.backfill().only(PAIR)
    assert (result.exit_status, type(result.error)) == (4, ImportIncomplete)
    assert "has 10 too many there" in str(result.error)
    assert id_faults(scenario.folder) == [str(result.error).removeprefix(f"{PAIR}: ")]
    if start or not by:
        # A day with a confirmed id gap has no consecutive ids that prove that a row is none.
        scenario.redownload()
        scenario.check()
        assert id_faults(scenario.folder) == []
