"""Download what is missing of many pairs side by side, the largest first."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harvester.config import Settings
from harvester.download.events import BackfillResult, CancelToken, Ended
from harvester.download.exchange import ExchangeClock
from harvester.download.pair import PairDownload
from harvester.download.request import BackfillRequest, DownloadContext, RunOptions
from harvester.errors import ArchiveDamaged, ExchangeUnreachable, HarvesterError, Interrupted
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import END_OF_TIME, UNITS_NS, Range, missing

if TYPE_CHECKING:
    from harvester.kraken.client import Client

# --- order of the pairs ---------------------------------------------------------------------------

WORTH_ORDERING_NS = UNITS_NS["w"]
"""Pairs that lack less than a week are done soon: for their order no call is made."""


class PairQueue:
    """Decides which pair is downloaded next, and whether the run gives up."""

    def __init__(self, order: Sequence[int], stop: CancelToken, give_up_s: float) -> None:
        """Create the queue.

        Args:
            order: the pairs' indexes in the list of requests, the first to be downloaded first.
            stop: cancels the run.
            give_up_s: after so many seconds without a good page of any pair no other pair is begun.
        """
        self._left = deque(order)
        self._stop = stop
        self._give_up_s = give_up_s
        self._last_page_s = time.monotonic()
        self._unreachable: ExchangeUnreachable | None = None

    def record_page(self) -> None:
        """Record that a good page of any pair has come."""
        self._last_page_s = time.monotonic()

    def record_end(self, error: HarvesterError | None) -> None:
        """Record how a pair's download ended."""
        silent_s = time.monotonic() - self._last_page_s
        if isinstance(error, ExchangeUnreachable) and silent_s >= self._give_up_s:
            self._unreachable = error

    def next(self) -> int | None:
        """Remove and return the next pair's index; None if no pair is left."""
        return self._left.popleft() if self._left else None

    def refusal(self, name: str) -> HarvesterError | None:
        """Why a pair need not be begun any more; None if it may."""
        if self._stop.is_cancelled:
            return Interrupted("interrupted; the same command goes on where it stopped")
        if self._unreachable is not None:
            return ExchangeUnreachable(
                f"{name}: not started, as the exchange gave no good answer to other pairs for "
                f"{self._give_up_s:g} s; the same command goes on where it stopped"
            )
        return None


# --- backfill -------------------------------------------------------------------------------------

MAX_MAINTAINED_AT_ONCE = 2
"""Merging and roll-ups take memory for each pair, and at the end of a run many pairs are due."""


def begin(
    client: Client, archive: TradeStore, settings: Settings, options: RunOptions
) -> DownloadContext:
    """Create what the pairs of a run share; nothing is requested yet.

    Args:
        client: of the exchange.
        archive: where trades are stored.
        settings: of harvester.
        options: of the run.
    """
    clock = ExchangeClock(client, settings.refresh.settle_s, options.now_ns)
    maintenance = asyncio.Semaphore(MAX_MAINTAINED_AT_ONCE)
    return DownloadContext(client, archive, settings, options, clock, maintenance)


async def backfill(
    client: Client,
    archive: TradeStore,
    requests: Sequence[BackfillRequest],
    settings: Settings,
    options: RunOptions,
) -> list[BackfillResult]:
    """Download what is missing of each request, several pairs side by side, the largest first.

    A pair that fails does not stop the others. Where all pairs can begin at once, their order does
    not matter, and no sizes are requested.

    Args:
        client: of the exchange.
        archive: where trades are stored.
        requests: pairs and ranges.
        settings: of harvester.
        options: of the run.

    Returns:
        A result for each request, in their order.
    """
    context, jobs = begin(client, archive, settings, options), settings.exchange.jobs
    settled_ns = await options.stop.guard(context.clock.settled_ns())
    order = list(range(len(requests)))
    if len(requests) > jobs:
        order = await _largest_first(context, requests, settled_ns)
    queue = PairQueue(order, options.stop, settings.exchange.give_up_s)
    results: dict[int, BackfillResult] = {}

    async def download_next() -> None:
        while (index := queue.next()) is not None:
            results[index] = await _download_pair(context, requests[index], queue)

    await asyncio.gather(*(download_next() for _ in range(min(jobs, len(requests)))))
    return [results[index] for index in range(len(requests))]


async def _download_pair(
    context: DownloadContext, request: BackfillRequest, queue: PairQueue
) -> BackfillResult:
    download = PairDownload(context, request, queue.record_page)
    refusal = queue.refusal(request.pair.altname)
    if refusal is not None:
        return download.not_begun(refusal)
    result = await download.run()
    queue.record_end(result.error)
    # Of hundreds of pairs, those that are done must cost no memory.
    context.archive.forget_pair(result.pair)
    context.options.listener(result)
    return result


async def _largest_first(
    context: DownloadContext, requests: Sequence[BackfillRequest], settled_ns: int
) -> list[int]:
    """The indexes of requests, by how much is likely to be missing; as they are if that is unknown.

    That is the number of trades of the last day times the time that is missing.
    """
    in_order = list(range(len(requests)))
    widths = [_missing_ns(context.archive, request, settled_ns) for request in requests]
    if sum(width >= WORTH_ORDERING_NS for width in widths) < 2:
        return in_order
    try:
        daily = await context.options.stop.guard(context.client.daily_trade_counts())
    except HarvesterError:
        # Also if the run was cancelled: then no pair is begun.
        return in_order
    sizes = [
        daily.get(request.pair.key or request.pair.altname, 0) * width
        for request, width in zip(requests, widths, strict=True)
    ]
    return sorted(in_order, key=lambda index: -sizes[index])


def _missing_ns(archive: TradeStore, request: BackfillRequest, settled_ns: int) -> int:
    """How much time is missing; a folder that can't be listed fails its pair later."""
    try:
        return sum(part.through - part.after for part in lacking(archive, request, settled_ns))
    except ArchiveDamaged:
        return 0


def lacking(archive: TradeStore, request: BackfillRequest, settled_ns: int) -> list[Range]:
    """The missing ranges of a request.

    Args:
        archive: where trades are stored.
        request: a pair and a range.
        settled_ns: the time up to which trades are settled, in nanoseconds.
    """
    requested = request.range._replace(through=min(request.range.through, settled_ns))
    coverage = archive.coverage(request.pair.altname)
    return missing([requested] if requested.after < requested.through else [], coverage)


async def fill(context: DownloadContext, pair: Pair, writer: Writer) -> BackfillResult:
    """Download the recorded gaps of a pair, one after the other, then maintain its files.

    Where there are no gaps, the exchange is not asked.

    Args:
        context: see `begin`.
        pair: whose gaps.
        writer: of the pair; its lock is held.
    """
    download = PairDownload(context, BackfillRequest(pair, Range(0, END_OF_TIME)))
    result = await download.fill(writer)
    context.options.listener(Ended(result.pair, result.exit_status))
    return result
