"""Import the files of many pairs; choose the pair of each file by its name."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

from harvester.csv_import.file_scan import ScannedFile, chains, look_at
from harvester.csv_import.files import UNKNOWN, KnownComplete, Member
from harvester.csv_import.importer import FileChain, ImportOptions, ImportReport
from harvester.errors import (
    AmbiguousPair,
    BadFile,
    HarvesterError,
    Interrupted,
    UnknownPair,
    UsageError,
)
from harvester.kraken.pairs import Pair, PairIndex, resolve
from harvester.storage.replacement import end_replacing
from harvester.storage.replacement_staging import torn
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer, writer
from harvester.times import END_OF_TIME, MAX_COUNT, SECOND, Range, missing, union

# --- run ------------------------------------------------------------------------------------------

MOST_JOBS = 4
"""Pairs side by side: each holds up to some 150 MB."""


class PairFiles(NamedTuple):
    """A pair, and its files; `whole` is what they were said to hold whole together."""

    pair: Pair
    members: list[Member]
    whole: KnownComplete = UNKNOWN

    @property
    def size(self) -> int:
        """Bytes, unpacked."""
        return sum(member.size for member in self.members)


class FilePlan(NamedTuple):
    """What would be imported of a file.

    Attributes:
        file, pair, layout, bytes: which it is, and what it is.
        rows, bad: how many can be read, and how many can't.
        is_sorted: whether its rows stand by time; others are put in order.
        begins_ns: the earliest time; None where there are no rows.
        missing: what is not covered from its beginning on.
        error: why it can't be imported.
    """

    file: str
    pair: str
    layout: str
    bytes: int
    rows: int
    bad: int
    is_sorted: bool
    begins_ns: int | None
    missing: list[Range]
    error: str | None = None


def plan(
    archive: TradeStore, works: Sequence[PairFiles], *, skip_bad_rows: bool = False
) -> list[FilePlan]:
    """What would be imported; the files are read whole, and a bad one hides no other."""
    plans = []
    for work in works:
        name, coverage = work.pair.altname, archive.coverage(work.pair.altname)
        parts, failed = [], dict[Member, HarvesterError]()
        for member in work.members:
            try:
                parts.append(look_at(member, skip_bad_rows=skip_bad_rows))
            except BadFile as reason:
                failed[member] = reason
        # A chain may end where another bound was said than by the file's name.
        found = {part.member[:2]: part for chain in chains(parts, work.whole) for part in chain}
        for member in work.members:
            if member in failed:
                error = str(failed[member])
                plans.append(
                    FilePlan(str(member), name, "", member.size, 0, 0, True, None, [], error)
                )
            else:
                plans.append(_planned(found[member[:2]], name, coverage))
    return plans


def _planned(part: ScannedFile, pair: str, coverage: list[Range]) -> FilePlan:
    since_s, until_s = part.member.whole
    if part.first_ns is not None:
        after = part.first_ns // SECOND * SECOND - 1
    elif since_s is not None and until_s is not None:
        after = max(0, since_s * SECOND - 1)
    else:
        after = END_OF_TIME
    through = END_OF_TIME if until_s is None else until_s * SECOND - 1
    gaps = missing([Range(after, through)], coverage)
    return FilePlan(
        str(part.member),
        pair,
        str(part.layout),
        part.member.size,
        part.rows,
        part.bad,
        part.is_sorted,
        part.first_ns,
        gaps,
    )


def run(
    archive: TradeStore,
    works: Sequence[PairFiles],
    watch: ImportOptions,
    done: Callable[[ImportReport], None],
) -> list[ImportReport]:
    """Import the files of some pairs; one that fails stops no other.

    Args:
        archive: what they go into.
        works: the pairs, each once.
        watch: told of progress, from any thread.
        done: told of each report once it is whole.

    Returns the reports, in the order of `works`.
    """
    jobs = min(MOST_JOBS, os.cpu_count() or 1)
    # The largest first, so that none is left alone at the end.
    order = sorted(works, key=lambda work: -work.size)
    with ThreadPoolExecutor(jobs) as pool:
        futures = {
            work.pair.altname: pool.submit(_import, archive, work, watch, done) for work in order
        }
        return [report for work in works for report in futures[work.pair.altname].result()]


def _import(
    archive: TradeStore,
    work: PairFiles,
    watch: ImportOptions,
    done: Callable[[ImportReport], None],
) -> list[ImportReport]:
    name = work.pair.altname
    reports: list[ImportReport] = []

    def all_of_it() -> None:
        if watch.stop.is_set():
            raise Interrupted("interrupted; the same command goes on where it stopped")
        parts = [
            look_at(
                member,
                skip_bad_rows=watch.skip_bad_rows,
                read=lambda size: watch.read(name, size - size // 2),
                stop=watch.stop,
            )
            for member in work.members
        ]
        # Where one file has rows that can't be read, another one must not call the time covered.
        bad_times = union(span for part in parts for span in part.bad_times)
        with writer(archive, name) as one:
            notes = end_replacing(one)
            if found := torn(archive, name):
                notes.append(found[1])
            made = [
                FileChain(archive, work.pair, chain, watch, bad_times)
                for chain in chains(parts, work.whole)
            ]
            for chain in made:
                reports.append(_one(chain, one))
                reports[-1].notes[:0] = notes
                notes = []
            for chain in made:
                # What a file left out must not be called covered by another one.
                if chain.report.error is None and not watch.stop.is_set():
                    chain.report.error = _error_of(partial(chain.check_left, one))
            for report in reports:
                done(report)
            if any(report.ranges for report in reports):
                # Roll-ups are left to `backfill`, which changes the seams again anyway.
                one.compact()

    error = _error_of(all_of_it)
    if error is not None:
        files = [str(member) for member in work.members]
        reports.append(ImportReport(files, name, [], work.size, error=error))
        done(reports[-1])
    return reports


def _one(chain: FileChain, writer: Writer) -> ImportReport:
    begun_s = time.perf_counter()
    chain.report.error = _error_of(lambda: chain.run(writer))
    chain.report.seconds = time.perf_counter() - begun_s
    return chain.report


def _error_of(work: Callable[[], None]) -> HarvesterError | None:
    """Do one pair's work, and return what ended it, if anything did: the others go on."""
    try:
        work()
    except HarvesterError as reason:
        return reason
    except Exception as fault:  # noqa: BLE001 - one pair's fault must not end the others
        error = HarvesterError(f"internal error: {type(fault).__name__}: {fault}")
        error.__cause__ = fault
        return error
    return None


# --- names ----------------------------------------------------------------------------------------

_PATTERN = frozenset("*?[")
_CANDLES = re.compile(r"(.+)_([0-9]{1,8})", re.ASCII)


class MatchedFiles(NamedTuple):
    """Members by their pairs, and those whose names nobody knows."""

    pairs: list[tuple[Pair, list[Member]]]
    unknown: list[Member]


def by_pair(members: Iterable[Member], known: Iterable[Pair]) -> MatchedFiles:
    """The pair of each member, from its file's name; in the order of the first of each."""
    book = PairIndex(known)
    found: dict[str, tuple[Pair, list[Member]]] = {}
    unknown = []
    for member in members:
        pair = book.find(member.stem)
        if pair is None:
            unknown.append(member)
        else:
            found.setdefault(pair.altname, (pair, []))[1].append(member)
    return MatchedFiles(list(found.values()), unknown)


class CandleFile(NamedTuple):
    """A member that holds candles of so many minutes."""

    member: Member
    minutes: int


def candle_file(member: Member, book: PairIndex) -> tuple[Pair, CandleFile] | None:
    """Whose candles a member holds, and which, by its name: `XBTUSD_60.csv` is XBTUSD's of an hour.

    None where its name is none of candles, or no pair fits it.
    """
    match = _CANDLES.fullmatch(member.stem)
    if match is None or not 0 < int(match[2]) <= MAX_COUNT["m"]:
        return None
    pair = book.find(match[1])
    return None if pair is None else (pair, CandleFile(member, int(match[2])))


def as_named(name: str) -> Pair | None:
    """A pair that the exchange lists no more, by its altname; None where that can be none."""
    return Pair(altname=name) if name.isascii() and name.isalnum() and len(name) <= 40 else None


def chosen(members: Sequence[Member], texts: Sequence[str], known: Iterable[Pair]) -> list[Member]:
    """The members of some pairs: each named in any spelling, or by a pattern such as `*/EUR`.

    Raises:
        UsageError: one of the texts fits no member.
    """
    book = list(known)
    named = by_pair(members, book)
    spelled = {
        member: {*pair.spellings, member.stem} for pair, some in named.pairs for member in some
    }
    spelled |= {member: {member.stem} for member in named.unknown}
    wanted: set[Member] = set()
    for text in texts:
        fits = {member for member, names in spelled.items() if text in names}
        if not fits and not _PATTERN & set(text):
            fits = _of_pair(text, book, named)
        if not fits:
            fits = {member for member, names in spelled.items() if _fits(text.upper(), names)}
        if not fits:
            raise UsageError(
                f"--pairs {text}: none of the files is of it; --dry-run lists what they hold"
            )
        wanted |= fits
    return [member for member in members if member in wanted]


def _fits(text: str, names: set[str]) -> bool:
    if _PATTERN & set(text):
        return any(fnmatchcase(name.upper(), text) for name in names)
    return text in {name.upper() for name in names}


def _of_pair(text: str, book: list[Pair], named: MatchedFiles) -> set[Member]:
    try:
        altname = resolve(text, book).altname
    except AmbiguousPair:
        raise
    except UnknownPair:
        return set()
    return {member for pair, some in named.pairs if pair.altname == altname for member in some}
