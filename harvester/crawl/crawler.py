"""One range of one pair, from its first page to its last segment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pyarrow as pa

from harvester.archive.archive import Archive
from harvester.crawl.buffer import Backlog, Buffer
from harvester.crawl.events import Listener, Noted, PageRead
from harvester.crawl.pages import Page, Source
from harvester.crawl.seams import Seams
from harvester.crawl.stop import Stop
from harvester.crawl.tape import LEAST_MARGIN_NS, Tape, Verdict
from harvester.errors import ArchiveDamaged
from harvester.times import Range, show

T = TypeVar("T")


MOST_OVER = 1.25
"""So far may trades pile up while a segment is written or merged; only a mirror is ever so fast."""


class RangeCrawl:
    """Crawls one missing range of one pair."""

    def __init__(
        self,
        source: Source,
        buffer: Buffer,
        backlog: Backlog,
        flush: tuple[float, int],
        stop: Stop,
        listener: Listener,
    ) -> None:
        """`flush`: trades wait no longer than so many seconds, and no more than so many."""
        self._source = source
        self._buffer = buffer
        self._backlog = backlog
        self._flush_s, self._flush_rows = flush
        self._stop = stop
        self._listener = listener
        self._flushing: asyncio.Task[None] | None = None
        self._stuck = (0, 0, 0)
        self.trades = 0

    async def run(self, archive: Archive, pair: str, span: Range) -> None:
        """Fetch `span` whole.

        Whatever ends it early, what was fetched whole before is committed.

        Args:
            archive: holds the neighbours whose ids the seams are checked against.
            pair: altname.
            span: the missing range.
        """
        self._backlog.enter(self._buffer)
        done, whole = asyncio.Event(), False
        tending = asyncio.create_task(self._tend(done))
        try:
            seams = Seams(self._source, pair, span, self._listener)
            seams.begin_at(archive.last_id_before(pair, span.after))
            known = archive.last_time(pair, span.after)
            beyond = await self._pages(seams, pair, span, known)
            right = archive.first_id_behind(pair, span.through) or beyond
            await self._hand_on(await seams.close(right, self._ask), span.through, seams)
            whole = True
        finally:
            self._backlog.leave(self._buffer)
            done.set()
            await tending
            await self._settle_flushing()
            await self._buffer.flush(final=whole)
        if seams.outside:
            gap = seams.outside[0]
            what = f"trades between ids {gap.after_id} and {gap.before_id} were left out of"
            raise ArchiveDamaged(_left_out(archive, pair, what, gap.after_ns))
        newest_ns = self._source.newest_ns
        if newest_ns is not None and _lacks(archive, pair, newest_ns):
            what = f"the newest trade, of {show(newest_ns)}, is not in"
            raise ArchiveDamaged(_left_out(archive, pair, what, newest_ns - 1))

    async def _pages(
        self, seams: Seams, pair: str, span: Range, known_ns: int | None
    ) -> tuple[int, int] | None:
        """Ask page after page, until the span or the market ends.

        Returns the first id behind the span, and the rows without one before it, where shown.
        """
        tape = Tape(span.after)
        while True:
            page = await self._ask(self._source.page(tape.next_since()))
            step = tape.join(page.rows, page.cursor_ns, page.unit_ns, span.through)
            self._buffer.note(page.last, [])
            if step.verdict in (Verdict.ADVANCED, Verdict.PAST):
                self._source.agreed()
                await self._check(step.rows, page, seams)
                self._tell(pair, tape, span.through)
                if step.verdict is Verdict.PAST:
                    return step.beyond
            elif step.verdict is Verdict.QUIET:
                if await self._ask(self._source.at_head(tape.last_ns, span.after, known_ns)):
                    await self._check(tape.finish(), page, seams)
                    return None
                if self._source.in_doubt:
                    tape.squeeze()
            elif step.verdict is Verdict.STALE:
                self._source.contradicted("a page does not show the last trade held")
            elif step.verdict is Verdict.STAMP_FULL:
                tape = await self._step_beyond(tape, pair, seams)

    async def _check(self, rows: pa.RecordBatch, page: Page, seams: Seams) -> None:
        sure, whole = await seams.take(rows, page.unit_ns, self._ask)
        await self._hand_on(sure, whole, seams)

    async def _hand_on(self, rows: pa.RecordBatch, whole_through: int, seams: Seams) -> None:
        self.trades += rows.num_rows
        self._buffer.note(None, seams.jumps, seams.unasked)
        seams.jumps, seams.unasked = [], 0
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
                    await self._buffer.flush()

    async def _step_beyond(self, tape: Tape, pair: str, seams: Seams) -> Tape:
        """Leave a stamp that can't be had whole as a hole, and go on behind it."""
        if tape.last_ns is not None:
            stamp, cursor, tries = tape.last_ns, tape.cursor or tape.last_ns, 0
            text = (
                f"more trades bear the time {show(stamp)} than a page can show: they are left "
                "out as a hole, and the crawl goes on behind them"
            )
            self._listener(Noted(pair, text))
            await self._hand_on(await seams.close(None, self._ask), stamp - 1, seams)
            await self._settle_flushing()
            await self._buffer.flush()
            seams.begin_at(None)
        else:
            stamp, cursor, tries = self._stuck
        # An exclusive `since` goes on behind the cursor, an inclusive one behind its successor.
        since = cursor + tries
        if tries > 1:
            since = stamp + LEAST_MARGIN_NS * 4**tries
            stamp = since + LEAST_MARGIN_NS
        self._stuck = (stamp, cursor, tries + 1)
        self._buffer.skip_to(stamp)
        return Tape(stamp, first_since=since)

    def _tell(self, pair: str, tape: Tape, end: int) -> None:
        reached = end if tape.last_ns is None else min(end, tape.last_ns)
        self._listener(PageRead(pair, self.trades, self._source.pages, reached))


def _lacks(archive: Archive, pair: str, stamp_ns: int) -> bool:
    """Whether a stamp is covered and no trade of it is held.

    At a quiet head nothing else would tell of a trade that came later than it should: no id
    follows it.
    """
    covered = any(one.after < stamp_ns <= one.through for one in archive.coverage(pair))
    return covered and archive.last_time(pair, stamp_ns) != stamp_ns


def _left_out(archive: Archive, pair: str, what: str, before_ns: int) -> str:
    piece = next(iter(archive.pieces(pair, Range(before_ns, before_ns + 1))), None)
    where = archive.location(piece.segment) if piece else f"the range behind {show(before_ns)}"
    return f"{pair}: {what} {where}: remove it, and run the same command again"
