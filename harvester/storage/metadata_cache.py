"""Cache of segments' row counts and times, so that `status` reads each Parquet footer once."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import msgspec

from harvester.errors import BAD_JSON, HarvesterError
from harvester.storage.filesystem import Entry, Store
from harvester.storage.lock import locked
from harvester.storage.segment import bounds_by, footer_in, opened
from harvester.storage.trade_store import TradeStore

# The cache is never needed and can be deleted at any time. An entry is valid while the file has the
# size and the modification time that it had when its footer was read; segments never change.

PATH = "cache/footers.json"
LOCK = "_cache"
MIN_READ_TO_SAVE = 200
"""The cache is saved after at least this many new footers; a small archive never has the file."""


class SegmentSummary(NamedTuple):
    """Rows of one segment, and their first and last published time; None if it has no rows."""

    rows: int
    first_ns: int | None = None
    last_ns: int | None = None


class _CachedSummary(NamedTuple):
    size: int
    changed_ns: int
    summary: SegmentSummary


class _CacheFile(msgspec.Struct):
    format: int = 1
    segments: dict[str, _CachedSummary] = {}


class SegmentSummaryCache:
    """Summaries of an archive's segments, from the cache file or else from the segments."""

    def __init__(self, archive: TradeStore) -> None:
        """Read the cache file; one that can't be read is ignored."""
        self._archive = archive
        self._cached = _read_cache(archive.store)
        self._used: dict[str, _CachedSummary] = {}
        self._read = 0

    def get(self, entry: Entry) -> SegmentSummary:
        """Return the summary of a listed segment.

        Raises:
            FileNotFoundError: the file is gone; list again.
            ArchiveTooNew: a newer harvester wrote it.
            ArchiveDamaged: it is no Parquet file, or has no footer of harvester's.
        """
        cached = self._cached.get(entry.path)
        if cached is None or cached[:2] != entry[1:]:
            summary = read_summary(self._archive.store, entry.path)
            cached = _CachedSummary(entry.size, entry.changed_ns, summary)
            self._read += 1
        self._used[entry.path] = cached
        return cached.summary

    def save(self, *, whole: bool) -> None:
        """Write the cache file, if enough footers were read and the archive is writable.

        Args:
            whole: every segment of the archive was asked for, so other entries are obsolete.
        """
        if self._read < MIN_READ_TO_SAVE:
            return
        segments = self._used if whole else self._cached | self._used
        data = msgspec.json.encode(_CacheFile(segments=segments))
        store = self._archive.store
        # Another run may be saving its own at this moment, or the archive may be read-only.
        with suppress(HarvesterError), locked(self._archive.root / "locks", LOCK):
            store.remove_folder(f"staging/{LOCK}")
            store.write(PATH, data, LOCK)
            store.remove_folder(f"staging/{LOCK}")


def read_summary(store: Store, path: str) -> SegmentSummary:
    """Read the summary of a segment from its footer and statistics; no row is read.

    Args:
        store: the archive's files.
        path: of the segment.
    """
    with opened(store, path) as file:
        return SegmentSummary(footer_in(path, file).rows, *(bounds_by(file.metadata) or ()))


def _read_cache(store: Store) -> dict[str, _CachedSummary]:
    try:
        raw = store.read(PATH)
        cache = msgspec.json.decode(raw, type=_CacheFile) if raw else _CacheFile()
    except (HarvesterError, *BAD_JSON):
        return {}
    return cache.segments if cache.format == 1 else {}
