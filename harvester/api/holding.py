"""What an open archive says of itself, and how that is proved."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harvester.api.html import show_archive
from harvester.api.opened import Opened
from harvester.argument_types import check_types
from harvester.download.pair_selection import resolve_named
from harvester.times import Range
from harvester.verify.status import PairStatus, status

if TYPE_CHECKING:
    from harvester.verify.reports import PairReport


class Holding(Opened):
    """What is held, covered and missing, and whether it is sound."""

    def held(self) -> list[str]:
        """The altnames of the pairs that are held.

        Example:
            >>> archive.held()
            ['XBTUSD']
        """
        self._check_open()
        return self._disk.held()

    @check_types
    def coverage(self, pair: str) -> list[Range]:
        """What has been fetched whole of a pair, in order, as few ranges as can be.

        Returns:
            Ranges `(after, through]` of published time, in nanoseconds since the UNIX epoch.

        Raises:
            NothingHeld: the archive holds no trades of the pair.

        Example:
            >>> [covered] = archive.coverage("XBT/USD")
            >>> str(covered)
            'the beginning to 2026-01-31'
        """
        return self._disk.coverage(self._held(pair).altname)

    @check_types
    def holes(self, pair: str) -> list[Range]:
        """What was asked for of a pair and is not covered, in order.

        Returns:
            Ranges as those of `coverage`; none where all is there.

        Raises:
            NothingHeld: the archive knows nothing of the pair.

        Example:
            >>> archive.holes("XBT/USD")
            []
        """
        self._check_open()
        return self._disk.holes(resolve_named(self._disk, pair))

    @check_types
    def status(self, *pairs: str) -> list[PairStatus]:
        """What is held of some pairs, or of all: trades, first and last, coverage, files, bytes.

        Names and footers tell it; no trade is read. A file that can't be read is told in `damaged`.

        Returns:
            One a pair; `pandas.DataFrame(archive.status())` is a table of them.

        Raises:
            NothingHeld: the archive holds no trades of one of the pairs.
            ArchiveDamaged: files keep vanishing while they are looked at.

        Example:
            >>> [held] = archive.status()
            >>> held.pair, held.trades, held.holes
            ('XBTUSD', 20000, [])
        """
        self._check_open()
        names = [self._held(name).altname for name in pairs]
        return status(self._disk, names or None, time.time_ns())

    @check_types
    def verify(self, *pairs: str) -> list[PairReport]:
        """Read every trade of some pairs, or of all, and hold it against all that is said of it.

        Names, footers, checksums, ids, roll-ups, and what was asked for: docs/verify.md tells.

        Returns:
            A report a pair. `faults` has what is wrong, and is empty where the archive is proved;
            `digests` has checksums by month, to compare with others.

        Raises:
            NothingHeld: the archive knows nothing of one of the pairs.
            ArchiveDamaged: files keep vanishing while they are read.

        Example:
            >>> [report] = archive.verify("XBT/USD")
            >>> report.rows, report.faults
            (20000, [])
        """
        from harvester.verify.integrity import prove

        self._check_open()
        names = [resolve_named(self._disk, name) for name in pairs] or self._disk.to_verify()
        return [prove(self._disk, name) for name in names]

    def _repr_html_(self) -> str:
        return show_archive(self.path, self.status(), self._disk.named())
