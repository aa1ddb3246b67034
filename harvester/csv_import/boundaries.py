"""Find the boundaries of imported ranges: quiet moments outside of the time that is covered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.csv_import.csv_files import CompletePeriod
from harvester.errors import counted
from harvester.schema import NO_ROWS, Int64s, joined, times
from harvester.storage.compaction import LARGEST_IMPORTED_ROWS, QuietMoments, quiet_moments
from harvester.times import END_OF_TIME, SECOND, Range, missing, year_end, year_of

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


@dataclass(slots=True)
class RowCount:
    """A number of rows and the sum of their volumes."""

    rows: int = 0
    volume: Decimal = Decimal(0)

    def add(self, rows: pa.RecordBatch, sign: int = 1) -> None:
        """Add a batch of `schema.PAGE_SCHEMA`; with `sign` -1, subtract it."""
        if rows.num_rows:
            self.rows += sign * rows.num_rows
            self.volume += sign * pc.sum(rows.column("volume")).as_py()


class SegmentPart(NamedTuple):
    """The next rows of a segment.

    Attributes:
        after: where the segment's range begins, exclusive, in nanoseconds.
        rows: the rows; empty in a segment's last part.
        through: where its range ends, inclusive; None in all parts but the last.
    """

    after: int
    rows: pa.RecordBatch
    through: int | None = None


class BoundaryFinder:
    """Divides the rows of a file, in order of time, into segments that meet at boundaries.

    Attributes:
        already_covered: rows that were skipped, because their time is covered already.
        at_boundaries: rows that were skipped beside covered time or at a file's ends, because no
            boundary could be drawn there.
        skipped_ranges: ranges of the rows skipped at boundaries, each ending with its last row.
        busy_stretches: how often more than `MAX_WAITING_ROWS` rows had no quiet moment.
        year_ends: years with trades at their end, so that a gap remains there.
    """

    def __init__(
        self,
        covered: Sequence[Range],
        complete: CompletePeriod,
        unknown: Sequence[Range],
        on_covered: Callable[[pa.RecordBatch], None],
        *,
        is_exact: bool = False,
    ) -> None:
        """Start before the first row.

        Args:
            covered: ranges that the archive covers already.
            complete: the time for which the file contains every trade.
            unknown: ranges in which the file may lack rows; no segment covers them.
            on_covered: called with the rows of time that is covered already, in order.
            is_exact: any second may begin with a boundary, as nothing can be downloaded beside it,
                and covered time may end inside a second; see `rows_at_ends`.
        """
        everything = [Range(0, END_OF_TIME)]
        self._uncovered = missing(everything, covered)
        self._importable = missing(everything, [*covered, *unknown])
        self._on_covered = on_covered
        self._is_exact = is_exact
        self._until_s = complete.until_s
        self._begins_unknown = complete.since_s is None
        """Whether the first row's time is all that shows where the file begins: it may be wrong."""
        self._first_ns: int | None = None
        """The time of the file's first row; None if there is none so far."""
        self._after: int | None = None
        """Where the open segment begins; None if no segment is open."""
        self._written = 0
        """Rows of the open segment."""
        self._waiting = NO_ROWS
        """Rows from the last quiet moment on, while a segment is open."""
        self._last_ns = None if complete.since_s is None else (complete.since_s - 1) * SECOND
        """The time of the row before the waiting ones."""
        self.already_covered, self.at_boundaries = RowCount(), RowCount()
        self.skipped_ranges: list[Range] = []
        self.busy_stretches = 0
        self.year_ends: list[int] = []

    def push(self, rows: pa.RecordBatch) -> Iterator[SegmentPart]:
        """Add the next rows; rows of equal time are always in the same batch."""
        if rows.num_rows:
            if self._first_ns is None:
                self._first_ns = int(times(rows)[0])
            yield from self._divide(rows)

    def notes(self, pair: str) -> Iterator[str]:
        """Sentences about the rows at boundaries that `backfill` downloads; see the attributes."""
        advice = f"`harvester backfill {pair}` downloads them"
        if self.busy_stretches:
            yield (
                f"{counted(self.busy_stretches, 'time')}, too many trades to keep in memory follow "
                "each other without two seconds in which there is none: they were not imported, "
                f"and {advice}"
            )
        for year in self.year_ends:
            yield (
                f"there are trades at the end of {year}, where a segment has to end: some seconds "
                f"are not covered there, and {advice}"
            )

    def finish(self, *, is_end_of_file: bool = True) -> Iterator[SegmentPart]:
        """End the last segment. Reading may have stopped before the end of the file."""
        yield from self._divide(NO_ROWS, is_last=True, is_whole=is_end_of_file)

    def _divide(
        self, rows: pa.RecordBatch, *, is_last: bool = False, is_whole: bool = False
    ) -> Iterator[SegmentPart]:
        """Write the waiting and the given rows up to the last quiet moment, but for covered time.

        Args:
            rows: the next rows.
            is_last: whether no more rows follow.
            is_whole: whether these are the file's last rows, so its known end counts as reached.
        """
        rows = joined([self._waiting, rows])
        stamps = times(rows)
        is_end_known = is_whole and self._until_s is not None
        moments_of = self._moments_of(stamps, is_end_known=is_end_known)
        at = through = 0
        while True:
            if self._after is None:
                at = self._open(rows, at, moments_of, is_end_known=is_end_known)
            if self._after is None:
                break
            gap = self._importable[0]
            moments = moments_of(gap)
            if self._split_at_year_end(stamps, at, moments):
                continue
            end_s = self._seconds(gap)[1]
            last = moments.firsts.searchsorted(end_s, side="right") - 1
            end = min(int(moments.rows[last]), int(stamps.searchsorted(gap.through, side="right")))
            is_end = is_last and self._until_s is None and gap.through >= stamps[-1]
            # A last row may have a wrong time, too: the silence before it counts as unknown.
            quiet_s = int((moments.firsts if is_end else moments.lasts)[last])
            through = min(min(quiet_s, end_s) * SECOND - 1, gap.through)
            if end < len(stamps):
                through = min(through, int(stamps[end]) - 1)
            yield from self._write(rows.slice(at, end - at))
            at = end
            if not is_last and gap.through >= stamps[-1]:
                break
            yield from self._close(through)
            self._after = None
            self._importable.pop(0)
        is_busy = rows.num_rows - at > MAX_WAITING_ROWS
        if is_busy or self._written >= SEGMENT_ROWS:
            yield from self._close(through)
        if is_busy:
            # This bounds the memory that waiting rows need.
            self._after = None
            self.busy_stretches += 1
            self._skip(rows.slice(at))
            at = rows.num_rows
        self._waiting = rows.slice(at)
        if at:
            self._last_ns = int(stamps[at - 1])

    def _open(
        self,
        rows: pa.RecordBatch,
        at: int,
        moments_of: Callable[[Range], QuietMoments],
        *,
        is_end_known: bool,
    ) -> int:
        """Open a segment at the first quiet moment in a gap, and skip the rows before it.

        Args:
            rows: the rows.
            at: the index of the next one.
            moments_of: the quiet moments between them, as a gap has them.
            is_end_known: whether these are the file's last rows, and it covers the time after.

        Returns:
            The index of the segment's first row, or the number of rows if none is opened.
        """
        while self._importable:
            gap = self._importable[0]
            begin_s, end_s = self._seconds(gap)
            moments = moments_of(gap)
            earliest = max(at, int(times(rows).searchsorted(gap.after, side="right")))
            found = max(moments.rows.searchsorted(earliest), moments.lasts.searchsorted(begin_s))
            if found == len(moments.rows):
                break
            first = int(moments.rows[found])
            # Behind its rows, a file covers its time only if its end is known.
            if first == len(rows) and self._first_ns is not None and not is_end_known:
                break
            self._skip(rows.slice(at, first - at))
            at, second = first, max(int(moments.firsts[found]), begin_s)
            if self._begins_unknown and (self._first_ns is None or gap.after < self._first_ns):
                second = max(int(moments.lasts[found]), begin_s)
            if second < end_s:
                # The trade history begins at 0.
                is_start = second == 1 and gap.after == 0
                skipped_ns = int(times(rows)[at - 1]) if at else 0
                self._after = 0 if is_start else max(second * SECOND - 1, gap.after, skipped_ns)
                self._begins_unknown = False
                return at
            # The gap is too short, or has too many trades, for a boundary at both ends.
            self._importable.pop(0)
        self._skip(rows.slice(at))
        return len(rows)

    def _moments_of(self, stamps: Int64s, *, is_end_known: bool) -> Callable[[Range], QuietMoments]:
        """Return a function that finds the quiet moments between rows, as a gap has them.

        Args:
            stamps: the times of the rows.
            is_end_known: as for `_open`.
        """
        before = np.array([] if self._last_ns is None else [self._last_ns], np.int64)
        file_end = np.array([self._until_s] if is_end_known else [], np.int64)

        @cache
        def find(gap: Range | None) -> QuietMoments:
            seconds = self._seconds_of(np.concatenate([before, stamps]), gap)
            before_s = int(seconds[0]) if len(before) else None
            seconds = np.concatenate([seconds[len(before) :], file_end])
            return quiet_moments(seconds, before_s, is_exact=self._is_exact)

        return lambda gap: find(gap if self._is_exact else None)

    def _seconds(self, gap: Range) -> tuple[int, int]:
        """The first second of a gap, and the second after it.

        Where boundaries are exact, the seconds that it begins and ends in belong to it.
        """
        begin_ns, end_ns = gap.after + 1, gap.through + 1
        if self._is_exact:
            return begin_ns // SECOND, -(-end_ns // SECOND)
        return -(-begin_ns // SECOND), end_ns // SECOND

    def _seconds_of(self, stamps: Int64s, gap: Range | None) -> Int64s:
        """The seconds of rows. Where boundaries are exact, rows outside of a gap have none of it.

        Args:
            stamps: the times of the rows.
            gap: where a segment is to be; None where boundaries are not exact.
        """
        seconds = stamps // SECOND
        if gap is not None:
            begin_s, end_s = self._seconds(gap)
            low, high = (stamps.searchsorted(end, side="right") for end in gap)
            np.minimum(seconds[:low], begin_s - 1, out=seconds[:low])
            np.maximum(seconds[high:], end_s, out=seconds[high:])
        return seconds

    def _split_at_year_end(self, stamps: Int64s, at: int, moments: QuietMoments) -> bool:
        """Split the first gap in two where the year turns among its rows.

        No segment contains rows of two years. If two segments met between trades, and only one of
        them were written and the range of the other downloaded, trades would be stored twice or
        not at all.

        Args:
            stamps: the times of the rows.
            at: the index of the next row of the segment.
            moments: the quiet moments between the rows.
        """
        if at == len(stamps):
            return False
        last_ns = int(stamps[at])
        if self._written:
            last_ns = int(stamps[at - 1]) if at else self._last_ns or 0
        year, gap = year_of(last_ns), self._importable[0]
        turn = year_end(year)
        if turn >= min(gap.through, int(stamps[-1])):
            return False
        index, second = stamps.searchsorted(turn, side="right"), (turn + 1) // SECOND
        is_here = (moments.firsts <= second) & (second <= moments.lasts)
        if not (is_here & (moments.rows == index)).any():
            self.year_ends.append(year)
        self._importable[:1] = [Range(gap.after, turn), Range(turn, gap.through)]
        return True

    def _write(self, rows: pa.RecordBatch) -> Iterator[SegmentPart]:
        if self._after is not None and rows.num_rows:
            self._written += rows.num_rows
            yield SegmentPart(self._after, rows)

    def _close(self, through: int) -> Iterator[SegmentPart]:
        """End the segment; the next one would begin where it ends."""
        if self._after is not None and through > self._after:
            yield SegmentPart(self._after, NO_ROWS, through)
            self._after, self._written = through, 0

    def _skip(self, rows: pa.RecordBatch) -> None:
        """Count rows that are not imported, by whether their time is covered."""
        stamps, at = times(rows), 0
        for gap in [*self._uncovered, Range(END_OF_TIME, END_OF_TIME)]:
            low, high = (int(stamps.searchsorted(end, side="right")) for end in gap)
            if low > at:
                covered = rows.slice(at, low - at)
                self.already_covered.add(covered)
                self._on_covered(covered)
            if high > low:
                self.at_boundaries.add(rows.slice(low, high - low))
                self.skipped_ranges.append(Range(int(stamps[low]) - 1, int(stamps[high - 1])))
            at = high
