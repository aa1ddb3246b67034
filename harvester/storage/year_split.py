"""Cut ranges and rows where the year ends, and take ranges out of coverage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import compress

import numpy as np
import pyarrow as pa

from harvester.schema import split_at, times, trade_ids
from harvester.storage.filesystem import Store
from harvester.storage.footer import ConfirmedIdGap, Footer, ImportedRange
from harvester.storage.segment import Segment, read_batches
from harvester.times import Range, overlap, year_end, year_of
from harvester.trade_ids import find_gaps

# --- cutting --------------------------------------------------------------------------------------


def by_year(
    span: Range, batches: list[pa.RecordBatch]
) -> Iterator[tuple[Range, list[pa.RecordBatch]]]:
    """A span cut where the year turns between rows; its beginning may lie in an earlier year."""
    after = span.after
    while batches:
        first, last = int(times(batches[0])[0]), int(times(batches[-1])[-1])
        turn = year_end(year_of(first))
        part = Range(after, span.through if last <= turn else turn)
        some, batches = split_at(batches, part.through)
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
) -> list[tuple[ConfirmedIdGap, ...]]:
    """A footer's jumps, by the parts that its rows were cut in.

    A part tells those of which a side at least is among its rows. One of two neighbours on either
    side, with no rows between them, goes with the last part.
    """
    found = [_standing_in(footer.jumps, batches) for _, batches in parts]
    told = {jump for each in found for jump in each}
    if found:
        found[-1] += tuple(jump for jump in footer.jumps if jump not in told)
    return found


def _standing_in(
    jumps: tuple[ConfirmedIdGap, ...], batches: list[pa.RecordBatch]
) -> tuple[ConfirmedIdGap, ...]:
    if not (jumps and batches):
        return ()
    ids = np.concatenate([trade_ids(batch) for batch in batches])
    # Rows without an id read as id 0, which is also what stands before the first trade.
    ids = ids[ids > 0]
    before = np.isin([jump.after_id for jump in jumps], ids)
    behind = np.isin([jump.before_id for jump in jumps], ids)
    return tuple(compress(jumps, before | behind))


# --- uncover --------------------------------------------------------------------------------------

# For a range that is known to lack trades: coverage must not claim it until it was downloaded
# again.

Place = Callable[[Iterable[pa.RecordBatch], Footer], Segment]


def without(store: Store, segment: Segment, footer: Footer, lost: Range, place: Place) -> None:
    """Write what lies before and behind a range as segments of their own; the old one stays.

    Until whoever calls removes the old segment, a crash leaves it in force: the new ones lie
    inside its range, contain the same rows, and are cleared away by the next writer.

    Args:
        store: where the files are.
        segment: whose rows are kept, but for those in `lost`.
        footer: of that segment.
        lost: the range to leave out; parts outside of the segment do not matter.
        place: commits rows with a footer.
    """
    whole = segment.range
    after, through = max(whole.after, lost.after), min(whole.through, lost.through)
    spans = [Range(whole.after, after), Range(after, through), Range(through, whole.through)]
    ids = [list(read_batches(store, segment.path, span, ["trade_id", "time"])) for span in spans]
    parts = list(zip(spans, ids, strict=True))
    counts, jumps = unasked_in(footer, parts), jumps_in(footer, parts)
    for (span, _), count, standing in zip(parts, counts, jumps, strict=True):
        if span == spans[1] or span.after >= span.through:
            continue
        part = replace(
            footer,
            range=span,
            jumps=standing,
            unasked_jumps=count,
            imported=_clipped(footer.imported, span),
        )
        place(read_batches(store, segment.path, span), part)


def _clipped(imported: Iterable[ImportedRange], span: Range) -> tuple[ImportedRange, ...]:
    return tuple(
        part._replace(after=max(part.after, span.after), through=min(part.through, span.through))
        for part in imported
        if overlap(Range(part.after, part.through), span)
    )
