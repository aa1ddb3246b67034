"""Where imported ranges may begin and end: at quiet moments, outside of what is covered."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.csv_import.files import KnownComplete
from harvester.csv_import.overlap import Sample
from harvester.csv_import.sorting import RowCount
from harvester.schema import Int64s, times
from harvester.times import END_OF_TIME, SECOND, Range, missing, year_end, year_of

# --- joining --------------------------------------------------------------------------------------

# The file's times are whole seconds, and whether they were rounded down, up or to the nearest is
# not told. So a boundary with what came from the API lies only where that makes no difference: at
# the beginning of a second such that the file has no trade in it, nor in the one before. No trade
# of the file can then have a true time within half a second of the boundary. What lies between
# such a boundary and the API's own range stays a gap of some seconds, for `backfill`. So does
# the end of a year that is no such moment: segments are of one year each.

SEGMENT_ROWS = 4_000_000
"""As many as compaction would make of it."""
MOST_WAITING = 1_000_000
"""Rows without a quiet moment among them that memory holds, before a busy one has to do."""
QUIET_S = 2


class SegmentRows(NamedTuple):
    """Rows that go into the segment being written."""

    rows: pa.RecordBatch


class Opened(NamedTuple):
    """A segment begins behind `after`."""

    after: int


class Closed(NamedTuple):
    """The segment holds everything up to `through`."""

    through: int


Step = SegmentRows | Opened | Closed


@dataclass(slots=True)
class ImportCounts:
    """What became of the rows of a file.

    Attributes:
        kept: those that went into segments.
        held: those of time that is covered already; what is held there stays.
        left: those beside what is covered, or at a file's ends, where no boundary could be drawn.
        left_in: ranges of the rows that were left, each up to its last one.
        busy: seconds that had to do as a boundary although they hold trades.
        year_ends: years at whose end there are trades, so that a gap is left there.
        sample: some of the rows of time that is held from the API.
        is_stored: given the rows of time that is covered already, to look them up there.
    """

    kept: RowCount = field(default_factory=RowCount)
    held: RowCount = field(default_factory=RowCount)
    left: RowCount = field(default_factory=RowCount)
    left_in: list[Range] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    year_ends: list[int] = field(default_factory=list)
    sample: Sample = field(default_factory=lambda: Sample([]))
    is_stored: Callable[[pa.RecordBatch], None] = lambda _rows: None

    def hold(self, rows: pa.RecordBatch) -> None:
        """Count rows of time that is covered already."""
        if rows.num_rows:
            self.held.add(rows)
            self.sample.take(rows)
            self.is_stored(rows)

    def leave(self, rows: pa.RecordBatch) -> None:
        """Count rows that stay out although their time is not covered."""
        if rows.num_rows:
            self.left.add(rows)
            stamps = times(rows)
            self.left_in.append(Range(int(stamps[0]) - 1, int(stamps[-1])))


class _Cut(NamedTuple):
    """Seconds at whose beginning a range may end, and another begin: from `first` to `last`."""

    first: int
    last: int
    is_quiet: bool = True


class _Batch(NamedTuple):
    """Rows, and before which of them there is a quiet moment."""

    rows: pa.RecordBatch
    stamps: Int64s
    gaps: Int64s
    firsts: Int64s
    lasts: Int64s

    def cut(self, at: int) -> _Cut:
        return _Cut(int(self.firsts[at]), int(self.lasts[at]))


class BoundaryFinder:
    """Takes a file's rows in order, and says which of them go into which segments."""

    def __init__(
        self,
        covered: Sequence[Range],
        whole: KnownComplete,
        unknown: Sequence[Range] = (),
        *,
        segment_rows: int = SEGMENT_ROWS,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        """Begin with a file.

        Args:
            covered: what the archive has already.
            whole: what the file is known to hold whole.
            unknown: ranges in which the file may lack rows: no segment reaches into them.
            segment_rows: a segment of so many ends at the next quiet moment.
            most_waiting: rows that memory holds until one comes.
        """
        everything = [Range(0, END_OF_TIME)]
        self._uncovered = missing(everything, covered)
        self._gaps = missing(everything, [*covered, *unknown])
        self._segment_rows = segment_rows
        self._most_waiting = most_waiting
        self._until_s = whole.until_s
        self._last_s = None if whole.since_s is None else whole.since_s - 1
        self._cut: _Cut | None = None
        """The last moment where the segment may end; None while none is open."""
        self._after = 0
        self._is_empty = True
        self._begun = False
        self._written = 0
        self._year = 0
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self.told = ImportCounts()

    def push(self, rows: pa.RecordBatch) -> Iterator[Step]:
        """Take the next rows; none of them ends inside a group of equal time."""
        if rows.num_rows == 0:
            return
        self._is_empty = False
        batch = self._look(rows)
        at = 0
        while at < rows.num_rows:
            at = yield from (self._seek(batch, at) if self._cut is None else self._fill(batch, at))
        self._last_s = int(batch.stamps[-1]) // SECOND

    def finish(self, *, whole: bool = True) -> Iterator[Step]:
        """The file has ended; or reading it has, if it is not `whole`."""
        until_s = self._until_s if whole and self._last_s is not None else None
        if self._cut is not None:
            if until_s is not None:
                cut = _Cut(self._quiet_s, until_s - 1)
                if cut.first <= min(cut.last, self._limit):
                    yield from self._release(cut)
            yield from self._end_gap()
        # A file without a row tells that there was no trade, in no gap.
        while until_s is not None and self._is_empty and self._gaps:
            first = max(self._quiet_s, self._least)
            last = min(until_s - 1, self._limit)
            if first < last:
                self._after = self._from_second(first)
                yield from self._close(last * SECOND - 1)
            self._gaps.pop(0)

    @property
    def _quiet_s(self) -> int:
        """The first second behind the last row at whose beginning a range may end."""
        if self._last_s is None:
            raise AssertionError("nothing is known of the file's beginning")
        return self._last_s + QUIET_S

    def _look(self, rows: pa.RecordBatch) -> _Batch:
        stamps = times(rows)
        seconds = stamps // SECOND
        last_s = seconds[0] if self._last_s is None else self._last_s
        before = np.concatenate(([last_s], seconds[:-1]))
        gaps = (seconds - before > QUIET_S).nonzero()[0]
        return _Batch(rows, stamps, gaps, before[gaps] + QUIET_S, seconds[gaps] - 1)

    @property
    def _limit(self) -> int:
        """The last second at whose beginning the gap being filled may end."""
        return (self._gaps[0].through + 1) // SECOND

    def _seek(self, batch: _Batch, at: int) -> Generator[Step, None, int]:
        """Pass over what is covered, up to the first quiet moment of the next gap."""
        yield from ()
        if not self._gaps:
            self._pass(batch, at, batch.rows.num_rows)
            return len(batch.stamps)
        least = self._least
        found = ((batch.gaps >= at) & (batch.lasts >= least)).nonzero()[0]
        if len(found) == 0:
            self._pass(batch, at, batch.rows.num_rows)
            return len(batch.stamps)
        place = int(batch.gaps[found[0]])
        self._pass(batch, at, place)
        cut = batch.cut(int(found[0]))
        second = max(cut.first, least)
        if second >= self._limit:
            # The gap is too narrow, or too busy, to have a boundary on either side.
            self._gaps.pop(0)
            return place
        self._cut = cut._replace(first=second)
        self._after = self._from_second(second)
        return place

    @property
    def _least(self) -> int:
        """The first second at whose beginning the next gap's range may begin."""
        return -(-(self._gaps[0].after + 1) // SECOND)

    def _from_second(self, second: int) -> int:
        """Where a range begins that begins at a second; the whole of history begins at 0."""
        return 0 if second == 1 and self._gaps[0].after == 0 else second * SECOND - 1

    def _pass(self, batch: _Batch, start: int, stop: int) -> None:
        """Count rows that stay out: those of time that is covered are held, the others left."""
        stamps, at = batch.stamps[start:stop], 0
        for gap in self._uncovered:
            if at == len(stamps):
                return
            low, high = (int(stamps.searchsorted(end, side="right")) for end in gap)
            self.told.hold(batch.rows.slice(start + at, low - at))
            self.told.leave(batch.rows.slice(start + low, high - low))
            at = high
        self.told.hold(batch.rows.slice(start + at, len(stamps) - at))

    def _fill(self, batch: _Batch, at: int) -> Generator[Step, None, int]:
        """Hand on what lies before the last quiet moment so far; the rest waits for the next."""
        self._end_gap_at_busy_year_end(batch, at)
        inside: int = int(batch.stamps.searchsorted(self._gaps[0].through, side="right"))
        usable = (batch.gaps >= at) & (batch.gaps <= inside) & (batch.firsts <= self._limit)
        found = usable.nonzero()[0]
        done = at
        if len(found):
            done = int(batch.gaps[found[-1]])
            self._wait(batch.rows.slice(at, done - at))
            yield from self._release(batch.cut(int(found[-1])))
        self._wait(batch.rows.slice(done, inside - done))
        if inside < batch.rows.num_rows:
            yield from self._end_gap()
        elif self._waiting_rows > self._most_waiting:
            yield from self._release_busy()
        return inside

    def _end_gap_at_busy_year_end(self, batch: _Batch, at: int) -> None:
        """Let the gap end, and another begin, where a year ends without a quiet moment.

        No segment has rows of two years. Two that met among trades would show trades twice or not
        at all if only one of them were written and the other's range downloaded.
        """
        last_s = int(batch.stamps[at]) // SECOND
        if (self._waiting or self._written) and self._last_s is not None:
            last_s = self._last_s
        gap = self._gaps[0]
        year = year_of(last_s * SECOND)
        while (end := year_end(year)) < min(gap.through, int(batch.stamps[-1])):
            place = int(batch.stamps.searchsorted(end, side="right"))
            second = (end + 1) // SECOND
            is_here = (batch.gaps == place) & (batch.firsts <= second) & (second <= batch.lasts)
            if not is_here.any():
                self._gaps[:1] = [Range(gap.after, end), Range(end, gap.through)]
                self.told.year_ends.append(year)
                return
            year = year_of(int(batch.stamps[place]))

    def _wait(self, rows: pa.RecordBatch) -> None:
        if rows.num_rows:
            self._waiting.append(rows)
            self._waiting_rows += rows.num_rows

    def _release(self, cut: _Cut) -> Iterator[Step]:
        """All that waits goes into the segment, which may end at a cut."""
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        self._cut = cut
        for rows in waiting:
            yield from self._write(rows)
        if self._written >= self._segment_rows and cut.is_quiet:
            yield from self._close(min(cut.last, self._limit) * SECOND - 1)

    def _release_busy(self) -> Iterator[Step]:
        """As memory is bounded, all that waits but the last second goes on without a quiet cut."""
        rows = self._waiting.pop()
        second = int(times(rows)[-1]) // SECOND
        early = int(times(rows).searchsorted(second * SECOND))
        if early == 0:
            self._waiting.append(rows)
            return
        self._waiting.append(rows.slice(0, early))
        yield from self._release(_Cut(second, second, is_quiet=False))
        self._wait(rows.slice(early))

    def _end_gap(self) -> Iterator[Step]:
        """Nothing more goes into the gap: what waits is left, as no boundary lies behind it."""
        for rows in self._waiting:
            self.told.leave(rows)
        cut, limit = self._cut, self._limit
        self._waiting, self._waiting_rows, self._cut = [], 0, None
        self._gaps.pop(0)
        if cut is None:
            raise AssertionError("a gap that was not begun has no end")
        if not cut.is_quiet:
            self.told.busy.append(cut.last)
        yield from self._close(min(cut.last, limit) * SECOND - 1)

    def _write(self, rows: pa.RecordBatch) -> Iterator[Step]:
        """Hand on rows, cut where the year turns, which is at a quiet moment."""
        while rows.num_rows:
            stamps = times(rows)
            year = year_of(int(stamps[0]))
            if self._written and year != self._year:
                yield from self._close(year_end(self._year))
            self._year = year
            some = rows.slice(0, int(stamps.searchsorted(year_end(year), side="right")))
            yield from self._begin()
            yield SegmentRows(some)
            self._written += some.num_rows
            self.told.kept.add(some)
            rows = rows.slice(some.num_rows)

    def _begin(self) -> Iterator[Step]:
        if not self._begun:
            self._begun = True
            yield Opened(self._after)

    def _close(self, through: int) -> Iterator[Step]:
        if through > self._after:
            yield from self._begin()
            yield Closed(through)
        self._after, self._begun, self._written = max(self._after, through), False, 0
