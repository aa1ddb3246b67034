"""Killed at every step, on a faulty exchange and bad machines, nothing is lost and nothing twice.

The short form of benchmarks/torture.py, by the same parts.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chaos_trials
import pytest
from chaos_round import COMMANDS, Command, Round, Tally
from crash_points import Plan
from kraken_faults import Faults
from process import Disk, hunt

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "torture.py"
TRADES = 4_000


@pytest.fixture
def round_(tmp_path: Path) -> Iterator[Round]:
    """A round of two markets with their whole history, every fault on."""
    with Round(Disk(tmp_path), 5, TRADES, Tally()) as begun:
        begun.victims.settings["HARVESTER_ARCHIVE_FLUSH_ROWS"] = "200"
        begun.exchange.page_size = 250
        begun.set_clock(1.0)
        yield begun


def killed(round_: Round, words: str, plan: Plan) -> str:
    """Run a command that dies at a step; gives the step, once nothing was found to be lost."""
    process = round_.victims.fork(words.split(), plan)
    end = hunt(process, lambda: round_.glance() and False)
    round_.booked("at a step", Command(words, 0, (0, 3)), end)
    return end.died_at


DAYS_S = 86_400
FLUSHES = [
    Plan("stage", "after", 4, "commit", clock_s=400 * DAYS_S),
    Plan("write", "after", 1, "commit"),
    Plan("sync", "before", 2, "commit"),
    Plan("rename", "before", 3, "commit", clock_s=9 * DAYS_S),
    Plan("rename", "after", 4, "commit", clock_shift_s=3600),
]
COMPACTIONS = [
    Plan("write", "before", 1, "compact"),
    Plan("rename", "after", 1, "compact"),
    Plan("unlink", "before", 2, "compact"),
]
# The first rename of a commit is that of the requested ranges.
IMPORTS = [
    Plan("write", "after", 1, "commit_stream"),
    Plan("rename", "before", 2, "commit_stream"),
    Plan("rename", "after", 2, "commit_stream"),
]
REDOWNLOADS = [
    Plan("stage", "before", 1, "replace_imported"),
    Plan("rename", "before", 1, "replace_imported"),
    Plan("rename", "after", 1, "replace_imported"),
]


def test_a_run_killed_at_any_step_loses_nothing_that_was_committed(round_: Round) -> None:
    backfill = f"backfill {' '.join(round_.pairs)} -q"
    plans = [(backfill, plan) for plan in FLUSHES] + [("compact -q", plan) for plan in COMPACTIONS]
    for words, plan in plans:
        assert killed(round_, words, plan) == f"{plan.step} {plan.when} {plan.phase}"
    assert round_.tally.left["segments beside their merger"] == 2
    assert killed(round_, "compact -q", Plan("unlink", "after", 1, "sweep")) == "unlink after sweep"
    round_.finish(["backfill {pairs} -q", "verify"])


def test_an_import_and_a_redownload_killed_at_any_step_lose_nothing(tmp_path: Path) -> None:
    with Round(Disk(tmp_path / "data"), 5, TRADES, Tally(), has_files=True) as round_:
        round_.victims.settings["HARVESTER_ARCHIVE_FLUSH_ROWS"] = "200"
        round_.exchange.faults = Faults()
        round_.set_clock(1.0)
        begins = f"import {' '.join(map(str, round_.files))} -q"
        redownload = f"backfill {' '.join(round_.pairs)} -q --replace-imported"
        plans = [(begins, plan) for plan in IMPORTS] + [(redownload, plan) for plan in REDOWNLOADS]
        for words, plan in plans:
            assert killed(round_, words, plan) == f"{plan.step} {plan.when} {plan.phase}"
        round_.finish(["backfill {pairs} -q --replace-imported", "verify"])


def test_a_run_killed_from_outside_loses_nothing_that_was_committed(round_: Round) -> None:
    round_.commands = COMMANDS[:1]
    chaos_trials.killed_at_any_moment(round_)
    chaos_trials.killed_when_a_file_is_staged(round_)
    chaos_trials.killed_just_after_a_rename(round_)
    assert round_.tally.kills.total() >= 2
    round_.finish(["backfill {pairs} -q"])


def test_a_run_killed_as_soon_as_it_begins_is_booked_as_killed(round_: Round) -> None:
    for _ in range(20):
        command = round_.victims.fork(["backfill", *round_.pairs, "-q"])
        assert hunt(command, lambda: True).status == -signal.SIGKILL


def test_a_second_run_is_refused_and_changes_nothing(round_: Round) -> None:
    chaos_trials.two_at_once(round_)
    assert round_.tally.trials["a second run refused with status 5"] == 1


def test_a_read_only_folder_is_an_error_of_one_line(round_: Round) -> None:
    if round_.disk.why_never_read_only:
        pytest.skip(round_.disk.why_never_read_only)
    chaos_trials.read_only(round_)
    assert round_.tally.trials["a read-only folder"] == 1


def test_a_quota_ends_a_run_in_one_line_and_the_next_goes_on(round_: Round) -> None:
    chaos_trials.disk_full(round_)
    assert round_.tally.trials["a full disk"] == 1


def test_a_signal_keeps_all_that_was_fetched(round_: Round) -> None:
    chaos_trials.stop_by_signal(round_)
    assert round_.tally.trials["stopped by a signal, all that was fetched kept"] == 1


def test_an_exchange_whose_clock_goes_back_causes_no_loss(round_: Round) -> None:
    for part in (0.6, 0.2):
        round_.set_clock(part)
        chaos_trials.left_alone(round_)


@pytest.mark.skipif(not BENCHMARK.exists(), reason="the benchmarks are not part of a release")
def test_the_long_form_prints_its_figures(tmp_path: Path) -> None:
    program = [sys.executable, str(BENCHMARK), "--kills", "1", "--trades", "500", "--seed", "3"]
    done = subprocess.run(
        [*program, "--keep", str(tmp_path)], capture_output=True, text=True, check=False
    )
    *lines, last = done.stdout.splitlines()
    figures = json.loads(last)
    assert (done.returncode, figures["kills"], figures["fault"]) == (0, 1, "")
    assert lines[-1] == "nothing lost, nothing twice"
    assert (tmp_path / "trades").is_dir()
