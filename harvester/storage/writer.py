"""The one writer of a pair: commits, merges, and clears away what a crash left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa

from harvester.errors import ArchiveDamaged, MarketChanged
from harvester.schema import RowsChecksum, times, trades_of
from harvester.storage import metadata
from harvester.storage.compaction import is_within, plan_merges
from harvester.storage.filesystem import (
    QuarantineNote,
    check_case,
    quarantine_copy,
    quarantine_file,
)
from harvester.storage.footer import Footer, ImportedRange
from harvester.storage.lock import locked
from harvester.storage.replacement_staging import unfinished
from harvester.storage.rollup_files import list_rollups, rollup_path, stage_rollup
from harvester.storage.segment import Segment, parse_path, path_of, read_batches, stage_segment
from harvester.storage.trade_store import TradeStore, without_future
from harvester.storage.year_split import belong, by_year, jumps_in, unasked_in, without
from harvester.times import Range, overlap, show

Progress = Callable[[str, int, int], None]


@contextmanager
def writer(archive: TradeStore, pair: str, *, sweep: bool = True) -> Iterator[Writer]:
    """Be the one writer of a pair while the block runs; what a crash left is swept first.

    Args:
        archive: holds the pair.
        pair: altname.
        sweep: False where damage is to be set aside before anything is cleared away.

    Raises:
        ArchiveLocked: another run is writing it.
        ArchiveUnwritable: the machine refuses, or the disk ignores case and would put the pair into
            the folder of another one.
    """
    check_case(archive.root, pair)
    with locked(archive.root / "locks", pair):
        # Another pair may have come to be while its lock, which is the same file, was waited for.
        check_case(archive.root, pair)
        one = Writer(archive, pair)
        if sweep:
            one.sweep()
        try:
            yield one
        finally:
            archive.store.remove_folder(f"staging/{pair}")


def keep_pairs(archive: TradeStore, data: bytes) -> None:
    """Keep what names are resolved with, as JSON."""
    with locked(archive.root / "locks", "_pairs", wait_s=10.0):
        metadata.keep_pairs(archive.store, data)


class Writer:
    """Writes one pair, whose lock is held. Made by `writer()`."""

    def __init__(self, archive: TradeStore, pair: str) -> None:
        """`pair` is the altname."""
        self.archive = archive
        self.pair = pair
        self._store = archive.store
        self._key = ""

    def check_market(self, key: str) -> None:
        """Compare a market's key with that of the trades that are held; an empty one fits any.

        Raises:
            MarketChanged: the trades that are held are another market's.
        """
        if not key or key == self._key:
            return
        held = self.archive.market(self.pair)
        if held is not None and held.key != key:
            raise MarketChanged(self.pair, held.key, key)
        self._key = key

    def want(self, span: Range) -> None:
        """Write down that a span is wanted, before it is crawled.

        Where that record was lost, what counts as wanted without it goes on record, too.
        """
        metadata.want(self._store, self.pair, span, *self.archive.wanted(self.pair))

    def want_if_lost(self, spans: Iterable[Range]) -> None:
        """Write down that spans are wanted if nothing is on record."""
        if not metadata.wanted(self._store, self.pair):
            metadata.want(self._store, self.pair, *spans)

    def trim_wanted(self, now_ns: int, until_ns: int) -> None:
        """Cut wanted ranges that end in the future to end at `until_ns`."""
        wanted = metadata.wanted(self._store, self.pair)
        trimmed = without_future(wanted, now_ns, until_ns)
        if trimmed != wanted:
            metadata.want_only(self._store, self.pair, trimmed)

    def cut(self, segment: Segment, through: int) -> Segment:
        """Replace a segment by one of the same rows whose range ends earlier.

        After a crash in between both stand, and `sweep` removes the new one.

        Args:
            segment: what to replace.
            through: where the new range ends; no row is later.

        Raises:
            ArchiveDamaged: the rows are not those of the footer, or one is later; nothing changed.
        """
        bounds = self.archive.bounds(segment)
        if not segment.range.after < through or (bounds is not None and bounds[1] > through):
            raise ArchiveDamaged(
                f"{self.archive.location(segment)} holds trades later than {show(through)}: "
                "its range can't end there"
            )
        footer = self.archive.footer(segment)
        shorter = replace(
            footer,
            range=Range(segment.range.after, through),
            imported=tuple(
                part._replace(through=min(part.through, through))
                for part in footer.imported
                if part.after < through
            ),
        )
        placed = self._place(self._checked([segment], [footer]), shorter)
        self.remove(segment)
        return placed

    def commit(
        self, span: Range, rows: pa.RecordBatch | Sequence[pa.RecordBatch], footer: Footer
    ) -> list[Segment]:
        """Make the trades of a span part of the archive, cut where the year turns.

        Args:
            span: what `rows` holds whole.
            rows: a batch of `columns.ROWS` in the tape's order, or several one after the other;
                all published in `span`.
            footer: source, cursor, pair and jumps; the facts about rows are filled in.

        Raises:
            MarketChanged: the trades that are held are another market's.
        """
        self.check_market(footer.key)
        given = [rows] if isinstance(rows, pa.RecordBatch) else rows
        batches = [one for one in given if one.num_rows]
        if not belong(batches, span):
            raise AssertionError(f"rows of {self.pair} are out of order, or lie outside of {span}")
        metadata.mark(self._store, self.pair)
        committed = []
        parts = list(by_year(span, batches))
        counted, told = unasked_in(footer, parts), jumps_in(footer, parts)
        for (part, some), unasked, jumps in zip(parts, counted, told, strict=True):
            across = footer.across_files if part.through == span.through else ()
            inside = replace(
                footer, range=part, jumps=jumps, unasked_jumps=unasked, across_files=across
            )
            committed.append(self._place(trades_of(some), inside))
        return committed

    def commit_stream(
        self, rows: Iterable[pa.RecordBatch], footer: Callable[[], Footer]
    ) -> Segment:
        """Make trades part of the archive as they come: memory holds a row group, not the span.

        Whatever `rows` raises leaves the archive as it was.

        Args:
            rows: batches of `columns.ROWS` in the tape's order, all of one year; none ends inside
                a group of equal time.
            footer: asked once all rows were taken; its range holds them whole.
        """
        metadata.mark(self._store, self.pair)
        ends: list[int] = []

        def told() -> Footer:
            whole = footer()
            self.check_market(whole.key)
            if ends and not whole.range.after < ends[0] <= ends[-1] <= whole.range.through:
                raise AssertionError(f"rows of {self.pair} lie outside of {whole.range}")
            return whole

        return self._place(trades_of(_in_order(rows, ends)), told)

    def uncover(self, lost: Range) -> bool:
        """Take a range that lacks trades out of coverage, so that it is a gap and on record.

        Segments are cut at its ends; rows in it go. A crash leaves each segment as it was, or cut.

        Returns:
            Whether any of it was covered.

        Raises:
            ArchiveDamaged: a segment's rows are not those of its footer; it was not cut.
        """
        segments = [one for one in self.archive.segments(self.pair) if overlap(one.range, lost)]
        for segment in segments:
            after, through = max(lost.after, segment.range.after), lost.through
            self.want(Range(after, min(through, segment.range.through)))
            footer = self.archive.footer(segment)
            for _ in self._checked([segment], [footer]):
                pass
            without(self._store, segment, footer, lost, self._place)
            self.remove(segment)
        return bool(segments)

    def compact(
        self,
        *,
        every: bool = False,
        closed: bool = False,
        progress: Progress = lambda _pair, _done, _all: None,
    ) -> tuple[int, int]:
        """Merge neighbouring small segments; returns the number of files before and after.

        `every`: merge whatever can be, else only what is worth the writing; `closed`: whatever
        can be of the years before the last one. `progress` is told the pair, and of the files to
        be merged how many are done, and how many there are.
        """
        segments = [piece.segment for piece in self.archive.pieces(self.pair)]
        rows_of = {segment: self.archive.footer(segment).rows for segment in segments}
        found = plan_merges(segments, rows_of.__getitem__, every=every, closed=closed)
        runs = [part for run in found for part in self._by_market(run) if len(part) > 1]
        done, merged = 0, sum(len(run) for run in runs)
        for run in runs:
            self._merge(run)
            done += len(run)
            progress(self.pair, done, merged)
        return len(segments), len(segments) - sum(len(run) - 1 for run in runs)

    def keep_rollup(
        self, segment: Segment, interval: str, partials: Iterable[pa.RecordBatch]
    ) -> None:
        """Put a roll-up beside a segment that stands; one of its name is replaced whole.

        Args:
            segment: whose rows it was made from.
            interval: the level, such as 1m.
            partials: batches of `rollups.PARTIALS`.
        """
        footer = self.archive.footer(segment)
        staged = stage_rollup(self._store, self.pair, partials, interval, footer)
        self._store.commit(staged, rollup_path(segment, interval))

    def sweep(self) -> None:
        """Clear away what a crash left: staged files, segments beside their merger, lone roll-ups.

        A roll-up goes ahead of its segment, so one alone is left by a segment moved by hand.
        """
        self._store.remove_folder(f"staging/{self.pair}")
        widest: Segment | None = None
        for segment in self.archive.segments(self.pair):
            if widest is not None and is_within(segment.range, widest.range):
                gone = self._left_over(widest, segment)
                if gone is not None:
                    self.remove(gone)
                widest = segment if gone == widest else widest
            else:
                widest = segment
        standing = {one.path for one in self.archive.segments(self.pair)}
        for rollup in list_rollups(self._store, self.pair):
            if rollup.segment_path not in standing:
                self._store.remove(rollup.path)

    def quarantine(self, note: QuarantineNote) -> str:
        """Move a broken file of the pair into quarantine, with a note; returns where it is now."""
        to = quarantine_file(self._store, note)
        self.archive.forget_pair(self.pair)
        return to

    def want_anew(self, spans: Iterable[Range], note: QuarantineNote) -> str:
        """Write down anew what is wanted, where that can't be read; what stood there is kept.

        It is copied into quarantine first, and then replaced: at no moment is there none.
        Returns where the copy is.
        """
        to = quarantine_copy(self._store, note)
        metadata.want_only(self._store, self.pair, spans)
        return to

    def _by_market(self, run: list[Segment]) -> Iterator[list[Segment]]:
        """A run cut where the market's key changes: merged, one of the two would be forgotten."""
        part: list[Segment] = []
        key = ""
        for segment in run:
            its_key = self.archive.footer(segment).key
            if key and its_key and its_key != key:
                yield part
                part = []
            part.append(segment)
            key = its_key or key
        yield part

    def _merge(self, run: list[Segment]) -> None:
        footers = [self.archive.footer(one) for one in run]
        sources = [source for footer in footers for source in footer.source.split("+")]
        merged = Footer(
            range=Range(run[0].range.after, run[-1].range.through),
            pair=next((f.pair for f in reversed(footers) if f.key), footers[-1].pair),
            source="+".join(dict.fromkeys(sources)),
            cursor=next((f.cursor for f in reversed(footers) if f.cursor), None),
            jumps=tuple(jump for footer in footers for jump in footer.jumps),
            unasked_jumps=sum(footer.unasked_jumps for footer in footers),
            across_files=tuple(
                across_file for footer in footers for across_file in footer.across_files
            ),
            imported=_united([one for footer in footers for one in footer.imported]),
        )
        self._place(self._checked(run, footers), merged)
        for segment in run:
            self.remove(segment)

    def _checked(self, run: list[Segment], footers: list[Footer]) -> Iterator[pa.RecordBatch]:
        """The rows of a run, each segment held to its own checksum: a merge launders no damage."""
        for one, footer in zip(run, footers, strict=True):
            checksum = RowsChecksum()
            for batch in read_batches(self._store, one.path):
                checksum.update(batch)
                yield batch
            if footer.range != one.range or checksum.hexdigest() != footer.checksum:
                raise ArchiveDamaged(
                    f"{self.archive.location(one)} holds other rows than its footer tells: "
                    "it was left as it is"
                )

    def stage(
        self, trades: Iterable[pa.RecordBatch], footer: Footer | Callable[[], Footer]
    ) -> tuple[str, str]:
        """Write a segment's file aside; returns its staged path, and where it is to stand.

        Args:
            trades: batches of `schema.TRADES`, in the tape's order.
            footer: the facts about rows are filled in.
        """
        seen: list[int] = []
        staged, whole = stage_segment(self._store, self.pair, _noting_time(trades, seen), footer)
        return staged, path_of(self.pair, whole.range, seen[-1] if seen else None)

    def _place(
        self, trades: Iterable[pa.RecordBatch], footer: Footer | Callable[[], Footer]
    ) -> Segment:
        staged, path = self.stage(trades, footer)
        self._store.commit(staged, path)
        segment = parse_path(path, 0)
        if segment is None:
            raise AssertionError(f"{path} is no path of a segment")
        return segment

    def _left_over(self, wide: Segment, narrow: Segment) -> Segment | None:
        """Which of two a crash left: one beside its merger, if its very rows are in there.

        A file's name alone is no proof: a segment renamed by hand must not swallow others.
        """
        footer, inner = self.archive.footer(wide), self.archive.footer(narrow)
        if footer.range != wide.range or inner.range != narrow.range:
            return None
        checksum = RowsChecksum()
        for batch in read_batches(self._store, wide.path, narrow.range):
            checksum.update(batch)
        if checksum.hexdigest() == inner.checksum:
            return narrow
        return unfinished(self.archive, wide, narrow)

    def remove_rollups(self, segment: Segment) -> None:
        """Take the roll-ups of a segment away, as it is about to go or to hold other rows."""
        self.archive.forget(segment)
        for level in self._store.folders("candles"):
            self._store.remove(rollup_path(segment, level.removeprefix("interval=")))

    def remove(self, segment: Segment) -> None:
        """Take a segment away whose rows stand elsewhere."""
        self.remove_rollups(segment)
        self._store.remove(segment.path)


def _noting_time(trades: Iterable[pa.RecordBatch], seen: list[int]) -> Iterator[pa.RecordBatch]:
    for batch in trades:
        seen[:] = [int(times(batch)[-1])]
        yield batch


def _in_order(rows: Iterable[pa.RecordBatch], ends: list[int]) -> Iterator[pa.RecordBatch]:
    """The same batches, seen to follow one another in time; `ends`: their first and last stamp."""
    for batch in rows:
        stamps = times(batch)
        before = ends[-1] if ends else -1
        if int(stamps[0]) <= before or not (stamps[1:] >= stamps[:-1]).all():
            raise AssertionError(f"rows are out of order behind {before}")
        ends[:] = [ends[0] if ends else int(stamps[0]), int(stamps[-1])]
        yield batch


def _united(parts: list[ImportedRange]) -> tuple[ImportedRange, ...]:
    """What came out of files, in order; ranges of one file that touch are one."""
    united: list[ImportedRange] = []
    for part in parts:
        last = united[-1] if united else None
        if last is not None and last[1:] == (part.after, *part[2:]):
            united[-1] = last._replace(through=part.through)
        else:
            united.append(part)
    return tuple(united)
