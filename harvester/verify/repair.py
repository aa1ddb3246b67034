"""Repair pairs: move broken files into quarantine, download their ranges, verify again."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from harvester.download.exchange import BackfillRequest, DownloadContext
from harvester.download.pair_download import PairDownload
from harvester.errors import ArchiveDamaged, UnreadableAnswer, capture_error
from harvester.kraken.pairs import Pair
from harvester.pair_selection import PairListOfRun, known_pairs
from harvester.schema import RowsChecksum
from harvester.storage import locks_and_requests
from harvester.storage.compaction import is_being_replaced, is_within
from harvester.storage.filesystem import LocalStore
from harvester.storage.locks_and_requests import QuarantineNote
from harvester.storage.parquet_files import read_batches, read_unverified_footer
from harvester.storage.segment import Footer, Segment
from harvester.storage.trade_store import EVERYTHING, ending_in_future, future_fault
from harvester.storage.writer import NewGap, Writer, open_writer
from harvester.times import Range, enclosing_range, missing, overlap, union
from harvester.verify.integrity import verify
from harvester.verify.reports import (
    Fault,
    PairReport,
    RepairedFile,
    RepairReport,
    unrepairable_error,
)

# --- plan of a repair -----------------------------------------------------------------------------


class BrokenFile(NamedTuple):
    """A file that has to be moved into quarantine.

    Attributes:
        path: its path within the archive.
        range: the range in its name.
        faults: what is wrong with it.
        refetch: the ranges that it should have had, which are downloaded again.
        is_guess: whether only its name says which ranges these are.
    """

    path: str
    range: Range
    faults: tuple[str, ...]
    refetch: tuple[Range, ...] = ()
    is_guess: bool = False

    def limited_to(self, limit_ns: int) -> BrokenFile:
        """The same file; if its ranges are a guess, they end at `limit_ns` at the latest."""
        if not self.is_guess:
            return self
        ends = [known._replace(through=min(known.through, limit_ns)) for known in self.refetch]
        return self._replace(refetch=tuple(known for known in ends if known.after < known.through))


def plan_repair(
    report: PairReport, segments: Sequence[Segment], store: LocalStore
) -> list[BrokenFile]:
    """The files of a pair that have to be moved into quarantine, in the order of moving.

    Files that are broken by themselves come first: whether others overlap is decided once they are
    gone. Files with an id gap between them stay: only the range of the gap is downloaded. If the
    file of requested ranges can't be read, it is the first: nothing can be recorded before.

    Args:
        report: the result of the verification.
        segments: the pair's segments, as the archive lists them.
        store: the archive's files, to be read where the report does not say enough.
    """
    alone = _texts(
        (fault.path, fault.text)
        for fault in report.faults
        if fault.path and fault.other_path is None and fault.missing_range is None
    )
    known = {segment.path: segment for segment in segments}
    texts = {path: found for path, found in alone.items() if path in known}
    if not texts:
        texts = _texts(_overlapping(segments, store))
    found = []
    for path, why in sorted(texts.items()):
        ranges, is_guess = expected_ranges(known[path], read_unverified_footer(store, path))
        found.append(BrokenFile(path, known[path].range, tuple(why), ranges, is_guess))
    others = {path: why for path, why in alone.items() if path not in known}
    return [*_other_files(report.faults, others, report.pair), *found]


def expected_ranges(segment: Segment, footer: Footer | None) -> tuple[tuple[Range, ...], bool]:
    """The ranges that a broken file should have had, and whether that is a guess.

    Name and footer may have different ranges. A name can be changed by accident, so the footer is
    trusted unless the rows lie outside of its range; if the rows fit neither, both ranges count.

    Args:
        segment: the file, as it is listed.
        footer: what its footer says, unverified; None where it can't be read.
    """
    name = segment.range
    if footer is None or footer.range.after >= footer.range.through:
        return (name,), True
    if footer.altname and footer.altname != segment.pair:
        # A file of another pair; the trades of this pair were requested under its own name.
        return (), False
    stated = footer.range
    is_shared = stated.after < name.through and name.after < stated.through
    if _fits(footer.bounds, stated) and (is_shared or not _fits(footer.bounds, name)):
        return (stated,), False
    return ((name,) if _fits(footer.bounds, name) else (name, stated)), False


def ranges_of_files(segments: Iterable[Segment], broken: Sequence[BrokenFile]) -> list[Range]:
    """The ranges that files show to have been requested, if the list of requested ranges is lost.

    Args:
        segments: the pair's segments.
        broken: the files among them that are moved; their ranges to download again count.
    """
    moved = {file.path for file in broken}
    kept = [segment.range for segment in segments if segment.path not in moved]
    return union([*kept, *(known for file in broken for known in file.refetch)])


def _fits(bounds: tuple[int, int] | None, known: Range) -> bool:
    return bounds is None or (known.after < bounds[0] and bounds[1] <= known.through)


def _texts(found: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    texts = defaultdict[str, list[str]](list)
    for path, text in found:
        texts[path].append(text)
    return texts


def _other_files(
    faults: Iterable[Fault], texts: dict[str, list[str]], pair: str
) -> list[BrokenFile]:
    """Files that are no segments: requests, then roll-ups, then foreign files of the pair."""
    ranges = {fault.path: fault.range for fault in faults}
    return [
        BrokenFile(path, ranges[path], tuple(why))
        for folder in ("wanted/", "candles/", f"trades/pair={pair}/")
        for path, why in sorted(texts.items())
        if path.startswith(folder)
    ]


def _overlapping(segments: Sequence[Segment], store: LocalStore) -> Iterator[tuple[str, str]]:
    """The sound files that have to be moved because they overlap, each with the reason.

    If both have the same rows, the later file is moved; one that lies inside the other stays, as
    it is removed like the leftovers of a crash. If they differ, it is unknown which one is right,
    and both are moved.
    """
    kept: list[Segment] = []
    for segment in segments:
        if not kept or segment.range.after >= kept[-1].range.through:
            kept.append(segment)
        elif is_being_replaced(kept[-1], segment):
            continue
        elif not _have_equal_rows(store, kept[-1], segment):
            before = kept.pop()
            yield before.path, f"it overlaps with {segment.path}, which has other trades"
            yield segment.path, f"it overlaps with {before.path}, which has other trades"
        elif not is_within(segment.range, kept[-1].range):
            yield segment.path, f"it overlaps with {kept[-1].path}"


def _have_equal_rows(store: LocalStore, first: Segment, second: Segment) -> bool:
    """Whether the checksums of the rows in the shared range are equal."""
    shared = overlap(first.range, second.range)
    checksums = {
        RowsChecksum(read_batches(store, segment.path, shared)).hexdigest()
        for segment in (first, second)
    }
    return len(checksums) == 1


# --- repair ---------------------------------------------------------------------------------------

MAX_ROUNDS = 3
"""Downloaded trades may show that a neighbouring file is wrong, too; then another round follows."""

MoveListener = Callable[[RepairedFile], None]


class Repairer:
    """Repairs the pairs of an archive, several at a time."""

    def __init__(self, run: DownloadContext, on_move: MoveListener) -> None:
        """`on_move` is called with each file as it is moved."""
        self.run = run
        self.on_move = on_move
        self._known = known_pairs(run.archive)
        self._listed = PairListOfRun(run.client, run.archive)
        # Pairs wait for the exchange at the same time, but read their files in turn.
        self._reading = asyncio.Lock()

    async def repair(self, report: PairReport) -> RepairReport:
        """Repair the faults of a pair; an error that ends it early is in the result.

        In this order: verify under the lock; ask the exchange for its clock and its pairs, if
        something is to be downloaded; cut ranges that end in the future; record the ranges that
        each broken file should have had as requested; move the file into quarantine; download what
        is missing; make roll-ups; verify again. After a crash at any step, the next run completes
        the repair.
        """
        result = RepairReport(report.pair, report, report)
        pair_repair = _PairRepair(self, result)
        result.error = await capture_error(pair_repair.run()) or result.error
        return result

    async def verify(self, name: str) -> PairReport:
        """Verify a pair whose lock is held, without cached footers."""
        async with self._reading:
            self.run.archive.forget_pair(name)
            now_ns = self.run.options.now_ns()
            return await asyncio.to_thread(verify, self.run.archive, name, now_ns=now_ns)

    async def pair_of(self, name: str) -> tuple[Pair, bool]:
        """A pair with the key that requests need, and whether the exchange knows it."""
        pair = self._known.get(name, Pair(altname=name))
        return await self.run.options.cancel.guard(self._listed.find(pair))


class _PairRepair:
    """The repair of one pair."""

    def __init__(self, repairer: Repairer, result: RepairReport) -> None:
        self._repairer = repairer
        self._run = repairer.run
        self._archive = repairer.run.archive
        self._name = result.pair
        self._pair = Pair(altname=result.pair)
        self._result = result
        self._changed = False
        # Whether the exchange does not know the pair: nothing of it can be downloaded again.
        self._is_unknown = False

    async def run(self) -> None:
        result = self._result
        with open_writer(self._archive, self._name, sweep=False) as pair_writer:
            result.before = result.after = await self._repairer.verify(self._name)
            error = await capture_error(self._rounds(pair_writer))
            if self._changed:
                error = await capture_error(self._verify()) or error
            result.error = error or result.error

    async def _rounds(self, writer: Writer) -> None:
        result = self._result
        for round_number in range(MAX_ROUNDS):
            before = len(result.moved), len(result.uncovered)
            await self._cut_future(writer)
            await self._quarantine(writer)
            await self._remove_coverage(writer)
            if self._is_unknown:
                await self._end_unknown(writer)
                return
            # What is missing after the first round was requested in it.
            if before == (len(result.moved), len(result.uncovered)) and (
                round_number or not result.after.faults
            ):
                return
            self._changed = True
            await asyncio.to_thread(writer.sweep)
            request = BackfillRequest(self._pair, EVERYTHING)
            outcome = await PairDownload(self._run, request).fill_gaps(writer)
            result.trades += outcome.trades
            result.pages += outcome.pages
            result.error = outcome.error
            await self._verify()
            if outcome.error is not None and not isinstance(outcome.error, ArchiveDamaged):
                return

    async def _verify(self) -> None:
        result = self._result
        result.after = await self._repairer.verify(self._name)
        self._changed = False
        if result.uncovered:
            gaps = self._archive.gaps(self._name)
            found = (overlap(gap, part) for gap in gaps for part in result.uncovered)
            result.missing = [part for part in found if part]

    async def _end_unknown(self, writer: Writer) -> None:
        """Say what stays missing of a pair that the exchange does not know; all of it stays."""
        await asyncio.to_thread(writer.end_requests)
        await self._verify()
        gaps = self._archive.gaps(self._name)
        self._result.error = unrepairable_error(self._result.after, gaps)

    async def _cut_future(self, writer: Writer) -> None:
        """Cut ranges that end in the future after their last trade; the rest is downloaded.

        Only of files with no other fault. Files without trades, or with trades of the future, are
        moved like any broken file.

        Raises:
            UnreadableAnswer: the exchange's clock and this machine's differ.
        """
        faults = self._result.after.faults
        paths = Counter(path for fault in faults for path in (fault.path, fault.other_path))
        now_ns = self._run.options.now_ns()
        segments = ending_in_future(self._archive.segments(self._name), now_ns)
        segments = [segment for segment in segments if paths[segment.path] == 1]
        if not segments:
            return
        clock = self._run.clock
        settled_ns = await self._run.options.cancel.guard(clock.settled_ns())
        if any(segment.is_imported for segment in segments):
            await self._ask_exchange()
        if clock.is_behind:
            raise UnreadableAnswer(
                f"{self._name}: {clock.describe()}: as they differ, it is not certain that "
                f"{segments[0].path} ends in the future"
            )
        for segment in segments:
            if segment.is_imported and self._is_unknown:
                continue  # Its last trades would have to be downloaded.
            bounds = self._archive.footer(segment).bounds
            if bounds is not None and bounds[1] <= now_ns:
                self._changed = True
                fault = future_fault(segment, now_ns)
                await asyncio.to_thread(self._cut, writer, segment, bounds[1], settled_ns, fault)
        if self._changed:
            await self._verify()

    def _cut(
        self, writer: Writer, segment: Segment, last_ns: int, settled_ns: int, fault: str
    ) -> None:
        if segment.is_imported:
            # It may end at a quiet moment only: the trades after the last one are downloaded.
            writer.check_market(self._pair.key)
            for gap in writer.remove_coverage(Range(last_ns, segment.range.through)):
                self._add_new_gap(NewGap(Range(gap.range.after, settled_ns), gap.copy))
            return
        requested = [Range(last_ns, settled_ns)] if last_ns < settled_ns else []
        for part in requested:
            writer.record_requested(part)
        new_path = writer.shorten(segment, last_ns).path
        self._add_moved(
            RepairedFile(self._name, segment.path, new_path, (fault,), tuple(requested))
        )

    def _add_moved(self, moved: RepairedFile) -> None:
        self._result.moved.append(moved)
        self._repairer.on_move(moved)

    def _add_new_gap(self, gap: NewGap) -> None:
        self._result.uncovered.append(gap.range)
        self._result.kept += [gap.copy] if gap.copy else []

    async def _quarantine(self, writer: Writer) -> None:
        """Move broken files until none is left; then only missing ranges are faults."""
        while True:
            segments = self._archive.segments(self._name)
            report = self._result.after
            broken = await asyncio.to_thread(plan_repair, report, segments, self._archive.store)
            broken = await self._check_exchange(segments, broken)
            if not broken:
                return
            self._changed = True
            await asyncio.to_thread(self._move, writer, segments, broken)
            await self._verify()

    async def _remove_coverage(self, writer: Writer) -> None:
        """Turn the ranges that lack trades, by their id gaps, into gaps of the coverage."""
        faults = self._result.after.faults
        lost = union(fault.missing_range for fault in faults if fault.missing_range)
        if not lost:
            return
        await self._ask_exchange()
        if self._is_unknown:
            return
        await asyncio.to_thread(writer.check_market, self._pair.key)
        self._changed = True
        for known in lost:
            for gap in await asyncio.to_thread(writer.remove_coverage, known):
                self._add_new_gap(gap)

    async def _ask_exchange(self) -> int:
        """Ask for the time up to which trades are final, in nanoseconds, and for the pair."""
        settled_ns = await self._run.options.cancel.guard(self._run.clock.settled_ns())
        self._pair, is_known = await self._repairer.pair_of(self._name)
        self._is_unknown = not is_known
        return settled_ns

    async def _check_exchange(
        self, segments: Sequence[Segment], broken: list[BrokenFile]
    ) -> list[BrokenFile]:
        """Ask the exchange before a file is moved whose trades must be downloaded again.

        If the exchange does not answer, nothing is moved; if it does not know the pair, only files
        whose trades other files have.
        """
        guard = self._run.options.cancel.guard
        recorded = self._recorded_requests()
        moved = {file.path for file in broken}
        kept = [segment.range for segment in segments if segment.path not in moved]
        requested = recorded or enclosing_range(ranges_of_files(segments, broken))
        refetch = [known for file in broken for known in file.refetch]
        if not missing([*requested, *refetch], kept):
            await guard(asyncio.sleep(0))
            return broken
        settled_ns = await self._ask_exchange()
        if self._is_unknown:
            return [file for file in broken if not missing(file.refetch, kept)]
        limit_ns = max([settled_ns, *(known.through for known in recorded)])
        return [file.limited_to(limit_ns) for file in broken]

    def _recorded_requests(self) -> list[Range]:
        try:
            return list(locks_and_requests.read_requests(self._archive.store, self._name).ranges)
        except ArchiveDamaged:
            return []

    def _move(self, writer: Writer, segments: Sequence[Segment], broken: list[BrokenFile]) -> None:
        all_ranges = enclosing_range(ranges_of_files(segments, broken))
        if not any(file.path.startswith("wanted/") for file in broken):
            # Before a false range in a file's name could count as requested.
            writer.record_requested_if_lost(all_ranges)
        for file in broken:
            is_list = file.path.startswith("wanted/")
            requested = all_ranges if is_list else list(file.refetch)
            note = QuarantineNote(self._name, file.path, file.range, list(file.faults), requested)
            if is_list:
                new_path = writer.replace_requested(requested, note)
            else:
                for known in requested:
                    writer.record_requested(known, was_covered=True)
                new_path = writer.quarantine(note)
            self._add_moved(
                RepairedFile(self._name, file.path, new_path, file.faults, tuple(requested))
            )
