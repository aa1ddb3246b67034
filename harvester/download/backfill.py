"""Download what is missing of many pairs side by side, the largest first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from harvester.config import Settings
from harvester.download.estimate import MissingData, TradeCountEstimator
from harvester.download.events import BackfillResult, CancelToken, Ended
from harvester.download.exchange import ExchangeClock
from harvester.download.pair import PairDownload
from harvester.download.request import BackfillRequest, DownloadContext, RunOptions
from harvester.errors import ArchiveDamaged, ExchangeUnreachable, HarvesterError, Interrupted
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import END_OF_TIME, UNITS_NS, Range, missing

# --- order of the pairs ---------------------------------------------------------------------------

HEAD_START_S = 20.0
"""Seconds in which sizes of pairs are requested before the first download; the rest meanwhile."""

WORTH_ESTIMATING_NS = UNITS_NS["w"]
"""A pair that lacks less than a week is done soon: it keeps its place, and costs no call."""


class PairQueue:
    """Decides which pair is downloaded next, and whether the run gives up.

    Pairs are known by their index in the list of requests.
    """

    def __init__(self, names: Sequence[str], stop: CancelToken, give_up_s: float) -> None:
        """Create the queue.

        Args:
            names: altnames, in the order of the requests.
            stop: cancels the run.
            give_up_s: after so many seconds without a good page of any pair no other pair is begun.
        """
        self._names = names
        self._left = dict.fromkeys(range(len(names)))
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

    def next(self, trades: Mapping[str, int]) -> int | None:
        """Remove and return the pair that lacks most trades, as far as is known; else the first.

        Args:
            trades: that are missing, by altname.

        Returns:
            None if no pair is left.
        """
        index = max(self._left, key=lambda i: trades.get(self._names[i], 0), default=None)
        if index is not None:
            del self._left[index]
        return index

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
    names = [request.pair.altname for request in requests]
    queue = PairQueue(names, options.stop, settings.exchange.give_up_s)
    results: dict[int, BackfillResult] = {}
    estimator: TradeCountEstimator | None = None
    if len(requests) > jobs:
        pairs = [_missing_data(archive, request, settled_ns) for request in requests]
        estimator = await _estimate(context, pairs)

    async def download_next() -> None:
        while (index := queue.next(context.expected_trades)) is not None:
            if estimator is not None:
                estimator.skip(names[index])
            results[index] = await _download_pair(context, requests[index], queue)

    estimating = [] if estimator is None else [asyncio.create_task(_estimate_rest(estimator))]
    try:
        await asyncio.gather(*(download_next() for _ in range(min(jobs, len(requests)))))
    finally:
        for task in estimating:
            task.cancel()
        await asyncio.gather(*estimating, return_exceptions=True)
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


async def _estimate(context: DownloadContext, pairs: Sequence[MissingData]) -> TradeCountEstimator:
    """Estimate what is missing of pairs for some seconds; the estimator can do the rest."""
    exchange, stop = context.settings.exchange, context.options.stop
    estimator = TradeCountEstimator(context.client, exchange, stop, context.expected_trades)
    worth = [entry for entry in pairs if _width_ns(entry) >= WORTH_ESTIMATING_NS]
    if len(worth) > 1:
        with suppress(Interrupted):
            await estimator.estimate(worth, exchange.jobs, within_s=HEAD_START_S)
    return estimator


async def _estimate_rest(estimator: TradeCountEstimator) -> None:
    with suppress(Interrupted):
        await estimator.run()


def _width_ns(entry: MissingData) -> int:
    return sum(part.through - part.after for part in entry.ranges)


def _missing_data(archive: TradeStore, request: BackfillRequest, settled_ns: int) -> MissingData:
    """What is missing, to order pairs by it; a folder that can't be listed fails the pair later."""
    try:
        return MissingData(request.pair, lacking(archive, request, settled_ns))
    except ArchiveDamaged:
        return MissingData(request.pair, [])


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
