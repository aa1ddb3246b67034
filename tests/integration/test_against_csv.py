"""Candles of an archive against Kraken's files of candles: equal, different, skipped or refused."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import csv_files
import pytest
import sample_trades
from candle_cases import batch, cut, hold
from command_line import HARVESTER
from csv_comparison import (
    DAY,
    EVERYTHING,
    FIELDS,
    MINUTE,
    MINUTES,
    ROWS,
    TRADES,
    Change,
    Line,
    environment,
    held,
    lines,
    only,
    plain,
    report,
    run,
    text,
    zipped,
)
from kraken_market import Market, Trade, expected

from harvester.csv_import.csv_files import find
from harvester.csv_import.ohlcvt_reader import read_candle_file
from harvester.errors import BadFile
from harvester.kraken.pairs import Pair
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range
from harvester.verify.against_kraken import choose_files
from harvester.verify.boundary_trades import BoundaryTrades, read_boundary_trades
from harvester.verify.reports import Difference, FileReport, IntervalReport

CAPTURED = Path(__file__).parents[2] / "shared" / "kraken"


# --- files as the exchange has them --------------------------------------------------------------


def sound(folder: Path) -> TradeStore:
    """An archive of TRADES in which `verify` finds nothing wrong."""
    archive = TradeStore(folder / "data")
    with open_writer(archive, "XBTUSD") as pair_writer:
        pair_writer.commit(EVERYTHING, batch(ROWS), Footer(EVERYTHING, '{"altname":"XBTUSD"}'))
    return archive


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TradeStore:
    """An archive of all of TRADES, in three files."""
    stamps = [row[1] for row in ROWS]
    bounds = [0, stamps[1_500], stamps[3_000], EVERYTHING.through]
    return hold(TradeStore(tmp_path_factory.mktemp("whole")), cut(ROWS, bounds))


# --- equal ---------------------------------------------------------------------------------------


def test_all_lengths_of_a_zip_are_equal(whole: TradeStore, tmp_path: Path) -> None:
    found = report(whole, zipped(tmp_path))
    assert found.files == tuple(
        FileReport(
            f"Kraken_OHLCVT.zip:OHLCVT/XBTUSD_{minutes}.csv",
            IntervalReport(
                minutes, compared=len(lines(minutes)), exchange_trades=4_000, archive_trades=4_000
            ),
        )
        for minutes in MINUTES
    )
    assert found.exit_status == 0


@pytest.mark.parametrize("minutes", [7, 10080])
def test_any_whole_number_of_minutes_is_compared(
    minutes: int, whole: TradeStore, tmp_path: Path
) -> None:
    found = only(whole, zipped(tmp_path, minutes=[minutes]))
    skipped = {} if minutes == 7 else {"after the stored trades": 1}
    assert (found.skipped, found.differing) == (skipped, 0)
    assert found.compared + sum(found.skipped.values()) == len(lines(minutes))


def test_a_csv_and_a_folder_are_taken_as_a_zip_is(whole: TradeStore, tmp_path: Path) -> None:
    single = tmp_path / "XBTUSD_60.csv"
    single.write_bytes(text(lines(60)))
    folder = tmp_path / "some" / "deeper"
    folder.mkdir(parents=True)
    (folder / "xbtusd_1440.csv").write_bytes(text(lines(1440)))
    found = report(whole, str(single), str(tmp_path / "some"))
    assert [(file.file, file.interval.compared) for file in found.files] == [
        ("XBTUSD_60.csv", len(lines(60))),
        ("xbtusd_1440.csv", len(lines(1440))),
    ]


HEADER = [["time", "open", "high", "low", "close", "volume", "trades"]]
EQUAL: dict[str, Change] = {
    "a header": lambda rows: HEADER + rows,
    "zeros at the ends": lambda rows: [
        [t, *(f"{Decimal(field):.12f}" for field in rest), n] for t, *rest, n in rows
    ],
    "exponents": lambda rows: [
        [t, *prices, f"{Decimal(v).scaleb(3)}e-3", n] for t, *prices, v, n in rows
    ],
    "whole seconds with a point": lambda rows: [[f"{t}.0", *rest] for t, *rest in rows],
    "spaces": lambda rows: [[f" {field}" for field in row] for row in rows],
    "blank lines and carriage returns": lambda rows: [
        [*row[:-1], f"{row[-1]}\r\n"] for row in rows
    ],
}


@pytest.mark.parametrize("name", EQUAL)
def test_numbers_are_compared_and_not_how_they_are_printed(
    name: str, whole: TradeStore, tmp_path: Path
) -> None:
    found = only(whole, zipped(tmp_path, EQUAL[name], [60]))
    assert (found.compared, found.differing) == (len(lines(60)), 0)


def test_volumes_of_tiny_coins_are_equal_in_all_digits(tmp_path: Path) -> None:
    market = sample_trades.tiny_coin(3_000, 92)
    rows = expected(market)
    archive = hold(
        TradeStore(tmp_path / "data"), [(Range(0, rows[-1][1] // DAY * DAY + DAY - 1), rows)]
    )
    path = tmp_path / "XBTUSD_1440.csv"
    path.write_bytes(text(lines(1440, rows)))
    assert max(Decimal(row[5]) for row in lines(1440, rows)) > 2**63 // 10**8
    found = only(archive, str(path))
    assert (found.differing, found.exchange_trades) == (0, 3_000)


@pytest.mark.parametrize("rounding", csv_files.ROUNDINGS)
def test_whole_seconds_of_an_imported_file_are_compared_however_they_were_rounded(
    rounding: str, tmp_path: Path
) -> None:
    """A trade that a file rounds up into the next minute is published at its very beginning."""
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(TRADES, rounding))
    ran = run(
        tmp_path,
        "import",
        "XBTUSD.csv",
        "--pair",
        "XBTUSD",
        "--delisted",
        "--whole-until",
        "2024-03-01",
    )
    assert ran.returncode == 0
    true = [
        (None, trade.true_ns, 0, Decimal(trade.price), Decimal(trade.volume), None, None, "")
        for trade in TRADES
    ]
    path = tmp_path / "XBTUSD_1.csv"
    path.write_bytes(text(lines(1, true)))
    found = only(TradeStore(tmp_path / "data"), str(path))
    # The first row has nobody to confirm its time: what lies up to the next one is not covered.
    assert (found.differing, sum(found.skipped.values())) == (0, 2)
    assert found.compared >= len(lines(1, true)) - 2
    assert (found.at_boundary > 10) == (rounding != "down")


# --- different -----------------------------------------------------------------------------------


def raised(value: str) -> str:
    """A value with its last digit raised by one."""
    decimals = len(value.partition(".")[2])
    return f"{Decimal(value) + Decimal(1).scaleb(-decimals):f}"


@pytest.mark.parametrize(("field", "minutes"), [*zip(FIELDS, (*MINUTES, 1), strict=True)])
def test_a_changed_digit_is_reported_with_its_candle_and_field(
    field: str, minutes: int, whole: TradeStore, tmp_path: Path
) -> None:
    place, column = len(lines(minutes)) // 2, FIELDS.index(field) + 1

    def change(rows: list[Line]) -> list[Line]:
        rows[place][column] = raised(rows[place][column])
        return rows

    found = only(whole, zipped(tmp_path, change, [minutes]))
    row = lines(minutes)[place]
    assert found.differences == (
        Difference(
            "XBTUSD",
            minutes,
            int(row[0]) * 10**9,
            field,
            row[column],
            plain(Decimal(raised(row[column]))),
        ),
    )
    assert (found.differing, found.compared, found.unlisted) == (1, len(lines(minutes)), 0)
    assert found.miscounted == (field == "count")


@pytest.mark.parametrize("minutes", [1, 720])
def test_a_missing_row_is_reported(minutes: int, whole: TradeStore, tmp_path: Path) -> None:
    rows = lines(minutes)
    gone = rows[len(rows) // 2]

    found = only(
        whole, zipped(tmp_path, lambda all_: [row for row in all_ if row != gone], [minutes])
    )
    time_ns = int(gone[0]) * 10**9
    assert found.differences == (
        Difference("XBTUSD", minutes, time_ns, "volume", gone[5], None),
        Difference("XBTUSD", minutes, time_ns, "count", gone[6], None),
    )
    assert (found.compared, found.differing) == (len(rows), 1)


def test_an_added_row_is_reported(whole: TradeStore, tmp_path: Path) -> None:
    known = {row[0] for row in lines(1)}
    first = int(lines(1)[0][0])
    free = next(str(at) for at in range(first, first + 7_200, 60) if str(at) not in known)
    added = [free, "9.5", "9.5", "9.5", "9.5", "0.25", "3"]
    found = only(whole, zipped(tmp_path, lambda rows: sorted([*rows, added]), [1]))
    assert found.differences == (
        Difference("XBTUSD", 1, int(free) * 10**9, "volume", None, "0.25"),
        Difference("XBTUSD", 1, int(free) * 10**9, "count", None, "3"),
    )


def test_a_row_without_trades_is_no_difference(whole: TradeStore, tmp_path: Path) -> None:
    known = {row[0] for row in lines(1)}
    first = int(lines(1)[0][0])
    free = next(str(at) for at in range(first, first + 7_200, 60) if str(at) not in known)
    empty = [free, "9.5", "9.5", "9.5", "9.5", "0", "0"]
    assert only(whole, zipped(tmp_path, lambda rows: sorted([*rows, empty]), [1])).differing == 0


def test_more_decimals_than_a_trade_can_have_differ_by_all_of_them(
    whole: TradeStore, tmp_path: Path
) -> None:
    row = lines(1440)[1]

    def change(rows: list[Line]) -> list[Line]:
        rows[1][5] += "0" * (9 - len(row[5].partition(".")[2])) + "4"
        return rows

    [found] = only(whole, zipped(tmp_path, change, [1440])).differences
    assert (found.field, found.archive) == ("volume", row[5])
    assert Decimal(found.exchange or "") - Decimal(row[5]) == Decimal("4e-10")


def test_no_more_than_twenty_values_are_listed(whole: TradeStore, tmp_path: Path) -> None:
    found = only(
        whole, zipped(tmp_path, lambda rows: [[*row[:6], raised(row[6])] for row in rows], [1])
    )
    number = len(lines(1))
    assert (found.differing, len(found.differences), found.unlisted) == (number, 20, number - 20)
    assert (found.exchange_trades, found.archive_trades) == (4_000 + number, 4_000)


def test_every_candle_of_a_missing_part_is_reported(whole: TradeStore, tmp_path: Path) -> None:
    rows = lines(1)
    found = only(whole, zipped(tmp_path, lambda all_: all_[:300] + all_[-300:], [1]))
    assert (found.compared, found.differing) == (len(rows), len(rows) - 600)


def test_what_lies_before_and_behind_a_files_rows_is_not_its_own(
    whole: TradeStore, tmp_path: Path
) -> None:
    """A single file does not say from when to when it is complete."""
    path = zipped(tmp_path, lambda rows: rows[100:-100], [1], "some.zip")
    found = only(whole, path)
    assert (found.compared, found.differing) == (len(lines(1)) - 200, 0)


def test_of_the_whole_history_its_beginning_is_known(whole: TradeStore, tmp_path: Path) -> None:
    found = only(whole, zipped(tmp_path, lambda rows: rows[100:-100], [1]))
    assert (found.compared, found.differing) == (len(lines(1)) - 100, 100)


def test_of_a_quarter_both_ends_are_known(whole: TradeStore, tmp_path: Path) -> None:
    path = zipped(tmp_path, lambda rows: rows[100:-100], [1], "Kraken_OHLCVT_Q1_2024.zip")
    found = only(whole, path)
    assert (found.compared, found.differing) == (len(lines(1)), 200)


def test_a_quarter_without_a_row_differs_in_all_stored_candles(
    whole: TradeStore, tmp_path: Path
) -> None:
    path = zipped(tmp_path, lambda _: [], [60], "Kraken_OHLCVT_Q1_2024.zip")
    found = only(whole, path)
    assert (found.compared, found.differing) == (len(lines(60)), len(lines(60)))


@pytest.mark.parametrize("quarter", ["Q4_2023", "Q2_2024"])
def test_candles_outside_the_quarter_of_the_file_name_are_skipped(
    quarter: str, whole: TradeStore, tmp_path: Path
) -> None:
    path = zipped(tmp_path, list, [60], f"Kraken_OHLCVT_{quarter}.zip")
    found = only(whole, path)
    assert (found.compared, found.skipped) == (
        0,
        {"outside the period in the file's name": len(lines(60))},
    )
    assert report(whole, path).exit_status == 4


# --- prices of more decimals than the pair has ---------------------------------------------------


def test_prices_that_the_file_shortens_are_held_to_what_it_prints(tmp_path: Path) -> None:
    fine = [
        (*row[:3], row[3] + Decimal(place % 5) / 10**4, *row[4:]) for place, row in enumerate(ROWS)
    ]
    archive = held(tmp_path, rows=fine)
    path = tmp_path / "XBTUSD_60.csv"
    for rounding in ("ROUND_DOWN", "ROUND_HALF_UP"):
        shortened = [
            [
                row[0],
                *(str(Decimal(field).quantize(Decimal("0.1"), rounding)) for field in row[1:5]),
                *row[5:],
            ]
            for row in lines(60, fine)
        ]
        path.write_bytes(text(shortened))
        found = only(archive, str(path))
        changed = sum(
            Decimal(field) != Decimal(other)
            for row, true in zip(shortened, lines(60, fine), strict=True)
            for field, other in zip(row, true, strict=True)
        )
        assert changed > 100
        assert (found.differing, found.shortened) == (0, changed)


# --- trades at the very edge of a candle ---------------------------------------------------------


OPENS = 1_711_929_600 * 10**9
EDGES = {
    "one of two": (-90, -20 * 10**-9, 10),
    "the only one of its minute": (-90, -20 * 10**-9, 70),
    "the very first": (-20 * 10**-9, 70),
    "several at once": (-90, -50 * 10**-9, -20 * 10**-9, 0, 10, 70),
}


def edge_market(name: str) -> Market:
    """Trades so many seconds before and after a moment at which every candle opens."""
    return sample_trades.market(
        Trade(
            OPENS + int(Decimal(str(at)) * 10**9), f"{100 + n}.0", f"{n + 1}.5", "b", "m", "", n + 1
        )
        for n, at in enumerate(EDGES[name])
    )


def true_lines(market: Market) -> list[Line]:
    """The minutes by the stamps that only the exchange knows."""
    true = [
        (row[0], trade.true_ns, *row[2:])
        for row, trade in zip(expected(market), market.trades, strict=True)
    ]
    return lines(1, true)


@pytest.mark.parametrize("name", EDGES)
def test_a_trade_published_at_the_edge_may_count_on_its_other_side(
    name: str, tmp_path: Path
) -> None:
    market = edge_market(name)
    rows = expected(market)
    archive = held(tmp_path, Range(0, OPENS + DAY - 1), rows=rows)
    assert true_lines(market) != lines(1, rows)
    path = tmp_path / "XBTUSD_1.csv"
    path.write_bytes(text(true_lines(market)))
    found = only(archive, str(path))
    assert (found.differing, found.at_boundary, found.exchange_trades) == (
        0,
        2,
        found.archive_trades,
    )


def test_a_missing_row_is_reported_if_its_only_trade_is_at_the_edge(
    tmp_path: Path,
) -> None:
    """Nothing may give a trade away that the candle before does not take."""
    rows = expected(
        sample_trades.market(
            [
                Trade(OPENS + at * 10**9, "100.0", "1.5", "b", "m", "", n + 1)
                for n, at in enumerate((-30, 0, 70))
            ]
        )
    )
    archive = held(tmp_path, Range(0, OPENS + DAY - 1), rows=rows)
    path = tmp_path / "XBTUSD_1.csv"
    path.write_bytes(text([lines(1, rows)[0], lines(1, rows)[2]]))
    found = only(archive, str(path))
    assert (found.differing, found.at_boundary) == (1, 0)
    assert [difference.time_ns for difference in found.differences] == [OPENS, OPENS]


def test_a_candle_may_give_no_more_than_the_one_before_takes(tmp_path: Path) -> None:
    seconds = (-30, 0, 0, 70)
    rows = expected(
        sample_trades.market(
            Trade(OPENS + at * 10**9, "100.0", "1.5", "b", "m", "", n + 1)
            for n, at in enumerate(seconds)
        )
    )
    archive = held(tmp_path, Range(0, OPENS + DAY - 1), rows=rows)
    first, _, last = lines(1, rows)
    path = tmp_path / "XBTUSD_1.csv"
    path.write_bytes(text([[*first[:5], "3", "2"], last]))
    found = only(archive, str(path))
    assert (found.differing, found.at_boundary) == (1, 1)
    assert [difference.time_ns for difference in found.differences] == [OPENS, OPENS]


# Seconds around OPENS, their volumes, which of the trades the archive lost, and when the minute
# begins that differs: where a twin of the lost trade opens the next minute, that one.
LOST = {
    "its twin opens the next minute": ((-30, -1, 0, 10, 70), "12211", 1, 0),
    "its neighbour there is another": ((-30, -1, 0, 10, 70), "12311", 1, -60),
    "twins open the next minutes too": ((-90, -60, -30, 0, 10, 60, 70), "1111111", 2, 60),
    "all that it had, and a twin": ((-90, -30, 0, 10, 70), "12211", 1, 0),
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("block_bytes", [1 << 20, 30])
def test_no_trade_stands_in_for_one_that_is_lost_and_counts_in_its_own_candle_too(
    name: str, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the two candles are in different blocks."""
    monkeypatch.setattr("harvester.csv_import.csv_files.BLOCK_BYTES", block_bytes)
    seconds, volumes, lost, differs_s = LOST[name]
    rows = expected(
        sample_trades.market(
            Trade(OPENS + at * 10**9, "100.0", f"{volume}.5", "b", "m", "", n + 1)
            for n, (at, volume) in enumerate(zip(seconds, volumes, strict=True))
        )
    )
    path = tmp_path / "XBTUSD_1.csv"
    path.write_bytes(text(lines(1, rows)))
    kept = rows[:lost] + rows[lost + 1 :]
    found = only(held(tmp_path, Range(0, OPENS + DAY - 1), rows=kept), str(path))
    assert found.differing == 1
    assert (found.archive_trades, found.exchange_trades) == (len(rows) - 1, len(rows))
    assert {difference.time_ns for difference in found.differences} == {OPENS + differs_s * 10**9}


def test_of_a_long_row_of_twins_the_blame_may_fall_later_and_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more candles wait than fit: then the first of them are reported as they are."""
    monkeypatch.setattr("harvester.verify.boundary_trades.MAX_UNDECIDED", 2)
    seconds = [-30, -10, *range(0, 600, 60), 610]
    rows = expected(
        sample_trades.market(
            Trade(OPENS + at * 10**9, "100.0", "1.5", "b", "m", "", n + 1)
            for n, at in enumerate(seconds)
        )
    )
    path = tmp_path / "XBTUSD_1.csv"
    path.write_bytes(text(lines(1, rows)))
    found = only(held(tmp_path, Range(0, OPENS + DAY - 1), rows=rows[1:]), str(path))
    assert (found.differing, found.archive_trades, found.exchange_trades) == (
        1,
        len(rows) - 1,
        len(rows),
    )


def test_counting_other_trades_than_are_held_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candles and the trades at their edges are read by two ways, which may not disagree."""
    market = edge_market("one of two")
    archive = held(tmp_path, Range(0, OPENS + DAY - 1), rows=expected(market))
    path = tmp_path / "XBTUSD_1.csv"
    path.write_bytes(text(true_lines(market)))

    def doubled(*arguments: Any) -> dict[int, BoundaryTrades]:
        found = read_boundary_trades(*arguments)
        return {
            time_ns: BoundaryTrades(2 * trades.bars, trades.at_opening, trades.at_end)
            for time_ns, trades in found.items()
        }

    monkeypatch.setattr("harvester.verify.candle_comparison.read_boundary_trades", doubled)
    found = report(archive, str(path))
    assert [str(error) for error in found.errors] == [
        "XBTUSD: its candle of 1 minutes of 2024-03-31T23:59:00Z has 0 trades, but 1 are stored; "
        "`harvester verify XBTUSD` shows which"
    ]
    assert found.exit_status == 4


# --- skipped -------------------------------------------------------------------------------------


def test_what_coverage_does_not_hold_whole_is_skipped_with_the_reason(tmp_path: Path) -> None:
    opens = [int(row[0]) * 10**9 for row in lines(60)]
    gap = Range(opens[20] + 7 * MINUTE, opens[23] - 1)
    archive = held(
        tmp_path, Range(opens[3] - 1, gap.after), Range(gap.through, opens[-4] + 5 * MINUTE)
    )
    found = only(archive, zipped(tmp_path, list, [60]))
    assert found.skipped == {
        "before the stored trades": 3,
        "in a gap": 3,
        "after the stored trades": 4,
    }
    assert (found.compared, found.differing) == (len(opens) - 10, 0)


def test_a_difference_in_a_gap_counts_for_nothing(tmp_path: Path) -> None:
    opens = [int(row[0]) * 10**9 for row in lines(60)]
    archive = held(tmp_path, Range(0, opens[20]), Range(opens[21] - 1, EVERYTHING.through))

    def change(rows: list[Line]) -> list[Line]:
        rows[20][1] = "1"
        return rows

    found = only(archive, zipped(tmp_path, change, [60]))
    assert (found.skipped, found.differing) == ({"in a gap": 1}, 0)


def test_numbers_of_trades_in_a_gap_may_be_as_large_as_they_like(tmp_path: Path) -> None:
    opens = [int(row[0]) * 10**9 for row in lines(60)]
    archive = held(tmp_path, Range(0, opens[20] - 1), Range(opens[23] - 1, EVERYTHING.through))

    def change(rows: list[Line]) -> list[Line]:
        return [[*row[:6], str(2**63 - 1)] if 20 <= i < 23 else row for i, row in enumerate(rows)]

    found = only(archive, zipped(tmp_path, change, [60]))
    assert (found.skipped, found.differing) == ({"in a gap": 3}, 0)


def test_a_candle_that_the_file_lacks_is_skipped_where_a_gap_reaches_into_it(
    tmp_path: Path,
) -> None:
    rows = lines(60)
    cut_at = next(row[1] for row in ROWS if row[1] // 10**9 >= int(rows[20][0])) + 1
    archive = held(
        tmp_path, Range(0, cut_at), Range(int(rows[21][0]) * 10**9 - 1, EVERYTHING.through)
    )
    path = zipped(tmp_path, lambda all_: [row for row in all_ if row != rows[20]], [60])
    found = only(archive, path)
    assert (found.skipped, found.differing) == ({"in a gap": 1}, 0)


# --- rows that are none --------------------------------------------------------------------------


FIRST = 1_705_791_600
GOOD = b"%d,9.5,9.5,9.5,9.5,1,2\n" % FIRST
BAD = {
    b"%d,9.5,9.5,9.5,9.5,1\n" % (FIRST + 60): "it has 6 fields instead of 7",
    b"<html>\n": "it has 1 fields instead of 7",
    b"%d,nine,9.5,9.5,9.5,1,2\n" % (FIRST + 60): "open 'nine' is no number",
    b"%d,9.5,9.5,9.5,nan,1,2\n" % (FIRST + 60): "close 'nan' is no number",
    b"%d,9.5,9.5,9.5,9.5,-1,2\n" % (FIRST + 60): "volume -1 is below 0",
    b"%d,9.5,9.5,9.5,9.5,1,2.5\n" % (FIRST + 60): (
        "its number of trades 2.5 is no whole number of 64 bits"
    ),
    b"%d,9.5,9.5,9.5,9.5,1,99999999999999999999\n" % (FIRST + 60): (
        "its number of trades 99999999999999999999 is no whole number of 64 bits"
    ),
    b"%d,9.5,9.5,9.5,9.5,1e99,2\n" % (FIRST + 60): (
        "volume 1e99 has more than 30 digits before or after its point"
    ),
    b"%d,9.5,9.5,9.5,9.5,1e-99,2\n" % (FIRST + 60): (
        "volume 1e-99 has more than 30 digits before or after its point"
    ),
    b"%d.5,9.5,9.5,9.5,9.5,1,2\n" % (FIRST + 60): f"its time {FIRST + 60}.5 is no whole second",
    b"1000000000,9.5,9.5,9.5,9.5,1,2\n": "its time 1000000000 lies outside 2011 to 2262",
    b"%d000,9.5,9.5,9.5,9.5,1,2\n" % FIRST: f"its time {FIRST}000 lies outside 2011 to 2262",
    b"%d,9.5,9.5,9.5,9.5,1,2\n" % (FIRST + 61): "no candle of 1 minutes opens then",
    GOOD: "it does not come after the one of 2024-01-20T23:00:00Z above it",
    b"%d,9.5,9.5,9.5,9.5,1,2" % (FIRST + 60): (
        "it has no line end, so the file may have been cut off: give an undamaged copy of it"
    ),
}


def refusal(folder: Path, data: bytes) -> str:
    path = folder / "XBTUSD_1.csv"
    path.write_bytes(data)
    [member] = find([str(path)])
    with pytest.raises(BadFile) as caught:
        list(read_candle_file(member, 1))
    return str(caught.value)


@pytest.mark.parametrize("line", BAD)
def test_a_bad_row_is_named_by_file_and_line_with_the_reason(line: bytes, tmp_path: Path) -> None:
    shown = line.decode().strip()
    assert refusal(tmp_path, GOOD + line) == (
        f"XBTUSD_1.csv, line 2: {shown!r} can't be read: {BAD[line]}; nothing is concluded from "
        "this file"
    )


@pytest.mark.parametrize("place", range(18, 24))
def test_lines_are_counted_over_headers_blank_lines_and_blocks(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the row that goes back is the first of a block or not."""
    monkeypatch.setattr("harvester.csv_import.csv_files.BLOCK_BYTES", 100)
    rows = [b"%d,9.5,9.5,9.5,9.5,1,2\n" % (FIRST + 60 * n) for n in range(30)]
    rows[10] += b"\n"
    rows[place] = rows[3]
    message = refusal(tmp_path, b"time,open,high,low,close,volume,trades\n" + b"".join(rows))
    assert message.startswith(f"XBTUSD_1.csv, line {place + 3}: ")
    assert f"it does not come after the one of 2024-01-20T23:{place - 1}:00Z above it" in message


def test_a_bad_row_ends_its_file_and_no_other(whole: TradeStore, tmp_path: Path) -> None:
    def change(rows: list[Line]) -> list[Line]:
        if len(rows) == len(lines(60)):
            rows[5][2] = "high"
        return rows

    found = report(whole, zipped(tmp_path, change, [60, 1440]))
    assert [file.interval.compared for file in found.files] == [0, len(lines(1440))]
    assert [str(error) for error in found.errors] == [
        "Kraken_OHLCVT.zip:OHLCVT/XBTUSD_60.csv, line 6: "
        f"{','.join(change(lines(60))[5])!r} can't be read: high 'high' is no number; nothing is "
        "concluded from this file"
    ]
    assert found.exit_status == 2


def test_a_member_that_its_checksum_belies_is_damaged(whole: TradeStore, tmp_path: Path) -> None:
    path = Path(zipped(tmp_path, list, [1]))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 16] ^= 1
    path.write_bytes(data)
    found = report(whole, str(path))
    assert [str(error) for error in found.errors] == [
        "Kraken_OHLCVT.zip:OHLCVT/XBTUSD_1.csv is damaged: its bytes do not match its checksum"
    ]
    assert found.exit_status == 2


# --- names ---------------------------------------------------------------------------------------


def test_files_are_chosen_by_their_names(tmp_path: Path) -> None:
    names = ["XBTUSD_1", "BTCUSD_60", "ETHUSD_1", "OLDUSD_1", "XBTUSD", "XBTUSD_0", "XBTUSD_1h"]
    path = csv_files.packed(tmp_path / "K.zip", {f"x/{name}.csv": b"" for name in names})
    known = [
        Pair(altname="XBTUSD", key="XXBTZUSD", wsname="XBT/USD"),
        Pair(altname="ETHUSD", wsname="ETH/USD"),
    ]
    chosen = choose_files(find([str(path)]), ["XBTUSD", "ADAUSD"], known)
    assert {
        name: [(file.member.stem, file.minutes) for file in files]
        for name, files in chosen.files.items()
    } == {"XBTUSD": [("XBTUSD_1", 1), ("BTCUSD_60", 60)], "ADAUSD": []}
    assert chosen.of_other_pairs == 1
    assert [file.stem for file in chosen.unknown] == ["OLDUSD_1", "XBTUSD", "XBTUSD_0", "XBTUSD_1h"]


# --- in bounded memory ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("Kraken_OHLCVT_Q1_2024.zip", 1),
        ("some.zip", 50),
        ("Kraken_OHLCVT_Q1_2024.zip", 50),
        ("some.zip", 3_000),
    ],
)
def test_a_file_that_is_read_in_parts_is_compared_as_a_whole(
    name: str, rows: int, whole: TradeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is missing at the ends of the parts and between them."""

    def change(rows_: list[Line]) -> list[Line]:
        return [row for place, row in enumerate(rows_) if place % 50 not in (0, 49)]

    path = zipped(tmp_path, change, [60], name)
    at_once = only(whole, path)
    assert at_once.differing > 0
    monkeypatch.setattr("harvester.csv_import.csv_files.BLOCK_BYTES", 100)
    monkeypatch.setattr("harvester.verify.against_kraken.CHUNK_ROWS", rows)
    assert only(whole, path) == at_once


# --- as a command --------------------------------------------------------------------------------


def test_the_report_for_people(tmp_path: Path) -> None:
    sound(tmp_path)
    opens = int(lines(60)[5][0])

    def change(rows: list[Line]) -> list[Line]:
        for row in rows:
            if len(rows) == len(lines(60)) and row[0] == str(opens):
                row[6] = raised(row[6])
        return rows

    zipped(tmp_path, change, [60, 1440])
    ran = run(tmp_path, "verify", "btc/usd", "--against-csv", "Kraken_OHLCVT.zip")
    hours, days = len(lines(60)), len(lines(1440))
    count = lines(60)[5][6]
    assert ran.stdout.splitlines()[-4:] == [
        f"XBTUSD against the files: 1 DIFFER: {hours + days} candles compared, 0 skipped",
        f"  60m, Kraken_OHLCVT.zip:OHLCVT/XBTUSD_60.csv: {hours} compared, 1 differ",
        f"    XBTUSD 60m 2024-01-21T{opens // 3600 % 24:02d}:00:00Z count: archive {count}, "
        f"exchange {int(count) + 1}",
        f"  1440m, Kraken_OHLCVT.zip:OHLCVT/XBTUSD_1440.csv: {days} compared, 0 differ",
    ]
    assert (ran.returncode, ran.stderr) == (4, "")


def test_the_report_as_json(tmp_path: Path) -> None:
    sound(tmp_path)
    zipped(tmp_path, minutes=[60])
    ran = run(tmp_path, "verify", "--against-csv", "Kraken_OHLCVT.zip", "--json")
    [found] = json.loads(ran.stdout)
    assert found["csv"] == {
        "pair": "XBTUSD",
        "files": [
            {
                "file": "Kraken_OHLCVT.zip:OHLCVT/XBTUSD_60.csv",
                "minutes": 60,
                "compared": len(lines(60)),
                "differing": 0,
                "skipped": {},
                "shortened": 0,
                "at_boundary": 0,
                "within_float_rounding": 0,
                "miscounted": 0,
                "exchange_trades": 4_000,
                "archive_trades": 4_000,
                "differences": [],
                "unlisted": 0,
                "notes": [],
                "error": None,
            }
        ],
        "compared": len(lines(60)),
        "differing": 0,
        "skipped": 0,
        "exit_status": 0,
    }
    assert (ran.returncode, "exchange" in found, ran.stderr) == (0, False, "")


def test_files_and_the_exchange_may_be_held_against_at_once(tmp_path: Path) -> None:
    """Here the exchange is down, which does not keep the files from being compared."""
    sound(tmp_path)
    zipped(tmp_path, minutes=[60])
    options = ("--against-csv", "Kraken_OHLCVT.zip", "--against-exchange", "--json", "-q")
    ran = run(tmp_path, "verify", *options)
    [found] = json.loads(ran.stdout)
    assert (found["exchange"]["exit_status"], found["csv"]["exit_status"]) == (3, 0)
    assert (found["csv"]["compared"], ran.returncode) == (len(lines(60)), 3)


def test_files_of_other_pairs_are_skipped_and_reported(tmp_path: Path) -> None:
    sound(tmp_path)
    data = text(lines(1440))
    names = ["XBTUSD_1440", "OLDUSD_1440", "notes"]
    csv_files.packed(tmp_path / "K.zip", {f"{name}.csv": data for name in names})
    (tmp_path / "data" / "pairs.json").write_text('{"ETHUSD":{"altname":"ETHUSD"}}')
    csv_files.packed(tmp_path / "L.zip", {"ETHUSD_1.csv": b"", "ETHUSD_5.csv": b""})
    ran = run(tmp_path, "verify", "--against-csv", "K.zip", "--against-csv", "L.zip")
    assert ran.stdout.splitlines()[-2].startswith("XBTUSD against the files: equal: ")
    assert ran.stderr.splitlines() == [
        "skipped: 2 files of pairs that are not requested or not stored",
        "skipped: 2 files not named after the candles of a known pair, such as "
        "XBTUSD_60.csv: K.zip:OLDUSD_1440.csv, K.zip:notes.csv",
    ]
    assert ran.returncode == 0


def test_a_pair_that_was_named_and_has_no_file_is_no_success(tmp_path: Path) -> None:
    sound(tmp_path)
    csv_files.packed(tmp_path / "K.zip", {"OLDUSD_1.csv": b""})
    ran = run(tmp_path, "verify", "XBTUSD", "--against-csv", "K.zip", "-q")
    assert ran.stdout.splitlines()[-1] == (
        "XBTUSD against the files: nothing compared: no file is of this pair"
    )
    assert (ran.returncode, ran.stderr) == (4, "")
    ran = run(tmp_path, "verify", "--against-csv", "K.zip", "-q")
    assert (ran.returncode, ran.stderr) == (
        4,
        "harvester: nothing compared: no file has candles of a stored pair\n",
    )


def test_a_bad_row_is_one_line_and_ends_with_2(tmp_path: Path) -> None:
    sound(tmp_path)
    (tmp_path / "XBTUSD_1440.csv").write_bytes(text(lines(1440)) + b"none\n")
    ran = run(tmp_path, "verify", "--against-csv", "XBTUSD_1440.csv")
    line = len(lines(1440)) + 1
    assert ran.stderr == (
        f"harvester: XBTUSD: XBTUSD_1440.csv, line {line}: 'none' can't be read: it has 1 fields "
        "instead of 7; nothing is concluded from this file\n"
    )
    assert ran.stdout.splitlines()[-1] == "XBTUSD against the files: 1 of 1 FILES NOT READ"
    assert ran.returncode == 2


def test_a_hostile_zip_is_refused_in_one_line_before_anything_is_read(tmp_path: Path) -> None:
    sound(tmp_path)
    csv_files.packed(tmp_path / "K.zip", {"../XBTUSD_60.csv": b""})
    ran = run(tmp_path, "verify", "--against-csv", "K.zip")
    assert (ran.returncode, ran.stdout, ran.stderr) == (
        2,
        "",
        "harvester: K.zip: its member '../XBTUSD_60.csv' has a path that leads out of the archive: "
        "nothing of it was read\n",
    )


def test_progress_is_counted_in_bytes(tmp_path: Path) -> None:
    sound(tmp_path)
    zipped(tmp_path, minutes=[1, 60])
    ran = run(tmp_path, "verify", "--against-csv", "Kraken_OHLCVT.zip", "--log-json")
    size = len(text(lines(1))) + len(text(lines(60)))
    steps = [json.loads(splitline) for splitline in ran.stderr.splitlines()]
    progress = [(step["done"], step["of"]) for step in steps if step.get("unit") == "bytes"]
    assert progress[-1] == (size, size)
    assert (ran.returncode, sorted(progress)) == (0, progress)


def test_ctrl_c_ends_it_with_130(tmp_path: Path) -> None:
    sound(tmp_path)
    # Long enough to be still read when the signal comes.
    line = "1500000000,1.5,1.5,1.5,1.5,1.00000000,1\n"
    (tmp_path / "XBTUSD_1.csv").write_text(line * 3_000_000)
    process = subprocess.Popen(
        [*HARVESTER, "verify", "--against-csv", "XBTUSD_1.csv"],
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert first.startswith("XBTUSD: sound: ")
    assert (process.returncode, err.strip()) == (130, "harvester: interrupted")


# --- Kraken's own --------------------------------------------------------------------------------


@pytest.mark.skipif(
    not CAPTURED.is_dir(), reason=f"Kraken's captured answers are not at {CAPTURED}"
)
def test_the_hours_of_2018_are_krakens(tmp_path: Path) -> None:
    with (CAPTURED / "trades_XBTUSD_2018-05-08.csv").open(newline="") as file:
        rows = [
            [trade["price"], trade["volume"], trade["time"], trade["buy_or_sell"], "l", ""]
            for trade in csv.DictReader(file)
        ]
    market = Market.from_rows(rows)
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(market.trades))
    done = run(tmp_path, "import", "XBTUSD.csv", "--pair", "XBTUSD", "--delisted")
    assert done.returncode == 0
    path = tmp_path / "XBTUSD_60.csv"
    path.write_bytes((CAPTURED / "ohlcvt_XBTUSD_60_2018-05-08.csv").read_bytes())
    stamps, hour = [trade.true_ns for trade in market.trades], 60 * MINUTE
    # The first and the last hour of the capture are not whole.
    within = range(min(stamps) // hour + 1, max(stamps) // hour)
    opens = [int(line.partition(",")[0]) * 10**9 // hour for line in path.read_text().splitlines()]
    found = only(TradeStore(tmp_path / "data"), str(path))
    assert (found.compared, found.differing) == (len(within), 0)
    assert found.skipped == {
        "before the stored trades": sum(open_ns < within.start for open_ns in opens),
        "after the stored trades": sum(open_ns >= within.stop for open_ns in opens),
    }
