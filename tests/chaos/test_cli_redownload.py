"""`harvester backfill --replace-imported` as a user meets it."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import candle_oracle
import csv_files
import pytest
import sample_trades
from backfills import foreign_files, rows_on_disk, serve
from command_line import own_environment, run_harvester
from kraken_market import Clock, TradeRows, expected
from kraken_server import Exchange
from process import Victims, hunt

import harvester

TRADES = sample_trades.xbtusd_like(6_000, 81)
TRUTH: TradeRows = expected(sample_trades.market(TRADES))
NOW_NS = sample_trades.utc_ns(2025, 3, 1)
FAST = {
    "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.01",
    "HARVESTER_EXCHANGE_RATE": "0",
    "HARVESTER_EXCHANGE_GIVE_UP_S": "1",
}


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with serve(sample_trades.market(TRADES), clock=Clock(NOW_NS)) as server:
        yield server


@pytest.fixture
def run(exchange: Exchange, tmp_path: Path) -> Any:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        given = {"HARVESTER_API_URL": exchange.url, "HARVESTER_DATA": str(tmp_path / "data")}
        return run_harvester(words, own_environment() | FAST | given, tmp_path)

    return run


@pytest.fixture
def imported(run: Any, tmp_path: Path) -> Any:
    """Take in a file of the first 4,000 trades, and fill what it leaves."""
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(TRADES[:4_000]))
    assert run("import", "XBTUSD.csv", "-q").returncode == 0
    assert run("backfill", "XBTUSD", "-q").returncode == 0
    return run


NAMES = ("open", "high", "low", "close", "volume", "count")


def candles(text: str) -> list[tuple[Decimal, ...]]:
    return [
        tuple(Decimal(row[name]) for name in NAMES) for row in csv.DictReader(text.splitlines())
    ]


def test_candles_are_the_oracles_before_and_after(imported: Any, tmp_path: Path) -> None:
    for minutes in (1, 7):
        made = candle_oracle.candles(TRUTH, minutes * 60 * 10**9)
        truth = [tuple(Decimal(candle[name]) for name in NAMES) for candle in made]
        ask = ("ohlc", "XBTUSD", "-i", f"{minutes}m", "-f", "csv")
        assert candles(imported(*ask).stdout) == truth
        assert imported("backfill", "XBTUSD", "--replace-imported").returncode == 0
        assert candles(imported(*ask).stdout) == truth
    verified = imported("verify")
    assert (verified.returncode, verified.stderr) == (0, "")
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == TRUTH
    assert foreign_files(tmp_path / "data") == []


def test_it_says_what_it_did(imported: Any, tmp_path: Path) -> None:
    done = imported("backfill", "XBTUSD", "--replace-imported", "--json")
    [pair] = json.loads(done.stdout)["pairs"]
    [[after, through]] = pair["replacement"]["replaced"]
    count = sum(after < row[1] <= through for row in TRUTH)
    assert (pair["replacement"], pair["trades"]) == (
        {
            "replaced": [[after, through]],
            "not_replaced": [],
            "days": [],
            "kept": [],
        },
        count,
    )
    begins, ends = (harvester_time(moment) for moment in (after, through))
    assert done.stderr.splitlines() == [
        f"XBTUSD: downloading from {begins} to {ends}, about {count:,} trades",
        f"XBTUSD: {count:,} imported trades replaced, {begins} to {ends}",
        f"XBTUSD: {count:,} trades in {pair['pages']} pages, 1 imported range replaced, "
        "complete through 2025-02-28T23:59:00Z",
    ]
    [record] = json.loads(imported("status", "--runs", "--json").stdout)[:1]
    assert record["asked"]["replace_imported"] is True
    assert record["pairs"][0]["replacement"] == pair["replacement"]
    assert list((tmp_path / "data" / "staging").rglob("*.parquet")) == []


def harvester_time(stamp_ns: int) -> str:
    """The first moment after a second's last nanosecond, as messages show it."""
    assert stamp_ns % 10**9 == 10**9 - 1
    return f"{datetime.fromtimestamp((stamp_ns + 1) // 10**9, UTC):%Y-%m-%d %H:%M:%S}"


def test_days_that_differ_are_printed_with_quiet(run: Any, tmp_path: Path) -> None:
    lines = csv_files.three_columns(TRADES[:4_000]).splitlines(keepends=True)
    (tmp_path / "XBTUSD.csv").write_bytes(b"".join(lines[:2_000] + lines[2_001:]))
    assert run("import", "XBTUSD.csv", "-q").returncode == 0
    done = run("backfill", "XBTUSD", "--replace-imported", "-q", "--json")
    [pair] = json.loads(done.stdout)["pairs"]
    assert (done.returncode, pair["error"]) == (4, None)
    [day] = pair["replacement"]["days"]
    assert day["exchange"]["rows"] == day["file"]["rows"] + 1
    [first, second] = done.stderr.splitlines()[:2]
    assert first == (
        f"XBTUSD: {day['day']}: the file has {day['file']['rows']:,} trades of volume "
        f"{day['file']['volume']}, the exchange {day['exchange']['rows']:,} of "
        f"{day['exchange']['volume']}"
    )
    assert second.endswith(
        f"does not agree with the exchange: a copy is in {pair['replacement']['kept'][0]}"
    )
    assert (tmp_path / "data" / pair["replacement"]["kept"][0]).is_file()
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == TRUTH
    assert run("verify").returncode == 0


def test_a_dry_run_counts_what_came_from_files(imported: Any, exchange: Exchange) -> None:
    calls = len([call for call in exchange.calls if call.path.endswith("Trades")])
    plain = json.loads(imported("backfill", "XBTUSD", "--dry-run", "--json").stdout)
    done = imported(
        "backfill", "XBTUSD", "--replace-imported", "--dry-run", "--rate", "1", "--json"
    )
    [pair] = json.loads(done.stdout)["pairs"]
    assert plain["pairs"][0]["trades"] == 0
    assert pair == {
        "pair": "XBTUSD",
        "ranges": 1,
        "trades": pair["redownload_trades"],
        "calls": 5,
        "hours": 5 / 3600,
        "bytes": 0,
        "redownload_trades": pair["redownload_trades"],
    }
    assert 3_900 < pair["redownload_trades"] <= 4_000
    assert len([call for call in exchange.calls if call.path.endswith("Trades")]) == calls
    table = imported("backfill", "XBTUSD", "--replace-imported", "--dry-run").stdout.splitlines()
    assert table[0].split("  ")[-1] == "re-download"
    assert table[-1].split()[-1] == f"{pair['redownload_trades']:,}"


def test_ctrl_c_keeps_what_was_fetched(imported: Any, exchange: Exchange, tmp_path: Path) -> None:
    before = rows_on_disk(tmp_path / "data", "XBTUSD")
    exchange.latency_s = 0.2
    victims = Victims(tmp_path / "data", exchange.url, FAST)
    calls = len(exchange.calls)
    process = victims.fork(["backfill", "XBTUSD", "--replace-imported"])
    end = hunt(process, lambda: len(exchange.calls) >= calls + 4, signal.SIGINT)
    assert (end.status, end.err.splitlines()[-1].partition("; ")[2]) == (
        130,
        "interrupted; the same command goes on where it stopped",
    )
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == before
    assert list((tmp_path / "data" / "staging").rglob("*.parquet"))
    exchange.latency_s = 0.0
    assert imported("backfill", "XBTUSD", "--replace-imported", "-q").returncode == 0
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == TRUTH


@pytest.mark.usefixtures("imported")
def test_from_python(exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARVESTER_API_URL", exchange.url)
    monkeypatch.setenv("HARVESTER_EXCHANGE_RATE", "0")
    with harvester.open(tmp_path / "data") as archive:
        trades = archive.trades("XBTUSD")
        assert trades.df()["side"].isna().sum() > 3_900
        [done] = archive.backfill("XBTUSD", replace_imported=True)
        assert done.replacement is not None
        assert (done.exit_status, len(done.replacement.replaced)) == (0, 1)
        # The same question, asked again of the archive that is open.
        assert trades.df()["side"].isna().sum() == 0


@pytest.mark.parametrize("rounding", csv_files.ROUNDINGS)
def test_an_import_says_how_its_file_rounds(run: Any, tmp_path: Path, rounding: str) -> None:
    since, until = TRADES[1_000].true_ns, TRADES[3_000].true_ns
    assert (
        run("backfill", "XBTUSD", "--since", str(since), "--until", str(until), "-q").returncode
        == 0
    )
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(TRADES, rounding))
    done = run("import", "XBTUSD.csv", "--json")
    [report] = json.loads(done.stdout)["files"]
    count = report["rounding"]["of"]
    assert report["rounding"] == {"way": rounding, "agree": count, "of": count}
    assert 1_900 < count <= 2_000
    words = {"down": "rounded down", "nearest": "rounded to the nearest", "up": "rounded up"}
    note = (
        f"its times are whole seconds, {words[rounding]}: {count:,} of {count:,} trades stored "
        "already agree"
    )
    assert report["notes"] == [note]
    assert f"XBTUSD: {note}" in done.stderr.splitlines()
    assert run("backfill", "XBTUSD", "--replace-imported", "-q").returncode == 0
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == TRUTH
    assert run("verify").returncode == 0


def test_without_an_overlap_an_import_does_not_say(run: Any, tmp_path: Path) -> None:
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(TRADES))
    [report] = json.loads(run("import", "XBTUSD.csv", "--json").stdout)["files"]
    assert (report["rounding"], report["notes"]) == (None, [])
