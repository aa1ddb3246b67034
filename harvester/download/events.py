"""What a crawl tells while it runs, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from harvester.download.upgrades import Upgrade
from harvester.errors import HarvesterError
from harvester.kraken.rate_limit import PaceState
from harvester.times import SECOND, Range, show


class Begun(NamedTuple):
    """A run over so many pairs begins."""

    pairs: int


class Step(NamedTuple):
    """So much of a pair's work is done, of so much: work that fetches no trades.

    `unit` is what is counted: files, months, lengths of candles, or bytes.
    """

    pair: str
    done: int
    of: int
    unit: str = "files"


class Imported(NamedTuple):
    """Files of a pair were taken in: `lines` tell people, `report` tells machines."""

    pair: str
    exit_status: int
    lines: list[str]
    report: dict[str, Any]


class Started(NamedTuple):
    """A pair's crawl begins.

    `expected` estimates the trades in `missing`, None where the exchange gave no counts; `held`
    those of the request that are stored already, counted where progress is shown as a bar.
    """

    pair: str
    missing: list[Range]
    expected: int | None
    held: int = 0

    def __str__(self) -> str:
        """One line for people."""
        if not self.missing:
            return f"{self.pair}: up to date"
        many = f"{len(self.missing)} ranges, the first " if len(self.missing) > 1 else ""
        about = "" if self.expected is None else f", about {self.expected:,} trades"
        return f"{self.pair}: {many}{self.missing[0]} to fetch{about}"


class PageRead(NamedTuple):
    """A page was read: all trades so far of this run, and the moment reached."""

    pair: str
    trades: int
    pages: int
    reached_ns: int

    def __str__(self) -> str:
        """One line for people."""
        reached = _second(self.reached_ns)
        return f"{self.pair}: {self.trades:,} trades in {self.pages:,} pages, through {reached}"


class Committed(NamedTuple):
    """Trades were made part of the archive."""

    pair: str
    span: Range
    rows: int

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.pair}: {self.rows:,} trades written, through {_second(self.span.through)}"


class Waiting(NamedTuple):
    """The exchange gave no good answer; it will be asked again."""

    pair: str
    reason: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.pair}: waiting: {self.reason}"


class Paced(NamedTuple):
    """The rate at which a pair is asked has changed."""

    pair: str
    pace: PaceState

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.pair}: {self.pace}"


class Noted(NamedTuple):
    """Something that people should know, and that does not stop the crawl."""

    pair: str
    text: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.pair}: {self.text}"


class Replaced(NamedTuple):
    """Trades of the exchange took the place of what a file told of a range."""

    pair: str
    span: Range
    rows: int

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.pair}: {self.rows:,} trades from files replaced, {self.span}"


class Ended(NamedTuple):
    """A pair's gaps were downloaded as part of other work, which reports what came of it."""

    pair: str
    exit_status: int

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.pair}: done" if self.exit_status == 0 else f"{self.pair}: failed"


class Outcome(NamedTuple):
    """What a pair's crawl came to.

    `reached` is what was covered up to; `holes` are ranges asked for that stay uncovered; `pace`
    is how the exchange was asked, where it was; `upgrade` what became of ranges from files.
    """

    pair: str
    trades: int
    pages: int
    reached: Range | None
    holes: list[Range]
    error: HarvesterError | None
    pace: PaceState | None = None
    upgrade: Upgrade | None = None

    @property
    def exit_status(self) -> int:
        """0 when all that was asked for is covered."""
        if self.error is not None:
            return self.error.exit_status
        is_sound = self.upgrade is None or self.upgrade.is_sound
        return 0 if is_sound and not self.holes else 4

    def __str__(self) -> str:
        """One line for people."""
        done = f"{self.pair}: {self.trades:,} trades in {self.pages:,} pages"
        if self.upgrade is not None and str(self.upgrade):
            done = f"{done}, {self.upgrade}"
        if self.error is not None and not self.pages:
            why = str(self.error)
            return why if why.startswith(self.pair) else f"{self.pair}: {why}"
        if self.error is not None:
            return f"{done}; {self.error}"
        if self.holes:
            return f"{done}; {len(self.holes)} holes stay, the first {self.holes[0]}"
        reached = f", complete through {_second(self.reached.through)}" if self.reached else ""
        if not self.trades and not str(self.upgrade or ""):
            return f"{self.pair}: up to date{reached}"
        return f"{done}{reached}"


def _second(stamp_ns: int) -> str:
    return show(stamp_ns // SECOND * SECOND)


Event = (
    Begun
    | Step
    | Imported
    | Started
    | PageRead
    | Committed
    | Waiting
    | Paced
    | Noted
    | Replaced
    | Ended
    | Outcome
)
Listener = Callable[[Event], None]
