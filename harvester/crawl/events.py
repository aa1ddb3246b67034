"""What a crawl tells while it runs, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from harvester.errors import HarvesterError
from harvester.times import Range


class Started(NamedTuple):
    """A pair's crawl begins.

    `expected` estimates the trades in `missing`, None where the exchange gave no counts.
    """

    pair: str
    missing: list[Range]
    expected: int | None


class PageRead(NamedTuple):
    """A page was read: all trades so far of this run, and the moment reached."""

    pair: str
    trades: int
    pages: int
    reached_ns: int


class Committed(NamedTuple):
    """Trades were made part of the archive."""

    pair: str
    span: Range
    rows: int


class Waiting(NamedTuple):
    """The exchange gave no good answer; it will be asked again."""

    pair: str
    reason: str


class Noted(NamedTuple):
    """Something that people should know, and that does not stop the crawl."""

    pair: str
    text: str


class Outcome(NamedTuple):
    """What a pair's crawl came to.

    `reached` is what was covered up to; `holes` are ranges asked for that stay uncovered.
    """

    pair: str
    trades: int
    pages: int
    reached: Range | None
    holes: list[Range]
    error: HarvesterError | None

    @property
    def exit_status(self) -> int:
        """0 when all that was asked for is covered."""
        if self.error is not None:
            return self.error.exit_status
        return 4 if self.holes else 0


Event = Started | PageRead | Committed | Waiting | Noted | Outcome
Listener = Callable[[Event], None]
