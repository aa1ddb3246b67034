"""A filesystem that changes an archive just before a file is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harvester.storage.trade_store import TradeStore


class Disturbed:
    """A filesystem of which just before one opening something happens."""

    def __init__(self, inner: Any, at: int, happens: Callable[[], None]) -> None:
        self._inner = inner
        self._at = at
        self._happens = happens
        self.opened = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def open_input_file(self, location: str) -> Any:
        self.opened += 1
        if self.opened == self._at:
            self._happens()
        return self._inner.open_input_file(location)


def disturbed(folder: Path, at: int, happens: Callable[[], None]) -> tuple[TradeStore, Disturbed]:
    archive = TradeStore(folder)
    between: Any = Disturbed(archive.store.filesystem, at, happens)
    archive.store.filesystem = between
    return archive, between
