"""Which neighbouring segments are worth merging: pure arithmetic over the listing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from harvester.storage.segment import Segment
from harvester.times import Range

LARGEST_ROWS = 4_000_000
FILE_ROWS = 1000
"""A file costs its readers about as much as so many rows: the smallest weigh no less."""


def groups(
    segments: Iterable[Segment],
    rows_of: Callable[[Segment], int],
    *,
    every: bool = False,
    closed: bool = False,
) -> list[list[Segment]]:
    """Runs of touching segments of one year to be merged, each of up to `LARGEST_ROWS` rows.

    A run is worth the writing once the largest file of it is joined by as much as it holds: so a
    row that is written again comes to lie in a file twice as large. Over a year of nights that is
    some four times a row, not once a night, and what stands is a handful of files.

    Args:
        segments: disjoint, in order.
        rows_of: tells a segment's rows.
        every: merge whatever can be merged; else only what is worth the writing.
        closed: in years before the last one, where no more is to come, merge whatever can be.
    """
    near = list(_touching(segments))
    last = near[-1][0].year if near else 0
    found = []
    for run in near:
        rows = [rows_of(one) for one in run]
        whole = every or (closed and run[0].year < last)
        found += [run[first:end] for first, end in _runs(rows, whole=whole)]
    return found


def _touching(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    run: list[Segment] = []
    for segment in segments:
        if run and (run[-1].range.through != segment.range.after or run[-1].year != segment.year):
            yield run
            run = []
        run.append(segment)
    if run:
        yield run


def _runs(rows: list[int], *, whole: bool) -> Iterator[tuple[int, int]]:
    """The longest runs that fit a file, from the left; unless `whole`, only those worth it."""
    first = 0
    while first < len(rows):
        end = _end(rows, first, whole=whole)
        if end - first > 1:
            yield first, end
        first = end


def _end(rows: list[int], first: int, *, whole: bool) -> int:
    best, total, weight, heaviest = first + 1, 0, 0, 0
    for place in range(first, len(rows)):
        total += rows[place]
        if total > LARGEST_ROWS:
            break
        weighs = max(rows[place], FILE_ROWS)
        weight, heaviest = weight + weighs, max(heaviest, weighs)
        if whole or weight >= 2 * heaviest:
            best = place + 1
    return best


def within(one: Range, other: Range) -> bool:
    """Whether `one` lies inside `other`."""
    return other.after <= one.after and one.through <= other.through
