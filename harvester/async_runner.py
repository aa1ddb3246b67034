"""Run a download from a program: on its own event loop, or on one in a thread beside it."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from harvester.config import Settings
from harvester.csv_import.redownload import upgrade
from harvester.download.backfill import backfill
from harvester.download.events import BackfillResult, CancelToken, Listener, Waiting
from harvester.download.pair_selection import PairName, PairSelection, choose, refresh_pairs
from harvester.download.request import BackfillRequest, RunOptions
from harvester.errors import GRAVEST_FIRST, ArchiveHasGaps, ArchiveIncomplete
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.operations.refresh import RefreshResult, refresh
from harvester.operations.run_log import RunResult, recorded
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, Range, show

# --- crawling -------------------------------------------------------------------------------------

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BackfillCall:
    """A backfill to come.

    Attributes:
        archive: one of its own, as it may run in another thread.
        settings: in force.
        names: of pairs, in any spelling, or patterns such as `*/EUR`.
        span: what is wanted of each.
        newest_first: the newest missing month first.
        upgrade: then replace what came from files by the exchange's own trades.
        progress: told what happens.
    """

    archive: TradeStore
    settings: Settings
    names: Sequence[str]
    span: Range
    newest_first: bool
    upgrade: bool
    progress: Listener

    async def run(self, stop: CancelToken) -> list[BackfillResult]:
        """Fetch what is missing; an outcome a pair.

        Raises:
            UnknownPair: no market goes by one of the names.
            ExchangeError: the exchange can't be asked for names or for its clock.
            Interrupted: that was wished before it knew what to fetch.
        """

        def waiting(what: str, why: str) -> None:
            self.progress(Waiting(what, why))

        asked = {
            "pairs": list(self.names),
            "since": show(self.span.after + 1),
            "until": show(self.span.through + 1) if self.span.through < END_OF_TIME else None,
            "newest_first": self.newest_first,
            "upgrade": self.upgrade,
        }
        with recorded(self.archive, "backfill", asked, self.settings, warnings.warn) as record:
            async with Client(self.settings.exchange, on_wait=waiting) as client:
                try:
                    choice = PairSelection([PairName(text) for text in self.names])
                    pairs = await stop.guard(choose(client, self.archive, choice))
                    wishes = [BackfillRequest(pair, self.span) for pair in pairs]
                    watch = RunOptions(
                        self.progress,
                        stop,
                        newest_first=self.newest_first,
                        then=upgrade if self.upgrade else None,
                    )
                    found = await backfill(client, self.archive, wishes, self.settings, watch)
                finally:
                    record.heard(client.calls, client.refusals)
            record.outcomes(found)
            return found


@dataclass(frozen=True, slots=True)
class RefreshCall:
    """A refresh to come.

    Attributes:
        archive: one of its own, as it may run in another thread.
        settings: in force.
        names: of pairs, in any spelling, or patterns; none for those of the settings.
        max_minutes: end in good order after so long; None for no limit.
        progress: told what happens.
    """

    archive: TradeStore
    settings: Settings
    names: Sequence[str]
    max_minutes: float | None
    progress: Listener

    async def run(self, stop: CancelToken) -> RefreshResult:
        """Refresh them; whatever goes wrong is in the result.

        Raises:
            NothingHeld: no pair is named, and none is held.
        """
        asked = {"pairs": list(self.names), "max_minutes": self.max_minutes}
        most_s = None if self.max_minutes is None else self.max_minutes * 60
        with recorded(self.archive, "refresh", asked, self.settings, warnings.warn) as record:
            watch = RunOptions(self.progress, stop)
            done = await refresh(self.archive, self.settings, watch, self.names, most_s=most_s)
            record.heard(done.calls, done.refusals)
            record.outcomes(done.pairs)
            record.ended_with(done.exit_status, done.error)
            return done


async def run_to_completion(work: Callable[[CancelToken], Awaitable[T]]) -> T:
    """Do work in the loop that runs; where it is cancelled, what was fetched is kept first.

    Raises:
        asyncio.CancelledError: it was cancelled, and has come to its end by now.
    """
    stop = CancelToken()
    task = asyncio.ensure_future(work(stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.wish()
        await asyncio.wait([task])
        if not task.cancelled():
            # What it came to is not asked for any more.
            task.exception()
        raise


_stoppable: list[Callable[[], None]] = []
"""Stops the calls that the main thread waits for, the last one on top."""


def stop_running_call() -> bool:
    """Ask the call that the main thread waits for to end early and to return what it has.

    For signal handlers, which run in the main thread.

    Returns:
        Whether there is such a call: one that runs by `run_in_thread` with `is_stoppable`.
    """
    if not _stoppable:
        return False
    _stoppable[-1]()
    return True


def run_in_thread(work: Callable[[CancelToken], Awaitable[T]], *, is_stoppable: bool = False) -> T:
    """Run work on an event loop in a thread of its own, and wait for its result.

    So it works inside a notebook's running event loop, too.

    Args:
        work: gets the token by which it is asked to end early.
        is_stoppable: whether `stop_running_call` applies to it.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was fetched is kept. A second one does not wait for that.
    """
    stop, done = CancelToken(), Future[T]()
    loops: list[asyncio.AbstractEventLoop] = []
    begun = threading.Event()

    async def working() -> T:
        loops.append(asyncio.get_running_loop())
        begun.set()
        return await work(stop)

    def run() -> None:
        try:
            done.set_result(asyncio.run(working()))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            done.set_exception(error)

    def stop_work() -> None:
        begun.wait()
        # The loop may have closed, with its result on the way.
        with suppress(RuntimeError):
            loops[0].call_soon_threadsafe(stop.wish)

    # A daemon: a second Ctrl-C ends the process at once, and loses nothing that was committed.
    threading.Thread(target=run, name="harvester", daemon=True).start()
    if is_stoppable:
        _stoppable.append(stop_work)
    try:
        return done.result()
    except KeyboardInterrupt:
        if not done.done():
            stop_work()
            done.exception()
        raise
    finally:
        if is_stoppable:
            _stoppable.remove(stop_work)


async def market_names(settings: Settings, archive: TradeStore) -> dict[str, Pair]:
    """Ask the exchange for its markets, by altname, and keep them.

    Raises:
        ExchangeError: it can't be reached, or refuses.
    """
    async with Client(settings.exchange) as client:
        return await refresh_pairs(client, archive)


def raise_gravest(outcomes: Sequence[RunResult]) -> None:
    """Raise what went gravest wrong, the rest told in its notes; nothing where all is complete.

    Raises:
        HarvesterError: what ended the pair.
        ArchiveHasGaps: ranges that were asked for stay uncovered.
    """
    wrong = sorted(
        (outcome for outcome in outcomes if outcome.exit_status),
        key=lambda one: GRAVEST_FIRST.index(one.exit_status),
    )
    if not wrong:
        return
    kind = ArchiveHasGaps if wrong[0].gaps else ArchiveIncomplete
    error = wrong[0].error or kind(str(wrong[0]))
    for other in wrong[1:]:
        error.add_note(str(other))
    raise error
