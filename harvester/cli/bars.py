"""Progress on a terminal, redrawn in its place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from harvester.cli import output
from harvester.cli.lines import ASCII, UNICODE, picture
from harvester.cli.progress import Silent, outcome_line
from harvester.cli.tracking import RunTrack
from harvester.download.events import Event, Imported, Noted, Outcome

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
            case Outcome():
                self.say(output.line(outcome_line(event)))
            case Imported():
                self.say("\n".join(map(output.line, event.lines)))
            case _:
                pass

    def say(self, text: str) -> None:
        """Print above the lines, long ones broken between words."""
        shown = output.wrapped(text, self._console.width)
        self._console.print(shown, markup=False, highlight=False, soft_wrap=True)
