"""What a person sees of long work: bars on a terminal, a line now and then where there is none."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from harvester.cli import output
from harvester.crawl.events import (
    Event,
    Noted,
    Outcome,
    Paced,
    PageRead,
    Started,
    Waiting,
)
from harvester.kraken.pacing import PaceState
from harvester.times import show

LINE_EVERY_S = 30.0
WINDOW = 0.2
"""How much the newest pages weigh in the pace that is shown."""


class Display(Protocol):
    """Takes events, and shows them."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show no more."""

    def tell(self, event: Event) -> None:
        """Show one event."""


def display(*, quiet: bool, log_json: bool, bars: bool = True) -> Display:
    """The display that fits where stderr goes; `bars`: nothing else is printed meanwhile."""
    if quiet:
        return Silent()
    if log_json:
        return _JsonLines()
    if not (bars and output.is_terminal()):
        return _Lines()
    from harvester.cli.bars import Bars

    return Bars()


class PairState:
    """What is known of one pair's crawl, and the time it has left."""

    def __init__(self, expected: int | None) -> None:
        self.expected = expected
        self.trades = self.pages = 0
        self.reached = ""
        self.waiting = self.slowed = ""
        self._begun_s = self._last_s = time.monotonic()
        self.pages_s = 0.0

    def read(self, event: PageRead) -> None:
        """Take in a page."""
        now = time.monotonic()
        if now > self._last_s and event.pages > self.pages:
            pace = (event.pages - self.pages) / (now - self._last_s)
            self.pages_s = (
                pace if not self.pages_s else self.pages_s + WINDOW * (pace - self.pages_s)
            )
        self._last_s = now
        self.trades, self.pages, self.waiting = event.trades, event.pages, ""
        self.reached = show(event.reached_ns // 10**9 * 10**9)

    def paced(self, pace: PaceState) -> None:
        """Take in how fast the pair is asked from now on."""
        self.slowed = f"slowed to {pace.rate:.2g}/s" if pace.slowed else ""

    @property
    def left(self) -> str:
        """From the trades that the pair's own density leads to expect."""
        passed = self._last_s - self._begun_s
        if self.expected is None or not self.trades or passed <= 0:
            return ""
        seconds = max(0, self.expected - self.trades) * passed / self.trades
        hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
        return (
            f"{hours} h {minutes:02d} min left"
            if hours
            else f"{minutes} min {int(seconds % 60):02d} s left"
        )

    def line(self) -> str:
        """Date reached, trades, pages a second, time left, and what is waited for."""
        pace = f"{self.pages_s:.1f} pages/s"
        parts = [self.reached, f"{self.trades:,} trades", pace, self.slowed, self.left]
        return ", ".join(part for part in [*parts, self.waiting] if part)


class Silent:
    """Only what went wrong."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def tell(self, event: Event) -> None:
        """Show what can't be left unsaid."""
        if isinstance(event, Noted):
            output.hint(f"{event.pair}: {event.text}")
        if isinstance(event, Outcome) and event.exit_status:
            output.error(outcome_line(event))


class _Lines(Silent):
    """One line a pair every half minute, and one for what happens once."""

    def __init__(self) -> None:
        self._pairs: dict[str, PairState] = {}
        self._told_s: dict[str, float] = {}
        self._waited: set[str] = set()

    def tell(self, event: Event) -> None:
        match event:
            case Started(pair, missing, expected):
                self._pairs[pair] = PairState(expected)
                self._told_s[pair] = time.monotonic()
                if missing:
                    about = f", about {expected:,} trades" if expected is not None else ""
                    output.hint(f"{pair}: {_spans(missing)} to fetch{about}")
            case PageRead(pair):
                self._waited.discard(pair)
                self._pairs[pair].read(event)
                if time.monotonic() - self._told_s[pair] >= LINE_EVERY_S:
                    self._told_s[pair] = time.monotonic()
                    output.hint(f"{pair}: {self._pairs[pair].line()}")
            case Waiting(pair, reason):
                if pair not in self._waited:
                    self._waited.add(pair)
                    output.hint(f"{pair}: waiting: {reason}")
            case Paced(pair, pace) if pair in self._pairs:
                self._pairs[pair].paced(pace)
            case Noted():
                super().tell(event)
            case Outcome():
                output.hint(outcome_line(event))


class _JsonLines(Silent):
    """One JSON object a line, with stable names."""

    def tell(self, event: Event) -> None:
        fields: dict[str, Any] = {"event": type(event).__name__.lower(), **event._asdict()}
        if isinstance(event, Paced | Outcome):
            fields["pace"] = pace_fields(event.pace)
        if isinstance(event, Outcome):
            fields["error"] = None if event.error is None else str(event.error)
            fields["exit_status"] = event.exit_status
        output.hint(msgspec.json.encode(fields).decode())


def _spans(missing: list[Any]) -> str:
    first = f"{show(missing[0].after)} to {show(missing[0].through)}"
    return first if len(missing) == 1 else f"{len(missing)} ranges, the first {first},"


def pace_fields(pace: PaceState | None) -> dict[str, Any] | None:
    """How a pair was asked, for machines: no limit is null."""
    if pace is None:
        return None
    fields = {name: getattr(pace, name) for name in PaceState.__slots__ if name != "pair"}
    return {name: None if value == math.inf else value for name, value in fields.items()}


def outcome_line(outcome: Outcome) -> str:
    """What a pair's crawl came to, in one line."""
    return str(outcome)
