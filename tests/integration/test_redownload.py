"""What came from files gives way to the exchange's own trades, whole and at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import csv_files
import duckdb
import pytest
import sample_trades
from backfills import Backfill
from kraken_market import SECOND_NS, Trade
from redownloads import NOW_NS, PAIR, TRADES, aside, imported_paths, started, years

import harvester
from harvester.csv_import.csv_files import CompletePeriod
from harvester.errors import ArchiveDamaged, ImportIncomplete, Interrupted
from harvester.events import DayDifference, PageRead, Replaced
from harvester.storage.filesystem import Entry, LocalStore
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, Range
from harvester.verify.integrity import verify

__all__ = ["started"]
"""A fixture."""

# --- what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", csv_files.ROUNDINGS)
def test_a_redownload_makes_the_history_equal_to_the_exchanges(started: Any, rounding: str) -> None:
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES[:4_000], rounding))
    scenario.fill()
    coverage = TradeStore(scenario.folder).coverage(PAIR)
    done = scenario.redownload()
    assert done.exit_status == 0
    result = done.replacement
    assert (len(result.replaced), result.days, result.left) == (1, (), ())
    assert TradeStore(scenario.folder).coverage(PAIR) == coverage
    scenario.check()


def test_a_second_redownload_requests_no_page(started: Any) -> None:
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES[:4_000]))
    scenario.redownload()
    calls = len(scenario.exchange.calls)
    backfill = scenario.backfill(replace_imported=True)
    assert (backfill.only(PAIR).exit_status, backfill.notes) == (
        0,
        ["nothing of it is imported, or all of it was downloaded again before"],
    )
    assert {call.path.rpartition("/")[2] for call in scenario.exchange.calls[calls:]} == {
        "AssetPairs",
        "Time",
    }
    scenario.check()


def test_gaps_are_filled_first(started: Any) -> None:
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES[1_000:4_000]))
    assert scenario.redownload().exit_status == 0
    scenario.check()


def test_compaction_leaves_imported_and_downloaded_trades_apart(started: Any) -> None:
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES[1_000:4_000]))
    scenario.fill()
    with open_writer(TradeStore(scenario.folder), PAIR) as writing:
        writing.compact(merge_all=True)
    assert scenario.sources() == ["api", "csv", "api"]
    imported = TradeStore(scenario.folder).segments(PAIR)[1].range
    calls = len(scenario.exchange.calls)
    assert scenario.redownload().exit_status == 0
    scenario.check()
    pages = [
        call for call in scenario.exchange.calls[calls:] if call.rows and "since" in call.params
    ]
    assert min(int(call.params["since"]) for call in pages) >= imported.after - 2 * SECOND_NS
    with open_writer(TradeStore(scenario.folder), PAIR) as writing:
        writing.compact(merge_all=True)
    assert scenario.sources() == ["api"]
    scenario.check()


def test_a_pair_without_ids(started: Any) -> None:
    trades = sample_trades.ids_unknown(TRADES)
    scenario = started(trades)
    scenario.take_in(csv_files.three_columns(trades[:4_000], "nearest"))
    assert scenario.redownload().exit_status == 0
    scenario.check()


def test_seven_columns_too(started: Any) -> None:
    scenario = started(TRADES)
    scenario.take_in(csv_files.seven_columns(TRADES[:4_000]))
    done = scenario.redownload()
    assert done.exit_status == 0
    scenario.check()


def test_id_gaps_of_a_redownload_are_confirmed_id_gaps(started: Any) -> None:
    trades = sample_trades.ids_with_gaps(3_000, 7)
    scenario = started(trades)
    scenario.take_in(csv_files.three_columns(trades[500:2_500]))
    assert scenario.redownload().exit_status == 0
    scenario.check()


# --- where a second holds many trades -------------------------------------------------------------


def busy_new_year(rounding: str) -> tuple[list[Trade], int]:
    """Some trades a second from before midnight on, one of them printed in the other year."""
    midnight, trades = sample_trades.utc_ns(2024, 1, 1), []
    stamps = [midnight + at * 100_000_000 + 7_000 for at in range(-300, 300) if at % 7 != 3]
    stamps = [midnight - DAY // 2, *stamps, midnight + DAY // 2, midnight + DAY]
    for number, stamp in enumerate(stamps, 1):
        trades.append(Trade(stamp, "41450.10000", f"{number}.00000000", "b", "m", "", number))
    second = midnight // SECOND_NS
    moved = sum(
        csv_files.second(trade, rounding) >= second > trade.true_ns // SECOND_NS for trade in trades
    )
    return trades, moved


@pytest.mark.parametrize("rounding", csv_files.ROUNDINGS)
def test_a_year_that_turns_within_a_busy_second(started: Any, rounding: str) -> None:
    trades, moved = busy_new_year(rounding)
    assert bool(moved) == (rounding != "down")
    scenario = started(trades)
    scenario.take_in(
        csv_files.three_columns(trades, rounding),
        CompletePeriod(0, trades[-1].true_ns // SECOND_NS + 9),
    )
    scenario.fill()
    assert len(TradeStore(scenario.folder).segments(PAIR)) > 1
    # Of the later year, only the time to which an earlier trade may be rounded is requested.
    early = Range(0, sample_trades.utc_ns(2024, 1, 1) - 1)
    done = scenario.backfill(replace_imported=True).only(PAIR, span=early)
    assert (done.exit_status, done.replacement.days) == (0, ())
    assert [row[3:5] for row in scenario.history] == [row[3:5] for row in scenario.truth]
    assert "csv" in "".join(scenario.sources())
    assert verify(TradeStore(scenario.folder), PAIR).faults == []
    assert scenario.redownload().exit_status == 0
    scenario.check()


def in_another_year() -> list[Trade]:
    """A trade that a file which rounds up prints in the next year, none near it."""
    midnight = sample_trades.utc_ns(2024, 1, 1)
    stamps = [midnight - DAY, midnight - 300_000_000, midnight + DAY, midnight + 2 * DAY]
    return [
        Trade(stamp, "41450.10000", f"{number}.00000000", "b", "m", "", number)
        for number, stamp in enumerate(stamps, 1)
    ]


def test_a_trade_of_another_year_than_the_files(started: Any) -> None:
    trades = in_another_year()
    scenario = started(trades)
    # What the file covers begins at noon of the last day of the year, where there is no trade.
    early = Range(0, sample_trades.utc_ns(2023, 12, 31, 12))
    assert scenario.backfill().only(PAIR, span=early).exit_status == 0
    scenario.take_in(
        csv_files.three_columns(trades, "up"),
        CompletePeriod(0, trades[-1].true_ns // SECOND_NS + 9),
    )
    assert scenario.redownload().exit_status == 0
    scenario.check()
    assert {path.parent.name for path in (scenario.folder / "trades").rglob("*.parquet")} >= {
        "year=2023",
        "year=2024",
    }


def test_a_range_in_which_the_exchange_knows_of_nothing(started: Any) -> None:
    """Ids show that nothing is missing there: what the file has was never traded."""
    scenario = started(TRADES)
    extra = csv_files.three_columns(
        [sample_trades._Maker(1).trade(TRADES[-1].true_ns + 4 * 365 * DAY // 10)]
    )
    scenario.take_in(csv_files.three_columns(TRADES[:50]))
    scenario.fill()
    with pytest.raises(ArchiveDamaged, match="1 of 1 rows lie in a range that is already covered"):
        # Behind its row it covers what is known to be complete, but not what is too new to be.
        scenario.take_in(extra, CompletePeriod(0, NOW_NS // SECOND_NS - 3_600))
    assert scenario.redownload().exit_status == 0
    scenario.check()


@pytest.mark.parametrize("rounding", csv_files.ROUNDINGS)
def test_the_trades_that_a_file_lacks_at_its_end_join_its_last_ones(
    started: Any, rounding: str
) -> None:
    """A file that was said to be complete for longer than it is."""
    trades = [
        sample_trades._repriced(trade, trade.price, f"{number}.00000000")
        for number, trade in enumerate(days_apart(4, numbered=False), 1)
    ]
    scenario = started(trades)
    scenario.take_in(
        csv_files.three_columns(trades[:17], rounding),
        CompletePeriod(0, trades[-1].true_ns // SECOND_NS + 900),
    )
    backfill = scenario.backfill()
    assert backfill.only(PAIR).exit_status == 0
    [note] = backfill.notes
    assert note.endswith("it is a gap now, and is downloaded again")
    assert [row[3:5] for row in scenario.history] == [row[3:5] for row in scenario.truth]
    assert scenario.redownload().exit_status == 0
    scenario.check()


# --- where file and exchange do not agree ---------------------------------------------------------


def days_apart(count: int, numbered: bool = True) -> list[Trade]:
    """Five trades a day, some minutes apart."""
    return [
        Trade(
            sample_trades.utc_ns(2024, 2, 1) + day * DAY + (9 + at) * 600 * SECOND_NS + 123_456_700,
            "41450.10000",
            f"{5 * day + at + 1}.00000000",
            "b",
            "m",
            "",
            5 * day + at + 1 if numbered else None,
        )
        for day in range(count)
        for at in range(5)
    ]


def kept(folder: Path) -> list[dict[str, Any]]:
    found = sorted(folder.glob("quarantine/*/*/note.json"))
    return [json.loads(path.read_text()) for path in found]


def test_a_row_that_the_file_lacks_is_reported_with_its_day(started: Any) -> None:
    trades = days_apart(6)
    scenario = started(trades)
    scenario.take_in(csv_files.three_columns([*trades[:11], *trades[12:]]))
    filled = scenario.backfill().only(PAIR)
    [imported] = imported_paths(scenario.folder)
    assert (filled.exit_status, str(filled.error)) == (
        4,
        f"XBTUSD: trades between ids 1 and 30 are not in {scenario.folder / imported}, which was "
        "imported: `harvester backfill XBTUSD --replace-imported` downloads imported ranges again",
    )
    before = (scenario.folder / imported).read_bytes()
    backfill = scenario.backfill(replace_imported=True)
    done = backfill.only(PAIR)
    assert done.exit_status == 4
    differing_day = DayDifference("2024-02-03", 4, Decimal(53), 5, Decimal(65))
    assert done.replacement.days == (differing_day,)
    copy = f"quarantine/XBTUSD/0001/{imported.rpartition('/')[2]}"
    text = "2024-02-03: the file has 4 trades of volume 53.00000000, the exchange 5 of 65.00000000"
    assert backfill.notes == [
        text,
        f"{imported} does not agree with the exchange: a copy is in {copy}",
    ]
    assert (scenario.folder / copy).read_bytes() == before
    [note] = kept(scenario.folder)
    assert (note["path"], note["faults"]) == (
        imported,
        [f"the exchange does not agree: {text}"],
    )
    scenario.check()
    assert scenario.redownload().exit_status == 0


@pytest.mark.parametrize("newest_first", [False, True])
def test_of_two_imported_ranges_one_lacks_a_row(started: Any, newest_first: bool) -> None:
    """The other one's ids show it before its own turn has come: that ends no run."""
    trades = days_apart(6)
    scenario = started(trades)
    for rows in (trades[5:15], trades[15:25]):
        ends = [rows[0].true_ns // SECOND_NS - 60, rows[-1].true_ns // SECOND_NS + 60]
        lines = csv_files.three_columns([each for each in rows if each.trade_id != 12])
        scenario.take_in(lines, CompletePeriod(*ends))
    backfill = scenario.backfill(replace_imported=True, newest_first=newest_first)
    # From 1970 on there would be a download a month.
    done = backfill.only(PAIR, span=Range(trades[0].true_ns - DAY, NOW_NS))
    assert (done.exit_status, done.error) == (4, None)
    assert [day.day for day in done.replacement.days] == ["2024-02-03"]
    scenario.check()


def test_imported_ranges_that_lack_rows_end_no_download_of_others(started: Any) -> None:
    """Three lack rows: one run fills every gap, and each says so until they are replaced."""
    trades = days_apart(9)
    scenario = started(trades)
    for start in (5, 15, 25):
        rows = trades[start : start + 5]
        ends = [rows[0].true_ns // SECOND_NS - 60, rows[-1].true_ns // SECOND_NS + 60]
        scenario.take_in(csv_files.three_columns(rows[:2] + rows[3:]), CompletePeriod(*ends))
    for _ in range(2):
        done = scenario.backfill().only(PAIR)
        assert (done.exit_status, type(done.error), done.gaps) == (4, ImportIncomplete, [])
        [covered] = TradeStore(scenario.folder).coverage(PAIR)
        assert covered.through > trades[-1].true_ns
    assert scenario.redownload().exit_status == 4
    scenario.check()


def test_a_repair_downloads_every_gap_beside_imported_ranges_that_lack_rows(started: Any) -> None:
    """More of them than a repair has rounds: their gaps are filled, and so is what they lack."""
    trades = days_apart(15)
    scenario = started(trades)
    for start in range(5, 60, 10):
        rows = trades[start : start + 5]
        ends = [rows[0].true_ns // SECOND_NS - 60, rows[-1].true_ns // SECOND_NS + 60]
        scenario.take_in(csv_files.three_columns(rows[:2] + rows[3:]), CompletePeriod(*ends))
    scenario.backfill().only(PAIR)
    archive = TradeStore(scenario.folder)
    for segment in archive.segments(PAIR):
        if not segment.is_imported:
            (scenario.folder / segment.path).unlink()
    assert len(archive.gaps(PAIR)) == 7
    settings = {"exchange.url": scenario.exchange.url, "exchange.rate": 0}
    with harvester.open(scenario.folder, settings=settings) as opened:
        [report] = opened.verify(PAIR, repair=True)
    assert (report.exit_status, archive.gaps(PAIR)) == (0, [])
    scenario.check()


def test_an_altered_volume_is_reported_with_its_day(started: Any) -> None:
    trades = days_apart(6)
    scenario = started(trades)
    data = csv_files.three_columns(trades)
    scenario.take_in(data.replace(b",12.00000000\n", b",12.00000001\n"))
    done = scenario.redownload()
    assert (done.exit_status, done.replacement.days) == (
        4,
        (DayDifference("2024-02-03", 5, Decimal("65.00000001"), 5, Decimal(65)),),
    )
    assert len(kept(scenario.folder)) == 1
    scenario.check()


def another_price(trades: list[Trade]) -> list[Trade]:
    return [*trades[:11], replace(trades[11], price="41450.20000"), *trades[12:]]


def exchanged_volumes(trades: list[Trade]) -> list[Trade]:
    first, second = trades[11:13]
    return [
        *trades[:11],
        replace(first, volume=second.volume),
        replace(second, volume=first.volume),
        *trades[13:],
    ]


@pytest.mark.parametrize("alter", [another_price, exchanged_volumes])
def test_prices_and_volumes_that_differ_are_reported_though_all_sums_are_equal(
    started: Any, alter: Callable[[list[Trade]], list[Trade]]
) -> None:
    trades = days_apart(6)
    scenario = started(trades)
    data = csv_files.three_columns(alter(trades))
    scenario.take_in(data)
    done = scenario.redownload()
    assert (done.exit_status, done.replacement.days) == (
        4,
        (DayDifference("2024-02-03", 5, Decimal(65), 5, Decimal(65)),),
    )
    assert len(kept(scenario.folder)) == 1
    scenario.check()


def test_a_row_that_ids_show_to_be_false_is_replaced(started: Any) -> None:
    trades = days_apart(6)
    scenario = started(trades)
    scenario.take_in(
        csv_files.three_columns(sorted([*trades, trades[12]], key=lambda each: each.true_ns))
    )
    done = scenario.redownload()
    assert (done.exit_status, [day.day for day in done.replacement.days]) == (4, ["2024-02-03"])
    assert len(done.replacement.kept) == 1
    scenario.check()


def test_without_ids_fewer_trades_replace_nothing(started: Any) -> None:
    trades = days_apart(6, numbered=False)
    scenario = started(trades)
    scenario.take_in(
        csv_files.three_columns(sorted([*trades, trades[12]], key=lambda each: each.true_ns))
    )
    scenario.fill()
    before = scenario.history
    done = scenario.redownload()
    assert (done.exit_status, done.replacement.replaced, done.replacement.kept) == (4, (), ())
    [left] = done.replacement.left
    [path] = imported_paths(scenario.folder)
    assert left.reason == (
        "the exchange does not show all trades of the file on 2024-02-03, and trade ids do not "
        "prove its answer complete; the same command asks for them again; to use the exchange's "
        f"trades all the same, remove {path} and backfill"
    )
    assert scenario.history == before
    calls = len(scenario.exchange.calls)
    again = scenario.redownload()
    assert (again.exit_status, again.replacement.left) == (4, done.replacement.left)
    # Rows without ids prove their own beginning only by one more answer, or two.
    assert (
        len([each for each in scenario.exchange.calls[calls:] if each.path.endswith("Trades")]) == 3
    )
    assert scenario.history == before


def test_an_answer_that_left_trades_out_replaces_nothing_until_a_later_run(started: Any) -> None:
    trades = days_apart(6, numbered=False)
    scenario, short = started(trades), started([*trades[:12], *trades[13:]])
    scenario.take_in(csv_files.three_columns(trades))
    scenario.fill()
    before = scenario.history
    done = short.redownload()
    [left] = done.replacement.left
    assert (done.exit_status, done.replacement.replaced) == (4, ())
    assert left.reason.startswith("the exchange does not show all trades of the file on 2024-02-03")
    assert scenario.history == before
    backfill = scenario.backfill(replace_imported=True)
    assert (backfill.only(PAIR).exit_status, backfill.notes) == (0, [])
    scenario.check()


def test_a_trade_left_out_is_not_outweighed_by_one_that_the_file_lacks(started: Any) -> None:
    """The day has as many trades and as much volume in both."""
    alike = [replace(trade, volume="0.50000000") for trade in days_apart(6, numbered=False)]
    scenario, short = started(alike), started([*alike[:12], *alike[13:]])
    scenario.take_in(csv_files.three_columns([*alike[:11], *alike[12:]]))
    scenario.fill()
    before = scenario.history
    done = short.redownload()
    assert (done.exit_status, done.replacement.replaced) == (4, ())
    assert scenario.history == before
    assert scenario.redownload().replacement.left == ()
    scenario.check()


def test_without_ids_more_trades_take_their_place(started: Any) -> None:
    trades = days_apart(6, numbered=False)
    scenario = started(trades)
    scenario.take_in(csv_files.three_columns([*trades[:11], *trades[12:]]))
    done = scenario.redownload()
    assert (done.exit_status, [day.day for day in done.replacement.days]) == (4, ["2024-02-03"])
    scenario.check()


@pytest.mark.parametrize("rounding", csv_files.ROUNDINGS)
def test_a_trade_that_is_rounded_over_midnight_is_no_difference(
    started: Any, rounding: str
) -> None:
    trades = [
        Trade(
            sample_trades.utc_ns(2024, 2, 1 + day) - 100_000_000, "1.0", f"{day}", "b", "m", "", day
        )
        for day in range(1, 10)
    ]
    scenario = started(trades)
    scenario.take_in(csv_files.three_columns(trades, rounding))
    done = scenario.redownload()
    assert (done.exit_status, done.replacement.days) == (0, ())
    scenario.check()


# --- which, and in which order --------------------------------------------------------------------


def replaced(backfill: Backfill) -> list[int]:
    """The years in the order in which they were replaced."""
    return [
        2016 + (event.span.through - sample_trades.utc_ns(2016, 1, 2)) // (365 * DAY)
        for event in backfill.events
        if isinstance(event, Replaced)
    ]


def test_files_that_round_differently_are_no_difference(started: Any) -> None:
    """Merged into one segment, no single way of rounding explains the rows before two midnights."""
    midnights = [sample_trades.utc_ns(2024, 5, 2), sample_trades.utc_ns(2024, 5, 3)]
    stamps = [
        midnight + at
        for midnight in midnights
        for at in (-SECOND_NS // 3, *range(0, DAY // 2, DAY // 99))
    ]
    trades = [
        Trade(stamp, "41450.1", f"{number}.5", "b", "m", "", number)
        for number, stamp in enumerate(sorted(stamps), 1)
    ]
    half = len(trades) // 2
    scenario = started(trades)
    scenario.take_in(csv_files.three_columns(trades[half - 1 :], "down"))
    scenario.take_in(csv_files.three_columns(trades, "up"), CompletePeriod(0))
    with open_writer(TradeStore(scenario.folder), PAIR) as pair_writer:
        pair_writer.compact(merge_all=True)
    assert len(imported_paths(scenario.folder)) == 1
    done = scenario.redownload()
    assert (done.exit_status, done.replacement.days, done.replacement.kept) == (0, (), ())
    scenario.check()


def test_the_oldest_are_replaced_first(started: Any) -> None:
    trades = years(2_500, 100, 1_300)
    scenario = started(trades)
    scenario.take_in(
        csv_files.three_columns(trades),
        CompletePeriod(0, sample_trades.utc_ns(2019, 1, 1) // SECOND_NS),
    )
    backfill = scenario.backfill(replace_imported=True)
    assert backfill.only(PAIR).exit_status == 0
    assert replaced(backfill) == [2016, 2017, 2018]
    scenario.check()


def test_newest_first_replaces_the_newest_first(started: Any) -> None:
    trades = years(100, 200, 50)
    scenario = started(trades)
    scenario.take_in(
        csv_files.three_columns(trades),
        CompletePeriod(0, sample_trades.utc_ns(2019, 1, 1) // SECOND_NS),
    )
    backfill = scenario.backfill(replace_imported=True, newest_first=True)
    # Until now there would be a download a month.
    span = Range(trades[0].true_ns - DAY, sample_trades.utc_ns(2019, 3, 1))
    assert backfill.only(PAIR, span=span).exit_status == 0
    assert replaced(backfill) == [2018, 2017, 2016]
    scenario.check()


def test_a_span_picks_the_segments_that_it_touches(started: Any) -> None:
    trades = years(100, 200, 50)
    scenario = started(trades)
    scenario.take_in(
        csv_files.three_columns(trades),
        CompletePeriod(0, sample_trades.utc_ns(2019, 1, 1) // SECOND_NS),
    )
    scenario.fill()
    backfill = scenario.backfill(replace_imported=True)
    span = Range(sample_trades.utc_ns(2017, 6, 1), sample_trades.utc_ns(2017, 6, 1) + 1)
    assert backfill.only(PAIR, span=span).exit_status == 0
    assert replaced(backfill) == [2017]
    assert scenario.sources().count("csv") == 2


@pytest.mark.parametrize("hidden", [range(12, 15), range(25, 28)], ids=["before", "behind"])
def test_trades_that_a_neighbour_lacks_are_downloaded_in_the_same_run(
    started: Any, hidden: range
) -> None:
    """The exchange showed them to no one while the neighbour was downloaded, and shows them now."""
    trades = days_apart(8)
    scenario = started(trades)
    scenario.take_in(
        csv_files.three_columns(trades[15:25]),
        CompletePeriod(trades[14].true_ns // SECOND_NS + 3, trades[24].true_ns // SECOND_NS + 3),
    )
    scenario.exchange.faults.hide = {PAIR: dict.fromkeys(hidden, 12)}
    scenario.fill()
    assert len(scenario.history) == len(trades) - 3
    scenario.exchange.faults.hide = {}
    backfill = scenario.backfill(replace_imported=True)
    done = backfill.only(PAIR)
    assert (done.exit_status, len(done.replacement.replaced)) == (0, 1)
    [note] = backfill.notes
    assert note.endswith("it is a gap now, and is downloaded again")
    scenario.check()


def test_what_is_not_settled_yet_is_left(started: Any) -> None:
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES), CompletePeriod(0, NOW_NS // SECOND_NS + 500))
    done = scenario.redownload()
    [left] = done.replacement.left
    assert (done.exit_status, left.reason) == (
        4,
        "its last trades are too new to be final",
    )


# --- whatever ends it -----------------------------------------------------------------------------


def test_an_interrupted_redownload_keeps_what_it_fetched(started: Any) -> None:
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES))
    scenario.fill()
    before = scenario.history
    done = scenario.redownload(stop_after_pages=3)
    assert (done.exit_status, type(done.error)) == (130, Interrupted)
    assert scenario.history == before
    assert aside(scenario.folder)
    backfill = scenario.backfill(replace_imported=True)
    assert backfill.only(PAIR).exit_status == 0
    pages = max(event.pages for event in backfill.events if isinstance(event, PageRead))
    assert pages <= 7
    scenario.check()


def test_an_open_archive_shows_the_new_rows_of_a_file_of_the_same_size(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = LocalStore.files

    def of_one_size(store: LocalStore, folder: str, **given: Any) -> list[Entry]:
        return [entry._replace(size=1) for entry in files(store, folder, **given)]

    monkeypatch.setattr(LocalStore, "files", of_one_size)
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES[:4_000]))
    scenario.fill()
    archive = TradeStore(scenario.folder)
    sources = {archive.footer(each).source for each in archive.segments(PAIR)}
    assert "csv" in "".join(sources)
    # A run in another process would leave this archive alone as well.
    assert scenario.redownload().exit_status == 0
    assert {archive.footer(each).source for each in archive.segments(PAIR)} == {"api"}
    assert archive.first_id_after(PAIR, 0) == (TRADES[0].trade_id, 0)


def test_a_scan_during_a_replacement_is_complete(started: Any) -> None:
    trades = years(2_000, 2_000, 2_000)
    scenario = started(trades)
    scenario.take_in(
        csv_files.three_columns(trades),
        CompletePeriod(0, sample_trades.utc_ns(2019, 1, 1) // SECOND_NS),
    )
    scenario.fill()
    scan = TradeStore(scenario.folder).scan(PAIR)
    seen = [next(scan)]
    assert scenario.redownload().exit_status == 0
    seen += scan
    volumes = [value for batch in seen for value in batch.column("volume").to_pylist()]
    assert volumes == [Decimal(each.volume) for each in trades]
    assert seen[0].column("trade_id").null_count == seen[0].num_rows
    assert seen[-1].column("trade_id").null_count == 0


# --- between the two steps ------------------------------------------------------------------------


def test_of_an_imported_and_a_downloaded_segment_of_one_range_the_downloaded_one_counts(
    started: Any, tmp_path: Path
) -> None:
    """As after a crash between the renaming of the one and the deletion of the other."""
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES[1_000:4_000]))
    scenario.fill()
    [path] = imported_paths(scenario.folder)
    imported = (scenario.folder / path).read_bytes()
    before = harvester.open(scenario.folder).verify(PAIR)[0]
    assert scenario.redownload().exit_status == 0
    after = harvester.open(scenario.folder).verify(PAIR)[0]
    (scenario.folder / path).write_bytes(imported)
    assert len(scenario.history) > len(scenario.truth), "a plain reader sees both files"
    archive = harvester.open(scenario.folder)
    between = archive.verify(PAIR)[0]
    assert (before.faults, between.faults, after.faults) == ([], [], [])
    assert between.digests == after.digests
    counts = [(each.rows, each.ids, each.boundaries) for each in (between, after)]
    assert counts[0] == counts[1]
    assert archive.coverage(PAIR) == TradeStore(scenario.folder).coverage(PAIR)
    assert archive.trades(PAIR).df().trade_id.tolist() == [row[0] for row in scenario.truth]
    count = "SELECT count(*), sum(volume) FROM trades"
    expected_sum = sum(Decimal(trade.volume) for trade in TRADES)
    assert archive.sql(count).fetchall() == [(len(TRADES), expected_sum)]
    archive.write_database(tmp_path / "views.db")
    with duckdb.connect(str(tmp_path / "views.db"), read_only=True) as connection:
        assert connection.sql(count).fetchall() == [(len(TRADES), expected_sum)]
    with open_writer(TradeStore(scenario.folder), PAIR):
        pass
    assert imported_paths(scenario.folder) == []
    scenario.check()
