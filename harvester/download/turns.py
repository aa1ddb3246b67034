"""Whose turn it is among many pairs: the largest first, as many side by side as are allowed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from harvester.download.estimate import Appraiser, Lack
from harvester.download.events import Outcome
from harvester.download.stop import Stop
from harvester.errors import ExchangeUnreachable, HarvesterError, Interrupted
from harvester.times import UNITS_NS

HEAD_START_S = 20.0
"""So long the sizes of pairs are asked for before the first crawl; the rest is asked meanwhile."""

WORTH_ASKING_NS = UNITS_NS["w"]
"""Who lacks less than a week is soon done: it takes its turn in the order given, and no call."""


class Turns:
    """Gives each pair its turn, once. Pairs are known by their place in the list of wishes."""

    def __init__(self, names: Sequence[str], stop: Stop, give_up_s: float) -> None:
        """`give_up_s`: so long without one good page of any pair, and no further pair is begun."""
        self._names = names
        self._left = dict.fromkeys(range(len(names)))
        self._stop = stop
        self._give_up_s = give_up_s
        self._heard_s = time.monotonic()
        self._down: ExchangeUnreachable | None = None

    def heard(self) -> None:
        """Take note of a good page, whichever pair's."""
        self._heard_s = time.monotonic()

    def ended_with(self, error: HarvesterError | None) -> None:
        """Take note of how a pair's crawl ended."""
        quiet_s = time.monotonic() - self._heard_s
        if isinstance(error, ExchangeUnreachable) and quiet_s >= self._give_up_s:
            self._down = error

    def next(self, trades: Mapping[str, int]) -> int | None:
        """Take the pair that lacks most trades, as far as is known; else the first, if any."""
        place = max(self._left, key=lambda one: trades.get(self._names[one], 0), default=None)
        if place is not None:
            del self._left[place]
        return place

    def refusal(self, name: str) -> HarvesterError | None:
        """Why a pair need not be begun any more, None where it may."""
        if self._stop.is_wished:
            return Interrupted("interrupted; the same command goes on where it stopped")
        if self._down is not None:
            return ExchangeUnreachable(
                f"{name}: not asked for, as the exchange gave no good answer to others for "
                f"{self._give_up_s:g} s; the same command goes on where it stopped"
            )
        return None


async def in_turn(
    turns: Turns,
    appraiser: Appraiser,
    lacks: Sequence[Lack],
    crawl: Callable[[int], Awaitable[Outcome]],
    jobs: int,
) -> list[Outcome]:
    """Crawl every pair, `jobs` side by side, the largest first; returns outcomes in their order.

    Where all find room at once, their order does not matter, and nobody is asked for sizes.

    Args:
        turns: of these pairs.
        appraiser: asks how much each pair lacks.
        lacks: the pairs, and what is missing of each.
        crawl: fetches the pair of a place.
        jobs: pairs side by side.
    """
    outcomes: dict[int, Outcome] = {}

    async def work() -> None:
        while (place := turns.next(appraiser.trades)) is not None:
            appraiser.spare(lacks[place].pair.altname)
            outcomes[place] = await crawl(place)

    async def learn() -> None:
        with suppress(Interrupted):
            await appraiser.go_on()

    worth = [lack for lack in lacks if _width(lack) >= WORTH_ASKING_NS]
    if len(lacks) > jobs and len(worth) > 1:
        with suppress(Interrupted):
            await appraiser.appraise(worth, jobs, within_s=HEAD_START_S)
    learning = asyncio.create_task(learn())
    try:
        await asyncio.gather(*(work() for _ in range(min(jobs, len(lacks)))))
    finally:
        learning.cancel()
        await asyncio.gather(learning, return_exceptions=True)
    return [outcomes[place] for place in range(len(lacks))]


def _width(lack: Lack) -> int:
    return sum(one.through - one.after for one in lack.ranges)
