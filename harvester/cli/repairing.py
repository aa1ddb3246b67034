"""What `verify --repair` does beyond its option."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from harvester.cli import output
from harvester.cli.crawling import heed_signals, show_warnings
from harvester.cli.options import Common
from harvester.cli.progress import Display, display
from harvester.download.backfill import begin
from harvester.download.events import CancelToken, Waiting
from harvester.download.request import RunOptions
from harvester.kraken.client import Client
from harvester.operations.run_log import RunRecorder, record_run
from harvester.storage.trade_store import TradeStore
from harvester.verify.digest import digests
from harvester.verify.repair import Repairer
from harvester.verify.reports import Moved, PairReport, RepairReport

Show = Callable[[PairReport], None]


def repair(
    common: Common, archive: TradeStore, reports: Sequence[PairReport], show: Show | None
) -> dict[str, RepairReport]:
    """Mend the pairs of an archive that have faults, and tell as it is done.

    Args:
        common: what is in force.
        archive: the archive.
        reports: what was found; pairs without faults are left alone.
        show: prints a report for people; None where JSON follows.
    """
    show_warnings(verbose=common.verbose > 0)
    asked = {"pairs": [report.pair for report in reports if report.faults]}
    with (
        record_run(archive, "repair", asked, common.settings, output.hint) as record,
        display(quiet=common.quiet, log_json=common.log_json) as shown,
    ):
        done = asyncio.run(_repair(common, archive, reports, show, (shown, record)))
        record.set_repairs(done.values())
        return done


async def _repair(
    common: Common,
    archive: TradeStore,
    reports: Sequence[PairReport],
    show: Show | None,
    seen: tuple[Display, RunRecorder],
) -> dict[str, RepairReport]:
    shown, record = seen
    stop = CancelToken()
    heed_signals(stop)
    settings = common.settings

    def told(moved: Moved) -> None:
        if show is not None:
            with shown.aside():
                output.result(str(moved))

    def waiting(what: str, why: str) -> None:
        shown.tell(Waiting(what, why))

    async with Client(settings.exchange, on_wait=waiting) as client:
        estimates = not common.quiet and output.is_terminal()
        watch = RunOptions(shown.tell, stop, estimates=estimates)
        repairer = Repairer(begin(client, archive, settings, watch), told)
        turn = asyncio.Semaphore(settings.exchange.jobs)

        async def one(report: PairReport) -> RepairReport:
            async with turn:
                done = await repairer.repair(report)
            if not done.after.faults:
                done.after.digests = await asyncio.to_thread(digests, archive, done.pair)
            with shown.aside():
                _tell(archive, done, show)
            return done

        # A pair that was named twice was verified twice, and is mended once.
        wrong = {report.pair: report for report in reports if report.faults}
        try:
            done = await asyncio.gather(*(one(report) for report in wrong.values()))
        finally:
            record.set_calls(client.calls, client.refusals)
        return {report.pair: report for report in done}


def _tell(archive: TradeStore, done: RepairReport, show: Show | None) -> None:
    if show is not None:
        if done.uncovered:
            many = f", and {len(done.uncovered) - 1} more" if len(done.uncovered) > 1 else ""
            lacked = f"{done.uncovered[0]}{many}"
            output.result(f"{done.pair}: lacked trades, downloaded again: {lacked}")
        if done.pages:
            trades = f"{done.trades:,} trades in {done.pages:,} pages"
            output.result(f"{done.pair}: fetched {trades}")
        if done.moved or done.pages or done.error is None:
            show(done.after)
    if done.error is None:
        return
    text = str(done.error)
    named = text if text.startswith(done.pair) else f"{done.pair}: {text}"
    if done.moved:
        where = archive.store.location(f"quarantine/{done.pair}")
        left = f"what was moved is kept in {where}; what is missing stays on record"
    else:
        left = "nothing was moved"
    output.error(named, f"{done.pair}: {left}")
