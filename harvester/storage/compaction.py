"""Compaction planning: choose which neighbouring segments to merge, from ranges and row counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from harvester.storage.segment import Segment
from harvester.times import Range

LARGEST_ROWS = 4_000_000
"""Rows of the largest segment that compaction writes."""
FILE_ROWS = 1000
"""Opening a file costs a reader about as much as reading this many rows.

The smallest segments are weighted with this number instead of their rows.
"""


def plan_merges(
    segments: Iterable[Segment],
    rows_of: Callable[[Segment], int],
    *,
    every: bool = False,
    closed: bool = False,
) -> list[list[Segment]]:
    """Choose runs of adjacent segments of one year to merge, each up to `LARGEST_ROWS` rows.

    A run is merged once all its segments together weigh at least twice as much as the largest
    one. So a row that is written again is then in a file twice as large. Over a year of nightly
    refreshes, a row is rewritten about four times instead of once a night, and a handful of files
    remains.

    Args:
        segments: disjoint, in order of time.
        rows_of: returns the number of rows of a segment.
        every: merge whatever can be merged, even where the rule above says no.
        closed: do so in all years but the last one, to which no more trades are added.
    """
    adjacent_runs = list(_adjacent_runs(segments))
    last_year = adjacent_runs[-1][0].year if adjacent_runs else 0
    merges = []
    for run in adjacent_runs:
        rows = [rows_of(segment) for segment in run]
        merge_all = every or (closed and run[0].year < last_year)
        merges += [run[first:end] for first, end in _runs(rows, merge_all=merge_all)]
    return merges


def _adjacent_runs(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Split segments into runs of one year without gaps."""
    run: list[Segment] = []
    for segment in segments:
        if run and (run[-1].range.through != segment.range.after or run[-1].year != segment.year):
            yield run
            run = []
        run.append(segment)
    if run:
        yield run


def _runs(rows: list[int], *, merge_all: bool) -> Iterator[tuple[int, int]]:
    """Yield `first, end` indexes of the longest runs that fit into one file, from the left."""
    first = 0
    while first < len(rows):
        end = _end(rows, first, merge_all=merge_all)
        if end - first > 1:
            yield first, end
        first = end


def _end(rows: list[int], first: int, *, merge_all: bool) -> int:
    """Return the end index of the longest run from `first`; `first + 1` where none is worth it."""
    best, total, weight, heaviest = first + 1, 0, 0, 0
    for index in range(first, len(rows)):
        total += rows[index]
        if total > LARGEST_ROWS:
            break
        segment_weight = max(rows[index], FILE_ROWS)
        weight, heaviest = weight + segment_weight, max(heaviest, segment_weight)
        if merge_all or weight >= 2 * heaviest:
            best = index + 1
    return best


def is_within(inner: Range, outer: Range) -> bool:
    """Whether a range lies inside another one.

    Args:
        inner: the range that may be inside.
        outer: the range around it.
    """
    return outer.after <= inner.after and inner.through <= outer.through
