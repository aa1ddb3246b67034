"""Import consecutive files of one pair: sort rows, find boundaries, write segments, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from harvester.csv_import.boundaries import BoundaryFinder, RowCount, SegmentPart
from harvester.csv_import.csv_files import NO_KNOWN_PERIOD, BadRow, iterate_ahead
from harvester.csv_import.file_chains import (
    FileStates,
    complete_period,
    damaged_times,
    doubtful_ranges,
    ends_to_request,
    imported_ranges,
    known_last_id,
    uncovered_ids,
)
from harvester.csv_import.file_scan import MAX_BAD_ROWS_LISTED, ScannedFile, check_cancelled
from harvester.csv_import.rounding import Rounding
from harvester.csv_import.row_order import Sorter, TimeDisorder, in_id_order
from harvester.csv_import.stored_check import RowsAtEnds, StoredCheck, rows_at_ends
from harvester.download.completeness import check_imported_counts
from harvester.errors import ArchiveHasGaps, BadFile, HarvesterError, counted
from harvester.events import CancelToken
from harvester.kraken.pairs import Pair
from harvester.schema import clip, times
from harvester.storage.id_gaps import IdGap, LastId, find_gaps, gap_at_end
from harvester.storage.locks_and_requests import QuarantineNote
from harvester.storage.segment import Footer, IdPair, Segment
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import END_OF_TIME, SECOND, Range, gap_note, missing, second_of, union

MAX_BAD_ROWS_SHOWN = 20  # of each report, in text output; JSON lists up to 10,000


@dataclass(slots=True)
class ImportReport:
    """What was imported from consecutive files of one pair.

    Attributes:
        files: names of the files.
        pair: altname.
        layouts: the columns of each file.
        size: bytes of all files, unpacked.
        read: readable rows.
        imported: rows that were added to the archive.
        already_covered: rows that were skipped, because their time was covered already.
        at_boundaries: rows that were skipped, because no boundary could be drawn beside them.
        repeats: rows that equal another row in every field, trade id included.
        bad: number of unreadable rows that were left out.
        bad_rows: the unreadable rows, up to 10,000.
        ranges: what is covered now and was not covered before.
        notes: sentences that the user should read.
        rounding: how the files round their times to whole seconds; None if their times are finer,
            or if nothing could be compared.
        seconds: how long it took.
        error: what ended it; None if nothing did.
        is_delisted: whether nothing of the pair can be downloaded.
    """

    files: list[str]
    pair: str
    layouts: list[str]
    size: int
    read: RowCount = field(default_factory=RowCount)
    imported: RowCount = field(default_factory=RowCount)
    already_covered: RowCount = field(default_factory=RowCount)
    at_boundaries: RowCount = field(default_factory=RowCount)
    repeats: RowCount = field(default_factory=RowCount)
    bad: int = 0
    bad_rows: list[BadRow] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rounding: Rounding | None = None
    seconds: float = 0.0
    error: HarvesterError | None = None
    is_delisted: bool = False

    @property
    def has_no_boundary(self) -> bool:
        """Whether no row could be imported, because no boundary could be drawn."""
        return bool(self.at_boundaries.rows) and not self.imported.rows + self.already_covered.rows

    @property
    def exit_status(self) -> int:
        """0 if every row is in the archive now, or was skipped at a boundary."""
        if self.error is not None:
            return self.error.exit_status
        return ArchiveHasGaps.exit_status if self.bad or self.has_no_boundary else 0

    def lines(self) -> Iterator[str]:
        """The report as lines of text."""
        for file, layout in zip(self.files, self.layouts, strict=False):
            yield f"{self.pair}: {file} has {layout}"
        yield f"{self.pair}: {self.summary()}, in {self.seconds:.1f} s"
        for note in self.notes:
            yield f"{self.pair}: {note}"
        for row in self.bad_rows[:MAX_BAD_ROWS_SHOWN]:
            yield f"{self.pair}: {row.file}, line {row.line}, left out: {row.text!r}: {row.reason}"
        if self.bad > MAX_BAD_ROWS_SHOWN:
            yield f"{self.pair}: {self.bad - MAX_BAD_ROWS_SHOWN:,} more left out; --json lists them"
        if self.error is not None:
            yield f"harvester: {self.pair}: {str(self.error).removeprefix(f'{self.pair}: ')}"

    def summary(self) -> str:
        """The row counts in one line; without any if an error came before the first row."""
        if self.error is not None and not self.read.rows:
            return "nothing was imported"
        parts = [f"{self.imported.rows:,} of {self.read.rows:,} rows imported"]
        if self.already_covered.rows:
            parts.append(f"{self.already_covered.rows:,} skipped as their time is covered already")
        if self.at_boundaries.rows:
            skipped = f"{self.at_boundaries.rows:,} skipped at boundaries"
            bounds = "because the file is not known to be complete there"
            bounds += " (--whole-since, --whole-until)"
            download = f"where `harvester backfill {self.pair}` downloads the trades"
            parts.append(f"{skipped}, {bounds if self.is_delisted else download}")
        if self.bad:
            parts.append(f"{counted(self.bad, 'unreadable row')} left out")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        counts = {
            name: {"rows": count.rows, "volume": f"{count.volume:f}"}
            for name in ("read", "imported", "already_covered", "at_boundaries", "repeats")
            for count in [getattr(self, name)]
        }
        return {
            "pair": self.pair,
            "exit_status": self.exit_status,
            "files": self.files,
            "layouts": self.layouts,
            "bytes": self.size,
            **counts,
            "bad": self.bad,
            "bad_rows": [row._asdict() for row in self.bad_rows],
            "ranges": self.ranges,
            "notes": self.notes,
            "rounding": None if self.rounding is None else self.rounding._asdict(),
            "seconds": round(self.seconds, 3),
            "summary": self.summary(),
            "error": str(self.error) if self.error else None,
        }


class ImportOptions(NamedTuple):
    """How an import reports its progress, how it is stopped, and what it does with bad rows.

    Attributes:
        on_bytes: called with a pair and a number of bytes that were read, from any thread.
        cancel: cancelled to end the import; rows up to the last boundary are kept.
        skip_bad_rows: leave out unreadable rows and list them, instead of failing.
        done: called with each report once it is complete, from any thread.
    """

    on_bytes: Callable[[str, int], None]
    cancel: CancelToken
    skip_bad_rows: bool = False
    done: Callable[[ImportReport], None] = lambda _report: None


class ChainImporter:
    """Imports consecutive files of one pair."""

    def __init__(  # noqa: PLR0913 - all that an import needs
        self,
        archive: TradeStore,
        pair: Pair,
        files: Sequence[ScannedFile],
        options: ImportOptions,
        bad_times: Sequence[Range] = (),
        states: FileStates | None = None,
        *,
        is_delisted: bool = False,
    ) -> None:
        """Prepare the import; nothing is written yet.

        Args:
            archive: where the trades go.
            pair: the pair of the files.
            files: one of the chains that `chains` returned.
            options: progress callback, cancel token, and what to do with bad rows.
            bad_times: ranges in which other files of the pair have unreadable rows.
            states: of the files before they were scanned; None for those of now.
            is_delisted: whether nothing of the pair can be downloaded.
        """
        self._archive, self._pair, self._is_delisted = archive, pair, is_delisted
        self._files, self._options, self._requested = files, options, NO_KNOWN_PERIOD
        self._unproved = union(span for file in files for span in file.unproved)
        self._backfill = "" if is_delisted else f"`harvester backfill {pair.altname}`"
        self._lacking = lacking = uncovered_ids(files, archive, pair.altname, self._backfill)
        unread = doubtful_ranges(files)
        self._bad_times = union([*bad_times, *self._unproved, *unread, *lacking.ranges])
        self._times_read = TimeDisorder()
        self._skipped_ranges: list[Range] = []
        members = [file.member for file in files]
        self._last_id: LastId | None = None
        self._through_ns = -1
        self._written: list[Segment] = []
        self._states = states or FileStates(members)
        self.report = ImportReport(
            [str(member) for member in members],
            pair.altname,
            [str(file.layout) for file in files],
            sum(member.size for member in members),
            bad=sum(file.bad for file in files),
            bad_rows=[*chain.from_iterable(file.bad_rows for file in files)][:MAX_BAD_ROWS_LISTED],
            is_delisted=is_delisted,
            notes=[*chain.from_iterable(file.notes() for file in files), *lacking.notes],
        )

    def run(self, writer: Writer) -> None:
        """Import the files. Segments that are complete by then are kept, whatever ends it.

        Raises:
            BadFile: a file can't be read, has changed since it was scanned, or its ids contradict.
            ArchiveDamaged: rows of time that is covered already are not stored there, or ids do not
                fit those of the stored trades around them.
            ArchiveHasGaps: rows may be stored already, and were not imported.
            Interrupted: `cancel` was cancelled.
            ArchiveUnwritable: the operating system refused to write.
            MarketChanged: the archive has trades of another market under this name.
        """
        writer.check_market(self._pair.key)
        check = StoredCheck(self._archive, self._pair.altname, is_delisted=self._is_delisted)
        at_ends, name = RowsAtEnds(set(), {}, [], []), self._pair.altname
        unknown, covered = self._bad_times, self._archive.coverage(name)
        requested = writer.requests()
        known = [*covered, *requested.ranges]
        self._requested = ends_to_request(self._files, known, is_delisted=self._is_delisted)
        if self._is_delisted:
            rows = self._sorted(Sorter(), is_counted=False)
            at_ends = rows_at_ends(self._archive, name, self._files, rows, unknown)
            unknown = [*unknown, *at_ends.in_doubt, *at_ends.outside]
        bounds = covered, complete_period(self._files), unknown
        boundaries = BoundaryFinder(*bounds, check.push, is_exact=self._is_delisted)
        try:
            self._write_parts(writer, boundaries, check, at_ends)
        except BadFile:
            self._withdraw(writer)
            writer.restore_requests(requested)
            raise
        self._check_row_counts()
        check.raise_error()
        at_ends.raise_doubt()
        self.report.notes += check_imported_counts(self._archive, self._pair.altname)
        check_cancelled(self._options.cancel)

    def check_skipped(self) -> None:
        """Check that rows skipped at boundaries are stored, if another file covered their time.

        Raises:
            ArchiveDamaged: rows are not stored there.
        """
        covered = self._archive.coverage(self._pair.altname)
        ranges = missing(self._skipped_ranges, missing([Range(0, END_OF_TIME)], covered))
        if not ranges:
            return
        check = StoredCheck(self._archive, self._pair.altname, is_delisted=self._is_delisted)
        for rows in self._sorted(Sorter(), is_counted=False):
            for span in ranges:
                check.push(clip(rows, span))
        check.finish()
        check.raise_error()

    # --- reading and sorting, in a thread of its own ----------------------------------------------

    def _parts(self, boundaries: BoundaryFinder, at_ends: RowsAtEnds) -> Iterator[SegmentPart]:
        sorter = Sorter()
        in_order = in_id_order(self._sorted(sorter), self._backfill)
        for rows in at_ends.applied(in_order, boundaries.already_covered.add):
            yield from boundaries.push(rows)
            if self._options.cancel.is_cancelled:
                yield from boundaries.finish(is_end_of_file=False)
                return
        self._report_order(sorter)
        yield from boundaries.finish()

    def _sorted(self, sorter: Sorter, *, is_counted: bool = True) -> Iterator[pa.RecordBatch]:
        """Read the rows in order of time.

        Args:
            sorter: sorts rows that are at most a minute out of order.
            is_counted: whether the rows are counted as read.
        """
        for file in self._files:
            for rows, size in file.batches():
                if is_counted:
                    self._count_rows(rows, size)
                yield sorter.push(rows)
        yield sorter.finish()

    def _count_rows(self, rows: pa.RecordBatch, size: int) -> None:
        # The first scan of the file reported the other half of the bytes.
        self._options.on_bytes(self._pair.altname, size // 2)
        self.report.read.add(rows)
        if rows.num_rows:
            self._times_read.add(times(rows))

    def _report_order(self, sorter: Sorter) -> None:
        self.report.repeats = sorter.repeats
        self.report.notes += [*sorter.notes(), *self._times_read.notes()]
        if self._unproved:
            gap = gap_note(self._unproved)
            self.report.notes.append(f"long silences: {gap}")

    # --- writing segments ------------------------------------------------------------------------

    def _write_parts(
        self, writer: Writer, boundaries: BoundaryFinder, check: StoredCheck, at_ends: RowsAtEnds
    ) -> None:
        """Write all segments, check the rows of covered time, and report both."""
        parts = iterate_ahead(self._parts(boundaries, at_ends))
        try:
            for first in parts:
                self._commit(writer, first, parts)
        finally:
            parts.close()
            check.finish()
            self.report.rounding = check.rounding.rounding()
            self._report_counts(boundaries)
            with_rows = list(damaged_times(self._files))
            if self._times_read.latest_ns >= 0:
                end = second_of(self._times_read.latest_ns)
                with_rows.append(end)
                self._request(writer, max(end.through, (self._requested.until_s or 0) * SECOND - 1))
            # Of a file without rows, the time by its name.
            elif self._unproved and not self._is_delisted:
                writer.record_requested(*self._unproved)
            if with_rows:
                writer.record_requested(*with_rows, had_rows=True)

    def _commit(self, writer: Writer, first: SegmentPart, more: Iterator[SegmentPart]) -> None:
        """Write one segment: its first part, and those of `more` up to its end."""
        after, through = first.after, -1
        gap_count, at_ends, written = 0, list[IdGap](), RowCount()
        is_next = after == self._through_ns
        if not is_next:
            self._last_id = known_last_id(self._archive, self._pair.altname, after)
        start_id = self._last_id.trade_id if self._last_id else None

        def rows() -> Iterator[pa.RecordBatch]:
            nonlocal gap_count, through
            for part in chain([first], more):
                if part.through is not None:
                    through = part.through
                    return
                found, self._last_id = find_gaps(self._last_id, part.rows)
                # An id gap at an end of the segment is recorded with its ids: a count would remain
                # after the rows on its other side were replaced.
                at_start = [gap for gap in found if gap.after_id == start_id]
                at_ends.extend(gap for gap in at_start if is_next or self._lacking.are_counted(gap))
                gap_count += len(found) - len(at_start)
                written.add(part.rows)
                yield part.rows

        def footer() -> Footer:
            # After a kill, all that is committed is of the scanned file, and gaps are on record.
            self._states.check()
            self._request(writer, through)
            span = Range(after, through)
            if self._last_id is not None:
                following = self._archive.first_id_after(self._pair.altname, through)
                at_end = gap_at_end(self._last_id, following)
                at_ends.extend([at_end] if at_end and self._lacking.are_counted(at_end) else [])
            return Footer(
                span,
                msgspec.json.encode(self._pair).decode(),
                source="csv",
                ends_between_trades=self._is_delisted,
                unconfirmed_id_gaps=gap_count,
                imported=imported_ranges(self._files, span),
                id_gaps_across_imports=tuple(IdPair(*gap.sides) for gap in at_ends),
            )

        segment = writer.commit_stream(rows(), footer)
        self._through_ns = segment.range.through
        self._written.append(segment)
        self.report.imported.rows += written.rows
        self.report.imported.volume += written.volume
        self.report.ranges = union([*self.report.ranges, segment.range])

    def _request(self, writer: Writer, through: int) -> None:
        """Record the time from the first row on as requested: what is not imported is a gap."""
        since_s = self._times_read.earliest_ns // SECOND
        if self._requested.since_s is not None:
            since_s = min(since_s, self._requested.since_s)
        # The first row may be rounded up.
        since_s -= not self._is_delisted
        if since_s * SECOND <= through:
            writer.record_requested(Range(max(0, since_s * SECOND - 1), through))

    def _withdraw(self, writer: Writer) -> None:
        """Move segments of a file that turned out to be damaged into quarantine."""
        fault = "the file that it was imported from is damaged or contradicts itself"
        for segment in self._written:
            note = QuarantineNote(segment.pair, segment.path, segment.range, [fault])
            to = writer.quarantine(note)
            self.report.notes.append(f"{segment.path} was imported from it, and is in {to} now")
        self._written, self.report.ranges, self.report.imported = [], [], RowCount()

    def _report_counts(self, counts: BoundaryFinder) -> None:
        self._skipped_ranges = counts.skipped_ranges
        self.report.already_covered = counts.already_covered
        self.report.at_boundaries = counts.at_boundaries
        if (rounding := self.report.rounding) is not None:
            self.report.notes.append(f"its times are whole seconds, {rounding.words()}")
        self.report.notes += counts.notes(self.report.pair)
        download = f"{self._backfill} downloads it" if self._backfill else "nothing can download it"
        if bad := self.report.bad:
            self.report.notes.append(
                f"{counted(bad, 'row')} can't be read: the time around is not covered, and "
                f"{download}"
            )
        if self.report.has_no_boundary:
            self.report.notes.append(
                "no row was imported, because no boundary could be drawn between two seconds "
                "without a trade: say for which time the files are complete (--whole-since, "
                f"--whole-until); {download}"
            )

    def _check_row_counts(self) -> None:
        """Compare the rows read with the rows written and skipped: no row may be lost.

        Raises:
            AssertionError: rows or volumes do not add up.
        """
        report = self.report
        parts = (report.imported, report.already_covered, report.at_boundaries, report.repeats)
        volume = sum((part.volume for part in parts), Decimal(0))
        counted = RowCount(sum(part.rows for part in parts), volume)
        written = sum(self._archive.footer(segment).rows for segment in self._written)
        scanned = sum(file.rows for file in self._files)
        is_same = (counted, written, scanned) == (report.read, report.imported.rows, counted.rows)
        if not (is_same or self._options.cancel.is_cancelled):
            raise AssertionError(
                f"{scanned} rows were scanned, {report.read} read, {counted} are accounted for, "
                f"{report.imported.rows} were to be written, {written} are in the archive"
            )
