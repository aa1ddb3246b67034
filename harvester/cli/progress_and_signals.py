"""What surrounds a long command: progress as bars, log or JSON lines; Ctrl-C; open files."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NamedTuple

from harvester import events
from harvester.cli import output
from harvester.cli.options import CommonOptions
from harvester.cli.output import show_warnings
from harvester.errors import Interrupted
from harvester.events import CancelToken, Listener
from harvester.progress import Clock, RunProgress, messages
from harvester.times import show

FILES_PER_JOB = 4
"""A connection, a lock, a segment that is written, and one that is read back."""

OTHER_FILES = 200


class RunContext(NamedTuple):
    """What a command passes to the Archive method that it calls.

    Attributes:
        show: shows an event of the run on stderr.
        cancel: cancelled by Ctrl-C or SIGTERM.
        has_bars: whether progress is a bar, which needs estimates: one more request per pair.
    """

    show: Listener
    cancel: CancelToken
    has_bars: bool


@contextmanager
def run_context(common: CommonOptions, *, only_while_running: bool = False) -> Iterator[RunContext]:
    """Show progress and warnings of the exchange, and cancel the run on Ctrl-C and SIGTERM.

    Args:
        common: how much is printed.
        only_while_running: as for `cancel_on_signals`.
    """
    show_warnings(verbose=common.verbose > 0)
    raise_open_file_limit(FILES_PER_JOB * common.settings.exchange.jobs + OTHER_FILES)
    with (
        cancel_on_signals(only_while_running=only_while_running) as cancel,
        display(quiet=common.quiet, log_json=common.log_json) as show,
    ):
        has_bars = not (common.quiet or common.log_json) and output.is_terminal()
        yield RunContext(show, cancel, has_bars)


def raise_open_file_limit(count: int) -> None:
    """Raise this process's limit of open files to `count`, as far as the system permits.

    Systems start a process with a limit of 256 or 1024 that it may raise itself; hundreds of
    connections and locks need more.
    """
    try:
        import resource  # not on Windows
    except ImportError:  # pragma: no cover - Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def cancel_on_signals(*, only_while_running: bool = False) -> Iterator[CancelToken]:
    """Handle Ctrl-C and SIGTERM: the first cancels the token, the second ends the process at once.

    The process then ends without storing what was downloaded since the last commit.

    Args:
        only_while_running: signals keep their usual effect unless cancellable work is running.
    """
    cancel = CancelToken()
    signals: list[int] = []
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: FrameType | None) -> None:
        if only_while_running and not (signals or cancel.is_running):
            signal.signal(number, before[number])
            signal.raise_signal(number)
            return
        signals.append(number)
        if len(signals) > 1:
            output.hide_live()
            os._exit(Interrupted.exit_status)
        # Printed first: the results of cancelled pairs follow from another thread.
        output.hint("stopping; storing what is complete (press again to stop at once)")
        cancel.cancel()

    for number in before:
        signal.signal(number, handle)
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- lines of progress ----------------------------------------------------------------------------

LINE_INTERVAL_S = 30.0
MAX_PAIRS_WITH_LINES = 8
"""Up to this many pairs have lines of their own in a log."""

PAGE_INTERVAL_S = 1.0
"""JSON lines show the progress of a pair at most this often."""


@contextmanager
def display(*, quiet: bool, log_json: bool) -> Iterator[events.Listener]:
    """Show the events of a run while the context is open.

    Args:
        quiet: print notes and errors only.
        log_json: print JSON lines.

    Yields:
        The function that shows an event, from any thread.
    """
    if quiet:
        yield show_errors
    elif log_json:
        yield JsonLines().show
    elif not output.is_terminal():
        yield LogLines(output.hint).show
    else:
        from harvester.progress_bars import Bars  # imports rich

        bars = Bars(say=output.hint)
        with output.live(bars):
            yield bars.show


def show_errors(event: events.Event) -> None:
    """Print notes and errors."""
    if isinstance(event, events.Noted):
        output.hint(str(event))
    if isinstance(event, events.BackfillResult) and event.exit_status:
        output.error(str(event))
    if isinstance(event, events.Imported) and event.exit_status:
        output.error(f"{event.pair}: {event.report['error'] or event.report['summary']}")


class LogLines:
    """Lines of a log: events that happen once, and every half minute how far each pair is.

    Many pairs share one line.
    """

    def __init__(self, say: Callable[[str], None], clock: Clock = time.monotonic) -> None:
        """`say` prints a line. Tests pass their own clock."""
        self._say = say
        self._run = RunProgress(clock)
        self._clock = clock
        self._printed_s = clock()
        self._announced_waits: set[str] = set()
        self._lock = threading.RLock()

    def show(self, event: events.Event) -> None:
        """Print one event, from any thread."""
        with self._lock:
            run = self._run
            run.add(event)
            has_many = max(run.pairs or 0, len(run.running)) > MAX_PAIRS_WITH_LINES
            lines = messages(event)
            match event:
                case events.Replaced():
                    lines.append(str(event))
                case events.Started(_, missing) if missing and not has_many:
                    lines.append(str(event))
                case events.PageRead(pair):
                    self._announced_waits.discard(pair)
                case events.Waiting(pair) if pair not in self._announced_waits and not has_many:
                    self._announced_waits.add(pair)
                    lines.append(str(event))
                case _:
                    pass
            if self._clock() - self._printed_s >= LINE_INTERVAL_S:
                self._printed_s = self._clock()
                pairs = [f"{pair.pair}: {', '.join(pair.parts)}" for pair in run.running.values()]
                lines += [str(run)] if has_many else pairs or list(filter(None, [run.status]))
            for line in lines:
                self._say(line)


class JsonLines:
    """One JSON object per line, with stable names; see docs/status.md."""

    def __init__(
        self, clock: Clock = time.monotonic, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._run = RunProgress(clock)
        self._clock = clock
        self._now_ns = now_ns
        self._printed_s = clock()
        self._paged_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def show(self, event: events.Event) -> None:
        """Print one event, from any thread."""
        with self._lock:
            self._run.add(event)
            fields = self._fields(event)
            if fields is not None:
                is_result = isinstance(event, events.BackfillResult)
                self._print("result" if is_result else type(event).__name__.lower(), fields)
            # Pairs that are followed never end, and have an event of their own.
            has_end = self._run.pairs is not None or self._run.running
            if self._clock() - self._printed_s >= LINE_INTERVAL_S and has_end:
                self._printed_s = self._clock()
                self._print("overall", self._overall())

    def _fields(self, event: events.Event) -> dict[str, Any] | None:
        """The fields of an event; None if it is not printed."""
        fields: dict[str, Any] = event._asdict()
        if isinstance(event, events.Paced):
            fields["pace"] = event.pace.to_dict()
        if isinstance(event, events.Imported):
            return event.report
        if isinstance(event, events.PageRead | events.Step) and not self._is_due(event):
            return None
        if isinstance(event, events.Followed):
            return followed_fields(event)
        if isinstance(event, events.PageRead):
            pair_progress = self._run.running.get(event.pair)
            if pair_progress is None:
                return None
            fields["pages_s"] = round(pair_progress.pages_s, 3)
            fields["left_s"] = _whole(pair_progress.left_s)
        if isinstance(event, events.BackfillResult):
            fields |= event.to_dict()
        return fields

    def _is_due(self, event: events.PageRead | events.Step) -> bool:
        """Whether to print how far a pair is: once a second, and always for the last step."""
        is_last = isinstance(event, events.Step) and event.done >= event.of
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


def followed_fields(event: events.Followed) -> dict[str, Any]:
    """How far a followed pair is, for JSON."""
    fields = event._asdict()
    del fields["summary"]
    return fields
