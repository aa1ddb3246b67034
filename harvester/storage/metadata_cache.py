"""Cache of row counts and time bounds of segments, so that `status` opens no footer twice."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import msgspec

from harvester.errors import BAD_JSON, HarvesterError
from harvester.storage.filesystem import Entry, Store
from harvester.storage.lock import held
from harvester.storage.segment import bounds_by, footer_in, opened
from harvester.storage.trade_store import TradeStore

# --- gists ----------------------------------------------------------------------------------------

# A memory only: it can be removed at any time, is never needed, and counts for a file only while
# that has the size and the time of writing that it had when its footer was read. Segments never
# change.

PATH = "cache/footers.json"
LOCK = "_cache"
WORTH_KEEPING = 200
"""So many footers read anew are worth a write; a small archive never has this file."""


class SegmentSummary(NamedTuple):
    """Of one segment: its rows, and their first and last published time; None for no rows."""

    rows: int
    first_ns: int | None = None
    last_ns: int | None = None


class _Known(NamedTuple):
    size: int
    changed_ns: int
    gist: SegmentSummary


class _Kept(msgspec.Struct):
    format: int = 1
    segments: dict[str, _Known] = {}


class SegmentSummaryCache:
    """Gists of an archive's segments, from its memory or else from the files."""

    def __init__(self, archive: TradeStore) -> None:
        """Read what is remembered; what can't be read is no memory."""
        self._archive = archive
        self._before = _kept(archive.store)
        self._seen: dict[str, _Known] = {}
        self._read = 0

    def of(self, entry: Entry) -> SegmentSummary:
        """The gist of a segment, as it is listed.

        Raises:
            FileNotFoundError: it is gone; list again.
            ArchiveTooNew: a newer harvester wrote it.
            ArchiveDamaged: it is no Parquet file, or bears no footer of ours.
        """
        known = self._before.get(entry.path)
        if known is None or known[:2] != entry[1:]:
            known = _Known(entry.size, entry.changed_ns, read_gist(self._archive.store, entry.path))
            self._read += 1
        self._seen[entry.path] = known
        return known.gist

    def keep(self, *, whole: bool) -> None:
        """Remember what was seen, where that is worth it and this machine lets us.

        `whole`: every segment of the archive was asked for, so what was not seen is gone.
        """
        if self._read < WORTH_KEEPING:
            return
        segments = self._seen if whole else self._before | self._seen
        data = msgspec.json.encode(_Kept(segments=segments))
        store = self._archive.store
        # Another run may be keeping its own at this moment, or the archive be for reading only.
        with suppress(HarvesterError), held(self._archive.root / "locks", LOCK):
            store.remove_folder(f"staging/{LOCK}")
            store.write(PATH, data, LOCK)
            store.remove_folder(f"staging/{LOCK}")


def read_gist(store: Store, path: str) -> SegmentSummary:
    """The gist of a segment by its footer and statistics; no row is read."""
    with opened(store, path) as file:
        return SegmentSummary(footer_in(path, file).rows, *(bounds_by(file.metadata) or ()))


def _kept(store: Store) -> dict[str, _Known]:
    try:
        raw = store.read(PATH)
        kept = msgspec.json.decode(raw, type=_Kept) if raw else _Kept()
    except (HarvesterError, *BAD_JSON):
        return {}
    return kept.segments if kept.format == 1 else {}
