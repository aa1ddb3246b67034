"""Charts: what stands in them, what is said of them, and how they are kept."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import candle_oracle
import msgspec
import numpy as np
import pytest
import sample_trades
from candle_cases import MINUTE, SECOND, START, cut, hold, trade
from command_line import own_environment, run_harvester, run_program
from kraken_market import expected

import harvester
from harvester.charts import figure
from harvester.charts.candle_arrays import escape_for_plotly, format_decimal
from harvester.charts.chart import LADDER, MAX_CANDLES, Chart, drawable
from harvester.errors import ArchiveUnwritable, NothingStored, UsageError, not_installed
from harvester.kraken.pairs import Pair
from harvester.query.candles import QuerySession
from harvester.query.plan import CandleQuery, max_candles
from harvester.server.sample_data import create_sample_archive
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.trade_store import TradeStore as Disk
from harvester.storage.writer import open_writer
from harvester.times import DAY, END_OF_TIME, Range, parse_interval

EVER = Range(0, END_OF_TIME)
DAY_ONE = 1_600_041_600 * SECOND
"""2020-09-14T00:00Z."""


def held(path: Path, parts: list[tuple[Range, list[candle_oracle.Row]]]) -> harvester.Archive:
    """An archive of an XBT/USD of these trades."""
    disk = Disk(path)
    pair = Pair(altname="XBTUSD", wsname="XBT/USD", pair_decimals=1)
    store_pairs(disk.store, msgspec.json.encode({"XBTUSD": pair}))
    hold(disk, parts)
    return harvester.open(path)


def at(
    hours: float, price: str = "10", volume: str = "1", side: str | None = "buy"
) -> candle_oracle.Row:
    """A trade some hours after the first day began."""
    return trade((DAY_ONE - START) / SECOND + hours * 3600, price, volume, side)


def days(first: float, last: float) -> Range:
    """From one day through the nanosecond before another, counted from the first."""
    return Range(DAY_ONE + int(first * DAY) - 1, DAY_ONE + int(last * DAY) - 1)


def trace(chart: Chart, name: str) -> Any:
    [found] = [drawn for drawn in chart.figure.data if drawn.name == name]
    return found


@pytest.fixture
def three(tmp_path: Path) -> harvester.Archive:
    """Trades of two hours, one of unknown side, all of the day covered."""
    rows = [
        at(1.0, "100.5", "2.00000001"),
        at(1.25, "103.0", "1", "sell"),
        at(1.5, "99.5", "0.5", None),
        at(2.0, "101.0", "1"),
    ]
    return held(tmp_path / "data", [(days(0, 1), rows)])


def test_candles_stand_amid_their_hour_with_their_prices(three: harvester.Archive) -> None:
    chart = three.chart("XBT/USD", "1h")
    candles = trace(chart, "candles")
    assert [str(moment) for moment in candles.x] == [
        "2020-09-14T01:30:00.000000",
        "2020-09-14T02:30:00.000000",
    ]
    assert list(candles.open) == [100.5, 101.0]
    assert list(candles.high) == [103.0, 101.0]
    assert list(candles.low) == [99.5, 101.0]
    assert list(candles.close) == [99.5, 101.0]
    value = 100.5 * 2.00000001 + 103.0 + 99.5 * 0.5
    assert trace(chart, "vwap").y == pytest.approx([value / 3.50000001, 101.0])
    assert (chart.title, chart.notes) == (
        "XBT/USD, 1h candles, 2020-09-14 01:00 to 2020-09-14 03:00 (UTC)",
        (),
    )


def test_volume_is_shown_by_the_takers_side_and_apart_where_that_is_unknown(
    three: harvester.Archive,
) -> None:
    chart = three.chart("XBT/USD", "1h")
    assert list(trace(chart, "takers buy").y) == [2.00000001, 1.0]
    assert list(trace(chart, "takers sell").y) == [1.0, 0.0]
    assert list(trace(chart, "side unknown").y) == [0.5, 0.0]
    later = three.chart("XBT/USD", "1h", since="2020-09-14T02:00")
    names = [drawn.name for drawn in later.figure.data]
    assert names == ["candles", "vwap", "takers buy", "takers sell", "hover"]


def test_the_figures_of_a_candle_are_exact(three: harvester.Archive) -> None:
    first = trace(three.chart("XBT/USD", "1h"), "hover").customdata[0]
    assert list(first) == [
        *("2020-09-14 01:00", "100.5", "103.0", "99.5", "99.5", "101.071"),
        *("3.50000001", "2.00000001", "1", "3", ""),
    ]


def test_a_candle_that_stands_alone_is_as_wide_as_its_interval(three: harvester.Archive) -> None:
    candles = trace(three.chart("XBT/USD", "1m"), "candles")
    places = np.array(candles.x, dtype="datetime64[ns]").astype(np.int64)
    assert np.diff(places).min() == MINUTE
    assert len(candles.x) == 5
    assert np.isnan(candles.high[-1])


def test_a_gap_is_shaded_labelled_and_noted(tmp_path: Path) -> None:
    parts = [(days(0, 1), [at(5)]), (days(3, 4), [at(3 * 24 + 5)])]
    chart = held(tmp_path / "data", parts).chart("XBT/USD", "1h")
    [shade] = chart.figure.layout.shapes
    assert (shade.x0, shade.x1) == ("2020-09-15T00:00:00.000000", "2020-09-17T00:00:00.000000")
    assert [annotation.text for annotation in chart.figure.layout.annotations] == [
        "not downloaded: 2020-09-15 to 2020-09-17"
    ]
    assert chart.notes == ("not downloaded: 2020-09-15 to 2020-09-17",)


def test_the_vwap_breaks_where_a_gap_is_and_nowhere_else(tmp_path: Path) -> None:
    rows = [at(1), at(2), at(9)]
    parts = [(days(0, 1), rows), (days(3, 4), [at(3 * 24 + 5)])]
    vwap = trace(held(tmp_path / "data", parts).chart("XBT/USD", "1h"), "vwap")
    assert [bool(is_nan) for is_nan in np.isnan(vwap.y)] == [False, False, False, True, False]


def test_a_range_of_since_and_until_that_is_not_stored_is_a_gap(
    tmp_path: Path,
) -> None:
    archive = held(tmp_path / "data", [(days(2, 3), [at(50)])])
    chart = archive.chart("XBT/USD", "1h", since="2020-09-14", until="2020-09-18T12:00")
    assert chart.title == "XBT/USD, 1h candles, 2020-09-14 to 2020-09-18 12:00 (UTC)"
    assert [annotation.text for annotation in chart.figure.layout.annotations] == [
        "not downloaded: 2020-09-14 to 2020-09-16",
        "not downloaded: 2020-09-17 to 2020-09-18 12:00",
    ]
    assert chart.notes == (
        "not downloaded: 2020-09-14 to 2020-09-16, 2020-09-17 to 2020-09-18 12:00",
    )


def test_what_was_ever_wanted_is_a_gap_where_it_is_not_held(tmp_path: Path) -> None:
    archive = held(tmp_path / "data", [(days(1, 2), [at(30)])])
    with open_writer(Disk(tmp_path / "data"), "XBTUSD") as pair_writer:
        pair_writer.record_requested(days(0, 3))
    chart = archive.chart("XBT/USD", "1h")
    assert chart.notes == ("not downloaded: 2020-09-14 to 2020-09-15, 2020-09-16 to 2020-09-17",)
    assert "2 ranges are not downloaded, the widest from 2020-09-14 to 2020-09-15" in chart.html()


def test_what_is_yet_to_come_is_no_gap(tmp_path: Path) -> None:
    archive = held(tmp_path / "data", [(days(0, 1), [at(5)])])
    chart = archive.chart("XBT/USD", "1h", until="2200-01-01")
    assert (chart.notes, chart.figure.layout.shapes) == ((), ())
    assert chart.title == "XBT/USD, 1h candles, 2020-09-14 05:00 to 2020-09-14 06:00 (UTC)"


def test_a_history_wanted_from_the_beginning_moves_the_axis_no_further_than_the_candles(
    tmp_path: Path,
) -> None:
    archive = held(tmp_path / "data", [(days(0, 1), [at(5)])])
    with open_writer(Disk(tmp_path / "data"), "XBTUSD") as pair_writer:
        pair_writer.record_requested(Range(0, days(0, 1).through))
    chart = archive.chart("XBT/USD", "1h")
    assert chart.notes == ("not downloaded: the beginning to 2020-09-14",)
    assert chart.figure.layout.xaxis.range[0] > "2020-09-14T04:"


def test_more_gaps_than_can_be_seen_are_shaded_together_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure, "MIN_GAP_WIDTH", 1 / 60)
    parts = [
        (
            Range(days(0, 0).through + i * MINUTE, days(0, 0).through + i * MINUTE + MINUTE // 2),
            [at(i / 60)],
        )
        for i in range(71)
    ]
    chart = held(tmp_path / "data", parts).chart("XBT/USD", "1m")
    assert 1 <= len(chart.figure.layout.shapes) <= 60
    assert len(chart.figure.layout.annotations) <= 5
    assert chart.notes[0].startswith("not downloaded: ")
    assert " and 65 more; 70 gaps, " in chart.notes[0]


# --- coarser -------------------------------------------------------------------------------------


def test_more_candles_than_a_screen_shows_become_coarser_with_a_note(tmp_path: Path) -> None:
    rows = [at(i / 3600) for i in range(10_000)]
    archive = held(tmp_path / "data", [(Range(0, days(0, 1).through), rows)])
    chart = archive.chart("XBT/USD", "1s")
    assert chart.title == "XBT/USD, 5s candles, 2020-09-14 to 2020-09-14 02:46:40 (UTC)"
    assert chart.notes == (
        "1s would be up to 10,000 candles, more than a screen shows: 5s instead",
    )
    assert len(trace(chart, "candles").x) == 2_000
    assert archive.chart("XBT/USD", "5s").notes == ()


def test_the_intervals_of_a_chart_are_in_ascending_order() -> None:
    lengths = [interval.average_width_ns for interval in LADDER]
    assert lengths == sorted(set(lengths))
    assert parse_interval("7m").average_width_ns == 7 * MINUTE


@pytest.mark.parametrize("interval", ["1s", "90s", "7m", "1h", "1d", "1mo"])
def test_no_more_candles_come_than_were_expected(tmp_path: Path, interval: str) -> None:
    rows = list(expected(sample_trades.market(sample_trades.xbtusd_like(2_000, 5))))
    stamps = [row[1] for row in rows]
    archive = hold(Disk(tmp_path), cut(rows, sorted({0, *stamps[::37], stamps[-1] + DAY})))
    question = CandleQuery("XBTUSD", parse_interval(interval), EVER)
    most = QuerySession(archive).with_snapshot_retry(
        question, lambda plan: max_candles(archive, plan)
    )
    made = len({stamp // question.interval.average_width_ns for stamp in stamps})
    assert made <= most <= len(rows)
    if interval in ("1h", "1d"):
        assert most == made


def test_a_question_that_a_screen_can_show_is_left_as_it_is(tmp_path: Path) -> None:
    create_sample_archive(tmp_path / "data", 20_000, 7)
    asked = CandleQuery("XBTUSD", parse_interval("7m"), EVER)
    drawn, requested_candles = drawable(Disk(tmp_path / "data"), asked)
    assert drawn is asked
    assert requested_candles <= MAX_CANDLES


# --- words ---------------------------------------------------------------------------------------


def test_names_of_others_are_written_so_that_they_are_only_text() -> None:
    given = "<b>&%{x}$1$\"'\n\x00\u202e"
    assert unescape(escape_for_plotly(given)) == "<b>&%{x}$1$\"'" + "\N{REPLACEMENT CHARACTER}" * 3
    assert set(escape_for_plotly(given)) & set("<>{}$\"'\n") == set()


@pytest.mark.parametrize(
    ("number", "least", "text"),
    [
        ("1234567.1000000000", 1, "1,234,567.1"),
        ("5.0000000000", 2, "5.00"),
        ("100", 0, "100"),
        ("0.0000000012", 1, "0.0000000012"),
        ("7.00000000", 0, "7"),
    ],
)
def test_figures_are_shown_to_the_last_digit(number: str, least: int, text: str) -> None:
    from decimal import Decimal

    assert format_decimal(Decimal(number), least) == text


# --- kept ----------------------------------------------------------------------------------------


def test_a_page_is_whole_and_the_same_each_time(three: harvester.Archive, tmp_path: Path) -> None:
    three.chart("XBT/USD", "1h").save(tmp_path / "a.html")
    three.chart("XBT/USD", "1h").save(str(tmp_path / "b.HTML"))
    page = (tmp_path / "a.html").read_bytes()
    assert (
        page == (tmp_path / "b.HTML").read_bytes() == three.chart("XBT/USD", "1h").html().encode()
    )
    assert page.startswith(b"<!doctype html>")
    assert page.endswith(b"</html>\n")
    assert not re.search(rb"<(script|link|img|iframe)[^>]+(src|href)=", page)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.HTML", "data"]


def test_what_was_changed_in_the_figure_is_kept(three: harvester.Archive) -> None:
    chart = three.chart("XBT/USD", "1h")
    chart.figure.add_hline(y=12345.25)
    assert "12345.25" in chart.html()


def test_a_notebook_gets_the_very_page_in_a_frame(three: harvester.Archive) -> None:
    chart = three.chart("XBT/USD", "1h")
    [inside] = re.findall(r'srcdoc="([^"]*)"></iframe>$', chart._repr_html_())
    assert unescape(inside) == chart.html()


@pytest.mark.parametrize(
    ("name", "ending"), [("chart.gif", ".gif"), ("chart", "a file without an ending")]
)
def test_another_ending_is_refused(three: harvester.Archive, name: str, ending: str) -> None:
    with pytest.raises(UsageError) as caught:
        three.chart("XBT/USD", "1h").save(name)
    assert str(caught.value) == (
        f"{name}: a chart is kept as .html, .png, .svg or .pdf, and not as {ending}"
    )


def test_a_chart_that_can_not_be_written_leaves_the_old_one(
    three: harvester.Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "chart.html"
    file.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ArchiveUnwritable) as caught:
        three.chart("XBT/USD", "1h").save(file)
    assert str(caught.value) == (
        f"can't write {file}: the disk is full: make room, then run the same command again"
    )
    assert file.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chart.html", "data"]


def test_a_span_without_a_trade_is_an_error(three: harvester.Archive) -> None:
    with pytest.raises(NothingStored) as caught:
        three.chart("XBT/USD", "1h", since="2020-09-15", until="2020-09-16")
    assert str(caught.value) == (
        "no trade of XBT/USD is stored from 2020-09-15 to 2020-09-16: "
        "`harvester status` shows what is covered"
    )


def test_candles_of_a_time_zone_have_a_note_of_the_zone(three: harvester.Archive) -> None:
    chart = three.chart("XBT/USD", "1d", since="2020-09-14T00:00Z", tz="Europe/Berlin")
    assert chart.notes == ("candles follow the clock of Europe/Berlin",)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def run(three: harvester.Archive, tmp_path: Path) -> Any:
    def ran(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
        variables = own_environment(HARVESTER_DATA=three.path)
        if not before:
            return run_harvester(["chart", *arguments], variables, tmp_path)
        program = f"{before}; from harvester.cli.main import main; main()"
        command = [sys.executable, "-c", program, "chart", *arguments]
        return run_program(command, variables, tmp_path)

    return ran


def test_the_command_writes_what_the_method_does(
    run: Any, three: harvester.Archive, tmp_path: Path
) -> None:
    done = run("btcusd", "-i", "60", "-o", "chart.html")
    chart = three.chart("XBTUSD", "60")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{chart.title}: chart.html\n")
    assert (tmp_path / "chart.html").read_text() == chart.html()


def test_without_a_name_the_file_is_called_by_pair_and_interval(run: Any, tmp_path: Path) -> None:
    assert run("XBT/USD", "-i", "60", "-q").stderr == ""
    assert (tmp_path / "XBTUSD-60m.html").stat().st_size > 1_000_000


def test_a_page_may_go_to_stdout(run: Any, three: harvester.Archive) -> None:
    done = run("XBT/USD", "-i", "1h", "-o", "-")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == three.chart("XBTUSD", "1h").html()


def test_the_notes_of_a_chart_are_printed(run: Any) -> None:
    done = run("XBT/USD", "-i", "1h", "--since", "2020-09-13", "-o", "chart.html")
    assert done.stderr.splitlines()[0] == "not downloaded: 2020-09-13 to 2020-09-14"


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_an_image_without_kaleido_says_what_to_install(
    run: Any, tmp_path: Path, ending: str
) -> None:
    before = "import sys; sys.modules['kaleido'] = None"
    done = run("XBT/USD", "-i", "1h", "-o", f"c.{ending}", before=before)
    message = f"harvester: {not_installed('an image needs kaleido', 'kaleido')}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_ending_that_can_not_be_is_refused_before_anything_is_read(run: Any) -> None:
    done = run("NOSUCH", "-i", "1h", "-o", "chart.gif")
    assert done.returncode == 2
    assert done.stderr == (
        "harvester: chart.gif: a chart is kept as .html, .png, .svg or .pdf, and not as .gif\n"
    )
