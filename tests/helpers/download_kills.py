"""A store on which a process dies after a number of steps, as by kill -9."""

from __future__ import annotations

from pathlib import Path

from kraken_market import Market

from harvester.storage.filesystem import LocalStore
from harvester.storage.trade_store import TradeStore

WINDOW_NS = 200_000
"""Twice the margin of times with four decimals: a page must show more than such a span."""


class Killed(Exception):
    """The process is gone."""


class Steps:
    """So many changes of a disk, and nothing happens any more."""

    def __init__(self, left: int) -> None:
        self._left = left

    @property
    def is_dead(self) -> bool:
        """Whether the last step was done."""
        return self._left < 0

    def take(self) -> None:
        self._left -= 1
        if self.is_dead:
            raise Killed


class Dying(LocalStore):
    """A disk that takes a step before each change, so that it may end in any state between two."""

    def __init__(self, folder: Path, steps: Steps, *, is_truncating: bool) -> None:
        """`is_truncating`: a file that was being written is cut in half."""
        super().__init__(folder)
        self.steps = steps
        self._is_truncating = is_truncating

    def stage(self, folder: str) -> str:
        self.steps.take()
        return super().stage(folder)

    def commit(self, staged: str, path: str) -> None:
        try:
            self.steps.take()
        except Killed:
            file = self.root / staged
            if self._is_truncating and file.exists():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            raise
        super().commit(staged, path)

    def move(self, path: str, to: str) -> None:
        self.steps.take()
        super().move(path, to)

    def remove(self, path: str) -> None:
        if (self.root / path).exists():
            self.steps.take()
        super().remove(path)

    def remove_folder(self, folder: str) -> None:
        if (self.root / folder).exists():
            self.steps.take()
        super().remove_folder(folder)


def dying(folder: Path, steps: int | Steps, *, is_truncating: bool = False) -> TradeStore:
    """An archive on such a disk."""
    archive = TradeStore(folder)
    left = steps if isinstance(steps, Steps) else Steps(steps)
    archive.store = Dying(folder, left, is_truncating=is_truncating)
    return archive


def same(archive: TradeStore, _folder: Path) -> TradeStore:
    """An archive that is open already."""
    return archive


def is_dead(archive: TradeStore) -> bool:
    """Whether its disk is."""
    return isinstance(archive.store, Dying) and archive.store.steps.is_dead


def most_at_once(market: Market) -> int:
    """How many trades lie within the longest span that pages overlap by."""
    stamps = [trade.true_ns for trade in market.trades]
    return max(
        (sum(at - WINDOW_NS <= stamp <= at + WINDOW_NS for stamp in stamps) for at in stamps),
        default=0,
    )
