"""Which files of a pair have to go, and what is owed in their stead: decided, and nothing done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from harvester.schema import RowsChecksum
from harvester.storage.compaction import within
from harvester.storage.segment import Claims, Segment, read_batches, read_claims
from harvester.storage.trade_store import Archive
from harvester.times import Range, union
from harvester.verify.report import Fault, PairReport


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


class Evidence(Protocol):
    """What is asked of the files themselves."""

    def claims(self, segment: Segment) -> Claims:
        """What a file says of itself."""

    def agree(self, one: Segment, other: Segment) -> bool:
        """Whether two files hold the same rows where their ranges overlap."""


class Files:
    """The evidence of an archive."""

    def __init__(self, archive: Archive) -> None:
        """Nothing is read yet."""
        self._store = archive.store

    def claims(self, segment: Segment) -> Claims:
        """What a file says of itself, by its footer and statistics."""
        return read_claims(self._store, segment.path)

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


def judge(report: PairReport, segments: Sequence[Segment], evidence: Evidence) -> list[Broken]:
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
    known = {one.path: one for one in segments}
    texts = {path: found for path, found in alone.items() if path in known}
    if not texts:
        texts = _texts(_overlapping(segments, evidence))
    found = []
    for path, why in sorted(texts.items()):
        spans, is_guess = owed(known[path], evidence.claims(known[path]))
        found.append(Broken(path, known[path].range, tuple(why), spans, is_guess))
    beside = {path: why for path, why in alone.items() if path not in known}
    return [*_beside(report.faults, beside, report.pair), *found]


def owed(segment: Segment, claims: Claims) -> tuple[tuple[Range, ...], bool]:
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
    kept = [one.range for one in segments if one.path not in gone]
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


def _overlapping(segments: Sequence[Segment], evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Of sound files that overlap, those that go, each with the reason.

    Where they hold the same rows, the later one goes; one that lies inside the other stays, as it
    is cleared away like a crash's leavings. Where they do not, nobody can tell which one is right.
    """
    kept: list[Segment] = []
    for one in segments:
        if not kept or one.range.after >= kept[-1].range.through:
            kept.append(one)
        elif not evidence.agree(kept[-1], one):
            wide = kept.pop()
            yield wide.path, f"it overlaps with {one.path}, which holds other trades"
            yield one.path, f"it overlaps with {wide.path}, which holds other trades"
        elif not within(one.range, kept[-1].range):
            yield one.path, f"it overlaps with {kept[-1].path}"
