"""From a typed wish to a crawl: names resolved, signals heeded, progress shown."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from harvester.cli import output, process
from harvester.cli.options import Common
from harvester.cli.progress import Display, display
from harvester.download.backfill import backfill
from harvester.download.events import BackfillResult, Begun, CancelToken, Noted, Paced, Waiting
from harvester.download.pair import PairDownload
from harvester.download.pair_selection import PairSelection, choose
from harvester.download.request import BackfillRequest, RunOptions
from harvester.errors import Interrupted
from harvester.kraken.client import Client
from harvester.kraken.rate_limit import PaceState
from harvester.operations.run_log import RunRecorder, record_run
from harvester.storage.trade_store import TradeStore
from harvester.times import Range, parse_moment, range_between

FILES_A_JOB = 4
"""A connection, a lock, a segment that is written, one that is read back."""

FILES_BESIDE = 200

MOST_WARNINGS = 100
"""So many different warnings of the exchange are shown in one run."""
NO_MORE_WARNINGS = "the exchange warns of more; it is not shown"


class Request(NamedTuple):
    """What was typed."""

    choice: PairSelection
    since: str
    until: str | None
    newest_first: bool = False
    upgrade: bool = False

    def span(self) -> Range:
        """The range that is meant."""
        now = time.time_ns()
        until = None if self.until is None else parse_moment(self.until, now)
        return range_between(parse_moment(self.since, now), until)

    def asked(self) -> dict[str, Any]:
        """The same for a run's record."""
        choice = self.choice
        return {
            "pairs": [name.text for name in choice.names] or (["*"] if choice.everything else []),
            "quotes": list(choice.quotes),
            "since": self.since,
            "until": self.until,
            "newest_first": self.newest_first,
            "upgrade": self.upgrade,
        }


def run(request: Request, common: Common) -> list[BackfillResult]:
    """Backfill what was typed, on the terminal."""
    wanted = request.span()
    archive = TradeStore(common.settings.archive.path)
    show_warnings(verbose=common.verbose > 0)
    process.allow_files(FILES_A_JOB * common.settings.exchange.jobs + FILES_BESIDE)
    with (
        record_run(archive, "backfill", request.asked(), common.settings, output.hint) as record,
        display(quiet=common.quiet, log_json=common.log_json) as shown,
    ):
        outcomes = asyncio.run(_run(request, wanted, archive, common, (shown, record)))
        record.set_results(outcomes)
        return outcomes


async def _run(
    request: Request,
    wanted: Range,
    archive: TradeStore,
    common: Common,
    seen: tuple[Display, RunRecorder],
) -> list[BackfillResult]:
    shown, record = seen
    stop = CancelToken()
    heed_signals(stop)
    settings = common.settings

    def waiting(what: str, why: str) -> None:
        shown.tell(Waiting(what, why))

    def paced(state: PaceState) -> None:
        shown.tell(Paced(state.pair, state))
        if common.verbose and not common.log_json:
            shown.tell(Noted(state.pair, str(state)))

    async with Client(settings.exchange, on_wait=waiting, on_pace=paced) as client:
        pairs = await stop.guard(choose(client, archive, request.choice))
        watch = RunOptions(
            shown.tell,
            stop,
            newest_first=request.newest_first,
            estimates=not common.quiet and output.is_terminal(),
            after_pair=_upgrade() if request.upgrade else None,
        )
        wishes = [BackfillRequest(pair, wanted) for pair in pairs]
        shown.tell(Begun(len(wishes)))
        try:
            return await backfill(client, archive, wishes, settings, watch)
        finally:
            record.set_calls(client.calls, client.refusals)


def _upgrade() -> Callable[[PairDownload], Awaitable[None]]:
    """What a pair's crawl is followed by; loaded where it is wanted, which is seldom."""
    from harvester.csv_import.redownload import upgrade

    return upgrade


def heed_signals(stop: CancelToken) -> None:
    """The first Ctrl-C or SIGTERM keeps what was fetched; the second ends at once."""
    seen: list[int] = []

    def heed(number: int) -> None:
        seen.append(number)
        if len(seen) > 1:
            output.hide_live()
            os._exit(Interrupted.exit_status)
        output.hint("stopping; what was fetched is being written (again to stop at once)")
        stop.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heed, number)


class Warnings(logging.Handler):
    """The exchange's warnings go to stderr, once each unless more is asked for.

    Attributes:
        notes: those that were shown, each once.
    """

    def __init__(self, *, verbose: bool) -> None:
        """Nothing was shown yet."""
        super().__init__()
        self._verbose = verbose
        self.notes: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Show a warning."""
        text = record.getMessage()
        if text not in self.notes:
            if len(self.notes) > MOST_WARNINGS:
                return
            full = len(self.notes) == MOST_WARNINGS
            self.notes.append(NO_MORE_WARNINGS if full else text)
            output.hint(self.notes[-1])
        elif self._verbose:
            output.hint(text)


def show_warnings(*, verbose: bool) -> Warnings:
    """From now on, what the exchange warns of is shown."""
    warnings = Warnings(verbose=verbose)
    logging.getLogger("harvester").handlers[:] = [warnings]
    return warnings


def warnings_shown() -> list[str]:
    """What the exchange has warned of since `show_warnings`, each once."""
    handlers = logging.getLogger("harvester").handlers
    return [text for handler in handlers if isinstance(handler, Warnings) for text in handler.notes]
