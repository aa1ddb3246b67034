"""Replace imported rows by re-downloaded ones: segments are rewritten and renamed into place."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import msgspec
import numpy as np
import pyarrow as pa

from harvester.errors import ArchiveDamaged
from harvester.schema import RowsChecksum, clip, no_rows, times, trade_ids
from harvester.storage.footer import ConfirmedIdGap, Footer, ImportedRange
from harvester.storage.replacement_staging import (
    ASIDE,
    AtomicReplacement,
    ReplacementView,
    from_files,
    note,
    noted,
    quarantine_damaged,
    still_from_files,
)
from harvester.storage.segment import Segment, read_batches
from harvester.storage.trade_store import Piece, TradeStore, pieces_of
from harvester.storage.writer import Writer
from harvester.times import END_OF_TIME, Range, missing, overlap, year_end, year_of
from harvester.trade_ids import IdGap, LastId, find_gaps, gap_at_end

# A footer has a number of unconfirmed id gaps, and `verify` accepts that many. When rows are
# replaced, those that were counted among the removed rows must be subtracted: otherwise they would
# excuse the loss of other rows.


class IdGapRecount:
    """Counts the id gaps of a range's rows, those at its boundaries included, as rows pass by."""

    def __init__(
        self,
        span: Range,
        replaced: Sequence[Range],
        known: Iterable[ConfirmedIdGap],
        left: tuple[int, int, int] | None,
    ) -> None:
        """Begin to count.

        Args:
            span: the range of the rows.
            replaced: the parts of it whose rows are replaced, in order.
            known: confirmed id gaps, of the old rows and of the new ones.
            left: the last id before the range, as `TradeStore.last_id_before` returns it.
        """
        self._span = span
        self._replaced = replaced
        self._known = frozenset(known)
        # Rows without an id read as id 0, which is also what stands before the first trade.
        ids = np.unique(np.array([*self._known], dtype=np.int64))
        self._known_ids = ids[ids > 0]
        self._edge = LastId(*left) if left is not None else None
        self._year = year_of(span.through)
        self._years: set[int] = set()
        self._stand: dict[ConfirmedIdGap, int] = {}
        self._years_of: dict[int, int] = {}
        self.kept: Counter[int] = Counter()
        """Id gaps between rows that stay, by year."""
        self.touched: Counter[int] = Counter()
        """Id gaps inside or at the boundary of replaced parts, by year."""
        self.inside = 0
        """How many of these are between two replaced rows."""
        self.seams: dict[tuple[int, int], int] = {}
        """Those of these at the ends of the range, and their years."""

    def add(self, rows: pa.RecordBatch) -> None:
        """Count the next rows."""
        stamps = times(rows)
        gaps, self._edge = find_gaps(self._edge, rows)
        self._count(gaps)
        self._year = year_of(int(stamps[-1]))
        for year in range(year_of(int(stamps[0])), self._year + 1):
            if ((stamps > year_end(year - 1)) & (stamps <= year_end(year))).any():
                self._years.add(year)
        if len(self._known_ids):
            ids = trade_ids(rows)
            places = np.isin(ids, self._known_ids).nonzero()[0]
            for number, stamp in zip(ids[places].tolist(), stamps[places].tolist(), strict=True):
                self._years_of[number] = year_of(stamp)

    def finish(self, right: tuple[int, int] | None) -> None:
        """End the count; `right` is the result of `first_id_after` at the end of the range."""
        self._count(gap_at_end(self._edge, right, no_rows()))

    def years(self) -> list[int]:
        """The years of the rows, in order; the year of the range's end if there are no rows."""
        return sorted(self._years) or [self._year]

    def jumps(self) -> dict[ConfirmedIdGap, int]:
        """The confirmed id gaps of these rows, and the year of the trade after each.

        An id gap between whose sides there are rows now is left out.
        """
        found = dict(self._stand)
        for jump in self._known - found.keys():
            years = [self._years_of[side] for side in jump if side in self._years_of]
            if len(years) == 1:
                found[jump] = years[0]
        return found

    def _count(self, gaps: Iterable[IdGap]) -> None:
        for gap in gaps:
            at_end = gap.before_ns == END_OF_TIME
            year = self._year if at_end else year_of(gap.before_ns)
            jump = ConfirmedIdGap(*gap.sides)
            if jump in self._known:
                self._stand[jump] = year
                continue
            # The row on its left counts in: its neighbour may be of the same moment.
            across = Range(gap.after_ns - 1, min(gap.before_ns, self._span.through))
            if not any(overlap(across, part) for part in self._replaced):
                self.kept[year] += 1
                continue
            self.touched[year] += 1
            self.inside += self._goes(gap.after_ns) and self._goes(gap.before_ns)
            if at_end or gap.after_ns <= self._span.after:
                self.seams[gap.sides] = year

    def _goes(self, stamp: int) -> bool:
        return any(part.after < stamp <= part.through for part in self._replaced)


def excused(before: IdGapRecount, after: IdGapRecount, told: int, told_new: int) -> Counter[int]:
    """Return how many unconfirmed id gaps the new footers may have, by year.

    This is never more than there are.

    Args:
        before: the count of the old rows.
        after: the count of the new rows.
        told: the number in the footer of the old rows.
        told_new: the number in the footers of the rows that replace them.
    """
    # A seam that skips as before still is what the old footer counted. Where rows of a file meet
    # others, it may or may not have been counted: what is not there any more excuses nothing.
    same = Counter(year for sides, year in after.seams.items() if sides in before.seams)
    stays, comes = after.kept + same, after.touched - same
    return _up_to(stays, max(0, told - before.inside)) + _up_to(comes, told_new)


def _up_to(counts: Counter[int], most: int) -> Counter[int]:
    """Limit counts by year to a total of `most`, the earliest years first."""
    taken: Counter[int] = Counter()
    for year in sorted(counts):
        taken[year] = min(counts[year], most - taken.total())
    return +taken


# All new files are staged first, then renamed over those of the same name, one after the other. A
# crash between any two steps leaves complete segments, and the re-downloaded trades in their
# staging archive, from which the next run continues.


@dataclass(frozen=True, slots=True)
class StagedReplacement:
    """A segment, and the files that are to replace it: staged paths and final paths."""

    old: Segment
    files: list[tuple[str, str]]


def splice(writer: Writer, view: ReplacementView, parts: Sequence[Range]) -> list[Segment]:
    """Replace imported ranges by the re-downloaded trades of the staging archive.

    Args:
        writer: of the pair; its lock is held.
        view: the archive as it is to be, which covers the parts.
        parts: what to replace, in order; all of it was imported.

    Returns:
        The segments that were replaced.

    Raises:
        ArchiveDamaged: a staged file does not read back; nothing was replaced.
        ArchiveUnwritable: the operating system refused.
    """
    made = []
    span = Range(parts[0].after, parts[-1].through)
    for segment, _ in writer.archive.pieces(writer.pair, span):
        if any(overlap(part, segment.range) for part in parts):
            made.append(
                StagedReplacement(segment, _SegmentRewrite(writer, view, segment, parts).staged())
            )
    begun = noted(writer.archive.store, writer.pair)
    if len(made) > 1:
        # Where segments touch at a busy second, a trade may change sides: both, or none.
        note(writer.archive.store, writer.pair, [*begun, AtomicReplacement(tuple(parts))])
    for one in made:
        _put(writer, one)
    if begun or len(made) > 1:
        left = [one for one in begun if still_from_files(writer.archive, writer.pair, one.ranges)]
        note(writer.archive.store, writer.pair, left)
    return [one.old for one in made]


def finish(writer: Writer, view: ReplacementView) -> list[str]:
    """Complete replacements of several segments that a crash interrupted.

    If there are none, this reads one small file. What can't be completed now stays in the journal,
    unless no part of it was replaced: then all of it is imported data, as before.

    Returns:
        A line for each damaged file of the staging archive that was quarantined.

    Raises:
        ArchiveDamaged: a segment's rows are not those of its footer; it was not replaced.
        ArchiveUnwritable: the machine refused.
    """
    archive, pair = writer.archive, writer.pair
    begun = noted(archive.store, pair)
    if not begun:
        return []
    fetches = f"`harvester backfill {pair} --upgrade` fetches its range anew"
    said, stay = quarantine_damaged(view, pair, fetches), []
    for one in begun:
        left = still_from_files(archive, pair, one.ranges)
        aside = [each.range for each in view.aside(pair)]
        # What was not compared an upgrade replaces, which compares it.
        if one.compared and left and not missing(left, aside):
            splice(writer, view, left)
        elif left and missing(one.ranges, left):
            # What is fetched in its stead nobody has held against the file.
            stay.append(msgspec.structs.replace(one, compared=False))
    if stay != begun:
        note(archive.store, pair, stay)
    return said


def end_replacing(writer: Writer) -> list[str]:
    """Complete interrupted replacements as `finish` does, but return damage as a line of text.

    Afterwards `torn` reports whether one is still incomplete.
    """
    try:
        return finish(writer, ReplacementView(writer.archive))
    except ArchiveDamaged as damage:
        return [str(damage)]


def checked(
    view: ReplacementView, segment: Segment, parts: Sequence[Range]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of some parts of a segment, and compare all its rows with its checksum.

    Raises:
        ArchiveDamaged: at the end, if the rows are not those of its footer.
    """
    for batch in _whole(view, segment):
        yield from (some for part in parts if (some := clip(batch, part)).num_rows)


def _whole(view: ReplacementView, segment: Segment) -> Iterator[pa.RecordBatch]:
    """Yield all rows of a segment; at the end they are compared with its checksum."""
    footer, checksum = view.footer(segment), RowsChecksum()
    for batch in read_batches(view.store, segment.path):
        checksum.update(batch)
        yield batch
    if footer.range != segment.range or checksum.hexdigest() != footer.checksum:
        text = f"{view.location(segment)} has other rows than its footer says: "
        if segment.path.startswith(f"{ASIDE}/"):
            raise ArchiveDamaged(f"{text}the same command fetches its range anew")
        mends = f"`harvester verify {segment.pair} --repair` mends it"
        raise ArchiveDamaged(f"{text}it was not upgraded. {mends}")


def clear(writer: Writer, beside: Writer) -> None:
    """Delete the segments of the staging archive that are not needed any more."""
    left = [part for _, part in from_files(writer.archive, writer.pair)]
    for segment in beside.archive.segments(beside.pair):
        if not any(overlap(segment.range, part) for part in left):
            beside.remove(segment)
    if not beside.archive.segments(beside.pair):
        beside.archive.store.remove_folder(f"trades/pair={beside.pair}")


def _put(writer: Writer, made: StagedReplacement) -> None:
    store, old = writer.archive.store, made.old
    # Answers are the same without roll-ups, and never come from those of other rows.
    writer.remove_rollups(old)
    # Behind the old one, where it hides them, the last one first: so they show all at once.
    for staged, path in reversed(made.files):
        store.commit(staged, path)
    writer.archive.forget(old)
    if all(path != old.path for _, path in made.files):
        writer.remove(old)


class _SegmentRewrite:
    """Rewrites one segment with re-downloaded trades in some parts of its range."""

    def __init__(
        self, writer: Writer, view: ReplacementView, segment: Segment, parts: Sequence[Range]
    ) -> None:
        self._writer = writer
        self._view = view
        self._segment = segment
        self._parts = parts
        self._inner = [both for part in parts if (both := overlap(part, segment.range))]
        aside = view.aside(segment.pair)
        kept = [Piece(segment, part) for part in missing([segment.range], self._inner)]
        new = [piece for part in self._inner for piece in pieces_of(aside, part)]
        self._sources = sorted([*kept, *new], key=lambda piece: piece.within)
        self._footer_before = view.footer(segment)
        self._footers = {piece.segment: view.footer(piece.segment) for piece in new}

    def staged(self) -> list[tuple[str, str]]:
        """Stage the new files; all rows that are read are compared with their checksums."""
        before, after = self._reckoned()
        told_new = sum(footer.unasked_jumps for footer in self._footers.values())
        excuses = excused(before, after, self._footer_before.unasked_jumps, told_new)
        jumps, parts = after.jumps(), self._by_year(after.years())
        return [
            self._writer.stage(
                self._rows(part),
                replace(
                    self._footer(part),
                    jumps=tuple(sorted(jump for jump in jumps if jumps[jump] == year)),
                    unasked_jumps=excuses[year],
                ),
            )
            for year, part in parts
        ]

    def _reckoned(self) -> tuple[IdGapRecount, IdGapRecount]:
        """Count the id gaps before and after the replacement, and check all checksums."""
        for segment in self._footers:
            deque(_whole(self._view, segment), maxlen=0)
        known, span = self._jumps_on_record(), self._segment.range
        now, then = self._beside(span.after), self._beside(span.through)
        left = self._writer.archive.last_id_before(self._segment.pair, span.after)
        before = IdGapRecount(span, self._inner, known, left)
        for batch in _whole(self._view, self._segment):
            before.add(batch)
        before.finish(self._writer.archive.first_id_after(self._segment.pair, span.through))
        left = now.last_id_before(self._segment.pair, span.after)
        after = IdGapRecount(span, self._inner, known, left)
        for piece in self._sources:
            for batch in read_batches(
                self._view.store, piece.segment.path, piece.within, ["trade_id", "time"]
            ):
                after.add(batch)
        after.finish(then.first_id_after(self._segment.pair, span.through))
        return before, after

    def _beside(self, moment: int) -> TradeStore:
        """The store that will have the neighbouring segment at a moment."""
        is_replaced = any(part.after < moment < part.through for part in self._parts)
        return self._view if is_replaced else self._writer.archive

    def _jumps_on_record(self) -> list[ConfirmedIdGap]:
        """All confirmed id gaps of these rows and at their boundaries."""
        span, archive = self._segment.range, self._writer.archive
        beside = [
            archive.footer(segment)
            for segment in archive.segments(self._segment.pair)
            if span.after in segment.range or span.through in segment.range
        ]
        footers = [self._footer_before, *beside, *self._footers.values()]
        return [jump for footer in footers for jump in footer.jumps]

    def _by_year(self, years: Sequence[int]) -> list[tuple[int, Range]]:
        """The segment's range, cut where the year turns between rows.

        The API may know of a trade in another year than the file: by half a second, or because
        the file lacks it.
        """
        turns = [year_end(year) for year in years[:-1]]
        ends = [self._segment.range.after, *turns, self._segment.range.through]
        return list(zip(years, (Range(*both) for both in pairwise(ends)), strict=True))

    def _within(self, part: Range) -> Iterator[Piece]:
        for piece in self._sources:
            if both := overlap(piece.within, part):
                yield Piece(piece.segment, both)

    def _rows(self, part: Range) -> Iterator[pa.RecordBatch]:
        for segment, within in self._within(part):
            yield from read_batches(self._view.store, segment.path, within)

    def _footer(self, part: Range) -> Footer:
        old = self._footer_before
        new = [piece.segment for piece in self._within(part) if piece.segment != self._segment]
        footers = [self._footers[segment] for segment in new]
        imported = tuple(_less(old.imported, part, self._inner))
        names = [name for name in old.source.split("+") if name != "csv" or imported]
        ends_aside = self._sources[-1].segment != self._segment
        cursors = [footer.cursor for footer in reversed(footers)]
        cursors = [*cursors, old.cursor] if ends_aside else [old.cursor, *cursors]
        return Footer(
            range=part,
            pair=footers[-1].pair if footers else old.pair,
            source="+".join(dict.fromkeys([*names, "api"])),
            cursor=next((cursor for cursor in cursors if cursor), None),
            imported=imported,
            across_files=old.across_files if imported else (),
        )


def _less(
    imported: Sequence[ImportedRange], part: Range, inner: Sequence[Range]
) -> Iterator[ImportedRange]:
    """Yield the imported ranges within a part that are not replaced."""
    for imported_range in imported:
        if both := overlap(Range(imported_range.after, imported_range.through), part):
            for rest in missing([both], inner):
                yield imported_range._replace(after=rest.after, through=rest.through)
