"""What surrounds the Archive call of a command: progress, warnings of the exchange, signals."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from harvester.cli import output, process
from harvester.cli.options import CommonOptions
from harvester.cli.progress import Display, display
from harvester.download.events import CancelToken
from harvester.errors import Interrupted

FILES_PER_JOB = 4
"""A connection, a lock, a segment that is written, and one that is read back."""

OTHER_FILES = 200

MAX_WARNINGS = 100
"""This many different warnings of the exchange are printed in one run."""
NO_MORE_WARNINGS = "the exchange warns of more; it is not shown"


class RunContext(NamedTuple):
    """What a command passes to the Archive method that it calls.

    Attributes:
        display: shows progress on stderr.
        cancel: cancelled by Ctrl-C or SIGTERM.
    """

    display: Display
    cancel: CancelToken


@contextmanager
def run_context(common: CommonOptions) -> Iterator[RunContext]:
    """Show progress and warnings of the exchange, and cancel the run on Ctrl-C and SIGTERM."""
    show_warnings(verbose=common.verbose > 0)
    process.allow_files(FILES_PER_JOB * common.settings.exchange.jobs + OTHER_FILES)
    with (
        cancel_on_signals() as cancel,
        display(quiet=common.quiet, log_json=common.log_json) as shown,
    ):
        yield RunContext(shown, cancel)


def shows_estimates(common: CommonOptions) -> bool:
    """Whether progress is a bar, which needs estimates: one more request per pair."""
    return not common.quiet and output.is_terminal()


@contextmanager
def cancel_on_signals() -> Iterator[CancelToken]:
    """Handle Ctrl-C and SIGTERM: the first cancels the token, the second ends the process at once.

    The process then ends without storing what was downloaded since the last commit.
    """
    cancel = CancelToken()
    signals: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) > 1:
            output.hide_live()
            os._exit(Interrupted.exit_status)
        # Printed first: the results of cancelled pairs follow from another thread.
        output.hint("stopping; writing what was downloaded (press again to stop at once)")
        cancel.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ExchangeWarnings(logging.Handler):
    """Prints the exchange's warnings to stderr, each once unless `verbose`.

    Attributes:
        texts: those that were printed, each once.
    """

    def __init__(self, *, verbose: bool) -> None:
        """Nothing was printed yet."""
        super().__init__()
        self._verbose = verbose
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning."""
        text = record.getMessage()
        if text not in self.texts:
            if len(self.texts) > MAX_WARNINGS:
                return
            is_full = len(self.texts) == MAX_WARNINGS
            self.texts.append(NO_MORE_WARNINGS if is_full else text)
            output.hint(self.texts[-1])
        elif self._verbose:
            output.hint(text)


def show_warnings(*, verbose: bool) -> None:
    """Print warnings of the exchange from now on.

    Args:
        verbose: print a warning each time it comes, not only the first time.
    """
    logging.getLogger("harvester").handlers[:] = [ExchangeWarnings(verbose=verbose)]


def warnings_shown() -> list[str]:
    """The warnings of the exchange that were printed since `show_warnings`, each once."""
    handlers = logging.getLogger("harvester").handlers
    return [
        text
        for handler in handlers
        if isinstance(handler, ExchangeWarnings)
        for text in handler.texts
    ]
