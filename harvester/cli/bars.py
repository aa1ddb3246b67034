"""Progress on a terminal."""

from __future__ import annotations

import threading
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from harvester.cli.progress import PairState, Silent, outcome_line
from harvester.crawl.events import Event, Noted, Outcome, Paced, PageRead, Started, Waiting


class Bars(Silent):
    """A bar a pair, for a terminal."""

    def __init__(self) -> None:
        self._pairs: dict[str, PairState] = {}
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
        """Show one event."""
        with self._lock:
            match event:
                case Started(pair, _, expected):
                    self._pairs[pair] = PairState(expected)
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
                case Paced(pair, pace) if pair in self._tasks:
                    self._pairs[pair].paced(pace)
                    self._show(pair)
                case Noted(pair, text):
                    self._print(f"{pair}: {text}")
                case Outcome(pair):
                    if pair in self._tasks:
                        self._progress.remove_task(self._tasks.pop(pair))
                    self._print(outcome_line(event))

    def _print(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def _show(self, pair: str) -> None:
        state = self._pairs[pair]
        total = max(state.expected, state.trades) if state.expected is not None else None
        self._progress.update(
            self._tasks[pair], completed=state.trades, total=total, line=state.line()
        )
