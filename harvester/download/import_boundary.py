"""Ambiguous boundaries between imported and downloaded trades."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal

import numpy as np
import pyarrow as pa

from harvester.download.page_merge import Page
from harvester.download.range import imported_in
from harvester.kraken.trades import PAGE_ROWS
from harvester.schema import times
from harvester.storage.replacement_staging import AtomicReplacement, note, noted
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import SECOND, UNITS_NS, Range, covers

# --- beside ---------------------------------------------------------------------------------------

# A file's times are whole seconds, rounded one way or the other, and its ranges end just before
# one. A trade of the second before may bear the next one's number in the file. Where the file
# goes on with that second, the gap shows the trade again; where that second lies in the gap,
# neither does. An import draws its boundaries at quiet moments, where no trade can be so. But a
# file's segments touch where a year turns as well; and one of them may be lost, and fetched from
# the exchange.

MOST_ASKED, ENOUGH = 3, 2

QUIET_S = 2
LONGEST_BUSY_NS = UNITS_NS["h"]
"""So far back a moment is looked for from which on file and exchange can be counted."""

Trades = Counter[tuple[Decimal, Decimal]]


async def look(writer: Writer, gap: Range, page: Callable[[int], Awaitable[Page]]) -> None:
    """Put on record where trades may come to stand twice, or not at all, before a gap is fetched.

    Args:
        writer: of the pair; its lock is held.
        gap: what is to be fetched.
        page: asks for a page from a stamp on.

    Raises:
        ExchangeError: it can't be asked.
        ArchiveUnwritable: the machine refused.
    """
    archive, pair, (after, through) = writer.archive, writer.pair, gap
    if imported_in(archive, pair, Range(after - 1, after)):
        busy = await asyncio.to_thread(_busy_before, archive, pair, after)
        told = await asyncio.to_thread(_held, archive, pair, busy)
        if not await _agrees(told, busy, page):
            ranges = Range(after - SECOND, after), Range(after, after + 1)
            _note(writer, AtomicReplacement(ranges, compared=False))
    first = Range(through, through + 1)
    if imported_in(archive, pair, first):
        goes_on = await asyncio.to_thread(_held, archive, pair, first)
        if goes_on:
            ranges = Range(through - 1, through), Range(through, through + SECOND)
            _note(writer, AtomicReplacement(ranges, compared=False))


def settle(writer: Writer) -> None:
    """Take off the record where what was fetched in front of a file proved to stand there once.

    Raises:
        ArchiveUnwritable: the machine refused.
    """
    archive, pair = writer.archive, writer.pair
    begun = noted(archive.store, pair)
    left = [one for one in begun if not _stands_once(archive, pair, one)]
    if left != begun:
        note(archive.store, pair, left)


def _stands_once(archive: TradeStore, pair: str, atomic_replacement: AtomicReplacement) -> bool:
    """Whether one of `look`'s second kind is fetched, and no trade of its second is told again."""
    seam = atomic_replacement.ranges[0].through
    last, first = Range(seam - SECOND, seam), Range(seam, seam + 1)
    if atomic_replacement.compared or atomic_replacement.ranges[0] != Range(seam - 1, seam):
        return False
    if not covers(archive.coverage(pair), last) or imported_in(archive, pair, last):
        return False
    return not _held(archive, pair, last) & _held(archive, pair, first)


def _note(writer: Writer, atomic_replacement: AtomicReplacement) -> None:
    note(
        writer.archive.store,
        writer.pair,
        [*noted(writer.archive.store, writer.pair), atomic_replacement],
    )


def _busy_before(archive: TradeStore, pair: str, moment: int) -> Range:
    """From the last moment on around which a file has no trade; an hour at most."""
    window = Range(max(0, moment - LONGEST_BUSY_NS), moment)
    stamps = [times(batch) for batch in archive.scan(pair, window)]
    seconds = np.concatenate([[window.after // SECOND], *(each // SECOND for each in stamps)])
    ends = np.append(seconds, moment // SECOND + 1)
    gaps = (np.diff(ends) > QUIET_S).nonzero()[0]
    if not len(gaps):
        return window
    return Range((int(ends[gaps[-1]]) + QUIET_S) * SECOND - 1, moment)


def _held(archive: TradeStore, pair: str, span: Range) -> Trades:
    """What the archive holds of a span."""
    return _count(archive.scan(pair, span))


async def _agrees(told: Trades, span: Range, page: Callable[[int], Awaitable[Page]]) -> bool:
    """Whether the exchange shows of a span just what a file told, in two answers of three.

    One may be cut short, or come from somewhere else.
    """
    agreed = 0
    for asked in range(1, MOST_ASKED + 1):
        rows = (await page(span.after)).rows
        stamps = times(rows)
        is_whole = len(stamps) < PAGE_ROWS or int(stamps.max()) > span.through
        inside = pa.array((stamps > span.after) & (stamps <= span.through))
        agreed += is_whole and _count([rows.filter(inside)]) == told
        if agreed == ENOUGH or asked - agreed == ENOUGH:
            break
    return agreed == ENOUGH


def _count(batches: Iterable[pa.RecordBatch]) -> Trades:
    found = Trades()
    for batch in batches:
        found.update(
            zip(batch.column("price").to_pylist(), batch.column("volume").to_pylist(), strict=True)
        )
    return found
