"""Follow pairs until cancelled: poll their newest trades, and store them once they are settled."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from harvester.config import Settings
from harvester.download.exchange import BackfillRequest, DownloadContext, RunOptions
from harvester.download.pair_download import PairDownload, run_maintenance
from harvester.errors import (
    ExchangeError,
    ExchangeRefused,
    HarvesterError,
    ImportIncomplete,
    Interrupted,
    capture_error,
)
from harvester.events import BackfillResult, Committed, Event, Followed, Noted, PageRead
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.kraken.trades import PAGE_ROWS, TradesPage
from harvester.operations.run_log import RunRecord, pair_results, record_run
from harvester.pair_selection import PairSelection, last_start, select_pairs
from harvester.schema import NO_ROWS, Int64s, sort_rows, times
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer, open_writer
from harvester.times import END_OF_TIME, SECOND, UNITS_NS, Range, show, show_seconds

SPARE_FACTOR = 0.8
"""Trades are committed after this fraction of `--every`: a burst or a slow answer takes time.

The exchange's clock, by which they are settled, counts whole seconds; this makes up for that, too.
"""

QUIET_S = 60.0
"""Where nothing was traded, coverage is committed this often: each commit is synced to the disk."""

CLOCK_AGE_S = 1.0
"""The exchange's clock is requested this often at most, by all pairs together."""

MERGE_EVERY = 4
"""Merge a pair's segments after this many new ones."""

MAX_UNMERGED = 4 * MERGE_EVERY
"""At this many unmerged segments, polls wait for the running merge, such as on a slow disk."""

FAILURES_OF_AN_OUTAGE = 2
"""After this many failed requests without a good answer between them, an outage is reported."""

FAR_BEHIND_NS = 600 * SECOND
"""A pair that is further behind is catching up: only some of those are downloaded at once."""

MAX_PRICES = 5
"""The status line shows the prices of this many pairs at most."""

MAX_AGE_SHOWN_S = 600
"""The status line leaves out ages of this many seconds or more."""


async def follow(
    archive: TradeStore,
    settings: Settings,
    options: RunOptions,
    selection: PairSelection,
    *,
    after: int | None,
    every_s: float,
) -> list[BackfillResult]:
    """Follow pairs until the run is cancelled.

    If the exchange is down, the run waits and then downloads what it missed. A pair stops at an
    error that waiting does not resolve; the other pairs continue. The run ends when all pairs have.

    Args:
        archive: where the trades are stored.
        settings: `settle_s` says how old trades are when they are stored.
        options: listener for progress and warnings, and the token that ends the run.
        selection: which pairs.
        after: download what is missing after this time first, in nanoseconds; None for where the
            last request of a stored pair began, and for now where nothing is stored.
        every_s: store new trades at least this often, in seconds.

    Returns:
        The result of each pair, for the whole time.

    Raises:
        UnknownPair: no market has one of the names.
        ExchangeError: the exchange did not answer with its list of pairs or its clock.
        Interrupted: cancelled before the first pair.
    """
    request = {
        "pairs": [str(name) for name in selection.names],
        "since": None if after is None else show(after + 1),
        "every_s": every_s,
    }
    with record_run(archive, "follow", request, settings, options.warn) as record:
        return await _Follow(archive, settings, options, after, every_s).run(selection, record)


class _Follow:
    """What the followed pairs of a run share.

    Attributes:
        context: of their downloads.
        report: passes an event on to the listener of the run.
        after: see `follow`.
        every_s: see `follow`.
        catching_up: limits how many pairs that are far behind are downloaded at once.
    """

    def __init__(
        self,
        archive: TradeStore,
        settings: Settings,
        options: RunOptions,
        after: int | None,
        every_s: float,
    ) -> None:
        self.after, self.every_s = after, every_s
        self.catching_up = asyncio.Semaphore(settings.exchange.jobs)
        self.report = options.listener
        self._pairs: dict[str, _FollowedPair] = {}
        self._failures = 0
        self._silent_since_s = 0.0
        flush_s = min(settings.archive.flush_s, every_s)
        settings = replace(
            settings,
            archive=replace(settings.archive, flush_s=flush_s),
            exchange=replace(settings.exchange, give_up_s=math.inf),
        )
        self._client = Client(settings.exchange, on_wait=self._on_wait)
        options = replace(options, listener=self._on_event)
        self.context = DownloadContext(self._client, archive, settings, options)
        self.context.clock.max_age_s = min(CLOCK_AGE_S, every_s)

    async def run(self, selection: PairSelection, record: RunRecord) -> list[BackfillResult]:
        """Follow the pairs until the run is cancelled, or no pair is left."""
        client, context = self._client, self.context
        async with client:
            chosen = select_pairs(client, context.archive, selection)
            pairs = await context.options.cancel.guard(chosen)
            # An exchange that does not answer now is an error; later, it is an outage.
            await context.options.cancel.guard(context.clock.settled_ns())
            self._pairs = {pair.altname: _FollowedPair(self, pair) for pair in pairs}
            results = await asyncio.gather(*(pair.run() for pair in self._pairs.values()))
        record.calls, record.refusals = client.calls, client.refusals
        record.pairs = pair_results(results)
        return results

    def record_answer(self, pair: _FollowedPair) -> None:
        """Note that a request for a pair had a good answer, which ends an outage."""
        if self._failures >= FAILURES_OF_AN_OUTAGE:
            silent_s = time.monotonic() - self._silent_since_s
            self.report(Noted(pair.name, f"the exchange answers again, after {silent_s:.0f} s"))
        self._failures, pair.is_waiting = 0, False

    def summary(self) -> str:
        """All pairs in one line, the most important part first."""
        pairs = [pair for pair in self._pairs.values() if not pair.has_ended]
        behind = [pair.name for pair in pairs if pair.is_behind]
        reached = [pair.reached_ns for pair in pairs if pair.reached_ns is not None]
        prices = [f"{pair.name} {pair.last_price}" for pair in pairs if pair.last_price]
        silent_s = time.monotonic() - self._silent_since_s
        parts = [
            f"{len(pairs)} pairs" if len(pairs) > 1 else "",
            f"no answer for {silent_s:.0f} s" if self._failures else "",
            f"{behind[0] if len(behind) == 1 else len(behind)} catching up" if behind else "",
            ", ".join(prices[:MAX_PRICES]),
            self._age_text(min(reached)) if reached else "",
            f"{sum(pair.trades for pair in pairs):,} trades added",
            f"{sum(pair.unsettled for pair in pairs):,} not settled",
        ]
        return "  ".join(part for part in parts if part)

    def _age_text(self, reached_ns: int) -> str:
        """Up to when all pairs are stored, and how long ago that is."""
        age_s = (self.context.options.now_ns() - reached_ns) // SECOND
        return f"stored through {show_seconds(reached_ns)}" + (
            f", {age_s} s ago" if 0 <= age_s < MAX_AGE_SHOWN_S else ""
        )

    def _on_wait(self, what: str, why: str) -> None:
        """Note a request without a good answer, which is repeated; report an outage once."""
        self._failures += 1
        if self._failures == 1:
            self._silent_since_s = time.monotonic()
        if self._failures == FAILURES_OF_AN_OUTAGE:
            self.report(Noted(what, f"no good answer ({why}); it is requested until there is one"))
        for name, pair in self._pairs.items():
            # What is not requested for a pair, such as the clock, is requested for all of them.
            if what == name or what not in self._pairs:
                pair.is_waiting = True
                self.report(pair.event())

    def _on_event(self, event: Event) -> None:
        """Count what is stored, and pass on what matters in a run that never ends."""
        match event:
            case Committed(name):
                pair = self._pairs[name]
                pair.record_commit(event)
                self.report(event)
                if pair.is_behind:
                    self.report(pair.event())
            case PageRead(name):
                self.record_answer(self._pairs[name])
            case Noted():
                self.report(event)
            case _:
                pass


class _FollowedPair:
    """Follows one pair.

    Attributes:
        name: altname.
        trades: stored since the start.
        reached_ns: all trades up to this time are stored; None if none are.
        last_price: of the newest trade that the exchange showed, as text; None if there is none.
        is_behind: whether coverage ends more than ten minutes, or two `every_s` if that is longer,
            before the settled time.
        is_waiting: whether its last request had no good answer.
        has_ended: whether it is not followed any more.
    """

    def __init__(self, run: _Follow, pair: Pair) -> None:
        self.name = pair.altname
        self.trades = 0
        self.reached_ns: int | None = None
        self.last_price: str | None = None
        self.is_behind = self.is_waiting = self.has_ended = False
        self._run, self._pair = run, pair
        self._archive, self._cancel = run.context.archive, run.context.options.cancel
        self._writer: Writer
        # Where it began, and the end of coverage, from which the next download goes on.
        self._first_after: int | None = None
        self._after = 0
        self._newest_times: Int64s = times(NO_ROWS)
        self._shows_all_new = True
        self._has_polled = False
        self._pages = 0
        self._reported = ""
        self._poll_error: HarvesterError | None = None
        """Why the last poll failed; None if it did not."""
        self._import_error: ImportIncomplete | None = None
        """The first imported range that turned out to lack trades."""
        self._new_segments = 0
        self._hour: int | None = None
        self._rolled_up = 0
        self._maintenance: asyncio.Task[None] | None = None
        self._maintenance_error: HarvesterError | None = None

    @property
    def unsettled(self) -> int:
        """How many trades of the newest page are not stored yet."""
        return int((self._newest_times > (self.reached_ns or self._after)).sum())

    def event(self) -> Followed:
        """Return the pair's state as a `Followed` event."""
        last_ns = int(self._newest_times[-1]) if len(self._newest_times) else None
        is_waiting = self.is_waiting or self._poll_error is not None
        state = "waiting" if is_waiting else "catching up" if self.is_behind else "live"
        return Followed(
            self.name,
            state,
            self.trades,
            self.reached_ns,
            last_ns,
            self.last_price,
            self.unsettled,
            self._run.summary(),
        )

    def record_commit(self, event: Committed) -> None:
        """Note what was stored."""
        self.trades += event.rows
        self.reached_ns = max(self.reached_ns or 0, event.span.through)
        self._new_segments += 1

    async def run(self) -> BackfillResult:
        """Follow the pair until the run is cancelled; an error that ends it is in the result."""
        error = await capture_error(self._follow())
        is_live = self._has_polled and not self.is_behind and self._poll_error is None
        if isinstance(error, Interrupted) and is_live:
            error = None  # the user ended it
        self.has_ended = True
        download, begun = self._new_download(), self._first_after or 0
        download.trades, download.pages.requested = self.trades, self._pages
        requested = [Range(begun, self._after)] if begun < self._after else []
        result = download.result(requested, error or self._maintenance_error or self._import_error)
        self._run.report(result)
        return result

    def _new_download(self) -> PairDownload:
        requested = Range(self._after, END_OF_TIME)
        return PairDownload(self._run.context, BackfillRequest(self._pair, requested))

    async def _follow(self) -> None:
        every_s = SPARE_FACTOR * self._run.every_s
        with open_writer(self._archive, self.name, command="follow") as self._writer:
            try:
                while True:
                    begun_s = time.monotonic()
                    took_s = await self._poll_or_wait()
                    self._run.report(self.event())
                    await self._maintain_if_due()
                    pause_s = begun_s + every_s - took_s - time.monotonic()
                    await self._cancel.guard(asyncio.sleep(max(0.0, pause_s)))
            finally:
                if self._maintenance is not None:
                    await asyncio.wait([self._maintenance])

    async def _poll_or_wait(self) -> float:
        """Poll the pair; if waiting may resolve an error, report it once, so that a poll follows.

        Returns how many seconds it took to store what is settled.
        """
        took_s: list[float] = []

        async def poll() -> None:
            took_s.append(await self._poll())

        error = await capture_error(poll())
        is_import = isinstance(error, ImportIncomplete)
        is_transient = isinstance(error, ExchangeError) and not isinstance(error, ExchangeRefused)
        if error is not None and not (is_import or is_transient):
            raise error
        self._poll_error = None if is_import else error
        if isinstance(error, ImportIncomplete):
            self._import_error = self._import_error or error
        if error is None:
            self._has_polled, self.is_behind = True, False
            self._run.record_answer(self)
            self._reported = ""
            return took_s[0]
        if str(error) != self._reported:
            self._reported = str(error)
            self._run.report(Noted(self.name, self._reported.removeprefix(f"{self.name}: ")))
        await self._cancel.guard(asyncio.sleep(self._run.context.settings.exchange.retry_wait_s))
        return 0.0

    async def _poll(self) -> float:
        """Request the newest trades, and store what is settled.

        Returns how many seconds it took to store. The newest page is requested first, as it shows
        whether there is anything to store; of a pair that is too busy for that it is only shown.
        """
        begun_s = time.monotonic()
        settled_ns = await self._cancel.guard(self._run.context.clock.settled_ns(self._pair))
        if self._first_after is None:
            self._begin(settled_ns)
        download, is_busy = self._new_download(), not self._shows_all_new
        try:
            if not is_busy:
                self._read_newest(await download.pages.page(None))
            if self._is_due(settled_ns):
                await self._download(download, settled_ns)
            took_s = time.monotonic() - begun_s
            if is_busy:
                self._read_newest(await download.pages.page(None))
        finally:
            self._pages += download.pages.requested
        return took_s

    def _begin(self, settled_ns: int) -> None:
        """Choose where to begin: what is stored goes on, and what is not stored begins now."""
        after, now_ns = self._run.after, self._run.context.options.now_ns()
        if after is None:
            after = last_start(self._archive.requested(self.name), now_ns)
        self._first_after = self._after = settled_ns if after is None else after
        self.reached_ns = self._covered_through()

    def _covered_through(self) -> int | None:
        coverage = self._archive.coverage(self.name)
        return coverage[-1].through if coverage else None

    def _read_newest(self, page: TradesPage) -> None:
        if not page.rows.num_rows:
            return
        rows = sort_rows(page.rows)
        self._newest_times = times(rows)
        self.last_price = f"{rows.column('price')[-1].as_py().normalize():f}"
        is_full = rows.num_rows >= PAGE_ROWS
        self._shows_all_new = not is_full or int(self._newest_times[0]) <= self._after

    def _is_due(self, settled_ns: int) -> bool:
        """Whether there is something to store: settled trades, or a long time without any."""
        if settled_ns <= self._after:
            return False
        new = self._newest_times[self._newest_times > self._after]
        quiet_ns = int(max(QUIET_S, self._run.every_s) * SECOND)
        is_long = not self._has_polled or settled_ns - self._after >= quiet_ns
        return is_long or not self._shows_all_new or bool((new <= settled_ns).any())

    async def _download(self, download: PairDownload, settled_ns: int) -> None:
        """Store what is settled; only some pairs that are far behind are downloaded at once."""
        far_ns = max(FAR_BEHIND_NS, int(2 * self._run.every_s * SECOND))
        self.is_behind = settled_ns - self._after > far_ns
        if self.is_behind:
            self._run.report(self.event())
        async with self._run.catching_up if self.is_behind else nullcontext():
            await download.download_new(self._writer)
        # A gap that is left before stays on record; it is not requested with every poll.
        self._after = max(self._after, self._covered_through() or 0)

    async def _maintain_if_due(self) -> None:
        """Merge files in the background, and build the roll-ups of an hour once it is over.

        Files of hours that are over keep their roll-ups: they are merged once an hour only.

        Raises:
            HarvesterError: what ended the maintenance before.
        """
        if self._maintenance is not None and not self._maintenance.done():
            if self._new_segments < MAX_UNMERGED:
                return
            await asyncio.wait([self._maintenance])
        if self._maintenance_error is not None:
            raise self._maintenance_error
        hour = self._after // UNITS_NS["h"]
        if hour != self._hour:
            self._hour, self._rolled_up, self._new_segments = hour, self._after, 0
            self._maintenance = asyncio.create_task(self._maintain(self._roll_up_hour))
        elif self._new_segments >= MERGE_EVERY:
            self._new_segments = 0
            compact = partial(self._writer.compact, after=self._rolled_up)
            self._maintenance = asyncio.create_task(self._maintain(compact))

    async def _maintain(self, work: Callable[[], object]) -> None:
        """Do maintenance in a thread; an error is kept for the next poll."""

        async def wait_and_work() -> None:
            async with self._run.context.merging:
                # With many pairs, a stop would wait for the work of all of them.
                if not self._cancel.is_cancelled:
                    await asyncio.to_thread(work)

        self._maintenance_error = await capture_error(wait_and_work())

    def _roll_up_hour(self) -> None:
        context = self._run.context
        run_maintenance(self._writer, context.settings.candles.rollups, context.options.listener)
        # Over days, what is known of files that are gone would add up.
        self._archive.forget_pair(self.name)
