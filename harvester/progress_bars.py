"""Progress bars on a terminal and in a notebook, drawn by rich from what `progress` computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from harvester import events
from harvester.errors import printable, without_credentials, wrapped
from harvester.progress import (
    PairProgress,
    RunProgress,
    is_utf8_locale,
    messages,
)

MAX_LINES = 16
FREE_COLUMNS = 3
"""A full line would wrap on some terminals, and so would the ^C that a terminal prints after it;
wrapped lines would stay after redrawing."""

LEAST_BAR_WIDTH = 50
"""Lines of at least this many characters have a bar."""

REDRAW_S = 0.25


class AsciiConsole(Console):
    """A terminal that shows no more than ASCII, whatever encoding Python has chosen."""

    @property
    def encoding(self) -> str:
        """What rich asks before it draws a bar."""
        return "ascii"


def _printable(text: str) -> str:
    return printable(without_credentials(text))


class Bars(Progress):
    """A bar per pair and one line for all, below messages, on a terminal or in a notebook.

    Of many pairs, the busiest are shown.
    """

    def __init__(
        self,
        run: RunProgress | None = None,
        console: Console | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Draw nothing before it is entered.

        Args:
            run: what is shown; tests pass their own.
            console: where; stderr unless given.
            say: prints messages; unless given, they are printed above the bars.
        """
        self._run = run or RunProgress()
        self._say = say or (lambda text: self.say(_printable(text)))
        self._cell: Any = None
        self._drawn_s = 0.0
        is_unicode = is_utf8_locale()
        self._console = console or (Console if is_unicode else AsciiConsole)(stderr=True)
        self._last = Column(ratio=1, no_wrap=True, overflow="ellipsis" if is_unicode else "crop")
        super().__init__(
            console=self._console,
            refresh_per_second=1 / REDRAW_S,
            transient=True,
            redirect_stdout=False,
            expand=True,
        )

    def get_renderables(self) -> Iterator[RenderableType]:
        """The lines that fit the present width and height of the terminal."""
        width = self._console.width - FREE_COLUMNS
        self.columns = (
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            *([BarColumn(12)] if width >= LEAST_BAR_WIDTH else []),
            TextColumn("{task.fields[percent]:>4}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[text]}", markup=False, table_column=self._last),
        )
        with self._lock:
            run = self._run
            shown = run.busiest(max(1, min(self._console.height, MAX_LINES) - 4))
            tasks = [self._task(pair) for pair in shown]
            more = len(run.running) - len(shown)
            lines = [f"and {more:,} more" if more else "", run.status]
            if (run.pairs or 0) > 1 or len(run.running) > 1 or self._cell is not None:
                lines.append(str(run))
        if tasks:
            yield Constrain(self.make_tasks_table(tasks), width)
        for line in filter(None, lines):
            yield Constrain(
                Text(_printable(line), no_wrap=True, overflow=self._last.overflow), width
            )

    def _task(self, pair: PairProgress) -> Task:
        fraction = pair.fraction
        percent = "" if fraction is None else f"{int(100 * fraction)}%"
        total = None if fraction is None else 1.0
        fields = {"percent": percent, "text": _printable(", ".join(reversed(pair.parts)))}
        task = Task(TaskID(0), pair.pair, total, fraction or 0.0, time.monotonic, fields=fields)
        task.start_time = 0.0
        return task

    def start(self) -> None:
        """Start drawing."""
        if self.console.is_jupyter:
            ipython: Any = import_module("IPython.display")
            self._cell = ipython.display(self, display_id=True)
        else:
            super().start()

    def stop(self) -> None:
        """Stop drawing: erase the bars of a terminal; in a notebook, the last state stays."""
        if self._cell is not None:
            self._cell.update(self)
        else:
            self.live.stop()

    def show(self, event: events.Event) -> None:
        """Show one event, from any thread."""
        with self._lock:
            self._run.add(event)
        for text in messages(event):
            self._say(text)
        if self._cell is not None and time.monotonic() - self._drawn_s >= REDRAW_S:
            self._drawn_s = time.monotonic()
            self._cell.update(self)

    def say(self, text: str) -> None:
        """Print text above the bars, wrapped between words."""
        shown = wrapped(text, self.console.width)
        self.console.print(shown, markup=False, emoji=False, highlight=False, soft_wrap=True)
