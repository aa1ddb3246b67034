"""The small files beside the segments: the mark, what was wanted, how pairs are called."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from harvester.archive.schema import FORMAT
from harvester.archive.store import Store
from harvester.errors import BAD_JSON, ArchiveDamaged, ArchiveTooNew
from harvester.times import Range, union

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
    """The union of the spans of a pair that were ever asked for."""
    raw = store.read(f"wanted/{pair}.json")
    if raw is None:
        return []
    try:
        spans = msgspec.json.decode(raw, type=_Wanted).spans
    except BAD_JSON as error:
        raise ArchiveDamaged(
            f"{store.location(f'wanted/{pair}.json')} can't be read ({error}): "
            "remove it; what is then asked for is written anew"
        ) from error
    return union(Range(*span) for span in spans)


def want(store: Store, pair: str, span: Range) -> None:
    """Write down that a span is wanted; under the pair's lock, before it is crawled."""
    before = wanted(store, pair)
    spans = union([*before, span])
    if spans != before:
        want_only(store, pair, spans)


def want_only(store: Store, pair: str, spans: Iterable[Range]) -> None:
    """Write down anew all that is wanted; whatever stood there is replaced."""
    mark(store, pair)
    data = _pretty(_Wanted(pair, [(one.after, one.through) for one in union(spans)]))
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
