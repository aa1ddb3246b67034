"""Download what is missing of many pairs side by side, the largest first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from harvester.config import Settings
from harvester.download.buffer import MemoryBudget
from harvester.download.estimate import MissingData, TradeCountEstimator
from harvester.download.events import BackfillResult, CancelToken, Ended
from harvester.download.exchange_clock import ExchangeClock
from harvester.download.pair import PairDownload
from harvester.download.request import BackfillRequest, DownloadContext, RunOptions
from harvester.errors import ArchiveDamaged, ExchangeUnreachable, HarvesterError, Interrupted
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import END_OF_TIME, UNITS_NS, Range, missing

# --- turns ----------------------------------------------------------------------------------------

HEAD_START_S = 20.0
"""So long the sizes of pairs are asked for before the first crawl; the rest is asked meanwhile."""

WORTH_ASKING_NS = UNITS_NS["w"]
"""Who lacks less than a week is soon done: it takes its turn in the order given, and no call."""


class PairQueue:
    """Gives each pair its turn, once. Pairs are known by their place in the list of wishes."""

    def __init__(self, names: Sequence[str], stop: CancelToken, give_up_s: float) -> None:
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
        if self._stop.is_cancelled:
            return Interrupted("interrupted; the same command goes on where it stopped")
        if self._down is not None:
            return ExchangeUnreachable(
                f"{name}: not asked for, as the exchange gave no good answer to others for "
                f"{self._give_up_s:g} s; the same command goes on where it stopped"
            )
        return None


async def run_concurrently(
    turns: PairQueue,
    appraiser: TradeCountEstimator,
    lacks: Sequence[MissingData],
    crawl: Callable[[int], Awaitable[BackfillResult]],
    jobs: int,
) -> list[BackfillResult]:
    """Crawl every pair, `jobs` side by side, the largest first; returns outcomes in their order.

    Where all find room at once, their order does not matter, and nobody is asked for sizes.

    Args:
        turns: of these pairs.
        appraiser: asks how much each pair lacks.
        lacks: the pairs, and what is missing of each.
        crawl: fetches the pair of a place.
        jobs: pairs side by side.
    """
    outcomes: dict[int, BackfillResult] = {}

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


def _width(lack: MissingData) -> int:
    return sum(one.through - one.after for one in lack.ranges)


# --- backfill -------------------------------------------------------------------------------------

TENDED_AT_ONCE = 2
"""Merging and rolling up take memory by the pair; at the end of a run many pairs come to it."""


async def backfill(
    client: Client,
    archive: TradeStore,
    wishes: Sequence[BackfillRequest],
    settings: Settings,
    watch: RunOptions,
) -> list[BackfillResult]:
    """Fetch what is missing of each wish, several pairs side by side; a failing one stops no other.

    Returns an outcome a wish, in their order.
    """
    run = begin(client, archive, settings, watch)
    settled_ns = await watch.stop.guard(run.clock.settled_ns())
    turns = PairQueue(
        [wish.pair.altname for wish in wishes], watch.stop, settings.exchange.give_up_s
    )

    async def one(place: int) -> BackfillResult:
        crawl = PairDownload(run, wishes[place], turns.heard)
        refusal = turns.refusal(wishes[place].pair.altname)
        if refusal is not None:
            return crawl.not_begun(refusal)
        outcome = await crawl.run()
        turns.ended_with(outcome.error)
        # Of hundreds of pairs, those that are done must cost no memory.
        archive.forget_pair(outcome.pair)
        watch.listener(outcome)
        return outcome

    lacks = [_lack(archive, wish, settled_ns) for wish in wishes]
    return await run_concurrently(turns, run.appraiser, lacks, one, settings.exchange.jobs)


def _lack(archive: TradeStore, wish: BackfillRequest, settled_ns: int) -> MissingData:
    """What a wish lacks, to order pairs by; one that can't be listed fails in its own crawl."""
    try:
        return MissingData(wish.pair, lacking(archive, wish, settled_ns))
    except ArchiveDamaged:
        return MissingData(wish.pair, [])


def lacking(archive: TradeStore, wish: BackfillRequest, settled_ns: int) -> list[Range]:
    """What is missing of a wish, up to the moment until which trades are settled."""
    asked = wish.span._replace(through=min(wish.span.through, settled_ns))
    return missing(
        [asked] if asked.after < asked.through else [], archive.coverage(wish.pair.altname)
    )


def begin(
    client: Client, archive: TradeStore, settings: Settings, watch: RunOptions
) -> DownloadContext:
    """A run over some pairs of an archive; nothing is asked yet."""
    clock = ExchangeClock(client, settings.refresh.settle_s, watch.now_ns)
    appraiser = TradeCountEstimator(client, settings.exchange, watch.stop)
    tending = asyncio.Semaphore(TENDED_AT_ONCE)
    merging = asyncio.Lock()
    return DownloadContext(
        client, archive, settings, watch, clock, MemoryBudget(), appraiser, tending, merging
    )


async def fill(run: DownloadContext, pair: Pair, writer: Writer) -> BackfillResult:
    """Fetch the gaps on record of a pair, one after the other, and tend its files.

    Where there are no gaps, the exchange is not asked.

    Args:
        run: see `begin`.
        pair: whose gaps.
        writer: its writer; the lock is held.
    """
    outcome = await PairDownload(run, BackfillRequest(pair, Range(0, END_OF_TIME))).fill(writer)
    run.watch.listener(Ended(outcome.pair, outcome.exit_status))
    return outcome
