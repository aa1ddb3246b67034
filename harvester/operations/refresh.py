"""Nightly refresh: bring every pair of an archive up to date, and report the result per pair."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import msgspec

from harvester.config import Settings
from harvester.download.backfill import backfill
from harvester.download.exchange import BackfillRequest, DownloadContext, RunOptions
from harvester.download.pair_download import PairDownload, run_maintenance
from harvester.errors import (
    ArchiveHasGaps,
    ArchiveLocked,
    ExchangeError,
    ExchangeRefused,
    ExchangeUnreachable,
    HarvesterError,
    Interrupted,
    NothingStored,
    UnknownPair,
    capture_error,
    counted,
    gravest,
)
from harvester.events import (
    BackfillResult,
    Begun,
    Committed,
    Event,
    Paced,
    Started,
    Waiting,
    remaining_gaps,
)
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.operations.run_log import pair_results, record_run
from harvester.operations.sync import SyncResult
from harvester.pair_selection import (
    RefreshCandidates,
    RefreshTarget,
    known_pairs,
    last_start,
    request_pairs,
    select_refresh_targets,
)
from harvester.storage.locks_and_requests import locked
from harvester.storage.segment import Segment
from harvester.storage.trade_store import (
    EVERYTHING,
    TradeStore,
    check_not_in_future,
    with_snapshot_retry,
)
from harvester.storage.writer import open_writer
from harvester.times import END_OF_TIME, Range


class TimeLimitReached(HarvesterError):
    """The run reached its time limit before it was done; the user asked for that, so no failure."""

    exit_status = 0

    def __init__(self) -> None:
        super().__init__("time limit reached; the next run continues from here")


@dataclass(slots=True)
class RefreshedPair:
    """The result of a refresh for one pair.

    Attributes:
        pair: altname, as the archive has it.
        state: `complete`, `gaps`, `delisted`, `renamed` (its trade history continues under another
            name that is stored as well), `maintenance`, `locked` (another run is writing the
            pair), `unfinished` (the time limit was reached), `interrupted`, or `failed`.
        trades: how many were added.
        pages: how many pages of trades were read.
        refusals: requests for trades that the exchange refused or did not answer properly.
        seconds: from the start to the end of its download.
        first_ns: published time of the first stored trade; None where there is none.
        last_ns: of the last stored trade.
        reached: the last covered range; None where nothing is covered.
        gaps: ranges that were requested and are not covered.
        renamed_to: the exchange's present name, if that is another one.
        error: what ended the pair's refresh early, if anything did.
    """

    pair: str
    state: str = "complete"
    trades: int = 0
    pages: int = 0
    refusals: int = 0
    seconds: float = 0.0
    first_ns: int | None = None
    last_ns: int | None = None
    reached: Range | None = None
    gaps: list[Range] = field(default_factory=list[Range])
    renamed_to: str | None = None
    error: HarvesterError | None = None

    def __str__(self) -> str:
        why = str(self.error) if self.error is not None else ""
        if not why and self.gaps:
            why = remaining_gaps(self.gaps)
        trades, pages = counted(self.trades, "trade"), counted(self.pages, "page")
        done = f"{self.pair}: {self.state}: {trades} in {pages}"
        return f"{done}; {why}" if why else done

    @property
    def exit_status(self) -> int:
        """The exit status of this pair: 0 if it is complete, or the time limit stopped it."""
        if self.error is not None:
            return self.error.exit_status
        return ArchiveHasGaps.exit_status if self.gaps else 0

    @property
    def calls(self) -> int:
        """How many requests for trades were sent: pages that were read, and refusals."""
        return self.pages + self.refusals

    def read_coverage(self, archive: TradeStore) -> None:
        """Fill in the fields about what is stored: gaps, coverage, first and last trade.

        Raises:
            ArchiveDamaged: a segment's footer, or the record of requested ranges, can't be read,
                or files keep vanishing.
        """
        self.gaps = archive.gaps(self.pair)
        self.reached = next(reversed(archive.coverage(self.pair)), None)

        def read_bounds() -> tuple[int | None, int | None]:
            segments = archive.segments(self.pair)
            first = _first_bounds(archive, segments)
            last = _first_bounds(archive, reversed(segments))
            return first and first[0], last and last[1]

        # Another run that has the pair's lock may be merging its files.
        self.first_ns, self.last_ns = with_snapshot_retry(read_bounds, self.pair)


def _first_bounds(archive: TradeStore, segments: Iterable[Segment]) -> tuple[int, int] | None:
    """The first and last published time of the first segment that has rows."""
    bounds = (archive.footer(segment).bounds for segment in segments)
    return next(filter(None, bounds), None)


class RefreshResult(NamedTuple):
    """The result of a refresh.

    Attributes:
        pairs: the result of each pair.
        exchange: the exchange's status, such as `online` or `maintenance`.
        calls: how many requests were sent.
        refusals: how many of them were refused or not answered properly.
        seconds: how long the run took.
        error: what ended the run as a whole early, if anything did.
        sync: of the copy in an object store, if it was asked for and came to its end.
        sync_error: what ended the sync early, if anything did.
    """

    pairs: list[RefreshedPair]
    exchange: str
    calls: int
    refusals: int
    seconds: float
    error: HarvesterError | None
    sync: SyncResult | None = None
    sync_error: HarvesterError | None = None

    @property
    def exit_status(self) -> int:
        """The gravest status of all pairs; 0 if each is complete or stopped by the time limit."""
        statuses = [error.exit_status for error in (self.error, self.sync_error) if error]
        return gravest([*statuses, *(pair.exit_status for pair in self.pairs)])


MAINTENANCE = "maintenance"


async def refresh(
    archive: TradeStore,
    settings: Settings,
    options: RunOptions,
    pairs: Sequence[str] = (),
    *,
    max_minutes: float | None = None,
    asset_class: str | None = None,
) -> RefreshResult:
    """Download new trades of pairs, fill their gaps, compact their files and build roll-ups.

    Coverage then ends at the exchange's clock minus `settle_s`. Errors are part of the result: that
    of one pair does not stop the others.

    Args:
        archive: where the trades are stored.
        settings: `[refresh] pairs` applies if `pairs` is empty; if both are, all stored pairs are
            refreshed.
        options: listener for progress and warnings, and the token that stops the run.
        pairs: names and patterns.
        max_minutes: stop after this time; what was downloaded is kept.
        asset_class: limit patterns, and all stored pairs, to this class.

    Raises:
        NothingStored: no pair is named, and none is stored.
    """
    texts = pairs or settings.refresh.pairs
    # Before the record of the run would begin an archive in a wrong folder.
    if not texts and not archive.stored_or_requested():
        raise NothingStored(
            f"nothing to refresh: the archive at {archive.path} is empty, and [refresh] pairs "
            "names none. `harvester backfill XBT/USD` creates it"
        )
    request = {
        "pairs": list(pairs),
        **({"class": asset_class} if asset_class else {}),
        "max_minutes": max_minutes,
    }
    with record_run(archive, "refresh", request, settings, options.warn) as record:
        result = await _Refresh(archive, settings, options).run(texts, asset_class, max_minutes)
        record.calls, record.refusals = result.calls, result.refusals
        record.pairs = pair_results(result.pairs)
        record.exit_status = result.exit_status
        record.error = None if result.error is None else str(result.error)
        return result


class _Refresh:
    """The state of a refresh while it runs."""

    def __init__(self, archive: TradeStore, settings: Settings, options: RunOptions) -> None:
        self._archive = archive
        self._settings = settings
        self._listener = options.listener
        self._cancel = options.cancel
        # Only `backfill --replace-imported` corrects a count, so no nightly run fails by it.
        self._options = replace(
            options, listener=self._on_event, tolerates_wrong_import_counts=True
        )
        self._client = Client(
            settings.exchange,
            on_wait=self._on_wait,
            on_pace=lambda pace: self._listener(Paced(pace.pair, pace)),
        )
        self._exchange = ""
        self._is_time_limit_reached = False
        self._targets: list[RefreshTarget] = []
        self._results: dict[str, RefreshedPair] = {}
        self._started_s: dict[str, float] = {}

    async def run(
        self, texts: Sequence[str], asset_class: str | None, max_minutes: float | None
    ) -> RefreshResult:
        """Refresh the pairs that names and patterns mean; `asset_class` limits patterns."""
        timer = None
        if max_minutes is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(max_minutes * 60, self.stop_at_time_limit)
        begun_s = time.monotonic()
        archive, error = self._archive, None
        doing = f"the archive at {archive.path} is being refreshed"
        try:
            with locked(archive.root / "locks", "_refresh", doing=doing):
                await self._list_and_refresh(texts, asset_class)
        except HarvesterError as reason:
            error = reason
        finally:
            if timer is not None:
                timer.cancel()
            # The token that the time limit cancelled is reset, so that a sync may follow.
            self._cancel.is_cancelled = self._cancel.is_cancelled_by_caller
        calls, refusals = self._client.calls, self._client.refusals
        results = [self._result_of(target.pair.altname) for target in self._targets]
        seconds = round(time.monotonic() - begun_s, 3)
        return RefreshResult(results, self._exchange, calls, refusals, seconds, error)

    def stop_at_time_limit(self) -> None:
        """Stop the run, as the time limit is reached."""
        self._is_time_limit_reached = True
        self._cancel.end_run()

    async def _list_and_refresh(self, texts: Sequence[str], asset_class: str | None) -> None:
        """Refresh the pairs; if the exchange can't be asked, each known pair gets that error."""
        stored = self._archive.stored_or_requested()
        pairs = RefreshCandidates({}, {}, stored, asset_class)
        async with self._client:
            try:
                listed, known = await self._cancel.guard(self._list_pairs())
            except (ExchangeError, Interrupted) as error:
                reason = self._time_limit_or(error)
                known = known_pairs(self._archive)
                pairs = pairs._replace(listed=known, known=known)
                self._targets = select_refresh_targets(texts, pairs)
                for target in self._targets:
                    failed = _failed(target.pair.altname, reason)
                    self._complete_result(target._replace(listed=True), failed)
                raise reason from error
            await self._refresh_targets(
                select_refresh_targets(texts, pairs._replace(listed=listed, known=known))
            )

    async def _list_pairs(self) -> tuple[dict[str, Pair], dict[str, Pair]]:
        """Ask the exchange for its status and its pairs; return those listed, and those known."""
        try:
            self._exchange = await self._client.status()
        except ExchangeUnreachable:
            raise
        except ExchangeError:
            # Such as an API server that does not have this endpoint.
            self._exchange = "online"
        if self._exchange == MAINTENANCE:
            raise ExchangeRefused(
                "the exchange is in maintenance: nothing was requested; run refresh again later"
            )
        return await request_pairs(self._client, self._archive, may_be_empty=True)

    async def _refresh_targets(self, targets: list[RefreshTarget]) -> None:
        """Download the listed pairs, then maintain the files of the others."""
        self._targets = list(await asyncio.gather(*map(self._confirm_listing, targets)))
        downloads: list[tuple[RefreshTarget, BackfillRequest]] = []
        others: list[tuple[RefreshTarget, HarvesterError | None]] = []
        for target in self._targets:
            requested, error = (None, target.error) if target.error else self._range_of(target)
            if requested is not None:
                downloads.append((target, BackfillRequest(target.pair, requested)))
            else:
                others.append((target, error))
        results = await self._download([request for _, request in downloads])
        for (target, _), result in zip(downloads, results, strict=True):
            self._complete_result(target, result)
        for target, error in others:
            name = target.pair.altname
            result = _failed(name, error or await capture_error(self._maintain(name)))
            self._listener(result)
            self._complete_result(target, result)

    async def _confirm_listing(self, target: RefreshTarget) -> RefreshTarget:
        """Mark a missing pair as listed if the exchange answers: its list may be incomplete."""
        if target.listed or target.error is not None or target.renamed_to is not None:
            return target
        try:
            page = await self._cancel.guard(self._client.page(target.pair, None))
        except ExchangeRefused:
            return target
        except HarvesterError as error:
            return target._replace(error=self._time_limit_or(error))
        # Without a key, its folder would accept the next market that is given this name.
        pair = (
            target.pair
            if target.pair.key
            else msgspec.structs.replace(target.pair, key=page.market)
        )
        return target._replace(pair=pair, listed=True)

    async def _download(self, requests: list[BackfillRequest]) -> list[BackfillResult]:
        self._listener(Begun(len(requests)))
        if not requests:
            # Without a pair, nobody would get the error of a request of the clock.
            return []
        try:
            results = await backfill(
                self._client, self._archive, requests, self._settings, self._options
            )
        except HarvesterError as error:
            # It ended before the first pair was begun.
            reason = self._time_limit_or(error)
            return [_failed(request.pair.altname, reason) for request in requests]
        context = DownloadContext(self._client, self._archive, self._settings, self._options)
        jobs = asyncio.Semaphore(self._settings.exchange.jobs)
        fill_gaps = partial(self._fill_earlier_gaps, context, jobs)
        results = list(await asyncio.gather(*map(fill_gaps, requests, results)))
        if any(isinstance(result.error, ExchangeError) for result in results):
            with suppress(ExchangeError, Interrupted):
                self._exchange = await self._cancel.guard(self._client.status())
        return [
            result._replace(error=result.error and self._time_limit_or(result.error))
            for result in results
        ]

    async def _fill_earlier_gaps(
        self,
        context: DownloadContext,
        jobs: asyncio.Semaphore,
        request: BackfillRequest,
        result: BackfillResult,
    ) -> BackfillResult:
        """Fill the gaps before the range that was just downloaded; return the combined result."""
        name = request.pair.altname
        try:
            gaps = self._archive.gaps(name) if not result.error else []
        except HarvesterError as damage:
            return result._replace(error=damage)
        if all(gap.after >= request.range.after for gap in gaps):
            return result
        filled: list[BackfillResult] = []

        async def work() -> None:
            with open_writer(self._archive, name) as pair_writer:
                download = PairDownload(context, BackfillRequest(request.pair, EVERYTHING))
                filled.append(await download.fill_gaps(pair_writer))

        async with jobs:
            error = await capture_error(work())
        return result._replace(
            pages=result.pages + sum(earlier.pages for earlier in filled),
            error=error or next((earlier.error for earlier in filled), None),
        )

    async def _maintain(self, name: str) -> None:
        """Compact and check the files of a pair that the exchange does not list any more."""
        if self._cancel.is_cancelled_by_caller:
            raise Interrupted
        with open_writer(self._archive, name) as pair_writer:
            await asyncio.to_thread(pair_writer.end_requests)
            await asyncio.to_thread(
                run_maintenance, pair_writer, self._settings.candles.rollups, self._listener
            )
            check_not_in_future(self._archive, name, self._options.now_ns())

    def _range_of(self, target: RefreshTarget) -> tuple[Range | None, HarvesterError | None]:
        """The range to download: from the last start that was requested, or the first trade, on.

        None for a pair that the exchange does not list, or whose requests can't be read.
        """
        if not target.listed:
            return None, None
        name = target.pair.altname
        try:
            requested = self._archive.requested(name)
        except HarvesterError as error:
            return None, error
        return Range(last_start(requested, self._options.now_ns()) or 0, END_OF_TIME), None

    def _result_of(self, name: str) -> RefreshedPair:
        return self._results.setdefault(name, RefreshedPair(name))

    def _complete_result(self, target: RefreshTarget, result: BackfillResult) -> None:
        refreshed = self._result_of(target.pair.altname)
        refreshed.pages, refreshed.renamed_to, refreshed.error = (
            result.pages,
            target.renamed_to,
            result.error,
        )
        try:
            # A text that is no pair's name must not be used as a folder's name.
            if not isinstance(target.error, UnknownPair):
                refreshed.read_coverage(self._archive)
        except HarvesterError as error:
            # Damage is reported even if the time limit was reached.
            refreshed.error = (
                error if isinstance(refreshed.error, TimeLimitReached) else refreshed.error or error
            )
        refreshed.state = self._state(target, refreshed)

    def _state(self, target: RefreshTarget, refreshed: RefreshedPair) -> str:
        match refreshed.error:
            case None if not target.listed:
                return "renamed" if target.renamed_to else "delisted"
            case None:
                return "gaps" if refreshed.gaps else "complete"
            case TimeLimitReached():
                return "unfinished"
            case Interrupted():
                return "interrupted"
            case ArchiveLocked():
                return "locked"
            case ExchangeError() if MAINTENANCE in (self._exchange, target.pair.status):
                return MAINTENANCE
        return "failed"

    def _time_limit_or(self, error: HarvesterError) -> HarvesterError:
        """`TimeLimitReached` for an interruption by the time limit; else the error itself."""
        return (
            TimeLimitReached()
            if self._is_time_limit_reached and isinstance(error, Interrupted)
            else error
        )

    def _on_event(self, event: Event) -> None:
        """Note times and numbers per pair, and pass the event on to the listener."""
        match event:
            case Started(pair):
                self._started_s.setdefault(pair, time.monotonic())
            case Committed(pair, _, rows):
                self._result_of(pair).trades += rows
            case BackfillResult(pair):
                started_s = self._started_s.get(pair, time.monotonic())
                self._result_of(pair).seconds = round(time.monotonic() - started_s, 3)
                if event.error is not None:
                    event = event._replace(error=self._time_limit_or(event.error))
        self._listener(event)

    def _on_wait(self, what: str, why: str) -> None:
        self._result_of(what).refusals += 1
        self._listener(Waiting(what, why))


def _failed(name: str, error: HarvesterError | None) -> BackfillResult:
    return BackfillResult(name, 0, 0, None, [], error)
