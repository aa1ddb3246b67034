"""Which neighbouring segments are worth merging: pure arithmetic over the listing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from harvester.archive.segments import Segment
from harvester.times import Range

LARGEST_ROWS = 4_000_000
MOST_SMALL = 8
"""A large file is written again once its neighbours hold as much as it does, or are so many."""


def groups(
    segments: Iterable[Segment],
    rows_of: Callable[[Segment], int],
    *,
    every: bool = False,
) -> list[list[Segment]]:
    """Runs of touching segments of one year to be merged, each of up to `LARGEST_ROWS` rows.

    Args:
        segments: disjoint, in order.
        rows_of: tells a segment's rows.
        every: merge whatever can be merged; else only what is worth the writing.
    """
    runs: list[list[Segment]] = []
    rows = 0
    for one in segments:
        count = rows_of(one)
        touches = runs and runs[-1][-1].range.through == one.range.after
        if touches and runs[-1][-1].year == one.year and rows + count <= LARGEST_ROWS:
            runs[-1].append(one)
            rows += count
        else:
            runs.append([one])
            rows = count
    return [
        run for run in runs if len(run) > 1 and (every or _worth([rows_of(one) for one in run]))
    ]


def _worth(rows: list[int]) -> bool:
    return len(rows) > MOST_SMALL or sum(rows) >= 2 * max(rows)


def within(one: Range, other: Range) -> bool:
    """Whether `one` lies inside `other`."""
    return other.after <= one.after and one.through <= other.through
