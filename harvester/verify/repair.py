"""Repair a pair: quarantine broken files, download their ranges again, verify again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from harvester.download.backfill import fill
from harvester.download.pair_selection import refresh_pairs
from harvester.download.request import DownloadContext
from harvester.errors import ArchiveDamaged, UnreadableAnswer, capture_error
from harvester.kraken.pairs import Pair
from harvester.pair_names import known_pairs
from harvester.schema import RowsChecksum
from harvester.storage import metadata
from harvester.storage.compaction import is_within
from harvester.storage.filesystem import QuarantineNote
from harvester.storage.segment import (
    Segment,
    UnverifiedFooter,
    read_batches,
    read_unverified_footer,
)
from harvester.storage.trade_store import TradeStore, ending_in_future, future_fault
from harvester.storage.writer import Writer, writer
from harvester.times import Range, enclosing_range, missing, union
from harvester.verify.integrity import verify
from harvester.verify.reports import Fault, Moved, PairReport, RepairReport

# --- broken ---------------------------------------------------------------------------------------


class Broken(NamedTuple):
    """A file that has to go.

    Attributes:
        path: where it stands within the archive.
        range: by its name.
        faults: what is wrong with it.
        owed: the ranges that it should have held.
        is_guess: whether nothing but its name tells them.
    """

    path: str
    range: Range
    faults: tuple[str, ...]
    owed: tuple[Range, ...] = ()
    is_guess: bool = False

    def up_to(self, limit_ns: int) -> Broken:
        """The same, owing nothing behind a moment where what it owes is a guess."""
        if not self.is_guess:
            return self
        owed = [one._replace(through=min(one.through, limit_ns)) for one in self.owed]
        return self._replace(owed=tuple(one for one in owed if one.after < one.through))


class SegmentReader(Protocol):
    """What is asked of the files themselves."""

    def claims(self, segment: Segment) -> UnverifiedFooter:
        """What a file says of itself."""

    def agree(self, segment: Segment, other: Segment) -> bool:
        """Whether two files hold the same rows where their ranges overlap."""


class Files:
    """The evidence of an archive."""

    def __init__(self, archive: TradeStore) -> None:
        """Nothing is read yet."""
        self._store = archive.store

    def claims(self, segment: Segment) -> UnverifiedFooter:
        """What a file says of itself, by its footer and statistics."""
        return read_unverified_footer(self._store, segment.path)

    def agree(self, one: Segment, other: Segment) -> bool:
        """By the checksums of the rows in the range that both hold."""
        shared = Range(
            max(one.range.after, other.range.after), min(one.range.through, other.range.through)
        )
        sums = []
        for segment in (one, other):
            checksum = RowsChecksum()
            for batch in read_batches(self._store, segment.path, shared):
                checksum.update(batch)
            sums.append(checksum.hexdigest())
        return sums[0] == sums[1]


def judge(report: PairReport, segments: Sequence[Segment], evidence: SegmentReader) -> list[Broken]:
    """The files that have to go, by what is wrong with a pair.

    Files that are broken in themselves go first: whether others overlap is judged once they are
    gone. Files between whose ids others are missing stay: only the range between is downloaded.
    What is wanted stands first, where its file can't be read: nothing can be wanted before it is.

    Args:
        report: what was found.
        segments: the same files, as the archive lists them.
        evidence: asked where the report does not tell enough.
    """
    alone = _texts(
        (fault.path, fault.text)
        for fault in report.faults
        if fault.other is None and fault.between is None
    )
    known = {segment.path: segment for segment in segments}
    texts = {path: found for path, found in alone.items() if path in known}
    if not texts:
        texts = _texts(_overlapping(segments, evidence))
    found = []
    for path, why in sorted(texts.items()):
        spans, is_guess = owed(known[path], evidence.claims(known[path]))
        found.append(Broken(path, known[path].range, tuple(why), spans, is_guess))
    beside = {path: why for path, why in alone.items() if path not in known}
    return [*_beside(report.faults, beside, report.pair), *found]


def owed(segment: Segment, claims: UnverifiedFooter) -> tuple[tuple[Range, ...], bool]:
    """The ranges that a broken file should have held, and whether that is a guess.

    Name and footer may tell different ones. A name can be changed by accident, so the footer is
    believed unless the rows lie outside of its range; where rows fit neither, both are owed.
    """
    name, footer = segment.range, claims.footer
    if footer is None or footer.range.after >= footer.range.through:
        return (name,), True
    if footer.altname and footer.altname != segment.pair:
        # A file of another pair: what this one holds by rights was wanted under its own name.
        return (), False
    told = footer.range
    shares = told.after < name.through and name.after < told.through
    if _fits(claims.bounds, told) and (shares or not _fits(claims.bounds, name)):
        return (told,), False
    return ((name,) if _fits(claims.bounds, name) else (name, told)), False


def spans_known(segments: Iterable[Segment], broken: Sequence[Broken]) -> list[Range]:
    """All that files tell to have been asked for, where no list of it can be read any more."""
    gone = {one.path for one in broken}
    kept = [segment.range for segment in segments if segment.path not in gone]
    return union([*kept, *(span for one in broken for span in one.owed)])


def _fits(bounds: tuple[int, int] | None, span: Range) -> bool:
    return bounds is None or (span.after < bounds[0] and bounds[1] <= span.through)


def _texts(found: Iterable[tuple[str | None, str]]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for path, text in found:
        if path is not None:
            texts.setdefault(path, []).append(text)
    return texts


def _beside(faults: Iterable[Fault], texts: dict[str, list[str]], pair: str) -> list[Broken]:
    """Files that are no segments: what is wanted, then roll-ups, then strangers of the pair."""
    spans = {fault.path: fault.span for fault in faults}
    return [
        Broken(path, spans[path], tuple(why))
        for room in ("wanted/", "candles/", f"trades/pair={pair}/")
        for path, why in sorted(texts.items())
        if path.startswith(room)
    ]


def _overlapping(segments: Sequence[Segment], evidence: SegmentReader) -> Iterator[tuple[str, str]]:
    """Of sound files that overlap, those that go, each with the reason.

    Where they hold the same rows, the later one goes; one that lies inside the other stays, as it
    is cleared away like a crash's leavings. Where they do not, nobody can tell which one is right.
    """
    kept: list[Segment] = []
    for segment in segments:
        if not kept or segment.range.after >= kept[-1].range.through:
            kept.append(segment)
        elif not evidence.agree(kept[-1], segment):
            wide = kept.pop()
            yield wide.path, f"it overlaps with {segment.path}, which holds other trades"
            yield segment.path, f"it overlaps with {wide.path}, which holds other trades"
        elif not is_within(segment.range, kept[-1].range):
            yield segment.path, f"it overlaps with {kept[-1].path}"


# --- repair ---------------------------------------------------------------------------------------

ROUNDS = 3
"""What was fetched may show that a file beside it is wrong, too; so often that is followed."""

Told = Callable[[Moved], None]


class Repairer:
    """Mends pair after pair, or several side by side."""

    def __init__(self, run: DownloadContext, told: Told) -> None:
        """`told` hears of each file as it is moved."""
        self.run = run
        self.told = told
        self._known = known_pairs(run.archive)
        self._asked: dict[str, Pair] | None = None
        self._asking = asyncio.Lock()
        # Side by side the exchange is waited for; files are read by one pair at a time.
        self._reading = asyncio.Lock()

    async def repair(self, report: PairReport) -> RepairReport:
        """Mend what a report of a pair tells to be wrong; what ends it early is in the result.

        In this order: verify under the lock; hear the exchange's clock, where something is to be
        fetched; cut ranges that end in the future; put on record what each broken file should have
        held; move it into quarantine; fetch what is missing; make roll-ups; verify again. After
        each step a crash leaves nothing that the next run does not mend.
        """
        result = RepairReport(report.pair, report, report)
        mending = _Mending(self, result)
        result.error = await capture_error(mending.run()) or result.error
        return result

    async def verified(self, name: str) -> PairReport:
        """Verify a pair whose lock is held, remembering nothing of its files."""
        async with self._reading:
            self.run.archive.forget_pair(name)
            now_ns = self.run.options.now_ns()
            return await asyncio.to_thread(verify, self.run.archive, name, now_ns=now_ns)

    async def listed(self, name: str) -> Pair:
        """A pair as the exchange is to be asked for it; it lists its pairs once where need be."""
        pair = self._known.get(name, Pair(altname=name))
        if pair.key:
            return pair
        async with self._asking:
            if self._asked is None:
                asked = refresh_pairs(self.run.client, self.run.archive)
                self._asked = await self.run.options.stop.guard(asked)
        return self._asked.get(name, pair)


class _Mending:
    """One pair on its way."""

    def __init__(self, repairer: Repairer, result: RepairReport) -> None:
        self._repairer = repairer
        self._run = repairer.run
        self._archive = repairer.run.archive
        self._name = result.pair
        self._pair = Pair(altname=result.pair)
        self._result = result
        self._changed = False

    async def run(self) -> None:
        result = self._result
        with writer(self._archive, self._name, sweep=False) as one:
            result.before = result.after = await self._repairer.verified(self._name)
            error = await capture_error(self._rounds(one))
            if self._changed:
                error = await capture_error(self._look()) or error
            result.error = error or result.error

    async def _rounds(self, writer: Writer) -> None:
        result = self._result
        for turn in range(ROUNDS):
            before = len(result.moved), len(result.uncovered)
            await self._cut_future(writer)
            await self._set_aside(writer)
            await self._uncover(writer)
            # What is missing after the first turn was asked for in it.
            if before == (len(result.moved), len(result.uncovered)) and (
                turn or not result.after.faults
            ):
                return
            self._changed = True
            await asyncio.to_thread(writer.sweep)
            outcome = await fill(self._run, self._pair, writer)
            result.trades += outcome.trades
            result.pages += outcome.pages
            result.error = outcome.error
            await self._look()
            if outcome.error is not None and not isinstance(outcome.error, ArchiveDamaged):
                return

    async def _look(self) -> None:
        self._result.after = await self._repairer.verified(self._name)
        self._changed = False

    async def _cut_future(self, writer: Writer) -> None:
        """Cut ranges that end in the future, behind their last trade: what follows is downloaded.

        Only files that nothing else is wrong with, and none without trades or with trades of the
        future: those are moved like any broken file.

        Raises:
            UnreadableAnswer: the exchange's clock does not confirm this machine's.
        """
        faults = self._result.after.faults
        paths = Counter(path for fault in faults for path in (fault.path, fault.other))
        now_ns = self._run.options.now_ns()
        segments = ending_in_future(self._archive.segments(self._name), now_ns)
        segments = [segment for segment in segments if paths[segment.path] == 1]
        if not segments:
            return
        clock = self._run.clock
        settled_ns = await self._run.options.stop.guard(clock.settled_ns())
        if clock.is_behind:
            raise UnreadableAnswer(
                f"{self._name}: {clock.describe()}: as they differ, it is not certain that "
                f"{segments[0].path} ends in the future"
            )
        for segment in segments:
            bounds = self._archive.bounds(segment)
            if bounds is not None and bounds[1] <= now_ns:
                self._changed = True
                fault = future_fault(segment, now_ns)
                await asyncio.to_thread(self._cut, writer, segment, bounds[1], settled_ns, fault)
        if self._changed:
            await self._look()

    def _cut(
        self, writer: Writer, segment: Segment, last_ns: int, settled_ns: int, fault: str
    ) -> None:
        wanted = [Range(last_ns, settled_ns)] if last_ns < settled_ns else []
        for span in wanted:
            writer.want(span)
        to = writer.shorten(segment, last_ns).path
        moved = Moved(self._name, segment.path, to, (fault,), tuple(wanted))
        self._result.moved.append(moved)
        self._repairer.told(moved)

    async def _set_aside(self, writer: Writer) -> None:
        """Move broken files until none is left; then only what is missing is wrong."""
        while True:
            segments = self._archive.segments(self._name)
            report = self._result.after
            broken = await asyncio.to_thread(judge, report, segments, Files(self._archive))
            broken = await self._sure_to_be_fetched(segments, broken)
            if not broken:
                return
            self._changed = True
            await asyncio.to_thread(self._move, writer, segments, broken)
            await self._look()

    async def _uncover(self, writer: Writer) -> None:
        """Make gaps of the ranges that lack trades by the ids on their sides."""
        lost = union(fault.between for fault in self._result.after.faults if fault.between)
        if not lost:
            return
        await self._hear_exchange()
        self._changed = True
        for span in lost:
            await asyncio.to_thread(writer.uncover, span)
        self._result.uncovered += lost

    async def _hear_exchange(self) -> int:
        """The moment up to which trades are settled; the pair as it is listed is kept."""
        settled_ns = await self._run.options.stop.guard(self._run.clock.settled_ns())
        self._pair = await self._repairer.listed(self._name)
        return settled_ns

    async def _sure_to_be_fetched(
        self, segments: Sequence[Segment], broken: list[Broken]
    ) -> list[Broken]:
        """Hear the exchange before anything is moved that only it can give again."""
        guard = self._run.options.stop.guard
        wanted = self._wanted()
        gone = {one.path for one in broken}
        kept = [segment.range for segment in segments if segment.path not in gone]
        spans = wanted or enclosing_range(spans_known(segments, broken))
        if not missing([*spans, *(span for one in broken for span in one.owed)], kept):
            await guard(asyncio.sleep(0))
            return broken
        settled_ns = await self._hear_exchange()
        limit_ns = max([settled_ns, *(span.through for span in wanted)])
        return [one.up_to(limit_ns) for one in broken]

    def _wanted(self) -> list[Range]:
        try:
            return metadata.wanted(self._archive.store, self._name)
        except ArchiveDamaged:
            return []

    def _move(self, writer: Writer, segments: Sequence[Segment], broken: list[Broken]) -> None:
        spans = enclosing_range(spans_known(segments, broken))
        if not any(file.path.startswith("wanted/") for file in broken):
            # Before a name that tells a false range could count as wanted.
            writer.want_if_lost(spans)
        for file in broken:
            is_list = file.path.startswith("wanted/")
            owed = spans if is_list else list(file.owed)
            note = QuarantineNote(self._name, file.path, file.range, list(file.faults), owed)
            if is_list:
                to = writer.replace_wanted(owed, note)
            else:
                for span in owed:
                    writer.want(span)
                to = writer.quarantine(note)
            moved = Moved(self._name, file.path, to, file.faults, tuple(owed))
            self._result.moved.append(moved)
            self._repairer.told(moved)
