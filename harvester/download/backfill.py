"""Download what is missing of many pairs side by side."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harvester.config import Settings
from harvester.download.events import BackfillResult, Ended
from harvester.download.exchange import BackfillRequest, DownloadContext, RunOptions
from harvester.download.pair import PairDownload
from harvester.errors import ArchiveDamaged, ExchangeUnreachable, HarvesterError, Interrupted
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import END_OF_TIME, UNITS_NS, Range, missing

if TYPE_CHECKING:
    from harvester.kraken.client import Client

WORTH_ORDERING_NS = UNITS_NS["w"]
"""Pairs that lack less than a week are done soon: for their order no call is made."""


async def backfill(
    client: Client,
    archive: TradeStore,
    requests: Sequence[BackfillRequest],
    settings: Settings,
    options: RunOptions,
) -> list[BackfillResult]:
    """Download what is missing of each request, several pairs side by side, the largest first.

    A pair that fails does not stop the others. Where all pairs can begin at once, their order does
    not matter, and no sizes are requested. Once the exchange gave no good page of any pair for
    `give_up_s`, no other pair is begun.

    Args:
        client: of the exchange.
        archive: where trades are stored.
        requests: pairs and ranges.
        settings: of harvester.
        options: of the run.

    Returns:
        A result for each request, in their order.
    """
    context, exchange = DownloadContext(client, archive, settings, options), settings.exchange
    settled_ns = await options.stop.guard(context.clock.settled_ns())
    order = list(range(len(requests)))
    if len(requests) > exchange.jobs:
        order = await _largest_first(context, requests, settled_ns)
    left, is_gone = deque(order), False
    results: dict[int, BackfillResult] = {}

    async def download_next() -> None:
        nonlocal is_gone
        while left:
            index = left.popleft()
            download = PairDownload(context, requests[index])
            refusal: HarvesterError | None = None
            if options.stop.is_cancelled:
                refusal = Interrupted("interrupted; the same command goes on where it stopped")
            elif is_gone:
                refusal = ExchangeUnreachable(
                    f"{requests[index].pair.altname}: not started, as the exchange gave no good "
                    f"answer to other pairs for {exchange.give_up_s:g} s; the same command goes on "
                    "where it stopped"
                )
            if refusal is not None:
                results[index] = download.result([], refusal)
                continue
            result = results[index] = await download.run()
            silent_s = time.monotonic() - context.last_page_s
            if isinstance(result.error, ExchangeUnreachable) and silent_s >= exchange.give_up_s:
                is_gone = True
            # Of hundreds of pairs, those that are done must cost no memory.
            archive.forget_pair(result.pair)
            options.listener(result)

    await asyncio.gather(*(download_next() for _ in range(min(exchange.jobs, len(requests)))))
    return [results[index] for index in range(len(requests))]


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
        daily: dict[str, int] = {}
        for asset_class in dict.fromkeys(request.pair.aclass_base for request in requests):
            counts = context.client.daily_trade_counts(asset_class)
            daily |= await context.options.stop.guard(counts)
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
        context: of the run.
        pair: whose gaps.
        writer: of the pair; its lock is held.
    """
    download = PairDownload(context, BackfillRequest(pair, Range(0, END_OF_TIME)))
    result = await download.fill(writer)
    context.options.listener(Ended(result.pair, result.exit_status))
    return result
