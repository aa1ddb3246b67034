"""A stand-in for the exchange, to try everything with: made-up trades, served on this machine."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from harvester.argument_types import check_types
from harvester.errors import UsageError

TRADES = 200_000
SEED = 7


class StandIn:
    """An exchange on this machine that serves made-up trades. Made by `harvester.stand_in`.

    Attributes:
        url: where it answers as Kraken does.
        settings: what `harvester.open` takes to ask it, and as fast as it can answer.
        path: the archive that it serves.
    """

    url: str
    settings: dict[str, Any]
    path: Path

    def __init__(self, trades: int, seed: int, folder: str | os.PathLike[str] | None) -> None:
        from harvester.server.app import serving
        from harvester.server.made import made_archive

        with ExitStack() as open_yet:
            if folder is None:
                folder = tempfile.mkdtemp(prefix="harvester-stand-in-")
                open_yet.callback(shutil.rmtree, folder, ignore_errors=True)
            self.path = Path(folder)
            self.url = open_yet.enter_context(serving(made_archive(folder, trades, seed)))
            self._open = open_yet.pop_all()
        self.settings = {"exchange.url": self.url, "exchange.rate": 0, "refresh.settle_s": 0}
        # Who keeps nothing but the settings of it is served until the process ends.
        atexit.register(self.close)

    def close(self) -> None:
        """End the serving, and remove what it made unless a folder was named."""
        atexit.unregister(self.close)
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<harvester.StandIn at {self.url}: made-up trades of XBT/USD>"


@check_types
def stand_in(
    trades: int = TRADES, seed: int = SEED, *, folder: str | os.PathLike[str] | None = None
) -> StandIn:
    """Serve a market that never was, on this machine, as Kraken would serve it.

    Its trades of XBT/USD are made up, and lie in the ten days before 2026-01-31. It answers Trades,
    OHLC, AssetPairs, Time and SystemStatus until it is closed or the process ends.

    Args:
        trades: how many are made up.
        seed: the same seed gives the same trades.
        folder: where they are kept, and stay; without it in a temporary folder, which goes at the
            end.

    Raises:
        UsageError: `folder` holds trades already, or a number is negative.
        ArchiveUnwritable: the machine refused.

    Example:
        >>> with harvester.stand_in(1_000) as exchange:
        ...     copy = harvester.open("copy", settings=exchange.settings)
        ...     [outcome] = copy.backfill("XBT/USD")
        >>> outcome.trades
        1000
    """
    for name, number in (("trades", trades), ("seed", seed)):
        if number < 0:
            raise UsageError(f"{name} is {number}: give 0 or more")
    return StandIn(trades, seed, folder)
