"""Download one missing range of a pair: page loop, flushes, boundary checks, parallel parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pyarrow as pa

from harvester.download.buffer import WriteBuffer
from harvester.download.events import Noted, PageRead
from harvester.download.exchange import Page, PageSource
from harvester.download.id_check import IdContinuityChecker, has_id, prove_first_page
from harvester.download.neighbours import (
    LeftNeighbour,
    imported_in,
    left_neighbour,
    range_without_newest,
    right_neighbour,
)
from harvester.download.page_merge import LEAST_MARGIN_NS, JoinResult, PageMerger
from harvester.download.range_split import SplitPoint, cut_between, middle
from harvester.download.request import RangeContext
from harvester.errors import ArchiveDamaged, HarvesterError, ImportIncomplete, Interrupted
from harvester.kraken.rate_limit import CALLS_PER_PAIR
from harvester.schema import sort_rows, times
from harvester.times import Range, overlap, show
from harvester.trade_ids import BEFORE_FIRST_ID, LastId

MAX_OVERFILL = 1.25
"""Trades may exceed the flush size by this factor while a segment is written or merged.

Only an API server is ever so fast.
"""


# --- parts in parallel ----------------------------------------------------------------------------

# Each page is requested from the last one's cursor, so a download makes one call after the other.
# Where an answer takes longer than the allowed interval, calls that are allowed would be lost. Then
# the rest of the range is split about where half of its trades are, and both parts are downloaded
# at once under the pair's rate limit. Where one ends first, the rest of the other is split again.

MIN_PAGES_TO_SPLIT = 8
"""A rest of fewer pages is not worth the call that finds the split point."""

SPLIT_ATTEMPTS = 3
"""Places tried, each nearer to the reached one: a market may have ended long ago."""

PAGES_UNTIL_NEXT_SPLIT = 16
"""Pages read before a split point is looked for again where none was found."""


class SplitDownload:
    """Downloads one missing range, in one part or in two at once."""

    def __init__(self, context: RangeContext) -> None:
        """Create it; `run` does the work."""
        self._context = context
        self._running: dict[asyncio.Task[None], RangeDownload | None] = {}
        self._ended: asyncio.Queue[asyncio.Task[None]] = asyncio.Queue()
        self._pages_to_wait = 0

    async def run(self, within: Range) -> None:
        """Download a range completely.

        If one part fails, the others end with the page that they are at. What was downloaded
        completely is committed.
        """
        errors: list[BaseException] = []
        download = RangeDownload(self._context, within, self._after_page)
        self._start(download.run(), download)
        try:
            while self._running:
                task = await self._ended.get()
                # An ended download must not stay referenced: it would keep its trades in memory.
                del self._running[task]
                if not task.cancelled() and (error := task.exception()) is not None:
                    errors.append(error)
                    for other in self._running.values():
                        if other is not None:
                            other.end_early()
                if not any(self._running.values()):
                    # The rest looks for a split point, maybe for minutes: nothing is left to split.
                    for searching in self._running:
                        searching.cancel()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            self._running.clear()
        if errors:
            raise min(errors, key=lambda error: isinstance(error, Interrupted))

    def _start(self, work: Coroutine[Any, Any, None], download: RangeDownload | None) -> None:
        task = asyncio.ensure_future(work)
        self._running[task] = download
        task.add_done_callback(self._ended.put_nowait)

    def _after_page(self, download: RangeDownload, *, is_last: bool) -> None:
        """Report progress, and split a download that can't use the allowed rate and is long."""
        context = self._context
        # Where there are two parts, the earlier one shows how far the pair is.
        parts = [part for part in self._running.values() if part is not None]
        reached_ns = min(part.reached_ns for part in parts if part.reached_ns is not None)
        pages, counts = context.pages, context.counts
        event = PageRead(pages.pair.altname, counts.trades, pages.requested, reached_ns)
        context.listener(event)
        if is_last:
            return
        if self._pages_to_wait:
            self._pages_to_wait -= 1
        elif (
            len(self._running) < CALLS_PER_PAIR
            and pages.is_starved
            and download.pages_left() >= MIN_PAGES_TO_SPLIT
        ):
            self._start(self._split(download), None)

    async def _split(self, download: RangeDownload) -> None:
        # Whatever is wrong here, the download itself meets it, and reports it.
        with suppress(HarvesterError):
            weeks = await self._context.pages.weekly_counts()
            until_ns = download.range.through
            for _ in range(SPLIT_ATTEMPTS):
                until_ns = middle(download.left()._replace(through=until_ns), weeks)
                page = await self._split_page(until_ns)
                cut, through = cut_between(page.rows, download.left()), download.range.through
                if cut is not None and download.shorten(cut):
                    part = Range(cut.at, through)
                    second = RangeDownload(self._context, part, self._after_page, cut)
                    self._start(second.run(), second)
                    return
        self._pages_to_wait = PAGES_UNTIL_NEXT_SPLIT

    async def _split_page(self, since_ns: int) -> Page:
        """The page in which a split point is looked for."""
        return await self._context.pages.page(since_ns)


# --- one part -------------------------------------------------------------------------------------


class RangeDownload:
    """Downloads one range of one pair, page after page.

    Attributes:
        range: what is downloaded; it may be shortened meanwhile.
        reached_ns: the time up to which pages were read; None before the first page and at the end.
    """

    def __init__(
        self,
        context: RangeContext,
        within: Range,
        after_page: Callable[..., None],
        cut: SplitPoint | None = None,
    ) -> None:
        """Create the download of one range; nothing is requested yet.

        Args:
            context: of the whole range.
            within: the part to download.
            after_page: called with this download after each page that brought trades, and whether
                it was the last page.
            cut: where the part begins behind a trade that the archive does not have yet.
        """
        self.range = within
        self.reached_ns: int | None = None
        self._context = context
        self._pair = context.pages.pair.altname
        self._after_page = after_page
        self._cut = cut
        self._source = PageSource(context.pages)
        self._buffer = WriteBuffer(
            context.writer, within.after, context.pair_json, context.listener, context.locks
        )
        self._ids = IdContinuityChecker(self._source, self._pair, within, context.listener)
        self._merger = PageMerger(within.after)
        self._left: LastId | None = None
        self._right: tuple[int, int] | None = None
        self._first_ns: int | None = None
        self._pages_read = 0
        self._is_closing = self._ends_early = self._is_cut = self._is_closed = False
        self._flushing: asyncio.Task[None] | None = None
        self._stuck = (0, 0, 0)
        self._error: ArchiveDamaged | None = None

    def left(self) -> Range:
        """What is still to be downloaded."""
        reached_ns = self._merger.last_ns
        return Range(self.range.after if reached_ns is None else reached_ns, self.range.through)

    def pages_left(self) -> float:
        """How many more pages that is likely to take, by the density of the trades so far."""
        if self._first_ns is None or self._merger.last_ns is None or self._is_closing:
            return 0.0
        left, passed_ns = self.left(), self._merger.last_ns - self._first_ns
        return self._pages_read * (left.through - left.after) / max(1, passed_ns)

    def shorten(self, cut: SplitPoint) -> bool:
        """End at a split point: another download has the rest. False if it is too late for that."""
        reached_ns = self._merger.last_ns
        if self._is_closing or reached_ns is None or reached_ns >= cut.at:
            return False
        self.range = self._ids.range = Range(self.range.after, cut.at)
        self._right, self._is_cut = cut.right, True
        return True

    def end_early(self) -> None:
        """End with the page that is under way; what was downloaded completely is committed."""
        self._ends_early = True

    async def run(self) -> None:
        """Download the range completely.

        Whatever ends it early, what was downloaded completely before is committed.
        """
        store, pair = self._context.store, self._pair
        has_imports = self._context.has_imports
        self._context.memory.buffers.add(self._buffer)
        done, is_complete = asyncio.Event(), False
        waiting = asyncio.create_task(self._flush_while_waiting(done))
        try:
            if self._cut is None:
                before = left_neighbour(store, pair, self.range.after, has_imports=has_imports)
            else:
                last_id = LastId(*self._cut.left) if self._cut.left else None
                before = LeftNeighbour(last_id, self._cut.at)
            self._left = before.last_id
            self._ids.begin_at(self._left, is_imported=before.is_imported)
            beyond = await self._download_pages(before.last_ns)
            self._is_closing = True
            stored, is_imported, through = self._right, False, self.range.through
            if stored is None:
                stored, is_imported = right_neighbour(store, pair, through, has_imports=has_imports)
            rows = await self._ids.close(
                stored or beyond,
                is_imported=is_imported,
                is_stored=bool(stored) or self._is_cut,
            )
            if self._ids.lost:
                await self._uncover_losses()
            await self._add_to_buffer(rows, through)
            is_complete = True
        finally:
            self._is_closing = True
            self.reached_ns = None
            self._context.memory.buffers.discard(self._buffer)
            done.set()
            await waiting
            await self._await_flush()
            await self._buffer.flush(final=is_complete)
        if self._error is not None:
            raise self._error
        self._is_closed = True
        newest_ns = self._source.newest_ns
        if newest_ns is None:
            return
        lost = range_without_newest(store, pair, newest_ns, has_imports=has_imports)
        if lost is not None:
            await self._uncover(lost, f"the newest trade, of {show(newest_ns)},")
            if self._error is not None:
                raise self._error

    async def _download_pages(self, stored_ns: int | None) -> tuple[int, int] | None:
        """Request page after page, until the range or the history ends.

        Args:
            stored_ns: the time of the last stored trade before the range; None if there is none.

        Returns:
            The first id behind the range, and the rows without one before it, where shown.

        Raises:
            Interrupted: another part failed, or the run was cancelled.
            ExchangeError: the exchange can't be reached, refuses, or contradicts itself.
        """
        while True:
            if self._ends_early:
                raise Interrupted("interrupted; the same command goes on where it stopped")
            merger = self._merger
            page = await self._next_page()
            step = merger.join(page.rows, page.cursor_ns, page.unit_ns, self.range.through)
            self._buffer.cursor = page.last or self._buffer.cursor
            if step.before.num_rows and self._left is None:
                self._ids.pass_over(step.before)
            if step.result in (JoinResult.ADVANCED, JoinResult.REACHED_END):
                self._source.conflicts = 0
                await self._check(step.rows, page)
                self._report_page(step.rows, is_last=step.result is JoinResult.REACHED_END)
                if step.result is JoinResult.REACHED_END:
                    return step.beyond
            elif step.result is JoinResult.NO_NEW_ROWS:
                if await self._is_end_of_history(stored_ns):
                    await self._check(merger.finish(), page)
                    return None
            elif step.result is JoinResult.MISSING_OVERLAP:
                self._source.record_conflict("a page does not show the last trade before it")
            elif step.result is JoinResult.TIMESTAMP_FULL:
                self._merger = await self._skip_timestamp(merger)
                self._left = None

    def _report_page(self, rows: pa.RecordBatch, *, is_last: bool) -> None:
        """Report a page with its final trades."""
        if self._first_ns is None and rows.num_rows:
            self._first_ns = int(times(rows)[0])
        self._pages_read += 1
        reached_ns, through = self._merger.last_ns, self.range.through
        self.reached_ns = through if reached_ns is None else min(through, reached_ns)
        self._after_page(self, is_last=is_last)

    async def _is_end_of_history(self, stored_ns: int | None) -> bool:
        last_ns, after = self._merger.last_ns, self.range.after
        if await self._source.is_end_of_history(last_ns, after, stored_ns):
            # The newest page may show more trades of the last time than the page before it did.
            newest = self._source.newest_rows
            if newest is None or not self._merger.has_more_trades(newest):
                return True
            self._source.record_conflict("the newest page shows more trades of the last time")
        if self._source.conflicts > 1:
            self._merger.page_within_timestamp()
        return False

    async def _next_page(self) -> Page:
        """The next page; the first one only once more than a single answer proves it."""
        merger, left = self._merger, self._left
        since_ns = merger.next_since()
        page = await self._source.page(since_ns)
        if merger.last_ns is not None or merger.is_too_coarse(page.unit_ns):
            return page
        page, known_gap = await prove_first_page(self._source, page, since_ns, merger.after, left)
        if known_gap is not None:
            self._ids.begin_at(left, known_gap=known_gap)
        elif left == BEFORE_FIRST_ID and page.rows.num_rows and not has_id(sort_rows(page.rows)):
            self._ids.begin_at(None)
        return page

    async def _skip_timestamp(self, merger: PageMerger) -> PageMerger:
        """Leave a gap at a time whose trades can't be had completely, and go on behind it."""
        # A place that was skipped before is not tried again, so that each request goes further.
        if merger.last_ns is not None and merger.last_ns > self._stuck[0]:
            skipped_ns, cursor, tries = merger.last_ns, merger.cursor or merger.last_ns, 0
            text = (
                f"more trades have the time {show(skipped_ns)} than a page can show: they are left "
                "out as a gap, and the download goes on behind them"
            )
            self._context.listener(Noted(self._pair, text))
            rows = await self._ids.close(None)
            await self._uncover_losses()
            await self._add_to_buffer(rows, skipped_ns - 1)
            await self._await_flush()
            await self._buffer.flush()
            self._ids.begin_at(None)
        else:
            skipped_ns, cursor, tries = self._stuck
        # An exclusive `since` goes on behind the cursor, an inclusive one behind its successor.
        since_ns = cursor + tries
        if tries > 1:
            since_ns = skipped_ns + LEAST_MARGIN_NS * 4**tries
            skipped_ns = since_ns + LEAST_MARGIN_NS
        self._stuck = (skipped_ns, cursor, tries + 1)
        self._buffer.skip_to(skipped_ns)
        return PageMerger(skipped_ns, first_since=since_ns)

    async def _check(self, rows: pa.RecordBatch, page: Page) -> None:
        """Check the ids of final trades, and buffer those that are certain."""
        certain, complete_ns = await self._ids.check(rows, page.unit_ns)
        if self._ids.lost:
            await self._uncover_losses()
        await self._add_to_buffer(certain, complete_ns)

    async def _add_to_buffer(self, rows: pa.RecordBatch, complete_ns: int) -> None:
        """Buffer trades; start to write a segment if enough of them wait, or for long enough."""
        ids, buffer, context = self._ids, self._buffer, self._context
        context.counts.trades += rows.num_rows
        if ids.confirmed or ids.unconfirmed or ids.across_imports:
            buffer.note(ids.confirmed, ids.unconfirmed, ids.across_imports)
            ids.confirmed, ids.unconfirmed, ids.across_imports = [], [], []
        buffer.add(rows, complete_ns)
        if self._flushing is not None and self._flushing.done():
            await self._await_flush()
        if buffer.rows >= context.flush_rows or buffer.age_s() >= context.flush_s:
            if self._flushing is not None and buffer.rows >= MAX_OVERFILL * context.flush_rows:
                await self._await_flush()
            if self._flushing is None:
                # In the background: writing never delays the next request.
                self._flushing = asyncio.create_task(buffer.flush())
        await context.memory.flush_if_needed()

    async def _await_flush(self) -> None:
        if self._flushing is not None:
            task, self._flushing = self._flushing, None
            await task

    async def _flush_while_waiting(self, done: asyncio.Event) -> None:
        """Write buffered trades in time also while the exchange does not answer."""
        flush_s = self._context.flush_s
        while not done.is_set():
            try:
                async with asyncio.timeout(flush_s / 2):
                    await done.wait()
            except TimeoutError:
                if self._buffer.age_s() >= flush_s:
                    try:
                        await self._buffer.flush()
                    except Exception as error:  # noqa: BLE001 - it ends the whole download
                        self._buffer.fail(error)

    async def _uncover_losses(self) -> None:
        """Make a gap of each range that turned out to lack trades, before anything is committed.

        So after a crash at any time either the gap is recorded, or the place is found again.
        """
        losses, self._ids.lost = self._ids.lost, []
        for gap, lost in losses:
            what = f"trades between ids {gap.after_id} and {gap.before_id}"
            sides = [
                Range(gap.after_ns, self.range.after),
                Range(self.range.through, gap.before_ns),
            ]
            for side in sides if self._context.has_imports else []:
                path = imported_in(self._context.store, self._pair, side)
                if path:
                    self._error = self._error or ImportIncomplete(
                        f"{self._pair}: {what} are not in {path}, which was imported: "
                        f"`harvester backfill {self._pair} --replace-imported` downloads imported "
                        "ranges again",
                        *side,
                    )
                    break
            else:
                await self._uncover(lost, what)

    async def _uncover(self, lost: Range, what: str) -> None:
        """Make a gap of a covered range that lacks trades; where that can't be, keep the error.

        Args:
            lost: the range.
            what: is missing, for messages.
        """
        # Until this download has ended, rows of its own range are not all committed.
        is_own = not self._is_closed and overlap(lost, self.range) is not None
        gaps = [] if is_own else await self._buffer.uncover(self._context.uncover, lost)
        if not gaps:
            self._error = self._error or ArchiveDamaged(
                f"{self._pair}: {what} are missing from {lost}: "
                f"`harvester verify {self._pair} --repair` downloads them"
            )
            return
        self._context.counts.lost += gaps
        text = f"{what} were missing from {lost}, which is a gap now and is downloaded again"
        self._context.listener(Noted(self._pair, text))
