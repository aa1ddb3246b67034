"""The nightly refresh: download what is new of every pair in an archive, and its result."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from harvester.config import Settings
from harvester.download.backfill import backfill, begin, fill
from harvester.download.events import (
    BackfillResult,
    Begun,
    Committed,
    Event,
    Paced,
    Started,
    Waiting,
)
from harvester.download.pair import finish_replacing, run_maintenance
from harvester.download.pair_selection import known_pairs, listed_and_known
from harvester.download.request import BackfillRequest, RunOptions
from harvester.errors import (
    ArchiveHasGaps,
    ArchiveLocked,
    ExchangeError,
    ExchangeRefused,
    ExchangeUnreachable,
    HarvesterError,
    Interrupted,
    NothingHeld,
    UnknownPair,
    capture_error,
    gravest,
)
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.kraken.rate_limit import PaceState
from harvester.operations.refresh_pairs import Market, RefreshTarget, targets
from harvester.storage.lock import held
from harvester.storage.replacement_staging import check_not_torn
from harvester.storage.segment import Segment
from harvester.storage.trade_store import LISTINGS, TradeStore, check_not_in_future
from harvester.storage.writer import writer
from harvester.times import END_OF_TIME, Range

# --- refreshed ------------------------------------------------------------------------------------


class TimeIsUp(HarvesterError):
    """The time allowed for a run was up before it was done: what was asked for, and no failure."""

    exit_status = 0

    def __init__(self) -> None:
        super().__init__("the time was up; the next run goes on where this one stopped")


@dataclass(slots=True)
class RefreshedPair:
    """What a refresh came to for one pair.

    Attributes:
        pair: altname, as the archive has it.
        state: `complete`, `gaps`, `delisted`, `renamed` (its tape goes on under another name that
            is held, too), `maintenance`, `locked` (another run is writing it), `unfinished` (the
            time was up), `interrupted`, or `failed`.
        trades: how many were added.
        pages: of trades, that were read.
        refusals: calls for trades that the exchange refused, or gave no good answer to.
        seconds: from the beginning of its crawl to the end.
        first_ns: published time of the first trade held, None for none.
        last_ns: of the last one.
        reached: the range that is covered up to its end, None where nothing is.
        gaps: what was wanted and is not covered.
        renamed_to: what the exchange calls it now, where that is another name.
        error: what ended it, if anything did.
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
        """One line for people."""
        why = str(self.error) if self.error is not None else ""
        if not why and self.gaps:
            why = f"{len(self.gaps)} gaps stay, the first {self.gaps[0]}"
        done = f"{self.pair}: {self.state}: {self.trades:,} trades in {self.pages:,} pages"
        return f"{done}; {why}" if why else done

    @property
    def exit_status(self) -> int:
        """0 where nothing is wrong: complete, or stopped because the time was up."""
        if self.error is not None:
            return self.error.exit_status
        return ArchiveHasGaps.exit_status if self.gaps else 0

    @property
    def calls(self) -> int:
        """For trades: pages that were read, and refusals."""
        return self.pages + self.refusals

    def look(self, archive: TradeStore) -> None:
        """Fill in what is held of the pair by now.

        Raises:
            ArchiveDamaged: a segment's footer, or what was wanted, can't be read.
        """
        self.gaps = archive.gaps(self.pair)
        self.reached = next(reversed(archive.coverage(self.pair)), None)
        for _ in range(LISTINGS):
            segments = archive.segments(self.pair)
            try:
                first, last = (_bounds(archive, some) for some in (segments, reversed(segments)))
            except FileNotFoundError:
                # Whoever holds the pair's lock merges its files.
                continue
            self.first_ns, self.last_ns = first and first[0], last and last[1]
            return


def _bounds(archive: TradeStore, segments: Iterable[Segment]) -> tuple[int, int] | None:
    """The first and last published time of the first of some segments that has rows."""
    return next((known for segment in segments if (known := archive.bounds(segment))), None)


class RefreshResult(NamedTuple):
    """What a refresh came to. `error`: what ended it as a whole, if anything did."""

    pairs: list[RefreshedPair]
    exchange: str
    calls: int
    refusals: int
    seconds: float
    error: HarvesterError | None

    @property
    def exit_status(self) -> int:
        """The gravest of all pairs', 0 only where each is complete or the time was up."""
        whole = [self.error.exit_status] if self.error else []
        return gravest([*whole, *(pair.exit_status for pair in self.pairs)])


# --- refresh --------------------------------------------------------------------------------------

LOCK = "_refresh"
MAINTENANCE = "maintenance"
ONLINE = "online"


async def refresh(
    archive: TradeStore,
    settings: Settings,
    watch: RunOptions,
    pairs: Sequence[str] = (),
    *,
    most_s: float | None = None,
) -> RefreshResult:
    """Bring pairs up to the exchange's now less `settle_s`, fill their gaps, tend their files.

    Whatever goes wrong is in the result: of one pair, and the others go on; or of all.

    Args:
        archive: where they are kept.
        settings: `[refresh] pairs` tells which, unless `pairs` does; none means those held.
        watch: told of progress, and asked whether to stop.
        pairs: names and patterns.
        most_s: end in good order after so many seconds; what was fetched is kept.

    Raises:
        NothingHeld: no pair is named, and none is held.
    """
    texts = pairs or settings.refresh.pairs
    if not (texts or archive.named()):
        raise NothingHeld(
            f"nothing to refresh: the archive at {archive.path} is empty, and [refresh] pairs "
            "names none. `harvester backfill XBT/USD` begins one"
        )
    run = _Refreshing(archive, settings, watch)
    timer = None
    if most_s is not None:
        timer = asyncio.get_running_loop().call_later(most_s, run.time_is_up)
    begun_s = time.monotonic()
    doing = f"the archive at {archive.path} is being refreshed"
    error = None
    try:
        with held(archive.root / "locks", LOCK, doing=doing):
            await run.all(texts)
    except HarvesterError as reason:
        error = reason
    finally:
        if timer is not None:
            timer.cancel()
    return run.result(error, time.monotonic() - begun_s)


class _Refreshing:
    """One refresh on its way."""

    def __init__(self, archive: TradeStore, settings: Settings, watch: RunOptions) -> None:
        self._archive = archive
        self._settings = settings
        self._tell = watch.listener
        self._stop = watch.stop
        self._watch = replace(watch, listener=self._hear)
        self._client = Client(settings.exchange, on_wait=self._waits, on_pace=self._paced)
        self._exchange = ""
        self._time_is_up = False
        self._rows: list[RefreshedPair] = []
        self._refusals: Counter[str] = Counter()
        self._added: Counter[str] = Counter()
        self._begun_s: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    def time_is_up(self) -> None:
        """End in good order."""
        self._time_is_up = True
        self._stop.cancel()

    async def all(self, texts: Sequence[str]) -> None:
        """Refresh what is meant; there are rows for all that is known before an error."""
        market = Market({}, known_pairs(self._archive), self._archive.named())
        async with self._client:
            try:
                listed, known = await self._stop.guard(self._listed())
            except (ExchangeError, Interrupted) as error:
                reason = self._reason(error)
                for target in targets(texts, market._replace(listed=market.known)):
                    outcome = _failed(target.pair.altname, reason)
                    self._rows.append(self._row(target._replace(listed=True), outcome))
                raise reason from error
            await self._each(targets(texts, market._replace(listed=listed, known=known)))

    def result(self, error: HarvesterError | None, seconds: float) -> RefreshResult:
        """All that came of it."""
        client = self._client
        return RefreshResult(
            self._rows, self._exchange, client.calls, client.refusals, round(seconds, 3), error
        )

    async def _listed(self) -> tuple[dict[str, Pair], dict[str, Pair]]:
        self._exchange = await self._status()
        if self._exchange == MAINTENANCE:
            raise ExchangeRefused(
                "the exchange is in maintenance, so it was asked for nothing: the next run goes on"
            )
        return await listed_and_known(self._client, self._archive)

    async def _status(self) -> str:
        try:
            return await self._client.status()
        except ExchangeUnreachable:
            raise
        except ExchangeError:
            # Such as a mirror that does not know the question.
            return ONLINE

    async def _each(self, found: list[RefreshTarget]) -> None:
        found = list(await asyncio.gather(*map(self._confirmed, found)))
        asked: list[tuple[RefreshTarget, BackfillRequest]] = []
        rest: list[tuple[RefreshTarget, HarvesterError | None]] = []
        for target in found:
            span, error = (None, target.error) if target.error else self._span(target)
            if span is not None:
                asked.append((target, BackfillRequest(target.pair, span)))
            else:
                rest.append((target, error))
        outcomes = await self._fetch([wish for _, wish in asked])
        for (target, _), outcome in zip(asked, outcomes, strict=True):
            self._rows.append(self._row(target, outcome))
        for target, error in rest:
            name = target.pair.altname
            outcome = _failed(name, error or await capture_error(self._tend(name)))
            self._tell(outcome)
            self._rows.append(self._row(target, outcome))
        places = {target.pair.altname: place for place, target in enumerate(found)}
        self._rows.sort(key=lambda row: places[row.pair])

    async def _confirmed(self, target: RefreshTarget) -> RefreshTarget:
        """The same, listed where the exchange still answers: a list may have been cut short."""
        if target.listed or target.error is not None or target.renamed_to is not None:
            return target
        try:
            await self._stop.guard(self._client.page(target.pair, None))
        except ExchangeRefused:
            return target
        except HarvesterError as error:
            return target._replace(error=self._reason(error))
        return target._replace(listed=True)

    async def _fetch(self, wishes: list[BackfillRequest]) -> list[BackfillResult]:
        self._tell(Begun(len(wishes)))
        try:
            outcomes = await backfill(
                self._client, self._archive, wishes, self._settings, self._watch
            )
        except HarvesterError as error:
            # It ended before any pair's turn.
            return [_failed(wish.pair.altname, self._reason(error)) for wish in wishes]
        outcomes = list(await asyncio.gather(*map(self._earlier, wishes, outcomes)))
        if any(isinstance(outcome.error, ExchangeError) for outcome in outcomes):
            with suppress(ExchangeError, Interrupted):
                self._exchange = await self._stop.guard(self._client.status())
        return [
            outcome._replace(error=outcome.error and self._reason(outcome.error))
            for outcome in outcomes
        ]

    async def _earlier(self, wish: BackfillRequest, outcome: BackfillResult) -> BackfillResult:
        """Fill the gaps that lie before what was asked for just now, too."""
        name = wish.pair.altname
        if outcome.error or all(h.after >= wish.span.after for h in self._archive.gaps(name)):
            return outcome
        filled: list[BackfillResult] = []

        async def work() -> None:
            run = begin(self._client, self._archive, self._settings, self._watch)
            with writer(self._archive, name) as one:
                filled.append(await fill(run, wish.pair, one))

        error = await capture_error(work())
        pages = outcome.pages + sum(backfill_result.pages for backfill_result in filled)
        return outcome._replace(
            pages=pages,
            error=error or next((backfill_result.error for backfill_result in filled), None),
        )

    async def _tend(self, name: str) -> None:
        """Tend the files of a pair that can't be asked for any more."""
        with writer(self._archive, name) as one:
            await asyncio.to_thread(finish_replacing, one, self._tell)
            await asyncio.to_thread(
                run_maintenance, one, self._settings.candles.rollups, self._tell
            )
            await asyncio.to_thread(check_not_torn, self._archive, name)
            check_not_in_future(self._archive, name, self._watch.now_ns())

    def _span(self, target: RefreshTarget) -> tuple[Range | None, HarvesterError | None]:
        """From where it was asked for last, or from the first trade ever, to now.

        Nothing of a pair that can't be asked for.
        """
        if not target.listed:
            return None, None
        name = target.pair.altname
        try:
            spans = self._archive.wanted(name)
        except HarvesterError as error:
            return None, error
        now_ns = self._watch.now_ns()
        begun = [span.after for span in spans if span.after < now_ns] or [s.after for s in spans]
        return Range(begun[-1] if begun else 0, END_OF_TIME), None

    def _row(self, target: RefreshTarget, outcome: BackfillResult) -> RefreshedPair:
        name = target.pair.altname
        row = RefreshedPair(
            name,
            trades=self._added[name],
            pages=outcome.pages,
            refusals=self._refusals[name],
            seconds=self._seconds.get(name, 0.0),
            renamed_to=target.renamed_to,
            error=outcome.error,
        )
        try:
            # A text that means no pair is no name for a folder.
            if not isinstance(target.error, UnknownPair):
                row.look(self._archive)
        except HarvesterError as error:
            # That the time was up hides no damage.
            row.error = error if isinstance(row.error, TimeIsUp) else row.error or error
        if not target.listed and row.reached is not None:
            # What lies behind its last trade can't be had, and need not have been anything.
            row.gaps = [gap for gap in row.gaps if gap.after < row.reached.through]
        row.state = self._state(target, row)
        return row

    def _state(self, target: RefreshTarget, row: RefreshedPair) -> str:
        match row.error:
            case None if not target.listed:
                return "renamed" if target.renamed_to else "delisted"
            case None:
                return "gaps" if row.gaps else "complete"
            case TimeIsUp():
                return "unfinished"
            case Interrupted():
                return "interrupted"
            case ArchiveLocked():
                return "locked"
            case ExchangeError() if MAINTENANCE in (self._exchange, target.pair.status):
                return MAINTENANCE
        return "failed"

    def _reason(self, error: HarvesterError) -> HarvesterError:
        return TimeIsUp() if self._time_is_up and isinstance(error, Interrupted) else error

    def _hear(self, event: Event) -> None:
        match event:
            case Started(pair):
                self._begun_s.setdefault(pair, time.monotonic())
            case Committed(pair, _, rows):
                self._added[pair] += rows
            case BackfillResult(pair):
                begun_s = self._begun_s.get(pair, time.monotonic())
                self._seconds[pair] = round(time.monotonic() - begun_s, 3)
                if event.error is not None:
                    event = event._replace(error=self._reason(event.error))
        self._tell(event)

    def _waits(self, what: str, why: str) -> None:
        self._refusals[what] += 1
        self._tell(Waiting(what, why))

    def _paced(self, pace: PaceState) -> None:
        self._tell(Paced(pace.pair, pace))


def _failed(name: str, error: HarvesterError | None) -> BackfillResult:
    return BackfillResult(name, 0, 0, None, [], error)
