"""Download the missing ranges of many pairs in parallel, or estimate them (--dry-run)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from harvester.config import ExchangeSettings, Settings
from harvester.download.exchange import (
    BackfillRequest,
    DownloadContext,
    RunOptions,
)
from harvester.download.pair_download import PairDownload
from harvester.errors import (
    ArchiveDamaged,
    ExchangeError,
    ExchangeUnreachable,
    HarvesterError,
    Interrupted,
)
from harvester.events import BackfillResult, CancelToken
from harvester.kraken.ohlc import expected_trades
from harvester.kraken.pairs import Pair
from harvester.kraken.trades import PAGE_ROWS
from harvester.storage.trade_store import TradeStore
from harvester.times import UNITS_NS, Range, missing

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
    settled_ns = await options.cancel.guard(context.clock.settled_ns())
    order = list(range(len(requests)))
    if len(requests) > exchange.jobs:
        order = await _largest_first(context, requests, settled_ns)
    left, exchange_is_silent = deque(order), False
    results: dict[int, BackfillResult] = {}

    async def download_next() -> None:
        nonlocal exchange_is_silent
        while left:
            index = left.popleft()
            download = PairDownload(context, requests[index])
            refusal: HarvesterError | None = None
            if options.cancel.is_cancelled:
                refusal = Interrupted()
            elif exchange_is_silent:
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
                exchange_is_silent = True
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
            daily |= await context.options.cancel.guard(counts)
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
        return sum(
            part.through - part.after for part in missing_ranges(archive, request, settled_ns)
        )
    except ArchiveDamaged:
        return 0


def missing_ranges(archive: TradeStore, request: BackfillRequest, settled_ns: int) -> list[Range]:
    """The missing ranges of a request.

    Args:
        archive: where trades are stored.
        request: a pair and a range.
        settled_ns: the time up to which trades are settled, in nanoseconds.
    """
    requested = request.range._replace(through=min(request.range.through, settled_ns))
    coverage = archive.coverage(request.pair.altname)
    return missing([requested] if requested.after < requested.through else [], coverage)


# --- estimates ------------------------------------------------------------------------------------

MAX_FAILURES = 3
"""After so many calls in a row without an answer, no more are made for an estimate."""


class MissingData(NamedTuple):
    """The ranges that are missing of a pair."""

    pair: Pair
    ranges: list[Range]


async def estimate_missing_trades(
    client: Client,
    exchange: ExchangeSettings,
    cancel: CancelToken,
    pairs: Sequence[MissingData],
    now_ns: int,
) -> dict[str, int]:
    """Estimate how many trades are missing of each pair, with one call a pair.

    As many calls are made at once as pairs are downloaded, each in the rhythm of a pair's download,
    so that together they load the exchange no more than the download itself does.

    Args:
        client: of the exchange.
        exchange: its rate, the number of calls at once, and the wait after a failure.
        cancel: cancels a call.
        pairs: the pairs, and what is missing of each.
        now_ns: the exchange's time.

    Returns:
        The estimates by altname. Pairs that the exchange says nothing of are not in it.

    Raises:
        Interrupted: the run was cancelled.
    """
    left, trades, failures = deque(pairs), dict[str, int](), 0

    async def estimate_next() -> None:
        nonlocal failures
        while left and failures < MAX_FAILURES:
            entry, pause_s = left.popleft(), 1 / exchange.rate if exchange.rate else 0.0
            try:
                weeks = await cancel.guard(client.weekly_counts(entry.pair))
            except ExchangeUnreachable:
                failures, pause_s = failures + 1, exchange.retry_wait_s
            except ExchangeError:
                # Such as a pair that left the market: its own download reports it.
                pass
            else:
                failures = 0
                trades[entry.pair.altname] = expected_trades(weeks, entry.ranges, now_ns)
            if left:
                await cancel.guard(asyncio.sleep(pause_s))

    await asyncio.gather(*(estimate_next() for _ in range(min(exchange.jobs, len(pairs)))))
    return trades


# What a dry run reports

BYTES_PER_TRADE = 11
"""On disk, measured over whole pairs."""


class PairEstimate(NamedTuple):
    """What a backfill of one pair would download.

    Attributes:
        pair: its altname.
        ranges: missing ranges, and ranges to download again.
        trades: trades in them; None if the exchange gave no counts, as for the fields below.
        calls: requests.
        hours: duration at the set rate, if the pair were downloaded alone.
        bytes: growth of the archive.
        redownload_trades: trades among them that replace imported ones. They are not counted in
            `bytes`: about as many bytes are deleted as are added.
    """

    pair: str
    ranges: int
    trades: int | None
    calls: int | None
    hours: float | None
    bytes: int | None
    redownload_trades: int = 0


class TotalEstimate(NamedTuple):
    """What a backfill of all pairs would download.

    Attributes:
        pairs: number of pairs.
        unknown: pairs without counts from the exchange; the other fields leave them out.
        ranges: missing ranges, and ranges to download again.
        trades: trades in them.
        calls: requests.
        bytes: growth of the archive.
        jobs: pairs that are downloaded at the same time.
        hours: duration at the set rate with `jobs` pairs at a time, the largest first.
        useful_jobs: more pairs at a time save no time: the largest pair takes as long as all.
        shortest_hours: the duration with `useful_jobs`.
    """

    pairs: int
    unknown: int
    ranges: int
    trades: int
    calls: int
    bytes: int
    jobs: int
    hours: float
    useful_jobs: int
    shortest_hours: float


class BackfillEstimate(NamedTuple):
    """The estimate of each pair, the largest first, and of all of them."""

    pairs: list[PairEstimate]
    total: TotalEstimate

    def to_dict(self) -> dict[str, Any]:
        """The estimate for JSON."""
        return {"pairs": [pair._asdict() for pair in self.pairs], "total": self.total._asdict()}


def estimate_pair(
    missing_data: MissingData, trades: int | None, redownloads: Sequence[int], rate: float
) -> PairEstimate:
    """The estimate of one pair.

    Args:
        missing_data: the pair and its missing ranges.
        trades: trades in these ranges; None if unknown.
        redownloads: trades in each imported range that is to be downloaded again.
        rate: pages per second; 0 for no limit.
    """
    name, ranges, again = missing_data.pair.altname, len(missing_data.ranges), sum(redownloads)
    estimate = PairEstimate(name, ranges + len(redownloads), None, None, None, None, again)
    trades = trades if ranges else 0
    if trades is None:
        return estimate
    # The end of a range takes two more: a page that brings nothing new, and the newest page.
    calls = -(-trades // PAGE_ROWS) + 2 * ranges
    # The last page of an imported range contains what follows it, so its end takes only one more.
    calls += -(-again // PAGE_ROWS) + len(redownloads)
    hours, size = _hours(calls, rate), trades * BYTES_PER_TRADE
    return estimate._replace(trades=trades + again, calls=calls, hours=hours, bytes=size)


def estimate_total(pairs: Sequence[PairEstimate], exchange: ExchangeSettings) -> TotalEstimate:
    """The estimate of several pairs, downloaded `exchange.jobs` at a time."""
    calls = [pair.calls for pair in pairs if pair.calls is not None]
    largest, total = max(calls, default=0), sum(calls)
    shortest_hours = _hours(largest, exchange.rate)
    return TotalEstimate(
        pairs=len(pairs),
        unknown=len(pairs) - len(calls),
        ranges=sum(pair.ranges for pair in pairs),
        trades=sum(pair.trades or 0 for pair in pairs),
        calls=total,
        bytes=sum(pair.bytes or 0 for pair in pairs),
        jobs=exchange.jobs,
        hours=max(shortest_hours, _hours(total, exchange.rate) / exchange.jobs),
        useful_jobs=-(-total // largest) if largest else 1,
        shortest_hours=shortest_hours,
    )


def _hours(calls: int, rate: float) -> float:
    return calls / rate / 3600 if rate else 0.0
