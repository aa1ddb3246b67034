"""Runs harvester in a process that kills itself at a counted step, on a machine made worse.

`python tests/helpers/crash_points.py PLAN COMMAND...`, where PLAN is the JSON of a `Plan`. Nothing
of harvester is changed: the steps are counted where it calls the machine, and SIGKILL skips all
cleanup.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

PREFIX = "doomed: "
STEPS = ("stage", "write", "sync", "rename", "unlink", "mkdir", "rmdir")
WHEN = ("before", "after")


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes wrong in a process.

    Attributes:
        step: the step to die at, one of `STEPS`; empty for none.
        when: `before` or `after` it is done.
        nth: which one of its kind, from 1.
        phase: count only those of this method of `Writer`; empty for all.
        clock_s: how far the machine's clock is off.
        clock_shift_s: how far it moves at every tenth reading, there and back.
        most_bytes: no file may grow larger, as by a quota; 0 for no limit.
    """

    step: str = ""
    when: str = "before"
    nth: int = 1
    phase: str = ""
    clock_s: int = 0
    clock_shift_s: int = 0
    most_bytes: int = 0

    def text(self) -> str:
        """The plan as an argument of this program."""
        return json.dumps({name: value for name, value in asdict(self).items() if value})

    def __str__(self) -> str:
        """The plan for people."""
        return self.text()


class Death:
    """Counts steps, and knows of each thread in which method of the writer it is."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._steps = itertools.count(1)
        self._here = threading.local()

    def passes(self, step: str, when: str) -> None:
        """Note a step; the one that was planned is the last thing that happens."""
        plan, phase = self._plan, getattr(self._here, "phase", "")
        if (step, when) != (plan.step, plan.when) or (plan.phase and phase != plan.phase):
            return
        if next(self._steps) == plan.nth:
            os.write(2, f"{PREFIX}{step} {when} {phase or 'elsewhere'}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(self, owner: Any, name: str, step: str) -> None:
        """Count the calls of a function, where everybody looks it up."""
        original: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            self.passes(step, "before")
            answer = original(*args, **options)
            self.passes(step, "after")
            return answer

        setattr(owner, name, call)

    def named(self, owner: Any, name: str) -> None:
        """Remember that a thread is in this method."""
        original: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            before = getattr(self._here, "phase", "")
            self._here.phase = name
            try:
                return original(*args, **options)
            finally:
                self._here.phase = before

        setattr(owner, name, call)


def _aim(death: Death) -> None:
    import pyarrow.parquet as pq

    from harvester.storage.filesystem import LocalStore
    from harvester.storage.writer import Writer

    for name in ("commit", "commit_stream", "compact", "store_rollup", "replace_imported", "sweep"):
        death.named(Writer, name)
    death.counted(LocalStore, "stage", "stage")
    death.counted(pq.ParquetWriter, "write_table", "write")
    for owner, name, step in (
        (os, "fsync", "sync"),
        (os, "replace", "rename"),
        (os, "unlink", "unlink"),
        (os, "mkdir", "mkdir"),
        (os, "rmdir", "rmdir"),
    ):
        death.counted(owner, name, step)


def _shift_clock(plan: Plan) -> None:
    true_ns, looks = time.time_ns, itertools.count()

    def time_ns() -> int:
        clock_shift_s = plan.clock_shift_s if next(looks) % 10 == 9 else 0
        return true_ns() + (plan.clock_s + clock_shift_s) * 10**9

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


def apply_plan(plan: Plan) -> None:
    """Let this process come to what is planned."""
    if plan.clock_s or plan.clock_shift_s:
        _shift_clock(plan)
    if plan.most_bytes:
        # Python ignores SIGXFSZ, so a write past the limit fails as one past a quota does.
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan.most_bytes, plan.most_bytes))
    if plan.step:
        _aim(Death(plan))


def main() -> None:
    """Be harvester, under a plan."""
    plan = Plan(**json.loads(sys.argv[1]))
    sys.argv = ["harvester", *sys.argv[2:]]
    apply_plan(plan)
    from harvester.cli.main import main as harvester

    harvester()


if __name__ == "__main__":
    main()
