"""One pair's files on their way into the archive: read ahead, put in order, joined, committed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

import msgspec
import pyarrow as pa

from harvester.archive.archive import Archive
from harvester.archive.footers import Footer, Imported, Jump
from harvester.archive.quarantine import Note
from harvester.archive.segments import Segment
from harvester.archive.skips import Edge, Gap, find_gaps
from harvester.archive.writer import Writer
from harvester.bulk.ahead import ahead
from harvester.bulk.joining import Closed, Joiner, Opened, Rows, Step
from harvester.bulk.overlap import held_from_api, how_exact, measured
from harvester.bulk.parts import Part
from harvester.bulk.reports import Report, Watch
from harvester.bulk.rounding import Sample
from harvester.bulk.rows import BadRow, parse
from harvester.bulk.sorting import Sorter
from harvester.bulk.sources import blocks, checksum
from harvester.columns import times
from harvester.errors import DamagedFile, Interrupted
from harvester.kraken.pairs import Pair
from harvester.times import END_OF_TIME, SECOND, Range, missing, overlap, show, union

MOST_LISTED = 10_000
"""Rows left out as bad are listed one by one up to so many."""


class Chain:
    """Imports files of one pair that follow one another."""

    def __init__(self, archive: Archive, pair: Pair, parts: Sequence[Part], watch: Watch) -> None:
        """`parts`: one of `chains`."""
        self._archive = archive
        self._pair = pair
        self._parts = parts
        self._watch = watch
        self._sums: list[str] = []
        self._ends: list[int] = []
        self._edge: Edge | None = None
        self._through = -1
        self._made: list[Segment] = []
        self._span: Range | None = None
        members = [part.member for part in parts]
        self.report = Report(
            [str(one) for one in members],
            pair.altname,
            [str(part.layout) for part in parts],
            sum(one.size for one in members),
        )

    def run(self, writer: Writer) -> None:
        """Import them; what is whole by then is committed whatever ends it.

        Raises:
            BadFile: a row or a file can't be read.
            Interrupted: it was told to stop.
            ArchiveUnwritable: the machine refused.
            MarketChanged: the trades that are held are another market's.
        """
        writer.check_market(self._pair.key)
        self._sums = [checksum(part.member) for part in self._parts]
        whole = [part.member.whole for part in self._parts]
        self._ends = [SECOND * (one.until_s or 0) - 1 for one in whole[:-1]] + [END_OF_TIME]
        covered = self._archive.coverage(self._pair.altname)
        held = held_from_api(self._archive, self._pair.altname)
        joiner = Joiner(missing([Range(0, END_OF_TIME)], covered), whole[0])
        joiner.told.sample = Sample(held)
        steps = ahead(self._steps(joiner))
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
        self._check()
        if self._watch.stop.is_set():
            raise Interrupted("interrupted; the same command goes on where it stopped")

    # --- reading, in a thread of its own ---------------------------------------------------------

    def _steps(self, joiner: Joiner) -> Iterator[Step]:
        sorter = Sorter()
        for part, expected in zip(self._parts, self._sums, strict=True):
            joiner.goes_on(part.member.whole.until_s)
            for rows in self._batches(part, expected, sorter):
                yield from joiner.push(rows)
                if self._watch.stop.is_set():
                    yield from joiner.finish(whole=False)
                    return
        yield from joiner.push(sorter.finish())
        self._tell_of(sorter)
        yield from joiner.finish()

    def _batches(self, part: Part, expected: str, sorter: Sorter) -> Iterator[pa.RecordBatch]:
        name, line = str(part.member), 1
        for block in blocks(part.member, expected):
            text = block
            if line == 1 and part.layout.has_header:
                text, line = block.partition(b"\n")[2], 2
            parsed = parse(text, part.layout, line)
            bad = [*parsed.bad, *sorter.check(parsed)]
            if bad and not self._watch.skip_bad_rows:
                raise min(bad).error(name)
            self._leave_out(name, bad)
            self._take(parsed.rows)
            line += parsed.line_count
            self._watch.read(self._pair.altname, len(block))
            yield sorter.push(parsed.rows)

    def _leave_out(self, name: str, bad: Sequence[BadRow]) -> None:
        self.report.bad += len(bad)
        room = MOST_LISTED - len(self.report.bad_rows)
        self.report.bad_rows += [one._replace(file=name) for one in bad[:room]]

    def _take(self, rows: pa.RecordBatch) -> None:
        self.report.read.add(rows)
        if rows.num_rows:
            stamps = times(rows)
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
        if sorter.steps_back:
            farthest = sorter.farthest_back_ns / SECOND
            self.report.notes.append(
                f"times go back in {sorter.steps_back} places, by {farthest:g} s at most: rows "
                "were put in order, those of one time as they came"
            )

    # --- writing ---------------------------------------------------------------------------------

    def _commit(self, writer: Writer, after: int, steps: Iterator[Step]) -> None:
        ends: list[int] = []
        gaps, across = 0, list[Gap]()
        if after != self._through:
            known = self._archive.last_id_before(self._pair.altname, after)
            self._edge = known and Edge(*known)
        beside = self._edge

        def rows() -> Iterator[pa.RecordBatch]:
            nonlocal gaps
            for step in steps:
                match step:
                    case Closed(through):
                        ends.append(through)
                        return
                    case Rows(batch):
                        found, self._edge = find_gaps(self._edge, batch)
                        # One at a seam would stay counted after the rows on its other side gave
                        # way to others; so it is told by its sides.
                        seam = [one for one in found if beside and one.after_id == beside.trade_id]
                        across.extend(seam)
                        gaps += len(found) - len(seam)
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
                across_files=tuple(Jump(*one.sides) for one in across),
            )

        segment = writer.commit_stream(rows(), footer)
        self._through = segment.range.through
        self._made.append(segment)
        self.report.ranges = union([*self.report.ranges, segment.range])

    def _imported(self, span: Range) -> tuple[Imported, ...]:
        """Which part of a span came out of which file."""
        found, begins = [], 0
        for part, sum_, ends in zip(self._parts, self._sums, self._ends, strict=True):
            if both := overlap(span, Range(begins, ends)):
                found.append(Imported(*both, str(part.member), sum_))
            begins = ends
        return tuple(found)

    def _withdraw(self, writer: Writer) -> None:
        """Set aside what was committed of a file that turned out to be damaged."""
        fault = "the file that it was imported from is damaged"
        for one in self._made:
            note = Note(one.pair, one.path, one.range, [fault])
            to = writer.set_aside(note)
            self.report.notes.append(f"{one.path} was imported from it, and is in {to} now")
        self._made, self.report.ranges = [], []
        for path in self._of_earlier_runs():
            self.report.notes.append(
                f"{path} was imported from it by an earlier run: if that did not come to its end, "
                "remove it; `harvester backfill` fetches its range"
            )

    def _of_earlier_runs(self) -> list[str]:
        """Segments with rows of these files: a killed run never held them against a checksum."""
        ours = {
            (str(part.member), sum_) for part, sum_ in zip(self._parts, self._sums, strict=True)
        }
        pieces = self._archive.pieces(self._pair.altname)
        return [
            piece.segment.path
            for piece in pieces
            if any(one[2:] in ours for one in self._archive.footer(piece.segment).imported)
        ]

    def _count(self, joiner: Joiner) -> None:
        told = joiner.told
        self.report.kept, self.report.held, self.report.left = told.kept, told.held, told.left
        rounding = self.report.rounding
        if rounding is not None:
            self.report.notes.append(
                f"its times are whole seconds, {rounding.words('trades held already')}"
            )
        for second in told.busy:
            self.report.notes.append(
                f"no two seconds without trades lie near {show(second * SECOND)}, where a range "
                f"ends: {how_exact(rounding)}"
            )

    def _check(self) -> None:
        """Hold what was read against what became of it: no row may be lost on the way."""
        report = self.report
        parts = (report.kept, report.held, report.left, report.repeats)
        rows = sum(part.rows for part in parts)
        volume = sum((part.volume for part in parts), Decimal(0))
        written = sum(self._archive.footer(one).rows for one in self._made)
        is_whole = (rows, volume) == (report.read.rows, report.read.volume)
        if not self._watch.stop.is_set() and not (is_whole and written == report.kept.rows):
            raise AssertionError(
                f"{report.read.rows} rows of volume {report.read.volume} were read, {rows} of "
                f"volume {volume} are accounted for, {report.kept.rows} were to be written, "
                f"{written} are in the archive"
            )
