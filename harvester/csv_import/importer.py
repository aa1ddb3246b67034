"""Import the files of one pair: sort, fit into what is not covered, commit, report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

import msgspec
import pyarrow as pa

from harvester.csv_import.boundaries import BoundaryFinder, Closed, Opened, SegmentRows, Step
from harvester.csv_import.file_scan import MOST_LISTED, ScannedFile, is_in_order
from harvester.csv_import.files import KnownComplete, ahead, blocks
from harvester.csv_import.overlap import Sample, StoredCheck, held_from_api, how_exact, measured
from harvester.csv_import.parse import BadRow, parse
from harvester.csv_import.sorting import RowCount, Sorter, TimeDisorder, in_time_order
from harvester.download.events import Rounding
from harvester.errors import ArchiveHasGaps, DamagedFile, HarvesterError, Interrupted
from harvester.kraken.pairs import Pair
from harvester.schema import clip, times
from harvester.storage.filesystem import QuarantineNote
from harvester.storage.footer import ConfirmedIdGap, Footer, ImportedRange
from harvester.storage.segment import Segment
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import END_OF_TIME, SECOND, Range, missing, overlap, show, union
from harvester.trade_ids import IdGap, LastId, find_gaps

# --- reports --------------------------------------------------------------------------------------


class ImportOptions(NamedTuple):
    """How an import is watched and steered.

    Attributes:
        read: told a pair and how many bytes more were read, from any thread.
        stop: set to end it at the next quiet moment.
        skip_bad_rows: leave out what can't be read, and list it, instead of ending there.
    """

    read: Callable[[str, int], None]
    stop: threading.Event
    skip_bad_rows: bool = False


@dataclass(slots=True)
class ImportReport:
    """What became of files of one pair that follow one another.

    Attributes:
        read: the rows that were read, and can be.
        kept: rows that are stored now, and were not.
        held, left: see `joining.Told`.
        repeats: rows with an id that equal another one in every field.
        bad: how many rows were left out; `bad_rows` lists them.
        ranges: what is covered now that was not.
        rounding: how its whole seconds were rounded; None for other times, or where nothing tells.
    """

    files: list[str]
    pair: str
    layouts: list[str]
    size: int
    read: RowCount = field(default_factory=RowCount)
    kept: RowCount = field(default_factory=RowCount)
    held: RowCount = field(default_factory=RowCount)
    left: RowCount = field(default_factory=RowCount)
    repeats: RowCount = field(default_factory=RowCount)
    bad: int = 0
    bad_rows: list[BadRow] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rounding: Rounding | None = None
    seconds: float = 0.0
    error: HarvesterError | None = None

    @property
    def lacks_quiet(self) -> bool:
        """Whether no row could be imported for want of a boundary."""
        return bool(self.left.rows) and not (self.kept.rows or self.held.rows)

    @property
    def exit_status(self) -> int:
        """0 when every row of the files is in the archive, or beside a boundary."""
        if self.error is not None:
            return self.error.exit_status
        return ArchiveHasGaps.exit_status if self.bad or self.lacks_quiet else 0


# --- importer -------------------------------------------------------------------------------------

Take = Callable[[pa.RecordBatch, int], None]
"""Given rows as they are read, and the bytes that they were."""


class FileChain:
    """Imports files of one pair that follow one another."""

    def __init__(
        self,
        archive: TradeStore,
        pair: Pair,
        parts: Sequence[ScannedFile],
        watch: ImportOptions,
        bad_times: Sequence[Range] = (),
    ) -> None:
        """Begin with files of a pair.

        Args:
            archive: what they go into.
            pair: theirs.
            parts: one of `chains`.
            watch: told of progress.
            bad_times: ranges in which other files of the pair have rows that can't be read.
        """
        self._archive = archive
        self._pair = pair
        self._parts = parts
        self._watch = watch
        self._bad_times = union([*bad_times, *(span for part in parts for span in part.bad_times)])
        self._is_in_order = is_in_order(parts)
        self._steps_back = TimeDisorder()
        self._left_in: list[Range] = []
        whole = [part.member.whole for part in parts]
        self._whole = KnownComplete(whole[0].since_s, whole[-1].until_s)
        self._ends = [SECOND * (one.until_s or 0) - 1 for one in whole[:-1]] + [END_OF_TIME]
        self._edge: LastId | None = None
        self._through = -1
        self._made: list[Segment] = []
        self._span: Range | None = None
        members = [part.member for part in parts]
        self.report = ImportReport(
            [str(member) for member in members],
            pair.altname,
            [str(part.layout) for part in parts],
            sum(member.size for member in members),
            bad=sum(part.bad for part in parts),
            bad_rows=[row for part in parts for row in part.bad_rows][:MOST_LISTED],
        )

    def run(self, writer: Writer) -> None:
        """Import them; what is whole by then is committed whatever ends it.

        Raises:
            DamagedFile: a file can't be read, or is not what it was when it was looked at.
            ArchiveDamaged: rows of time that is covered already are not stored there.
            Interrupted: it was told to stop.
            ArchiveUnwritable: the machine refused.
            MarketChanged: the trades that are held are another market's.
        """
        writer.check_market(self._pair.key)
        covered = self._archive.coverage(self._pair.altname)
        held = held_from_api(self._archive, self._pair.altname)
        check = StoredCheck(self._archive, self._pair.altname, covered, held)
        joiner = BoundaryFinder(covered, self._whole, self._bad_times)
        joiner.told.sample, joiner.told.is_stored = Sample(held), check.push
        steps = ahead(self._steps(joiner, writer))
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
            self.report.rounding = measured(self._archive, self._pair.altname, joiner.told.sample)
            self._count(joiner)
            if self._span is not None:
                writer.want(self._span)
        self._check(joiner)
        check.finish()
        if self._watch.stop.is_set():
            raise Interrupted("interrupted; the same command goes on where it stopped")

    def check_left(self, writer: Writer) -> None:
        """Look up rows that were left out, where other files of the pair covered their time.

        Raises:
            ArchiveDamaged: rows are not stored there.
        """
        covered = self._archive.coverage(self._pair.altname)
        uncovered = missing([Range(0, END_OF_TIME)], covered)
        ranges = missing(self._left_in, uncovered)
        if not ranges:
            return
        held = held_from_api(self._archive, self._pair.altname)
        check = StoredCheck(self._archive, self._pair.altname, covered, held)
        for rows in self._sorted(Sorter(), writer, lambda _rows, _size: None):
            for span in ranges:
                inside = clip(rows, span)
                if inside.num_rows:
                    check.push(inside)
        check.finish()

    # --- reading, in a thread of its own ---------------------------------------------------------

    def _steps(self, joiner: BoundaryFinder, writer: Writer) -> Iterator[Step]:
        sorter = Sorter()
        for rows in self._sorted(sorter, writer, self._take):
            yield from joiner.push(rows)
            if self._watch.stop.is_set():
                yield from joiner.finish(whole=False)
                return
        self._tell_of(sorter)
        yield from joiner.finish()

    def _sorted(self, sorter: Sorter, writer: Writer, take: Take) -> Iterator[pa.RecordBatch]:
        """The rows in order; `take` is given them as they are read."""
        batches = self._batches(take)
        if not self._is_in_order:
            store, folder = self._archive.store, writer.pair
            batches = in_time_order(batches, lambda: store.location(store.stage(folder)))
        for rows in batches:
            yield sorter.push(rows)
        yield sorter.finish()

    def _batches(self, take: Take) -> Iterator[pa.RecordBatch]:
        for part in self._parts:
            line = 1
            for block in blocks(part.member, part.checksum):
                text = block
                if line == 1 and part.layout.has_header:
                    text, line = block.partition(b"\n")[2], 2
                parsed = parse(text, part.layout, line)
                take(parsed.rows, len(block))
                line += parsed.line_count
                yield parsed.rows
                if self._watch.stop.is_set() and not self._is_in_order:
                    raise Interrupted("interrupted; the same command goes on where it stopped")

    def _take(self, rows: pa.RecordBatch, size: int) -> None:
        # The other half was told when the file was looked at.
        self._watch.read(self._pair.altname, size // 2)
        self.report.read.add(rows)
        if rows.num_rows:
            stamps = times(rows)
            self._steps_back.add(stamps)
            span = Range(
                int(stamps.min()) // SECOND * SECOND - 1,
                (int(stamps.max()) // SECOND + 1) * SECOND - 1,
            )
            whole = self._span or span
            self._span = Range(min(whole.after, span.after), max(whole.through, span.through))

    def _tell_of(self, sorter: Sorter) -> None:
        self.report.repeats = sorter.repeats
        if sorter.repeats.rows:
            self.report.notes.append(
                f"{sorter.repeats.rows} rows with an id equal another one in every field: each "
                "trade was kept once"
            )
        if self._steps_back.count:
            places, farthest = self._steps_back.count, self._steps_back.farthest_back_ns / SECOND
            self.report.notes.append(
                f"times go back in {places} places, by {farthest:g} s at most: rows "
                "were put in order, those of one time as they came"
            )

    # --- writing ---------------------------------------------------------------------------------

    def _commit(self, writer: Writer, after: int, steps: Iterator[Step]) -> None:
        ends: list[int] = []
        gaps, across, kept = 0, list[IdGap](), RowCount()
        if after != self._through:
            known = self._archive.last_id_before(self._pair.altname, after)
            self._edge = known and LastId(*known)
        beside = self._edge

        def rows() -> Iterator[pa.RecordBatch]:
            nonlocal gaps
            for step in steps:
                match step:
                    case Closed(through):
                        ends.append(through)
                        return
                    case SegmentRows(batch):
                        found, self._edge = find_gaps(self._edge, batch)
                        # One at a seam would stay counted after the rows on its other side gave
                        # way to others; so it is told by its sides.
                        seam = [one for one in found if beside and one.after_id == beside.trade_id]
                        across.extend(seam)
                        gaps += len(found) - len(seam)
                        kept.add(batch)
                        yield batch

        def footer() -> Footer:
            span = Range(after, ends[0])
            pair = msgspec.json.encode(self._pair).decode()
            return Footer(
                span,
                pair,
                source="csv",
                unasked_jumps=gaps,
                imported=self._imported(span),
                across_files=tuple(ConfirmedIdGap(*one.sides) for one in across),
            )

        segment = writer.commit_stream(rows(), footer)
        self._through = segment.range.through
        self._made.append(segment)
        self.report.kept.rows += kept.rows
        self.report.kept.volume += kept.volume
        self.report.ranges = union([*self.report.ranges, segment.range])

    def _imported(self, span: Range) -> tuple[ImportedRange, ...]:
        """Which part of a span came out of which file."""
        found, begins = [], 0
        for part, ends in zip(self._parts, self._ends, strict=True):
            if both := overlap(span, Range(begins, ends)):
                found.append(ImportedRange(*both, str(part.member), part.checksum))
            begins = ends
        return tuple(found)

    def _withdraw(self, writer: Writer) -> None:
        """Set aside what was committed of a file that turned out to be damaged."""
        fault = "the file that it was imported from is damaged"
        for one in self._made:
            note = QuarantineNote(one.pair, one.path, one.range, [fault])
            to = writer.quarantine(note)
            self.report.notes.append(f"{one.path} was imported from it, and is in {to} now")
        self._made, self.report.ranges, self.report.kept = [], [], RowCount()

    def _count(self, joiner: BoundaryFinder) -> None:
        told = joiner.told
        self.report.held, self.report.left, self._left_in = told.held, told.left, told.left_in
        rounding = self.report.rounding
        if rounding is not None:
            self.report.notes.append(
                f"its times are whole seconds, {rounding.words('trades held already')}"
            )
        for second in told.busy:
            self.report.notes.append(
                f"no two seconds without trades lie near {show(second * SECOND)}, where a range "
                f"ends: {how_exact(rounding, self.report.pair)}"
            )
        for year in told.year_ends:
            self.report.notes.append(
                f"trades lie about the end of {year}, where a segment has to end: some seconds are "
                f"not covered there, and `harvester backfill {self.report.pair}` fetches them"
            )
        if self.report.bad:
            self.report.notes.append(
                f"{self.report.bad:,} rows can't be read: what was traded about their time is not "
                f"covered, and `harvester backfill {self.report.pair}` fetches it"
            )
        if self.report.lacks_quiet:
            self.report.notes.append(
                "no boundary can be drawn between two seconds without a trade, so no row was "
                "imported: say what is whole with --whole-since and --whole-until, or fetch it "
                f"with `harvester backfill {self.report.pair}`"
            )

    def _check(self, joiner: BoundaryFinder) -> None:
        """Hold what was read against what became of it: no row may be lost on the way."""
        report = self.report
        parts = (report.kept, report.held, report.left, report.repeats)
        rows = sum(part.rows for part in parts)
        volume = sum((part.volume for part in parts), Decimal(0))
        written = sum(self._archive.footer(one).rows for one in self._made)
        is_whole = (rows, volume) == (report.read.rows, report.read.volume)
        was_written = joiner.told.kept == report.kept and written == report.kept.rows
        if not self._watch.stop.is_set() and not (is_whole and was_written):
            raise AssertionError(
                f"{report.read.rows} rows of volume {report.read.volume} were read, {rows} of "
                f"volume {volume} are accounted for, {joiner.told.kept.rows} were to be written, "
                f"{written} are in the archive"
            )
