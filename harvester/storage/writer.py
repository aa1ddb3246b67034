"""Writer of a pair: commit trades, compact segments, change coverage, clean up after a crash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa

from harvester.errors import ArchiveDamaged, MarketChanged
from harvester.schema import RowsChecksum, clip, times, with_ties
from harvester.storage import locks_and_requests
from harvester.storage.compaction import (
    are_ordered_within,
    between_quiet_moments,
    check_rows,
    footers_around,
    footers_by_part,
    is_within,
    plan_merges,
    split_by_year,
    verified_rows,
)
from harvester.storage.locks_and_requests import (
    QuarantineNote,
    check_case,
    locked,
    quarantine_copy,
    quarantine_file,
)
from harvester.storage.parquet_files import read_batches, stage_rollup, stage_segment
from harvester.storage.segment import (
    ALL_TIMES,
    Footer,
    ImportedRange,
    Segment,
    list_rollups,
    parse_path,
    reading_order,
    rollup_path,
    segment_path,
)
from harvester.storage.trade_store import TradeStore, without_future
from harvester.times import Range, enclosing_range, missing, overlap, show, union, year_of

REDOWNLOADS = "staging/_redownload"
"""The folder of the staging archives of trades that are to replace imported ones, one a pair."""

Progress = Callable[[str, int, int], None]
"""Called with the pair, the steps done and all steps."""


class NewGap(NamedTuple):
    """A range that was covered and is a gap now.

    Attributes:
        range: the range.
        copy: where its imported trades are kept in quarantine; empty if it had none.
    """

    range: Range
    copy: str = ""


@contextmanager
def open_writer(
    archive: TradeStore, pair: str, *, sweep: bool = True, command: str = ""
) -> Iterator[Writer]:
    """Lock a pair for writing while the block runs; files that a crash left are removed first.

    Args:
        archive: that has the pair.
        pair: altname.
        sweep: False where damaged files are to be quarantined before anything is removed.
        command: what this run is, for runs that find the pair locked; empty if it ends by itself.

    Raises:
        ArchiveLocked: another run is writing the pair.
        ArchiveUnwritable: the operating system refuses, or the disk ignores case and would put the
            pair into the folder of another one.
    """
    check_case(archive.store.root, pair)
    with locked(archive.store.root / "locks", pair, command=command):
        # The other pair may have been created while we waited for its lock, which is the same file.
        check_case(archive.store.root, pair)
        pair_writer = Writer(archive, pair)
        if sweep:
            pair_writer.sweep()
        try:
            yield pair_writer
        finally:
            archive.store.remove_folder(f"staging/{pair}")


class Writer:
    """Writes one pair. Made by `open_writer()`, which holds the pair's lock."""

    def __init__(self, archive: TradeStore, pair: str) -> None:
        self.archive = archive
        self.pair = pair
        self._store = archive.store
        self._key = ""

    def check_market(self, key: str) -> None:
        """Compare a market's key with that of the stored trades; an empty key matches any.

        Raises:
            MarketChanged: the stored trades are another market's.
        """
        if not key or key == self._key:
            return
        stored = self.archive.market_footer(self.pair)
        if stored is not None and stored.key != key:
            raise MarketChanged(self.pair, stored.key, key)
        self._key = key

    def requests(self) -> locks_and_requests.Requests:
        """What is on record as requested."""
        return locks_and_requests.read_requests(self._store, self.pair)

    def record_requested(
        self,
        *requested: Range,
        is_listed: bool | None = None,
        was_covered: bool = False,
        had_rows: bool = False,
    ) -> None:
        """Record ranges as requested, before they are downloaded.

        If that record was lost, what counts as requested without it is recorded as well.

        Args:
            requested: the ranges, at least one.
            is_listed: whether the exchange knows the pair, as far as is known; None: as before.
            was_covered: whether they were covered once: a gap in them is reported also of a pair
                that the exchange does not know.
            had_rows: the same where an imported file had rows, readable or not.
        """
        before = self.requests()
        is_known = was_covered or had_rows
        covered = self.archive.coverage(self.pair) if is_known or not before.ranges else []
        # What lies before the end of the coverage counts anyway.
        end_ns = max(known.through for known in requested)
        is_end = is_known and (not covered or end_ns >= covered[-1].through)
        through = end_ns if is_end else 0
        after = locks_and_requests.Requests(
            union([*(before.ranges or enclosing_range(covered)), *requested]),
            before.is_unlisted if is_listed is None else not is_listed,
            max(before.counts_through, through if was_covered else 0),
            max(before.rows_through, through if had_rows else 0),
        )
        if after != before:
            locks_and_requests.write_requests(self._store, self.pair, after)

    def end_requests(self, undo: locks_and_requests.Requests | None = None) -> None:
        """Record that the exchange does not know the pair: what lies after its coverage is no gap.

        The record of what was requested is kept, and counts again with the next download.

        Args:
            undo: the record before this run, if the run got no answer; None to keep all of it.
        """
        before = undo or self.requests()
        if not before.ranges:
            self.restore_requests(before)
            return
        ends = [covered.through for covered in self.archive.coverage(self.pair)]
        through = max([before.counts_through, *ends])
        extends_past_coverage = bool(ends) and before.ranges[-1].through > through
        after = (
            before._replace(is_unlisted=True, counts_through=through)
            if extends_past_coverage
            else before
        )
        if after != self.requests():
            locks_and_requests.write_requests(self._store, self.pair, after)

    def restore_requests(self, before: locks_and_requests.Requests) -> None:
        """Record as requested what `requests` returned before, and nothing else."""
        if before.ranges:
            locks_and_requests.write_requests(self._store, self.pair, before)
        else:
            self._store.remove(f"wanted/{self.pair}.json")

    def record_requested_if_lost(self, ranges: Iterable[Range]) -> None:
        """Record ranges as requested, if nothing is recorded."""
        before, lost = self.requests(), list(ranges)
        if lost and not before.ranges:
            locks_and_requests.write_requests(self._store, self.pair, before._replace(ranges=lost))

    def shorten_requested(self, now_ns: int, until_ns: int) -> None:
        """Shorten requested ranges that end in the future.

        Args:
            now_ns: this machine's time.
            until_ns: where these ranges are to end.
        """
        requested = self.requests()
        trimmed = without_future(requested.ranges, now_ns, until_ns)
        if trimmed != requested.ranges:
            through = min(requested.counts_through, until_ns)
            after = requested._replace(ranges=trimmed, counts_through=through)
            locks_and_requests.write_requests(self._store, self.pair, after)

    def shorten(self, segment: Segment, through: int) -> Segment:
        """Replace a segment by one of the same rows whose range ends earlier.

        After a crash in between both are there, and `sweep` removes the new one.

        Args:
            segment: what to replace.
            through: where the new range ends, in nanoseconds; no row is later.

        Raises:
            ArchiveDamaged: the rows are not those of the footer, or one is later; nothing changed.
        """
        bounds = self.archive.footer(segment).bounds
        if not segment.range.after < through or (bounds is not None and bounds[1] > through):
            raise ArchiveDamaged(
                f"{self.archive.location(segment)} has trades later than {show(through)}: "
                "its range can't end there"
            )
        shortened = Range(segment.range.after, through)
        footers = footers_by_part(self.archive.footer(segment), [(shortened, [])])
        return self._replace(segment, footers)[0]

    def remove_coverage(self, lost: Range) -> list[NewGap]:
        """Remove a range that lacks trades from coverage, and record it as requested: now a gap.

        Segments are split at its ends, and rows inside it are deleted. Imported segments are split
        at the quiet moments around it, and their rows inside are kept in quarantine, as it is not
        certain that the exchange shows them. After a crash each segment is as it was, or split.

        Returns:
            What was covered and is a gap now; empty if nothing of the range was covered.

        Raises:
            ArchiveDamaged: the rows of a segment are not those of its footer; it was not split.
        """
        segments = [
            segment for segment in self.archive.segments(self.pair) if overlap(segment.range, lost)
        ]
        removed = []
        for segment in segments:
            after, through = max(lost.after, segment.range.after), lost.through
            part = Range(after, min(through, segment.range.through))
            if segment.is_imported:
                part = between_quiet_moments(self._store, segment, part)
            footer = self.archive.footer(segment)
            outside, inside = footers_around(self._store, segment, footer, part)
            copy = self._keep_rows(segment, inside, lost) if segment.is_imported else ""
            self.record_requested(part, was_covered=True)
            self._replace(segment, outside)
            removed.append(NewGap(part, copy))
        return removed

    def _keep_rows(self, segment: Segment, part: Footer, lost: Range) -> str:
        """Copy the rows in a part of a segment into quarantine; return the path, if there are any.

        Args:
            segment: that has the rows.
            part: the footer of the part.
            lost: the range that lacks trades, for the note.
        """
        rows = (clip(batch, part.range) for batch in verified_rows(self.archive, [segment]))
        staged, footer = stage_segment(self._store, self.pair, rows, part)
        to = ""
        if footer.bounds is not None:
            path = segment_path(self.pair, footer.range, footer.bounds[1], is_imported=True)
            fault = f"trades were missing in {lost}"
            note = QuarantineNote(self.pair, path, footer.range, [fault], [footer.range])
            to = quarantine_copy(self._store, note, staged)
        self._store.remove(staged)
        return to

    def _replace(self, segment: Segment, footers: Sequence[Footer]) -> list[Segment]:
        """Replace a segment by its rows in some parts of its range, one segment per footer.

        Until the old segment is removed, a crash leaves it in force: the new ones are inside its
        range, have the same rows, and are removed by the next writer.
        """
        # All rows are compared with the checksum before any is written.
        check_rows(self.archive, segment)
        segments = [
            self._write(read_batches(self._store, segment.path, footer.range), footer)
            for footer in footers
        ]
        self.remove(segment)
        return segments

    def commit(
        self, covered: Range, rows: pa.RecordBatch | Sequence[pa.RecordBatch], footer: Footer
    ) -> list[Segment]:
        """Add all trades of a range to the archive, split where the year turns.

        Args:
            covered: the range; every trade published in it is among `rows`.
            rows: one batch of `schema.PAGE_SCHEMA` in the exchange's order, or several in order;
                all published in `covered`.
            footer: source, cursor, pair and id gaps; fields that depend on rows are filled in.

        Raises:
            MarketChanged: the stored trades are another market's.
        """
        self.check_market(footer.key)
        all_batches = [rows] if isinstance(rows, pa.RecordBatch) else rows
        batches = [batch for batch in all_batches if batch.num_rows]
        if not are_ordered_within(batches, covered):
            raise AssertionError(
                f"rows of {self.pair} are out of order, or lie outside of {covered}"
            )
        locks_and_requests.write_format_file(self._store, self.pair)
        committed = []
        parts = list(split_by_year(covered, batches))
        for (_, part_rows), part in zip(parts, footers_by_part(footer, parts), strict=True):
            is_last = part.range.through == covered.through
            part_footer = part if is_last else replace(part, id_gaps_across_imports=())
            committed.append(self._write(with_ties(part_rows), part_footer))
        return committed

    def commit_stream(
        self, rows: Iterable[pa.RecordBatch], footer: Callable[[], Footer]
    ) -> Segment:
        """Add a stream of trades to the archive: memory has one row group at a time.

        Whatever `rows` raises leaves the archive as it was.

        Args:
            rows: batches of `schema.PAGE_SCHEMA` in the exchange's order, all of one year; no batch
                ends inside a group of equal time.
            footer: called once all rows were read; its range covers them.
        """
        locks_and_requests.write_format_file(self._store, self.pair)
        staged, whole = stage_segment(self._store, self.pair, with_ties(_in_order(rows)), footer)
        self.check_market(whole.key)
        first_ns, last_ns = whole.bounds or (whole.range.through, whole.range.through)
        if not whole.range.after < first_ns <= last_ns <= whole.range.through:
            raise AssertionError(f"rows of {self.pair} lie outside of {whole.range}")
        return self._commit(staged, whole)

    def compact(
        self,
        *,
        merge_all: bool = False,
        merge_past_years: bool = False,
        after: int = 0,
        progress: Progress = lambda _pair, _done, _all: None,
    ) -> tuple[int, int]:
        """Merge neighbouring small segments; return the number of files before and after.

        A segment in another folder than that of its rows' year is moved there at first.

        Args:
            merge_all: merge whatever can be merged; otherwise only where it is worth the writing.
            merge_past_years: merge whatever can be merged in all years but the last one.
            after: leave segments alone whose range begins before this time, in nanoseconds.
            progress: called after each merge.

        Raises:
            ArchiveDamaged: a segment has other rows than its footer says.
        """
        pieces = self.archive.pieces(self.pair)
        segments = [piece.segment for piece in pieces if piece.segment.range.after >= after]
        footers = {segment: self.archive.footer(segment) for segment in segments}
        is_moved = False
        for segment, footer in footers.items():
            other_years = {*map(year_of, footer.bounds or [footer.range.through])} - {segment.year}
            if other_years and footer.range == segment.range and footer.bounds != ALL_TIMES:
                # SQL finds trades by the year of their folder.
                rows = list(verified_rows(self.archive, [segment]))
                parts = list(split_by_year(segment.range, rows))
                self._replace(segment, footers_by_part(footer, parts))
                is_moved = True
        if is_moved:
            return self.compact(
                merge_all=merge_all,
                merge_past_years=merge_past_years,
                after=after,
                progress=progress,
            )
        rows_of = {segment: footer.rows for segment, footer in footers.items()}
        planned = plan_merges(
            segments,
            rows_of.__getitem__,
            merge_all=merge_all,
            merge_past_years=merge_past_years,
        )
        runs = [part for run in planned for part in self._alike(run) if len(part) > 1]
        done, total = 0, sum(len(run) for run in runs)
        for run in runs:
            self._write(verified_rows(self.archive, run), self._merged_footer(run))
            for segment in run:
                self.remove(segment)
            done += len(run)
            progress(self.pair, done, total)
        return len(segments), len(segments) - sum(len(run) - 1 for run in runs)

    def store_rollup(
        self, segment: Segment, interval: str, partials: Iterable[pa.RecordBatch]
    ) -> None:
        """Store a roll-up of a segment, replacing the one of the same level.

        Args:
            segment: from whose rows it was made.
            interval: the level, such as 1m.
            partials: batches of `parquet_files.PARTIALS`.
        """
        footer = self.archive.footer(segment)
        staged = stage_rollup(self._store, self.pair, partials, interval, footer)
        self._store.commit(staged, rollup_path(segment, interval))

    def sweep(self) -> None:
        """Remove what a crash left: staged files, segments that were merged, orphaned roll-ups.

        A roll-up is deleted before its segment, so an orphan means that a segment was moved by
        hand. Of trades that were downloaded again, those inside imported segments stay staged.
        """
        self._store.remove_folder(f"staging/{self.pair}")
        widest: Segment | None = None
        for segment in self.archive.segments(self.pair):
            if widest is not None and is_within(segment.range, widest.range):
                redundant = self._redundant(widest, segment)
                if redundant is not None:
                    self.remove(redundant)
                widest = segment if redundant == widest else widest
            else:
                widest = segment
        segments = self.archive.segments(self.pair)
        paths = {segment.path for segment in segments}
        for rollup in list_rollups(self._store, self.pair):
            if rollup.segment_path not in paths:
                self._store.remove(rollup.path)
        imported = [segment.range for segment in segments if segment.is_imported]
        for staged in staged_segments(self.archive, self.pair):
            if not any(is_within(staged.range, covered) for covered in imported):
                self._store.remove(staged.path)

    def quarantine(self, note: QuarantineNote) -> str:
        """Move a damaged file of the pair into quarantine, with a note; return its new path."""
        to = quarantine_file(self._store, note)
        self.archive.forget_pair(self.pair)
        return to

    def replace_requested(self, ranges: Iterable[Range], note: QuarantineNote) -> str:
        """Replace an unreadable record of requested ranges; the old file is kept in quarantine.

        It is copied into quarantine first, so there is a record at every moment.

        Args:
            ranges: all that counts as requested.
            note: about the old file.

        Returns:
            The path of the copy.
        """
        to = quarantine_copy(self._store, note)
        locks_and_requests.write_requests(
            self._store, self.pair, locks_and_requests.Requests(union(ranges))
        )
        return to

    def _alike(self, run: list[Segment]) -> Iterator[list[Segment]]:
        """Split a run where the market's key changes, or imported trades with ids meet others.

        A segment has only one key. And only the ids at the ends of segments say how many imported
        trades without ids there must be: inside a segment nobody would count them.
        """
        part: list[Segment] = []
        key, has_ids = "", set[bool]()
        for segment in run:
            footer = self.archive.footer(segment)
            is_counted = footer.is_imported and footer.rows
            own = {footer.first_trade_id is not None} if is_counted else set()
            if (key and footer.key not in ("", key)) or len(has_ids | own) > 1:
                yield part
                part, has_ids = [], set()
            part.append(segment)
            key, has_ids = footer.key or key, has_ids | own
        yield part

    def replace_imported(self, imported: Segment, downloaded: Sequence[Segment]) -> None:
        """Replace an imported segment by downloaded trades of exactly its range.

        The new file is in place before the imported one is deleted; of two files of one range,
        readers take the downloaded one. If the trades are of several years, there are several new
        files: readers take the imported one until it is deleted. After a crash, this is repeated.

        Args:
            imported: what to replace.
            downloaded: segments of the staging archive, in order, without gaps; their paths are
                within this archive.

        Raises:
            ArchiveDamaged: a segment has other rows than its footer says; nothing was replaced.
            ArchiveUnwritable: the operating system refused.
        """
        covered = Range(downloaded[0].range.after, downloaded[-1].range.through)
        if covered != imported.range:
            raise AssertionError(f"{covered} was downloaded to replace {imported.range}")
        files = [
            stage_segment(
                self._store,
                self.pair,
                verified_rows(self.archive, run),
                self._merged_footer(run),
            )
            for run in self._by_year(downloaded)
        ]
        for staged, footer in files:
            self._commit(staged, footer)
        self.remove(imported)

    def _by_year(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        """Divide segments by the year of their rows; those without rows join the one before."""
        runs: list[list[Segment]] = [[]]
        year: int | None = None
        for segment in segments:
            if self.archive.footer(segment).rows:
                if year not in (None, segment.year):
                    runs.append([])
                year = segment.year
            runs[-1].append(segment)
        return runs

    def _merged_footer(self, run: Sequence[Segment]) -> Footer:
        """The footer of adjacent segments of one source as one segment."""
        footers = [self.archive.footer(segment) for segment in run]
        return Footer(
            range=Range(run[0].range.after, run[-1].range.through),
            pair_json=next(
                (f.pair_json for f in reversed(footers) if f.key), footers[-1].pair_json
            ),
            source=footers[0].source,
            ends_between_trades=any(footer.ends_between_trades for footer in footers),
            cursor=next((f.cursor for f in reversed(footers) if f.cursor), None),
            confirmed_id_gaps=tuple(gap for footer in footers for gap in footer.confirmed_id_gaps),
            unconfirmed_id_gaps=sum(footer.unconfirmed_id_gaps for footer in footers),
            id_gaps_across_imports=tuple(
                gap for footer in footers for gap in footer.id_gaps_across_imports
            ),
            imported=_united([part for footer in footers for part in footer.imported]),
        )

    def _write(self, trades: Iterable[pa.RecordBatch], footer: Footer) -> Segment:
        """Write batches of `schema.SEGMENT_SCHEMA`; set the fields that depend on rows."""
        return self._commit(*stage_segment(self._store, self.pair, trades, footer))

    def _commit(self, staged: str, footer: Footer) -> Segment:
        """Move a staged file to the path that its footer, as it was written, gives it."""
        last_ns = footer.bounds[1] if footer.bounds else None
        is_imported = footer.source == "csv"
        path = segment_path(self.pair, footer.range, last_ns, is_imported=is_imported)
        self._store.commit(staged, path)
        segment = parse_path(path, 0)
        if segment is None:
            raise AssertionError(f"{path} is no path of a segment")
        return segment

    def _redundant(self, wide: Segment, narrow: Segment) -> Segment | None:
        """Return which of two overlapping segments a crash left; None where neither is certain.

        The narrow one is redundant if the wide one contains exactly its rows, or if it is imported
        and the wide one has the re-downloaded trades of its range. Names alone prove nothing: a
        segment that was renamed by hand must not cause the deletion of others.
        """
        footer, inner = self.archive.footer(wide), self.archive.footer(narrow)
        if footer.range != wide.range or inner.range != narrow.range:
            return None
        if wide.is_imported == narrow.is_imported:
            checksum = RowsChecksum(read_batches(self._store, wide.path, narrow.range))
            if checksum.hexdigest() != inner.checksum:
                return None
            # Of two equal ones, one is a copy in the folder of another year.
            last_ns = (footer.bounds or footer.range)[1]
            is_copy = wide.range == narrow.range and wide.year != year_of(last_ns)
            return wide if is_copy and self._is_sound(narrow) else narrow
        # Between two steps of `replace_imported`. Downloaded trades that replace only a part of an
        # imported segment are kept in staging until all of it is replaced.
        if not narrow.is_imported:
            staged = [segment.range for segment in staged_segments(self.archive, self.pair)]
            return None if missing([narrow.range], staged) else narrow
        return narrow if self._is_sound(wide) else None

    def _is_sound(self, segment: Segment) -> bool:
        """Whether a segment has the rows that its footer says."""
        try:
            check_rows(self.archive, segment)
        except ArchiveDamaged:
            return False
        return True

    def remove(self, segment: Segment) -> None:
        """Delete a segment and its roll-ups; its rows are in other segments, or not needed."""
        self.archive.forget(segment)
        for level in self._store.folders("candles"):
            self._store.remove(rollup_path(segment, level.removeprefix("interval=")))
        self._store.remove(segment.path)


def staged_segments(archive: TradeStore, pair: str) -> list[Segment]:
    """The segments of a pair that were downloaded to replace imported ones, in order.

    Args:
        archive: the archive; the paths of the segments are within it.
        pair: altname.
    """
    found: list[Segment] = []
    for entry in archive.store.files(f"{REDOWNLOADS}/{pair}/trades/pair={pair}"):
        path = entry.path.removeprefix(f"{REDOWNLOADS}/{pair}/")
        if (segment := parse_path(path, entry.size, entry.changed_ns)) is not None:
            found.append(segment._replace(path=entry.path))
    return sorted(found, key=reading_order)


def _in_order(rows: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Pass batches on and check their order; no batch continues a group of equal time."""
    last_ns = -1
    for batch in rows:
        stamps = times(batch)
        if int(stamps[0]) <= last_ns or not (stamps[1:] >= stamps[:-1]).all():
            raise AssertionError(f"rows are out of order after {last_ns}")
        last_ns = int(stamps[-1])
        yield batch


def _united(parts: list[ImportedRange]) -> tuple[ImportedRange, ...]:
    """Merge imported ranges that touch and are from the same CSV file; the order is kept."""
    united: list[ImportedRange] = []
    for part in parts:
        last = united[-1] if united else None
        if last is not None and last[1:] == (part.after, *part[2:]):
            united[-1] = last._replace(through=part.through)
        else:
            united.append(part)
    return tuple(united)
