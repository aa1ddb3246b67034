"""What is requested of a download: pairs, ranges and options."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from harvester.config import Settings
from harvester.download.buffer import MemoryBudget
from harvester.download.estimate import TradeCountEstimator
from harvester.download.events import CancelToken, Listener, Upgrade
from harvester.download.exchange_clock import ExchangeClock
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import Range

# --- run ------------------------------------------------------------------------------------------


class BackfillRequest(NamedTuple):
    """What is wanted of a pair."""

    pair: Pair
    span: Range


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a backfill is watched and steered while it runs.

    `estimates` asks one call more a pair for how many trades are to be expected; `then` is what
    is done with a pair once nothing is missing of it, its lock still held; `now_ns` is this
    machine's clock.
    """

    listener: Listener
    stop: CancelToken
    newest_first: bool = False
    estimates: bool = False
    then: Callable[[CompletedPair], Awaitable[None]] | None = None
    now_ns: Callable[[], int] = time.time_ns


class DownloadContext(NamedTuple):
    """What the pairs of one run share. Made by `backfill.begin`."""

    client: Client
    archive: TradeStore
    settings: Settings
    watch: RunOptions
    clock: ExchangeClock
    backlog: MemoryBudget
    appraiser: TradeCountEstimator
    tending: asyncio.Semaphore
    merging: asyncio.Lock


class CompletedPair(NamedTuple):
    """A pair whose crawl came to its end, for whoever does more with it.

    Attributes:
        wish: what was wanted of it.
        writer: its one writer.
        crawl: fetches a range whole, for a writer of any archive; the other archive is where the
            neighbours are whose ids it must go on from.
        tell: takes what came of it so far.
    """

    run: DownloadContext
    wish: BackfillRequest
    writer: Writer
    crawl: Callable[[Writer, TradeStore, Range], Awaitable[None]]
    tell: Callable[[Upgrade], None]
