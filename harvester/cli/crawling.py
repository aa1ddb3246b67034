"""From a typed wish to a crawl: names resolved, signals heeded, progress shown."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Sequence
from typing import NamedTuple

from harvester.archive.archive import Archive
from harvester.cli import output
from harvester.cli.options import Common
from harvester.cli.progress import Display, display
from harvester.config import Settings
from harvester.crawl.backfill import Clock, Watch, Wish, backfill
from harvester.crawl.estimate import Estimate
from harvester.crawl.events import Outcome, Waiting
from harvester.crawl.names import resolve_with
from harvester.crawl.stop import Stop
from harvester.errors import ExchangeError, Interrupted
from harvester.kraken.client import Client
from harvester.kraken.pages import PAGE_ROWS
from harvester.times import Range, missing, parse_moment, span

BYTES_A_TRADE = 11


class Request(NamedTuple):
    """What was typed."""

    pairs: Sequence[str]
    since: str
    until: str | None
    newest_first: bool = False

    def span(self) -> Range:
        """The range that is meant."""
        now = time.time_ns()
        until = None if self.until is None else parse_moment(self.until, now)
        return span(parse_moment(self.since, now), until)


class DryRun(NamedTuple):
    """What a backfill would ask for; None where the exchange gave no counts."""

    pair: str
    ranges: int
    trades: int | None
    calls: int | None
    hours: float | None
    bytes: int | None


def run(request: Request, common: Common) -> list[Outcome]:
    """Backfill what was typed, on the terminal."""
    wanted = request.span()
    archive = Archive(common.settings.archive.path)
    show_warnings(verbose=common.verbose > 0)
    with display(quiet=common.quiet, log_json=common.log_json) as shown:
        return asyncio.run(_run(request, wanted, archive, common, shown))


async def _run(
    request: Request, wanted: Range, archive: Archive, common: Common, shown: Display
) -> list[Outcome]:
    stop = Stop()
    heed_signals(stop)
    settings = common.settings

    def waiting(what: str, why: str) -> None:
        shown.tell(Waiting(what, why))

    async with Client(settings.exchange, on_wait=waiting) as client:
        pairs = await stop.guard(resolve_with(client, archive, request.pairs))
        watch = Watch(
            shown.tell,
            stop,
            newest_first=request.newest_first,
            estimates=not common.quiet and output.is_terminal(),
        )
        wishes = [Wish(pair, wanted) for pair in pairs]
        return await backfill(client, archive, wishes, settings, watch)


def dry_run(request: Request, common: Common) -> list[DryRun]:
    """What a backfill would ask for."""
    wanted = request.span()
    archive = Archive(common.settings.archive.path)
    return asyncio.run(_dry_run(request, wanted, archive, common.settings))


async def _dry_run(
    request: Request, wanted: Range, archive: Archive, settings: Settings
) -> list[DryRun]:
    async with Client(settings.exchange) as client:
        pairs = await resolve_with(client, archive, request.pairs)
        clock = Clock(client, settings.refresh.settle_s)
        settled = Range(wanted.after, min(wanted.through, await clock.settled_ns()))
        plans = []
        for pair in pairs:
            ranges = missing([settled], archive.coverage(pair.altname))
            try:
                trades = Estimate(await client.weekly_counts(pair)).trades(ranges)
            except ExchangeError:
                plans.append(DryRun(pair.altname, len(ranges), None, None, None, None))
                continue
            calls = -(-trades // PAGE_ROWS) + 2 * len(ranges)
            hours = calls / settings.exchange.rate / 3600 if settings.exchange.rate else 0.0
            plans.append(
                DryRun(pair.altname, len(ranges), trades, calls, hours, trades * BYTES_A_TRADE)
            )
        return plans


def heed_signals(stop: Stop) -> None:
    """The first Ctrl-C or SIGTERM keeps what was fetched; the second ends at once."""
    seen: list[int] = []

    def heed(number: int) -> None:
        seen.append(number)
        if len(seen) > 1:
            os._exit(Interrupted.exit_status)
        output.hint("stopping; what was fetched is being written (again to stop at once)")
        stop.wish()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heed, number)


class _Warnings(logging.Handler):
    """The exchange's warnings go to stderr, once each unless more is asked for."""

    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a warning."""
        text = record.getMessage()
        if self._verbose or text not in self._told:
            self._told.add(text)
            output.hint(text)


def show_warnings(*, verbose: bool) -> None:
    """From now on, what the exchange warns of is shown."""
    logging.getLogger("harvester").handlers[:] = [_Warnings(verbose=verbose)]
