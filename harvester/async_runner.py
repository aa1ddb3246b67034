"""Run downloads and imports for `Archive`, on the running event loop or in a thread with its own.

Each run keeps a record in the run log.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from harvester.config import Settings
from harvester.csv_import.import_pairs import ImportResult, import_files
from harvester.csv_import.pair_matching import ImportRequest
from harvester.csv_import.redownload import imported_segments, replace_imported, rows_to_download
from harvester.download.backfill import (
    BackfillEstimate,
    MissingData,
    backfill,
    estimate_missing_trades,
    estimate_pair,
    estimate_total,
    missing_ranges,
)
from harvester.download.exchange import BackfillRequest, ExchangeClock, RunOptions
from harvester.errors import ArchiveHasGaps, ArchiveIncomplete, HarvesterError, raise_gravest
from harvester.events import (
    SIGNAL_POLL_S,
    BackfillResult,
    Begun,
    CancelToken,
    Listener,
    Paced,
    Waiting,
    result_of,
)
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.kraken.rate_limit import PaceState
from harvester.operations.refresh import RefreshedPair
from harvester.operations.run_log import RunRecord, import_results, pair_results, record_run
from harvester.pair_selection import PairSelection, request_pairs, select_pairs
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, Range, show

T = TypeVar("T")
Warn = Callable[[str], None]
"""Receives a warning about something that does not stop a run."""


@dataclass(frozen=True, slots=True)
class BackfillRun:
    """A backfill: which pairs, which range, and how.

    Attributes:
        archive: opened for this run, as it may be in another thread than its caller.
        settings: the effective settings.
        selection: which pairs.
        time_range: which part of their trade history.
        newest_first: download the newest missing month first.
        replace_imported: afterwards, replace imported ranges by the exchange's own trades.
        estimate_trades: ask the exchange for trade counts first, for progress bars.
        progress: receives each event.
        warn: receives a warning if the run log can't be written.
    """

    archive: TradeStore
    settings: Settings
    selection: PairSelection
    time_range: Range
    newest_first: bool
    replace_imported: bool
    estimate_trades: bool
    progress: Listener
    warn: Warn

    async def run(self, cancel: CancelToken) -> list[BackfillResult]:
        """Download what is missing; one result per pair.

        Raises:
            UnknownPair: no market has one of the names.
            ExchangeError: the exchange does not answer with its markets or its clock.
            Interrupted: cancelled before the first pair.
        """
        selection, time_range = self.selection, self.time_range
        is_open = time_range.through >= END_OF_TIME
        # Times are absolute: `7d` means something else tomorrow.
        request = {
            "pairs": ["*"] if selection.all_pairs else [str(name) for name in selection.names],
            **({"quotes": list(selection.quotes)} if selection.quotes else {}),
            **({"class": selection.asset_class} if selection.asset_class else {}),
            "since": show(time_range.after + 1),
            "until": None if is_open else show(time_range.through + 1),
            "newest_first": self.newest_first,
            "replace_imported": self.replace_imported,
        }
        with record_run(self.archive, "backfill", request, self.settings, self.warn) as record:
            async with Client(
                self.settings.exchange, on_wait=self._waiting, on_pace=self._paced
            ) as client:
                try:
                    pairs = await cancel.guard(select_pairs(client, self.archive, selection))
                    self.progress(Begun(len(pairs)))
                    results = await backfill(
                        client,
                        self.archive,
                        [BackfillRequest(pair, time_range) for pair in pairs],
                        self.settings,
                        RunOptions(
                            self.progress,
                            cancel,
                            newest_first=self.newest_first,
                            estimates=self.estimate_trades,
                            once_complete=replace_imported if self.replace_imported else None,
                        ),
                    )
                finally:
                    record.calls, record.refusals = client.calls, client.refusals
            record.pairs = pair_results(results)
            return results

    async def estimate(self, cancel: CancelToken) -> BackfillEstimate:
        """Estimate what `run` would download, and write nothing.

        `Begun` says for how many pairs the exchange is asked.

        Raises:
            UnknownPair: no market has one of the names.
            ExchangeError: the exchange does not answer with its markets or its clock.
            Interrupted: cancelled.
        """
        exchange = self.settings.exchange
        async with Client(exchange, on_wait=self._waiting) as client:
            chosen = select_pairs(client, self.archive, self.selection, may_write=False)
            pairs = await cancel.guard(chosen)
            clock = ExchangeClock(client, self.settings.refresh.settle_s)
            requests = [BackfillRequest(pair, self.time_range) for pair in pairs]
            pairs_missing = [
                MissingData(
                    request.pair,
                    missing_ranges(
                        self.archive, request, await cancel.guard(clock.settled_ns(request.pair))
                    ),
                )
                for request in requests
            ]
            incomplete = [pair_missing for pair_missing in pairs_missing if pair_missing.ranges]
            self.progress(Begun(len(incomplete)))
            trades = await estimate_missing_trades(
                client, exchange, cancel, incomplete, clock.time_ns
            )
        estimates = []
        for pair_missing in pairs_missing:
            name = pair_missing.pair.altname
            is_again = self.replace_imported
            imported = imported_segments(self.archive, name, self.time_range) if is_again else []
            # Without what is in the staging archive already.
            rows = [rows_to_download(self.archive, segment) for segment in imported]
            estimates.append(estimate_pair(pair_missing, trades.get(name), rows, exchange.rate))
        estimates.sort(key=lambda pair: -1 if pair.trades is None else pair.trades, reverse=True)
        return BackfillEstimate(estimates, estimate_total(estimates, exchange))

    def _waiting(self, pair: str, reason: str) -> None:
        self.progress(Waiting(pair, reason))

    def _paced(self, state: PaceState) -> None:
        self.progress(Paced(state.pair, state))


async def run_to_completion(
    work: Callable[[CancelToken], Awaitable[T]], cancel: CancelToken | None = None
) -> T:
    """Run work on the running event loop; if the caller is cancelled, it stops cleanly first.

    Args:
        work: what to run; it must stop cleanly when its token is cancelled.
        cancel: the token; a new one unless given.

    Raises:
        asyncio.CancelledError: the caller was cancelled, and the work has ended.
    """
    token = cancel or CancelToken()
    task = asyncio.ensure_future(work(token))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        token.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            # Retrieved, so that asyncio does not log it as an exception nobody has seen.
            task.exception()
        raise


def run_in_thread(
    work: Callable[[CancelToken], Coroutine[Any, Any, T]], cancel: CancelToken | None = None
) -> T:
    """Run work on an event loop in a thread of its own and wait for it.

    This works whether or not an event loop runs in the calling thread.

    Args:
        work: what to run; it must stop cleanly when its token is cancelled.
        cancel: the token; a new one unless given.

    Raises:
        KeyboardInterrupt: Ctrl-C; the work has stopped cleanly. A second Ctrl-C does not wait for
            that.
    """
    token, result = cancel or CancelToken(), Future[T]()

    def run() -> None:
        try:
            result.set_result(asyncio.run(work(token)))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            result.set_exception(error)

    # A daemon: a second Ctrl-C ends the process at once, and loses nothing that was committed.
    thread = threading.Thread(target=run, name="harvester", daemon=True)
    try:
        thread.start()
        return result_of(result)
    except KeyboardInterrupt:
        token.cancel()
        while thread.is_alive():
            thread.join(SIGNAL_POLL_S)
        raise


def ask_market_names(
    settings: Settings,
    archive: TradeStore,
    cancel: CancelToken | None = None,
    record: RunRecord | None = None,
) -> dict[str, Pair]:
    """Ask the exchange which markets it lists and keep their names; wait for the answer.

    Args:
        settings: where the exchange is.
        archive: keeps the names.
        cancel: cancelled to stop waiting; None if nobody does.
        record: receives the numbers of calls and of refused calls, whatever ends it.

    Raises:
        ExchangeError: the exchange can't be reached, or refuses.
        Interrupted: `cancel` was cancelled.
    """

    async def ask(cancel: CancelToken) -> dict[str, Pair]:
        async with Client(settings.exchange) as client:
            try:
                return (await cancel.guard(request_pairs(client, archive)))[0]
            finally:
                if record is not None:
                    record.calls, record.refusals = client.calls, client.refusals

    return run_in_thread(ask, cancel)


def run_import(
    archive: TradeStore,
    settings: Settings,
    request: ImportRequest,
    progress: Listener,
    cancel: CancelToken,
    warn: Warn,
) -> ImportResult:
    """Import CSV files, and keep a record of the run.

    Args:
        archive: where the trades go.
        settings: where the exchange is, which is asked for names of pairs.
        request: what to import.
        progress: called with events, from several threads, one call at a time.
        cancel: cancelled to end the import; rows up to the last boundary are kept.
        warn: called with a sentence if the run log can't be written.

    Raises:
        UsageError: the files can't be matched to pairs; see `match_files`.
        KeyboardInterrupt: Ctrl-C; rows up to the last boundary are kept.
    """
    with record_run(archive, "import", request.to_dict(), settings, warn) as record:
        ask_exchange = partial(ask_market_names, settings, archive, cancel, record)
        result = import_files(archive, request, ask_exchange, progress, cancel)
        record.pairs = import_results(result.reports, lambda pair: len(archive.gaps(pair)))
        record.exit_status = result.exit_status
    return result


def raise_gravest_of_pairs(results: Sequence[BackfillResult | RefreshedPair]) -> None:
    """Raise the gravest error of several pairs, with the others in its notes, if there are any.

    Raises:
        HarvesterError: what ended a pair.
        ArchiveHasGaps: requested ranges are not covered.
        ArchiveIncomplete: a re-download left or found differences to the imported files.
    """
    failed = [result for result in results if result.exit_status]
    raise_gravest([(result.error or _error_of(result), str(result)) for result in failed])


def _error_of(result: BackfillResult | RefreshedPair) -> HarvesterError:
    """The error of a pair that is done, but incomplete."""
    return (ArchiveHasGaps if result.gaps else ArchiveIncomplete)(str(result))
