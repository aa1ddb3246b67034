"""Download one range in two halves at once, where one sequential loop cannot use the full rate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from harvester.download.page_merge import Page
from harvester.download.range import RangeDownload, SplitPoint, cut_between, middle
from harvester.errors import HarvesterError, Interrupted
from harvester.kraken.rate_limit import CALLS_PER_PAIR
from harvester.storage.trade_store import TradeStore
from harvester.times import Range

# --- split ----------------------------------------------------------------------------------------

# Each page is asked from the last one's cursor, so a crawl makes one call after the other. Where
# an answer takes longer than the pace, calls that are allowed would be lost; then what is left is
# cut about where half of its trades lie, and both halves go on side by side, under one pace.
# Where one comes to its end first, what is left of the other is cut again.

LEAST_LEFT = 8
"""Pages: less than that is not worth the call that finds the place to cut."""

PLACES = 3
"""So many are looked at, each nearer to what was reached: a market may have ended long ago."""

REST_PAGES = 16
"""So many pages are read before a place is looked for again where none was found."""


class SplitCallbacks(NamedTuple):
    """What cutting a range takes: to know that it is worth it, a page, and trades a week."""

    starved: Callable[[], bool]
    page: Callable[[int], Awaitable[Page]]
    weeks: Callable[[], Awaitable[list[tuple[int, int]]]]


class SplitDownload:
    """Crawls one missing range, in as many spans at once as it takes."""

    def __init__(self, make: Callable[[Range], RangeDownload], means: SplitCallbacks) -> None:
        """`make` gives the crawl of a span."""
        self._make = make
        self._means = means
        self._running: dict[asyncio.Task[None], RangeDownload | None] = {}
        self._ended: asyncio.Queue[asyncio.Task[None]] = asyncio.Queue()
        self._rest = 0

    async def run(self, archive: TradeStore, pair: str, span: Range) -> None:
        """Fetch `span` whole.

        Where one span fails, the others end with the page that they are at. What was fetched
        whole is committed.
        """
        self._archive, self._pair = archive, pair
        errors: list[BaseException] = []
        self._begin(span, None)
        try:
            while self._running:
                task = await self._ended.get()
                # What has ended is held no more: a crawl knows us, and would keep its trades.
                del self._running[task]
                if not task.cancelled() and (error := task.exception()) is not None:
                    errors.append(error)
                    for crawl in self._running.values():
                        if crawl is not None:
                            crawl.give_up()
                if not any(self._running.values()):
                    # What is left looks for a place to cut, maybe for minutes: nothing is to cut.
                    for looking in self._running:
                        looking.cancel()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            self._running.clear()
        if errors:
            raise min(errors, key=lambda error: isinstance(error, Interrupted))

    def _begin(self, span: Range, cut: SplitPoint | None) -> None:
        crawl = self._make(span)
        crawl.after_page = self._consider
        self._watch(crawl.run(self._archive, self._pair, cut), crawl)

    def _watch(self, work: Awaitable[None], crawl: RangeDownload | None = None) -> None:
        task = asyncio.ensure_future(work)
        self._running[task] = crawl
        task.add_done_callback(self._ended.put_nowait)

    def _consider(self, crawl: RangeDownload) -> None:
        """Cut a crawl in two, if it can't keep the pace and the rest is long."""
        if self._rest:
            self._rest -= 1
        elif (
            len(self._running) < CALLS_PER_PAIR
            and self._means.starved()
            and crawl.pages_left() >= LEAST_LEFT
        ):
            self._watch(self._cut(crawl))

    async def _cut(self, crawl: RangeDownload) -> None:
        # Whatever is wrong here, the crawl itself meets it, and tells.
        with suppress(HarvesterError):
            weeks = await self._means.weeks()
            place = crawl.span.through
            for _ in range(PLACES):
                place = middle(crawl.left()._replace(through=place), weeks)
                page = await self._means.page(place)
                cut, through = cut_between(page.rows, crawl.left()), crawl.span.through
                if cut is not None and crawl.shorten(cut):
                    self._begin(Range(cut.at, through), cut)
                    return
        self._rest = REST_PAGES
