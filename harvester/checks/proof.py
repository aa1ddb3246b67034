"""Everything that is checked of a pair, and the digests of what is proved."""

from __future__ import annotations

from collections.abc import Callable

from harvester.archive.archive import Archive
from harvester.checks.digest import digests
from harvester.checks.report import PairReport
from harvester.checks.verify import verify

Progress = Callable[[str, int, int, str], None]
"""Told a pair, how much of it is done, of how much, and what is counted: files, then months."""


def prove(
    archive: Archive, pair: str, progress: Progress = lambda _pair, _done, _all, _unit: None
) -> PairReport:
    """What `verify` finds of a pair, with its digests where nothing is wrong.

    Raises:
        ArchiveDamaged: files keep vanishing while they are read.
    """
    report = verify(
        archive, pair, progress=lambda name, done, of: progress(name, done, of, "files")
    )
    if not report.faults:
        report.digests = digests(
            archive, pair, progress=lambda name, done, of: progress(name, done, of, "months")
        )
    return report
