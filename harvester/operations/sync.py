"""Sync: bring the copy of an archive in an object store up to date.

New segments and roll-ups are written first, small files next, and objects that are replaced are
deleted last: a reader that follows docs/format.md is right at every moment, and after a kill.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import msgspec

from harvester.errors import (
    BAD_JSON,
    ArchiveDamaged,
    ArchiveError,
    ArchiveUnwritable,
    HarvesterError,
    Interrupted,
    NothingStored,
)
from harvester.events import Begun, CancelToken, Listener, Step, result_of
from harvester.storage.filesystem import Entry
from harvester.storage.locks_and_requests import check_format, locked
from harvester.storage.segment import Segment, parse_path, parse_rollup_path, reading_order
from harvester.storage.trade_store import TradeStore, pieces_of, with_snapshot_retry, without_future
from harvester.times import SECOND, missing, union

if TYPE_CHECKING:
    from harvester.storage.object_store import ObjectStore, StoredObject

LOCK = "_sync"
THREADS = 8
"""Files that are compared or written at the same time."""

PART_BYTES = 8 << 20
"""Larger files are uploaded in parts of this size, as the AWS command line does."""

SMALL_FILES = ("pairs.json", "archive.json")


@dataclass(slots=True)
class SyncResult:
    """The result of a sync.

    Attributes:
        url: of the copy.
        dry_run: whether nothing was written, and the rest says what a sync would do.
        uploaded: how many files were written.
        uploaded_bytes: their size.
        unchanged: how many files the copy had already.
        deleted: objects that were deleted, as the archive has segments that replace them.
        kept: segments of the copy that the archive neither has nor replaces.
        seconds: how long it took.
    """

    url: str
    dry_run: bool = False
    uploaded: int = 0
    uploaded_bytes: int = 0
    unchanged: int = 0
    deleted: list[str] = field(default_factory=list[str])
    kept: list[str] = field(default_factory=list[str])
    seconds: float = 0.0


def sync(
    archive: TradeStore,
    url: str,
    listener: Listener,
    cancel: CancelToken,
    *,
    dry_run: bool = False,
) -> SyncResult:
    """Bring the copy of an archive in an object store up to date.

    Args:
        archive: in a folder.
        url: of the copy, such as `s3://bucket/prefix`.
        listener: called with `Begun` and `Step` events, whose unit is bytes.
        cancel: ends the sync early; the next one continues.
        dry_run: write nothing.

    Raises:
        UsageError: the archive is not in a local folder, or `url` is not the URL of an object
            store.
        NothingStored: the archive is empty.
        ArchiveLocked: another sync of the archive is running.
        ArchiveTooNew: a newer harvester wrote the copy.
        ArchiveDamaged: a segment that is new or changed is damaged, and was not written; or files
            keep vanishing while they are read.
        ArchiveError: the store can't be read, or has a segment of another archive that would cut an
            imported one, or be cut.
        ArchiveUnwritable: the store refuses, or has other bytes than were sent.
        Interrupted: `cancel` was cancelled.
    """
    from harvester.storage.object_store import ObjectStore  # noqa: PLC0415 - the extra `s3`

    folder, remote = archive.root / "locks", ObjectStore(url)
    if not archive.stored_pairs():
        raise NothingStored(f"the archive at {archive.path} is empty: there is nothing to sync")
    check_format(remote)
    begun_s = time.monotonic()
    doing = f"the archive at {archive.path} is being synced"
    with locked(folder, LOCK, doing=doing):
        run = _Sync(archive, remote, listener, cancel, is_dry=dry_run)
        deleted, kept = with_snapshot_retry(run.run, "the archive")
    return SyncResult(
        remote.url,
        dry_run,
        len(run.uploaded),
        sum(file.size for file in run.uploaded),
        run.unchanged,
        deleted,
        kept,
        round(time.monotonic() - begun_s, 3),
    )


# --- one sync -------------------------------------------------------------------------------------


class _Sync:
    """A sync of one archive to one store."""

    def __init__(
        self,
        archive: TradeStore,
        remote: ObjectStore,
        listener: Listener,
        cancel: CancelToken,
        *,
        is_dry: bool,
    ) -> None:
        self._archive = archive
        self._remote = remote
        self._listener = listener
        self._cancel = cancel
        self._is_dry = is_dry
        self._record = _SyncRecord(archive, remote.url)
        self.uploaded: list[Entry] = []
        self.unchanged = 0

    def run(self) -> tuple[list[str], list[str]]:
        """Write what is new, then delete what it replaces.

        Returns:
            The paths of deleted objects, and of segments that were kept.

        Raises:
            FileNotFoundError: compaction removed a file; list again.
        """
        if self._is_dry:  # Forget the files of an earlier listing.
            self.uploaded.clear()
        files, written_before = list_files(self._archive), len(self.uploaded)
        try:
            stored = {item.path: item for item in self._remote.objects("")}
            self._check_cuts(files, stored)
            self._upload_missing(files, stored)
            # Only now: a reader that knows a requested range must find its trades.
            small_files = self._list_small_files()
            self._upload_missing(small_files, stored)
        finally:
            if not self._is_dry:
                self._record.save()
        self.unchanged = len(files) + len(small_files) - (len(self.uploaded) - written_before)
        return self._delete_replaced(files, stored)

    def _check_cuts(self, files: Sequence[Entry], stored: dict[str, StoredObject]) -> None:
        """Raise ArchiveError if an imported segment would be cut, as `find_cut` says."""
        new, now_ns = [file for file in files if file.path not in stored], time.time_ns()
        expected = _expected(stored, new, now_ns)
        deleted, _ = choose_deletions(expected, {file.path for file in files}, now_ns)
        if cut := find_cut(expected, deleted):
            raise ArchiveError(
                f"{self._remote.url} would have {cut[0]} and {cut[1]}, which begins inside it: the "
                "times of imported trades are rounded, so one could be lost or doubled where they "
                "meet. Fill the gaps there, or use another URL for this archive"
            )

    def _list_small_files(self) -> list[Entry]:
        wanted = self._archive.store.files("wanted")
        found = [entry for entry in wanted if entry.path.endswith(".json")]
        for name in SMALL_FILES:
            with suppress(FileNotFoundError):
                stat = (self._archive.root / name).stat()
                found.append(Entry(name, stat.st_size, stat.st_mtime_ns))
        return found

    def _upload_missing(self, files: Sequence[Entry], stored: dict[str, StoredObject]) -> None:
        """Write the files that the store lacks, several at a time; the first error ends it."""
        all_bytes, done_bytes = sum(file.size for file in files), 0
        self._listener(Begun(1))
        with ThreadPoolExecutor(THREADS) as pool:
            futures = [
                pool.submit(self._upload_if_missing, file, stored.get(file.path)) for file in files
            ]
            try:
                for file, future in zip(files, futures, strict=True):
                    result_of(future)
                    done_bytes += file.size
                    self._listener(Step("sync", done_bytes, all_bytes, "bytes"))
            finally:
                pool.shutdown(cancel_futures=True)

    def _upload_if_missing(self, entry: Entry, stored: StoredObject | None) -> None:
        """Write a file unless the store has it, and compare what the store has then.

        Raises:
            ArchiveDamaged: it is a damaged segment.
            FileNotFoundError: the file was removed or replaced since it was listed.
        """
        if self._cancel.is_cancelled:
            raise Interrupted
        if stored is not None and self._record.has(entry, stored.e_tag):
            return
        with (self._archive.root / entry.path).open("rb") as file:
            stat = os.fstat(file.fileno())
            if entry != (entry.path, stat.st_size, stat.st_mtime_ns):
                raise FileNotFoundError(errno.ENOENT, "it was replaced", entry.path)
            e_tag = stored.e_tag if stored is not None and stored.size == entry.size else ""
            if not e_tag or not self._has_content(entry, file, e_tag):
                if not self._is_dry:
                    self._check_segment(entry)
                self.uploaded.append(entry)
                if self._is_dry:
                    return
                e_tag = self._remote.upload(entry.path, file, PART_BYTES)
                if not self._has_content(entry, file, e_tag):
                    raise ArchiveUnwritable(
                        f"{self._remote.location(entry.path)} has other bytes than were sent: "
                        "nothing was deleted; try again"
                    )
            self._record.add(entry, e_tag)

    def _check_segment(self, entry: Entry) -> None:
        """Raise ArchiveDamaged for a damaged segment: the copy may have the only sound file."""
        from harvester.verify.file_check import check_segment  # noqa: PLC0415 - it loads DuckDB

        segment = parse_path(*entry)
        if segment and (wrong := check_segment(self._archive, segment, ()).wrong):
            advice = f"`harvester verify {segment.pair} --repair` downloads its range again"
            raise ArchiveDamaged(f"{self._archive.location(segment)}: {wrong[0]}; {advice}")

    def _has_content(self, entry: Entry, file: BinaryIO, e_tag: str) -> bool:
        """Compare an object with a file: by its ETag or, if that is no checksum, by reading it."""
        return e_tag.strip('"') in md5_tags(file) or self._remote.has_content(entry.path, file)

    def _delete_replaced(
        self, files: Sequence[Entry], before: dict[str, StoredObject]
    ) -> tuple[list[str], list[str]]:
        """Delete what the archive replaces, once a new listing shows all files of the archive.

        Raises:
            ArchiveUnwritable: another program changed the copy meanwhile.
        """
        local, now_ns = {file.path for file in files}, time.time_ns()
        if self._is_dry:
            return choose_deletions(_expected(before, self.uploaded, now_ns), local, now_ns)
        stored = {item.path: item for item in self._remote.objects("")}
        for file in files:
            found = stored.get(file.path)
            if found is None or not self._record.has(file, found.e_tag):
                raise ArchiveUnwritable(
                    f"{self._remote.location(file.path)} was changed by another program during "
                    "the sync: nothing was deleted; try again"
                )
        objects = [Entry(*item[:3]) for item in stored.values()]
        deleted, kept = choose_deletions(objects, local, now_ns)
        for path in deleted:
            self._remote.remove(path)
        return deleted, kept


def list_files(archive: TradeStore) -> list[Entry]:
    """List the segments of an archive, and their roll-ups.

    Raises:
        ArchiveDamaged: a folder is a symbolic link.
    """
    segments = [
        Entry(segment.path, segment.size, segment.changed_ns) for segment in archive.all_segments()
    ]
    paths = {entry.path for entry in segments}
    rollups = [
        entry
        for entry in archive.store.files("candles")
        if (rollup := parse_rollup_path(entry.path, entry.size)) and rollup.segment_path in paths
    ]
    return segments + rollups


def md5_tags(file: BinaryIO) -> set[str]:
    """The ETags that S3 gives a file which it does not encrypt: written at once, or in parts."""
    whole, parts = hashlib.md5(usedforsecurity=False), []
    file.seek(0)
    while part := file.read(PART_BYTES):
        whole.update(part)
        parts.append(hashlib.md5(part, usedforsecurity=False).digest())
    in_parts = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return {whole.hexdigest(), f"{in_parts}-{len(parts)}"}


# --- deletions ------------------------------------------------------------------------------------


def choose_deletions(
    objects: Collection[Entry], local: Collection[str], now_ns: int
) -> tuple[list[str], list[str]]:
    """Choose the objects that segments of the archive replace, in the order of their deletion.

    A segment that the archive does not have is replaced if segments that it has, and that were
    written later, cover its whole range. As only later ones count, two syncs at once can't delete
    what the other one keeps. Other objects are ignored.

    Args:
        objects: all objects of the copy.
        local: the paths of the archive's segments and roll-ups; the copy has them all.
        now_ns: the time: a range that ends later was covered by a wrong clock, and counts up to
            when it was written.

    Returns:
        The paths to delete, roll-ups first; and those of segments that are kept.
    """
    replaced, kept = list[str](), list[str]()
    for segments in _by_pair(objects):
        current = [segment for segment in segments if segment.path in local]
        end_ns = max((segment.range.through for segment in current), default=0)
        for segment in segments:
            if segment.path in local:
                continue
            later = [other.range for other in current if _age_order(other) > _age_order(segment)]
            past = without_future([segment.range], now_ns, max(segment.changed_ns, end_ns))
            is_replaced = bool(later) and not missing(past, union(later))
            (replaced if is_replaced else kept).append(segment.path)
    rollups = (parse_rollup_path(item.path, item.size) for item in objects)
    gone = set(replaced)
    unused = [
        rollup.path
        for rollup in rollups
        if rollup and rollup.path not in local and rollup.segment_path in gone
    ]
    return unused + replaced, kept


def _expected(stored: dict[str, StoredObject], new: Iterable[Entry], now_ns: int) -> list[Entry]:
    """All objects of the copy once some files are written."""
    expected = {path: Entry(*item[:3]) for path, item in stored.items()}
    expected |= {file.path: file._replace(changed_ns=now_ns) for file in new}
    return list(expected.values())


def find_cut(objects: Iterable[Entry], deleted: Iterable[str]) -> tuple[str, str] | None:
    """Find an imported segment whose beginning is cut off by a downloaded one.

    By its rounded time, a trade at that moment may be on either side. No archive has such segments.

    Args:
        objects: all objects of the copy.
        deleted: the paths of those that are deleted.

    Returns:
        The paths of the downloaded segment and of the imported one; None if there is none.
    """
    gone = set(deleted)
    for segments in _by_pair(item for item in objects if item.path not in gone):
        pieces = pieces_of(sorted(segments, key=reading_order))
        for (before, _), (segment, within) in pairwise(pieces):
            is_cut = within.after > segment.range.after
            if is_cut and segment.is_imported and not before.is_imported:
                return before.path, segment.path
    return None


def _by_pair(objects: Iterable[Entry]) -> Iterable[list[Segment]]:
    """The segments among some objects, in a list for each pair."""
    of_pair = defaultdict[str, list[Segment]](list)
    for segment in filter(None, (parse_path(*item) for item in objects)):
        of_pair[segment.pair].append(segment)
    return of_pair.values()


def _age_order(segment: Segment) -> tuple[int, int, int, bool]:
    """Sort key by age: the second of writing, then the reverse of the order of reading."""
    after, through = segment.range
    return segment.changed_ns // SECOND, -after, through, not segment.is_imported


# --- record ---------------------------------------------------------------------------------------

# Without it, every file of the archive would be read each night to compare checksums. It is never
# needed, and can be deleted at any time.

RECORD_PATH = "cache/sync.json"


class _SyncedFile(NamedTuple):
    size: int
    changed_ns: int
    e_tag: str


class _RecordFile(msgspec.Struct):
    format: int = 1
    copies: dict[str, dict[str, _SyncedFile]] = {}


class _SyncRecord:
    """Which file was found in the copy at a URL, under which ETag."""

    def __init__(self, archive: TradeStore, url: str) -> None:
        self._store = archive.store
        self._url = url
        self._known = self._read().copies.get(url, {})

    def _read(self) -> _RecordFile:
        try:
            raw = self._store.read(RECORD_PATH)
            record = msgspec.json.decode(raw, type=_RecordFile) if raw else _RecordFile()
        except (HarvesterError, *BAD_JSON):
            return _RecordFile()
        return record if record.format == 1 else _RecordFile()

    def has(self, file: Entry, e_tag: str) -> bool:
        """Whether an object with this ETag has the bytes of a file."""
        return self._known.get(file.path) == (file.size, file.changed_ns, e_tag) and e_tag != ""

    def add(self, file: Entry, e_tag: str) -> None:
        """Note that an object with this ETag has the bytes of a file."""
        self._known[file.path] = _SyncedFile(file.size, file.changed_ns, e_tag)

    def save(self) -> None:
        """Write the record; without it the next sync only takes longer."""
        record = self._read()
        root = self._store.root
        record.copies[self._url] = {
            path: known for path, known in self._known.items() if (root / path).exists()
        }
        with suppress(HarvesterError):
            self._store.write_locked(RECORD_PATH, msgspec.json.encode(record), LOCK)
