"""Maintain pairs: compact, build roll-ups, verify, repair, compare with Kraken's candles.

Each function reports its progress and its results as events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from harvester.config import Settings
from harvester.csv_import.csv_files import Member
from harvester.download.exchange import DownloadContext, RunOptions
from harvester.errors import HarvesterError
from harvester.events import (
    Begun,
    CancelToken,
    Listener,
    Noted,
    Reported,
    Step,
    Waiting,
    steps,
)
from harvester.kraken.pairs import Pair
from harvester.operations.run_log import pair_results, record_run
from harvester.pair_selection import known_pairs, stored_altnames
from harvester.query.rollups import RollupResult, parse_levels, roll_up
from harvester.storage.trade_store import TradeStore, check_not_in_future
from harvester.storage.writer import Writer, open_writer
from harvester.times import Range
from harvester.verify import against_kraken
from harvester.verify.against_kraken import EXCHANGE_STEPS, Comparer
from harvester.verify.integrity import digests, verify_with_digests
from harvester.verify.repair import Repairer
from harvester.verify.reports import Digest, ExchangeReport, PairReport, RepairReport

# --- compaction and roll-ups ----------------------------------------------------------------------


class CompactionResult(NamedTuple):
    """The result of the compaction of a pair.

    Attributes:
        pair: altname.
        files_before: number of segment files before it.
        files_after: number of segment files after it.
        notes: sentences that the user should read.
    """

    pair: str
    files_before: int
    files_after: int
    notes: list[str]


R = TypeVar("R", CompactionResult, RollupResult)


def compact(
    archive: TradeStore, settings: Settings, pairs: Sequence[str], listener: Listener
) -> list[CompactionResult]:
    """Merge neighbouring small segments of some pairs, and roll up the merged ones.

    Args:
        archive: the archive.
        settings: `candles.rollups` says which roll-ups there should be.
        pairs: names in any spelling; all pairs of the archive if there are none.
        listener: called with events.

    Raises:
        NothingStored: the archive has no trades of a pair.
        ArchiveLocked: another run is writing a pair.
        ArchiveDamaged: a file can't be read, or has other rows than its footer says.
        ArchiveUnwritable: the operating system refused to write.
    """
    levels, progress = parse_levels(settings.candles.rollups), steps(listener)

    def work(pair_writer: Writer) -> CompactionResult:
        before, after = pair_writer.compact(merge_all=True, progress=progress)
        notes = roll_up(pair_writer, levels, progress).notes
        return CompactionResult(pair_writer.pair, before, after, notes)

    return _with_each_pair(archive, pairs, listener, work)


def build_rollups(
    archive: TradeStore, settings: Settings, pairs: Sequence[str], listener: Listener
) -> list[RollupResult]:
    """Build the roll-ups that segments of some pairs lack; arguments and errors as of `compact`."""
    levels, progress = parse_levels(settings.candles.rollups), steps(listener)

    return _with_each_pair(
        archive, pairs, listener, lambda pair_writer: roll_up(pair_writer, levels, progress)
    )


def _with_each_pair(
    archive: TradeStore, pairs: Sequence[str], listener: Listener, work: Callable[[Writer], R]
) -> list[R]:
    """Lock one pair after the other and do the work; report the notes in its result."""
    names = stored_altnames(archive, pairs)
    listener(Begun(len(names)))
    results = []
    for name in names:
        with open_writer(archive, name) as pair_writer:
            results.append(work(pair_writer))
        for note in results[-1].notes:
            listener(Noted(name, note))
    return results


# --- verification ---------------------------------------------------------------------------------


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
    archive: TradeStore, names: Sequence[str], requested: Range, listener: Listener
) -> list[Digest]:
    """Compute the digests of some pairs.

    Args:
        archive: the archive.
        names: altnames.
        requested: only months that lie in it whole are counted.
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
        of_pair = digests(archive, name, requested, listener=listener)
        if not of_pair:
            # Without a whole month there was no step, and a progress bar would wait for it.
            listener(Step(name, 0, 0, "months"))
        listener(Reported(name, of_pair))
        found += of_pair
    return found


async def repair_pairs(
    archive: TradeStore, settings: Settings, reports: Sequence[PairReport], run: RunOptions
) -> list[PairReport]:
    """Repair the pairs that have faults; the run is written to the run log.

    Args:
        archive: the archive.
        settings: the settings in force.
        reports: what was found of each pair; pairs without faults are left alone.
        run: its listener receives each moved file and each pair's `RepairReport` at once.

    Returns:
        The reports, for repaired pairs from after the repair, with the `RepairReport` in them; an
        error that ended a pair early is there.
    """
    from harvester.kraken.client import Client  # verifying files does without HTTP

    faulty = [report for report in reports if report.faults]
    request = {"pairs": [report.pair for report in faulty]}
    with record_run(archive, "repair", request, settings, run.warn) as record:
        async with Client(
            settings.exchange, on_wait=lambda what, why: run.listener(Waiting(what, why))
        ) as client:
            repairer = Repairer(
                DownloadContext(client, archive, settings, run),
                lambda moved: run.listener(Reported(moved.pair, moved)),
            )
            jobs = asyncio.Semaphore(settings.exchange.jobs)

            async def repair(report: PairReport) -> RepairReport:
                async with jobs:
                    result = await repairer.repair(report)
                if not result.after.faults:
                    result.after.digests = await asyncio.to_thread(digests, archive, result.pair)
                run.listener(Reported(result.pair, result))
                return result

            try:
                repairs = await asyncio.gather(*map(repair, faulty))
            finally:
                record.calls, record.refusals = client.calls, client.refusals
        record.pairs = pair_results(repairs)
    repaired = {repair.pair: replace(repair.after, repair=repair) for repair in repairs}
    return [repaired.get(report.pair, report) for report in reports]


async def compare_with_exchange(
    archive: TradeStore,
    settings: Settings,
    reports: Sequence[PairReport],
    listener: Listener,
    cancel: CancelToken,
) -> None:
    """Compare the candles of some pairs with the exchange's OHLC endpoint.

    Args:
        archive: the archive.
        settings: the settings in force.
        reports: a report per pair, whose `exchange` becomes the result; an error that ended a pair
            early is in it.
        listener: receives the steps, and the results in the order of `reports`.
        cancel: the token by which the comparison is cancelled.

    Raises:
        Interrupted: it was cancelled.
    """
    from harvester.kraken.client import Client  # verifying files does without HTTP

    async def compare_all() -> None:
        async with Client(
            settings.exchange, on_wait=lambda what, why: listener(Waiting(what, why))
        ) as client:
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

            tasks = [asyncio.create_task(compare(report.pair)) for report in reports]
            try:
                for report, task in zip(reports, tasks, strict=True):
                    report.exchange = await task
                    listener(Reported(report.pair, report.exchange))
            finally:
                for task in tasks:
                    task.cancel()

    await cancel.guard(compare_all())


def compare_with_csv(
    archive: TradeStore,
    settings: Settings,
    files: Sequence[Member],
    reports: Sequence[PairReport],
    listener: Listener,
    *,
    reports_all_pairs: bool,
) -> None:
    """Compare the candles of some pairs with Kraken's downloadable candle files (OHLCVT).

    Args:
        archive: the archive.
        settings: the settings in force.
        files: all files that were found; their names say of which pairs they are.
        reports: a report per pair, whose `csv` becomes the result; errors in files are in it.
        listener: receives the choice of files, the steps in bytes, and each pair's result at once.
        reports_all_pairs: whether pairs without a file are reported, too.
    """
    known = known_pairs(archive)
    choice = against_kraken.choose_files(files, [report.pair for report in reports], known.values())
    listener(Reported("", choice))
    compared = [report for report in reports if choice.files[report.pair] or reports_all_pairs]
    listener(Begun(len(compared)))
    limit = settings.candles.memory_limit
    for report in compared:
        name = report.pair
        pair = known.get(name, Pair(altname=name))
        report.csv = against_kraken.compare_files(
            archive, pair, choice.files[name], limit, listener
        )
        listener(Reported(name, report.csv))
