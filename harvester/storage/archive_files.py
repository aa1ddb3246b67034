"""The small files of an archive (format version, requested ranges, pairs), and case of names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from harvester.errors import (
    BAD_JSON,
    ArchiveDamaged,
    ArchiveTooNew,
    ArchiveUnwritable,
)
from harvester.schema import FORMAT
from harvester.storage.filesystem import LocalStore, writing
from harvester.storage.locks import locked
from harvester.times import END_OF_TIME, Range, union

# --- format version, requested ranges, list of pairs ----------------------------------------------

MADE_BY = "harvester"


class _Mark(msgspec.Struct):
    """The content of `archive.json`."""

    format: int
    made_by: str = ""


class _Wanted(msgspec.Struct):
    """The content of `wanted/PAIR.json`: the ranges that were requested."""

    pair: str
    spans: list[tuple[int, int]]


def check_mark(store: LocalStore) -> None:
    """Check the format version in `archive.json`; an archive without that file is new.

    Raises:
        ArchiveTooNew: a newer harvester made the archive.
        ArchiveDamaged: the file can't be read.
    """
    raw = store.read("archive.json")
    if raw is None:
        return
    try:
        mark = msgspec.json.decode(raw, type=_Mark)
    except BAD_JSON as error:
        raise ArchiveDamaged(
            f"{store.location('archive.json')} can't be read ({error}): if the segments are "
            "sound, remove it; the next run writes it again"
        ) from error
    if mark.format > FORMAT:
        raise ArchiveTooNew(
            f"the archive at {store.location('')} has format {mark.format}, this harvester reads "
            f"up to {FORMAT}: install a newer one"
        )


def is_marked(folder: Path) -> bool:
    """Whether a folder is an archive: its `archive.json` was written by harvester."""
    try:
        raw = (folder / "archive.json").read_bytes()
        return msgspec.json.decode(raw, type=_Mark).made_by == MADE_BY
    except (OSError, *BAD_JSON):
        return False


def mark(store: LocalStore, staging: str) -> None:
    """Write `archive.json` with the format version, before anything else is written.

    Args:
        store: the archive's files.
        staging: the staging folder of the lock that is held; other writers may do the same now.
    """
    if store.read("archive.json") is None:
        write_json(store, "archive.json", _Mark(FORMAT, MADE_BY), staging)


def wanted(store: LocalStore, pair: str) -> list[Range]:
    """Read the ranges of a pair that were requested, merged; empty where there is no file.

    If there are segments and no file, the file was lost: see `TradeStore.wanted`.

    Args:
        store: the archive's files.
        pair: altname.

    Raises:
        ArchiveDamaged: the file can't be read, or contains what harvester never writes.
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
            f"{pair} --repair` writes it again, as does the next run once it is removed: then "
            "everything from the first segment to the last counts as requested"
        ) from error
    return union(Range(*bounds) for bounds in found.spans)


def _check_wanted(found: _Wanted, pair: str) -> None:
    """Refuse a file that was edited by hand or copied from another pair.

    Raises:
        msgspec.ValidationError: the file is another pair's, or a range is impossible.
    """
    if found.pair != pair:
        raise msgspec.ValidationError(f"it is of pair {found.pair!r}, its name says {pair!r}")
    for after, through in found.spans:
        if not 0 <= after < through <= END_OF_TIME:
            why = "its start is below 0" if after < 0 else "it ends after the last nanosecond"
            why = why if through > after else "its end is not after its start"
            raise msgspec.ValidationError(f"the range [{after}, {through}] is impossible: {why}")


def want(store: LocalStore, pair: str, *ranges: Range) -> None:
    """Record that ranges were requested, before they are downloaded.

    Args:
        store: the archive's files.
        pair: altname; its lock is held.
        ranges: are added to those on record.
    """
    before = wanted(store, pair)
    after = union([*before, *ranges])
    if after != before:
        want_only(store, pair, after)


def want_only(store: LocalStore, pair: str, ranges: Iterable[Range]) -> None:
    """Replace the record of requested ranges.

    Args:
        store: the archive's files.
        pair: altname; its lock is held.
        ranges: all that was requested.
    """
    mark(store, pair)
    bounds = [(requested.after, requested.through) for requested in union(ranges)]
    write_json(store, f"wanted/{pair}.json", _Wanted(pair, bounds), pair)


def keep_pairs(store: LocalStore, data: bytes) -> None:
    """Store the list of pairs, by which names are resolved, as `pairs.json`.

    Args:
        store: the archive's files.
        data: the list as JSON.

    Raises:
        ArchiveLocked: another run was storing its list for ten seconds.
        ArchiveUnwritable: the operating system refused.
    """
    with locked(store.root / "locks", "_pairs", wait_s=10.0):
        store.remove_folder("staging/_pairs")
        mark(store, "_pairs")
        store.write("pairs.json", msgspec.json.format(data) + b"\n", "_pairs")
        store.remove_folder("staging/_pairs")


def write_json(store: LocalStore, path: str, value: msgspec.Struct, staging: str) -> None:
    """Write a file of JSON, indented.

    Args:
        store: the archive's files.
        path: the file within the archive.
        value: its content.
        staging: the folder in staging where it is written first.
    """
    data = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    store.write(path, data, staging)


# --- names that differ by case --------------------------------------------------------------------

# Two pairs whose names differ by case only would share one folder on a disk that ignores case, so
# the second one is refused there.

_PAIR_NAMES = (("trades", "pair=", ""), ("wanted", "", ".json"), ("locks", "", ".lock"))
"""Where names of pairs are on disk: the folder, and the prefix and suffix of the name there."""


def check_case(root: Path, pair: str) -> None:
    """Refuse to write a pair that would share its folder with another pair.

    Args:
        root: the archive's folder.
        pair: altname.

    Raises:
        ArchiveUnwritable: the disk ignores case, and has a pair whose name differs by case only.
    """
    with writing(str(root)):
        for folder, prefix, suffix in _PAIR_NAMES:
            own = f"{prefix}{pair}{suffix}"
            for path in (root / folder).glob(f"{prefix}*{suffix}"):
                is_other = path.name != own and path.name.lower() == own.lower()
                if is_other and ignores_case(path):
                    other = path.name.removeprefix(prefix).removesuffix(suffix)
                    raise ArchiveUnwritable(
                        f"{pair} can't be stored next to {other} in {root}: the disk ignores case, "
                        "so both would share one folder. Choose another folder for one of them"
                    )


def ignores_case(path: Path) -> bool:
    """Whether the disk also finds a file or folder under its name in another case."""
    try:
        return path.samefile(path.with_name(path.name.swapcase()))
    except FileNotFoundError:
        return False
