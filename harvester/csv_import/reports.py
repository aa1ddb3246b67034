"""How an import is watched, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from harvester.csv_import.counting import Count
from harvester.csv_import.rows import BadRow
from harvester.download.events import Rounding
from harvester.errors import ArchiveHasHoles, HarvesterError
from harvester.times import Range


class Watch(NamedTuple):
    """How an import is watched and steered.

    Attributes:
        read: told a pair and how many bytes more were read, from any thread.
        stop: set to end it at the next quiet moment.
        skip_bad_rows: leave out what can't be read, and list it, instead of ending there.
    """

    read: Callable[[str, int], None]
    stop: threading.Event
    skip_bad_rows: bool = False


@dataclass(slots=True)
class Report:
    """What became of files of one pair that follow one another.

    Attributes:
        read: the rows that were read, and can be.
        kept: rows that are stored now, and were not.
        held, left: see `joining.Told`.
        repeats: rows with an id that equal another one in every field.
        bad: how many rows were left out; `bad_rows` lists them.
        ranges: what is covered now that was not.
        rounding: how its whole seconds were rounded; None for other times, or where nothing tells.
    """

    files: list[str]
    pair: str
    layouts: list[str]
    size: int
    read: Count = field(default_factory=Count)
    kept: Count = field(default_factory=Count)
    held: Count = field(default_factory=Count)
    left: Count = field(default_factory=Count)
    repeats: Count = field(default_factory=Count)
    bad: int = 0
    bad_rows: list[BadRow] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rounding: Rounding | None = None
    seconds: float = 0.0
    error: HarvesterError | None = None

    @property
    def lacks_quiet(self) -> bool:
        """Whether no row could be imported for want of a boundary."""
        return bool(self.left.rows) and not (self.kept.rows or self.held.rows)

    @property
    def exit_status(self) -> int:
        """0 when every row of the files is in the archive, or beside a boundary."""
        if self.error is not None:
            return self.error.exit_status
        return ArchiveHasHoles.exit_status if self.bad or self.lacks_quiet else 0
