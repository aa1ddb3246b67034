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
from harvester.cli.progress_text import ASCII, UNICODE, Clock, RunTrack, log_line, overall, picture
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

# --- progress -------------------------------------------------------------------------------------

LINE_EVERY_S = 30.0
PAGE_EVERY_S = 1.0
"""As JSON a pair's pages are told no more often."""

MOST_ALONE = 8
"""So many pairs have lines of their own in a log."""

LINE_WIDTH = 100


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

    def aside(self) -> AbstractContextManager[object]:
        """While this lasts nothing is drawn, so that others can print."""


def display(*, quiet: bool, log_json: bool) -> Display:
    """The display that fits where stderr goes."""
    if quiet:
        return Silent()
    if log_json:
        return JsonLines()
    if not output.is_terminal():
        return Lines()

    return Bars()


class Silent:
    """Only what went wrong."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def aside(self) -> AbstractContextManager[object]:
        """Nothing is drawn anyway."""
        return nullcontext()

    def tell(self, event: Event) -> None:
        """Show what can't be left unsaid."""
        if isinstance(event, Noted):
            output.hint(f"{event.pair}: {event.text}")
        if isinstance(event, BackfillResult) and event.exit_status:
            output.error(outcome_line(event))
        if isinstance(event, Imported) and event.exit_status:
            output.error(f"{event.pair}: {event.report['error']}")


class Lines(Silent):
    """A line now and then: what happens once, and every half minute how far it is.

    Of a few pairs each has its line; for many there is one for all.
    """

    def __init__(self, run: RunTrack | None = None, clock: Clock = time.monotonic) -> None:
        """A clock may be handed in."""
        self._run = run or RunTrack(clock)
        self._clock = clock
        self._told_s = clock()
        self._waited: set[str] = set()
        self._lock = threading.Lock()

    def tell(self, event: Event) -> None:
        """Show one event, from any thread."""
        with self._lock:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        self._run.take(event)
        match event:
            case Started(pair, missing, expected):
                if missing and not self._many:
                    about = f", about {expected:,} trades" if expected is not None else ""
                    output.hint(f"{pair}: {_spans(missing)} to fetch{about}")
            case PageRead(pair):
                self._waited.discard(pair)
            case Waiting(pair, reason):
                if pair not in self._waited and not self._many:
                    self._waited.add(pair)
                    output.hint(f"{pair}: waiting: {reason}")
            case Noted():
                super().tell(event)
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
        return max(self._run.pairs or 0, len(self._run.running)) > MOST_ALONE

    def _tick(self) -> None:
        if self._clock() - self._told_s < LINE_EVERY_S:
            return
        self._told_s = self._clock()
        if self._many:
            output.hint(overall(self._run, LINE_WIDTH, UNICODE))
            return
        for one in self._run.running.values():
            output.hint(log_line(one))


class JsonLines(Silent):
    """One JSON object a line, with stable names; see docs/status.md."""

    def __init__(
        self, clock: Clock = time.monotonic, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """Clocks may be handed in."""
        self._run = RunTrack(clock)
        self._clock = clock
        self._now_ns = now_ns
        self._told_s = clock()
        self._paged_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def tell(self, event: Event) -> None:
        """Show one event, from any thread."""
        with self._lock:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        # As it ends a pair, it is forgotten; so what was known of it is asked for first.
        self._run.take(event)
        fields: dict[str, Any] = event._asdict()
        if isinstance(event, Paced | BackfillResult):
            fields["pace"] = pace_fields(event.pace)
        if isinstance(event, Imported):
            fields = event.report
        if isinstance(event, PageRead | Step) and not self._is_due(event):
            return
        if isinstance(event, PageRead):
            one = self._run.running.get(event.pair)
            if one is None:
                return
            fields |= {"pages_s": round(one.pages_s, 3), "left_s": _whole(one.left_s)}
        if isinstance(event, BackfillResult):
            fields["error"] = None if event.error is None else str(event.error)
            fields["upgrade"] = None if event.upgrade is None else event.upgrade.plain()
            fields["exit_status"] = event.exit_status
        self._say(type(event).__name__.lower(), fields)
        if self._clock() - self._told_s >= LINE_EVERY_S:
            self._told_s = self._clock()
            self._say("overall", self._overall())

    def _is_due(self, event: PageRead | Step) -> bool:
        """Whether to tell how far a pair is; that a step is the last one always is told."""
        is_last = isinstance(event, Step) and event.done >= event.of
        before_s = self._paged_s.get(event.pair, -PAGE_EVERY_S)
        if self._clock() - before_s < PAGE_EVERY_S and not is_last:
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

    def _say(self, event: str, fields: dict[str, Any]) -> None:
        now = show(self._now_ns() // 10**6 * 10**6)
        output.log_json({"event": event, "time": now, **fields})


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)


def _spans(missing: list[Any]) -> str:
    first = str(missing[0])
    return first if len(missing) == 1 else f"{len(missing)} ranges, the first {first},"


def pace_fields(pace: PaceState | None) -> dict[str, Any] | None:
    """How a pair was asked, for machines: no limit is null."""
    if pace is None:
        return None
    fields = {name: getattr(pace, name) for name in PaceState.__slots__ if name != "pair"}
    return {name: None if value == math.inf else value for name, value in fields.items()}


def outcome_line(outcome: BackfillResult) -> str:
    """What a pair's crawl came to, in one line."""
    return str(outcome)


# --- bars -----------------------------------------------------------------------------------------

REFRESHES_A_SECOND = 4
MOST_LINES = 16


class Bars(Silent):
    """A line a pair and one for all, for a terminal; what happens once scrolls by above."""

    def __init__(self, run: RunTrack | None = None, console: Console | None = None) -> None:
        """Nothing is drawn before it is entered; a clock and a terminal may be handed in."""
        self._run = run or RunTrack()
        self._signs = UNICODE if output.speaks_unicode() else ASCII
        # A signal's handler may print while its own thread holds the lock.
        self._lock = threading.RLock()
        self._console = console or Console(stderr=True)
        self._live = Live(
            self,
            console=self._console,
            refresh_per_second=REFRESHES_A_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=True,
            vertical_overflow="crop",
        )

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """The lines for a terminal as wide and high as it is at this moment."""
        height = min(options.size.height, MOST_LINES)
        with self._lock:
            # Three columns are left free: a full line would wrap on some terminals, and so would
            # the ^C that a terminal puts behind it; then lines stay behind when all is redrawn.
            lines = picture(self._run, options.size.width - 3, height, self._signs)
        if lines:
            yield Text("\n".join(map(output.line, lines)), no_wrap=True, overflow="crop")

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        output.show_live(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Draw no more, and leave nothing behind."""
        output.hide_live()

    def stop(self) -> None:
        """Draw no more."""
        self._live.stop()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the lines away, and draw them again behind what was printed meanwhile."""
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def tell(self, event: Event) -> None:
        """Show one event."""
        with self._lock:
            self._run.take(event)
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
        """Print above the lines, long ones broken between words."""
        shown = output.wrapped(text, self._console.width)
        self._console.print(shown, markup=False, highlight=False, soft_wrap=True)
