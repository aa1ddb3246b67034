"""Download one missing range of one pair: page loop, flushes, boundary checks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from harvester.download.buffer import MemoryBudget, WriteBuffer
from harvester.download.estimate import WEEK
from harvester.download.events import CancelToken, DownloadCounts, Noted
from harvester.download.id_check import FirstPageCheck, IdContinuityChecker, has_id
from harvester.download.page_merge import LEAST_MARGIN_NS, JoinResult, Page, PageMerger, PageSource
from harvester.errors import ArchiveDamaged, ImportIncomplete, Interrupted
from harvester.schema import sort_rows, times, trade_ids
from harvester.storage.trade_store import EVERYTHING, TradeStore
from harvester.times import SECOND, Range, overlap, show
from harvester.trade_ids import BEFORE_FIRST_ID, LastId

# --- spans ----------------------------------------------------------------------------------------


class SplitPoint(NamedTuple):
    """A place between two trades where one span ends and the next begins.

    Attributes:
        at: the published time of the trade before it; the next span is everything after it.
        left: what the next span goes on from: that trade's id, the rows without one behind it,
            and its time. None where ids do not tell that the two are neighbours.
        right: what the first span must end before: the next trade's id, and the rows without one
            before it. None likewise.
    """

    at: int
    left: tuple[int, int, int] | None
    right: tuple[int, int] | None


def middle(span: Range, weeks: list[tuple[int, int]]) -> int:
    """The moment with about half of a range's trades on either side.

    Args:
        span: to be cut.
        weeks: trades a week, (open time in ns, count), in order; within a week they are taken to
            be evenly spread. Where they know nothing of the span, it is the middle of the time.
    """
    parts = []
    for opened, count in weeks:
        start, end = max(span.after, opened), min(span.through, opened + WEEK)
        if end > start and count:
            parts.append((start, end, count * (end - start) / WEEK))
    half = sum(trades for *_, trades in parts) / 2
    for start, end, trades in parts:
        if trades >= half:
            return start + round((end - start) * half / trades)
        half -= trades
    return (span.after + span.through) // 2


def cut_between(rows: pa.RecordBatch, within: Range) -> SplitPoint | None:
    """The first place of a page where the tape can be cut in two, both sides known.

    Two trades of different times whose ids go on by one are neighbours for sure: whatever a page
    leaves out, the span that ends there and the one that begins there know the other's edge. Only
    where a page bears no such pair, any two times do, and the seam rests on its overlap alone.

    Args:
        rows: as the exchange sent them, in any order.
        within: only trades in this range are looked at.
    """
    rows = sort_rows(rows) if rows.num_rows else rows
    stamps, ids = times(rows), trade_ids(rows)
    apart = (
        (stamps[:-1] < stamps[1:]) & (stamps[:-1] > within.after) & (stamps[1:] < within.through)
    )
    sure = apart & (ids[:-1] > 0) & (np.diff(ids) == 1)
    for places, known in ((sure.nonzero()[0], True), (apart.nonzero()[0], False)):
        if len(places):
            at, number = int(stamps[places[0]]), int(ids[places[0]])
            return (
                SplitPoint(at, (number, 0, at), (number + 1, 0))
                if known
                else SplitPoint(at, None, None)
            )
    return None


# --- crawler --------------------------------------------------------------------------------------

T = TypeVar("T")


MOST_OVER = 1.25
"""So far may trades pile up while a segment is written or merged; only a mirror is ever so fast."""


class Bounds(NamedTuple):
    """What may wait in memory: over all pairs, and of one crawl for how long and how many."""

    backlog: MemoryBudget
    flush_s: float
    flush_rows: int


class RangeDownload:
    """Crawls one missing range of one pair."""

    def __init__(
        self,
        span: Range,
        source: PageSource,
        buffer: WriteBuffer,
        bounds: Bounds,
        stop: CancelToken,
        tally: DownloadCounts,
    ) -> None:
        """The crawl of `span`, whose trades go to `buffer`; nothing is asked yet."""
        self.span = span
        self.after_page: Callable[[RangeDownload], None] = lambda _crawl: None
        """Called with every page that goes on."""
        self._source = source
        self._buffer = buffer
        self._backlog, self._flush_s, self._flush_rows = bounds
        self._stop = stop
        self._tally = tally
        self._listener = tally.listener
        self._seams = IdContinuityChecker(source, tally.pair, span, tally.listener)
        self._tape = PageMerger(span.after)
        self._right: tuple[int, int] | None = None
        self._first_ns: int | None = None
        self._pages_read = 0
        self._is_closing = self._gives_up = self._is_cut = False
        self._flushing: asyncio.Task[None] | None = None
        self._stuck = (0, 0, 0)
        self._is_left_known = False
        self._fault: ArchiveDamaged | None = None
        self._is_closed = False

    def left(self) -> Range:
        """What is still to be fetched."""
        reached = self._tape.last_ns
        return Range(self.span.after if reached is None else reached, self.span.through)

    def pages_left(self) -> float:
        """How many more pages that is likely to take, by the trades so far."""
        if self._first_ns is None or self._tape.last_ns is None or self._is_closing:
            return 0.0
        left, passed_ns = self.left(), self._tape.last_ns - self._first_ns
        return self._pages_read * (left.through - left.after) / max(1, passed_ns)

    def shorten(self, cut: SplitPoint) -> bool:
        """End at a cut: what lies behind it is another's. False where it is too late for that."""
        reached = self._tape.last_ns
        if self._is_closing or reached is None or reached >= cut.at:
            return False
        self.span = self._seams.span = Range(self.span.after, cut.at)
        self._right, self._is_cut = cut.right, True
        return True

    def give_up(self) -> None:
        """End with the page that is under way; what was fetched whole is committed."""
        self._gives_up = True

    async def run(self, archive: TradeStore, pair: str, cut: SplitPoint | None = None) -> None:
        """Fetch the span whole.

        Whatever ends it early, what was fetched whole before is committed.

        Args:
            archive: holds the neighbours whose ids the seams are checked against.
            pair: altname.
            cut: where the span begins behind a trade that the archive does not hold yet.
        """
        self._backlog.enter(self._buffer)
        done, whole = asyncio.Event(), False
        tending = asyncio.create_task(self._tend(done))
        try:
            seams = self._seams
            left = _left_edge(archive, pair, self.span.after, cut)
            is_file = bool(
                left and imported_in(archive, pair, Range(left.time_ns, self.span.after))
            )
            self._is_left_known = left is not None
            seams.begin_at(left, is_file=is_file)
            known_ns = cut.at if cut else _last_known(archive, pair, self.span.after)
            beyond = await self._pages(archive, pair, known_ns, left)
            self._is_closing = True
            through = self.span.through
            held = self._right or archive.first_id_after(pair, through)
            is_file = self._right is None and bool(
                imported_in(archive, pair, _before_an_id(archive, pair, through))
            )
            rows = await seams.close(
                held or beyond,
                self._ask,
                is_file=is_file,
                is_held=bool(held) or self._is_cut,
            )
            await self._uncover_losses(archive, pair)
            await self._hand_on(rows, through)
            whole = True
        finally:
            self._is_closing = True
            self._tally.leave(self)
            self._backlog.leave(self._buffer)
            done.set()
            await tending
            await self._settle_flushing()
            await self._buffer.flush(final=whole)
        if self._fault is not None:
            raise self._fault
        self._is_closed = True
        await self._uncover_before_newest(archive, pair)

    async def _pages(
        self, archive: TradeStore, pair: str, known_ns: int | None, left: LastId | None
    ) -> tuple[int, int] | None:
        """Ask page after page, until the span or the market ends.

        Returns the first id behind the span, and the rows without one before it, where shown.
        """
        while True:
            if self._gives_up:
                raise Interrupted("interrupted; the same command goes on where it stopped")
            tape = self._tape
            page = await self._ask(self._next_page(left))
            step = tape.join(page.rows, page.cursor_ns, page.unit_ns, self.span.through)
            self._buffer.note(page.last, [])
            if step.before.num_rows and not self._is_left_known:
                self._seams.pass_over(step.before)
            if step.verdict in (JoinResult.ADVANCED, JoinResult.PAST):
                self._source.agreed()
                await self._check(archive, step.rows, page)
                self._tell(step.rows)
                if step.verdict is JoinResult.PAST:
                    return step.beyond
                self.after_page(self)
            elif step.verdict is JoinResult.QUIET:
                if await self._is_at_head(tape, known_ns):
                    await self._check(archive, tape.finish(), page)
                    return None
            elif step.verdict is JoinResult.STALE:
                self._source.contradicted("a page does not show the last trade held")
            elif step.verdict is JoinResult.STAMP_FULL:
                self._tape, left = await self._step_beyond(tape, archive, pair), None
                self._is_left_known = False

    async def _is_at_head(self, tape: PageMerger, known_ns: int | None) -> bool:
        if await self._ask(self._source.at_head(tape.last_ns, self.span.after, known_ns)):
            # The newest page may show more trades of the last time than the page before it did.
            newest = self._source.newest
            if newest is None or not tape.lacks(newest):
                return True
            self._source.contradicted("the newest page shows more trades of the last time")
        if self._source.in_doubt:
            tape.squeeze()
        return False

    async def _next_page(self, left: LastId | None) -> Page:
        """The next page; the first one only once more than a single answer vouches for it."""
        since_ns = self._tape.next_since()
        page = await self._source.page(since_ns)
        if self._tape.last_ns is not None or self._tape.is_too_coarse(page.unit_ns):
            return page
        beginning = FirstPageCheck(self._source, self._tape.after, left)
        page = await beginning.prove(page, since_ns)
        if beginning.confirmed is not None:
            self._seams.begin_at(left, confirmed=beginning.confirmed)
        elif left == BEFORE_FIRST_ID and page.rows.num_rows and not has_id(sort_rows(page.rows)):
            self._seams.begin_at(None)
        return page

    async def _uncover_losses(self, archive: TradeStore, pair: str) -> None:
        """Make a gap of each range that turned out to lack trades, before anything is committed.

        So a crash at any moment leaves the gap on record, or the place to be found again.
        """
        losses, self._seams.lost = self._seams.lost, []
        for gap, lost in losses:
            what = f"trades between ids {gap.after_id} and {gap.before_id}"
            beside = (
                Range(gap.after_ns, self.span.after),
                Range(self.span.through, gap.before_ns),
            )
            path = next((found for one in beside if (found := imported_in(archive, pair, one))), "")
            if path:
                where = next(one for one in beside if imported_in(archive, pair, one))
                self._fault = self._fault or ImportIncomplete(
                    f"{pair}: {what} are not in {path}, which came from a file: "
                    f"`harvester backfill {pair} --upgrade` fetches anew what did",
                    *where,
                )
            else:
                await self._uncover(archive, pair, lost, what)

    async def _uncover(self, archive: TradeStore, pair: str, lost: Range, what: str) -> None:
        # Until this crawl has ended, rows of its own range are not all committed.
        is_own = not self._is_closed and overlap(lost, self.span) is not None
        if is_own or not self._buffer.writes_to(archive) or not await self._buffer.uncover(lost):
            self._fault = self._fault or ArchiveDamaged(
                f"{pair}: {what} are missing from {lost}: `harvester verify {pair} --repair` "
                "downloads them"
            )
            return
        self._tally.lost.append(lost)
        text = f"{what} were missing from {lost}, which is a gap now and is downloaded again"
        self._listener(Noted(pair, text))

    async def _uncover_before_newest(self, archive: TradeStore, pair: str) -> None:
        """Make a gap of the time before the newest trade, where that one is not stored."""
        newest_ns = self._source.newest_ns
        if newest_ns is None or not _lacks(archive, pair, newest_ns):
            return
        covered = next(
            one for one in archive.coverage(pair) if one.after < newest_ns <= one.through
        )
        last_ns = archive.last_time(pair, newest_ns) or 0
        lost = Range(max(last_ns, covered.after), newest_ns)
        await self._uncover(archive, pair, lost, f"the newest trade, of {show(newest_ns)},")
        if self._fault is not None:
            raise self._fault

    async def _check(self, archive: TradeStore, rows: pa.RecordBatch, page: Page) -> None:
        sure, whole = await self._seams.take(rows, page.unit_ns, self._ask)
        if self._seams.lost:
            await self._uncover_losses(archive, self._tally.pair)
        await self._hand_on(sure, whole)

    async def _hand_on(self, rows: pa.RecordBatch, whole_through: int) -> None:
        seams = self._seams
        self._tally.trades += rows.num_rows
        self._buffer.note(None, seams.jumps, seams.unasked, seams.across_files)
        seams.jumps, seams.unasked, seams.across_files = [], [], []
        self._buffer.add(rows, whole_through)
        if self._flushing is not None and self._flushing.done():
            await self._settle_flushing()
        if self._buffer.rows >= self._flush_rows or self._buffer.age_s() >= self._flush_s:
            if self._flushing is not None and self._buffer.rows >= MOST_OVER * self._flush_rows:
                await self._settle_flushing()
            if self._flushing is None:
                # In the background: writing never holds up the next request.
                self._flushing = asyncio.create_task(self._buffer.flush())
        await self._backlog.relieve()

    async def _settle_flushing(self) -> None:
        if self._flushing is not None:
            task, self._flushing = self._flushing, None
            await task

    async def _ask(self, work: Awaitable[T]) -> T:
        return await self._stop.guard(work)

    async def _tend(self, done: asyncio.Event) -> None:
        """While the exchange keeps us waiting, what was fetched does not wait with us."""
        while not done.is_set():
            try:
                async with asyncio.timeout(self._flush_s / 2):
                    await done.wait()
            except TimeoutError:
                if self._buffer.age_s() >= self._flush_s:
                    try:
                        await self._buffer.flush()
                    except Exception as fault:  # noqa: BLE001 - it ends the crawl, not this alone
                        self._buffer.fail(fault)

    async def _step_beyond(self, tape: PageMerger, archive: TradeStore, pair: str) -> PageMerger:
        """Leave a stamp that can't be had whole as a gap, and go on behind it."""
        # A place that was left before is not tried again, so that each call goes further.
        if tape.last_ns is not None and tape.last_ns > self._stuck[0]:
            stamp, cursor, tries = tape.last_ns, tape.cursor or tape.last_ns, 0
            text = (
                f"more trades bear the time {show(stamp)} than a page can show: they are left "
                "out as a gap, and the crawl goes on behind them"
            )
            self._listener(Noted(pair, text))
            rows = await self._seams.close(None, self._ask)
            await self._uncover_losses(archive, pair)
            await self._hand_on(rows, stamp - 1)
            await self._settle_flushing()
            await self._buffer.flush()
            self._seams.begin_at(None)
        else:
            stamp, cursor, tries = self._stuck
        # An exclusive `since` goes on behind the cursor, an inclusive one behind its successor.
        since = cursor + tries
        if tries > 1:
            since = stamp + LEAST_MARGIN_NS * 4**tries
            stamp = since + LEAST_MARGIN_NS
        self._stuck = (stamp, cursor, tries + 1)
        self._buffer.skip_to(stamp)
        return PageMerger(stamp, first_since=since)

    def _tell(self, rows: pa.RecordBatch) -> None:
        if self._first_ns is None and rows.num_rows:
            self._first_ns = int(times(rows)[0])
        self._pages_read += 1
        reached, end = self._tape.last_ns, self.span.through
        self._tally.read(self, end if reached is None else min(end, reached))


def _left_edge(archive: TradeStore, pair: str, after: int, cut: SplitPoint | None) -> LastId | None:
    """The last trade with an id before a range; None where nothing tells of it."""
    if cut is not None:
        return LastId(*cut.left) if cut.left else None
    found = archive.last_id_before(pair, after)
    if found is not None:
        return LastId(*found)
    covered = [one for one in archive.coverage(pair) if one.through == after]
    is_empty = bool(covered) and covered[0].after == 0 and archive.last_time(pair, after) is None
    return BEFORE_FIRST_ID if after == 0 or is_empty else None


def _lacks(archive: TradeStore, pair: str, stamp_ns: int) -> bool:
    """Whether a stamp is covered and no trade of it is held.

    At a quiet head nothing else would tell of a trade that came later than it should: no id
    follows it.
    """
    pieces = archive.pieces(pair, Range(stamp_ns - 1, stamp_ns))
    if not pieces or archive.last_time(pair, stamp_ns) == stamp_ns:
        return False
    return not (
        archive.is_imported(pair, stamp_ns)
        and (archive.last_time(pair, stamp_ns + SECOND) or 0) > stamp_ns - SECOND
    )


def _last_known(archive: TradeStore, pair: str, moment: int) -> int | None:
    """The time of the last trade held at or before a moment; of a file's, the least it can be."""
    known = archive.last_time(pair, moment)
    if known is None:
        return None
    return known - SECOND if archive.is_imported(pair, known) else known


def _before_an_id(archive: TradeStore, pair: str, moment: int) -> Range:
    """From a moment on, all in which no id shows whether a trade is missing, as far as is held."""
    at = moment
    for segment, within in archive.pieces(pair, Range(moment, EVERYTHING.through)):
        if within.after != at:
            break
        footer, bounds = archive.footer(segment), archive.bounds(segment)
        if footer.lead == 0 and bounds is not None and bounds[0] > at:
            return Range(moment, bounds[0])
        at = within.through
        if footer.first_trade_id is not None:
            break
    return Range(moment, at)


def imported_in(archive: TradeStore, pair: str, span: Range) -> str:
    """The first segment that tells of a span what a file told; empty for none."""
    for piece in archive.pieces(pair, span) if span.after < span.through else []:
        for one in archive.footer(piece.segment).imported:
            if overlap(Range(one.after, one.through), piece.within):
                return archive.location(piece.segment)
    return ""
