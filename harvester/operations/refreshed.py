"""What a refresh came to, of each pair and as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from harvester.errors import ArchiveHasHoles, HarvesterError, gravest
from harvester.storage.archive import LISTINGS, Archive
from harvester.storage.segments import Segment
from harvester.times import Range


class TimeIsUp(HarvesterError):
    """The time allowed for a run was up before it was done: what was asked for, and no failure."""

    exit_status = 0

    def __init__(self) -> None:
        super().__init__("the time was up; the next run goes on where this one stopped")


@dataclass(slots=True)
class Refreshed:
    """What a refresh came to for one pair.

    Attributes:
        pair: altname, as the archive has it.
        state: `complete`, `holes`, `delisted`, `renamed` (its tape goes on under another name that
            is held, too), `maintenance`, `locked` (another run is writing it), `unfinished` (the
            time was up), `interrupted`, or `failed`.
        trades: how many were added.
        pages: of trades, that were read.
        refusals: calls for trades that the exchange refused, or gave no good answer to.
        seconds: from the beginning of its crawl to the end.
        first_ns: published time of the first trade held, None for none.
        last_ns: of the last one.
        reached: the range that is covered up to its end, None where nothing is.
        holes: what was wanted and is not covered.
        renamed_to: what the exchange calls it now, where that is another name.
        error: what ended it, if anything did.
    """

    pair: str
    state: str = "complete"
    trades: int = 0
    pages: int = 0
    refusals: int = 0
    seconds: float = 0.0
    first_ns: int | None = None
    last_ns: int | None = None
    reached: Range | None = None
    holes: list[Range] = field(default_factory=list[Range])
    renamed_to: str | None = None
    error: HarvesterError | None = None

    def __str__(self) -> str:
        """One line for people."""
        why = str(self.error) if self.error is not None else ""
        if not why and self.holes:
            why = f"{len(self.holes)} holes stay, the first {self.holes[0]}"
        done = f"{self.pair}: {self.state}: {self.trades:,} trades in {self.pages:,} pages"
        return f"{done}; {why}" if why else done

    @property
    def exit_status(self) -> int:
        """0 where nothing is wrong: complete, or stopped because the time was up."""
        if self.error is not None:
            return self.error.exit_status
        return ArchiveHasHoles.exit_status if self.holes else 0

    @property
    def calls(self) -> int:
        """For trades: pages that were read, and refusals."""
        return self.pages + self.refusals

    def look(self, archive: Archive) -> None:
        """Fill in what is held of the pair by now.

        Raises:
            ArchiveDamaged: a segment's footer, or what was wanted, can't be read.
        """
        self.holes = archive.holes(self.pair)
        self.reached = next(reversed(archive.coverage(self.pair)), None)
        for _ in range(LISTINGS):
            segments = archive.segments(self.pair)
            try:
                first, last = (_bounds(archive, some) for some in (segments, reversed(segments)))
            except FileNotFoundError:
                # Whoever holds the pair's lock merges its files.
                continue
            self.first_ns, self.last_ns = first and first[0], last and last[1]
            return


def _bounds(archive: Archive, segments: Iterable[Segment]) -> tuple[int, int] | None:
    """The first and last published time of the first of some segments that has rows."""
    return next((known for one in segments if (known := archive.bounds(one))), None)


class Refresh(NamedTuple):
    """What a refresh came to. `error`: what ended it as a whole, if anything did."""

    pairs: list[Refreshed]
    exchange: str
    calls: int
    refusals: int
    seconds: float
    error: HarvesterError | None

    @property
    def exit_status(self) -> int:
        """The gravest of all pairs', 0 only where each is complete or the time was up."""
        whole = [self.error.exit_status] if self.error else []
        return gravest([*whole, *(one.exit_status for one in self.pairs)])
