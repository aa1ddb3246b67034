"""A hole beside what a file told: does a trade of the second where they meet stand on both sides?

A file's times are whole seconds, rounded one way or the other, and its ranges end just before one.
A trade of the second before may bear the next one's number in the file. Where the file goes on with
that second, the hole shows the trade again; where that second lies in the hole, neither does. An
import draws its boundaries at quiet moments, where no trade can be so. But a file's segments touch
where a year turns as well; and one of them may be lost, and fetched from the exchange.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from harvester.archive.archive import Archive
from harvester.archive.torn import Together, note, noted
from harvester.archive.writer import Writer
from harvester.crawl.crawler import imported_in
from harvester.crawl.pages import Page
from harvester.times import SECOND, Range, covers

TIMES_ASKED = 2
"""An answer may leave trades out."""

Trades = Counter[tuple[Decimal, Decimal]]


class Beside:
    """The ends of a hole that is to be fetched."""

    def __init__(self, archive: Archive, writer: Writer, hole: Range) -> None:
        """`writer` is of the pair; its lock is held."""
        self._archive = archive
        self._writer = writer
        self._hole = hole

    async def begin(self, page: Callable[[int], Awaitable[Page]]) -> None:
        """Put on record where trades may come to stand twice, or not at all, before they do.

        Raises:
            ExchangeError: it can't be asked.
            ArchiveUnwritable: the machine refused.
        """
        after, through = self._hole
        second = Range(after - SECOND, after)
        if self._is_file(second._replace(after=after - 1)):
            shown = await self._shown(second, page)
            told = await asyncio.to_thread(self._held, second)
            if shown - told:
                self._note(Together((second, Range(after, after + 1)), compared=False))
        first = Range(through, through + 1)
        if self._is_file(first):
            told = await asyncio.to_thread(self._held, first)
            if told:
                self._note(self._at_end)

    def end(self) -> None:
        """Once its end is fetched: what proved to stand on one side only is on record no more.

        Raises:
            ArchiveUnwritable: the machine refused.
        """
        through, begun = self._hole.through, self._noted()
        last = Range(through - SECOND, through)
        if self._at_end in begun and covers(self._archive.coverage(self._writer.pair), last):
            fetched = self._held(last)
            if not fetched & self._held(Range(through, through + 1)):
                begun.remove(self._at_end)
                note(self._archive.store, self._writer.pair, begun)

    @property
    def _at_end(self) -> Together:
        through = self._hole.through
        ranges = Range(through - 1, through), Range(through, through + SECOND)
        return Together(ranges, compared=False)

    def _noted(self) -> list[Together]:
        return noted(self._archive.store, self._writer.pair)

    def _note(self, one: Together) -> None:
        note(self._archive.store, self._writer.pair, [*self._noted(), one])

    def _is_file(self, span: Range) -> bool:
        return bool(imported_in(self._archive, self._writer.pair, span))

    def _held(self, span: Range) -> Trades:
        """What the archive holds of a span."""
        return _count(self._archive.scan(self._writer.pair, span))

    async def _shown(self, span: Range, page: Callable[[int], Awaitable[Page]]) -> Trades:
        """What the exchange shows of a span: of two answers the more."""
        shown = Trades()
        for _ in range(TIMES_ASKED):
            rows = (await page(span.after)).rows
            stamps = rows.column("time").cast(pa.int64())
            inside = pc.and_(pc.greater(stamps, span.after), pc.less_equal(stamps, span.through))
            shown |= _count([rows.filter(inside)])
        return shown


def _count(batches: Iterable[pa.RecordBatch]) -> Trades:
    found = Trades()
    for batch in batches:
        found.update(
            zip(batch.column("price").to_pylist(), batch.column("volume").to_pylist(), strict=True)
        )
    return found
