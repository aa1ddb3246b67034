"""What a person sees of long work: bars on a terminal, a line now and then where there is none."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from harvester.cli import output
from harvester.crawl.events import (
    Committed,
    Event,
    Noted,
    Outcome,
    PageRead,
    Started,
    Waiting,
)
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


def display(*, quiet: bool, log_json: bool) -> Display:
    """The display that fits where stderr goes."""
    if quiet:
        return _Silent()
    if log_json:
        return _JsonLines()
    return _Bars() if output.is_terminal() else _Lines()


class _PairState:
    """What is known of one pair's crawl, and the time it has left."""

    def __init__(self, expected: int | None) -> None:
        self.expected = expected
        self.trades = self.pages = 0
        self.reached = ""
        self.waiting = ""
        self._begun_s = self._last_s = time.monotonic()
        self.pages_s = 0.0

    def read(self, event: PageRead) -> None:
        now = time.monotonic()
        if now > self._last_s and event.pages > self.pages:
            pace = (event.pages - self.pages) / (now - self._last_s)
            self.pages_s = (
                pace if not self.pages_s else self.pages_s + WINDOW * (pace - self.pages_s)
            )
        self._last_s = now
        self.trades, self.pages, self.waiting = event.trades, event.pages, ""
        self.reached = show(event.reached_ns // 10**9 * 10**9)

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
        parts = [self.reached, f"{self.trades:,} trades", f"{self.pages_s:.1f} pages/s", self.left]
        return ", ".join(part for part in [*parts, self.waiting] if part)


class _Silent:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def tell(self, event: Event) -> None:
        if isinstance(event, Noted):
            output.hint(f"{event.pair}: {event.text}")


class _Lines(_Silent):
    """One line a pair every half minute, and one for what happens once."""

    def __init__(self) -> None:
        self._pairs: dict[str, _PairState] = {}
        self._told_s: dict[str, float] = {}
        self._waited: set[str] = set()

    def tell(self, event: Event) -> None:
        match event:
            case Started(pair, missing, expected):
                self._pairs[pair] = _PairState(expected)
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
            case Noted():
                super().tell(event)
            case Outcome():
                output.hint(outcome_line(event))
            case Committed():
                pass


class _Bars(_Silent):
    """A bar a pair, for a terminal."""

    def __init__(self) -> None:
        self._pairs: dict[str, _PairState] = {}
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._progress = Progress(
            TextColumn("[bold]{task.fields[pair]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[line]}"),
            console=Console(stderr=True),
            refresh_per_second=5,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, event: Event) -> None:
        with self._lock:
            match event:
                case Started(pair, _, expected):
                    self._pairs[pair] = _PairState(expected)
                    if pair not in self._tasks:
                        self._tasks[pair] = self._progress.add_task(
                            "", total=expected, pair=pair, line=""
                        )
                case PageRead(pair):
                    self._pairs[pair].read(event)
                    self._show(pair)
                case Waiting(pair, reason) if pair in self._pairs:
                    self._pairs[pair].waiting = f"waiting: {reason}"
                    self._show(pair)
                case Noted(pair, text):
                    self._progress.console.print(f"{pair}: {text}", markup=False, highlight=False)
                case Outcome(pair):
                    if pair in self._tasks:
                        self._progress.remove_task(self._tasks.pop(pair))
                    self._progress.console.print(outcome_line(event), markup=False, highlight=False)
                case _:
                    pass

    def _show(self, pair: str) -> None:
        state = self._pairs[pair]
        total = max(state.expected, state.trades) if state.expected is not None else None
        self._progress.update(
            self._tasks[pair], completed=state.trades, total=total, line=state.line()
        )


class _JsonLines(_Silent):
    """One JSON object a line, with stable names."""

    def tell(self, event: Event) -> None:
        fields: dict[str, Any] = {"event": type(event).__name__.lower(), **event._asdict()}
        if isinstance(event, Outcome):
            fields["error"] = None if event.error is None else str(event.error)
            fields["exit_status"] = event.exit_status
        output.hint(msgspec.json.encode(fields).decode())


def _spans(missing: list[Any]) -> str:
    first = f"{show(missing[0].after)} to {show(missing[0].through)}"
    return first if len(missing) == 1 else f"{len(missing)} ranges, the first {first},"


def outcome_line(outcome: Outcome) -> str:
    """What a pair's crawl came to, in one line."""
    done = f"{outcome.pair}: {outcome.trades:,} trades in {outcome.pages:,} pages"
    if outcome.error is not None:
        return f"{done}; {outcome.error}"
    if outcome.holes:
        return f"{done}; {len(outcome.holes)} holes stay, the first {outcome.holes[0]}"
    reached = (
        f", complete through {show(outcome.reached.through // 10**9 * 10**9)}"
        if outcome.reached
        else ""
    )
    return f"{done}{reached}"
