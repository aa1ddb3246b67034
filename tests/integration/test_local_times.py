"""`--times local` and `--tz`: local times in output and in dates, with real processes."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cli_output import run as run_command

import harvester
from harvester.errors import BadSetting
from harvester.server.sample_data import create_sample_archive

NO_EXCHANGE = "http://127.0.0.1:9"
BERLIN = "Europe/Berlin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive of ten days up to 2026-01-30 in `data`."""
    folder = tmp_path_factory.mktemp("local")
    create_sample_archive(folder / "data", 3_000, 7)
    return folder


def run(folder: Path, *words: str, **environment: str) -> Any:
    return run_command(NO_EXCHANGE, folder, *words, **environment)


def column(text: str, name: str = "time") -> list[str]:
    return [row[name] for row in csv.DictReader(io.StringIO(text))]


def local(utc: str, zone: str) -> str:
    """A UTC time as printed, on the clocks of a zone, with all its digits."""
    whole, fraction = re.fullmatch(r"(.{19})(\.\d+)?Z", utc).groups()  # type: ignore[union-attr]
    text = datetime.fromisoformat(f"{whole}+00:00").astimezone(ZoneInfo(zone)).isoformat()
    return f"{text[:19]}{fraction or ''}{text[19:]}"


QUERIES = [
    ["trades", "XBTUSD"],
    ["ohlc", "XBTUSD", "-i", "1h", "--all-columns"],
    ["bars", "XBTUSD", "--trades", "100"],
    ["sql", "FROM tape('XBTUSD')"],
]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query[0])
@pytest.mark.parametrize("zone", [BERLIN, "America/New_York", "Asia/Kolkata"])
def test_local_times_are_the_utc_times_on_this_machines_clock(
    folder: Path, query: list[str], zone: str
) -> None:
    utc = run(folder, *query, "-f", "csv", "-q")
    shown = run(folder, *query, "-f", "csv", "-q", "--times", "local", TZ=zone)
    assert (shown.returncode, shown.stderr) == (0, "")
    times = column(utc.stdout)
    assert column(shown.stdout) == [local(time, zone) for time in times]
    without_times = re.compile(r"\d{4}-\d{2}-\d{2}T[^,\n]+")
    assert without_times.sub("", shown.stdout) == without_times.sub("", utc.stdout)


@pytest.mark.parametrize("query", QUERIES[:3], ids=lambda query: query[0])
def test_tz_names_the_clock_of_local_times(folder: Path, query: list[str]) -> None:
    words = [*query, "--times", "local", "-f", "csv"]
    there = run(folder, *words, "--tz", BERLIN, TZ="America/New_York")
    assert there.stdout == run(folder, *words, "--tz", BERLIN, TZ="UTC").stdout
    assert column(there.stdout)[0].endswith("+01:00")


@pytest.mark.parametrize("form", ["table", "csv", "json", "jsonl"])
def test_every_text_format_shows_local_times(folder: Path, form: str) -> None:
    query = ["ohlc", "XBTUSD", "-i", "1d", "--since", "2026-01-29", "-f", form]
    shown = run(folder, *query, "--times", "local", TZ=BERLIN)
    assert shown.returncode == 0
    assert re.findall(r"2026-01-[^\s,\"]+", shown.stdout) == [
        "2026-01-29T01:00:00+01:00",
        "2026-01-30T01:00:00+01:00",
    ]


# Around both changes of the clock in Berlin, and beside what nanoseconds and offsets can hold.
CLOCK = [
    ("2026-03-29 00:59:59.999999999", "2026-03-29T01:59:59.999999999+01:00"),
    ("2026-03-29 01:00:00", "2026-03-29T03:00:00+02:00"),
    ("2026-10-25 00:30:00", "2026-10-25T02:30:00+02:00"),
    ("2026-10-25 01:30:00.5", "2026-10-25T02:30:00.5+01:00"),
]


def test_both_changes_of_the_clock_are_followed(folder: Path) -> None:
    values = ", ".join(f"(TIMESTAMP_NS '{utc}')" for utc, _ in CLOCK)
    query = f"SELECT time, 1 AS n FROM (VALUES {values}, (NULL)) AS v(time)"  # noqa: S608
    shown = run(folder, "sql", query, "-f", "csv", "--times", "local", TZ=BERLIN)
    assert column(shown.stdout) == [*(berlin for _, berlin in CLOCK), ""]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("TIMESTAMP_S '2024-01-01 10:00:00'", "2024-01-01T11:00:00+01:00"),
        ("TIMESTAMP_MS '2024-01-01 10:00:00.250'", "2024-01-01T11:00:00.25+01:00"),
        ("TIMESTAMPTZ '2024-01-01 10:00:00+02'", "2024-01-01T09:00:00+01:00"),
        ("DATE '2024-01-01'", "2024-01-01"),
        # Beyond the years that have nanoseconds, a time stays UTC; also at their very end.
        ("TIMESTAMP '9999-12-31 23:59:59'", "9999-12-31T23:59:59Z"),
        ("TIMESTAMP_S '1600-01-01 00:00:00'", "1600-01-01T00:00:00Z"),
        ("TIMESTAMP_NS '2262-04-11 23:47:16.854775806'", "2262-04-11T23:47:16.854775806Z"),
        ("['2024-01-01 10:00:00'::TIMESTAMP]", '["2024-01-01T10:00:00Z"]'),
    ],
)
def test_each_type_of_time_is_shown_with_its_offset(folder: Path, value: str, shown: str) -> None:
    query = ["sql", f"SELECT {value} AS time", "-f", "csv", "--times", "local"]
    assert column(run(folder, *query, TZ=BERLIN).stdout) == [shown]


def test_a_time_of_whole_seconds_before_1677_keeps_its_zeros(folder: Path) -> None:
    query = "SELECT TIMESTAMP_S '1600-01-01 00:00:00' AS time"
    assert column(run(folder, "sql", query, "-f", "csv").stdout) == ["1600-01-01T00:00:00Z"]


def test_a_local_time_as_printed_selects_the_same_trades(folder: Path) -> None:
    shown = run(folder, "trades", "XBTUSD", "-f", "csv", "--times", "local", TZ="Asia/Kolkata")
    times = column(shown.stdout)
    since = times[99]
    rest = run(folder, "trades", "XBTUSD", "-f", "csv", "--since", since, TZ=BERLIN)
    ids = column(shown.stdout, "trade_id")[times.index(since) :]
    assert column(rest.stdout, "trade_id") == ids


IN_FOLDERS = "--times local is for one table or file: files in a folder are in UTC"
OF_STATUS = "--times local is for the table of --runs: all else is in UTC"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            ["trades", "XBTUSD", "-o", "trades.parquet"],
            "--times local is for text (table, csv, json, jsonl): parquet has times as numbers, in "
            "UTC; leave --times out",
        ),
        (
            ["ohlc", "XBTUSD", "-i", "1m", "-i", "1h", "-f", "csv", "-o", "candles"],
            IN_FOLDERS,
        ),
        (
            ["trades", "XBTUSD", "-f", "freqtrade", "-o", "candles"],
            IN_FOLDERS,
        ),
        (
            ["ohlc", "XBTUSD", "-i", "1h", "--explain"],
            "--explain prints ranges in UTC: leave --times out",
        ),
        (["status"], OF_STATUS),
        (["status", "--runs", "--json"], OF_STATUS),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_local_times_are_refused_where_nothing_would_show_them(
    folder: Path, query: list[str], message: str
) -> None:
    refused = run(folder, *query, "--times", "local")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"harvester: {message}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["data"]


def test_the_runs_are_shown_on_this_machines_clock(tmp_path: Path) -> None:
    create_sample_archive(tmp_path / "data", 100, 7)
    quick = {"HARVESTER_EXCHANGE_GIVE_UP_S": "0.1", "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.01"}
    assert run(tmp_path, "refresh", **quick).returncode == 3
    [record] = json.loads(run(tmp_path, "status", "--runs", "--json").stdout)
    table = run(tmp_path, "status", "--runs", "--times", "local", TZ="Asia/Kolkata").stdout
    begun = local(record["begun"][:19] + "Z", "Asia/Kolkata").replace("T", " ")
    assert table.splitlines()[1].startswith(begun)


@pytest.mark.parametrize("query", [*QUERIES[:1], QUERIES[2]], ids=lambda query: query[0])
def test_bare_dates_of_trades_and_bars_are_in_the_zone_of_tz(
    folder: Path, query: list[str]
) -> None:
    dates = run(
        folder, *query, "--since", "2026-01-29", "--until", "2026-01-30", "--tz", BERLIN,
        *("-f", "csv"),
    )  # fmt: skip
    exact = run(
        folder, *query, "--since", "2026-01-28T23:00Z", "--until", "2026-01-29T23:00Z",
        *("-f", "csv"),
    )  # fmt: skip
    assert dates.returncode == 0
    assert dates.stdout == exact.stdout
    assert len(dates.stdout.splitlines()) > 2


def test_an_anchor_without_a_zone_is_in_the_zone_of_tz(folder: Path) -> None:
    bars = ["bars", "XBTUSD", "--trades", "100", "-f", "csv"]
    there = run(folder, *bars, "--anchor", "2026-01-29", "--tz", "Asia/Tokyo")
    assert there.returncode == 0
    assert there.stdout == run(folder, *bars, "--anchor", "2026-01-28T15:00Z").stdout


def test_in_python_dates_of_trades_and_bars_are_in_the_zone_of_tz(folder: Path) -> None:
    with harvester.open(folder / "data") as archive:
        exact = archive.trades("XBTUSD", since="2026-01-28T15:00Z").fetchall()
        assert archive.trades("XBTUSD", since="2026-01-29", tz="Asia/Tokyo").fetchall() == exact
        bars = archive.bars("XBTUSD", trades=50, since="2026-01-29", tz="Asia/Tokyo").fetchall()
        assert bars == archive.bars("XBTUSD", trades=50, since="2026-01-28T15:00Z").fetchall()
        for make in (archive.trades, lambda pair, tz: archive.bars(pair, trades=5, tz=tz)):
            with pytest.raises(BadSetting, match="tz is 'Mars', which is no time zone"):
                make("XBTUSD", tz="Mars")
