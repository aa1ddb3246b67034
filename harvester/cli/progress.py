"""Show progress: bars on a terminal, lines in a log, JSON lines."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from harvester.cli import output
from harvester.cli.progress_text import (
    ASCII,
    UNICODE,
    Clock,
    RunProgress,
    log_line,
    overall,
    progress_lines,
)
from harvester.download.events import (
    BackfillResult,
    Event,
    Imported,
    Noted,
    Paced,
    PageRead,
    Replaced,
    Started,
    Step,
    Waiting,
)
from harvester.kraken.rate_limit import PaceState
from harvester.times import show

LINE_INTERVAL_S = 30.0
PAGE_INTERVAL_S = 1.0
"""JSON lines show the progress of a pair at most this often."""

MAX_PAIRS_WITH_LINES = 8
"""Up to this many pairs have lines of their own in a log."""

LINE_WIDTH = 100


class Display(Protocol):
    """Shows the events of a run."""

    def __enter__(self) -> Self:
        """Start the display."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the display."""

    def show(self, event: Event) -> None:
        """Show one event."""

    def paused(self) -> AbstractContextManager[object]:
        """A context in which nothing is drawn, so that others can print."""


def display(*, quiet: bool, log_json: bool) -> Display:
    """The display for these options, and for a terminal or a log."""
    if quiet:
        return Silent()
    if log_json:
        return JsonLines()
    if not output.is_terminal():
        return Lines()

    return Bars()


class Silent:
    """Only notes and errors; the base of all displays."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def paused(self) -> AbstractContextManager[object]:
        """A context that changes nothing, as nothing is drawn."""
        return nullcontext()

    def show(self, event: Event) -> None:
        """Print notes and errors."""
        if isinstance(event, Noted):
            output.hint(f"{event.pair}: {event.text}")
        if isinstance(event, BackfillResult) and event.exit_status:
            output.error(outcome_line(event))
        if isinstance(event, Imported) and event.exit_status:
            output.error(f"{event.pair}: {event.report['error']}")


class Lines(Silent):
    """Lines in a log: events that happen once, and every half minute how far each pair is.

    Many pairs share one line.
    """

    def __init__(self, run: RunProgress | None = None, clock: Clock = time.monotonic) -> None:
        """Tests pass their own clock."""
        self._run = run or RunProgress(clock)
        self._clock = clock
        self._printed_s = clock()
        self._announced_waits: set[str] = set()
        self._lock = threading.Lock()

    def show(self, event: Event) -> None:
        """Print one event, from any thread."""
        with self._lock:
            self._show(event)

    def _show(self, event: Event) -> None:
        self._run.add(event)
        match event:
            case Started(pair, missing, expected):
                if missing and not self._many:
                    about = f", about {expected:,} trades" if expected is not None else ""
                    output.hint(f"{pair}: {_spans(missing)} to fetch{about}")
            case PageRead(pair):
                self._announced_waits.discard(pair)
            case Waiting(pair, reason):
                if pair not in self._announced_waits and not self._many:
                    self._announced_waits.add(pair)
                    output.hint(f"{pair}: waiting: {reason}")
            case Noted():
                super().show(event)
            case Imported():
                for line in event.lines:
                    output.hint(line)
            case Replaced() | BackfillResult():
                output.hint(str(event))
            case _:
                pass
        self._tick()

    @property
    def _many(self) -> bool:
        return max(self._run.pairs or 0, len(self._run.running)) > MAX_PAIRS_WITH_LINES

    def _tick(self) -> None:
        if self._clock() - self._printed_s < LINE_INTERVAL_S:
            return
        self._printed_s = self._clock()
        if self._many:
            output.hint(overall(self._run, LINE_WIDTH, UNICODE))
            return
        for pair_progress in self._run.running.values():
            output.hint(log_line(pair_progress))


class JsonLines(Silent):
    """One JSON object per line, with stable names; see docs/status.md."""

    def __init__(
        self, clock: Clock = time.monotonic, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """Tests pass their own clocks."""
        self._run = RunProgress(clock)
        self._clock = clock
        self._now_ns = now_ns
        self._printed_s = clock()
        self._paged_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def show(self, event: Event) -> None:
        """Print one event, from any thread."""
        with self._lock:
            self._show(event)

    def _show(self, event: Event) -> None:
        self._run.add(event)
        fields: dict[str, Any] = event._asdict()
        if isinstance(event, Paced | BackfillResult):
            fields["pace"] = pace_fields(event.pace)
        if isinstance(event, Imported):
            fields = event.report
        if isinstance(event, PageRead | Step) and not self._is_due(event):
            return
        if isinstance(event, PageRead):
            pair_progress = self._run.running.get(event.pair)
            if pair_progress is None:
                return
            fields |= {
                "pages_s": round(pair_progress.pages_s, 3),
                "left_s": _whole(pair_progress.left_s),
            }
        if isinstance(event, BackfillResult):
            fields["error"] = None if event.error is None else str(event.error)
            fields["replacement"] = None if event.replacement is None else event.replacement.plain()
            fields["exit_status"] = event.exit_status
        is_result = isinstance(event, BackfillResult)
        self._print("result" if is_result else type(event).__name__.lower(), fields)
        if self._clock() - self._printed_s >= LINE_INTERVAL_S:
            self._printed_s = self._clock()
            self._print("overall", self._overall())

    def _is_due(self, event: PageRead | Step) -> bool:
        """Whether to print how far a pair is: once a second, and always for the last step."""
        is_last = isinstance(event, Step) and event.done >= event.of
        before_s = self._paged_s.get(event.pair, -PAGE_INTERVAL_S)
        if self._clock() - before_s < PAGE_INTERVAL_S and not is_last:
            return False
        self._paged_s[event.pair] = self._clock()
        return True

    def _overall(self) -> dict[str, Any]:
        run = self._run
        return {
            "pairs": run.pairs,
            "running": len(run.running),
            "done": run.done,
            "failed": run.failed,
            "trades": run.trades,
            "pages_s": round(run.pages_s, 3),
            "left_s": _whole(run.left_s),
        }

    def _print(self, event: str, fields: dict[str, Any]) -> None:
        now = show(self._now_ns() // 10**6 * 10**6)
        output.log_json({"event": event, "time": now, **fields})


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)


def _spans(missing: list[Any]) -> str:
    first = str(missing[0])
    return first if len(missing) == 1 else f"{len(missing)} ranges, the first {first},"


def pace_fields(pace: PaceState | None) -> dict[str, Any] | None:
    """The request rate of a pair for JSON; no limit is null."""
    if pace is None:
        return None
    fields = {name: getattr(pace, name) for name in PaceState.__slots__ if name != "pair"}
    return {name: None if value == math.inf else value for name, value in fields.items()}


def outcome_line(outcome: BackfillResult) -> str:
    """The result of a pair in one line."""
    return str(outcome)


# Bars

REFRESHES_PER_SECOND = 4
MAX_LINES = 16


class Bars(Silent):
    """A terminal display: one bar per pair and one line for all; events scroll by above them."""

    def __init__(self, run: RunProgress | None = None, console: Console | None = None) -> None:
        """Draws nothing before it is entered. Tests pass their own progress and console."""
        self._run = run or RunProgress()
        self._symbols = UNICODE if output.speaks_unicode() else ASCII
        # A signal's handler may print while its own thread holds the lock.
        self._lock = threading.RLock()
        self._console = console or Console(stderr=True)
        self._live = Live(
            self,
            console=self._console,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=True,
            vertical_overflow="crop",
        )

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """The lines for the present width and height of the terminal."""
        height = min(options.size.height, MAX_LINES)
        with self._lock:
            # Three columns stay free: a full line would wrap on some terminals, and so would the ^C
            # that a terminal prints behind it; wrapped lines would stay after redrawing.
            lines = progress_lines(self._run, options.size.width - 3, height, self._symbols)
        if lines:
            yield Text("\n".join(map(output.line, lines)), no_wrap=True, overflow="crop")

    def __enter__(self) -> Self:
        """Start drawing."""
        self._live.start()
        output.show_live(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing and erase the lines."""
        output.hide_live()

    def stop(self) -> None:
        """Stop drawing."""
        self._live.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context without the lines; afterwards they are drawn below what was printed."""
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def show(self, event: Event) -> None:
        """Show one event."""
        with self._lock:
            self._run.add(event)
        match event:
            case Noted(pair, text):
                self.say(output.line(f"{pair}: {text}"))
            case BackfillResult():
                self.say(output.line(outcome_line(event)))
            case Imported():
                self.say("\n".join(map(output.line, event.lines)))
            case _:
                pass

    def say(self, text: str) -> None:
        """Print text above the lines, wrapped between words."""
        shown = output.wrapped(text, self._console.width)
        self._console.print(shown, markup=False, emoji=False, highlight=False, soft_wrap=True)
