"""Verify pairs as `harvester verify` does: check, repair, compare with Kraken's candles.

Each function reports its progress and its results as events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from harvester.config import Settings
from harvester.csv_import.files import Member
from harvester.download.events import Begun, CancelToken, Listener, Reported, Step, Waiting
from harvester.download.exchange import DownloadContext, RunOptions
from harvester.errors import HarvesterError
from harvester.kraken.pairs import Pair
from harvester.operations.run_log import pair_results, record_run
from harvester.pair_names import known_pairs
from harvester.storage.trade_store import TradeStore, check_not_in_future
from harvester.times import Range
from harvester.verify import against
from harvester.verify.against import EXCHANGE_STEPS, Comparer
from harvester.verify.integrity import digests, verify_with_digests
from harvester.verify.repair import Repairer
from harvester.verify.reports import (
    CsvReport,
    Digest,
    ExchangeReport,
    Moved,
    PairReport,
    RepairReport,
)


def check_pairs(archive: TradeStore, names: Sequence[str], listener: Listener) -> list[PairReport]:
    """Check everything that is stored of some pairs.

    Args:
        archive: the archive to check.
        names: altnames.
        listener: receives the steps, and each pair's report as soon as it is known.

    Raises:
        ArchiveDamaged: files keep vanishing, or being replaced, while they are read.
    """
    listener(Begun(len(names)))
    reports = []
    for name in names:
        reports.append(verify_with_digests(archive, name, listener))
        listener(Reported(name, reports[-1]))
    return reports


def digest_pairs(
    archive: TradeStore, names: Sequence[str], wanted: Range, listener: Listener
) -> list[Digest]:
    """Compute the digests of some pairs.

    Args:
        archive: the archive.
        names: altnames.
        wanted: only months that lie in it whole are counted.
        listener: receives the steps in months, and the digests of each pair as soon as they are
            known.

    Raises:
        ArchiveDamaged: a file can't be read, ends in the future, or is being replaced.
    """
    now_ns = time.time_ns()
    listener(Begun(len(names)))
    found: list[Digest] = []
    for name in names:
        check_not_in_future(archive, name, now_ns)
        of_pair = digests(archive, name, wanted, listener=listener)
        listener(Reported(name, of_pair))
        found += of_pair
    return found


async def repair_pairs(
    archive: TradeStore,
    settings: Settings,
    reports: Iterable[PairReport],
    run: RunOptions,
    warn: Callable[[str], None],
) -> dict[str, RepairReport]:
    """Repair the pairs that have faults; the run is written to the run log.

    Args:
        archive: the archive.
        settings: the settings in force.
        reports: what was found; pairs without faults are left alone.
        run: its listener receives each moved file and each pair's `RepairReport` at once.
        warn: called with a sentence if the run log can't be written.

    Returns:
        A report by pair; an error that ended a pair early is in its report.
    """
    from harvester.kraken.client import Client  # verifying files does without HTTP

    # A pair that was named twice was checked twice, and is repaired once.
    faulty = {report.pair: report for report in reports if report.faults}

    def on_wait(what: str, why: str) -> None:
        run.listener(Waiting(what, why))

    def on_move(moved: Moved) -> None:
        run.listener(Reported(moved.pair, moved))

    with record_run(archive, "repair", {"pairs": list(faulty)}, settings, warn) as record:
        async with Client(settings.exchange, on_wait=on_wait) as client:
            repairer = Repairer(DownloadContext(client, archive, settings, run), on_move)
            jobs = asyncio.Semaphore(settings.exchange.jobs)

            async def repair(report: PairReport) -> RepairReport:
                async with jobs:
                    result = await repairer.repair(report)
                if not result.after.faults:
                    result.after.digests = await asyncio.to_thread(digests, archive, result.pair)
                run.listener(Reported(result.pair, result))
                return result

            try:
                results = await asyncio.gather(*(repair(report) for report in faulty.values()))
            finally:
                record.calls, record.refusals = client.calls, client.refusals
        record.pairs = pair_results(results)
    return {result.pair: result for result in results}


def with_repairs(
    reports: Iterable[PairReport], repairs: Mapping[str, RepairReport]
) -> list[PairReport]:
    """The reports, with the state after the repair for the pairs that were repaired."""
    return [
        replace(repairs[report.pair].after, repair=repairs[report.pair])
        if report.pair in repairs
        else report
        for report in reports
    ]


async def compare_with_exchange(
    archive: TradeStore,
    settings: Settings,
    names: Sequence[str],
    listener: Listener,
    stop: CancelToken,
) -> dict[str, ExchangeReport]:
    """Compare the candles of some pairs with the exchange's OHLC endpoint.

    Args:
        archive: the archive.
        settings: the settings in force.
        names: altnames, each once.
        listener: receives the steps, and the pairs' reports in the order of `names`.
        stop: the token by which the comparison is cancelled.

    Returns:
        A report by pair; an error that ended a pair early is in its report.

    Raises:
        Interrupted: it was cancelled.
    """
    from harvester.kraken.client import Client  # verifying files does without HTTP

    def on_wait(what: str, why: str) -> None:
        listener(Waiting(what, why))

    async def compare_all() -> dict[str, ExchangeReport]:
        async with Client(settings.exchange, on_wait=on_wait) as client:
            comparer = Comparer(client, archive, memory_limit=settings.candles.memory_limit)
            jobs = asyncio.Semaphore(settings.exchange.jobs)
            known = known_pairs(archive)

            async def compare(name: str) -> ExchangeReport:
                async with jobs:
                    listener(Step(name, 0, 1, EXCHANGE_STEPS))
                    try:
                        return await comparer.compare(known.get(name, Pair(altname=name)), listener)
                    except HarvesterError as error:
                        # The pair is done, so its progress line is removed.
                        listener(Step(name, 1, 1, EXCHANGE_STEPS))
                        return ExchangeReport(name, error=error)

            tasks = [asyncio.create_task(compare(name)) for name in names]
            reports = {}
            try:
                for task in tasks:
                    report = await task
                    reports[report.pair] = report
                    listener(Reported(report.pair, report))
            finally:
                for task in tasks:
                    task.cancel()
            return reports

    return await stop.guard(compare_all())


def compare_with_csv(
    archive: TradeStore,
    settings: Settings,
    files: Sequence[Member],
    names: Sequence[str],
    listener: Listener,
    *,
    all_pairs: bool,
) -> dict[str, CsvReport]:
    """Compare the candles of some pairs with Kraken's downloadable candle files (OHLCVT).

    Args:
        archive: the archive.
        settings: the settings in force.
        files: all files that were found; their names say of which pairs they are.
        names: altnames of the pairs to compare, each once.
        listener: receives the choice of files, the steps in bytes, and each pair's report at once.
        all_pairs: whether pairs without a file are reported, too.

    Returns:
        A report by pair; errors in files are in the report.
    """
    known = known_pairs(archive)
    choice = against.choose(files, names, known.values())
    listener(Reported("", choice))
    files_of = {name: found for name, found in choice.files.items() if found or all_pairs}
    listener(Begun(len(files_of)))
    reports = {}
    for name, files_of_pair in files_of.items():
        pair = known.get(name, Pair(altname=name))
        limit = settings.candles.memory_limit
        reports[name] = against.compare_files(archive, pair, files_of_pair, limit, listener)
        listener(Reported(name, reports[name]))
    return reports
