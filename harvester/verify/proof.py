"""Everything that is checked of a pair, and the digests of what is proved."""

from __future__ import annotations

from collections.abc import Callable

from harvester.errors import ArchiveDamaged
from harvester.storage.replacement_staging import Together, noted
from harvester.storage.segment import Segment
from harvester.storage.trade_store import LISTINGS, Archive, listed_again
from harvester.verify.digest import digests
from harvester.verify.report import PairReport
from harvester.verify.verify import verify

Progress = Callable[[str, int, int, str], None]
"""Told a pair, how much of it is done, of how much, and what is counted: files, then months."""


def prove(
    archive: Archive, pair: str, progress: Progress = lambda _pair, _done, _all, _unit: None
) -> PairReport:
    """What `verify` finds of a pair, with its digests where nothing is wrong.

    Where what a file told gives way to the exchange's own trades meanwhile, all is read again: it
    is of the tape before, or of the one behind.

    Raises:
        ArchiveDamaged: files keep vanishing, or being replaced, while they are read.
    """
    for _ in range(LISTINGS):
        before = _replaceable(archive, pair)
        report = _proved(archive, pair, progress)
        if report.faults or before == _replaceable(archive, pair):
            return report
    raise ArchiveDamaged(f"files of {pair} keep being replaced while they are read: try again")


def _proved(archive: Archive, pair: str, progress: Progress) -> PairReport:
    report = verify(
        archive, pair, progress=lambda name, done, of: progress(name, done, of, "files")
    )
    if not report.faults:
        report.digests = digests(
            archive, pair, progress=lambda name, done, of: progress(name, done, of, "months")
        )
    return report


def _replaceable(archive: Archive, pair: str) -> tuple[list[Together], list[Segment]] | None:
    """What may be replaced by other trades, and is being; None where a file can't be read."""
    try:
        return _from_files(archive, pair)
    except ArchiveDamaged:
        return None


@listed_again
def _from_files(archive: Archive, pair: str, /) -> tuple[list[Together], list[Segment]]:
    segments = [one for one in archive.segments(pair) if archive.footer(one).imported]
    return noted(archive.store, pair), segments
