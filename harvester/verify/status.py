"""What is stored of each pair, trades, coverage, gaps, from file names, footers and their cache."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from harvester.errors import (
    BAD_JSON,
    ArchiveDamaged,
    ArchiveError,
    ArchiveIncomplete,
    HarvesterError,
)
from harvester.kraken.trades import PAGE_ROWS
from harvester.storage.filesystem import LocalStore
from harvester.storage.locks_and_requests import locked
from harvester.storage.parquet_files import opened
from harvester.storage.segment import Segment, decode_footer
from harvester.storage.trade_store import (
    TradeStore,
    ending_in_future,
    future_message,
    pieces_of,
    retry_on_new_listing,
    without_future,
)
from harvester.times import BEGINNING_NS, SECOND, Range, enclosing_range, missing, union

# --- metadata cache -------------------------------------------------------------------------------

# The cache is never needed and can be deleted at any time. An entry is valid while the file has the
# size and the modification time that it had when its footer was read; segments never change.

CACHE_PATH = "cache/footers.json"
_CACHE_LOCK = "_cache"
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

    def get(self, segment: Segment) -> SegmentSummary:
        """Return the summary of a listed segment.

        Raises:
            FileNotFoundError: the file is gone; list again.
            ArchiveTooNew: a newer harvester wrote it.
            ArchiveDamaged: it is no Parquet file, or has no footer of harvester's.
        """
        cached = self._cached.get(segment.path)
        if cached is None or cached[:2] != (segment.size, segment.changed_ns):
            summary = read_summary(self._archive.store, segment.path)
            cached = _CachedSummary(segment.size, segment.changed_ns, summary)
            self._read += 1
        self._used[segment.path] = cached
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
        with suppress(HarvesterError), locked(self._archive.root / "locks", _CACHE_LOCK):
            store.write_locked(CACHE_PATH, data, _CACHE_LOCK)


def read_summary(store: LocalStore, path: str) -> SegmentSummary:
    """Read the summary of a segment from its footer and statistics; no row is read.

    Args:
        store: the archive's files.
        path: of the segment.
    """
    with opened(store, path) as file:
        footer = decode_footer(path, file.metadata)
    return SegmentSummary(footer.rows, *(footer.bounds or ()))


def _read_cache(store: LocalStore) -> dict[str, _CachedSummary]:
    try:
        raw = store.read(CACHE_PATH)
        cache = msgspec.json.decode(raw, type=_CacheFile) if raw else _CacheFile()
    except (HarvesterError, *BAD_JSON):
        return {}
    return cache.segments if cache.format == 1 else {}


# --- status ---------------------------------------------------------------------------------------

EXTRA_CALLS_PER_GAP = 2
"""Calls for a gap apart from its pages: the page that shows its end, and the newest page."""


@dataclass(slots=True)
class PairStatus:
    """What an archive has of a pair. Times are published times, in nanoseconds since the epoch.

    Attributes:
        pair: altname.
        wsname: the exchange's name for people, such as XBT/USD; empty if it is not known.
        trades: number of trades.
        first_ns: time of the first trade; None if there is none.
        last_ns: time of the last trade; None if there is none.
        coverage: the ranges that were downloaded or imported completely.
        wanted: the ranges that were ever requested.
        gaps: the ranges that were requested and are not covered.
        files: number of segments.
        bytes: size of all segments together.
        rollups: by level, how many segments with trades have a roll-up.
        rollups_wanted: how many segments have trades, and so can have a roll-up.
        age_s: seconds since the end of coverage; None if nothing is covered.
        calls_for_gaps: estimated number of requests that fill the gaps; None if there are no trades
            to estimate by.
        calls_to_now: estimated number of requests from the end of coverage to now, likewise.
        damaged: messages about files that can't be read, which count in `files` only, and about
            files whose range ends in the future.
    """

    pair: str
    wsname: str = ""
    trades: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    coverage: list[Range] = field(default_factory=list)
    wanted: list[Range] = field(default_factory=list)
    gaps: list[Range] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    rollups: dict[str, int] = field(default_factory=dict)
    rollups_wanted: int = 0
    age_s: int | None = None
    calls_for_gaps: int | None = None
    calls_to_now: int | None = None
    damaged: list[str] = field(default_factory=list)

    @property
    def never_requested(self) -> list[Range]:
        """The time between downloads and imports that nobody requested: it is no gap."""
        known = union([*self.coverage, *self.gaps])
        return missing(enclosing_range(known), known)

    @property
    def bytes_per_trade(self) -> float | None:
        """Size of the segments divided by the number of trades; None if there are none."""
        return self.bytes / self.trades if self.trades else None

    @property
    def calls(self) -> int | None:
        """Estimated number of requests until it is complete up to now."""
        if self.calls_for_gaps is None or self.calls_to_now is None:
            return None
        return self.calls_for_gaps + self.calls_to_now

    @property
    def exit_status(self) -> int:
        """0 if everything requested is covered and can be read, else 4."""
        return ArchiveIncomplete.exit_status if self.gaps or self.damaged else 0


def status(archive: TradeStore, pairs: Sequence[str] | None, now_ns: int) -> list[PairStatus]:
    """The status of some pairs, or of all.

    Args:
        archive: the archive.
        pairs: altnames; None for all that are stored or were ever requested.
        now_ns: the time to which ages are counted.

    Raises:
        ArchiveDamaged: files keep vanishing while they are listed.
        ArchiveTooNew: a newer harvester wrote one of them.
        ArchiveError: a folder can't be read.
    """
    summaries = SegmentSummaryCache(archive)
    names = _names(archive)
    chosen = _all_pairs(archive) if pairs is None else pairs
    found = [_status_of(archive, pair, summaries, now_ns) for pair in chosen]
    summaries.save(whole=pairs is None)
    for status_ in found:
        status_.wsname = names.get(status_.pair, status_).wsname
    if pairs is not None:
        return found
    return [known for known in found if known.files or known.wanted or known.damaged]


class _Named(msgspec.Struct):
    wsname: str = ""


def _names(archive: TradeStore) -> dict[str, _Named]:
    """Names for people; none if they can't be read, as a status is possible without them."""
    try:
        raw = archive.store.read("pairs.json")
        return msgspec.json.decode(raw, type=dict[str, _Named]) if raw else {}
    except (ArchiveError, *BAD_JSON):
        return {}


def _all_pairs(archive: TradeStore) -> list[str]:
    stored = {name.removeprefix("pair=") for name in archive.store.folders("trades")}
    return sorted(stored | archive.requested_pairs())


@retry_on_new_listing
def _status_of(
    archive: TradeStore, pair: str, summaries: SegmentSummaryCache, now_ns: int
) -> PairStatus:
    found = PairStatus(pair)
    try:
        listed = archive.segments(pair)
    except ArchiveDamaged as damage:
        found.damaged.append(str(damage))
        return found
    known: dict[Segment, SegmentSummary] = {}
    for segment in listed:
        try:
            known[segment] = summaries.get(segment)
        except ArchiveDamaged as damage:
            found.damaged.append(str(damage))
    _add_up(found, listed, known)
    _find_gaps(found, archive, listed, now_ns)
    if found.coverage:
        found.age_s = max(0, now_ns - found.coverage[-1].through) // SECOND
    density = TradeDensity(known)
    found.calls_for_gaps = density.calls(found.gaps)
    end_ns = found.coverage[-1].through if found.coverage else now_ns
    found.calls_to_now = density.calls([Range(end_ns, now_ns)] if end_ns < now_ns else [])
    with_rows = {segment.path for segment, summary in known.items() if summary.rows}
    _count_rollups(found, archive, with_rows)
    return found


def _add_up(
    found: PairStatus, segments: Sequence[Segment], known: dict[Segment, SegmentSummary]
) -> None:
    found.files = len(segments)
    found.bytes = sum(segment.size for segment in segments)
    found.coverage = union(segment.range for segment in segments)
    found.trades = sum(
        known[piece.segment].rows for piece in pieces_of(segments) if piece.segment in known
    )
    summaries = known.values()
    firsts = [summary.first_ns for summary in summaries if summary.first_ns is not None]
    lasts = [summary.last_ns for summary in summaries if summary.last_ns is not None]
    found.first_ns, found.last_ns = min(firsts, default=None), max(lasts, default=None)


def _find_gaps(
    found: PairStatus, archive: TradeStore, segments: Iterable[Segment], now_ns: int
) -> None:
    try:
        found.wanted = archive.requested(found.pair)
    except ArchiveDamaged as damage:
        found.damaged.append(str(damage))
    found.gaps = missing(without_future(found.wanted, now_ns), found.coverage)
    found.damaged += [
        future_message(archive, segment, now_ns) for segment in ending_in_future(segments, now_ns)
    ]


def _count_rollups(found: PairStatus, archive: TradeStore, with_rows: set[str]) -> None:
    found.rollups_wanted = len(with_rows)
    for rollup in archive.rollups(found.pair):
        if rollup.segment_path in with_rows:
            found.rollups[rollup.interval] = found.rollups.get(rollup.interval, 0) + 1


class TradeDensity:
    """Estimates how many trades a range has, by the segments next to it."""

    def __init__(self, known: dict[Segment, SegmentSummary]) -> None:
        """`known`: a pair's segments by `after`, and the summaries of their footers."""
        self._rows_of = [
            (
                Range(max(segment.range.after, summary.first_ns - 1), segment.range.through),
                summary.rows,
            )
            for segment, summary in known.items()
            if summary.first_ns is not None
        ]

    def calls(self, ranges: Iterable[Range]) -> int | None:
        """The estimated number of requests that download some ranges; None without any trade."""
        total = 0
        for missing_range in ranges:
            if not self._rows_of:
                return None
            width_ns = max(0, missing_range.through - max(missing_range.after, BEGINNING_NS))
            trades = self._trades_per_ns(missing_range) * width_ns
            total += math.ceil(trades / PAGE_ROWS) + EXTRA_CALLS_PER_GAP
        return total

    def _trades_per_ns(self, near: Range) -> float:
        """Trades per nanosecond in the nearest segments with trades before and after a range."""
        before = [item for item in self._rows_of if item[0].through <= near.after][-1:]
        after = [item for item in self._rows_of if item[0].after >= near.through][:1]
        nearest = before + after or self._rows_of[-1:]
        rows = sum(rows for _, rows in nearest)
        return rows / sum(known.through - known.after for known, _ in nearest)
