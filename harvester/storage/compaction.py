"""Compaction: which segments are merged, whose rows are checked; how rows and footers are split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import compress
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.errors import ArchiveDamaged
from harvester.schema import Int64s, RowsChecksum, split_at, times, trade_ids
from harvester.storage.filesystem import LocalStore
from harvester.storage.id_gaps import find_gaps
from harvester.storage.parquet_files import read_batches
from harvester.storage.segment import Footer, IdPair, Segment
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, QUIET_S, SECOND, Range, overlap, year_end, year_of

# --- merging -------------------------------------------------------------------------------------

LARGEST_ROWS = 4_000_000
"""Rows of the largest segment of downloaded trades that compaction writes."""
LARGEST_IMPORTED_ROWS = 1_000_000
"""Rows of the largest segment of imported trades: it is downloaded again as a whole, in 20 min."""
FILE_ROWS = 1000
"""Opening a file costs a reader about as much as reading this many rows.

The smallest segments are weighted with this number instead of their rows.
"""


def plan_merges(
    segments: Iterable[Segment],
    rows_of: Callable[[Segment], int],
    *,
    merge_all: bool = False,
    merge_past_years: bool = False,
) -> list[list[Segment]]:
    """Choose runs of adjacent segments of one year and one source to merge.

    A run is merged once it weighs at least twice as much as its largest segment. Each rewrite
    therefore at least doubles the file a row is in: about four rewrites in a year of nightly
    refreshes, and a handful of files.

    Args:
        segments: disjoint, in order of time.
        rows_of: returns the number of rows of a segment.
        merge_all: merge whatever can be merged, even where the rule above says no.
        merge_past_years: do so in all years but the last one: no more trades are added to them.
    """
    adjacent_runs: list[list[Segment]] = []
    for segment in segments:
        last = adjacent_runs[-1][-1] if adjacent_runs else None
        if last is not None and (last.range.through, last.year, last.is_imported) == (
            segment.range.after,
            segment.year,
            segment.is_imported,
        ):
            adjacent_runs[-1].append(segment)
        else:
            adjacent_runs.append([segment])
    last_year = adjacent_runs[-1][0].year if adjacent_runs else 0
    merges = []
    for run in adjacent_runs:
        rows = [rows_of(segment) for segment in run]
        ignores_weight = merge_all or (merge_past_years and run[0].year < last_year)
        most = LARGEST_IMPORTED_ROWS if run[0].is_imported else LARGEST_ROWS
        merges += [
            run[first:end] for first, end in _runs(rows, most, ignores_weight=ignores_weight)
        ]
    return merges


def _runs(rows: list[int], most: int, *, ignores_weight: bool) -> Iterator[tuple[int, int]]:
    """Yield `first, end` indexes of the longest runs that are worth merging, from the left."""
    first = 0
    while first < len(rows):
        end, total, weight, heaviest = first + 1, 0, 0, 0
        for index in range(first, len(rows)):
            total += rows[index]
            if total > most:
                break
            segment_weight = max(rows[index], FILE_ROWS)
            weight, heaviest = weight + segment_weight, max(heaviest, segment_weight)
            if ignores_weight or weight >= 2 * heaviest:
                end = index + 1
        if end - first > 1:
            yield first, end
        first = end


def is_within(inner: Range, outer: Range) -> bool:
    """Whether a range lies inside another one.

    Args:
        inner: the range that may be inside.
        outer: the range around it.
    """
    return outer.after <= inner.after and inner.through <= outer.through


def is_being_replaced(wide: Segment, narrow: Segment) -> bool:
    """Whether an overlap is a re-download between its two steps.

    One segment is imported, the other downloaded, and `narrow` is inside the range of `wide`.
    Readers take `wide`; the next writer removes one of them.

    Args:
        wide: the segment that is read first.
        narrow: one that overlaps it.
    """
    return is_within(narrow.range, wide.range) and wide.is_imported != narrow.is_imported


def verified_rows(archive: TradeStore, segments: Iterable[Segment]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of segments, each compared with its checksum once it was read.

    So a merge never hides damage behind a new checksum.

    Args:
        archive: that has the segments.
        segments: in order of time.

    Raises:
        ArchiveDamaged: at the end of a segment whose rows are not those of its footer.
    """
    for segment in segments:
        footer, checksum = archive.footer(segment), RowsChecksum()
        for batch in read_batches(archive.store, segment.path):
            checksum.update(batch)
            yield batch
        if footer.range != segment.range or checksum.hexdigest() != footer.checksum:
            repair = f"`harvester verify {segment.pair} --repair` downloads its range again"
            is_stored = segment.path.startswith("trades/")
            raise ArchiveDamaged(
                f"{archive.location(segment)} has other rows than its footer says: "
                f"{repair if is_stored else 'the same command downloads its range again'}"
            )


def check_rows(archive: TradeStore, segment: Segment) -> None:
    """Compare all rows of a segment with its checksum.

    Args:
        archive: that has the segment.
        segment: is read completely.

    Raises:
        ArchiveDamaged: its rows are not those of its footer.
    """
    for _ in verified_rows(archive, [segment]):
        pass


# --- splitting -----------------------------------------------------------------------------------


def split_by_year(
    covered: Range, batches: list[pa.RecordBatch]
) -> Iterator[tuple[Range, list[pa.RecordBatch]]]:
    """Split a range and its rows where the year turns between rows.

    A part may begin in an earlier year than that of its rows.

    Args:
        covered: the range.
        batches: all its rows, in order.
    """
    after = covered.after
    while batches:
        first, last = int(times(batches[0])[0]), int(times(batches[-1])[-1])
        turn = year_end(year_of(first))
        part = Range(after, covered.through if last <= turn else turn)
        rows, batches = split_at(batches, part.through)
        yield part, rows
        after = part.through
    if after < covered.through:
        yield Range(after, covered.through), batches


def are_ordered_within(batches: list[pa.RecordBatch], covered: Range) -> bool:
    """Whether rows are in order and all inside a range; otherwise splitting them would lose some.

    Args:
        batches: the rows; no batch is empty.
        covered: the range.
    """
    reached = covered.after + 1
    for batch in batches:
        stamps = times(batch)
        if stamps[0] < reached or not (stamps[1:] >= stamps[:-1]).all():
            return False
        reached = int(stamps[-1])
    return reached <= max(covered.through, covered.after + 1)


def footers_by_part(
    footer: Footer, parts: Sequence[tuple[Range, Sequence[pa.RecordBatch]]]
) -> list[Footer]:
    """Divide a footer: its id gaps and imported ranges are distributed over parts of its range.

    A confirmed id gap is of each part that has a side of it among its rows. One that is only
    counted is of the part that has the trade after it. Id gaps at the boundaries to other segments,
    which have no rows between them, are added to the last part.

    Args:
        footer: of all rows.
        parts: adjacent ranges with their rows, in order.
    """
    confirmed = [_gaps_at_rows(footer.confirmed_id_gaps, batches) for _, batches in parts]
    distributed = {gap for gaps in confirmed for gap in gaps}
    left, edge = footer.unconfirmed_id_gaps, None
    footers = []
    for index, (covered, batches) in enumerate(parts):
        gaps, count = confirmed[index], left
        if index == len(parts) - 1:
            gaps += tuple(gap for gap in footer.confirmed_id_gaps if gap not in distributed)
        elif left:
            count = 0
            for batch in batches:
                found, edge = find_gaps(edge, batch)
                count += sum(gap.sides not in footer.confirmed_id_gaps for gap in found)
            count = min(count, left)
        left -= count
        imported = tuple(
            part._replace(after=shared.after, through=shared.through)
            for part in footer.imported
            if (shared := overlap(Range(part.after, part.through), covered))
        )
        footers.append(
            replace(
                footer,
                range=covered,
                confirmed_id_gaps=gaps,
                unconfirmed_id_gaps=count,
                imported=imported,
            )
        )
    return footers


def _gaps_at_rows(
    gaps: tuple[IdPair, ...], batches: Sequence[pa.RecordBatch]
) -> tuple[IdPair, ...]:
    """Select the id gaps that have a side among some rows."""
    if not (gaps and batches):
        return ()
    ids = np.concatenate([trade_ids(batch) for batch in batches])
    # Rows without an id read as id 0, which is also the id before the first trade.
    ids = ids[ids > 0]
    has_before = np.isin([gap.after_id for gap in gaps], ids)
    has_after = np.isin([gap.before_id for gap in gaps], ids)
    return tuple(compress(gaps, has_before | has_after))


class QuietMoments(NamedTuple):
    """The moments at which the rows of a CSV file may be divided: docs/import.md.

    A trade may have happened up to a second before or after its time in the file. So a boundary may
    be only at the beginning of a second that has no row, if the second before has none either.

    Attributes:
        rows: indexes of the rows that have a quiet moment before them.
        firsts: of each moment, the first possible boundary, in UNIX seconds.
        lasts: of each moment, the last possible boundary, in UNIX seconds.
    """

    rows: Int64s
    firsts: Int64s
    lasts: Int64s


def quiet_moments(
    seconds: Int64s, before_s: int | None = None, *, is_exact: bool = False
) -> QuietMoments:
    """Find the quiet moments before and between rows.

    Args:
        seconds: of the rows, in order, in UNIX seconds.
        before_s: the second of the row before them; None if it is unknown.
        is_exact: find a boundary between any two seconds with rows, quiet or not.
    """
    first = seconds[:1] if before_s is None else [before_s]
    before = np.concatenate((first, seconds[:-1]))[: len(seconds)]
    after_s, ahead_s = (1, 0) if is_exact else (QUIET_S, 1)
    rows = (seconds - before >= after_s + ahead_s).nonzero()[0]
    return QuietMoments(rows, before[rows] + after_s, seconds[rows] - ahead_s)


def between_quiet_moments(store: LocalStore, segment: Segment, part: Range) -> Range:
    """Widen a part of an imported segment to the quiet moments around it.

    Args:
        store: the archive's files.
        segment: an imported segment.
        part: a range inside that of the segment.
    """
    batches = read_batches(store, segment.path, columns=["time"])
    seconds = [times(batch) // SECOND for batch in batches]
    if not seconds:
        return part
    # Before the first and after the last row it may be split anywhere.
    _, firsts, lasts = quiet_moments(np.concatenate([*seconds, [END_OF_TIME]]), -QUIET_S)
    begin_s, end_s = (part.after + 1) // SECOND, -(-(part.through + 1) // SECOND)
    begin_s = min(begin_s, int(lasts[firsts.searchsorted(begin_s, side="right") - 1]))
    end_s = max(end_s, int(firsts[lasts.searchsorted(end_s)]))
    covered = segment.range
    return Range(max(covered.after, begin_s * SECOND - 1), min(covered.through, end_s * SECOND - 1))


def footers_around(
    store: LocalStore, segment: Segment, footer: Footer, lost: Range
) -> tuple[list[Footer], Footer]:
    """Split a footer around a range.

    Returns the footers of the non-empty parts before and after it, and the footer of the part
    inside it.

    Args:
        store: the archive's files.
        segment: which is read for its trade ids.
        footer: of that segment.
        lost: the range to leave out; what of it is outside of the segment is ignored.
    """
    covered = segment.range
    after, through = max(covered.after, lost.after), min(covered.through, lost.through)
    ranges = [Range(covered.after, after), Range(after, through), Range(through, covered.through)]
    columns = ["trade_id", "time"]
    rows = [list(read_batches(store, segment.path, part, columns)) for part in ranges]
    before, inside, following = footers_by_part(footer, list(zip(ranges, rows, strict=True)))
    outside = [part for part in (before, following) if part.range.after < part.range.through]
    return outside, inside
