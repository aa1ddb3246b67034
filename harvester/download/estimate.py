"""Estimate how many trades a range has, and plan a download (`--dry-run`)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from harvester.config import ExchangeSettings
from harvester.download.events import CancelToken
from harvester.errors import ExchangeError, ExchangeUnreachable
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.times import UNITS_NS, Range

# --- estimate -------------------------------------------------------------------------------------

WEEK = UNITS_NS["w"]
FAILURES = 3
"""So many calls without an answer in a row, and no more are made: estimates are worth no storm."""


class Estimate:
    """Trades a week of one pair; within a week they are taken to be evenly spread."""

    def __init__(self, weeks: list[tuple[int, int]]) -> None:
        """`weeks`: (open time in ns, count), in order."""
        self._weeks = weeks

    def trades(self, spans: list[Range]) -> int:
        """Roughly how many trades these ranges hold."""
        total = 0.0
        for opened, count in self._weeks:
            for span in spans:
                overlap = min(span.through, opened + WEEK) - max(span.after, opened)
                total += count * max(0, overlap) / WEEK
        return round(total)


class MissingData(NamedTuple):
    """What is missing of a pair."""

    pair: Pair
    ranges: list[Range]


class TradeCountEstimator:
    """Asks how many trades each of many pairs lacks: one call a pair.

    The calls go side by side, each asker at the pace of a pair's crawl, so that together they ask
    no more of the exchange than the crawl itself does.
    """

    def __init__(self, client: Client, settings: ExchangeSettings, stop: CancelToken) -> None:
        """Nothing is asked yet."""
        self._client = client
        self._settings = settings
        self._stop = stop
        self._failures = 0
        self._left: deque[MissingData] = deque()
        self.trades: dict[str, int] = {}
        """What is known so far, by altname. Pairs that nothing is known of are not in it."""

    async def appraise(
        self, lacks: Sequence[MissingData], askers: int, *, within_s: float | None = None
    ) -> None:
        """Ask for these pairs, the largest markets first as far as their names tell.

        Args:
            lacks: the pairs, and what is missing of each.
            askers: so many calls at once.
            within_s: return after that long, whatever is still unknown; `go_on` asks for the rest.

        Raises:
            Interrupted: somebody wished to stop.
        """
        # A key of its own, as XXBTZUSD has beside XBTUSD, tells the exchange's first markets,
        # which are the largest.
        first = sorted(lacks, key=lambda lack: lack.pair.key in ("", lack.pair.altname))
        self._left = deque(first)
        try:
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(self.go_on() for _ in range(min(askers, len(first)))))
        except TimeoutError:
            return

    def spare(self, name: str) -> None:
        """Do not ask for a pair any more: it has begun, and its size can't change the order."""
        self._left = deque(lack for lack in self._left if lack.pair.altname != name)

    async def go_on(self) -> None:
        """Ask one pair after the other, as many as are left."""
        pause_s = 0.0
        while self._left and self._failures < FAILURES:
            await self._stop.guard(asyncio.sleep(pause_s))
            if self._left:
                pause_s = await self._ask(self._left.popleft())

    async def _ask(self, lack: MissingData) -> float:
        """Ask for one pair; returns the seconds to wait before the next."""
        rate = self._settings.rate
        try:
            weeks = await self._stop.guard(self._client.weekly_counts(lack.pair))
        except asyncio.CancelledError:
            # Time is up; its turn comes again.
            self._left.appendleft(lack)
            raise
        except ExchangeUnreachable:
            self._failures += 1
            return self._settings.retry_wait_s
        except ExchangeError:
            # Such as a pair that left the market: its own crawl tells.
            return 1 / rate if rate else 0.0
        self._failures = 0
        self.trades[lack.pair.altname] = Estimate(weeks).trades(lack.ranges)
        return 1 / rate if rate else 0.0
