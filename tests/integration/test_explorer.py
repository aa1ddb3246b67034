"""The explorer's answers: the archive's own digits, few and small whatever is asked, and safe."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from api_server import T0, Trade, archive_of
from command_line import HARVESTER
from explorer_archive import (
    GAP,
    HOUR,
    START_NS,
    TOKEN,
    answer,
    ask,
    run_sql,
    sample_archive,
    years_archive,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import harvester
from harvester.errors import ArchiveDamaged, BadQuery
from harvester.exporters.formats import as_flat_text, as_text
from harvester.operations.run_log import PairResult, RunRecord, append
from harvester.query.read_only_sql import (
    LimitedRows,
    QueryLimits,
    ReadOnlyQuery,
)
from harvester.query.sql import translate_sql_errors
from harvester.server.explorer.service import ArchiveExplorer
from harvester.server.explorer.time_view import (
    LADDER,
    MAX_CANDLES,
    MAX_CANDLES_BYTES,
    YearCoverage,
    coverage_by_year,
    coverage_strip,
    shades,
    span_texts,
)
from harvester.server.explorer.web import explorer_app, without_wrapper
from harvester.server.sample_data import END_NS
from harvester.storage.trade_store import TradeStore
from harvester.times import DAY, SECOND, Range, missing, show

NAMES = ("open", "high", "low", "close", "vwap", "volume", "buy_volume", "sell_volume", "count")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harvester.Archive]:
    with sample_archive(tmp_path_factory.mktemp("explored") / "data", (GAP,)) as opened:
        yield opened


def columns(found: dict[str, Any]) -> dict[str, list[str]]:
    return {name: found[name].split(" ") for name in ("time", *NAMES)}


# --- candles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", ["7m", "1h", "4h", "1d", "1w"])
def test_candles_have_the_digits_of_ohlc(archive: harvester.Archive, interval: str) -> None:
    found = answer(archive, "candles", pair="btc-usd", interval=interval, since="2026-01-26")

    result = archive.ohlc("XBTUSD", interval, since=found["since"], all_columns=True)
    [batch] = result.to_arrow_table().to_batches()
    expected = as_text(batch).to_pylist()
    stamps = batch.column("time").cast("int64").to_pylist()
    assert found["interval"] == interval
    assert columns(found)["time"] == [str(stamp // 1_000_000) for stamp in stamps]
    for name in NAMES:
        assert columns(found)[name] == [str(row[name]) for row in expected]


@pytest.mark.parametrize(
    ("seconds", "interval"),
    [
        (60, "1s"),
        (1_500, "1s"),
        (1_501, "5s"),
        (7_500, "5s"),
        (7_501, "15s"),
        (22_501, "1m"),
        (90_001, "5m"),
        (450_001, "15m"),
    ],
)
def test_auto_is_the_shortest_interval_with_at_most_1500_candles(
    archive: harvester.Archive, seconds: int, interval: str
) -> None:
    until = START_NS + seconds * SECOND
    found = answer(archive, "candles", pair="XBTUSD", since=show(START_NS), until=show(until))
    assert found["interval"] == interval


def test_a_view_that_is_not_aligned_counts_the_candles_it_cuts(archive: harvester.Archive) -> None:
    half = SECOND // 2
    since, until = show(START_NS + half), show(START_NS + 1_500 * SECOND + half)
    assert answer(archive, "candles", pair="XBTUSD", since=since, until=until)["interval"] == "5s"


def test_no_candle_is_cut_by_the_edge_of_the_view(archive: harvester.Archive) -> None:
    since, until = START_NS + 5 * DAY + 7 * SECOND, START_NS + 5 * DAY + 20 * HOUR + 1
    found = answer(
        archive, "candles", pair="XBTUSD", interval="1h", since=show(since), until=show(until)
    )
    assert found["since"] == show(START_NS + 5 * DAY)
    assert found["until"] == show(START_NS + 5 * DAY + 21 * HOUR)
    assert found["incomplete"] == []


def test_too_short_an_interval_becomes_a_longer_one(archive: harvester.Archive) -> None:
    found = answer(archive, "candles", pair="XBTUSD", interval="1s")
    assert (found["requested"], found["interval"]) == ("1s", "15m")
    assert found["is_coarser"]


@pytest.mark.parametrize("interval", ["auto", "60", "60m", "1h"])
def test_another_spelling_of_an_interval_is_no_longer_one(
    archive: harvester.Archive, interval: str
) -> None:
    assert not answer(archive, "candles", pair="XBTUSD", interval=interval)["is_coarser"]


def test_without_a_range_everything_is_shown(archive: harvester.Archive) -> None:
    found = answer(archive, "candles", pair="XBTUSD")
    opens = [int(text) * 1_000_000 for text in found["time"].split(" ")]
    [status] = archive.status("XBTUSD")
    assert status.first_ns is not None
    assert status.last_ns is not None
    width = 15 * 60 * SECOND
    assert opens[0] <= status.first_ns < opens[0] + width
    assert opens[-1] <= status.last_ns < opens[-1] + width


def test_a_candle_that_touches_a_gap_is_incomplete(tmp_path: Path) -> None:
    gap = Range(START_NS + HOUR + HOUR // 2, START_NS + 3 * HOUR - 1)
    with sample_archive(tmp_path, (gap,)) as with_gap:
        found = answer(
            with_gap, "candles", pair="XBTUSD", interval="1h", until=show(START_NS + DAY)
        )
    assert [found["time"].split(" ")[index] for index in found["incomplete"]] == [
        str((START_NS + HOUR) // 1_000_000)
    ]


def test_a_gap_differs_from_time_that_was_never_requested(archive: harvester.Archive) -> None:
    since, until = show(START_NS - DAY), show(END_NS + DAY)
    found = answer(archive, "candles", pair="XBTUSD", interval="1h", since=since, until=until)
    day_ms = DAY // 1_000_000
    start_ms = START_NS // 1_000_000
    assert found["shades"] == [
        ["not requested", start_ms - day_ms, start_ms],
        ["gap", start_ms + 2 * day_ms, start_ms + 4 * day_ms],
        ["not requested", start_ms + 10 * day_ms, start_ms + 11 * day_ms],
    ]


def test_covered_time_without_trades_is_no_gap() -> None:
    traded = [Range(0, 10_000_000), Range(60_000_000, 100_000_000)]
    found = shades(Range(0, 100_000_000), [Range(0, 100_000_000)], [], traded)
    assert found == ([("no trades", 10, 60)], 0)


def test_gaps_are_shown_before_wider_time_without_trades() -> None:
    view = Range(0, 1_000_000_000)
    covered = [Range(n * 1_000_000, (n + 1) * 1_000_000 - 9) for n in range(1_000)]
    found = shades(view, covered, missing([view], covered), [])
    assert [shade.kind for shade in found.parts].count("gap") == 1_000
    assert found.unstored_left_out == 0
    more = Range(0, 1_100_000_000)
    covered += [Range(n * 1_000_000, (n + 1) * 1_000_000 - 9) for n in range(1_000, 1_100)]
    assert shades(more, covered, missing([more], covered), []).unstored_left_out == 100


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    since=st.integers(0, 2**63 - 2),
    width=st.integers(1, 2**62),
    interval=st.sampled_from(
        ["auto", "1ms", "999ms", "1s", "7m", "5h", "13d", "1w", "1mo", "1q", "1y", "100y"]
    ),
)
def test_an_answer_to_any_query_is_small(
    archive: harvester.Archive, since: int, width: int, interval: str
) -> None:
    until = min(since + width, 2**63 - 2)
    params = {"pair": "XBTUSD", "interval": interval, "since": show(since), "until": show(until)}
    response = ask(archive, "/api/candles", params=params)
    assert response.status_code in (200, 400), response.text
    if response.status_code == 200:
        assert len(response.content) <= MAX_CANDLES_BYTES
        assert len(response.json()["time"].split(" ")) <= MAX_CANDLES


def test_candles_with_many_digits_fit_too(tmp_path: Path) -> None:
    """1,500 candles of such numbers are more than 200 kB: longer candles are answered."""
    trades: list[Trade] = [
        (n, T0 + n * SECOND, "12345678.1234567891", f"{n}.12345678", "buy", "limit", "")
        for n in range(1_500)
    ]
    archive_of(tmp_path, trades)
    since, until = show(T0), show(T0 + 1_500 * SECOND)
    with harvester.open(tmp_path) as precise:
        response = ask(
            precise, "/api/candles", params={"pair": "XBTUSD", "since": since, "until": until}
        )
    assert len(response.content) <= MAX_CANDLES_BYTES
    assert response.json()["interval"] == "5s"


def test_the_intervals_are_the_documented_intervals() -> None:
    names = " ".join(interval.text for interval in LADDER)
    assert names == "1s 5s 15s 1m 5m 15m 1h 4h 1d 1w"


# --- copied texts ---------------------------------------------------------------------------------


def test_the_copied_python_and_sql_return_the_candles_on_the_screen(
    archive: harvester.Archive,
) -> None:
    found = answer(archive, "candles", pair="XBTUSD", interval="4h", since="2026-01-22T07:00")
    closes = columns(found)["close"]

    python = eval(found["copy"]["python"], {"harvester": harvester})  # noqa: S307
    sql = archive.sql(found["copy"]["sql"])

    for result in (python, sql):
        [batch] = result.to_arrow_table().to_batches()
        assert as_text(batch).column("close").to_pylist() == closes


def test_the_copied_command_is_quoted_for_a_shell(tmp_path: Path) -> None:
    with sample_archive(tmp_path / "it's; here") as quoted:
        command = answer(quoted, "candles", pair="XBTUSD", interval="1d")["copy"]["command"]
    assert command.endswith(f"""--data '{tmp_path}/it'"'"'s; here'""")


def test_the_copied_sql_of_trades_returns_them(archive: harvester.Archive) -> None:
    found = answer(archive, "trades", pair="XBTUSD", place="at:2026-01-27", count="40")
    rows = archive.sql(found["copy"]["sql"]).to_arrow_table()
    ids = [row["trade_id"] for row in found["trades"]]
    assert rows.column("trade_id").to_pylist()[: len(ids)] == ids


# --- trades ---------------------------------------------------------------------------------------


def walk(archive: harvester.Archive, direction: str, count: int) -> list[int]:
    """All trade ids, page by page."""
    place = "oldest" if direction == "after" else "newest"
    found: list[int] = []
    while True:
        page = answer(archive, "trades", pair="XBTUSD", place=place, count=str(count))["trades"]
        if not page:
            return found
        ids = [row["trade_id"] for row in page]
        found = found + ids if direction == "after" else ids + found
        edge = page[-1] if direction == "after" else page[0]
        place = f"{direction}:{edge['time_ns']}.{edge['tie']}"


@pytest.mark.parametrize("direction", ["after", "before"])
def test_pages_of_trades_are_the_whole_history(tmp_path: Path, direction: str) -> None:
    with sample_archive(tmp_path, (GAP,), trades=3_000) as small:
        expected = small.trades("XBTUSD").to_arrow_table().column("trade_id").to_pylist()
        assert walk(small, direction, 173) == expected


def test_trades_around_a_time_are_half_before_it(archive: harvester.Archive) -> None:
    moment = START_NS + 6 * DAY
    found = answer(archive, "trades", pair="XBTUSD", place=f"at:{show(moment)}", count="20")
    is_before = [int(row["time_ns"]) < moment for row in found["trades"]]
    assert is_before == [True] * 10 + [False] * 10


def test_a_trade_has_all_its_digits(archive: harvester.Archive) -> None:
    [row] = answer(archive, "trades", pair="XBTUSD", place="newest", count="1")["trades"]
    [batch] = archive.trades("XBTUSD", since="2026-01-30").to_arrow_table().to_batches()
    [expected] = as_text(batch.slice(batch.num_rows - 1)).to_pylist()
    assert {name: row[name] for name in expected} == expected
    assert row["time_ns"] == str(batch.column("time").cast("int64")[-1].as_py())


# --- pairs, coverage, live ------------------------------------------------------------------------


def test_pairs_show_what_is_stored(archive: harvester.Archive) -> None:
    [pair] = answer(archive, "pairs")["pairs"]
    [status] = archive.status()
    assert (pair["pair"], pair["name"], pair["trades"]) == ("XBTUSD", "XBT/USD", status.trades)
    assert (pair["bytes"], pair["gaps"]) == (status.bytes, 1)
    assert set(pair["strip"]) == {"s", "g"}
    assert pair["strip"][:15] == "s" * 15
    assert pair["strip"][25] == "g"


def test_the_first_trade_is_known_if_all_time_before_it_is_covered(
    archive: harvester.Archive, tmp_path: Path
) -> None:
    # Nothing was requested before this one's trades.
    assert not span_texts(archive.status()[0])["is_first_known"]
    with years_archive(tmp_path) as stored:
        [status] = stored.status()
    assert span_texts(status)["is_first_known"]
    status.coverage[:] = [Range(0, 5), Range(9, END_NS)]
    assert not span_texts(status)["is_first_known"]
    status.coverage[:] = []
    assert not span_texts(status)["is_first_known"]


def test_a_strip_shows_the_shortest_gap_and_what_was_never_requested() -> None:
    strip = coverage_strip([Range(0, 499), Range(500, 800)], [Range(499, 500)], Range(0, 1_000))
    assert strip == "s" * 49 + "g" + "s" * 30 + "n" * 20


def test_coverage_says_what_each_year_lacks(archive: harvester.Archive) -> None:
    explorer = ArchiveExplorer(archive, clock=lambda: END_NS + 400 * DAY)
    found = explorer.coverage("XBTUSD")
    assert found["stored_until"] == show(END_NS)
    first, second = found["years"]
    assert (first["year"], first["gaps"], first["gap_s"]) == (2026, 1, 2 * 86_400)
    assert first["not_requested"] == [
        {"since": "2026-01-01T00:00:00Z", "until": show(START_NS)},
        {"since": show(END_NS), "until": "2027-01-01T00:00:00Z"},
    ]
    assert (second["year"], second["gaps"]) == (2027, 0)
    assert second["not_requested"][0]["until"] == show(END_NS + 400 * DAY + 1)


def test_a_year_that_is_stored_lacks_nothing(tmp_path: Path) -> None:
    with years_archive(tmp_path) as stored:
        [status] = stored.status()
    years = coverage_by_year(status, END_NS)
    assert years == [YearCoverage(number, [], []) for number in range(2014, 2027)]


def test_coverage_lists_gaps_and_runs(archive: harvester.Archive) -> None:
    found = answer(archive, "coverage", pair="XBTUSD")
    assert found["gaps"] == [{"since": show(START_NS + 2 * DAY), "until": show(START_NS + 4 * DAY)}]
    assert (found["runs"], found["repaired"]) == ([], None)


def test_coverage_lists_the_runs_of_its_pair_only(tmp_path: Path) -> None:
    with sample_archive(tmp_path, trades=500) as recorded:
        done = PairResult("XBTUSD", 0, trades=5)
        asked: list[tuple[str, str, Any, list[PairResult]]] = [
            ("1", "repair", ["XBTUSD"], [done]),
            ("2", "repair", ["ETHUSD"], [PairResult("ETHUSD", 0)]),
            ("3", "refresh", [], []),
            ("4", "backfill", ["btc/usd"], []),
            ("5", "backfill", ["*/USD"], []),
            ("6", "backfill", ["ETH/USD", "*/EUR"], []),
            ("7", "repair", ["ETHUSD"], []),
        ]
        for id_, command, pairs, results in asked:
            record = RunRecord(
                id_, command, f"2026-02-0{id_}", asked={"pairs": pairs}, pairs=results
            )
            append(TradeStore(tmp_path), record)
        found = answer(recorded, "coverage", pair="XBTUSD")
    assert [run["begun"][-1] for run in found["runs"]] == ["5", "4", "3", "1"]
    assert found["repaired"]["begun"] == "2026-02-01"


def test_an_equal_number_of_other_ranges_is_another_version(tmp_path: Path) -> None:
    with sample_archive(tmp_path / "a", (GAP,), trades=500) as first:
        before = answer(first, "version", pair="XBTUSD")
        assert answer(first, "version", pair="XBTUSD") == before
    with sample_archive(tmp_path / "b", (Range(GAP.after, GAP.through - 1),), trades=500) as other:
        assert answer(other, "version", pair="XBTUSD") != before


def test_a_pair_that_is_not_stored_yet_has_an_empty_version(archive: harvester.Archive) -> None:
    assert answer(archive, "version", pair="NEWUSD") == {"version": ""}


def test_the_version_changes_when_trades_are_added(tmp_path: Path) -> None:
    with sample_archive(tmp_path, (GAP,), trades=500) as first:
        before = answer(first, "version", pair="XBTUSD")
        sample_archive(tmp_path, (), trades=500)
        after = answer(first, "version", pair="XBTUSD")
        shown = answer(first, "candles", pair="XBTUSD")
    assert before["version"] != after["version"]
    assert shown["version"] == after["version"]


# --- SQL ------------------------------------------------------------------------------------------


def test_sql_answers_exact_texts(archive: harvester.Archive) -> None:
    found = run_sql(
        archive,
        "SELECT 9007199254740993 AS big, 0.1::DECIMAL(18, 10) AS price, NULL AS none, "
        "true AS yes, TIMESTAMP_NS '2026-01-02 03:04:05.123456789' AS time, [1.5, 2] AS list",
    ).json()
    assert [column["name"] for column in found["columns"]] == [
        *("big", "price", "none", "yes", "time", "list"),
    ]
    assert found["rows"] == [
        ["9007199254740993", "0.1", None, "true", "2026-01-02T03:04:05.123456789Z", '["1.5","2"]']
    ]
    assert not found["is_cut"]


def test_sql_reads_the_views(archive: harvester.Archive) -> None:
    found = run_sql(archive, "SELECT count(*) FROM trades WHERE pair = 'XBTUSD'").json()
    assert found["rows"] == [[str(archive.trades("XBTUSD").shape[0])]]


def test_sql_returns_ten_thousand_rows_at_most(archive: harvester.Archive) -> None:
    found = run_sql(archive, "FROM range(10001)").json()
    assert (len(found["rows"]), found["is_cut"]) == (10_000, True)
    assert not run_sql(archive, "FROM range(10000)").json()["is_cut"]


def test_sql_of_long_texts_is_cut(archive: harvester.Archive) -> None:
    response = run_sql(archive, "SELECT repeat('x', 1000000) FROM range(10000)")
    assert response.json()["is_cut"]
    assert len(response.content) < 12_000_000


LONG_VALUES = {
    "text": "repeat('é', 5000)",
    "bytes": "repeat('x', 5000)::BLOB",
    "list": "range(5000)",
    "struct": "{'a': repeat('x', 5000)}",
    "map": "map {'a': repeat('x', 5000)}",
    "lists": "[[1], range(5000)]",
}


@pytest.mark.parametrize("value", LONG_VALUES.values(), ids=LONG_VALUES)
def test_long_values_are_cut_whatever_their_type_and_the_answer_says_so(
    archive: harvester.Archive, value: str
) -> None:
    found = run_sql(archive, f"SELECT {value} AS x UNION ALL SELECT NULL").json()
    assert sorted(len(row[0] or "") for row in found["rows"]) == [0, 4_000]
    assert (found["is_cut"], found["has_cut_values"]) == (False, True)
    for form in ("csv", "parquet"):
        response = run_sql(archive, f"SELECT {value} AS x", form)
        assert response.headers["X-Notes"] == "values are cut to 4,000 characters"
        assert len(response.content) < 20_000


def test_short_values_beside_long_ones_are_whole(archive: harvester.Archive) -> None:
    query = "SELECT CASE WHEN range = 1 THEN range(5000) ELSE [1, range] END AS x FROM range(3)"
    rows = run_sql(archive, query).json()["rows"]
    assert [rows[0], rows[2]] == [["[1,0]"], ["[1,2]"]]
    found = run_sql(archive, "SELECT repeat('x', 4000) AS x, [1, 2] AS y").json()
    assert found["rows"] == [["x" * 4_000, "[1,2]"]]
    assert not found["has_cut_values"]


MANY_COLUMNS = {
    "nulls": ", ".join(["NULL"] * 2_000),
    "booleans": ", ".join(["true"] * 2_000),
    "numbers": ", ".join(["9007199254740993"] * 1_000),
    "escaped texts": ", ".join([r"repeat(chr(1), 4000)"] * 40),
    "wide rows": ", ".join(["repeat('x', 4000)"] * 40),
}
# The rows are limited before they are written: of each format, what it writes at most length.
LARGEST = {
    "json": ("booleans", "numbers", "escaped texts", "wide rows"),
    "csv": ("numbers", "wide rows"),
    "parquet": ("nulls", "wide rows"),
}


@pytest.mark.parametrize(
    ("form", "name"), [(form, name) for form, names in LARGEST.items() for name in names]
)
def test_an_answer_is_small_whatever_its_columns(
    archive: harvester.Archive, form: str, name: str
) -> None:
    columns = MANY_COLUMNS[name]
    query = f"SELECT {columns} FROM range(10000)"  # noqa: S608 - of this test
    response = run_sql(archive, query, form)
    assert response.status_code == 200, response.text
    assert len(response.content) < 12_000_000
    if form == "json":
        found = response.json()
        assert found["is_cut"]
        assert found["rows"]
    else:
        assert "and there are more" in response.headers["X-Notes"]
        assert 'filename="query-first-' in response.headers["Content-Disposition"]


def test_a_row_that_is_too_large_is_refused(archive: harvester.Archive) -> None:
    limits = QueryLimits(size=7_000)
    value = "repeat('x', 4000)"
    query = ReadOnlyQuery(archive.connect, archive.path, limits, as_flat_text)
    assert query.run(f"SELECT {value}").table.num_rows == 1
    query = ReadOnlyQuery(archive.connect, archive.path, limits, as_flat_text)
    with pytest.raises(BadQuery, match="a single row of the query is too large"):
        query.run(f"SELECT {value}, {value}")


LATE = "CASE WHEN range = 9000 THEN {} ELSE 1 END FROM range(9001)"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT " + LATE.format("error('boom')"), "boom"),
        ("SELECT " + LATE.format("range::VARCHAR || 'x'") + " WHERE false OR error('b') > ''", "b"),
        (
            "SELECT CAST(CASE WHEN range = 9000 THEN 'x' ELSE '1' END AS INT) FROM range(9001)",
            "'x'",
        ),
    ],
)
@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_an_error_in_a_late_row_is_the_askers_fault(
    archive: harvester.Archive, query: str, said: str, form: str
) -> None:
    response = run_sql(archive, query, form)
    assert response.status_code == 400
    assert said in response.json()["error"]


def test_what_parquet_can_not_hold_is_the_askers_fault(archive: harvester.Archive) -> None:
    assert run_sql(archive, "SELECT {} AS x").json()["rows"] == [["{}"]]
    response = run_sql(archive, "SELECT {} AS x", "parquet")
    assert response.status_code == 400
    assert "struct" in response.json()["error"]


def test_half_of_a_character_is_the_askers_fault(archive: harvester.Archive) -> None:
    assert run_sql(archive, "SELECT '\ud800'").status_code == 400
    with pytest.raises(BadQuery, match="half of a character"):
        ReadOnlyQuery(archive.connect, archive.path, QueryLimits(), as_flat_text).run(
            "SELECT '\ud800'"
        )


def test_damage_that_shows_while_rows_are_read_is_no_fault_of_the_asker() -> None:
    damage = OSError("IO Error: Could not read file /a/trades/pair=XBTUSD/2026.parquet")
    with pytest.raises(ArchiveDamaged), translate_sql_errors("1GB"):
        raise damage


FORBIDDEN = [
    "FROM read_csv('/etc/passwd')",
    "FROM read_text('/etc/passwd')",
    "FROM read_blob('/etc/passwd')",
    "FROM read_json('/etc/passwd')",
    "FROM '/etc/passwd'",
    "FROM glob('/etc/*')",
    "FROM sniff_csv('/etc/passwd')",
    "FROM parquet_metadata('/etc/passwd')",
    "FROM read_parquet('https://example.com/a.parquet')",
    "FROM read_text('{trades}/../pairs.json')",
    "FROM read_text('{trades}/../../../../../../../../../etc/passwd')",
    "FROM duckdb_secrets()",
    "ATTACH '{new}'",
    "ATTACH 'https://example.com/a.db'",
    "COPY (SELECT 1) TO '{new}'",
    "COPY (SELECT 1) TO '{trades}/new.csv'",
    "WITH x AS (COPY (SELECT 1) TO '{trades}/new.csv') FROM x",
    "WITH x AS (COPY (SELECT 1) TO '{new}') FROM x",
    "FROM (WITH x AS (COPY (SELECT 1) TO '{trades}/new.csv') FROM x)",
    "FROM query('WITH x AS (COPY (SELECT 1) TO ''{trades}/new.csv'') FROM x')",
    "WITH x AS (INSERT INTO t VALUES (1)) FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{trades}/new.csv'",
    "EXPORT DATABASE '{new}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "PRAGMA threads=1",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "RESET allowed_directories",
    "CREATE TABLE t AS SELECT 1",
    "DROP VIEW trades",
    "CALL pragma_version()",
    "CHECKPOINT",
    "BEGIN",
    "SELECT 1; COPY (SELECT 1) TO '{new}'",
    "SELECT 1) UNION (SELECT 2",
    "SELECT 1 /*",
    "SELECT getenv('HOME')",
    "",
    " -- nothing",
]


@pytest.mark.parametrize("query", FORBIDDEN)
def test_sql_reads_no_file_but_the_archives_and_changes_nothing(
    archive: harvester.Archive, tmp_path: Path, query: str
) -> None:
    before = files(Path(archive.path))
    new = tmp_path / "new.csv"
    trades = Path(archive.path) / "trades"
    text = query.replace("{new}", str(new)).replace("{trades}", str(trades))

    response = run_sql(archive, text)

    assert response.status_code == 400, response.text
    assert set(response.json()) == {"error"}
    assert "root:" not in response.text
    assert not new.exists()
    assert files(Path(archive.path)) == before


@pytest.mark.parametrize("name", ["it's [x] *", "a b", "pair=X"])
def test_sql_reads_an_archive_whatever_its_folder_is_called(tmp_path: Path, name: str) -> None:
    with sample_archive(tmp_path / name, trades=300) as odd:
        (tmp_path / "other.csv").write_text("1")
        assert run_sql(odd, "SELECT count(*) FROM trades").json()["rows"] == [["300"]]
        for outside in (f"{odd.path}/trades/../../other.csv", f"{tmp_path}/*.csv"):
            text = outside.replace("'", "''")
            assert run_sql(odd, f"FROM read_csv('{text}')").status_code == 400


def test_sql_reads_an_archive_by_a_link(archive: harvester.Archive, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(archive.path)
    with harvester.open(tmp_path / "link") as linked:
        assert run_sql(linked, "FROM trades LIMIT 1").status_code == 200


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sql_sees_no_variable_of_python(archive: harvester.Archive) -> None:
    assert run_sql(archive, "FROM statements").status_code == 400


def test_a_query_ends_when_its_time_is_up(archive: harvester.Archive) -> None:
    query = ReadOnlyQuery(archive.connect, archive.path, QueryLimits(seconds=0.2), as_flat_text)
    with pytest.raises(BadQuery, match=r"took longer than 0\.2 seconds"):
        query.run("SELECT count(*) FROM range(1000000000) a, range(1000000) b")


def test_a_query_whose_rows_are_read_ends_when_its_time_is_up(archive: harvester.Archive) -> None:
    limits = QueryLimits(seconds=0.3)
    query = ReadOnlyQuery(archive.connect, archive.path, limits, as_flat_text)
    rows = "SELECT a.range FROM range(1000000) a, range(1000000) b"
    with pytest.raises(BadQuery, match="took longer"):
        query.run(f"{rows} WHERE a.range < 5000 AND (b.range = 1 OR a.range + b.range < 0)")


@pytest.mark.parametrize("is_early", [True, False])
def test_a_query_can_be_cancelled(archive: harvester.Archive, is_early: bool) -> None:
    query = ReadOnlyQuery(archive.connect, archive.path, QueryLimits(), as_flat_text)
    if is_early:
        query.cancel()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(query.run, "SELECT count(*) FROM range(1000000000) a, range(99999) b")
        query.cancel()
        with pytest.raises(BadQuery, match="was cancelled"):
            running.result(timeout=20)


# One call of DuckDB, which looks at nothing until it ends.
LONG_CALL = "SELECT levenshtein(repeat('a', 400000), repeat('b', 400000))"


def test_a_single_call_ends_when_its_time_is_up(archive: harvester.Archive) -> None:
    query = ReadOnlyQuery(archive.connect, archive.path, QueryLimits(seconds=1), as_flat_text)
    with pytest.raises(BadQuery, match="took longer than 1 seconds"):
        query.run(LONG_CALL)


def test_a_single_call_can_be_cancelled(archive: harvester.Archive) -> None:
    query = ReadOnlyQuery(archive.connect, archive.path, QueryLimits(), as_flat_text)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(query.run, LONG_CALL)
        while not running.done():
            query.cancel()
        with pytest.raises(BadQuery, match="was cancelled"):
            running.result()


def test_a_query_that_is_ended_leaves_no_files(
    archive: harvester.Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    low = {"candles.memory_limit": "100MB"}
    with harvester.open(archive.path, settings=low) as small, ThreadPoolExecutor() as pool:
        query = ReadOnlyQuery(small.connect, small.path, QueryLimits(), as_flat_text)
        running = pool.submit(
            query.run, "SELECT count(DISTINCT hash(range)) FROM range(1000000000)"
        )
        while not any(path.is_file() for path in tmp_path.rglob("*")):
            assert not running.done()
        query.cancel()
        with pytest.raises(BadQuery, match="was cancelled"):
            running.result()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("SELECT length(repeat('x', 4000000000))", 503, "more memory than it may use"),
        ("SELECT list_sort(range(400000000))[1]", 503, "more memory than it may use"),
        (f"SELECT {'[' * 400}1{']' * 400}", 400, "nested too deeply|Recursion level"),
    ],
)
def test_a_value_that_is_too_large_is_refused(
    archive: harvester.Archive, query: str, status: int, said: str
) -> None:
    response = run_sql(archive, query)
    assert response.status_code == status
    assert re.search(said, response.json()["error"])


def test_a_query_that_crashes_duckdb_harms_nothing_else(archive: harvester.Archive) -> None:
    deep = "(repeat('[', 10000) || repeat(']', 10000))::JSON::VARIANT"
    # As there is no reliable crash in DuckDB, this one may also be an error.
    assert run_sql(archive, f"SELECT {deep}").status_code in (400, 503)
    crash = ReadOnlyQuery(os.abort, archive.path, QueryLimits(), as_flat_text)
    with pytest.raises(BadQuery, match="the query ended DuckDB"):
        crash.run("SELECT 1")
    assert run_sql(archive, "SELECT 1").json()["rows"] == [["1"]]


def test_a_query_whose_process_can_not_be_started_is_an_error(
    archive: harvester.Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    response = run_sql(archive, "SELECT 1")
    assert response.status_code == 503
    assert "the query's process can't be started" in response.json()["error"]


@pytest.mark.parametrize("end", [";", "; -- c", ";;\n/* ; */ ;", " -- c;", "; -- ü;"])
def test_a_query_may_end_with_a_semicolon_and_a_comment(
    archive: harvester.Archive, end: str
) -> None:
    found = run_sql(archive, f"SELECT ';ü' AS \"a;\"{end}").json()
    assert (found["columns"][0]["name"], found["rows"]) == ("a;", [[";ü"]])


def test_a_query_of_an_assistant_does_not_wait_for_ever(
    archive: harvester.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_run, may_end = Barrier(3), Event()

    def run(_self: object, _text: str) -> LimitedRows:
        both_run.wait(20)
        may_end.wait(20)
        return LimitedRows(pa.table({"a": [1]}), is_cut=False)

    monkeypatch.setattr(ReadOnlyQuery, "run", run)
    explorer = ArchiveExplorer(archive)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(explorer.run_query, text, QueryLimits()) for text in "ab"]
        both_run.wait(20)
        with pytest.raises(BadQuery, match="2 other queries are still running"):
            explorer.run_query("c", QueryLimits(seconds=0.05))
        may_end.set()
        assert [found.result()["rows"] for found in asked] == [[["1"]]] * 2


def test_two_queries_of_an_assistant_run_at_once(
    archive: harvester.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_run, is_third, may_end = Barrier(3), Event(), Event()
    running: list[str] = []

    def run(_self: object, text: str) -> LimitedRows:
        running.append(text)
        if len(running) > 2:
            is_third.set()
        else:
            both_run.wait(20)
        may_end.wait(20)
        return LimitedRows(pa.table({"a": [1]}), is_cut=False)

    monkeypatch.setattr(ReadOnlyQuery, "run", run)
    explorer = ArchiveExplorer(archive)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(explorer.run_query, text, QueryLimits()) for text in "abc"]
        both_run.wait(20)
        assert not is_third.wait(0.2)
        may_end.set()
        assert [found.result()["rows"] for found in asked] == [[["1"]]] * 3


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_rows_can_be_downloaded(archive: harvester.Archive, form: str) -> None:
    query = "SELECT time, price FROM trades ORDER BY time, tie LIMIT 3"
    response = run_sql(archive, query, form)
    assert f'filename="query.{form}"' in response.headers["Content-Disposition"]
    expected = archive.sql(query).to_arrow_table()
    if form == "parquet":
        found = pq.read_table(io.BytesIO(response.content))
        assert found.to_pylist() == expected.to_pylist()
    else:
        [batch] = expected.to_batches()
        lines = [",".join(row.values()) for row in as_text(batch).to_pylist()]
        assert response.text.splitlines() == ["time,price", *lines]


# --- safety ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/api/pairs", "/api/candles", "/api/sql", "/none"])
@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], f"{TOKEN}x"])
def test_nothing_of_the_archive_is_answered_without_the_token(
    archive: harvester.Archive, path: str, token: str | None
) -> None:
    response = ask(archive, path, token=token)
    assert response.status_code == 403
    assert "open the address that `harvester explore`" in response.text


@pytest.mark.parametrize("path", ["/", "/api/pairs", "/page/main.js"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8723", "127.0.0.1.evil.example", "10.0.0.1", "[::1]", ""]
)
def test_another_host_name_is_refused(archive: harvester.Archive, path: str, host: str) -> None:
    """A site may let its name point to 127.0.0.1: then its scripts may read what is answered."""
    assert ask(archive, path, headers={"Host": host}).status_code == 400


def test_no_answer_allows_other_origins(archive: harvester.Archive) -> None:
    for method in ("GET", "OPTIONS"):
        response = ask(
            archive, "/api/pairs", method=method, headers={"Origin": "https://evil.example"}
        )
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_page_may_load_nothing_of_others(archive: harvester.Archive) -> None:
    response = ask(archive, f"/?token={TOKEN}", token=None)
    assert response.status_code == 200
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert response.headers["Referrer-Policy"] == "no-referrer"


def test_the_page_names_no_other_host() -> None:
    page = ROOT / "harvester/server/explorer/page"
    for file in page.iterdir():
        assert "://" not in file.read_text(encoding="utf-8"), file.name


@pytest.mark.parametrize(
    "path", ["/page/../web.py", "/page/%2e%2e/web.py", "/plotly/../__init__.py"]
)
def test_no_file_outside_the_page_is_served(archive: harvester.Archive, path: str) -> None:
    assert ask(archive, path).status_code in (403, 404)


def test_plotly_comes_from_its_package(archive: harvester.Archive) -> None:
    response = ask(archive, "/plotly/plotly.min.js")
    assert response.status_code == 200
    assert len(response.content) > 1_000_000
    again = ask(
        archive, "/plotly/plotly.min.js", headers={"If-None-Match": response.headers["ETag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


def test_plotly_is_served_without_its_wrapper_and_with_its_license(
    archive: harvester.Archive,
) -> None:
    script = ask(archive, "/plotly/plotly.min.js").content
    assert script.startswith(b"/**\n* plotly.js v")
    assert b'Licensed under the MIT license\n*/\n"use strict";var Plotly=(()=>{' in script[:600]
    assert script.endswith(b"window.Plotly = Plotly;\n")


def test_plotly_of_another_form_is_served_as_it_is() -> None:
    for script in (b"", b"var Plotly={};", b"x" * 3_000 + b'"use strict";var Plotly=1;'):
        assert without_wrapper(script) == script


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b"null", b"[" * 100_000, b'{"query": 1}', b"\xff"),
        b'{"query": "FROM trades", "format": "exe"}',
    ],
)
def test_a_request_that_is_no_query_is_refused(archive: harvester.Archive, body: bytes) -> None:
    response = ask(archive, "/api/sql", method="POST", body=body)
    assert response.status_code == 400


def test_a_query_that_is_too_long_is_refused(archive: harvester.Archive) -> None:
    assert run_sql(archive, "SELECT 1 --" + "x" * 100_000).status_code == 400
    assert run_sql(archive, "SELECT 1 --" + "x" * 1_000_000).status_code == 400


texts = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            *("", "0", "-1", "start", "now", "XBTUSD", "../../etc/passwd", "XBTUSD\0", "2026"),
            *("9" * 5000, "1e9", "NaN", "at:", "after:", "after:1.x", "before:1.-1", "at:now"),
            *("before:9999999999999999999.0", "after:0.999999999", "auto", "1M", "0m", "99999y"),
            *("'; DROP TABLE trades; --", "<script>", "2262-04-11", "7d", "1969-12-31"),
        ]
    ),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(["candles", "trades", "coverage", "version", "pairs", "sql", "none"]),
    params=st.dictionaries(
        st.sampled_from(["pair", "since", "until", "interval", "place", "count", "x"]),
        texts,
        max_size=5,
    ),
    has_pair=st.booleans(),
)
def test_wrong_parameters_are_the_askers_fault(
    archive: harvester.Archive, name: str, params: dict[str, str], has_pair: bool
) -> None:
    asked = params | ({"pair": "XBTUSD"} if has_pair else {})
    response = ask(archive, f"/api/{name}", params=asked)
    assert response.status_code < 500, response.text


def test_unknown_pairs_are_not_found(archive: harvester.Archive) -> None:
    response = ask(archive, "/api/candles", params={"pair": "DOGE/EUR"})
    assert response.status_code == 404
    assert "holds no trades of 'DOGE/EUR'" in response.json()["error"]


def test_an_empty_archive_has_no_pairs(tmp_path: Path) -> None:
    with harvester.open(tmp_path) as empty:
        assert answer(empty, "pairs")["pairs"] == []
        assert run_sql(empty, "FROM trades").json()["rows"] == []


def test_an_overtaken_request_that_waits_is_left_out(
    archive: harvester.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(ArchiveExplorer, "pairs", lambda _self: asked.append("pairs"))

    async def send() -> list[Any]:
        sent: list[Any] = []
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/api/pairs",
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1"), (b"x-token", TOKEN.encode())],
        }

        async def receive() -> dict[str, str]:
            return {"type": "http.disconnect"}

        async def collect(message: Any) -> None:
            sent.append(message)

        await explorer_app(archive, TOKEN)(scope, receive, collect)
        return sent

    assert asyncio.run(send())[0]["status"] == 204
    assert asked == []


# --- running --------------------------------------------------------------------------------------


def test_the_server_listens_on_this_machine_only(archive: harvester.Archive) -> None:
    with archive.explore() as explorer:
        assert explorer.url.startswith("http://127.0.0.1:")
        port = int(explorer.url.partition("127.0.0.1:")[2].partition("/")[0])
        socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(OSError, match="refused"):
            # Also this machine, by another address.
            socket.create_connection(("127.0.0.2", port))
        assert f'src="{explorer.url}"' in explorer._repr_html_()


def test_the_command_prints_an_address_that_opens_the_page(archive: harvester.Archive) -> None:
    command = [*HARVESTER, "explore", "--no-browser", "--data", archive.path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = line.split(" at ")[1].split(" (")[0]
        page = httpx.get(url, timeout=20)
        other = httpx.get(url.partition("?")[0], timeout=20)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert line.startswith(f"exploring {archive.path} at http://127.0.0.1:")
    assert (page.status_code, other.status_code) == (200, 403)
    assert 'data-testid="pair-list"' in page.text


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_ends_a_query_that_runs(archive: harvester.Archive, signals: int) -> None:
    command = [*HARVESTER, "explore", "--no-browser", "--data", archive.path]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        ThreadPoolExecutor() as pool,
    ):
        assert process.stderr is not None
        url, _, token = process.stderr.readline().split(" at ")[1].split(" (")[0].partition("?")
        asked = pool.submit(
            httpx.post, f"{url}api/sql?{token}", json={"query": LONG_CALL}, timeout=60
        )
        children = Path(f"/proc/{process.pid}/task")
        while not any(file.read_text() for file in children.glob("*/children")):
            assert not asked.done()
        process.send_signal(signal.SIGINT)
        if signals == 2:
            with suppress(httpx.TransportError):
                while True:
                    httpx.get(url, timeout=20)
            process.send_signal(signal.SIGINT)
        assert process.wait(15) in (130, -signal.SIGINT)
        assert not any(file.read_text() for file in children.glob("*/children"))
        asked.exception()


def test_a_browser_that_blocks_gets_the_page(archive: harvester.Archive, tmp_path: Path) -> None:
    """The program that BROWSER names is waited for; this one ends only when it has the page."""
    browser, got = tmp_path / "browser", tmp_path / "got"
    ask = "import httpx, sys; httpx.get(sys.argv[1], timeout=20)"
    fetch = f"{ask}; open({str(got)!r}, 'w').write('x')"
    browser.write_text(f"#!{sys.executable}\n{fetch}\n")
    browser.chmod(0o700)
    command = [*HARVESTER, "explore", "--data", archive.path]
    environment = os.environ | {"BROWSER": f"{browser} %s"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        process.stderr.readline()
        end_s = time.monotonic() + 20
        while not got.exists() and time.monotonic() < end_s:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert got.exists()


def test_every_start_has_a_token_of_its_own(archive: harvester.Archive) -> None:
    with archive.explore() as first, archive.explore() as second:
        tokens = {explorer.url.partition("token=")[2] for explorer in (first, second)}
    assert len(tokens) == 2
    assert all(len(token) >= 32 for token in tokens)


def test_the_page_is_part_of_the_package() -> None:
    """The wheel has all files of the package's folders: hatch leaves out what git ignores."""
    page = ROOT / "harvester/server/explorer/page"
    names = {file.name for file in page.iterdir()}
    index = (page / "index.html").read_text(encoding="utf-8")
    assert {"index.html", "style.css", "main.js"} <= names
    assert 'src="page/main.js"' in index
    # All modules are fetched at once, not each when another one imports it.
    modules = {f"page/{name}" for name in names if name.endswith(".js")}
    preloaded = set(re.findall(r'rel="modulepreload" href="(.*?)"', index))
    assert preloaded == modules - {"page/main.js"}


def test_the_page_of_an_explorer_that_nobody_keeps_is_there(archive: harvester.Archive) -> None:
    """In a notebook the object is dropped once its frame is shown."""
    url = archive.explore().url
    gc.collect()
    assert httpx.get(url).status_code == 200
