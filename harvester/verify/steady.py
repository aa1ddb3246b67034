"""Comparing beside a writer: what seems to differ is looked at again where files were replaced."""

from __future__ import annotations

from collections.abc import Callable

from harvester.errors import ArchiveDamaged
from harvester.storage.trade_store import Archive
from harvester.verify.report import IntervalReport

MOST_TURNS = 3
"""So often candles are compared while files are replaced under them; what then differs is told."""


def steady(archive: Archive, pair: str, compare: Callable[[], IntervalReport]) -> IntervalReport:
    """Compare candles, and compare them again if an upgrade moved trades while they were.

    A candle may be read from a file of whole seconds, and the trades at its edges a moment later
    from the exchange's own that replaced it: then it differs, or trades seem to be counted twice,
    and nothing is wrong.

    Args:
        archive: whose candles they are.
        pair: altname.
        compare: reads all that it needs anew each time.

    Raises:
        ArchiveDamaged: as `compare` does, and no file was replaced meanwhile.
    """
    for _ in range(MOST_TURNS - 1):
        before = set(archive.segments(pair))
        try:
            found = compare()
        except ArchiveDamaged:
            if before <= set(archive.segments(pair)):
                raise
        else:
            if not found.differing or before <= set(archive.segments(pair)):
                return found
    return compare()
