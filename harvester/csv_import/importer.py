"""Import consecutive files of one pair: sort rows, find boundaries, write segments, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

import msgspec
import pyarrow as pa

from harvester.csv_import.boundaries import (
    BoundaryFinder,
    Closed,
    ImportCounts,
    Opened,
    SegmentRows,
    Step,
)
from harvester.csv_import.file_scan import MAX_BAD_ROWS_LISTED, ScannedFile, is_in_order
from harvester.csv_import.files import KnownComplete, blocks
from harvester.csv_import.import_report import ImportReport
from harvester.csv_import.parse import parse
from harvester.csv_import.rounding import Sample, measure_rounding, ranges_from_api
from harvester.csv_import.sorting import RowCount, Sorter, TimeDisorder, in_time_order
from harvester.csv_import.stored_check import StoredCheck
from harvester.download.events import CancelToken
from harvester.errors import DamagedFile, Interrupted
from harvester.kraken.pairs import Pair
from harvester.schema import clip, times
from harvester.storage.filesystem import QuarantineNote
from harvester.storage.footer import ConfirmedIdGap, Footer, ImportedRange
from harvester.storage.segment import Segment
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.threads import iterate_ahead
from harvester.times import END_OF_TIME, SECOND, Range, missing, overlap, union
from harvester.trade_ids import IdGap, LastId, find_gaps


class ImportOptions(NamedTuple):
    """How an import reports its progress, how it is stopped, and what it does with bad rows.

    Attributes:
        read: called with a pair and a number of bytes that were read, from any thread.
        stop: cancelled to end the import; rows up to the last boundary are kept.
        skip_bad_rows: leave out unreadable rows and list them, instead of failing.
    """

    read: Callable[[str, int], None]
    stop: CancelToken
    skip_bad_rows: bool = False


CountRows = Callable[[pa.RecordBatch, int], None]
"""Called with rows as they are read, and their size in the file in bytes."""


class FileChain:
    """Imports consecutive files of one pair."""

    def __init__(
        self,
        archive: TradeStore,
        pair: Pair,
        files: Sequence[ScannedFile],
        options: ImportOptions,
        bad_times: Sequence[Range] = (),
    ) -> None:
        """Prepare the import; nothing is written yet.

        Args:
            archive: where the trades go.
            pair: the pair of the files.
            files: one of the chains that `chains` returned.
            options: progress callback, cancel token, and what to do with bad rows.
            bad_times: ranges in which other files of the pair have unreadable rows.
        """
        self._archive = archive
        self._pair = pair
        self._files = files
        self._options = options
        self._bad_times = union([*bad_times, *(span for file in files for span in file.bad_times)])
        self._is_in_order = is_in_order(files)
        self._steps_back = TimeDisorder()
        self._skipped_ranges: list[Range] = []
        complete = [file.member.complete for file in files]
        self._complete = KnownComplete(complete[0].since_s, complete[-1].until_s)
        self._file_ends_ns = [SECOND * (known.until_s or 0) - 1 for known in complete[:-1]]
        self._file_ends_ns.append(END_OF_TIME)
        self._last_id: LastId | None = None
        self._through_ns = -1
        self._written: list[Segment] = []
        self._read_range: Range | None = None
        members = [file.member for file in files]
        self.report = ImportReport(
            [str(member) for member in members],
            pair.altname,
            [str(file.layout) for file in files],
            sum(member.size for member in members),
            bad=sum(file.bad for file in files),
            bad_rows=[row for file in files for row in file.bad_rows][:MAX_BAD_ROWS_LISTED],
        )

    def run(self, writer: Writer) -> None:
        """Import the files. Segments that are complete by then are kept, whatever ends it.

        Raises:
            DamagedFile: a file can't be read, or has changed since it was scanned.
            ArchiveDamaged: rows of time that is covered already are not stored there.
            Interrupted: `stop` was cancelled.
            ArchiveUnwritable: the operating system refused to write.
            MarketChanged: the archive has trades of another market under this name.
        """
        writer.check_market(self._pair.key)
        covered = self._archive.coverage(self._pair.altname)
        api_ranges = ranges_from_api(self._archive, self._pair.altname)
        check = StoredCheck(self._archive, self._pair.altname, covered, api_ranges)
        boundaries = BoundaryFinder(covered, self._complete, self._bad_times)
        boundaries.counts.sample, boundaries.counts.check_stored = Sample(api_ranges), check.push
        steps = iterate_ahead(self._steps(boundaries, writer))
        try:
            for step in steps:
                match step:
                    case Opened(after):
                        self._commit(writer, after, steps)
        except DamagedFile:
            self._withdraw(writer)
            raise
        finally:
            steps.close()
            sample = boundaries.counts.sample
            self.report.rounding = measure_rounding(self._archive, self._pair.altname, sample)
            self._report_counts(boundaries.counts)
            if self._read_range is not None:
                writer.want(self._read_range)
        self._check_row_counts(boundaries.counts)
        check.finish()
        if self._options.stop.is_cancelled:
            raise Interrupted("interrupted; the same command goes on where it stopped")

    def check_skipped(self, writer: Writer) -> None:
        """Check that rows skipped at boundaries are stored, if another file covered their time.

        Raises:
            ArchiveDamaged: rows are not stored there.
        """
        covered = self._archive.coverage(self._pair.altname)
        uncovered = missing([Range(0, END_OF_TIME)], covered)
        ranges = missing(self._skipped_ranges, uncovered)
        if not ranges:
            return
        api_ranges = ranges_from_api(self._archive, self._pair.altname)
        check = StoredCheck(self._archive, self._pair.altname, covered, api_ranges)
        for rows in self._sorted(Sorter(), writer, lambda _rows, _size: None):
            for span in ranges:
                inside = clip(rows, span)
                if inside.num_rows:
                    check.push(inside)
        check.finish()

    # --- reading and sorting, in a thread of its own ----------------------------------------------

    def _steps(self, boundaries: BoundaryFinder, writer: Writer) -> Iterator[Step]:
        sorter = Sorter()
        for rows in self._sorted(sorter, writer, self._count_rows):
            yield from boundaries.push(rows)
            if self._options.stop.is_cancelled:
                yield from boundaries.finish(is_end_of_file=False)
                return
        self._report_order(sorter)
        yield from boundaries.finish()

    def _sorted(self, sorter: Sorter, writer: Writer, count: CountRows) -> Iterator[pa.RecordBatch]:
        """Read the rows in order of time.

        Args:
            sorter: sorts rows that are at most a minute out of order.
            writer: the writer of the pair; its staging folder is used to sort files on disk.
            count: called with the rows as they are read.
        """
        batches = self._batches(count)
        if not self._is_in_order:
            store, folder = self._archive.store, writer.pair
            batches = in_time_order(batches, lambda: store.location(store.stage(folder)))
        for rows in batches:
            yield sorter.push(rows)
        yield sorter.finish()

    def _batches(self, count: CountRows) -> Iterator[pa.RecordBatch]:
        """Read the rows as they are in the files."""
        for file in self._files:
            line = 1
            for block in blocks(file.member, file.checksum):
                text = block
                if line == 1 and file.layout.has_header:
                    text, line = block.partition(b"\n")[2], 2
                parsed = parse(text, file.layout, line)
                count(parsed.rows, len(block))
                line += parsed.line_count
                yield parsed.rows
                if self._options.stop.is_cancelled and not self._is_in_order:
                    raise Interrupted("interrupted; the same command goes on where it stopped")

    def _count_rows(self, rows: pa.RecordBatch, size: int) -> None:
        # The first scan of the file reported the other half of the bytes.
        self._options.read(self._pair.altname, size // 2)
        self.report.read.add(rows)
        if rows.num_rows:
            stamps = times(rows)
            self._steps_back.add(stamps)
            span = Range(
                int(stamps.min()) // SECOND * SECOND - 1,
                (int(stamps.max()) // SECOND + 1) * SECOND - 1,
            )
            read = self._read_range or span
            self._read_range = Range(min(read.after, span.after), max(read.through, span.through))

    def _report_order(self, sorter: Sorter) -> None:
        self.report.repeats = sorter.repeats
        if sorter.repeats.rows:
            self.report.notes.append(
                f"{sorter.repeats.rows} rows equal another row in every field, trade id included: "
                "each trade was imported once"
            )
        if self._steps_back.count:
            count, farthest_s = self._steps_back.count, self._steps_back.farthest_back_ns / SECOND
            self.report.notes.append(
                f"times step back {count} times, by {farthest_s:g} s at most: rows were sorted by "
                "time, rows of equal time kept their order"
            )

    # --- writing segments ------------------------------------------------------------------------

    def _commit(self, writer: Writer, after: int, steps: Iterator[Step]) -> None:
        """Write one segment: `steps` up to the next `Closed`.

        Args:
            writer: the writer of the pair.
            after: the beginning of the segment's range, exclusive, in nanoseconds.
            steps: rows and the end of the segment.
        """
        ends: list[int] = []
        gap_count, gaps_at_start, written = 0, list[IdGap](), RowCount()
        if after != self._through_ns:
            known = self._archive.last_id_before(self._pair.altname, after)
            self._last_id = known and LastId(*known)
        id_before = self._last_id

        def rows() -> Iterator[pa.RecordBatch]:
            nonlocal gap_count
            for step in steps:
                match step:
                    case Closed(through):
                        ends.append(through)
                        return
                    case SegmentRows(batch):
                        found, self._last_id = find_gaps(self._last_id, batch)
                        # An id gap at the start of the segment is recorded with the ids on both
                        # sides. Were it only counted, the count would remain after the rows on
                        # its other side were replaced.
                        at_start = [
                            gap for gap in found if id_before and gap.after_id == id_before.trade_id
                        ]
                        gaps_at_start.extend(at_start)
                        gap_count += len(found) - len(at_start)
                        written.add(batch)
                        yield batch

        def footer() -> Footer:
            span = Range(after, ends[0])
            pair = msgspec.json.encode(self._pair).decode()
            return Footer(
                span,
                pair,
                source="csv",
                unasked_jumps=gap_count,
                imported=self._imported_ranges(span),
                across_files=tuple(ConfirmedIdGap(*gap.sides) for gap in gaps_at_start),
            )

        segment = writer.commit_stream(rows(), footer)
        self._through_ns = segment.range.through
        self._written.append(segment)
        self.report.imported.rows += written.rows
        self.report.imported.volume += written.volume
        self.report.ranges = union([*self.report.ranges, segment.range])

    def _imported_ranges(self, span: Range) -> tuple[ImportedRange, ...]:
        """The part of a range that came from each file."""
        found, begin_ns = [], 0
        for file, end_ns in zip(self._files, self._file_ends_ns, strict=True):
            if part := overlap(span, Range(begin_ns, end_ns)):
                found.append(ImportedRange(*part, str(file.member), file.checksum))
            begin_ns = end_ns
        return tuple(found)

    def _withdraw(self, writer: Writer) -> None:
        """Move segments of a file that turned out to be damaged into quarantine."""
        fault = "the file that it was imported from is damaged"
        for segment in self._written:
            note = QuarantineNote(segment.pair, segment.path, segment.range, [fault])
            to = writer.quarantine(note)
            self.report.notes.append(f"{segment.path} was imported from it, and is in {to} now")
        self._written, self.report.ranges, self.report.imported = [], [], RowCount()

    def _report_counts(self, counts: ImportCounts) -> None:
        self.report.already_covered = counts.already_covered
        self.report.at_boundaries = counts.at_boundaries
        self._skipped_ranges = counts.skipped_ranges
        rounding = self.report.rounding
        if rounding is not None:
            self.report.notes.append(
                f"its times are whole seconds, {rounding.words('trades stored already')}"
            )
        if counts.busy_stretches:
            self.report.notes.append(
                f"{counts.busy_stretches} times, too many trades to keep in memory follow each "
                "other without two seconds in which there is none: they were not imported, and "
                f"`harvester backfill {self.report.pair}` downloads them"
            )
        for year in counts.year_ends:
            self.report.notes.append(
                f"there are trades at the end of {year}, where a segment has to end: some seconds "
                f"are not covered there, and `harvester backfill {self.report.pair}` downloads them"
            )
        if self.report.bad:
            self.report.notes.append(
                f"{self.report.bad:,} rows can't be read: the time around them is not covered, and "
                f"`harvester backfill {self.report.pair}` downloads it"
            )
        if self.report.has_no_boundary:
            self.report.notes.append(
                "no row was imported, because no boundary could be drawn between two seconds "
                "without a trade: say for which time the files are complete (--whole-since, "
                f"--whole-until), or download it with `harvester backfill {self.report.pair}`"
            )

    def _check_row_counts(self, counts: ImportCounts) -> None:
        """Compare the rows read with the rows written and skipped: no row may be lost.

        Raises:
            AssertionError: rows or volumes do not add up.
        """
        report = self.report
        parts = (report.imported, report.already_covered, report.at_boundaries, report.repeats)
        rows = sum(part.rows for part in parts)
        volume = sum((part.volume for part in parts), Decimal(0))
        written = sum(self._archive.footer(segment).rows for segment in self._written)
        is_complete = (rows, volume) == (report.read.rows, report.read.volume)
        is_written = counts.imported == report.imported and written == report.imported.rows
        if not self._options.stop.is_cancelled and not (is_complete and is_written):
            raise AssertionError(
                f"{report.read.rows} rows of volume {report.read.volume} were read, {rows} of "
                f"volume {volume} are accounted for, {counts.imported.rows} were to be written, "
                f"{written} are in the archive"
            )
