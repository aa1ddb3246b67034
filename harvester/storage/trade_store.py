"""Read access to the stored trades of all pairs: segments, coverage, gaps, scans, trade ids."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from threading import Lock
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import pyarrow as pa

from harvester.errors import ArchiveDamaged, first_few
from harvester.schema import times, trade_ids
from harvester.storage import locks_and_requests
from harvester.storage.filesystem import LocalStore
from harvester.storage.id_gaps import (
    BEFORE_FIRST_ID,
    FirstId,
    LastId,
    TradeIdentity,
    identities,
)
from harvester.storage.parquet_files import has_rows_of, read_batches, read_footer
from harvester.storage.segment import (
    Footer,
    RollUp,
    Segment,
    list_rollups,
    parse_path,
    reading_order,
)
from harvester.times import DAY, END_OF_TIME, Range, enclosing_range, missing, overlap, show, union

PairFile = Segment | RollUp
EVERYTHING = Range(0, END_OF_TIME)
MAX_SNAPSHOT_TRIES = 20
"""How often a reader lists files that vanish while it reads, before it reports damage."""

MAX_NAMED = 8
"""Pairs that a message names."""

A = TypeVar("A", bound="TradeStore")
P = ParamSpec("P")
T = TypeVar("T")


class Piece(NamedTuple):
    """A part of a segment to be read: only the rows published in `within`."""

    segment: Segment
    within: Range


def pieces_of(segments: Iterable[Segment], within: Range = EVERYTHING) -> list[Piece]:
    """Choose what to read so that each moment comes from one segment only.

    Args:
        segments: in the order of `TradeStore.segments`.
        within: the range to be read.
    """
    pieces: list[Piece] = []
    reached = within.after
    for segment in segments:
        if segment.range.through <= reached or segment.range.after >= within.through:
            continue
        part = Range(max(reached, segment.range.after), min(within.through, segment.range.through))
        pieces.append(Piece(segment, part))
        reached = part.through
    return pieces


@dataclass(slots=True)
class _Cache:
    """What was read about the files of one pair; segments and roll-ups never change."""

    footers: dict[Segment, Footer] = field(default_factory=dict)
    valid_rollups: set[tuple[RollUp, str]] = field(default_factory=set)


def with_snapshot_retry(
    read: Callable[[], T], title: str, *, is_stale: Callable[[], bool] = lambda: False
) -> T:
    """Run `read`; if files vanish meanwhile (a writer merged them), run it again, up to 20 times.

    Args:
        read: lists files and reads them; it lists again whenever it is called.
        title: what is read, for the message: "files of XBTUSD keep vanishing".
        is_stale: called when `read` raises ArchiveDamaged: whether a file of its listing is gone
            by now, which explains the error and is retried as well.

    Raises:
        ArchiveDamaged: by `read`, or because files keep vanishing.
    """
    for _ in range(MAX_SNAPSHOT_TRIES):
        try:
            return read()
        except FileNotFoundError:
            continue
        except ArchiveDamaged:
            if not is_stale():
                raise
    raise unstable_files(title)


def unstable_files(title: str, change: str = "vanishing") -> ArchiveDamaged:
    """The error that the files of `title` keep changing while they are read."""
    return ArchiveDamaged(f"files of {title} keep {change} while they are read: try again")


def retry_on_new_listing(
    read: Callable[Concatenate[A, str, P], T],
) -> Callable[Concatenate[A, str, P], T]:
    """Decorate a function of a store and a pair so that it runs under `with_snapshot_retry`."""

    @wraps(read)
    def retried(archive: A, pair: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return with_snapshot_retry(partial(read, archive, pair, *args, **kwargs), pair)

    return retried


def object_store(url: str) -> LocalStore:
    """Return the files of an archive in an object store.

    Raises:
        UsageError: it is no URL such as s3://bucket/prefix, or a library is missing.
    """
    from harvester.storage.object_store import ObjectStore  # noqa: PLC0415 - the extra `s3`

    return ObjectStore(url)


class TradeStore:
    """The segments of an archive. Reading needs no lock; each pair is written by its `Writer`."""

    def __init__(self, path: str | os.PathLike[str], *, for_writing: bool = False) -> None:
        """Open the archive at `path`, a folder that need not exist yet, or the URL of a copy.

        Args:
            path: the folder or the URL.
            for_writing: refuse a copy in an object store, before the exchange is asked.

        Raises:
            UsageError: the archive is in an object store, and `for_writing` is set.
            ArchiveTooNew: a newer harvester made the archive.
            ArchiveDamaged: its `archive.json` can't be read.
        """
        self.path = str(path)
        self.store = object_store(self.path) if "://" in self.path else LocalStore(path)
        if for_writing:
            self.store.root  # noqa: B018 - raises the error
        # By pair, as one thread may drop a pair's entries while another adds those of the next.
        self._caches: defaultdict[str, _Cache] = defaultdict(_Cache)
        locks_and_requests.check_format(self.store)

    @property
    def root(self) -> Path:
        """The folder of the archive, which whatever writes needs.

        Raises:
            UsageError: the archive is in an object store.
        """
        return self.store.root

    def stored_pairs(self) -> list[str]:
        """List the altnames of the pairs that have segments, or whose folder is a refused link."""
        pairs = []
        for name in self.store.folders("trades"):
            pair = name.removeprefix("pair=")
            # Reading a pair reports its damage; the other pairs can be read.
            with suppress(ArchiveDamaged):
                if not self.segments(pair):
                    continue
            pairs.append(pair)
        return pairs

    def all_segments(self) -> list[Segment]:
        """List the segments of all pairs; see `segments`."""
        return [segment for pair in self.stored_pairs() for segment in self.segments(pair)]

    def stored_pairs_text(self, pairs: Sequence[str]) -> str:
        """Say which pairs have segments, or why none has; for messages about one that has none.

        Args:
            pairs: the altnames that `stored_pairs` returned.
        """
        if pairs:
            return f"it holds {first_few(pairs, MAX_NAMED)}"
        if "://" not in self.path and not Path(self.path).exists():
            # A program or a notebook may run in another folder than its author thinks.
            return f"there is no folder {Path(self.path).absolute()}"
        return "it is empty"

    def stored_or_requested(self) -> list[str]:
        """List the altnames of the pairs that have segments or were ever requested."""
        return sorted({*self.stored_pairs(), *self.requested_pairs()})

    def requested_pairs(self) -> set[str]:
        """Return the altnames of the pairs that were ever requested."""
        return {
            entry.path.removeprefix("wanted/").removesuffix(".json")
            for entry in self.store.files("wanted")
            if entry.path.endswith(".json")
        }

    def foreign_files(self, pair: str) -> list[str]:
        """List Parquet files under `trades/` that are not segments; `read_parquet` would read them.

        These are the files in the pair's folder, and those that are in no pair's folder.

        Raises:
            ArchiveDamaged: a folder is a symbolic link.
        """
        entries = self.store.files(f"trades/pair={pair}", refuse_links=True)
        entries += self.store.files("trades", refuse_links=True, excluding="trades/pair=")
        paths = [entry.path for entry in entries if parse_path(*entry) is None]
        return sorted(path for path in paths if path.endswith(".parquet"))

    def pairs_to_verify(self) -> list[str]:
        """List the pairs that are stored or requested, or have a folder with any Parquet file."""
        with_files = {
            name.removeprefix("pair=")
            for name in self.store.folders("trades")
            if name.startswith("pair=")
            and any(entry.path.endswith(".parquet") for entry in self.store.files(f"trades/{name}"))
        }
        return sorted({*self.stored_or_requested(), *with_files})

    def segments(self, pair: str) -> list[Segment]:
        """List a pair's segments in the order in which they are read; no file is opened.

        By start of range, widest first. Of a downloaded and an imported segment of equal range, the
        downloaded one comes first, so that it is read.
        """
        entries = self.store.files(f"trades/pair={pair}", refuse_links=True)
        listed = (parse_path(*entry) for entry in entries)
        found = [segment for segment in listed if segment is not None and segment.pair == pair]
        return sorted(found, key=reading_order)

    def coverage(self, pair: str) -> list[Range]:
        """Return the ranges that were downloaded or imported completely, merged and in order."""
        return union(segment.range for segment in self.segments(pair))

    def requested(self, pair: str) -> list[Range]:
        """Return the ranges that were ever requested.

        If that record was lost, this is everything from the first segment to the last. What can't
        be downloaded, as the exchange does not know the pair any more, is not among them.

        Raises:
            ArchiveDamaged: the record can't be read.
        """
        requested = locks_and_requests.read_requests(self.store, pair)
        if not requested.ranges:
            return enclosing_range(self.coverage(pair))
        if not requested.is_unlisted:
            return list(requested.ranges)
        ends = [covered.through for covered in self.coverage(pair)]
        limit = Range(0, max([requested.counts_through, requested.rows_through, *ends]))
        parts = (overlap(part, limit) for part in requested.ranges)
        return [part for part in parts if part is not None]

    def gaps(self, pair: str) -> list[Range]:
        """Return the ranges that were requested and are not covered."""
        return missing(self.requested(pair), self.coverage(pair))

    def pieces(self, pair: str, within: Range = EVERYTHING) -> list[Piece]:
        """List what to read for the trade history of a range, each moment from one segment only.

        Of each segment only rows past the coverage so far are read, so the result is right at
        every moment of a compaction.

        Args:
            pair: altname.
            within: the range.
        """
        return pieces_of(self.segments(pair), within)

    def footer(self, segment: Segment) -> Footer:
        """Return a segment's metadata; it is read once, as segments never change.

        Raises:
            FileNotFoundError: the file is gone; list again.
        """
        footers = self._caches[segment.pair].footers
        footer = footers.get(segment)
        if footer is None:
            footer = footers[segment] = read_footer(self.store, segment.path)
        return footer

    @retry_on_new_listing
    def market_footer(self, pair: str) -> Footer | None:
        """Return the first footer that has a market key; the whole pair's folder has that market.

        None where no footer has one. Files that can't be read are skipped.

        Raises:
            ArchiveDamaged: files keep vanishing.
        """
        for segment in self.segments(pair):
            with suppress(ArchiveDamaged):
                footer = self.footer(segment)
                if footer.key:
                    return footer
        return None

    def forget(self, segment: Segment) -> None:
        """Drop the cached metadata of a segment that is about to be deleted."""
        self._caches[segment.pair].footers.pop(segment, None)

    def forget_pair(self, pair: str) -> None:
        """Drop all cached metadata of a pair, as another process may have changed its files."""
        self._caches.pop(pair, None)

    def rollups(self, pair: str) -> list[RollUp]:
        """List a pair's roll-ups of all levels; no file is opened."""
        return list_rollups(self.store, pair)

    def is_rollup_valid(self, rollup: RollUp, segment: Segment) -> bool:
        """Whether a roll-up was made from exactly the rows of a segment.

        Args:
            rollup: as it is listed.
            segment: as it is listed.

        Raises:
            FileNotFoundError: one of the files is gone; list again.
        """
        footer = self.footer(segment)
        key, valid = (rollup, footer.checksum), self._caches[segment.pair].valid_rollups
        if key not in valid and has_rows_of(self.store, rollup, footer):
            valid.add(key)
        return key in valid

    def pair_files(self, pair: str) -> frozenset[PairFile]:
        """List a pair's segments and its roll-ups of all levels; no file is opened."""
        return frozenset((*self.segments(pair), *self.rollups(pair)))

    def location(self, segment: PairFile) -> str:
        """The full path of a file, as any Parquet reader opens it."""
        return self.store.location(segment.path)

    def scan(self, pair: str, within: Range = EVERYTHING) -> Iterator[pa.RecordBatch]:
        """Yield the trade history of a range as batches of `SEGMENT_SCHEMA`, in order.

        A writer may be at work meanwhile: where files vanish, the scan continues on a new listing.

        Args:
            pair: altname.
            within: the range.

        Raises:
            ArchiveDamaged: a file can't be read, files keep vanishing, or an imported one that was
                half read is replaced by downloaded trades, whose times are others.
        """
        # A batch may end inside a group of equal time: `yielded` rows past `reached` were yielded.
        reached, yielded = within.after, 0
        is_imported = False
        for _ in range(MAX_SNAPSHOT_TRIES):
            skip = yielded
            try:
                for piece in self.pieces(pair, Range(reached, within.through)):
                    if yielded and piece.segment.is_imported != is_imported:
                        raise ArchiveDamaged(
                            f"imported trades of {pair} were replaced while they were read: try "
                            "again"
                        )
                    is_imported = piece.segment.is_imported
                    for batch in read_batches(self.store, piece.segment.path, piece.within):
                        fresh = batch.slice(skip)
                        skip -= batch.num_rows - fresh.num_rows
                        if fresh.num_rows:
                            yield fresh
                            reached = int(times(fresh)[-1]) - 1
                            yielded = fresh.column("tie")[-1].as_py() + 1
                    reached, yielded = piece.within.through, 0
            except FileNotFoundError:
                continue
            return
        raise unstable_files(pair)

    def identities_in(self, pair: str, within: Range) -> set[TradeIdentity]:
        """Return the identities of a range's trades with an id.

        Args:
            pair: altname.
            within: a short range, as all its trades are kept in memory.
        """
        scanned = self.scan(pair, within)
        return {trade for rows in scanned for trade in identities(rows) if trade.trade_id}

    @retry_on_new_listing
    def last_id_before(self, pair: str, moment: int) -> LastId | None:
        """Return the last trade id at or before a moment, where coverage reaches that moment.

        Args:
            pair: altname.
            moment: end of a covered range, in nanoseconds.

        Returns:
            The id, with the rows without an id between it and the moment; None where coverage
            does not reach the moment, or no row has an id.
        """
        between, at = 0, moment
        for segment in reversed(self.segments(pair)):
            if segment.range.through != at:
                continue
            footer = self.footer(segment)
            if footer.last_trade_id is not None:
                time_ns = footer.bounds[1] if footer.bounds else 0
                if footer.rows_after_last_id:
                    columns = ["trade_id", "time"]
                    for batch in read_batches(self.store, segment.path, columns=columns):
                        indexes = trade_ids(batch).nonzero()[0]
                        time_ns = int(times(batch)[indexes[-1]]) if len(indexes) else time_ns
                return LastId(footer.last_trade_id, between + footer.rows_after_last_id, time_ns)
            between += footer.rows
            at = segment.range.after
        return None

    @retry_on_new_listing
    def first_id_after(self, pair: str, moment: int) -> FirstId | None:
        """Return the first trade with an id after a moment, where coverage begins at that moment.

        Args:
            pair: altname.
            moment: start of a covered range, in nanoseconds.

        Returns:
            None where coverage does not begin at the moment, or no row has an id.
        """
        between, at = 0, moment
        for segment in self.segments(pair):
            if segment.range.after != at:
                continue
            footer = self.footer(segment)
            if footer.first_trade_id is not None:
                return FirstId(footer.first_trade_id, between + footer.rows_before_first_id)
            between += footer.rows
            at = segment.range.through
        return None

    @retry_on_new_listing
    def last_time(self, pair: str, moment: int) -> int | None:
        """Return the published time of the last stored trade at or before a moment.

        Args:
            pair: altname.
            moment: in nanoseconds, as the result; None means there is no such trade.
        """
        pieces = reversed(self.pieces(pair, Range(0, moment)))
        return next(
            (found for piece in pieces if (found := self.last_time_in(piece)) is not None), None
        )

    def is_imported_at(self, pair: str, moment: int) -> bool:
        """Whether the segment that covers a moment was imported: its times may be whole seconds.

        Args:
            pair: altname.
            moment: in nanoseconds.
        """
        pieces = self.pieces(pair, Range(moment - 1, moment))
        return any(piece.segment.is_imported for piece in pieces)

    def imported_in(self, pair: str, within: Range) -> str:
        """Return the location of the first imported segment in a range; empty if there is none.

        Args:
            pair: altname.
            within: the range; it may be empty.
        """
        pieces = self.pieces(pair, within) if within.after < within.through else []
        return next((self.location(file) for file, _ in pieces if file.is_imported), "")

    @retry_on_new_listing
    def imported_from_first(self, pair: str, moment: int) -> LastId | None:
        """Return id 0 and the trades after it, up to a moment, if the first ones were imported.

        Args:
            pair: altname.
            moment: up to which all is covered, in nanoseconds.
        """
        pieces = self.pieces(pair, Range(0, moment))
        rows = [self.footer(piece.segment).rows for piece in pieces]
        first = next(piece.segment for piece, count in zip(pieces, rows, strict=True) if count)
        return BEFORE_FIRST_ID._replace(rows_without_id=sum(rows)) if first.is_imported else None

    @retry_on_new_listing
    def is_imported_before_id(self, pair: str, moment: int) -> bool:
        """Whether there is imported data between a moment and the first stored id after it.

        Args:
            pair: altname.
            moment: start of a covered range, in nanoseconds.
        """
        reached = moment
        for segment, within in self.pieces(pair, Range(moment, EVERYTHING.through)):
            if within.after != reached:
                break
            footer = self.footer(segment)
            first_ns = footer.bounds[0] if footer.bounds else 0
            if footer.rows_before_first_id == 0 and first_ns > reached:
                reached = first_ns
                break
            reached = within.through
            if footer.first_trade_id is not None:
                break
        return bool(self.imported_in(pair, Range(moment, reached)))

    def last_time_in(self, piece: Piece) -> int | None:
        """Return the published time of the last trade of a piece, in nanoseconds; None for none."""
        bounds = self.footer(piece.segment).bounds
        if bounds is None or bounds[0] > piece.within.through:
            return None
        if bounds[1] <= piece.within.through:
            return bounds[1] if bounds[1] > piece.within.after else None
        # The piece ends inside the segment, so its rows have to be read.
        batches = list(read_batches(self.store, piece.segment.path, piece.within, ["time"]))
        return int(times(batches[-1])[-1]) if batches else None


class SnapshotStore(TradeStore):
    """An archive for the time of one answer.

    A listing of a pair that covers less than one before it raises ArchiveDamaged, because the gaps
    already named would be too few. Segments that begin after the first listing's coverage are
    ignored, because a gap may lie before them.
    """

    def __init__(self, archive: TradeStore) -> None:
        """Read the files of an archive."""
        self.path, self.store = archive.path, archive.store
        self._caches = archive._caches  # noqa: SLF001 - the same files need not be read again
        self._covered: dict[str, list[Range]] = {}
        """The coverage of each pair that was listed, as in any listing so far."""
        self._ends_ns: dict[str, int] = {}
        """Where the coverage of each of them ended at its first listing."""
        self._lock = Lock()

    def segments(self, pair: str) -> list[Segment]:
        """List the segments, but not those that begin after the coverage of the first listing.

        Raises:
            ArchiveDamaged: they cover less than when they were listed before.
        """
        # A thread that lists before another one must also compare before it.
        with self._lock:
            found = super().segments(pair)
            covered = union(segment.range for segment in found)
            end_ns = self._ends_ns.setdefault(pair, covered[-1].through if covered else 0)
            lost = missing(self._covered.get(pair, []), covered)
            if not lost:
                until_end = (overlap(part, Range(0, end_ns)) for part in covered)
                self._covered[pair] = [part for part in until_end if part is not None]
            found = [segment for segment in found if segment.range.after < end_ns]
        if lost:
            raise ArchiveDamaged(
                f"{pair}: {lost[0]} is not covered any more since this answer was begun: ask again"
            )
        return found


# Coverage that ends in the future, left by a wrong clock: it claims that there are no trades in a
# time that is still to come, so later runs would never download them.

CLOCK_TOLERANCE_NS = DAY
"""Coverage may end this much after this machine's time before it counts as wrong."""


def ending_in_future(segments: Iterable[Segment], now_ns: int) -> list[Segment]:
    """Select the segments whose range ends later than `now_ns` plus the tolerance.

    Args:
        segments: of one pair.
        now_ns: this machine's time.
    """
    return [segment for segment in segments if segment.range.through > now_ns + CLOCK_TOLERANCE_NS]


def future_fault(segment: Segment, now_ns: int) -> str:
    """Describe the fault of a segment whose range ends in the future.

    Args:
        segment: such a segment.
        now_ns: this machine's time.
    """
    return (
        f"its range ends in the future, at {show(segment.range.through)}, while this machine's "
        f"clock says {show(now_ns)}: one clock was or is wrong, and trades may be missing"
    )


def future_message(archive: TradeStore, segment: Segment, now_ns: int) -> str:
    """Describe the fault of a segment whose range ends in the future, its file and what to do.

    Args:
        archive: that has the segment.
        segment: such a segment.
        now_ns: this machine's time.
    """
    return (
        f"{archive.location(segment)}: {future_fault(segment, now_ns)}; if this machine's clock is "
        f"right, `harvester verify {segment.pair} --repair` cuts the range"
    )


def check_not_in_future(archive: TradeStore, pair: str, now_ns: int) -> None:
    """Refuse coverage that ends in the future.

    Args:
        archive: that has the pair.
        pair: altname.
        now_ns: this machine's time.

    Raises:
        ArchiveDamaged: the range of a segment ends in the future.
    """
    for segment in ending_in_future(archive.segments(pair), now_ns):
        raise ArchiveDamaged(future_message(archive, segment, now_ns))


def without_future(
    requested: Iterable[Range], now_ns: int, until_ns: int | None = None
) -> list[Range]:
    """Shorten requested ranges that end in the future; drop those that begin there.

    No run requests the future, so only a wrong clock leaves such ranges.

    Args:
        requested: the requested ranges.
        now_ns: this machine's time.
        until_ns: where they are to end; None means `now_ns`.
    """
    limit_ns = now_ns if until_ns is None else until_ns
    shortened = (
        part._replace(through=min(part.through, limit_ns))
        if part.through > now_ns + CLOCK_TOLERANCE_NS
        else part
        for part in requested
    )
    return [part for part in shortened if part.after < part.through]
