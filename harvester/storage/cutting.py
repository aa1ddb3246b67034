"""What is to be committed, and what is told of it, cut where the year turns: pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress

import numpy as np
import pyarrow as pa

from harvester.schema import cut, times, trade_ids
from harvester.storage.footers import Footer, Jump
from harvester.times import Range, year_end, year_of
from harvester.trade_ids import find_gaps


def by_year(
    span: Range, batches: list[pa.RecordBatch]
) -> Iterator[tuple[Range, list[pa.RecordBatch]]]:
    """A span cut where the year turns between rows; its beginning may lie in an earlier year."""
    after = span.after
    while batches:
        first, last = int(times(batches[0])[0]), int(times(batches[-1])[-1])
        turn = year_end(year_of(first))
        part = Range(after, span.through if last <= turn else turn)
        some, batches = cut(batches, part.through)
        yield part, some
        after = part.through
    if after < span.through:
        yield Range(after, span.through), batches


def belong(batches: list[pa.RecordBatch], span: Range) -> bool:
    """Whether rows are in order and all in a span: else cutting them would lose some."""
    reached = span.after + 1
    for batch in batches:
        stamps = times(batch)
        if stamps[0] < reached or not (stamps[1:] >= stamps[:-1]).all():
            return False
        reached = int(stamps[-1])
    return reached <= max(span.through, span.after + 1)


def unasked_in(
    footer: Footer, parts: Sequence[tuple[Range, Sequence[pa.RecordBatch]]]
) -> list[int]:
    """The skips that a footer counts, by the parts that its rows were cut in.

    A skip goes with the trade behind it. Those at the seams to other segments were counted as
    well, and go with the last part.
    """
    if not parts:
        return []
    left, edge, told = footer.unasked_jumps, None, [0] * len(parts)
    for place, (_, batches) in enumerate(parts[:-1] if left else ()):
        for batch in batches:
            gaps, edge = find_gaps(edge, batch)
            told[place] += sum(gap.sides not in footer.jumps for gap in gaps)
        told[place] = min(told[place], left)
        left -= told[place]
    return [*told[:-1], left]


def jumps_in(
    footer: Footer, parts: Sequence[tuple[Range, list[pa.RecordBatch]]]
) -> list[tuple[Jump, ...]]:
    """A footer's jumps, by the parts that its rows were cut in.

    A part tells those of which a side at least is among its rows. One of two neighbours on either
    side, with no rows between them, goes with the last part.
    """
    found = [_standing_in(footer.jumps, batches) for _, batches in parts]
    told = {jump for each in found for jump in each}
    if found:
        found[-1] += tuple(jump for jump in footer.jumps if jump not in told)
    return found


def _standing_in(jumps: tuple[Jump, ...], batches: list[pa.RecordBatch]) -> tuple[Jump, ...]:
    if not (jumps and batches):
        return ()
    ids = np.concatenate([trade_ids(batch) for batch in batches])
    # Rows without an id read as id 0, which is also what stands before the first trade.
    ids = ids[ids > 0]
    before = np.isin([jump.after_id for jump in jumps], ids)
    behind = np.isin([jump.before_id for jump in jumps], ids)
    return tuple(compress(jumps, before | behind))
