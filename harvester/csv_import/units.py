"""What of a pair is replaced at once: the range of a segment that came from files, no more.

Its ends are where a file and the API meet, or quiet moments of the file (see `joining`). Two
segments of one file may touch at a busy second, as at the turn of a year. Rounded, a trade may lie
on the other side than by the API's time; so a range reaches on into its neighbour, up to the next
quiet moment.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harvester.csv_import.joining import QUIET_S
from harvester.schema import Int64s, times
from harvester.storage.replacement_staging import from_files
from harvester.storage.segment import Segment, read_batches
from harvester.storage.trade_store import Archive
from harvester.times import SECOND, UNITS_NS, Range, missing, overlap, union

FIRST_LOOK_NS = UNITS_NS["m"]
GROWS_BY = 8


class Unit(NamedTuple):
    """What is replaced at once.

    Attributes:
        span: from its first part to its last.
        parts: what came from files, in order; what lies between them came from the API.
        rows: of the files.
    """

    span: Range
    parts: tuple[Range, ...]
    rows: int


def units(archive: Archive, pair: str, within: Range) -> list[Unit]:
    """What is to be replaced of a pair, in order; a segment that touches `within` counts whole.

    Raises:
        ArchiveDamaged: a segment can't be read.
    """
    told = from_files(archive, pair)
    regions = union(part for _, part in told)
    found: list[Unit] = []
    for segment in dict.fromkeys(segment for segment, _ in told):
        if overlap(segment.range, within) is None:
            continue
        own = [part for one, part in told if one == segment]
        span = Range(
            _quiet_before(archive, pair, own[0].after, regions),
            _quiet_behind(archive, pair, own[-1].through, regions),
        )
        parts = tuple(both for region in regions if (both := overlap(region, span)))
        rows = sum(_rows(archive, one, part, parts) for one, part in told)
        found.append(Unit(span, parts, rows))
    return found


def rows_to_fetch(unit: Unit, aside: list[Range]) -> int:
    """About how many rows of it do not lie aside yet, as if they were evenly spread."""
    left = missing(unit.parts, aside)
    whole = sum(one.through - one.after for one in unit.parts)
    return unit.rows * sum(one.through - one.after for one in left) // whole


def _rows(archive: Archive, segment: Segment, part: Range, parts: tuple[Range, ...]) -> int:
    inside = [both for one in parts if (both := overlap(one, part))]
    if not inside:
        return 0
    if inside == [segment.range]:
        return archive.footer(segment).rows
    return sum(
        batch.num_rows
        for one in inside
        for batch in read_batches(archive.store, segment.path, one, ["time"])
    )


def _quiet_behind(archive: Archive, pair: str, moment: int, regions: list[Range]) -> int:
    """The first quiet moment from one on; where a region of files ends, that is one."""
    region = next((one for one in regions if one.after < moment < one.through), None)
    if region is None or _is_quiet(archive, pair, moment):
        return moment
    width = FIRST_LOOK_NS
    while True:
        window = Range(moment - SECOND, min(region.through, moment + width))
        seconds = _seconds(archive, pair, window)
        for at in (np.diff(seconds) > QUIET_S).nonzero()[0]:
            found = (int(seconds[at]) + QUIET_S) * SECOND - 1
            if found >= moment:
                return found
        if window.through == region.through:
            return region.through
        width *= GROWS_BY


def _quiet_before(archive: Archive, pair: str, moment: int, regions: list[Range]) -> int:
    """The last quiet moment up to one, likewise."""
    region = next((one for one in regions if one.after < moment < one.through), None)
    if region is None or _is_quiet(archive, pair, moment):
        return moment
    width = FIRST_LOOK_NS
    while True:
        window = Range(max(region.after, moment - width), moment + SECOND)
        seconds = _seconds(archive, pair, window)
        for at in (np.diff(seconds) > QUIET_S).nonzero()[0][::-1]:
            found = (int(seconds[at + 1]) - 1) * SECOND - 1
            if found <= moment:
                return found
        if window.after == region.after:
            return region.after
        width *= GROWS_BY


def _is_quiet(archive: Archive, pair: str, moment: int) -> bool:
    return not len(_seconds(archive, pair, Range(moment - SECOND, moment + SECOND)))


def _seconds(archive: Archive, pair: str, window: Range) -> Int64s:
    """The seconds in which there are trades."""
    stamps = [times(batch) for batch in archive.scan(pair, window)]
    seconds: Int64s = np.unique(np.concatenate([np.empty(0, np.int64), *stamps]) // SECOND)
    return seconds
