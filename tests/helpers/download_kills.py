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


class Dying(LocalStore):
    """A disk on which nothing happens any more after some steps, as after kill -9."""

    def __init__(self, folder: Path, steps: int, *, is_truncating: bool) -> None:
        """`is_truncating`: a file that was being written is cut in half."""
        super().__init__(folder)
        self._steps = steps
        self._is_truncating = is_truncating

    @property
    def is_dead(self) -> bool:
        """Whether the last step was done."""
        return self._steps < 0

    def _take_a_step(self) -> None:
        self._steps -= 1
        if self.is_dead:
            raise Killed

    def stage(self, folder: str) -> str:
        self._take_a_step()
        return super().stage(folder)

    def commit(self, staged: str, path: str) -> None:
        try:
            self._take_a_step()
        except Killed:
            file = self.root / staged
            if self._is_truncating and file.exists():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            raise
        super().commit(staged, path)
        self._take_a_step()

    def move(self, path: str, to: str) -> None:
        self._take_a_step()
        super().move(path, to)
        self._take_a_step()

    def remove(self, path: str) -> None:
        self._take_a_step()
        super().remove(path)
        self._take_a_step()

    def remove_folder(self, folder: str) -> None:
        self._take_a_step()
        super().remove_folder(folder)


def dying(folder: Path, steps: int, *, is_truncating: bool = False) -> TradeStore:
    """An archive on such a disk."""
    archive = TradeStore(folder)
    archive.store = Dying(folder, steps, is_truncating=is_truncating)
    return archive


def same(archive: TradeStore, _folder: Path) -> TradeStore:
    """An archive that is open already."""
    return archive


def is_dead(archive: TradeStore) -> bool:
    """Whether its disk is."""
    return isinstance(archive.store, Dying) and archive.store.is_dead


def most_at_once(market: Market) -> int:
    """How many trades lie within the longest span that pages overlap by."""
    stamps = [trade.true_ns for trade in market.trades]
    return max(
        (sum(at - WINDOW_NS <= stamp <= at + WINDOW_NS for stamp in stamps) for at in stamps),
        default=0,
    )
