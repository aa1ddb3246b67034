"""What is requested of a download: pairs, ranges and options."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from harvester.config import Settings
from harvester.download.buffer import Backlog
from harvester.download.estimate import Appraiser
from harvester.download.events import Listener, Stop, Upgrade
from harvester.download.exchange_clock import Clock
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import Archive
from harvester.storage.writer import Writer
from harvester.times import Range

# --- run ------------------------------------------------------------------------------------------


class Wish(NamedTuple):
    """What is wanted of a pair."""

    pair: Pair
    span: Range


@dataclass(frozen=True, slots=True)
class Watch:
    """How a backfill is watched and steered while it runs.

    `estimates` asks one call more a pair for how many trades are to be expected; `then` is what
    is done with a pair once nothing is missing of it, its lock still held; `now_ns` is this
    machine's clock.
    """

    listener: Listener
    stop: Stop
    newest_first: bool = False
    estimates: bool = False
    then: Callable[[Hand], Awaitable[None]] | None = None
    now_ns: Callable[[], int] = time.time_ns


class Run(NamedTuple):
    """What the pairs of one run share. Made by `backfill.begin`."""

    client: Client
    archive: Archive
    settings: Settings
    watch: Watch
    clock: Clock
    backlog: Backlog
    appraiser: Appraiser
    tending: asyncio.Semaphore
    merging: asyncio.Lock


class Hand(NamedTuple):
    """A pair whose crawl came to its end, for whoever does more with it.

    Attributes:
        wish: what was wanted of it.
        writer: its one writer.
        crawl: fetches a range whole, for a writer of any archive; the other archive is where the
            neighbours are whose ids it must go on from.
        tell: takes what came of it so far.
    """

    run: Run
    wish: Wish
    writer: Writer
    crawl: Callable[[Writer, Archive, Range], Awaitable[None]]
    tell: Callable[[Upgrade], None]
