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
from harvester.operations.run_log import recorded
from harvester.storage.trade_store import TradeStore
from harvester.times import SECOND, show

HEADER = ["pair", "state", "added", "first", "last", "holes", "calls", "refused", "seconds"]
MOST_NAMED = 5
"""So many pairs are named that were not finished in time."""
GOES_FIRST = ("first", "refused", "seconds", "calls", "last", "holes")


def run(common: Common, pairs: Sequence[str], max_minutes: float | None) -> RefreshResult:
    """Refresh what is meant, with progress on stderr.

    Raises:
        NothingHeld: nothing is meant.
    """
    archive = TradeStore(common.settings.archive.path)
    show_warnings(verbose=common.verbose > 0)
    process.allow_files(FILES_A_JOB * common.settings.exchange.jobs + FILES_BESIDE)
    most_s = None if max_minutes is None else max_minutes * 60

    async def main() -> RefreshResult:
        stop = CancelToken()
        heed_signals(stop)
        estimates = not common.quiet and output.is_terminal()
        watch = RunOptions(shown.tell, stop, estimates=estimates)
        return await refresh(archive, common.settings, watch, pairs, most_s=most_s)

    asked = {"pairs": list(pairs), "max_minutes": max_minutes}
    with (
        recorded(archive, "refresh", asked, common.settings, output.hint) as record,
        display(quiet=common.quiet, log_json=common.log_json) as shown,
    ):
        done = asyncio.run(main())
        record.heard(done.calls, done.refusals)
        record.outcomes(done.pairs)
        record.ended_with(done.exit_status, done.error)
        return done


def tell(common: Common, done: RefreshResult, *, as_json: bool) -> None:
    """Say what came of it: JSON or a table on stdout, and on stderr why nothing did."""
    if as_json:
        output.as_json(report(done))
    elif done.pairs and not common.quiet:
        output.block(table(done.pairs))
    if late := [one.pair for one in done.pairs if one.state == "unfinished"]:
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
                "pair": one.pair,
                "state": one.state,
                "exit_status": one.exit_status,
                "trades_added": one.trades,
                "first_ns": one.first_ns,
                "last_ns": one.last_ns,
                "covered_through_ns": one.reached.through if one.reached else None,
                "holes": one.holes,
                "calls": one.calls,
                "refusals": one.refusals,
                "seconds": one.seconds,
                "renamed_to": one.renamed_to,
                "error": None if one.error is None else str(one.error),
            }
            for one in done.pairs
        ],
    }


def table(pairs: Sequence[RefreshedPair]) -> str:
    """A line a pair."""
    rows = [
        [
            one.pair,
            one.state,
            f"{one.trades:,}",
            _moment(one.first_ns),
            _moment(one.last_ns),
            str(len(one.holes)),
            f"{one.calls:,}",
            f"{one.refusals:,}",
            f"{one.seconds:.1f}",
        ]
        for one in pairs
    ]
    return output.fitting(HEADER, rows, GOES_FIRST, output.width(), left=2)


def _moment(stamp_ns: int | None) -> str:
    return "" if stamp_ns is None else show(stamp_ns // SECOND * SECOND)
