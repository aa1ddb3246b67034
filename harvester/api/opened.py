"""What every part of an open archive stands on: its settings, its files, and whether it is open."""

from __future__ import annotations

from typing import Self

from harvester.config import Settings
from harvester.download.pair_selection import resolve_held
from harvester.errors import UsageError
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import Archive as Disk


class Opened:
    """An archive that answers until it is closed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._disk = Disk(settings.archive.path)
        self._is_closed = False

    @property
    def path(self) -> str:
        """The folder that holds it."""
        return self._disk.path

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    def close(self) -> None:
        """Answer no more. What it gave before stays good.

        Example:
            >>> candles = archive.ohlc("XBT/USD", "1d")
            >>> archive.close()
            >>> len(candles)
            10
        """
        self._is_closed = True

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<harvester.Archive: {self.path}>"

    def _check_open(self) -> None:
        if self._is_closed:
            raise UsageError(
                f"the archive at {self.path} is closed: harvester.open({self.path!r}) opens it "
                "again"
            )

    def _held(self, pair: str) -> Pair:
        self._check_open()
        return resolve_held(self._disk, pair)
