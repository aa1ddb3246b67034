"""Shared by tests: redownload torn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from redownload_kills import Killed
from redownloads import PAIR

from harvester.storage.trade_store import TradeStore
from harvester.verify.integrity import verify_with_digests

NOTE = f"upgrade/replacing/{PAIR}.json"


def volumes(folder: Path) -> list[Any]:
    batches = TradeStore(folder).scan(PAIR)
    return [each for batch in batches for each in batch.column("volume").to_pylist()]


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it as a user would."""
    program = [sys.executable, "-m", "harvester", *words, "-d", str(folder)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def faults(folder: Path) -> list[str]:
    """What `verify` finds of a replacement."""
    report = verify_with_digests(TradeStore(folder), PAIR)
    assert bool(report.digests) == (not report.faults)
    return [fault.text for fault in report.faults if fault.path == NOTE]


def killed(*_: Any) -> None:
    raise Killed


def killed_at(turn: int, done: Any) -> Any:
    """Do it, and die at one turn."""
    turns = iter(range(1, turn + 1))

    def doing(*given: Any) -> Any:
        return killed() if next(turns) == turn else done(*given)

    return doing
