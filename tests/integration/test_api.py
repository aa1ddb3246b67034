"""What `import harvester` gives: its names, how an archive is opened, and the moments it takes."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from html import unescape
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from candle_cases import START, batch, trade

import harvester
from harvester import errors
from harvester.argument_types import candle_interval, moment_ns, parse_range
from harvester.errors import BadInterval, BadSetting, BadTime, HarvesterError, UsageError
from harvester.notebook import bar
from harvester.server.sample_data import create_sample_archive
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore as Disk
from harvester.storage.writer import open_writer
from harvester.times import DAY, Range

HEAVY = ("pandas", "duckdb", "plotly", "pyarrow", "numpy", "httpx", "polars", "msgspec", "rich")
NOON = 1_706_702_400 * 10**9  # 2024-01-31T12:00Z


# --- names ---------------------------------------------------------------------------------------


def test_the_public_names_are_these() -> None:
    raised = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert set(harvester.__all__) - raised == {
        "Archive",
        "Chart",
        "BackfillEstimate",
        "BackfillResult",
        "CancelToken",
        "CompactionResult",
        "FilePlan",
        "ImportPlan",
        "ImportReport",
        "ImportResult",
        "Explanation",
        "ExplorerServer",
        "ExportedFile",
        "CsvReport",
        "Digest",
        "ExchangeReport",
        "Pair",
        "PairReport",
        "PairStatus",
        "Range",
        "RefreshResult",
        "RepairReport",
        "Result",
        "RollupResult",
        "RunRecord",
        "SampleExchange",
        "SyncResult",
        "__version__",
        "open",
        "sample_exchange",
    }
    assert raised - set(harvester.__all__) == {"ClassVar"} & raised


def test_every_public_name_exists_and_is_listed_by_dir() -> None:
    assert [name for name in harvester.__all__ if not hasattr(harvester, name)] == []
    assert set(harvester.__all__) <= set(dir(harvester))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError) as caught:
        harvester.backfill  # noqa: B018
    assert str(caught.value) == "module 'harvester' has no attribute 'backfill'"


def test_the_version_is_that_of_the_package() -> None:
    assert harvester.__version__ == version("kraken-harvester")


def imported(code: str) -> str:
    """Which of the heavy libraries a program has imported at its end."""
    program = f"{code}\nimport sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_importing_it_imports_nothing_heavy() -> None:
    assert imported("import harvester; harvester.NothingStored; harvester.Range") == "[]"


def test_opening_an_archive_needs_neither_duckdb_nor_http(tmp_path: Path) -> None:
    code = f"import harvester; harvester.open({str(tmp_path)!r}).status()"
    assert not {"duckdb", "httpx", "plotly", "polars"} & set(re.findall(r"\w+", imported(code)))


def test_the_package_has_the_marker_of_types() -> None:
    """Otherwise type checkers take all that it gives for Any: typed_program.py shows what it is."""
    assert (Path(harvester.__file__).parent / "py.typed").is_file()


# --- opening and closing -------------------------------------------------------------------------


def test_the_folder_is_the_settings_unless_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HARVESTER_ARCHIVE_PATH", "HARVESTER_DATA"):
        monkeypatch.delenv(name, raising=False)
    assert harvester.open().path == "data"
    (tmp_path / "config.toml").write_text('[archive]\npath = "ticks"\n')
    assert harvester.open().path == "ticks"
    assert harvester.open(tmp_path / "mine").path == str(tmp_path / "mine")
    (tmp_path / "other.toml").write_text("[exchange]\njobs = 3\n")
    assert harvester.open(config=tmp_path / "other.toml").settings.exchange.jobs == 3


def test_opening_makes_no_folder(tmp_path: Path) -> None:
    harvester.open(tmp_path / "data").status()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"exchange.rate": -1},
            "settings: exchange.rate is -1: it must be a number, 0 or more",
        ),
        (
            {"exchange.rats": 1},
            "settings: 'exchange.rats' is not a setting; there are archive.path, archive.flush_s, ",
        ),
    ],
)
def test_a_setting_that_is_wrong_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting) as caught:
        harvester.open("data", settings=settings)
    assert str(caught.value).startswith(message)


def test_a_closed_archive_says_so(tmp_path: Path) -> None:
    with harvester.open(tmp_path) as archive:
        assert archive.stored_pairs() == []
    asked = (
        archive.stored_pairs,
        archive.status,
        archive.verify,
        archive.pairs,
        archive.connect,
        archive.__enter__,
        lambda: archive.sql("FROM trades"),
        lambda: archive.trades("XBTUSD"),
        lambda: archive.gaps("XBTUSD"),
        lambda: archive.backfill("XBTUSD"),
    )
    for ask in asked:
        with pytest.raises(UsageError) as caught:
            ask()
        assert str(caught.value) == (
            f"the archive at {tmp_path} is closed: harvester.open({str(tmp_path)!r}) opens it again"
        )


def test_any_error_is_a_harvester_error(tmp_path: Path) -> None:
    with pytest.raises(HarvesterError):
        harvester.open(tmp_path).ohlc("XBTUSD", "1h")


# --- moments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "stamp"),
    [
        ("2024-01-31T12:00", NOON),
        ("7d", NOON - 7 * DAY),
        ("start", 0),
        (date(2024, 1, 31), NOON - DAY // 2),
        (datetime(2024, 1, 31, 12), NOON),  # noqa: DTZ001
        (datetime(2024, 1, 31, 12, tzinfo=UTC), NOON),
        (datetime(2024, 1, 31, 13, 30, tzinfo=timezone(timedelta(hours=1.5))), NOON),
        (datetime(2024, 1, 31, 12, 0, 0, 999_999, tzinfo=UTC), NOON + 999_999_000),
        (pd.Timestamp("2024-01-31T12:00:00.123456789"), NOON + 123_456_789),
        (pd.Timestamp("2024-01-31T13:00:00.000000001", tz="Europe/Berlin"), NOON + 1),
        (pd.Timestamp("2024-01-31T12:00").as_unit("s"), NOON),
        (np.datetime64("2024-01-31T12:00:00.123456789"), NOON + 123_456_789),
        (np.datetime64("2024-01-31T12", "h"), NOON),
        (NOON + 1, NOON + 1),
        (np.int64(NOON), NOON),
        (NOON // 10**9, NOON),
        (NOON // 10**6, NOON),
        (0, 0),
    ],
)
def test_a_moment_is_read_to_its_last_digit(given: Any, stamp: int) -> None:
    assert moment_ns(given, NOON) == stamp


def test_a_date_follows_a_time_zone_and_a_datetime_does_not() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert moment_ns(date(2024, 1, 31), 0, berlin) == NOON - 13 * 3600 * 10**9
    # Rows have times of this kind, in UTC.
    assert moment_ns(datetime(2024, 1, 31, 12), 0, berlin) == NOON  # noqa: DTZ001
    assert moment_ns(np.datetime64("2024-01-31T12"), 0, berlin) == NOON


@pytest.mark.parametrize(
    ("length", "name"),
    [
        (timedelta(minutes=7), "7m"),
        (timedelta(days=1), "1d"),
        (timedelta(days=7), "7d"),
        (timedelta(hours=36), "36h"),
        (timedelta(milliseconds=250), "250ms"),
        (pd.Timedelta("4h"), "4h"),
        (60, "60m"),
        ("1mo", "1mo"),
    ],
)
def test_an_interval_may_be_a_timedelta(length: Any, name: str) -> None:
    assert candle_interval(length).name == name


@pytest.mark.parametrize(
    "length",
    [timedelta(0), timedelta(hours=-1), timedelta(microseconds=1500), pd.Timedelta("1000001ns")],
)
def test_a_timedelta_that_is_no_interval_is_refused(length: timedelta) -> None:
    with pytest.raises(BadInterval) as caught:
        candle_interval(length)
    assert str(caught.value) == f"interval {str(length)!r}: give whole milliseconds, above 0"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            1.7e18,
            "1.7e+18 is not a time: give text such as '2024-01-31' or '7d', a datetime, a date, or "
            "a UNIX time of 10, 13 or 19 digits",
        ),
        (
            True,
            "True is not a time: give text such as '2024-01-31' or '7d', a datetime, a date, or "
            "a UNIX time of 10, 13 or 19 digits",
        ),
        (pd.NaT, "NaT is not a time"),
        (np.datetime64("NaT"), "NaT is not a time"),
        (date(1969, 12, 31), "'1969-12-31' is out of bounds: from 1970-01-01 to 2262-04-11"),
        (
            np.datetime64("3000-01-01"),
            "'3000-01-01' is out of bounds: from 1970-01-01 to 2262-04-11",
        ),
        (
            20240131,
            "'20240131' could mean anything: a bare number is UNIX seconds (10 digits), "
            "milliseconds (13 digits) or nanoseconds (19 digits), or a year; for days ago write "
            "7d, for a date 2024-01-31",
        ),
    ],
)
def test_what_is_no_moment_is_refused(given: Any, message: str) -> None:
    with pytest.raises(BadTime) as caught:
        moment_ns(given, NOON)
    assert str(caught.value) == message


def test_since_is_included_and_until_is_not() -> None:
    assert parse_range(NOON, date(2024, 2, 1)) == Range(NOON - 1, NOON + DAY // 2 - 1)


# --- what is held --------------------------------------------------------------------------------


@pytest.fixture
def with_gap(tmp_path: Path) -> harvester.Archive:
    """Two covered stretches of a day, and a gap of an hour that was asked for between them."""
    disk = Disk(tmp_path)
    hour = 3600 * 10**9
    parts = [
        (Range(START, START + DAY), [trade(5, "100"), trade(6, "101")]),
        (Range(START + DAY + hour, START + 2 * DAY), [trade(2 * 86_400 - 1, "99")]),
    ]
    with open_writer(disk, "XBTUSD") as pair_writer:
        for span, rows in parts:
            pair_writer.commit(
                span, batch(rows), Footer(range=span, pair_json='{"altname":"XBTUSD"}')
            )
        pair_writer.record_requested(Range(START, START + 2 * DAY))
    return harvester.open(tmp_path)


def test_what_is_held_covered_and_missing(with_gap: harvester.Archive) -> None:
    gap = Range(START + DAY, START + DAY + 3600 * 10**9)
    assert with_gap.coverage("xbt-usd") == [
        Range(START, gap.after),
        Range(gap.through, START + 2 * DAY),
    ]
    assert with_gap.gaps("XBTUSD") == [gap]
    [status] = with_gap.status()
    assert (status.trades, status.first_ns, status.gaps, status.files) == (
        3,
        START + 5 * 10**9,
        [gap],
        2,
    )
    [named] = with_gap.status("XBTUSD")
    # A second may have passed.
    assert replace(named, age_s=status.age_s, calls_to_now=status.calls_to_now) == status


def test_a_status_is_a_row_of_a_frame(with_gap: harvester.Archive) -> None:
    frame = pd.DataFrame(with_gap.status())
    assert frame[["pair", "trades", "files"]].to_numpy().tolist() == [["XBTUSD", 3, 2]]


@pytest.mark.parametrize("since", ["2024-01-02", date(2024, 1, 2)])
def test_a_date_is_one_of_the_time_zone_of_the_candles(
    with_gap: harvester.Archive, since: str | date
) -> None:
    zone = ZoneInfo("Asia/Tokyo")
    midnight = datetime(2024, 1, 2, tzinfo=zone)
    asked = with_gap.ohlc("XBTUSD", "1h", since=midnight, tz="Asia/Tokyo")
    made = with_gap.ohlc("XBTUSD", "1h", since=since, tz="Asia/Tokyo")
    assert made.fetchall() == asked.fetchall()
    assert with_gap.explain("XBTUSD", "1h", since=since, tz="Asia/Tokyo").query.range.after == (
        int(midnight.timestamp()) * 10**9 - 1
    )


def test_verify_names_the_gap_and_gives_no_digest(with_gap: harvester.Archive) -> None:
    [report] = with_gap.verify()
    assert [fault.text for fault in report.faults] == ["missing: requested, but no file has it"]
    assert (report.rows, report.digests) == (3, [])


def test_an_archive_shows_its_pairs_and_where_gaps_are(with_gap: harvester.Archive) -> None:
    html = with_gap._repr_html_()
    assert [unescape(text) for text in re.findall(r">([^<]+)<", html)] == [
        with_gap.path,
        *("pair", "first", "last", "covered 2020", "trades", "gaps", "MB"),
        "XBTUSD ",
        *("2020-09-13 12:27", "2020-09-15 12:26"),
        f"covered: {Range(START, START + DAY)}",
        f"covered: {Range(START + DAY + 3600 * 10**9, START + 2 * DAY)}",
        f"gap: {with_gap.gaps('XBTUSD')[0]}",
        *("3", "1", "0.0"),
    ]
    ET.fromstring(html.replace("<br>", "<br/>"))  # noqa: S314 - it is our own


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("pair = 'XBT/USD'", ["XBT/USD"]),
        ("side = 'buy' AND pair<>'BTC/USD'", ["BTC/USD"]),
        ("Pair IN ('XBTUSD', 'XBT/USD', 'BTC/USD')", ["XBT/USD", "BTC/USD"]),
        ("pair NOT IN ('XBT/USD')", ["XBT/USD"]),
        ("pair = 'XBTUSD' OR pair = 'GONE'", []),
        ("side = 'XBT/USD' AND 'XBT/USD' <> pair::VARCHAR", []),
    ],
)
def test_a_spelling_that_the_column_pair_never_has_is_noted(
    where: str, names: list[str], tmp_path: Path
) -> None:
    archive = harvester.open(create_sample_archive(tmp_path, 1000, 7).path)
    notes = archive.sql(f"SELECT count(*) FROM trades WHERE {where}").notes  # noqa: S608
    assert notes == tuple(
        f"the column pair has 'XBTUSD' and never {name!r}: compare it with the former"
        for name in names
    )
    assert archive.sql("FROM ohlc('XBT/USD', '1h')").notes == ()


def test_what_is_missing_stands_below_the_rows_in_a_notebook(with_gap: harvester.Archive) -> None:
    candles = with_gap.ohlc("XBTUSD", "1h")
    [note] = candles.notes
    assert note.startswith("not downloaded: 2020-09-14 ")
    assert f"<small>{note}</small></div>" in candles._repr_html_()
    assert f"<small>{note}</small></div>" in candles.limit(2)._repr_html_()


def test_an_archive_without_pairs_says_so(tmp_path: Path) -> None:
    assert (
        ": it is empty; archive.backfill(PAIR) downloads trades"
        in harvester.open(tmp_path)._repr_html_()
    )


def test_a_folder_that_is_not_there_is_named_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's folder, where relative paths start, may not be the one its author thinks."""
    monkeypatch.chdir(tmp_path)
    with harvester.open("demo/data") as archive:
        with pytest.raises(
            harvester.NothingStored, match="there is no folder " + re.escape(str(tmp_path))
        ):
            archive.ohlc("XBTUSD", "1h")
        assert f"there is no folder {tmp_path / 'demo' / 'data'}" in archive._repr_html_()
        with pytest.raises(harvester.NothingStored, match="nothing to refresh"):
            archive.refresh()
    assert not Path("demo").exists()


def test_foreign_names_are_escaped(with_gap: harvester.Archive) -> None:
    named = '{"XBTUSD": {"altname": "XBTUSD", "wsname": "<img src=x onerror=alert(1)>"}}'
    (Path(with_gap.path) / "pairs.json").write_text(named)
    html = with_gap._repr_html_()
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


def test_a_gap_of_a_second_in_ten_years_is_seen() -> None:
    years = Range(START, START + 3_650 * DAY)
    gap = Range(START + 500 * DAY, START + 500 * DAY + 10**9)
    svg = ET.fromstring(bar([], [gap], years))  # noqa: S314 - it is our own
    [drawn] = [
        mark for mark in svg if mark.find("title") is not None and "gap" in str(mark[0].text)
    ]
    assert float(drawn.attrib["width"]) == 1.5
    assert abs(float(drawn.attrib["x"]) - 300 * 500 / 3_650) < 0.01
