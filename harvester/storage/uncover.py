"""Take a range out of coverage: the segments that contain it are written anew without it.

For a range that is known to lack trades: coverage must not claim it until it was downloaded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pyarrow as pa

from harvester.storage.cutting import jumps_in, unasked_in
from harvester.storage.footers import Footer, Imported
from harvester.storage.segments import Segment, read_batches
from harvester.storage.store import Store
from harvester.times import Range, overlap

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


def _clipped(imported: Iterable[Imported], span: Range) -> tuple[Imported, ...]:
    return tuple(
        part._replace(after=max(part.after, span.after), through=min(part.through, span.through))
        for part in imported
        if overlap(Range(part.after, part.through), span)
    )
