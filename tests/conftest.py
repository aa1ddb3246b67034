"""Shared by all tests: the mark of the slow ones, how many run at once, and where they write."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# An example may take any time where several tests run at once.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

CHAOS = Path(__file__).parent / "chaos"

MEMORY = Path("/dev/shm")  # noqa: S108 - the folder in memory that Linux has
MEMORY_BYTES = 4 << 30


def pytest_configure(config: pytest.Config) -> None:
    """Write temporary files into memory if there is room, as each commit waits for the disk.

    What a crash leaves is the same: tests kill processes, and no test cuts the power. TMPDIR and
    `--basetemp` choose another place.
    """
    chosen = os.environ.get("TMPDIR") or config.getoption("basetemp")
    if not chosen and _has_room(MEMORY):
        # Also for the processes that the tests start, and those of pytest-xdist.
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None


def _has_room(folder: Path) -> bool:
    """Whether tests can write their files into a folder, and run programs from it."""
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        return False
    runs_programs = not os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)
    return runs_programs and shutil.disk_usage(folder).free >= MEMORY_BYTES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in `tests/chaos`, so that `-m "not chaos"` leaves them out."""
    for item in items:
        if item.path.is_relative_to(CHAOS):
            item.add_marker(pytest.mark.chaos)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many processes again as there are cores: the tests wait a good deal.

    They wait for processes and for browsers, and where there is no room in memory for the disk.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 3 * (cores or 1) // 2
