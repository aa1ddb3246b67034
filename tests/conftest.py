"""Shared by all tests: the mark of the slow ones, and how many run at once, in what time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# An example may take any time where several tests run at once.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

CHAOS = Path(__file__).parent / "chaos"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in `tests/chaos`, so that `-m "not chaos"` leaves them out."""
    for item in items:
        if item.path.is_relative_to(CHAOS):
            item.add_marker(pytest.mark.chaos)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many processes again as there are cores: the tests wait a good deal.

    They wait for processes, for browsers and for the disk.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 3 * (cores or 1) // 2
