"""Everything that is missing of one pair: range after range, and what is done then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import msgspec

from harvester.archive.archive import Archive
from harvester.archive.aside import from_files
from harvester.archive.torn import check_not_torn
from harvester.archive.writer import Writer, writer
from harvester.crawl.beside import look, settle
from harvester.crawl.buffer import Buffer, Locks
from harvester.crawl.clock import CATCH_UP_NS
from harvester.crawl.crawler import Bounds, RangeCrawl
from harvester.crawl.endings import error_of
from harvester.crawl.estimate import Estimate
from harvester.crawl.events import Noted, Outcome, Started
from harvester.crawl.pages import Page, Source
from harvester.crawl.run import Hand, Run, Wish
from harvester.crawl.split import Means, SplitCrawl
from harvester.crawl.tally import Tally
from harvester.crawl.tending import finish_replacing, tend
from harvester.crawl.upgrades import Upgrade
from harvester.errors import (
    ExchangeError,
    ExchangeRefused,
    HarvesterError,
    ImportIncomplete,
)
from harvester.times import BEGINNING_NS, DAY, Range, missing, overlap, show

CHUNK_NS = 30 * DAY


class PairCrawl:
    """Everything that is missing of one pair."""

    def __init__(self, run: Run, wish: Wish, heard: Callable[[], None] = lambda: None) -> None:
        """`heard` is told of each good answer."""
        self._run = run
        self._wish = wish
        self._heard = heard
        self._pair = wish.pair.altname
        self._tally = Tally(self._pair, run.watch.listener)
        self._locks = Locks(asyncio.Lock(), run.merging)
        self._weeks: list[tuple[int, int]] | None = None
        self._done = Range(wish.span.after, wish.span.after)
        self._upgrade: Upgrade | None = None

    async def _page(self, since_ns: int | None) -> Page:
        self._tally.pages += 1
        page = await self._run.client.page(self._wish.pair, since_ns)
        believed = await self._run.clock.believe(page, self._pair)
        self._heard()
        return believed

    async def run(self) -> Outcome:
        """Fetch what is missing of the wish; what ends it early is in the outcome."""
        error = await error_of(self._backfill())
        return self._outcome([self._done] if self._done.through > self._done.after else [], error)

    def not_begun(self, error: HarvesterError) -> Outcome:
        """The outcome of a pair that nobody was asked for."""
        return self._outcome([], error)

    async def fill(self, one: Writer) -> Outcome:
        """Fetch the holes on record; the lock is held by the writer."""
        error = await error_of(self._fill(one))
        return self._outcome(self._run.archive.holes(self._pair), error)

    def _outcome(self, asked: list[Range], error: HarvesterError | None) -> Outcome:
        coverage = self._run.archive.coverage(self._pair)
        holes = missing(asked, coverage)
        reached = next((one for one in reversed(coverage)), None)
        return Outcome(
            self._pair,
            self._tally.trades,
            self._tally.pages,
            reached,
            holes,
            error,
            self._run.client.pace(self._wish.pair),
            self._upgrade,
        )

    async def _backfill(self) -> None:
        self._done = await self._asked()
        with writer(self._run.archive, self._pair) as one:
            await asyncio.to_thread(finish_replacing, one, self._run.watch.listener)
            if self._run.watch.then is None:
                self._done = await self._fetch(one)
            else:
                await self._fetch_and_then(one, self._run.watch.then)
            await self._tend(one)

    async def _fetch_and_then(self, one: Writer, then: Callable[[Hand], Awaitable[None]]) -> None:
        """Fetch what is missing; what shows that a file lacks trades is no reason to end there."""
        before: list[Range] | None = None
        lacks: list[ImportIncomplete] = []
        while before != (now := self._run.archive.coverage(self._pair)):
            before = now
            try:
                self._done = await self._fetch(one)
                break
            except ImportIncomplete as lack:
                # The range that showed it is whole: the next time others are missing.
                lacks.append(lack)
        await then(Hand(self._run, self._wish, one, self._crawl, self._take))
        left = [part for _, part in from_files(self._run.archive, self._pair)]
        for known in lacks:
            if any(overlap(part, Range(known.after, known.through)) for part in left):
                raise known

    def _take(self, upgrade: Upgrade) -> None:
        self._upgrade = upgrade

    async def _fill(self, one: Writer) -> None:
        await asyncio.to_thread(finish_replacing, one, self._run.watch.listener)
        holes = self._run.archive.holes(self._pair)
        if holes:
            settled_ns = await self._run.watch.stop.guard(self._run.clock.settled_ns())
            holes = [hole._replace(through=min(hole.through, settled_ns)) for hole in holes]
            holes = [hole for hole in holes if hole.after < hole.through]
            await self._begin(holes, self._wish.span)
        for hole in self._ordered(holes):
            await self._crawl_hole(one, hole)
        await self._tend(one)

    async def _tend(self, one: Writer) -> None:
        rollups = self._run.settings.candles.rollups
        async with self._run.tending:
            await asyncio.to_thread(tend, one, rollups, self._run.watch.listener)
        await asyncio.to_thread(check_not_torn, self._run.archive, self._pair)

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
            await asyncio.to_thread(one.want, asked)
            self._mind_the_clock()
            ranges = missing([asked], self._run.archive.coverage(self._pair))
            await self._begin(ranges, asked)
            for span in self._ordered(ranges):
                await self._crawl_hole(one, span)
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

    async def _crawl_hole(self, one: Writer, span: Range) -> None:
        await look(one, span, self._guarded_page)
        try:
            await self._crawl(one, self._run.archive, span)
        finally:
            await asyncio.to_thread(settle, one)

    async def _crawl(self, one: Writer, archive: Archive, span: Range) -> None:
        run = self._run
        spelled = msgspec.json.encode(self._wish.pair).decode()
        kept = run.settings.archive
        bounds = Bounds(run.backlog, kept.flush_s, kept.flush_rows)

        def make(part: Range) -> RangeCrawl:
            buffer = Buffer(one, part.after, spelled, run.watch.listener, self._locks)
            source = Source(self._page, self._pair, self._has_traded)
            return RangeCrawl(part, source, buffer, bounds, run.watch.stop, self._tally)

        means = Means(lambda: run.client.starved(self._wish.pair), self._guarded_page, self._weekly)
        await SplitCrawl(make, means).run(archive, self._pair, span)

    async def _guarded_page(self, since_ns: int) -> Page:
        return await self._run.watch.stop.guard(self._page(since_ns))

    async def _has_traded(self) -> bool:
        """Whether the exchange's candles know of trades; where it has none to show, they do not.

        Raises:
            ExchangeUnreachable: they can't be had just now, so that nothing is known.
        """
        try:
            weeks = await self._run.client.weekly_counts(self._wish.pair)
        except ExchangeRefused:
            return False
        return any(count for _, count in weeks)

    def _ordered(self, ranges: list[Range]) -> list[Range]:
        if not self._run.watch.newest_first:
            return ranges
        return [part for one in reversed(ranges) for part in reversed(_chunks(one))]

    async def _begin(self, ranges: list[Range], asked: Range) -> None:
        """Report what is missing of a request, and how many of its trades are stored."""
        expected = await self._expected(ranges)
        is_shown = self._run.watch.estimates
        held = await asyncio.to_thread(self._held, asked) if is_shown else 0
        self._run.watch.listener(Started(self._pair, ranges, expected, held))

    def _held(self, asked: Range) -> int:
        """About how many trades of a range are stored, by the footers; 0 where they can't tell.

        A segment that reaches beyond the range counts by its share of time.
        """
        archive, rows = self._run.archive, 0.0
        try:
            for segment, within in archive.pieces(self._pair, asked):
                share = (within.through - within.after) / (
                    segment.range.through - segment.range.after
                )
                rows += archive.footer(segment).rows * share
        except (HarvesterError, FileNotFoundError):
            # It is for show alone: the download itself reports what is wrong.
            return 0
        return round(rows)

    async def _expected(self, ranges: list[Range]) -> int | None:
        known = self._run.appraiser.trades.pop(self._pair, None)
        if known is not None:
            return known
        if not (ranges and self._run.watch.estimates):
            return None
        weeks = await self._weekly()
        return Estimate(weeks).trades(ranges) if weeks else None

    async def _weekly(self) -> list[tuple[int, int]]:
        """Trades a week, asked for once; none where the exchange does not tell."""
        if self._weeks is None:
            try:
                counts = self._run.client.weekly_counts(self._wish.pair)
                self._weeks = await self._run.watch.stop.guard(counts)
            except ExchangeError:
                self._weeks = []
        return self._weeks


def _chunks(span: Range) -> list[Range]:
    """A range in parts of a month or so, cut at fixed moments so that a second run cuts alike."""
    # What lies before there was an exchange is one part.
    cuts = range((max(span.after, BEGINNING_NS) // CHUNK_NS + 1) * CHUNK_NS, span.through, CHUNK_NS)
    return [Range(*ends) for ends in pairwise([span.after, *cuts, span.through])]
