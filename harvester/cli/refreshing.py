"""What `harvester refresh` does on the terminal, and how it tells what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from harvester.cli import output, process
from harvester.cli.crawling import (
    FILES_A_JOB,
    FILES_BESIDE,
    heed_signals,
    show_warnings,
    warnings_shown,
)
from harvester.cli.options import Common
from harvester.cli.progress import display
from harvester.download.events import CancelToken
from harvester.download.request import RunOptions
from harvester.operations.refresh import RefreshedPair, RefreshResult, refresh
from harvester.operations.run_log import record_run
from harvester.storage.trade_store import TradeStore
from harvester.times import SECOND, show

HEADER = ["pair", "state", "added", "first", "last", "gaps", "calls", "refused", "seconds"]
MOST_NAMED = 5
"""So many pairs are named that were not finished in time."""
GOES_FIRST = ("first", "refused", "seconds", "calls", "last", "gaps")


def run(common: Common, pairs: Sequence[str], max_minutes: float | None) -> RefreshResult:
    """Refresh what is meant, with progress on stderr.

    Raises:
        NothingHeld: nothing is meant.
    """
    archive = TradeStore(common.settings.archive.path)
    show_warnings(verbose=common.verbose > 0)
    process.allow_files(FILES_A_JOB * common.settings.exchange.jobs + FILES_BESIDE)
    max_s = None if max_minutes is None else max_minutes * 60

    async def main() -> RefreshResult:
        stop = CancelToken()
        heed_signals(stop)
        estimates = not common.quiet and output.is_terminal()
        watch = RunOptions(shown.tell, stop, estimates=estimates)
        return await refresh(archive, common.settings, watch, pairs, max_s=max_s)

    asked = {"pairs": list(pairs), "max_minutes": max_minutes}
    with (
        record_run(archive, "refresh", asked, common.settings, output.hint) as record,
        display(quiet=common.quiet, log_json=common.log_json) as shown,
    ):
        done = asyncio.run(main())
        record.set_calls(done.calls, done.refusals)
        record.set_results(done.pairs)
        record.set_end(done.exit_status, done.error)
        return done


def tell(common: Common, done: RefreshResult, *, as_json: bool) -> None:
    """Say what came of it: JSON or a table on stdout, and on stderr why nothing did."""
    if as_json:
        output.as_json(report(done))
    elif done.pairs and not common.quiet:
        output.block(table(done.pairs))
    if late := [pair.pair for pair in done.pairs if pair.state == "unfinished"]:
        named = ", ".join(late[:MOST_NAMED]) + (", ..." if len(late) > MOST_NAMED else "")
        pairs = "1 pair is" if len(late) == 1 else f"{len(late):,} pairs are"
        output.hint(f"the time was up: {pairs} unfinished ({named}); the next run goes on there")
    elif done.error is not None:
        output.error(str(done.error))


def report(done: RefreshResult) -> dict[str, Any]:
    """The same for machines. Times are published times, in nanoseconds."""
    return {
        "exit_status": done.exit_status,
        "exchange": done.exchange,
        "calls": done.calls,
        "refusals": done.refusals,
        "seconds": done.seconds,
        "error": None if done.error is None else str(done.error),
        "notes": warnings_shown(),
        "pairs": [
            {
                "pair": pair.pair,
                "state": pair.state,
                "exit_status": pair.exit_status,
                "trades_added": pair.trades,
                "first_ns": pair.first_ns,
                "last_ns": pair.last_ns,
                "covered_through_ns": pair.reached.through if pair.reached else None,
                "gaps": pair.gaps,
                "calls": pair.calls,
                "refusals": pair.refusals,
                "seconds": pair.seconds,
                "renamed_to": pair.renamed_to,
                "error": None if pair.error is None else str(pair.error),
            }
            for pair in done.pairs
        ],
    }


def table(pairs: Sequence[RefreshedPair]) -> str:
    """A line a pair."""
    rows = [
        [
            pair.pair,
            pair.state,
            f"{pair.trades:,}",
            _moment(pair.first_ns),
            _moment(pair.last_ns),
            str(len(pair.gaps)),
            f"{pair.calls:,}",
            f"{pair.refusals:,}",
            f"{pair.seconds:.1f}",
        ]
        for pair in pairs
    ]
    return output.fitting(HEADER, rows, GOES_FIRST, output.width(), left=2)


def _moment(stamp_ns: int | None) -> str:
    return "" if stamp_ns is None else show(stamp_ns // SECOND * SECOND)
