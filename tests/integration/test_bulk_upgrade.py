"""What came from files gives way to the exchange's own trades, whole and at once."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import csv_files
import pytest
import sample_trades
from backfills import Crawl
from kraken_market import SECOND_NS, Trade
from redownloads import NOW_NS, PAIR, TRADES, aside, started, years

from harvester.csv_import.files import KnownComplete
from harvester.download.events import Day, PageRead, Replaced, Rounding
from harvester.errors import ArchiveDamaged, Interrupted
from harvester.storage.filesystem import Entry, LocalStore
from harvester.storage.replacement_staging import ReplacementView, from_files
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import writer
from harvester.times import DAY, Range
from harvester.verify.integrity import verify

__all__ = ["started"]
"""A fixture."""

# --- what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", csv_files.ROUNDINGS)
def test_the_whole_tape_is_the_exchanges(started: Any, rounding: str) -> None:
    one = started(TRADES)
    one.take_in(csv_files.three_columns(TRADES[:4_000], rounding))
    one.fill()
    coverage = TradeStore(one.folder).coverage(PAIR)
    done = one.upgrade()
    assert done.exit_status == 0
    assert done.upgrade.rounding == Rounding(rounding, done.trades, done.trades)
    assert (len(done.upgrade.replaced), done.upgrade.days, done.upgrade.left) == (1, (), ())
    assert TradeStore(one.folder).coverage(PAIR) == coverage
    one.check()


def test_a_second_upgrade_asks_for_no_page(started: Any) -> None:
    one = started(TRADES)
    one.take_in(csv_files.three_columns(TRADES[:4_000]))
    one.upgrade()
    calls = len(one.exchange.calls)
    crawl = one.crawl(upgrade=True)
    assert (crawl.only(PAIR).exit_status, crawl.notes) == (
        0,
        ["nothing of it is imported, or all of it was re-downloaded before"],
    )
    assert {call.path.rpartition("/")[2] for call in one.exchange.calls[calls:]} == {
        "AssetPairs",
        "Time",
    }
    one.check()


def test_gaps_are_filled_first(started: Any) -> None:
    one = started(TRADES)
    one.take_in(csv_files.three_columns(TRADES[1_000:4_000]))
    assert one.upgrade().exit_status == 0
    one.check()


def test_in_a_merged_segment_only_what_came_from_files_is_fetched(started: Any) -> None:
    one = started(TRADES)
    one.take_in(csv_files.three_columns(TRADES[1_000:4_000]))
    one.fill()
    archive = TradeStore(one.folder)
    with writer(archive, PAIR) as writing:
        writing.compact(every=True)
    assert one.sources() == ["api+csv"]
    [imported_] = archive.footer(archive.segments(PAIR)[0]).imported
    assert one.upgrade().exit_status == 0
    one.check()
    pages = [call for call in one.exchange.calls if call.rows and "since" in call.params]
    late = [call for call in pages[-4:] if int(call.params["since"]) < imported_.after - SECOND_NS]
    assert late == []


def test_a_pair_without_ids(started: Any) -> None:
    trades = sample_trades.ids_unknown(TRADES)
    one = started(trades)
    one.take_in(csv_files.three_columns(trades[:4_000], "nearest"))
    assert one.upgrade().exit_status == 0
    one.check()


def test_seven_columns_too(started: Any) -> None:
    one = started(TRADES)
    one.take_in(csv_files.seven_columns(TRADES[:4_000]))
    done = one.upgrade()
    assert (done.exit_status, done.upgrade.rounding) == (0, None)
    one.check()


def test_ids_that_jump_are_confirmed_jumps(started: Any) -> None:
    trades = sample_trades.jumping_ids(3_000, 7)
    one = started(trades)
    one.take_in(csv_files.three_columns(trades[500:2_500]))
    assert one.upgrade().exit_status == 0
    one.check()


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
    one = started(trades)
    one.take_in(
        csv_files.three_columns(trades, rounding),
        KnownComplete(0, trades[-1].true_ns // SECOND_NS + 9),
    )
    one.fill()
    assert len(TradeStore(one.folder).segments(PAIR)) > 1
    # Of the later year nothing is asked for, but what a trade of the earlier one may be told as.
    early = Range(0, sample_trades.utc_ns(2024, 1, 1) - 1)
    done = one.crawl(upgrade=True).only(PAIR, span=early)
    assert (done.exit_status, done.upgrade.days) == (0, ())
    assert [row[3:5] for row in one.tape] == [row[3:5] for row in one.truth]
    assert "csv" in "".join(one.sources())
    assert verify(TradeStore(one.folder), PAIR).faults == []
    assert one.upgrade().exit_status == 0
    one.check()


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
    one = started(trades)
    # What the file tells begins at noon of the last day of the year, where there is no trade.
    early = Range(0, sample_trades.utc_ns(2023, 12, 31, 12))
    assert one.crawl().only(PAIR, span=early).exit_status == 0
    one.take_in(
        csv_files.three_columns(trades, "up"), KnownComplete(0, trades[-1].true_ns // SECOND_NS + 9)
    )
    assert one.upgrade().exit_status == 0
    one.check()
    assert {path.parent.name for path in (one.folder / "trades").rglob("*.parquet")} >= {
        "year=2023",
        "year=2024",
    }


def test_a_range_in_which_the_exchange_knows_of_nothing(started: Any) -> None:
    """Ids show that nothing is missing there: what the file has was never traded."""
    one = started(TRADES)
    extra = csv_files.three_columns(
        [sample_trades._Maker(1).trade(TRADES[-1].true_ns + 4 * 365 * DAY // 10)]
    )
    one.take_in(csv_files.three_columns(TRADES[:50]))
    one.fill()
    with pytest.raises(ArchiveDamaged, match="1 of 1 rows of time that is covered already"):
        one.take_in(extra, KnownComplete(0, NOW_NS // SECOND_NS))
    assert one.upgrade().exit_status == 0
    one.check()


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


def test_a_row_that_the_file_lacks_is_told_by_its_day(started: Any) -> None:
    trades = days_apart(6)
    one = started(trades)
    one.take_in(csv_files.three_columns([*trades[:11], *trades[12:]]))
    filled = one.crawl().only(PAIR)
    [segment] = {segment for segment, _ in from_files(TradeStore(one.folder), PAIR)}
    assert (filled.exit_status, str(filled.error)) == (
        4,
        f"XBTUSD: trades between ids 1 and 30 are not in {one.folder / segment.path}, which was "
        "imported: `harvester backfill XBTUSD --upgrade` downloads imported ranges again",
    )
    before = (one.folder / segment.path).read_bytes()
    crawl = one.crawl(upgrade=True)
    done = crawl.only(PAIR)
    assert done.exit_status == 4
    told = Day("2024-02-03", 4, Decimal(53), 5, Decimal(65))
    assert done.upgrade.days == (told,)
    copy = f"quarantine/XBTUSD/0001/{segment.path.rpartition('/')[2]}"
    text = "2024-02-03: the file has 4 trades of volume 53.00000000, the exchange 5 of 65.00000000"
    assert crawl.notes == [
        text,
        f"{segment.path} does not agree with the exchange: a copy is in {copy}",
    ]
    assert (one.folder / copy).read_bytes() == before
    [note] = kept(one.folder)
    assert (note["path"], note["faults"]) == (
        segment.path,
        [f"the exchange does not agree: {text}"],
    )
    one.check()
    assert one.upgrade().exit_status == 0


def test_an_altered_volume_is_told_by_its_day(started: Any) -> None:
    trades = days_apart(6)
    one = started(trades)
    data = csv_files.three_columns(trades)
    one.take_in(data.replace(b",12.00000000\n", b",12.00000001\n"))
    done = one.upgrade()
    assert (done.exit_status, done.upgrade.days) == (
        4,
        (Day("2024-02-03", 5, Decimal("65.00000001"), 5, Decimal(65)),),
    )
    assert len(kept(one.folder)) == 1
    one.check()


def test_a_row_that_ids_show_to_be_none_goes(started: Any) -> None:
    trades = days_apart(6)
    one = started(trades)
    one.take_in(
        csv_files.three_columns(sorted([*trades, trades[12]], key=lambda each: each.true_ns))
    )
    done = one.upgrade()
    assert (done.exit_status, [day.day for day in done.upgrade.days]) == (4, ["2024-02-03"])
    assert len(done.upgrade.kept) == 1
    one.check()


def test_without_ids_fewer_trades_replace_nothing(started: Any) -> None:
    trades = days_apart(6, numbered=False)
    one = started(trades)
    one.take_in(
        csv_files.three_columns(sorted([*trades, trades[12]], key=lambda each: each.true_ns))
    )
    one.fill()
    before = one.tape
    done = one.upgrade()
    assert (done.exit_status, done.upgrade.replaced, done.upgrade.kept) == (4, (), ())
    [left] = done.upgrade.left
    [path] = {segment.path for segment, _ in from_files(TradeStore(one.folder), PAIR)}
    assert left.reason == (
        "the exchange shows fewer trades than the file on 2024-02-03, and no ids prove them to be "
        "all; another --upgrade asks for them again; to use the exchange's trades all the same, "
        f"remove {path} and backfill"
    )
    assert one.tape == before
    calls = len(one.exchange.calls)
    again = one.upgrade()
    assert (again.exit_status, again.upgrade.left) == (4, done.upgrade.left)
    # Rows without ids prove their own beginning only by one more answer, or two.
    assert len([each for each in one.exchange.calls[calls:] if each.path.endswith("Trades")]) == 3
    assert one.tape == before


def test_an_answer_that_left_trades_out_is_asked_for_again(started: Any) -> None:
    trades = days_apart(6, numbered=False)
    one, short = started(trades), started([*trades[:12], *trades[13:]])
    one.take_in(csv_files.three_columns(trades))
    one.fill()
    before = one.tape
    done = short.upgrade()
    [left] = done.upgrade.left
    assert (done.exit_status, done.upgrade.replaced) == (4, ())
    assert left.reason.startswith("the exchange shows fewer trades than the file on 2024-02-03")
    assert one.tape == before
    crawl = one.crawl(upgrade=True)
    assert (crawl.only(PAIR).exit_status, crawl.notes) == (0, [])
    one.check()


def test_without_ids_more_trades_take_their_place(started: Any) -> None:
    trades = days_apart(6, numbered=False)
    one = started(trades)
    one.take_in(csv_files.three_columns([*trades[:11], *trades[12:]]))
    done = one.upgrade()
    assert (done.exit_status, [day.day for day in done.upgrade.days]) == (4, ["2024-02-03"])
    one.check()


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
    one = started(trades)
    one.take_in(csv_files.three_columns(trades, rounding))
    done = one.upgrade()
    assert (done.exit_status, done.upgrade.days) == (0, ())
    one.check()


# --- which, and in which order --------------------------------------------------------------------


def replaced(crawl: Crawl) -> list[int]:
    """The years in the order in which they were replaced."""
    return [
        2016 + (event.span.through - sample_trades.utc_ns(2016, 1, 2)) // (365 * DAY)
        for event in crawl.events
        if isinstance(event, Replaced)
    ]


def test_the_cheapest_are_replaced_first(started: Any) -> None:
    trades = years(2_500, 100, 1_300)
    one = started(trades)
    one.take_in(
        csv_files.three_columns(trades),
        KnownComplete(0, sample_trades.utc_ns(2019, 1, 1) // SECOND_NS),
    )
    crawl = one.crawl(upgrade=True)
    assert crawl.only(PAIR).exit_status == 0
    assert replaced(crawl) == [2017, 2018, 2016]
    one.check()


def test_newest_first_replaces_the_newest_first(started: Any) -> None:
    trades = years(100, 200, 50)
    one = started(trades)
    one.take_in(
        csv_files.three_columns(trades),
        KnownComplete(0, sample_trades.utc_ns(2019, 1, 1) // SECOND_NS),
    )
    crawl = one.crawl(upgrade=True, newest_first=True)
    assert crawl.only(PAIR).exit_status == 0
    assert replaced(crawl) == [2018, 2017, 2016]
    one.check()


def test_a_span_picks_the_segments_that_it_touches(started: Any) -> None:
    trades = years(100, 200, 50)
    one = started(trades)
    one.take_in(
        csv_files.three_columns(trades),
        KnownComplete(0, sample_trades.utc_ns(2019, 1, 1) // SECOND_NS),
    )
    one.fill()
    crawl = one.crawl(upgrade=True)
    span = Range(sample_trades.utc_ns(2017, 6, 1), sample_trades.utc_ns(2017, 6, 1) + 1)
    assert crawl.only(PAIR, span=span).exit_status == 0
    assert replaced(crawl) == [2017]
    assert one.sources().count("csv") == 2


def test_what_is_not_settled_yet_is_left(started: Any) -> None:
    one = started(TRADES)
    one.take_in(csv_files.three_columns(TRADES), KnownComplete(0, NOW_NS // SECOND_NS + 500))
    done = one.upgrade()
    [left] = done.upgrade.left
    assert (done.exit_status, left.reason) == (
        4,
        "its last trades are too new to be final; a later run replaces it",
    )


# --- whatever ends it -----------------------------------------------------------------------------


def test_an_interrupted_upgrade_keeps_what_it_fetched(started: Any) -> None:
    one = started(TRADES)
    one.take_in(csv_files.three_columns(TRADES))
    one.fill()
    before = one.tape
    done = one.upgrade(stop_after_pages=3)
    assert (done.exit_status, type(done.error)) == (130, Interrupted)
    assert one.tape == before
    fetched = sum(
        piece.segment.size > 0 for piece in ReplacementView(TradeStore(one.folder)).pieces(PAIR)
    )
    assert fetched
    assert aside(one.folder)
    crawl = one.crawl(upgrade=True)
    assert crawl.only(PAIR).exit_status == 0
    pages = max(event.pages for event in crawl.events if isinstance(event, PageRead))
    assert pages <= 7
    one.check()


def test_an_open_archive_shows_the_new_rows_of_a_file_of_the_same_size(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = LocalStore.files

    def of_one_size(store: LocalStore, folder: str, **given: Any) -> list[Entry]:
        return [entry._replace(size=1) for entry in files(store, folder, **given)]

    monkeypatch.setattr(LocalStore, "files", of_one_size)
    one = started(TRADES)
    one.take_in(csv_files.three_columns(TRADES[:4_000]))
    one.fill()
    archive = TradeStore(one.folder)
    sources = {archive.footer(each).source for each in archive.segments(PAIR)}
    assert "csv" in "".join(sources)
    # A run in another process would leave this archive alone as well.
    assert one.upgrade().exit_status == 0
    assert {archive.footer(each).source for each in archive.segments(PAIR)} == {"api"}
    assert archive.first_id_after(PAIR, 0) == (TRADES[0].trade_id, 0)


def test_a_scan_through_a_replacement_is_a_whole_tape(started: Any) -> None:
    trades = years(2_000, 2_000, 2_000)
    one = started(trades)
    one.take_in(
        csv_files.three_columns(trades),
        KnownComplete(0, sample_trades.utc_ns(2019, 1, 1) // SECOND_NS),
    )
    one.fill()
    scan = TradeStore(one.folder).scan(PAIR)
    seen = [next(scan)]
    assert one.upgrade().exit_status == 0
    seen += scan
    volumes = [value for batch in seen for value in batch.column("volume").to_pylist()]
    assert volumes == [Decimal(each.volume) for each in trades]
    assert seen[0].column("trade_id").null_count == seen[0].num_rows
    assert seen[-1].column("trade_id").null_count == 0
