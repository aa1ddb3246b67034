"""Download one missing range of a pair: page loop, flushes, boundary checks."""

from __future__ import annotations

import asyncio
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pyarrow as pa

from harvester.download.buffer import WriteBuffer
from harvester.download.completeness import (
    IdContinuityChecker,
    TradesSkipped,
    has_id,
    last_id_of_imports,
    prove_first_page,
)
from harvester.download.page_merge import JoinResult, PageMerger
from harvester.errors import ArchiveDamaged, ArchiveIncomplete, ImportIncomplete
from harvester.events import Noted, PageRead
from harvester.schema import clip, sort_rows, times, trade_ids
from harvester.storage.id_gaps import (
    BEFORE_FIRST_ID,
    LONGEST_ROUNDING_NS,
    FirstId,
    LastId,
    find_gaps,
    gap_at_end,
    identities,
)
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, SECOND, Range, overlap, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.download.pair_download import PairDownload
    from harvester.kraken.trades import TradesPage
    from harvester.storage.writer import NewGap, Writer

MAX_OVERFILL = 1.25
"""Trades may exceed the flush size by this factor while a segment is written or merged.

Only an API server is ever so fast.
"""


async def check_listed_again(download: PairDownload) -> None:
    """Refuse to download into a pair with trades that were imported while it was delisted.

    Their segments may end between two trades, and the times in a file do not always show on which
    side a trade is. A trade downloaded beside them could be lost, or be stored twice.

    Args:
        download: of the pair; its newest page is requested if there are such segments.

    Raises:
        ArchiveIncomplete: there are, and the exchange lists the pair again.
        ExchangeError: the exchange does not know the pair, or does not answer.
    """
    archive, pair = download.context.archive, download.request.pair.altname
    imported = (piece.segment for piece in archive.pieces(pair) if piece.segment.is_imported)
    if any(archive.footer(segment).ends_between_trades for segment in imported):
        await download.pages.page(None)
        files = Path(archive.path) / "trades" / f"pair={pair}" / "year=*" / "*.csv.parquet"
        raise ArchiveIncomplete(
            f"{pair}: it was imported while the exchange did not list it, and is listed again. "
            "Nothing was downloaded, as a trade next to the imported ones could be lost or stored "
            f"twice. Move {files} out of the archive, import the files again without --delisted, "
            f"and run `harvester backfill {pair}`"
        )


class SkipState(NamedTuple):
    """The place at which too many trades share one time, while requests try to get past it.

    Attributes:
        skipped_ns: the latest published time that is left out.
        cursor_ns: the exchange's cursor there.
        tries: number of requests made to get past it.
    """

    skipped_ns: int
    cursor_ns: int
    tries: int


class RangeDownload:
    """Downloads one range of one pair, page after page."""

    def __init__(
        self,
        download: PairDownload,
        writer: Writer,
        archive: TradeStore,
        within: Range,
        remove_coverage: Callable[[Range], list[NewGap]] | None = None,
    ) -> None:
        """Create the download of one range; nothing is requested yet.

        Args:
            download: of the pair.
            writer: the trades go to its archive.
            archive: the archive with the neighbours whose ids the range continues; not the writer's
                in a re-download.
            within: what to download.
            remove_coverage: turns another range, which turns out to lack trades, into a gap, and
                returns what was covered of it; None for that of `writer`.
        """
        context = download.context
        self._range = within
        self._archive = archive
        self._remove_from_writer = remove_coverage or writer.remove_coverage
        self._memory = context.memory
        self._flush_s = context.settings.archive.flush_s
        self._flush_rows = context.settings.archive.flush_rows
        self._listener = context.options.listener
        self._download = download
        self._pair = download.request.pair.altname
        self._pages = download.pages
        self._pages.begin_range(within.after)
        pair_json = msgspec.json.encode(download.request.pair).decode()
        self._buffer = WriteBuffer(writer, within.after, pair_json, self._listener, context.merging)
        self._ids = IdContinuityChecker(self._pages, self._pair, within, self._listener)
        self._merger = PageMerger(within.after)
        self._has_imports = any(segment.is_imported for segment in archive.segments(self._pair))
        self._left: LastId | None = None
        self._is_closed = False
        self._flushing: asyncio.Task[None] | None = None
        self._skip = SkipState(0, 0, 0)
        self._error: ArchiveDamaged | None = None

    async def run(self) -> None:
        """Download the range completely.

        Whatever ends it early, what was downloaded completely before is committed.

        Raises:
            ExchangeError: the exchange can't be reached, refuses, or contradicts itself.
            ArchiveDamaged: covered ranges lack trades.
            Interrupted: the run was cancelled.
        """
        self._memory.buffers.add(self._buffer)
        done, is_complete, is_skipped = asyncio.Event(), False, False
        waiting = asyncio.create_task(self._flush_while_waiting(done))
        try:
            beyond = await self._download_pages(self._continue_left_side())
            archive, pair, through = self._archive, self._pair, self._range.through
            stored = archive.first_id_after(pair, through)
            is_doubted = any(lost.through == through for lost in self._download.lost)
            rows = await self._ids.close(
                stored or beyond,
                # Shown twice, the stored trade is one that the exchange took back.
                shown=None if is_doubted else beyond,
                is_imported=self._has_imports and archive.is_imported_before_id(pair, through),
                is_stored=bool(stored),
            )
            if stored and rows.num_rows and trade_ids(rows)[-1] == stored.trade_id:
                rows = self._without_stored(rows)
            await self._add(rows, through)
            is_complete = True
        except TradesSkipped:
            # The rest of the range is requested again, from what is committed on.
            is_skipped = True
        finally:
            self._memory.buffers.discard(self._buffer)
            done.set()
            await waiting
            try:
                await self._await_flush()
                await self._buffer.flush(final=is_complete)
            finally:
                # What was not committed is downloaded again.
                self._download.trades -= self._buffer.rows
        self._is_closed = True
        newest = self._pages.newest_rows
        if is_skipped:
            text = "answers skip trades: the range is requested again"
            self._listener(Noted(self._pair, text))
            self._download.lost.append(self._range)
        elif newest is not None and self._error is None:
            newest_ns = int(times(newest).max())
            lost = self._range_without_newest(newest_ns)
            if lost is not None:
                await self._remove_coverage(lost, f"the newest trade ({show(newest_ns)})")
        if self._error is not None:
            raise self._error

    async def _download_pages(self, stored_ns: int | None) -> FirstId | None:
        """Request page after page, until the range or the history ends.

        Args:
            stored_ns: the time of the last stored trade before the range; None if there is none.

        Returns:
            The first trade with an id after the range, if it was shown.

        Raises:
            Interrupted: the run was cancelled.
            ExchangeError: the exchange can't be reached, refuses, or contradicts itself.
            TradesSkipped: answers skip trades that the exchange shows by now.
        """
        while True:
            merger = self._merger
            page = await self._next_page()
            step = merger.join(page.rows, page.cursor_ns, page.unit_ns, self._range.through)
            self._buffer.cursor = page.last or self._buffer.cursor
            if step.before.num_rows and self._left is None:
                self._ids.continue_after_uncovered(step.before)
            if step.result in (JoinResult.ADVANCED, JoinResult.REACHED_END):
                self._pages.conflicts = 0
                await self._add(*await self._ids.check(step.rows, page.unit_ns))
                reached_ns = min(self._range.through, merger.last_ns or self._range.through)
                trades, pages = self._download.trades, self._pages.requested
                self._listener(PageRead(self._pair, trades, pages, reached_ns))
                if step.result is JoinResult.REACHED_END:
                    return step.beyond
            elif step.result is JoinResult.NO_NEW_ROWS:
                if await self._is_end_of_history(stored_ns):
                    await self._add(*await self._ids.check(merger.finish(), page.unit_ns))
                    return None
            elif step.result is JoinResult.MISSING_OVERLAP:
                self._pages.record_conflict("a page does not show the last trade before it")
            elif step.result is JoinResult.UNPROVEN_END:
                self._pages.record_conflict("no two answers agree about the end of a range")
            elif step.result is JoinResult.TIMESTAMP_FULL:
                self._merger = await self._skip_timestamp(merger)
                self._left = None

    async def _is_end_of_history(self, stored_ns: int | None) -> bool:
        context, archive, through = self._download.context, self._archive, self._range.through
        last_ns, after = self._merger.last_ns, self._range.after
        if await self._pages.is_end_of_history(last_ns, after, stored_ns, self._left):
            newest = self._pages.newest_rows
            settled = context.clock.settled_ns(self._download.request.pair)
            settled_ns = await context.options.cancel.guard(settled)
            if (archive.last_time(self._pair, settled_ns) or 0) > through:
                # A trade after the range that its ids continue is one that the exchange took back.
                last_id = find_gaps(None, sort_rows(newest))[1] if newest is not None else None
                following = archive.first_id_after(self._pair, through)
                if last_id is None or following is None or gap_at_end(last_id, following):
                    self._pages.record_conflict("the newest page ends before stored trades")
                    return False
            # The newest page may show more trades of the last time than the page before it did.
            if newest is None or not self._merger.add_newest_page(newest):
                return True
            self._pages.record_conflict("the newest page shows more trades of the last time")
        return False

    async def _next_page(self) -> TradesPage:
        """The next page; the first one only once more than a single answer proves it."""
        merger, left = self._merger, self._left
        if self._pages.conflicts > 1:
            merger.page_within_timestamp()
        since_ns = merger.next_since()
        page = await self._pages.page(since_ns)
        is_first = merger.last_ns is None and not merger.unproven.num_rows
        if not is_first or merger.is_too_coarse(page.unit_ns):
            return page
        page, known_gap = await prove_first_page(self._pages, page, since_ns, merger.after, left)
        if known_gap is not None:
            self._ids.begin_at(left, known_gap=known_gap)
        elif left == BEFORE_FIRST_ID and page.rows.num_rows and not has_id(sort_rows(page.rows)):
            self._ids.begin_at(None)
        elif left is not None and left.trade_id == 0 and left.rows_without_id:
            rows = clip(sort_rows(page.rows), Range(merger.after, END_OF_TIME))
            left, gap = await last_id_of_imports(self._pages, rows, left)
            self._ids.begin_at(left, is_imported=True)
            self._ids.confirmed += [gap] if gap else []
        return page

    async def _skip_timestamp(self, merger: PageMerger) -> PageMerger:
        """Leave a gap at a time whose trades can't be had completely, and go on after it."""
        skipped_ns, cursor_ns, tries = self._skip
        # A place that was skipped before is not tried again, so that each request goes further.
        if merger.last_ns is not None and merger.last_ns > skipped_ns:
            skipped_ns, cursor_ns, tries = merger.last_ns, merger.cursor or merger.last_ns, 0
            # The trades before the range, from which a page is requested, may be such, too.
            if skipped_ns > self._range.after:
                what = f"more trades share the time {show(skipped_ns)} than a page can show"
                text = f"{what}: they are left out as a gap, and the download continues after them"
                self._listener(Noted(self._pair, text))
                await self._add(await self._ids.close(None), skipped_ns - 1)
                await self._await_flush()
                await self._buffer.flush()
                self._ids.begin_at(None)
        # An exclusive `since` gets on with `cursor_ns`, an inclusive one with `cursor_ns + 1`.
        since_ns = cursor_ns + tries
        if tries > 1:
            # A page that begins at `since_ns` may lack trades that are printed later by a unit.
            since_ns = skipped_ns + merger.finest_ns * 4**tries
            skipped_ns = since_ns + merger.finest_ns
        self._skip = SkipState(skipped_ns, cursor_ns, tries + 1)
        after = max(skipped_ns, self._range.after)
        self._download.trades -= self._buffer.rows
        self._buffer.skip_to(after)
        return PageMerger(after, first_since=since_ns)

    async def _add(self, rows: pa.RecordBatch, complete_ns: int) -> None:
        """Buffer certain trades; start a segment if enough of them wait, or for long enough."""
        ids, buffer = self._ids, self._buffer
        if ids.lost:
            await self._remove_lost_ranges()
        self._download.trades += rows.num_rows
        if ids.confirmed or ids.unconfirmed or ids.across_imports:
            buffer.note(ids.confirmed, ids.unconfirmed, ids.across_imports)
            ids.confirmed, ids.unconfirmed, ids.across_imports = [], [], []
        buffer.add(rows, complete_ns)
        if self._flushing is not None and self._flushing.done():
            await self._await_flush()
        if buffer.rows >= self._flush_rows or buffer.age_s() >= self._flush_s:
            if self._flushing is not None and buffer.rows >= MAX_OVERFILL * self._flush_rows:
                await self._await_flush()
            if self._flushing is None:
                # In the background: writing never delays the next request.
                self._flushing = asyncio.create_task(buffer.flush())
        await self._memory.flush_if_needed()

    async def _await_flush(self) -> None:
        if self._flushing is not None:
            task, self._flushing = self._flushing, None
            await task

    async def _flush_while_waiting(self, done: asyncio.Event) -> None:
        """Write buffered trades in time also while the exchange does not answer."""
        flush_s = self._flush_s
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

    async def _remove_lost_ranges(self) -> None:
        """Make a gap of each range that turned out to lack trades, before anything is committed.

        So after a crash at any time either the gap is recorded, or the place is found again.
        """
        losses, self._ids.lost = self._ids.lost, []
        for gap, lost in losses:
            what = f"trades between ids {gap.after_id} and {gap.before_id}"
            sides = [
                Range(gap.after_ns, self._range.after),
                Range(self._range.through, gap.before_ns),
            ]
            for side in sides if self._has_imports else []:
                path = self._archive.imported_in(self._pair, side)
                if path:
                    self._error = self._error or ImportIncomplete(
                        f"{self._pair}: {what} are not in {path}, which was imported: "
                        f"`harvester backfill {self._pair} --replace-imported` downloads imported "
                        "ranges again",
                        *side,
                    )
                    break
            else:
                await self._remove_coverage(lost, what)

    async def _remove_coverage(self, lost: Range, what: str) -> None:
        """Make a gap of a covered range that lacks trades; where that can't be, keep the error.

        Args:
            lost: the range.
            what: the trades that are missing, for messages.
        """
        # Until this download has ended, rows of its own range are not all committed.
        is_own = not self._is_closed and overlap(lost, self._range) is not None
        gaps = [] if is_own else await self._buffer.remove_coverage(self._remove_from_writer, lost)
        if not gaps:
            self._error = self._error or ArchiveDamaged(
                f"{self._pair}: {lost} lacks {what}: "
                f"`harvester verify {self._pair} --repair` downloads them"
            )
            return
        self._download.lost += [gap.range for gap in gaps]
        copies = ", ".join(gap.copy for gap in gaps if gap.copy)
        kept = f" (imported trades of it are kept in {copies})" if copies else ""
        text = f"{lost} lacked {what}{kept}: it is a gap now, and is downloaded again"
        self._listener(Noted(self._pair, text))

    def _continue_left_side(self) -> int | None:
        """Continue the ids that are stored before the range.

        Returns:
            The time of the last trade there; of an imported one the earliest time it can have. None
            if there is no trade.
        """
        archive, pair, after = self._archive, self._pair, self._range.after
        last_ns = archive.last_time(pair, after)
        self._left = archive.last_id_before(pair, after)
        if self._left is None:
            covered = [part for part in archive.coverage(pair) if part.through == after]
            is_empty = bool(covered) and covered[0].after == 0 and last_ns is None
            self._left = BEFORE_FIRST_ID if after == 0 or is_empty else None
            if self._has_imports and covered and covered[0].after == 0 and not is_empty:
                self._left = archive.imported_from_first(pair, after)
        is_imported = False
        if self._has_imports:
            since_ns = self._left.time_ns if self._left is not None else after
            is_imported = bool(archive.imported_in(pair, Range(since_ns, after)))
            if last_ns is not None and archive.is_imported_at(pair, last_ns):
                last_ns -= SECOND
        left = self._left
        if left is not None and left.trade_id and left.time_ns > after - LONGEST_ROUNDING_NS:
            near = Range(max(0, after - LONGEST_ROUNDING_NS), after)
            self._merger.stored = archive.identities_in(pair, near)
        self._ids.begin_at(self._left, is_imported=is_imported)
        return last_ns

    def _without_stored(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The last rows of the range, without trades that are stored just after it.

        Another form of times prints them before its end.
        """
        through = self._range.through
        near = Range(through, through + LONGEST_ROUNDING_NS)
        stored = self._archive.identities_in(self._pair, near)
        last = identities(clip(rows, Range(through - LONGEST_ROUNDING_NS, through)))
        count = len([*takewhile(stored.__contains__, reversed(last))])
        return rows.slice(0, rows.num_rows - count)

    def _range_without_newest(self, newest_ns: int) -> Range | None:
        """The covered range before the exchange's newest trade, if no trade of that time is stored.

        Where the pair is quiet, nothing else shows that a trade came later than it should: no id
        follows it. None if the time is not covered, or a trade of it is stored.
        """
        archive, pair = self._archive, self._pair
        last_ns = archive.last_time(pair, newest_ns)
        if last_ns == newest_ns or not archive.pieces(pair, Range(newest_ns - 1, newest_ns)):
            return None
        if self._has_imports and archive.is_imported_at(pair, newest_ns):
            # Imported times are whole seconds: the trade may be stored with the second next to it.
            near_ns = archive.last_time(pair, newest_ns + SECOND) or 0
            if near_ns > newest_ns - SECOND:
                return None
        parts = archive.coverage(pair)
        covered = next(part for part in parts if part.after < newest_ns <= part.through)
        last = archive.last_id_before(pair, covered.through)
        if last is not None and last.is_newest(self._pages.newest_id, newest_ns):
            return None
        return Range(max(last_ns or 0, covered.after), newest_ns)
