"""Where what a file told ends at a busy second, and the exchange's own trades go on: on record.

There a rounded trade may stand on the other side than the exchange has it: twice, or not at all. So
segments that touch there are replaced together, and noted from before the first one is until after
the last; and so is a hole that is filled up to such a place.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from harvester.errors import BAD_JSON, ArchiveDamaged
from harvester.storage.archive import EVERYTHING, Archive, listed_again
from harvester.storage.aside import ASIDE, Upgraded, from_files
from harvester.storage.store import Store
from harvester.times import Range, missing, overlap, show


def path_of_note(pair: str) -> str:
    """Where it stands within the archive."""
    return f"{ASIDE}/replacing/{pair}.json"


class Together(msgspec.Struct, frozen=True):
    """Ranges that are to be told by a file, all of them, or by the exchange.

    Attributes:
        ranges: in order.
        compared: whether what lies aside for them was held against the file, and may replace it.
    """

    ranges: tuple[Range, ...]
    compared: bool = True


_UNKNOWN = Together((EVERYTHING,), compared=False)


def noted(store: Store, pair: str) -> list[Together]:
    """What a note tells of; none where there is no note, all there is where it can't be read."""
    raw = store.read(path_of_note(pair))
    try:
        return [] if raw is None else msgspec.json.decode(raw, type=list[Together])
    except BAD_JSON:
        return [_UNKNOWN]


def note(store: Store, pair: str, each: Sequence[Together]) -> None:
    """Put on record what belongs together; nothing takes the note away.

    One that can't be read stays as it is: it stands for all.

    Raises:
        ArchiveUnwritable: the machine refused.
    """
    if not each:
        store.remove(path_of_note(pair))
    elif _UNKNOWN not in each:
        data = msgspec.json.encode([*dict.fromkeys(each)])
        store.write(path_of_note(pair), data, pair)


def still_from_files(archive: Archive, pair: str, ranges: Sequence[Range]) -> list[Range]:
    """What of some ranges files tell, in order.

    Raises:
        ArchiveDamaged: a segment can't be read.
    """
    told = [part for _, part in from_files(archive, pair)]
    return sorted(both for part in ranges for one in told if (both := overlap(part, one)))


@listed_again
def torn(archive: Archive, pair: str, /) -> tuple[Range, str] | None:
    """Where a replacement is half-way, and what that means, for people; None where none is.

    While an upgrade is at work it is so for a moment. Where the note can't be read, it may be in
    all that files tell.

    Raises:
        ArchiveDamaged: a segment can't be read.
    """
    for one in noted(archive.store, pair):
        left = still_from_files(archive, pair, one.ranges)
        if left and missing(one.ranges, left):
            return Range(left[0].after, left[-1].through), _told(archive, pair, one, left)
    return None


def _told(archive: Archive, pair: str, one: Together, left: Sequence[Range]) -> str:
    upgrade = f"`harvester backfill {pair} --upgrade` fetches what is lacking, or says why not"
    if one == _UNKNOWN:
        return (
            "it can't be read, and an upgrade may have been cut short between files that belong "
            f"together: trades from files may stand twice, or not at all; {upgrade}"
        )
    lacking = missing(left, [each.range for each in Upgraded(archive).aside(pair)])
    ends = f"`harvester backfill {pair}` ends it, or says why not"
    return (
        "a file and the exchange's own trades meet in a busy second: a trade near "
        f"{_seams(one.ranges, left)} may stand twice, or not at all; "
        f"{upgrade if lacking or not one.compared else ends}"
    )


def _seams(ranges: Sequence[Range], left: Sequence[Range]) -> str:
    """Where what is left of some ranges meets what was replaced."""
    replaced = {moment for one in missing(ranges, left) for moment in one}
    ends = [moment for one in left for moment in one]
    return " or ".join(show(one) for one in ends if one in replaced) or show(ends[0])


def check_not_torn(archive: Archive, pair: str) -> None:
    """Refuse what is half replaced.

    Raises:
        ArchiveDamaged: it is, or a segment can't be read.
    """
    if found := torn(archive, pair):
        raise ArchiveDamaged(f"{archive.store.location(path_of_note(pair))}: {found[1]}")
