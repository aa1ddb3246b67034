"""Small files beside the segments: the archive's mark, requested ranges, names of pairs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from harvester.errors import BAD_JSON, ArchiveDamaged, ArchiveTooNew
from harvester.schema import FORMAT
from harvester.storage.filesystem import Store
from harvester.times import END_OF_TIME, Range, union

# --- state ----------------------------------------------------------------------------------------

MADE_BY = "harvester"


class _Mark(msgspec.Struct):
    format: int
    made_by: str = ""


class _Wanted(msgspec.Struct):
    pair: str
    spans: list[tuple[int, int]]


def check_mark(store: Store) -> None:
    """Look at the mark of an archive; one without a mark is new.

    Raises:
        ArchiveTooNew: a newer harvester made it.
        ArchiveDamaged: the mark can't be read.
    """
    raw = store.read("archive.json")
    if raw is None:
        return
    try:
        mark = msgspec.json.decode(raw, type=_Mark)
    except BAD_JSON as error:
        raise ArchiveDamaged(
            f"{store.location('archive.json')} can't be read ({error}): if the segments are "
            "sound, remove it; the next run writes it anew"
        ) from error
    if mark.format > FORMAT:
        raise ArchiveTooNew(
            f"the archive at {store.location('')} has format {mark.format}, this harvester reads "
            f"up to {FORMAT}: install a newer one"
        )


def is_marked(folder: Path) -> bool:
    """Whether a folder is an archive."""
    try:
        raw = (folder / "archive.json").read_bytes()
        return msgspec.json.decode(raw, type=_Mark).made_by == MADE_BY
    except (OSError, *BAD_JSON):
        return False


def mark(store: Store, staging: str) -> None:
    """Mark a new archive with the format's version, before anything else is written.

    `staging` is the folder of the lock that is held: others may be marking it at the same time.
    """
    if store.read("archive.json") is None:
        store.write("archive.json", _pretty(_Mark(FORMAT, MADE_BY)), staging)


def wanted(store: Store, pair: str) -> list[Range]:
    """The union of the ranges of a pair that are on record as wanted; none where no file stands.

    Where segments stand and nothing is on record, the record was lost: see `Archive.wanted`.

    Raises:
        ArchiveDamaged: the file can't be read, or holds what no harvester writes.
    """
    raw = store.read(f"wanted/{pair}.json")
    if raw is None:
        return []
    try:
        found = msgspec.json.decode(raw, type=_Wanted)
        _check_wanted(found, pair)
    except BAD_JSON as error:
        raise ArchiveDamaged(
            f"{store.location(f'wanted/{pair}.json')} can't be read ({error}): `harvester verify "
            f"{pair} --repair` writes it anew, as does the next run once it is removed: all "
            "between the first segment and the last then counts as wanted"
        ) from error
    return union(Range(*span) for span in found.spans)


def _check_wanted(found: _Wanted, pair: str) -> None:
    """Refuse what an edit by hand or a copied file leaves.

    Raises:
        msgspec.ValidationError: it is of another pair, or a range can't be one.
    """
    if found.pair != pair:
        raise msgspec.ValidationError(f"it is of pair {found.pair!r}, its name says {pair!r}")
    for after, through in found.spans:
        if not 0 <= after < through <= END_OF_TIME:
            why = "its beginning is below 0" if after < 0 else "it ends after the last nanosecond"
            why = why if through > after else "its end is not after its beginning"
            raise msgspec.ValidationError(f"the range [{after}, {through}] is none: {why}")


def want(store: Store, pair: str, *spans: Range) -> None:
    """Write down that spans are wanted; under the pair's lock, before they are crawled."""
    before = wanted(store, pair)
    after = union([*before, *spans])
    if after != before:
        want_only(store, pair, after)


def want_only(store: Store, pair: str, spans: Iterable[Range]) -> None:
    """Write down anew all that is wanted; whatever stood there is replaced."""
    mark(store, pair)
    data = _pretty(_Wanted(pair, [(span.after, span.through) for span in union(spans)]))
    store.write(f"wanted/{pair}.json", data, pair)


def known_pairs(store: Store) -> bytes | None:
    """What names were last resolved with, as JSON; None where nothing is kept yet."""
    return store.read("pairs.json")


def keep_pairs(store: Store, data: bytes) -> None:
    """Keep what names are resolved with, as JSON; under the lock of that name."""
    store.remove_folder("staging/_pairs")
    mark(store, "_pairs")
    store.write("pairs.json", msgspec.json.format(data) + b"\n", "_pairs")
    store.remove_folder("staging/_pairs")


def _pretty(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
