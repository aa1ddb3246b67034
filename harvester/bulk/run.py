"""Imports the files of many pairs side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from harvester.archive.archive import Archive
from harvester.archive.splicing import end_replacing
from harvester.archive.torn import torn
from harvester.archive.writer import Writer, writer
from harvester.bulk.importer import Chain
from harvester.bulk.parts import Part, chains, look_at
from harvester.bulk.reports import Report, Watch
from harvester.bulk.sources import Member
from harvester.errors import HarvesterError, Interrupted
from harvester.kraken.pairs import Pair
from harvester.times import END_OF_TIME, SECOND, Range, missing

MOST_JOBS = 4
"""Pairs side by side: each holds up to some 150 MB."""


class Work(NamedTuple):
    """A pair, and the files that are to be imported of it."""

    pair: Pair
    members: list[Member]

    @property
    def size(self) -> int:
        """Bytes, unpacked."""
        return sum(member.size for member in self.members)


class Plan(NamedTuple):
    """What would be imported of a file: `missing` is what is not covered from its beginning on."""

    file: str
    pair: str
    layout: str
    bytes: int
    begins_ns: int
    missing: list[Range]


def plan(archive: Archive, works: Sequence[Work]) -> list[Plan]:
    """What would be imported; only the first lines of the files are read.

    Raises:
        BadFile: one can't be read.
    """
    plans = []
    for pair, members in works:
        coverage = archive.coverage(pair.altname)
        for member in members:
            part = look_at(member)
            until = member.whole.until_s
            through = END_OF_TIME if until is None else until * SECOND - 1
            span = Range(part.first_ns // SECOND * SECOND - 1, through)
            holes = missing([span], coverage)
            plans.append(
                Plan(str(member), pair.altname, str(part.layout), member.size, part.first_ns, holes)
            )
    return plans


def run(
    archive: Archive,
    works: Sequence[Work],
    watch: Watch,
    done: Callable[[Report], None],
) -> list[Report]:
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
    archive: Archive,
    work: Work,
    watch: Watch,
    done: Callable[[Report], None],
) -> list[Report]:
    name = work.pair.altname
    reports: list[Report] = []

    def all_of_it() -> None:
        if watch.stop.is_set():
            raise Interrupted("interrupted; the same command goes on where it stopped")
        parts = [look_at(member) for member in work.members]
        with writer(archive, name) as one:
            notes = end_replacing(one)
            if found := torn(archive, name):
                notes.append(found[1])
            for chain in chains(parts):
                reports.append(_one(archive, work.pair, chain, watch, one))
                reports[-1].notes[:0] = notes
                notes = []
                done(reports[-1])
            if any(report.ranges for report in reports):
                # Roll-ups are left to `backfill`, which changes the seams again anyway.
                one.compact()

    error = _error_of(all_of_it)
    if error is not None:
        files = [str(member) for member in work.members]
        reports.append(Report(files, name, [], work.size, error=error))
        done(reports[-1])
    return reports


def _one(archive: Archive, pair: Pair, parts: Sequence[Part], watch: Watch, one: Writer) -> Report:
    chain = Chain(archive, pair, parts, watch)
    begun_s = time.perf_counter()
    chain.report.error = _error_of(lambda: chain.run(one))
    chain.report.seconds = time.perf_counter() - begun_s
    return chain.report


def _error_of(work: Callable[[], None]) -> HarvesterError | None:
    """Do one pair's work, and return what ended it, if anything did: the others go on."""
    try:
        work()
    except HarvesterError as reason:
        return reason
    except Exception as fault:  # noqa: BLE001 - one pair's fault must not end the others
        error = HarvesterError(f"a fault of harvester itself: {type(fault).__name__}: {fault}")
        error.__cause__ = fault
        return error
    return None
