"""Compaction planning: choose which neighbouring segments to merge, from ranges and row counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from harvester.storage.segment import Segment
from harvester.times import Range

LARGEST_ROWS = 4_000_000
"""Rows of the largest segment of downloaded trades that compaction writes."""
LARGEST_IMPORTED_ROWS = 1_000_000
"""Rows of the largest segment of imported trades: it is downloaded again as a whole, in 20 min."""
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
    """Choose runs of adjacent segments of one year and one source to merge.

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
        most = LARGEST_IMPORTED_ROWS if run[0].is_imported else LARGEST_ROWS
        merges += [run[first:end] for first, end in _runs(rows, most, merge_all=merge_all)]
    return merges


def _adjacent_runs(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Split segments into runs of one year and source without gaps."""
    run: list[Segment] = []
    for segment in segments:
        if run:
            last = run[-1]
            is_adjacent = last.range.through == segment.range.after
            is_same_kind = (last.year, last.is_imported) == (segment.year, segment.is_imported)
            if not (is_adjacent and is_same_kind):
                yield run
                run = []
        run.append(segment)
    if run:
        yield run


def _runs(rows: list[int], most: int, *, merge_all: bool) -> Iterator[tuple[int, int]]:
    """Yield `first, end` indexes of the longest runs of up to `most` rows, from the left."""
    first = 0
    while first < len(rows):
        end = _end(rows, first, most, merge_all=merge_all)
        if end - first > 1:
            yield first, end
        first = end


def _end(rows: list[int], first: int, most: int, *, merge_all: bool) -> int:
    """Return the end index of the longest run from `first`; `first + 1` where none is worth it."""
    best, total, weight, heaviest = first + 1, 0, 0, 0
    for index in range(first, len(rows)):
        total += rows[index]
        if total > most:
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


def is_being_replaced(wide: Segment, narrow: Segment) -> bool:
    """Whether an imported segment is beside downloaded trades of its range.

    It is, between two steps of a re-download: readers take `wide`, and the next writer removes one.

    Args:
        wide: the segment that is read first.
        narrow: one that overlaps it.
    """
    return is_within(narrow.range, wide.range) and wide.is_imported != narrow.is_imported
