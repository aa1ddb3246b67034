"""What a check of a pair comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from harvester.errors import ArchiveDamaged
from harvester.times import Range, show


class Fault(NamedTuple):
    """One thing that is wrong: where, and what.

    Attributes:
        pair: altname.
        span: the range that can't be trusted.
        path: the file within the archive; None where a file is missing.
        text: what is wrong, for people.
    """

    pair: str
    span: Range
    path: str | None
    text: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.path or self.pair}: {self.text}; range {_instants(self.span)}"


@dataclass(slots=True)
class PairReport:
    """What was checked of a pair, how many of each, and what is wrong.

    Attributes:
        files: segments whose name, place, schema, footer, statistics and rows were checked.
        rows: trades whose order, ties, decimals and checksum were checked.
        ids: trades with an id, each held against the one before it.
        seams: places where one file's ids must go on from the last.
        jumps: where ids skip, confirmed by the exchange twice.
        unasked_jumps: where they skip and were not asked for again, as the pair does so always.
        rollups: roll-up files held against their ticks.
        notes: what is odd and no fault.
    """

    pair: str
    files: int = 0
    rows: int = 0
    ids: int = 0
    seams: int = 0
    jumps: int = 0
    unasked_jumps: int = 0
    rollups: int = 0
    notes: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """0 when nothing is wrong."""
        return ArchiveDamaged.exit_status if self.faults else 0


def _instants(span: Range) -> str:
    return f"{show(span.after)} to {show(span.through)}"
