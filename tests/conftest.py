"""Shared by all tests: the marker of the slow ones that kill and torture."""

from __future__ import annotations

from pathlib import Path

import pytest

CHAOS = Path(__file__).parent / "chaos"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in `tests/chaos`, so that `-m "not chaos"` leaves them out."""
    for item in items:
        if item.path.is_relative_to(CHAOS):
            item.add_marker(pytest.mark.chaos)
