"""Pages of the trade history in Kraken's form, and a cache of the rows that were rendered."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from harvester.schema import Int64s, joined, times, trade_ids
from harvester.server.kraken_json import RenderedRows, render
from harvester.storage import locks_and_requests
from harvester.storage.parquet_files import read_batches
from harvester.storage.segment import Segment
from harvester.storage.trade_store import Piece, TradeStore, with_snapshot_retry
from harvester.times import BEGINNING_NS, Range, missing, overlap

LISTING_TTL_S = 1.0
"""A listing is used for this long: an archive gets a new segment every half minute at most."""

CACHE_BYTES = 160 * 1024 * 1024
"""Most memory of rendered rows: about sixteen row groups, two for each of eight pairs."""

Clock = Callable[[], float]
"""A monotonic clock in seconds."""


MOST_OF_EQUAL_TIME = 1_000_000
"""The cursor of a row is at most this many nanoseconds later than its time."""


class RenderedPage(NamedTuple):
    """A page of rows as JSON.

    Attributes:
        text: the rows, each followed by a comma.
        first_ns: the time of the first row; None without rows.
        last_ns: the time of the last row; None without rows.
        cursor_ns: the cursor of the last row; None without rows.
        is_full: whether it has as many rows as were requested. If not, nothing follows it.
    """

    text: bytes
    first_ns: int | None
    last_ns: int | None
    cursor_ns: int | None
    is_full: bool


class RenderedChunk(NamedTuple):
    """The key of rows that are rendered together: a part of a segment, about one row group."""

    segment: Segment
    within: Range
    pair_decimals: int
    id_before: int | None
    """The id of the row before it; None for rows as they are stored."""


class ChunkEnd(NamedTuple):
    """The end of a chunk: its last time, its last id or 0, and how many rows follow that id."""

    time_ns: int
    last_id: int
    rows_after: int

    def id_after(self, id_before: int) -> int:
        """The id of the last row, where `id_before` is that of the row before the chunk."""
        return (self.last_id or id_before) + self.rows_after

    def with_rows(self, ids: Int64s) -> ChunkEnd:
        """The end of the chunk with more rows of its last time, by their ids."""
        with_id = ids.nonzero()[0]
        if len(with_id) == 0:
            return self._replace(rows_after=self.rows_after + len(ids))
        last = int(with_id[-1])
        return ChunkEnd(self.time_ns, int(ids[last]), len(ids) - 1 - last)


class RenderedPageCache:
    """A cache of rendered rows that drops the least recently used ones."""

    def __init__(
        self, archive: TradeStore, max_bytes: int = CACHE_BYTES, *, guess_sides: bool = False
    ) -> None:
        """An empty cache.

        Args:
            archive: where segments are read.
            max_bytes: the size that the cache may have.
            guess_sides: whether trades without a side have one by the tick rule; see `render`.
        """
        self._archive = archive
        self._max_bytes = max_bytes
        self._guess_sides = guess_sides
        self._rows: OrderedDict[RenderedChunk, RenderedRows] = OrderedDict()
        self.bytes = 0

    def get(self, chunk: RenderedChunk) -> RenderedRows:
        """The rows of a chunk, rendered now or earlier.

        Raises:
            FileNotFoundError: its segment was removed; list the archive again.
            ArchiveDamaged: its segment can't be read.
        """
        if chunk not in self._rows:
            batches = list(read_batches(self._archive.store, chunk.segment.path, chunk.within))
            self._rows[chunk] = render(
                joined(batches),
                chunk.pair_decimals,
                chunk.id_before,
                guess_sides=self._guess_sides,
            )
            self.bytes += self._rows[chunk].size
        self._rows.move_to_end(chunk)
        while self.bytes > self._max_bytes and len(self._rows) > 1:
            _, dropped = self._rows.popitem(last=False)
            self.bytes -= dropped.size
        return self._rows[chunk]


class TradePages:
    """Pages of one pair's trade history; the archive may grow and be compacted meanwhile."""

    def __init__(
        self, archive: TradeStore, pair: str, cache: RenderedPageCache, clock: Clock
    ) -> None:
        """Nothing is read before the first `update`.

        Args:
            archive: the archive to serve.
            pair: the pair's altname.
            cache: shared by all pairs.
            clock: a monotonic clock in seconds.
        """
        self._archive = archive
        self._pair = pair
        self._cache = cache
        self._clock = clock
        self._pieces: list[Piece] = []
        self._furthest_ns = 0
        self._listed_s: float | None = None
        self._ids_before: list[int] | None = None
        self._chunk_ends: dict[Segment, list[ChunkEnd]] = {}

    @property
    def has_coverage(self) -> bool:
        """Whether the archive covers any range of this pair."""
        return bool(self._pieces)

    @property
    def first_ns(self) -> int:
        """The time of the first trade in UNIX nanoseconds, or the end of coverage without any.

        But where coverage does not begin with the history, it is 0: earlier trades are unknown.
        """
        pieces = self._pieces
        if not pieces or pieces[0].within.after > BEGINNING_NS:
            return 0
        bounds = (self._archive.footer(piece.segment).bounds for piece in pieces)
        return next((first for first, _ in filter(None, bounds)), self.through)

    @property
    def through(self) -> int:
        """The end of coverage in UNIX nanoseconds; 0 without any."""
        return self._pieces[-1].within.through if self._pieces else 0

    @property
    def furthest_ns(self) -> int:
        """The end of what was ever stored, as far as is known; what is lost of it is a gap.

        A client may have been given that end as its clock, and takes a page that is not full as the
        end of the history until then. So it is what this server has seen, or what is on record.

        Raises:
            ArchiveDamaged: the record can't be read.
        """
        recorded = locks_and_requests.read_requests(self._archive.store, self._pair).counts_through
        return max(self._furthest_ns, recorded)

    def first_gap(self, within: Range) -> Range | None:
        """Return the first gap that overlaps a range; time after the coverage counts as a gap."""
        covered = [piece.within for piece in self._pieces]
        gaps = missing([Range(0, max(self.through, within.through))], covered)
        return next((gap for gap in gaps if overlap(gap, within)), None)

    def first_imported(self, within: Range) -> Range | None:
        """The first part of a range whose trades come from a CSV file, not from the exchange."""
        imported = (piece.within for piece in self._pieces if piece.segment.is_imported)
        return next((part for part in imported if overlap(part, within)), None)

    def page(
        self, since_ns: int | None, count: int, pair_decimals: int, *, as_stored: bool = False
    ) -> RenderedPage:
        """Render up to `count` rows.

        Args:
            since_ns: the earliest time or cursor of a row, UNIX nanoseconds; None for the newest
                rows, back to the last gap at most.
            count: the most rows.
            pair_decimals: decimals of a price.
            as_stored: whether to leave out ids and sides that are not stored; see `render`.

        Raises:
            SideUnknown: a trade has no side.
            ArchiveDamaged: a file can't be read, or files are removed again and again.
        """

        def read() -> RenderedPage:
            self.update()
            try:
                if since_ns is None:
                    return self._newest(count, pair_decimals, as_stored=as_stored)
                return self._from(since_ns, count, pair_decimals, as_stored=as_stored)
            except FileNotFoundError:
                self._listed_s = None
                raise

        return with_snapshot_retry(read, self._pair)

    def _from(
        self, since_ns: int, count: int, pair_decimals: int, *, as_stored: bool
    ) -> RenderedPage:
        parts: list[memoryview] = []
        first_time = last = cursor = None
        # Rows whose time is before `since_ns` may have a cursor at it or later.
        after_ns = since_ns - 1 - MOST_OF_EQUAL_TIME
        first = bisect_right(self._pieces, after_ns, key=lambda piece: piece.within.through)
        for chunk in self._chunks(first, len(self._pieces), pair_decimals, as_stored=as_stored):
            if chunk.within.through <= after_ns:
                continue
            rows = self._cache.get(chunk)
            start = int(rows.cursors_ns.searchsorted(since_ns))
            stop = min(start + count, len(rows.times_ns))
            if start < stop:
                rows.check_sides(start, stop)
                parts.append(rows.rows(start, stop))
                first_time = int(rows.times_ns[start]) if first_time is None else first_time
                last, cursor = int(rows.times_ns[stop - 1]), int(rows.cursors_ns[stop - 1])
                count -= stop - start
                if count == 0:
                    break
        return RenderedPage(b"".join(parts), first_time, last, cursor, is_full=count == 0)

    def _newest(self, count: int, pair_decimals: int, *, as_stored: bool) -> RenderedPage:
        parts: list[memoryview] = []
        first_time = last = cursor = None
        next_after = None
        for index in reversed(range(len(self._pieces))):
            within = self._pieces[index].within
            if parts and within.through != next_after:
                # There is a gap: who reads the rows would take it for a time without trades.
                break
            next_after = within.after
            chunks = list(self._chunks(index, index + 1, pair_decimals, as_stored=as_stored))
            for chunk in reversed(chunks):
                rows = self._cache.get(chunk)
                stop = len(rows.times_ns)
                start = max(0, stop - count)
                rows.check_sides(start, stop)
                parts.append(rows.rows(start, stop))
                first_time = int(rows.times_ns[start])
                if last is None:
                    last, cursor = int(rows.times_ns[-1]), int(rows.cursors_ns[-1])
                count -= stop - start
                if count == 0:
                    break
            if count == 0:
                break
        text = b"".join(reversed(parts))
        return RenderedPage(text, first_time, last, cursor, is_full=count == 0)

    def update(self, pieces: list[Piece] | None = None) -> None:
        """Take a new listing; without one, list the archive if the last is `LISTING_TTL_S` old.

        Only `page` calls this by itself, so `first_gap` after `page` uses the listing that the page
        was read from.
        """
        now = self._clock()
        is_due = self._listed_s is None or now - self._listed_s >= LISTING_TTL_S
        if pieces is None and is_due:
            pieces = self._archive.pieces(self._pair)
        if pieces is not None:
            self._listed_s = now
            if pieces != self._pieces:
                self._pieces, self._ids_before = pieces, None
                # No client was given an end in the future, which a wrong clock may have made.
                seen_ns = min(self.through, time.time_ns())
                self._furthest_ns = max(self._furthest_ns, seen_ns)
            listed = {piece.segment for piece in self._pieces}
            self._chunk_ends = {
                segment: ends for segment, ends in self._chunk_ends.items() if segment in listed
            }

    def _chunks(
        self, first: int, stop: int, pair_decimals: int, *, as_stored: bool
    ) -> Iterator[RenderedChunk]:
        """Split pieces into chunks of about one row group each; none is empty.

        Chunks end between trades of different times, not exactly between row groups: trades of one
        time may be in two row groups.

        Args:
            first: the index of the first piece.
            stop: the index after the last one.
            pair_decimals: decimals of a price.
            as_stored: whether rows without an id get none.
        """
        for index in range(first, stop):
            segment, within = self._pieces[index]
            id_before = None if as_stored else self._id_before(index)
            after = within.after
            for end in self._chunk_ends_of(segment):
                if end.time_ns > after:
                    yield RenderedChunk(
                        segment, Range(after, end.time_ns), pair_decimals, id_before
                    )
                    after = end.time_ns
                if id_before is not None:
                    id_before = end.id_after(id_before)

    def _id_before(self, index: int) -> int:
        """The id of the last row before a piece; rows without an id count on from the row before.

        The first row of the archive has the id 1 if it has none.
        """
        if self._ids_before is None:
            ids = [0]
            for piece in self._pieces:
                footer = self._archive.footer(piece.segment)
                rows_after = footer.rows_after_last_id if footer.last_trade_id else footer.rows
                ids.append((footer.last_trade_id or ids[-1]) + rows_after)
            self._ids_before = ids
        return self._ids_before[index]

    def _chunk_ends_of(self, segment: Segment) -> list[ChunkEnd]:
        """The ends of a segment's chunks, ascending; read once."""
        if segment not in self._chunk_ends:
            columns = ["time", "trade_id"]
            ends: list[ChunkEnd] = []
            for batch in read_batches(self._archive.store, segment.path, columns=columns):
                stamps, ids = times(batch), trade_ids(batch)
                # The first rows may have the last time of the batch before.
                shared = int(stamps.searchsorted(ends[-1].time_ns, side="right")) if ends else 0
                if shared:
                    ends[-1] = ends[-1].with_rows(ids[:shared])
                if shared < len(ids):
                    ends.append(ChunkEnd(int(stamps[-1]), 0, 0).with_rows(ids[shared:]))
            self._chunk_ends[segment] = ends
        return self._chunk_ends[segment]
