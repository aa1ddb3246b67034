"""The record that a run leaves: begun before it, ended behind it, and never in its way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harvester import __version__, config
from harvester.cli.status import runs_table
from harvester.errors import ExchangeUnreachable
from harvester.events import BackfillResult
from harvester.kraken.pairs import Pair
from harvester.operations import run_log
from harvester.operations.run_log import (
    PairResult,
    RunRecord,
    append,
    latest_runs,
    pair_results,
    record_run,
)
from harvester.storage.trade_store import TradeStore
from harvester.times import Range

OUTCOMES = [
    BackfillResult("XBTUSD", 5_000, 8, Range(0, 7), [], None),
    BackfillResult("ETHUSD", 0, 1, None, [Range(7, 9)], ExchangeUnreachable("ETHUSD: no answer")),
]


@pytest.fixture
def archive(tmp_path: Path) -> TradeStore:
    return TradeStore(tmp_path / "data")


def settings(**options: Any) -> config.Settings:
    return config.load(options, environment={})


def warned(_: str) -> None:
    raise AssertionError("nothing was to be warned of")


def lines(archive: TradeStore) -> list[bytes]:
    return (archive.root / "runs.jsonl").read_bytes().splitlines()


def test_a_record_has_the_arguments_and_the_results_of_a_run(archive: TradeStore) -> None:
    asked = {"pairs": ["btc/usd"], "since": "start"}
    with record_run(archive, "backfill", asked, settings(), warned) as record:
        record.pairs = pair_results(OUTCOMES)
        record.calls, record.refusals = 12, 3
    begun, ended = map(json.loads, lines(archive))
    assert (begun["state"], begun["id"], begun["pairs"]) == ("running", ended["id"], [])
    entry = ended
    begun_at, ended_at = (datetime.fromisoformat(entry.pop(name)) for name in ("begun", "ended"))
    assert begun_at <= ended_at
    assert isinstance(entry.pop("host"), str)
    entry.pop("ticks")
    assert entry == {
        "id": begun["id"],
        "command": "backfill",
        "format": 1,
        "state": "ended",
        "version": __version__,
        "pid": os.getpid(),
        "asked": asked,
        "settings": {
            "exchange.url": "https://api.kraken.com",
            "exchange.rate": 1.0,
            "exchange.jobs": 8,
            "archive.flush_s": 30.0,
            "archive.flush_rows": 250000,
            "refresh.settle_s": 60.0,
            "candles.rollups": ["1m", "1h"],
        },
        "exit_status": 3,
        "error": None,
        "calls": 12,
        "refusals": 3,
        "pairs": [
            {
                "pair": "XBTUSD",
                "exit_status": 0,
                "trades": 5000,
                "pages": 8,
                "gaps": 0,
                "moved": 0,
                "covered_through_ns": 7,
                "error": None,
                "replacement": None,
            },
            {
                "pair": "ETHUSD",
                "exit_status": 3,
                "trades": 0,
                "pages": 1,
                "gaps": 1,
                "moved": 0,
                "covered_through_ns": None,
                "error": "ETHUSD: no answer",
                "replacement": None,
            },
        ],
    }
    assert archive.store.files("staging") == []


def test_a_name_and_a_password_in_the_address_are_left_out(archive: TradeStore) -> None:
    given = settings(**{"exchange.url": "https://ann:secret@mirror.example:8443/x"})
    with record_run(archive, "backfill", {}, given, warned):
        pass
    for line in lines(archive):
        assert json.loads(line)["settings"]["exchange.url"] == "https://mirror.example:8443/x"
        assert b"secret" not in line


def test_a_running_run_is_listed(archive: TradeStore) -> None:
    with record_run(archive, "backfill", {}, settings(), warned):
        assert [run.state for run in latest_runs(archive, 9)] == ["running"]
    assert [run.state for run in latest_runs(archive, 9)] == ["ended"]


KILLED = """
import os, signal, sys
from harvester import config
from harvester.storage.trade_store import TradeStore
from harvester.operations.run_log import record_run
with record_run(TradeStore(sys.argv[1]), "backfill", {}, config.load(environment={}), print):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_is_listed_as_killed(archive: TradeStore) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(archive.root)], check=False, timeout=60)
    assert [(run.state, run.exit_status) for run in latest_runs(archive, 9)] == [("killed", None)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system shows no start times")
def test_a_process_of_the_same_number_is_not_the_run(archive: TradeStore) -> None:
    with record_run(archive, "backfill", {}, settings(), warned) as record:
        record.ticks = 1
        append(archive, record)
        assert [found.state for found in latest_runs(archive, 9)] == ["killed"]


def test_a_run_on_another_machine_is_believed(archive: TradeStore) -> None:
    with record_run(archive, "backfill", {}, settings(), warned) as record:
        record.host, record.pid = "elsewhere", 0
        append(archive, record)
        assert [found.state for found in latest_runs(archive, 9)] == ["running"]


def test_an_error_that_ends_a_run_is_recorded_and_raised(archive: TradeStore) -> None:
    with (
        pytest.raises(ExchangeUnreachable),
        record_run(archive, "backfill", {}, settings(), warned),
    ):
        raise ExchangeUnreachable("no good answer")
    [run] = latest_runs(archive, 9)
    assert (run.state, run.exit_status, run.error) == ("ended", 3, "no good answer")


def test_a_run_log_that_can_not_be_written_is_a_warning(archive: TradeStore) -> None:
    (archive.root / "runs.jsonl").mkdir(parents=True)
    said: list[str] = []
    with record_run(archive, "backfill", {}, settings(), said.append) as record:
        record.pairs = pair_results(OUTCOMES[:1])
    path = archive.root / "runs.jsonl"
    assert said == [f"this run leaves no record: can't write {path}: Is a directory"]


def test_where_the_run_failed_the_record_is_not_complained_of(archive: TradeStore) -> None:
    (archive.root / "runs.jsonl").mkdir(parents=True)
    with record_run(archive, "backfill", {}, settings(), warned) as record:
        record.pairs = pair_results(OUTCOMES)


def test_a_large_log_keeps_its_newest_half(
    archive: TradeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "MAX_BYTES", 4_000)
    sizes = []
    for number in range(20):
        with record_run(archive, f"run {number}", {}, settings(), warned):
            pass
        sizes.append((archive.root / "runs.jsonl").stat().st_size)
    kept = [run.command for run in latest_runs(archive, 99)]
    assert max(sizes) <= 4_000
    assert kept == [f"run {number}" for number in range(19, 19 - len(kept), -1)]
    assert len(kept) >= 2
    assert archive.store.files("staging") == []


def test_a_line_that_a_crash_cut_short_hides_no_other(archive: TradeStore) -> None:
    with record_run(archive, "backfill", {}, settings(), warned):
        pass
    with (archive.root / "runs.jsonl").open("ab") as file:
        file.write(b'{"x":' + b"[" * 100_000 + b"\n")
        file.write(b'{"id":"x","command":"ref')
    assert [run.command for run in latest_runs(archive, 9)] == ["backfill"]
    with record_run(archive, "refresh", {}, settings(), warned):
        pass
    assert [run.command for run in latest_runs(archive, 9)] == ["refresh", "backfill"]


WRITER = """
import sys
from harvester import config
from harvester.storage.trade_store import TradeStore
from harvester.operations.run_log import record_run
for number in range(20):
    settings = config.load(environment={})
    with record_run(TradeStore(sys.argv[1]), "backfill", {"x": "y" * 20_000}, settings, sys.exit):
        pass
"""


def test_runs_that_write_at_once_lose_no_line(archive: TradeStore) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(archive.root)]) for _ in range(3)
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    assert [run.state for run in latest_runs(archive, 99)] == ["ended"] * 60
    assert len(lines(archive)) == 120


def test_the_table_of_runs_says_why_one_failed() -> None:
    well = RunRecord("b", "backfill", "2026-01-30T12:00:00Z", ended="2026-01-30T13:02:03.9Z")
    well = msgspec.structs.replace(well, state="ended", exit_status=0, calls=8_123, refusals=2)
    well.pairs = [PairResult("XBTUSD", 0, 8_000_000, 8_120)]
    bad = RunRecord("a", "repair", "2026-01-29T12:00:00Z", state="killed")
    ugly = RunRecord("c", "backfill", "2026-01-28T12:00:00Z", state="ended", exit_status=3)
    ugly.pairs = [PairResult("A", 3, error="A: one\nmore of it"), PairResult("B", 3, error="B")]
    assert runs_table([well, bad, ugly]).split("\n") == [
        "begun                command   ended        took  pairs     trades  calls  refusals  gaps",
        "2026-01-30 12:00:00  backfill  done      1:02:04      1  8,000,000  8,123         2     0",
        "2026-01-29 12:00:00  repair    killed                 0          0      0         0     0",
        "2026-01-28 12:00:00  backfill  status 3               2          0      0         0     0",
        "    A: one",
        "    and 1 more; --json shows all",
    ]


@pytest.mark.parametrize(
    ("command", "asked", "concerned"),
    [
        ("refresh", {"pairs": []}, True),
        ("import", {"files": ["history.zip"], "pair": None, "pairs": []}, True),
        ("import", {"files": ["a.csv"], "pair": "btc/usd", "pairs": []}, True),
        ("import", {"files": ["a.csv"], "pair": "ETH/USD", "pairs": []}, False),
        ("backfill", {"pairs": ["*"]}, True),
        ("backfill", {"pairs": ["*"], "quotes": ["eur"]}, False),
        ("backfill", {"pairs": ["*"], "quotes": ["EUR", "USD"]}, True),
        ("repair", {"pairs": []}, False),
    ],
)
def test_a_run_without_results_concerns_the_pairs_that_it_was_to_change(
    command: str, asked: dict[str, Any], concerned: bool, archive: TradeStore
) -> None:
    with pytest.raises(KeyboardInterrupt), record_run(archive, command, asked, settings(), warned):
        raise KeyboardInterrupt
    [run] = latest_runs(archive, 9)
    pair = Pair(altname="XBTUSD", wsname="XBT/USD")
    assert run.concerns(pair) == concerned
    assert latest_runs(archive, 9, [pair]) == [run] * concerned
