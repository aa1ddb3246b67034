"""Fetches what is missing of many pairs, side by side."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import msgspec

from harvester.archive.archive import Archive
from harvester.archive.writer import Writer, writer
from harvester.columns import times
from harvester.config import Settings
from harvester.crawl.buffer import Buffer, Waiting
from harvester.crawl.crawler import RangeCrawl
from harvester.crawl.estimate import Estimate
from harvester.crawl.events import Listener, Noted, Outcome, Started
from harvester.crawl.pages import Page, Source
from harvester.crawl.stop import Stop
from harvester.crawl.tending import tend
from harvester.errors import ExchangeError, HarvesterError, UnreadableAnswer
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.times import BEGINNING_NS, DAY, END_OF_TIME, SECOND, Range, missing, show

CHUNK_NS = 30 * DAY
CATCH_UP_NS = 600 * SECOND
"""A head that moved on by more than this while its past was fetched is fetched as well."""


class Clock:
    """The exchange's clock as it was last heard. This machine's own is never believed."""

    def __init__(self, client: Client, settle_s: float) -> None:
        """`settle_s`: trades younger than this may still be joined by late ones."""
        self._client = client
        self._settle_ns = int(settle_s * SECOND)
        self._heard_s = -math.inf
        self.heard_ns = 0
        """The exchange's clock, as it was last heard."""
        self._settled_ns = 0

    async def settled_ns(self) -> int:
        """Trades published up to here are settled; asked anew once that is ten minutes old.

        A clock that is carried on by ours would run ahead of a mirror's, which stands still where
        its archive ends, and a copy would claim what is not there.
        """
        if time.monotonic() - self._heard_s > CATCH_UP_NS / SECOND:
            self.heard_ns = await self._client.clock_ns()
            self._settled_ns = self.heard_ns - self._settle_ns
            self._heard_s = time.monotonic()
        return self._settled_ns

    async def believe(self, page: Page, pair: str) -> Page:
        """The page, if it tells of nothing that is still to come.

        A time in the future would end a crawl long before its end. The exchange's own clock is
        what counts, asked anew before anything is refused, as this machine may have slept.

        Raises:
            UnreadableAnswer: a trade's time lies more than a day ahead of the exchange's clock.
        """
        latest_ns = int(times(page.rows).max()) if page.rows.num_rows else 0
        if latest_ns > self.heard_ns + DAY:
            self.heard_ns = await self._client.clock_ns()
        if latest_ns > self.heard_ns + DAY:
            row = page.rows.slice(int(times(page.rows).argmax()), 1).to_pylist()[0]
            raise UnreadableAnswer(
                f"{pair}: the exchange sent a trade of {show(latest_ns)}, id {row['trade_id']}, "
                f"price {row['price']:f}, volume {row['volume']:f}, while its clock says "
                f"{show(self.heard_ns)}; nothing of this page was kept"
            )
        return page


class Wish(NamedTuple):
    """What is wanted of a pair."""

    pair: Pair
    span: Range


@dataclass(frozen=True, slots=True)
class Watch:
    """How a backfill is watched and steered while it runs.

    `estimates` asks one call more a pair for how many trades are to be expected.
    """

    listener: Listener
    stop: Stop
    newest_first: bool = False
    estimates: bool = False


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
    await watch.stop.guard(run.clock.settled_ns())
    places = asyncio.Semaphore(settings.exchange.jobs)

    async def one(wish: Wish) -> Outcome:
        async with places:
            outcome = await _PairCrawl(run, wish).run()
        watch.listener(outcome)
        return outcome

    return list(await asyncio.gather(*(one(wish) for wish in wishes)))


class Run(NamedTuple):
    """What the pairs of one run share. Made by `begin`."""

    client: Client
    archive: Archive
    settings: Settings
    watch: Watch
    clock: Clock
    waiting: Waiting


def begin(client: Client, archive: Archive, settings: Settings, watch: Watch) -> Run:
    """A run over some pairs of an archive; nothing is asked yet."""
    clock = Clock(client, settings.refresh.settle_s)
    return Run(client, archive, settings, watch, clock, Waiting())


async def fill(run: Run, pair: Pair, one: Writer) -> Outcome:
    """Fetch the holes on record of a pair, one after the other, and tend its files.

    Where there are no holes, the exchange is not asked.

    Args:
        run: see `begin`.
        pair: whose holes.
        one: its writer; the lock is held.
    """
    return await _PairCrawl(run, Wish(pair, Range(0, END_OF_TIME))).fill(one)


class _PairCrawl:
    """Everything that is missing of one pair."""

    def __init__(self, run: Run, wish: Wish) -> None:
        self._run = run
        self._wish = wish
        self._pair = wish.pair.altname
        self._source = Source(self._page, self._pair)
        self._trades = 0
        self._done = Range(wish.span.after, wish.span.after)

    async def _page(self, since_ns: int | None) -> Page:
        page = await self._run.client.page(self._wish.pair, since_ns)
        return await self._run.clock.believe(page, self._pair)

    async def run(self) -> Outcome:
        error = await error_of(self._backfill())
        return self._outcome([self._done] if self._done.through > self._done.after else [], error)

    async def fill(self, one: Writer) -> Outcome:
        error = await error_of(self._fill(one))
        return self._outcome(self._run.archive.holes(self._pair), error)

    def _outcome(self, asked: list[Range], error: HarvesterError | None) -> Outcome:
        coverage = self._run.archive.coverage(self._pair)
        holes = missing(asked, coverage)
        reached = next((one for one in reversed(coverage)), None)
        return Outcome(self._pair, self._trades, self._source.pages, reached, holes, error)

    async def _backfill(self) -> None:
        self._done = await self._asked()
        with writer(self._run.archive, self._pair) as one:
            self._done = await self._fetch(one)
            await self._tend(one)

    async def _fill(self, one: Writer) -> None:
        holes = self._run.archive.holes(self._pair)
        if holes:
            settled_ns = await self._run.watch.stop.guard(self._run.clock.settled_ns())
            holes = [hole._replace(through=min(hole.through, settled_ns)) for hole in holes]
            holes = [hole for hole in holes if hole.after < hole.through]
            self._run.watch.listener(Started(self._pair, holes, None))
        for hole in self._ordered(holes):
            await self._crawl(one, hole)
        await self._tend(one)

    async def _tend(self, one: Writer) -> None:
        rollups = self._run.settings.candles.rollups
        await asyncio.to_thread(tend, one, rollups, self._run.watch.listener)

    async def _asked(self) -> Range:
        settled_ns = await self._run.watch.stop.guard(self._run.clock.settled_ns())
        return Range(self._wish.span.after, min(self._wish.span.through, settled_ns))

    async def _fetch(self, one: Writer) -> Range:
        """Fetch until nothing is missing, the head having moved on meanwhile or not."""
        done = Range(0, 0)
        while True:
            asked = await self._asked()
            caught_up = done.through and asked.through - done.through < CATCH_UP_NS
            if caught_up or asked.through <= asked.after:
                return done if done.through else asked
            one.want(asked)
            self._mind_the_clock()
            ranges = missing([asked], self._run.archive.coverage(self._pair))
            expected = await self._expected(ranges)
            self._run.watch.listener(Started(self._pair, ranges, expected))
            for span in self._ordered(ranges):
                await self._crawl(one, span)
            if asked.through == self._wish.span.through:
                return asked
            done = asked

    def _mind_the_clock(self) -> None:
        """Say so where coverage reaches into time to come: the clock was wrong, now or before."""
        reached = max((one.through for one in self._run.archive.coverage(self._pair)), default=0)
        if reached > self._run.clock.heard_ns:
            text = (
                f"it is covered through {show(reached)}, which by the exchange's clock is still to "
                f"come ({show(self._run.clock.heard_ns)}): if that clock was wrong before, trades "
                "may be missing; `harvester verify --against-exchange` tells"
            )
            self._run.watch.listener(Noted(self._pair, text))

    async def _crawl(self, one: Writer, span: Range) -> None:
        run = self._run
        spelled = msgspec.json.encode(self._wish.pair).decode()
        flush = (run.settings.archive.flush_s, run.settings.archive.flush_rows)
        buffer = Buffer(one, span.after, spelled, run.watch.listener)
        crawl = RangeCrawl(
            self._source, buffer, run.waiting, flush, run.watch.stop, run.watch.listener
        )
        crawl.trades = self._trades
        try:
            await crawl.run(run.archive, self._pair, span)
        finally:
            self._trades = crawl.trades

    def _ordered(self, ranges: list[Range]) -> list[Range]:
        if not self._run.watch.newest_first:
            return ranges
        return [part for one in reversed(ranges) for part in reversed(_chunks(one))]

    async def _expected(self, ranges: list[Range]) -> int | None:
        if not (ranges and self._run.watch.estimates):
            return None
        try:
            counts = self._run.client.weekly_counts(self._wish.pair)
            weeks = await self._run.watch.stop.guard(counts)
        except ExchangeError:
            return None
        return Estimate(weeks).trades(ranges)


async def error_of(work: Awaitable[None]) -> HarvesterError | None:
    """Do one pair's work, and return what ended it, if anything did: the others go on."""
    try:
        await work
    except HarvesterError as reason:
        return reason
    except Exception as fault:  # noqa: BLE001 - one pair's fault must not end the others
        error = HarvesterError(f"a fault of harvester itself: {type(fault).__name__}: {fault}")
        error.__cause__ = fault
        return error
    return None


def _chunks(span: Range) -> list[Range]:
    """A range in parts of a month or so, cut at fixed moments so that a second run cuts alike."""
    # What lies before there was an exchange is one part.
    cuts = range((max(span.after, BEGINNING_NS) // CHUNK_NS + 1) * CHUNK_NS, span.through, CHUNK_NS)
    return [Range(*ends) for ends in pairwise([span.after, *cuts, span.through])]
