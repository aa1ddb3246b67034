"""Requests and options of a download, and what pairs of a run and ranges of a pair share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from harvester.config import Settings
from harvester.download.buffer import MemoryBudget
from harvester.download.events import CancelToken, DownloadCounts, Listener
from harvester.download.exchange import ExchangeClock, PairPages
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import Range

if TYPE_CHECKING:
    from harvester.download.pair import PairDownload
    from harvester.kraken.client import Client


class BackfillRequest(NamedTuple):
    """A pair, and the range of its trade history that is to be stored."""

    pair: Pair
    range: Range


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a backfill is done.

    Attributes:
        listener: receives events.
        stop: cancels the run.
        newest_first: download the newest missing month first.
        estimates: estimate the number of trades of each pair, with one more call a pair.
        after_pair: called once nothing is missing of a pair, its lock still held.
        now_ns: this machine's clock, in nanoseconds.
    """

    listener: Listener
    stop: CancelToken
    newest_first: bool = False
    estimates: bool = False
    after_pair: Callable[[PairDownload], Awaitable[None]] | None = None
    now_ns: Callable[[], int] = time.time_ns


@dataclass(frozen=True, slots=True)
class DownloadContext:
    """What the pairs of one run share. Made by `backfill.begin`.

    Attributes:
        client: of the exchange.
        archive: where trades are stored.
        settings: of harvester.
        options: of the run.
        clock: of the exchange.
        maintenance: limits how many pairs are compacted at once.
        merging: lets one write buffer merge segments at a time.
        memory: bounds the trades that wait in memory.
    """

    client: Client
    archive: TradeStore
    settings: Settings
    options: RunOptions
    clock: ExchangeClock
    maintenance: asyncio.Semaphore
    merging: asyncio.Lock = field(default_factory=asyncio.Lock)
    memory: MemoryBudget = field(default_factory=MemoryBudget)


@dataclass(frozen=True, slots=True)
class RangeContext:
    """What the ranges of one pair share.

    Attributes:
        pages: of the pair.
        writer: the trades go to its archive.
        store: the archive with the neighbours whose ids the range continues; not the writer's in a
            re-download.
        uncover: turns a range that lacks trades into a gap, and returns what was covered of it.
        has_imports: whether the pair has imported data there.
        pair_json: the pair's description, stored in segments.
        memory: bounds what waits in memory over all pairs.
        flush_s: write what waits after so many seconds.
        flush_rows: write what waits from so many rows on.
        merging: lets one write buffer merge segments at a time.
        counts: of the pair's download.
        listener: receives events.
    """

    pages: PairPages
    writer: Writer
    store: TradeStore
    uncover: Callable[[Range], list[Range]]
    has_imports: bool
    pair_json: str
    memory: MemoryBudget
    flush_s: float
    flush_rows: int
    merging: asyncio.Lock
    counts: DownloadCounts
    listener: Listener
