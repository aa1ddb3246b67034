"""Everything that is checked of a pair, and the digests of what is proved."""

from __future__ import annotations

from harvester.archive.archive import Archive
from harvester.checks.digest import digests
from harvester.checks.report import PairReport
from harvester.checks.verify import Progress, verify


def prove(
    archive: Archive, pair: str, progress: Progress = lambda _pair, _done, _all: None
) -> PairReport:
    """What `verify` finds of a pair, with its digests where nothing is wrong.

    Raises:
        ArchiveDamaged: files keep vanishing while they are read.
    """
    report = verify(archive, pair, progress=progress)
    if not report.faults:
        report.digests = digests(archive, pair)
    return report
