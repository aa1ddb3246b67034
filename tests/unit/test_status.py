"""What an archive holds, at a glance: from names and footers, whatever became of the files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from stored_trades import made_rows, put

from harvester.cli import output
from harvester.cli.status import _redraw
from harvester.cli.status_table import (
    ASCII,
    BLOCKS,
    TableStyle,
    age,
    month_bars,
    remarks,
    status_text,
    status_to_dict,
    year_bar,
    years,
)
from harvester.progress import is_utf8_locale
from harvester.storage.locks_and_requests import Requests, write_requests
from harvester.storage.trade_store import TradeStore
from harvester.times import DAY, SECOND, Range
from harvester.verify import status as module
from harvester.verify.status import PairStatus, SegmentSummary, SegmentSummaryCache, status

PAIR = "XBTUSD"
YEAR_2020 = 1_577_836_800 * SECOND
"""Its first moment; 2020 has 366 days."""


def days(first: int, last: int) -> Range:
    """From the beginning of one day of 2020, counted from 0, to that of another."""
    return Range(YEAR_2020 + first * DAY - 1, YEAR_2020 + last * DAY - 1)


def daily(first: int, last: int, a_day: int) -> list[object]:
    """So many trades a day, evenly."""
    begin = YEAR_2020 + first * DAY
    return made_rows([begin + i * DAY // a_day for i in range((last - first) * a_day)])


@pytest.fixture
def archive(tmp_path: Path) -> TradeStore:
    """One hundred days of 100 trades a day, a gap of ten days, and ten days more."""
    trade_store = TradeStore(tmp_path / "data")
    write_requests(trade_store.store, PAIR, Requests([days(0, 120)]))
    put(trade_store, days(0, 100), daily(0, 100, 100))
    put(trade_store, days(110, 120), daily(110, 120, 100))
    return trade_store


def test_status_of_a_pair_has_all_fields(archive: TradeStore) -> None:
    [pair_status] = status(archive, None, YEAR_2020 + 130 * DAY - 1)
    sizes = [path.stat().st_size for path in archive.root.glob("trades/*/*/*.parquet")]
    assert pair_status == PairStatus(
        PAIR,
        trades=11_000,
        first_ns=YEAR_2020,
        last_ns=YEAR_2020 + 120 * DAY - DAY // 100,
        coverage=[days(0, 100), days(110, 120)],
        wanted=[days(0, 120)],
        gaps=[days(100, 110)],
        files=2,
        bytes=sum(sizes),
        rollups_wanted=2,
        age_s=10 * 86_400,
        # A thousand trades each by what lies beside them, and two calls for either.
        calls_for_gaps=3,
        calls_to_now=3,
    )
    assert pair_status.exit_status == 4


def test_a_gap_is_found_if_the_record_of_requested_ranges_is_lost(archive: TradeStore) -> None:
    (archive.root / f"wanted/{PAIR}.json").unlink()
    [pair_status] = status(archive, None, YEAR_2020 + 130 * DAY)
    assert (pair_status.wanted, pair_status.gaps, pair_status.exit_status) == (
        [days(0, 120)],
        [days(100, 110)],
        4,
    )


def test_no_row_group_is_read(archive: TradeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("rows were read")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile.iter_batches", read)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.read", read)
    assert status(archive, None, YEAR_2020)[0].trades == 11_000


def test_a_segment_beside_its_merger_counts_once(archive: TradeStore) -> None:
    put(archive, days(0, 10), daily(0, 10, 100))
    [pair_status] = status(archive, None, YEAR_2020)
    assert (pair_status.trades, pair_status.files) == (11_000, 3)


def test_a_pair_that_was_only_requested_is_a_single_gap(archive: TradeStore) -> None:
    write_requests(archive.store, "ETHUSD", Requests([days(0, 1)]))
    pair_status = status(archive, None, YEAR_2020)[0]
    assert (pair_status.pair, pair_status.files, pair_status.gaps, pair_status.calls) == (
        "ETHUSD",
        0,
        [days(0, 1)],
        None,
    )


def test_a_damaged_file_is_named_and_hides_nothing_else(archive: TradeStore) -> None:
    [broken] = archive.root.glob("trades/*/*/*1586476799999999999.parquet")
    broken.write_bytes(b"PAR1 and no more")
    [pair_status] = status(archive, None, YEAR_2020 + 130 * DAY)
    assert (pair_status.trades, pair_status.files, pair_status.exit_status) == (1_000, 2, 4)
    assert [line.startswith(f"{broken} can't be read: ") for line in pair_status.damaged] == [True]
    assert remarks([pair_status])[0].startswith(f"XBTUSD: {broken} can't be read: ")


def test_files_that_vanish_are_listed_again(
    archive: TradeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gone = module.read_summary, [True]

    def read(*args: object) -> SegmentSummary:
        if gone:
            gone.pop()
            raise FileNotFoundError
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read_summary", read)
    assert status(archive, None, YEAR_2020)[0].trades == 11_000


# What is remembered of footers.


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_READ_TO_SAVE", 1)


@pytest.mark.usefixtures("keeping")
def test_a_footer_that_is_remembered_is_not_read_again(
    archive: TradeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = status(archive, None, YEAR_2020)

    def read(*_: object) -> SegmentSummary:
        raise AssertionError("a footer was read")

    monkeypatch.setattr(module, "read_summary", read)
    assert status(TradeStore(archive.root), None, YEAR_2020) == before


@pytest.mark.usefixtures("keeping")
def test_a_file_that_was_replaced_is_read_again(archive: TradeStore) -> None:
    """Of the same name and the same size, as a repair may leave it."""
    status(archive, None, YEAR_2020)
    segment = archive.segments(PAIR)[1]
    assert SegmentSummaryCache(archive).get(segment).rows == 1_000
    (archive.root / segment.path).unlink()
    put(archive, days(110, 120), daily(110, 120, 50))
    again = archive.segments(PAIR)[1]._replace(size=segment.size)
    assert SegmentSummaryCache(archive).get(again).rows == 500


MEMORIES = [
    *(b"", b"{", b'{"format":9,"segments":{}}', b"\xff\xfe", b"[]"),
    pytest.param(b'{"x":' + b"[" * 100_000, id="nested"),
]


@pytest.mark.usefixtures("keeping")
@pytest.mark.parametrize("content", MEMORIES)
def test_an_unreadable_cache_is_ignored(archive: TradeStore, content: bytes) -> None:
    before = status(archive, None, YEAR_2020)
    (archive.root / module.CACHE_PATH).write_bytes(content)
    assert status(TradeStore(archive.root), None, YEAR_2020) == before


@pytest.mark.usefixtures("keeping")
def test_removed_segments_are_removed_from_the_cache(archive: TradeStore) -> None:
    status(archive, None, YEAR_2020)
    put(archive, days(120, 121), daily(120, 121, 10))
    [gone] = archive.root.glob("trades/*/*/*1586476799999999999.parquet")
    gone.unlink()
    status(TradeStore(archive.root), None, YEAR_2020)
    kept = (archive.root / module.CACHE_PATH).read_text()
    assert ("1586476799999999999" in kept, "1588291199999999999" in kept) == (False, True)


@pytest.mark.usefixtures("keeping")
def test_the_status_of_an_unwritable_archive_is_shown(
    archive: TradeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", write)
    assert status(archive, None, YEAR_2020)[0].trades == 11_000
    assert not (archive.root / module.CACHE_PATH).exists()


def test_a_small_archive_is_left_as_it_is(archive: TradeStore) -> None:
    status(archive, None, YEAR_2020)
    assert not (archive.root / "cache").exists()


# The table.

ONE = PairStatus(
    "XBTUSD",
    "XBT/USD",
    trades=85_123_456,
    first_ns=1_381_095_255 * SECOND,
    last_ns=YEAR_2020 + 120 * DAY,
    coverage=[Range(0, YEAR_2020 - 1), days(61, 120)],
    wanted=[Range(0, YEAR_2020 + 120 * DAY)],
    gaps=[days(0, 61)],
    files=31,
    bytes=912_345_678,
    rollups={"1m": 31, "1h": 30},
    rollups_wanted=31,
    age_s=10_800,
    calls_for_gaps=1_200,
    calls_to_now=4,
)
TWO = PairStatus("ETHEUR", trades=5, first_ns=YEAR_2020, coverage=[days(0, 120)], age_s=60)
LEVELS = ("1m", "1h")


def test_the_table_of_a_pair_shows_its_gaps_month_by_month() -> None:
    assert status_text([ONE], LEVELS, TableStyle(None, BLOCKS)) == (
        "pair        trades       first        last  age   2013-20  gaps  calls left  files"
        "     MB  B/trade     roll-ups\n"
        "XBTUSD  85,123,456  2013-10-06  2020-04-30   3h  ███████▒     1       1,204     31"
        "  912.3     10.7  1m 1h 30/31\n"
        "\n"
        "XBTUSD by month: █ complete  ▒ in part  ░ a gap  · not requested\n"
        "  2013 ████████████  2014 ████████████  2015 ████████████  2016 ████████████\n"
        "  2017 ████████████  2018 ████████████  2019 ████████████  2020 ░░▒█········"
    )


def test_a_narrow_terminal_leaves_out_the_last_columns() -> None:
    shown = status_text([ONE, TWO], LEVELS, TableStyle(80, ASCII)).split("\n")
    assert shown[:4] == [
        "pair         trades        last  age   2013-20  gaps  calls left  files     MB",
        "XBTUSD   85,123,456  2020-04-30   3h  #######+     1       1,204     31  912.3",
        "ETHEUR            5               1m  .......#     0           ?      0    0.0",
        "2 pairs  85,123,461  2020-04-30   3h               1   1,204 + ?     31  912.3",
    ]
    assert max(len(line) for line in shown) <= 80


def test_on_a_very_narrow_terminal_no_line_wraps() -> None:
    assert status_text([ONE], LEVELS, TableStyle(40, ASCII)).split("\n")[:2] == [
        "pair        trades  age  gaps",
        "XBTUSD  85,123,456   3h     1",
    ]


def test_columns_are_dropped_in_the_given_order_until_the_rest_fits() -> None:
    rows = [["XBTUSD", "complete", "12", "3"]]
    shown = {
        room: output.columns(
            ["pair", "state", "added", "calls"],
            rows,
            left=2,
            drop_order=("calls", "state"),
            max_width=room,
        )
        for room in (None, 29, 28, 21, 10)
    }
    assert shown == {
        None: "pair    state     added  calls\nXBTUSD  complete     12      3",
        29: "pair    state     added\nXBTUSD  complete     12",
        28: "pair    state     added\nXBTUSD  complete     12",
        21: "pair    added\nXBTUSD     12",
        10: "pair    added\nXBTUSD     12",
    }


def test_of_many_pairs_months_are_shown_on_request() -> None:
    many = [ONE] * 4
    assert "by month" not in status_text(many, LEVELS, TableStyle(None, ASCII))
    assert status_text(many, LEVELS, TableStyle(None, ASCII), detailed=True).count("by month") == 4


def test_years_begin_with_the_first_trade_or_gap() -> None:
    assert (years([ONE]), years([TWO]), years([PairStatus("A")])) == (
        range(2013, 2021),
        range(2020, 2021),
        range(0),
    )


def test_time_between_two_downloads_that_was_not_requested_is_not_complete() -> None:
    two = PairStatus("A", trades=5, first_ns=YEAR_2020, coverage=[days(0, 20), days(30, 130)])
    assert month_bars(two, ASCII, 80) == ["  2020 +####......."]
    assert year_bar(two, range(2019, 2021), BLOCKS) == "·▒"
    far = PairStatus("A", trades=5, first_ns=YEAR_2020, coverage=[days(0, 20), days(70, 130)])
    assert month_bars(far, ASCII, 80) == ["  2020 +.+##......."]
    assert remarks([two]) == ["A: between downloads, never requested: 2020-01-21 to 2020-01-31"]
    assert status_to_dict(two)["never_requested"] == [days(20, 30)]


def test_time_that_was_never_requested_is_no_gap() -> None:
    assert year_bar(TWO, range(2019, 2021), BLOCKS) == "·█"
    assert month_bars(TWO, ASCII, 80) == ["  2020 ####........"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, ""), (59, "59s"), (60, "1m"), (7_200, "2h"), (86_400, "24h"), (172_800, "2d")],
)
def test_ages_are_short(seconds: int | None, said: str) -> None:
    assert age(seconds) == said


def test_a_gap_is_shown_in_dates_and_with_exact_in_nanoseconds() -> None:
    found = [PairStatus(PAIR, coverage=[days(366, 400)], gaps=[days(0, 366), days(400, 401)])]
    lines = [
        f"{PAIR}: not covered: 2020-01-01 to 2021-01-01",
        f"{PAIR}: not covered: 2021-02-04 to 2021-02-05",
    ]
    assert remarks(found) == lines
    assert remarks(found, exact=True) == [
        f"{lines[0]} (1577836799999999999, 1609459199999999999]",
        f"{lines[1]} (1612396799999999999, 1612483199999999999]",
    ]


def test_of_hundreds_of_gaps_the_first_are_shown() -> None:
    steps = [Range(i, i + 1) for i in range(100)]
    many = PairStatus("A", coverage=steps[1::2], gaps=steps[::2])
    said = remarks([many])
    assert (len(said), said[-1]) == (21, "and 30 more gaps; --json shows all")


@pytest.mark.parametrize(
    ("environment", "speaks"),
    [
        ({"LANG": "en_US.UTF-8"}, True),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, False),
        ({"LC_CTYPE": "C.UTF-8"}, True),
        ({"LANG": "de_DE.utf8", "LC_ALL": "C"}, False),
        ({"LANG": "de_DE.ISO-8859-1"}, False),
    ],
)
def test_the_locale_decides_which_signs_are_drawn(
    environment: dict[str, str], speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_utf8_locale() is speaks


def test_ctrl_c_is_how_a_watch_on_a_terminal_ends() -> None:
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    file = io.StringIO()
    console = Console(file=file, width=20, height=5, force_terminal=True, color_system=None)
    ended = _redraw(lambda: f"look {len(naps)}", 2.0, sleep, console)
    assert (ended, naps) == (0, [2.0, 2.0, 2.0])
    assert [f"look {number}" in file.getvalue() for number in range(4)] == [True] * 3 + [False]
    # It is drawn on a screen of its own, which is gone afterwards.
    assert file.getvalue().startswith("\x1b[?1049h")
    assert "\x1b[?1049l" in file.getvalue()
