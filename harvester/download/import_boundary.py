"""Detect ambiguous boundaries between imported and downloaded trades.

Imported times are rounded to whole seconds, so a trade in the boundary second may be stored twice,
or not at all. Before a missing range next to imported data is downloaded, such boundaries are
recorded, so that `verify` can report them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

import numpy as np
import pyarrow as pa

from harvester.download.exchange import PairPages
from harvester.download.neighbours import imported_in
from harvester.kraken.trades import PAGE_ROWS
from harvester.schema import times
from harvester.storage.replacement_staging import AtomicReplacement, note, noted
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import SECOND, UNITS_NS, Range, covers

# Imported times are whole seconds, rounded one way or the other, and imported ranges end just
# before one. A trade of the second before may have the next second in the file. Where the file
# goes on with that second, the download of the gap brings the trade again; where that second lies
# in the gap, neither has it. An import chooses its boundaries at quiet times, where that can't
# happen. But imported segments touch where a year turns as well; and one of them may be lost, and
# downloaded from the exchange.

MAX_ANSWERS, AGREEING_ANSWERS = 3, 2

QUIET_S = 2

MAX_BUSY_NS = UNITS_NS["h"]
"""So far back a quiet time is looked for, from which on imported and downloaded trades compare."""

Trades = Counter[tuple[Decimal, Decimal]]
"""Trades by price and volume."""


async def flag_ambiguous_boundaries(writer: Writer, gap: Range, pages: PairPages) -> None:
    """Record where trades may be stored twice, or not at all, before a gap is downloaded.

    Args:
        writer: of the pair; its lock is held.
        gap: the range that is about to be downloaded.
        pages: requests pages of the pair.

    Raises:
        ExchangeError: the exchange can't be asked.
        ArchiveUnwritable: the machine refused.
    """
    store, pair, (after, through) = writer.archive, writer.pair, gap
    if imported_in(store, pair, Range(after - 1, after)):
        busy = await asyncio.to_thread(_busy_before, store, pair, after)
        stored = await asyncio.to_thread(_stored_trades, store, pair, busy)
        if not await _agrees(stored, busy, pages):
            _flag(writer, Range(after - SECOND, after), Range(after, after + 1))
    first = Range(through, through + 1)
    if imported_in(store, pair, first):
        continues = await asyncio.to_thread(_stored_trades, store, pair, first)
        if continues:
            _flag(writer, Range(through - 1, through), Range(through, through + SECOND))


def clear_resolved_flags(writer: Writer) -> None:
    """Remove the records of boundaries whose trades turned out to be stored once.

    Raises:
        ArchiveUnwritable: the machine refused.
    """
    store, pair = writer.archive, writer.pair
    recorded = noted(store.store, pair)
    left = [flag for flag in recorded if not _is_resolved(store, pair, flag)]
    if left != recorded:
        note(store.store, pair, left)


def _is_resolved(store: TradeStore, pair: str, flag: AtomicReplacement) -> bool:
    """Whether a flagged gap before imported data is filled, and no trade of its second repeats."""
    boundary = flag.ranges[0].through
    last, first = Range(boundary - SECOND, boundary), Range(boundary, boundary + 1)
    if flag.compared or flag.ranges[0] != Range(boundary - 1, boundary):
        return False
    if not covers(store.coverage(pair), last) or imported_in(store, pair, last):
        return False
    return not _stored_trades(store, pair, last) & _stored_trades(store, pair, first)


def _flag(writer: Writer, *ranges: Range) -> None:
    store, pair = writer.archive.store, writer.pair
    note(store, pair, [*noted(store, pair), AtomicReplacement(ranges, compared=False)])


def _busy_before(store: TradeStore, pair: str, until_ns: int) -> Range:
    """The range from the last quiet time of imported data until a time; an hour at most."""
    window = Range(max(0, until_ns - MAX_BUSY_NS), until_ns)
    stamps = [times(batch) for batch in store.scan(pair, window)]
    seconds = np.concatenate([[window.after // SECOND], *(part // SECOND for part in stamps)])
    ends = np.append(seconds, until_ns // SECOND + 1)
    quiet = (np.diff(ends) > QUIET_S).nonzero()[0]
    if not len(quiet):
        return window
    return Range((int(ends[quiet[-1]]) + QUIET_S) * SECOND - 1, until_ns)


def _stored_trades(store: TradeStore, pair: str, within: Range) -> Trades:
    return _count(store.scan(pair, within))


async def _agrees(stored: Trades, within: Range, pages: PairPages) -> bool:
    """Whether two answers of three show exactly the stored trades of a range.

    A single answer may be cut short, or be an answer to another request.
    """
    agreeing = 0
    for answers in range(1, MAX_ANSWERS + 1):
        rows = (await pages.page(within.after)).rows
        stamps = times(rows)
        is_complete = len(stamps) < PAGE_ROWS or int(stamps.max()) > within.through
        inside = pa.array((stamps > within.after) & (stamps <= within.through))
        agreeing += is_complete and _count([rows.filter(inside)]) == stored
        if AGREEING_ANSWERS in (agreeing, answers - agreeing):
            break
    return agreeing == AGREEING_ANSWERS


def _count(batches: Iterable[pa.RecordBatch]) -> Trades:
    found = Trades()
    for batch in batches:
        found.update(
            zip(batch.column("price").to_pylist(), batch.column("volume").to_pylist(), strict=True)
        )
    return found
