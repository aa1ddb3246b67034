"""Find the boundaries of imported ranges: quiet moments outside of the time that is covered."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.csv_import.files import KnownComplete
from harvester.csv_import.sorting import RowCount
from harvester.csv_import.stored_check import Sample
from harvester.schema import Int64s, times
from harvester.storage.compaction import LARGEST_IMPORTED_ROWS
from harvester.times import END_OF_TIME, QUIET_S, SECOND, Range, missing, year_end, year_of

# Times in a file are whole seconds, and nobody knows whether they were rounded down, up or to the
# nearest second. So a boundary between imported and downloaded data is drawn only where this makes
# no difference: at the beginning of a second such that the file has no trade in this second and in
# the second before (a quiet moment). Then no trade of the file has a true time within half a second
# of the boundary. Between such a boundary and the downloaded range, a gap of some seconds remains,
# which `backfill` downloads. The same happens at the end of a year without a quiet moment, because
# no segment contains trades of two years. All segments end at quiet moments, so that each can be
# replaced by the exchange's own trades of its range without regard to its neighbours.

SEGMENT_ROWS = LARGEST_IMPORTED_ROWS
"""A segment of this many rows ends at the next quiet moment."""
MAX_WAITING_ROWS = 1_000_000
"""Rows kept in memory while no quiet moment comes; then they are skipped, up to the next one."""


class SegmentRows(NamedTuple):
    """Rows of the segment that is being written."""

    rows: pa.RecordBatch


class Opened(NamedTuple):
    """A segment begins: its range excludes `after`, in nanoseconds."""

    after: int


class Closed(NamedTuple):
    """The segment ends: its range includes `through`, in nanoseconds."""

    through: int


Step = SegmentRows | Opened | Closed


@dataclass(slots=True)
class ImportCounts:
    """Counts of what was done with the rows of a file.

    Attributes:
        imported: rows that went into segments.
        already_covered: rows that were skipped, because their time is covered already.
        at_boundaries: rows that were skipped beside covered time or at a file's ends, because no
            boundary could be drawn there.
        skipped_ranges: ranges of the rows skipped at boundaries, each ending with its last row.
        busy_stretches: how often more than `MAX_WAITING_ROWS` rows had no quiet moment.
        year_ends: years with trades at their end, so that a gap remains there.
        sample: some of the rows whose time is covered by downloaded trades.
        check_stored: called with the rows of time that is covered already, to check that they are
            stored.
    """

    imported: RowCount = field(default_factory=RowCount)
    already_covered: RowCount = field(default_factory=RowCount)
    at_boundaries: RowCount = field(default_factory=RowCount)
    skipped_ranges: list[Range] = field(default_factory=list)
    busy_stretches: int = 0
    year_ends: list[int] = field(default_factory=list)
    sample: Sample = field(default_factory=lambda: Sample([]))
    check_stored: Callable[[pa.RecordBatch], None] = lambda _rows: None

    def count_covered(self, rows: pa.RecordBatch) -> None:
        """Count rows of time that is covered already."""
        if rows.num_rows:
            self.already_covered.add(rows)
            self.sample.add(rows)
            self.check_stored(rows)

    def count_at_boundary(self, rows: pa.RecordBatch) -> None:
        """Count rows that are skipped although their time is not covered."""
        if rows.num_rows:
            self.at_boundaries.add(rows)
            stamps = times(rows)
            self.skipped_ranges.append(Range(int(stamps[0]) - 1, int(stamps[-1])))


class _Cut(NamedTuple):
    """Possible boundaries: the beginnings of the seconds from `first` to `last` (UNIX seconds)."""

    first: int
    last: int


class _Batch(NamedTuple):
    """Rows and the quiet moments between them.

    Attributes:
        rows: in order of time.
        stamps: their times in nanoseconds.
        gaps: indexes of the rows that have a quiet moment before them.
        firsts: of each such moment, the first possible boundary, in UNIX seconds.
        lasts: of each such moment, the last possible boundary, in UNIX seconds.
    """

    rows: pa.RecordBatch
    stamps: Int64s
    gaps: Int64s
    firsts: Int64s
    lasts: Int64s

    def cut(self, at: int) -> _Cut:
        """The quiet moment of an index of `gaps`."""
        return _Cut(int(self.firsts[at]), int(self.lasts[at]))


class BoundaryFinder:
    """Divides the rows of a file, in order of time, into segments that meet at boundaries."""

    def __init__(
        self,
        covered: Sequence[Range],
        complete: KnownComplete,
        unknown: Sequence[Range] = (),
        *,
        segment_rows: int = SEGMENT_ROWS,
        max_waiting_rows: int = MAX_WAITING_ROWS,
    ) -> None:
        """Start before the first row.

        Args:
            covered: ranges that the archive covers already.
            complete: the time for which the file contains every trade.
            unknown: ranges in which the file may lack rows; no segment covers them.
            segment_rows: a segment of this many rows ends at the next quiet moment.
            max_waiting_rows: rows kept in memory until a quiet moment comes.
        """
        everything = [Range(0, END_OF_TIME)]
        self._uncovered = missing(everything, covered)
        self._gaps = missing(everything, [*covered, *unknown])
        self._segment_rows = segment_rows
        self._max_waiting_rows = max_waiting_rows
        self._until_s = complete.until_s
        self._last_s = None if complete.since_s is None else complete.since_s - 1
        self._cut: _Cut | None = None
        """The last moment at which the segment may end; None while no segment is open."""
        self._after = 0
        self._is_empty = True
        self._begun = False
        self._written = 0
        self._year = 0
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self.counts = ImportCounts()

    def push(self, rows: pa.RecordBatch) -> Iterator[Step]:
        """Add the next rows; rows of equal time are always in the same batch."""
        if rows.num_rows == 0:
            return
        self._is_empty = False
        batch = self._with_quiet_moments(rows)
        at = 0
        while at < rows.num_rows:
            at = yield from (self._seek(batch, at) if self._cut is None else self._fill(batch, at))
        self._last_s = int(batch.stamps[-1]) // SECOND

    def finish(self, *, is_end_of_file: bool = True) -> Iterator[Step]:
        """End the last segment. Reading may have stopped before the end of the file."""
        until_s = self._until_s if is_end_of_file and self._last_s is not None else None
        if self._cut is not None:
            if until_s is not None:
                cut = _Cut(self._next_boundary_s, until_s - 1)
                if cut.first <= min(cut.last, self._last_boundary_s):
                    yield from self._release(cut)
            yield from self._end_gap()
        # A file without rows that is known to be complete covers its time: there was no trade.
        while until_s is not None and self._is_empty and self._gaps:
            first = max(self._next_boundary_s, self._first_boundary_s)
            last = min(until_s - 1, self._last_boundary_s)
            if first < last:
                self._after = self._from_second(first)
                yield from self._close(last * SECOND - 1)
            self._gaps.pop(0)

    @property
    def _next_boundary_s(self) -> int:
        """The first possible boundary after the last row, in UNIX seconds."""
        if self._last_s is None:
            raise AssertionError("the beginning of the file is not known")
        return self._last_s + QUIET_S

    def _with_quiet_moments(self, rows: pa.RecordBatch) -> _Batch:
        stamps = times(rows)
        seconds = stamps // SECOND
        last_s = seconds[0] if self._last_s is None else self._last_s
        before = np.concatenate(([last_s], seconds[:-1]))
        gaps = (seconds - before > QUIET_S).nonzero()[0]
        return _Batch(rows, stamps, gaps, before[gaps] + QUIET_S, seconds[gaps] - 1)

    @property
    def _last_boundary_s(self) -> int:
        """The last possible boundary in the gap that is being filled, in UNIX seconds."""
        return (self._gaps[0].through + 1) // SECOND

    def _seek(self, batch: _Batch, at: int) -> Generator[Step, None, int]:
        """Skip rows of covered time, up to the first quiet moment in the next gap."""
        yield from ()
        if not self._gaps:
            self._count_skipped(batch, at, batch.rows.num_rows)
            return len(batch.stamps)
        first_s = self._first_boundary_s
        found = ((batch.gaps >= at) & (batch.lasts >= first_s)).nonzero()[0]
        if len(found) == 0:
            self._count_skipped(batch, at, batch.rows.num_rows)
            return len(batch.stamps)
        index = int(batch.gaps[found[0]])
        self._count_skipped(batch, at, index)
        cut = batch.cut(int(found[0]))
        second = max(cut.first, first_s)
        if second >= self._last_boundary_s:
            # The gap is too short, or has too many trades, for a boundary at both ends.
            self._gaps.pop(0)
            return index
        self._cut = cut._replace(first=second)
        self._after = self._from_second(second)
        return index

    @property
    def _first_boundary_s(self) -> int:
        """The first possible boundary in the next gap, in UNIX seconds."""
        return -(-(self._gaps[0].after + 1) // SECOND)

    def _from_second(self, second: int) -> int:
        """The `after` of a range that begins at a UNIX second; the trade history begins at 0."""
        return 0 if second == 1 and self._gaps[0].after == 0 else second * SECOND - 1

    def _count_skipped(self, batch: _Batch, start: int, stop: int) -> None:
        """Count rows that are skipped, by whether their time is covered."""
        stamps, at = batch.stamps[start:stop], 0
        for gap in self._uncovered:
            if at == len(stamps):
                return
            low, high = (int(stamps.searchsorted(end, side="right")) for end in gap)
            self.counts.count_covered(batch.rows.slice(start + at, low - at))
            self.counts.count_at_boundary(batch.rows.slice(start + low, high - low))
            at = high
        self.counts.count_covered(batch.rows.slice(start + at, len(stamps) - at))

    def _fill(self, batch: _Batch, at: int) -> Generator[Step, None, int]:
        """Write the rows before the last quiet moment so far; the rest waits for the next one."""
        self._end_gap_at_busy_year_end(batch, at)
        inside: int = int(batch.stamps.searchsorted(self._gaps[0].through, side="right"))
        usable = (
            (batch.gaps >= at) & (batch.gaps <= inside) & (batch.firsts <= self._last_boundary_s)
        )
        found = usable.nonzero()[0]
        done = at
        if len(found):
            done = int(batch.gaps[found[-1]])
            self._add_waiting(batch.rows.slice(at, done - at))
            yield from self._release(batch.cut(int(found[-1])))
        self._add_waiting(batch.rows.slice(done, inside - done))
        if inside < batch.rows.num_rows:
            yield from self._end_gap()
        elif self._waiting_rows > self._max_waiting_rows:
            yield from self._skip_busy_stretch()
        return inside

    def _end_gap_at_busy_year_end(self, batch: _Batch, at: int) -> None:
        """Split the gap in two at the end of a year that has no quiet moment.

        No segment contains rows of two years. If two segments met between trades, and only one of
        them were written and the range of the other downloaded, trades would be stored twice or
        not at all.
        """
        last_s = int(batch.stamps[at]) // SECOND
        if (self._waiting or self._written) and self._last_s is not None:
            last_s = self._last_s
        gap = self._gaps[0]
        year = year_of(last_s * SECOND)
        while (end := year_end(year)) < min(gap.through, int(batch.stamps[-1])):
            index = int(batch.stamps.searchsorted(end, side="right"))
            second = (end + 1) // SECOND
            is_here = (batch.gaps == index) & (batch.firsts <= second) & (second <= batch.lasts)
            if not is_here.any():
                self._gaps[:1] = [Range(gap.after, end), Range(end, gap.through)]
                self.counts.year_ends.append(year)
                return
            year = year_of(int(batch.stamps[index]))

    def _add_waiting(self, rows: pa.RecordBatch) -> None:
        if rows.num_rows:
            self._waiting.append(rows)
            self._waiting_rows += rows.num_rows

    def _release(self, cut: _Cut) -> Iterator[Step]:
        """Write all waiting rows into the segment, which may end at a cut."""
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        self._cut = cut
        for rows in waiting:
            yield from self._write(rows)
        if self._written >= self._segment_rows:
            yield from self._close(min(cut.last, self._last_boundary_s) * SECOND - 1)

    def _skip_busy_stretch(self) -> Iterator[Step]:
        """End the segment at its last boundary, and skip the rows up to the next quiet moment.

        This bounds the memory that waiting rows need.
        """
        self.counts.busy_stretches += 1
        yield from self._end_segment()

    def _end_gap(self) -> Iterator[Step]:
        """End the segment at its last boundary, and go on with the next gap."""
        yield from self._end_segment()
        self._gaps.pop(0)

    def _end_segment(self) -> Iterator[Step]:
        """End the segment at its last boundary, and skip the waiting rows behind it."""
        if self._cut is None:
            raise AssertionError("no segment is open")
        for rows in self._waiting:
            self.counts.count_at_boundary(rows)
        through = min(self._cut.last, self._last_boundary_s) * SECOND - 1
        self._waiting, self._waiting_rows, self._cut = [], 0, None
        yield from self._close(through)

    def _write(self, rows: pa.RecordBatch) -> Iterator[Step]:
        """Write rows, and end the segment at the end of a year, which is a quiet moment here."""
        while rows.num_rows:
            stamps = times(rows)
            year = year_of(int(stamps[0]))
            if self._written and year != self._year:
                yield from self._close(year_end(self._year))
            self._year = year
            part = rows.slice(0, int(stamps.searchsorted(year_end(year), side="right")))
            yield from self._begin()
            yield SegmentRows(part)
            self._written += part.num_rows
            self.counts.imported.add(part)
            rows = rows.slice(part.num_rows)

    def _begin(self) -> Iterator[Step]:
        if not self._begun:
            self._begun = True
            yield Opened(self._after)

    def _close(self, through: int) -> Iterator[Step]:
        if through > self._after:
            yield from self._begin()
            yield Closed(through)
        self._after, self._begun, self._written = max(self._after, through), False, 0
