"""The note of a replacement of several segments that belong together, and whether it is half-way.

Where segments touch at a busy second, a trade may stand on the other side in the exchange's rows
than in the file's. With one of the two replaced it stands twice, or not at all; the note is there
from before the first of them is replaced until after the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from harvester.archive.archive import EVERYTHING, Archive, listed_again
from harvester.archive.aside import ASIDE, Upgraded, from_files
from harvester.archive.store import Store
from harvester.errors import BAD_JSON, ArchiveDamaged
from harvester.times import Range, missing, overlap, show


def path_of_note(pair: str) -> str:
    """Where it stands within the archive."""
    return f"{ASIDE}/replacing/{pair}.json"


def noted(store: Store, pair: str) -> list[list[Range]]:
    """The replacements that a note tells of, each the ranges that belong together, in order.

    None where there is no note. Where it can't be read, one of all there is.
    """
    raw = store.read(path_of_note(pair))
    try:
        return [] if raw is None else msgspec.json.decode(raw, type=list[list[Range]])
    except BAD_JSON:
        return [[EVERYTHING]]


def note(store: Store, pair: str, replacements: Sequence[Sequence[Range]]) -> None:
    """Put on record which replacements have begun; each once, and none takes the note away.

    Raises:
        ArchiveUnwritable: the machine refused.
    """
    if not replacements:
        store.remove(path_of_note(pair))
        return
    each = dict.fromkeys(tuple(one) for one in replacements)
    store.write(path_of_note(pair), msgspec.json.encode([*each]), pair)


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
    for ranges in noted(archive.store, pair):
        left = still_from_files(archive, pair, ranges)
        if left and missing(ranges, left):
            return Range(left[0].after, left[-1].through), _told(archive, pair, ranges, left)
    return None


def _told(archive: Archive, pair: str, ranges: Sequence[Range], left: Sequence[Range]) -> str:
    upgrade = f"`harvester backfill {pair} --upgrade` fetches what is lacking"
    if EVERYTHING in ranges:
        return (
            "it can't be read, and an upgrade may have been cut short between files that belong "
            "together: trades from files may stand twice, or not at all; "
            f"{upgrade}, or says why not"
        )
    lacking = missing(left, [one.range for one in Upgraded(archive).aside(pair)])
    ends = upgrade if lacking else f"`harvester backfill {pair}` ends it"
    return (
        "a file gave way to the exchange's own trades up to a busy second in which it goes on: a "
        f"trade near {_seams(ranges, left)} may stand twice, or not at all; {ends}, or says why not"
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
