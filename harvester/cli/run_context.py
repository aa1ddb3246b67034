"""Around a long command: progress, warnings of the exchange, Ctrl-C, limit of open files."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NamedTuple

from harvester.cli import output
from harvester.cli.options import CommonOptions
from harvester.cli.output import show_warnings
from harvester.cli.progress_lines import display
from harvester.download.events import CancelToken, Listener
from harvester.errors import Interrupted

FILES_PER_JOB = 4
"""A connection, a lock, a segment that is written, and one that is read back."""

OTHER_FILES = 200


class RunContext(NamedTuple):
    """What a command passes to the Archive method that it calls.

    Attributes:
        show: shows an event of the run on stderr.
        cancel: cancelled by Ctrl-C or SIGTERM.
    """

    show: Listener
    cancel: CancelToken


@contextmanager
def run_context(common: CommonOptions, *, repairs_only: bool = False) -> Iterator[RunContext]:
    """Show progress and warnings of the exchange, and cancel the run on Ctrl-C and SIGTERM.

    Args:
        common: how much is printed.
        repairs_only: as for `cancel_on_signals`.
    """
    show_warnings(verbose=common.verbose > 0)
    allow_files(FILES_PER_JOB * common.settings.exchange.jobs + OTHER_FILES)
    with (
        cancel_on_signals(repairs_only=repairs_only) as cancel,
        display(quiet=common.quiet, log_json=common.log_json) as show,
    ):
        yield RunContext(show, cancel)


def allow_files(count: int) -> None:
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


def shows_estimates(common: CommonOptions) -> bool:
    """Whether progress is a bar, which needs estimates: one more request per pair."""
    return not common.quiet and output.is_terminal()


@contextmanager
def cancel_on_signals(*, repairs_only: bool = False) -> Iterator[CancelToken]:
    """Handle Ctrl-C and SIGTERM: the first cancels the token, the second ends the process at once.

    The process then ends without storing what was downloaded since the last commit.

    Args:
        repairs_only: while no work runs that the token can end, signals have their usual effect.
    """
    cancel = CancelToken()
    signals: list[int] = []
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: FrameType | None) -> None:
        if repairs_only and not (signals or cancel.is_running):
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
