"""Fetches what is missing of many pairs, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from harvester.config import Settings
from harvester.download.buffer import Backlog
from harvester.download.clock import Clock
from harvester.download.estimate import Appraiser, Lack
from harvester.download.events import Ended, Outcome
from harvester.download.pair import PairCrawl
from harvester.download.run import Run, Watch, Wish
from harvester.download.turns import Turns, in_turn
from harvester.errors import ArchiveDamaged
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import Archive
from harvester.storage.writer import Writer
from harvester.times import END_OF_TIME, Range, missing

TENDED_AT_ONCE = 2
"""Merging and rolling up take memory by the pair; at the end of a run many pairs come to it."""


async def backfill(
    client: Client,
    archive: Archive,
    wishes: Sequence[Wish],
    settings: Settings,
    watch: Watch,
) -> list[Outcome]:
    """Fetch what is missing of each wish, several pairs side by side; a failing one stops no other.

    Returns an outcome a wish, in their order.
    """
    run = begin(client, archive, settings, watch)
    settled_ns = await watch.stop.guard(run.clock.settled_ns())
    turns = Turns([wish.pair.altname for wish in wishes], watch.stop, settings.exchange.give_up_s)

    async def one(place: int) -> Outcome:
        crawl = PairCrawl(run, wishes[place], turns.heard)
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
    return await in_turn(turns, run.appraiser, lacks, one, settings.exchange.jobs)


def _lack(archive: Archive, wish: Wish, settled_ns: int) -> Lack:
    """What a wish lacks, to order pairs by; one that can't be listed fails in its own crawl."""
    try:
        return Lack(wish.pair, lacking(archive, wish, settled_ns))
    except ArchiveDamaged:
        return Lack(wish.pair, [])


def lacking(archive: Archive, wish: Wish, settled_ns: int) -> list[Range]:
    """What is missing of a wish, up to the moment until which trades are settled."""
    asked = wish.span._replace(through=min(wish.span.through, settled_ns))
    return missing(
        [asked] if asked.after < asked.through else [], archive.coverage(wish.pair.altname)
    )


def begin(client: Client, archive: Archive, settings: Settings, watch: Watch) -> Run:
    """A run over some pairs of an archive; nothing is asked yet."""
    clock = Clock(client, settings.refresh.settle_s, watch.now_ns)
    appraiser = Appraiser(client, settings.exchange, watch.stop)
    tending = asyncio.Semaphore(TENDED_AT_ONCE)
    merging = asyncio.Lock()
    return Run(client, archive, settings, watch, clock, Backlog(), appraiser, tending, merging)


async def fill(run: Run, pair: Pair, one: Writer) -> Outcome:
    """Fetch the holes on record of a pair, one after the other, and tend its files.

    Where there are no holes, the exchange is not asked.

    Args:
        run: see `begin`.
        pair: whose holes.
        one: its writer; the lock is held.
    """
    outcome = await PairCrawl(run, Wish(pair, Range(0, END_OF_TIME))).fill(one)
    run.watch.listener(Ended(outcome.pair, outcome.exit_status))
    return outcome
