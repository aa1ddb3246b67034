"""Coverage that ends in the future: written while a clock was wrong, it may lack trades.

Such a range claims that there are no trades in time that is still to come, so later runs would
never download them.
"""

from __future__ import annotations

from collections.abc import Iterable

from harvester.errors import ArchiveDamaged
from harvester.storage.archive import Archive
from harvester.storage.segments import Segment
from harvester.times import DAY, Range, show

TOLERANCE_NS = DAY
"""A clock may be off by this much before what it says is called implausible."""


def ending_in_future(segments: Iterable[Segment], now_ns: int) -> list[Segment]:
    """The segments whose range ends after `now_ns`, by more than the tolerance."""
    return [segment for segment in segments if segment.range.through > now_ns + TOLERANCE_NS]


def fault_of(segment: Segment, now_ns: int) -> str:
    """What is wrong with a segment whose range ends in the future, for people."""
    return (
        f"its range ends in the future, at {show(segment.range.through)}, while this machine's "
        f"clock says {show(now_ns)}: one clock was or is wrong, and trades may be missing"
    )


def advice(archive: Archive, segment: Segment, now_ns: int) -> str:
    """The same with the name of the file, and what to do."""
    return (
        f"{archive.location(segment)}: {fault_of(segment, now_ns)}; if this machine's clock is "
        f"right, `harvester verify {segment.pair} --repair` cuts the range"
    )


def check_not_in_future(archive: Archive, pair: str, now_ns: int) -> None:
    """Refuse coverage that ends in the future.

    Raises:
        ArchiveDamaged: a segment's range does.
    """
    for segment in ending_in_future(archive.segments(pair), now_ns):
        raise ArchiveDamaged(advice(archive, segment, now_ns))


def without_future(
    wanted: Iterable[Range], now_ns: int, until_ns: int | None = None
) -> list[Range]:
    """Requested ranges, those that end in the future cut to end at `until_ns`, or now.

    No run requests the future, so only a wrong clock leaves such ranges.
    """
    limit_ns = now_ns if until_ns is None else until_ns
    cut = (
        span._replace(through=min(span.through, limit_ns))
        if span.through > now_ns + TOLERANCE_NS
        else span
        for span in wanted
    )
    return [span for span in cut if span.after < span.through]
