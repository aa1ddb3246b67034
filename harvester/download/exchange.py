"""What pairs of a run share, and what is asked of the exchange: clock, pages, weekly counts."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from harvester.config import Settings
from harvester.download.buffer import MemoryBudget
from harvester.download.page_merge import JoinResult, PageMerger
from harvester.errors import ExchangeError, ExchangeUnreachable, UnreadableAnswer
from harvester.events import CancelToken, Listener
from harvester.kraken.answers import PageNotCovered
from harvester.kraken.pairs import Pair
from harvester.kraken.trades import TradesPage
from harvester.schema import joined, times, trade_ids
from harvester.storage.id_gaps import LONGEST_ROUNDING_NS, IdGap, LastId
from harvester.storage.trade_store import CLOCK_TOLERANCE_NS, TradeStore
from harvester.times import (
    BEGINNING_NS,
    DAY,
    END_OF_TIME,
    SECOND,
    Range,
    show,
)

if TYPE_CHECKING:
    from harvester.download.pair_download import PairDownload
    from harvester.kraken.client import Client

# --- request --------------------------------------------------------------------------------------


class BackfillRequest(NamedTuple):
    """A pair, and the range of its trade history that is to be stored."""

    pair: Pair
    range: Range


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a backfill is done.

    Attributes:
        listener: receives events.
        cancel: cancels the run.
        newest_first: download the newest missing month first.
        estimates: estimate the number of trades of each pair, with one more call a pair.
        tolerates_wrong_import_counts: report wrong numbers of imported trades as a note instead of
            raising ImportIncomplete.
        once_complete: called once nothing is missing of a pair, its lock still held.
        now_ns: this machine's clock, in nanoseconds.
        warn: receives a warning if the run log can't be written.
    """

    listener: Listener
    cancel: CancelToken
    newest_first: bool = False
    estimates: bool = False
    tolerates_wrong_import_counts: bool = False
    once_complete: Callable[[PairDownload], Awaitable[None]] | None = None
    # Looked up at each call, as tests move the clock.
    now_ns: Callable[[], int] = lambda: time.time_ns()  # noqa: PLW0108
    warn: Callable[[str], None] = lambda _text: None


MAX_MAINTAINED_AT_ONCE = 2
"""Merging and roll-ups take memory for each pair, and at the end of a run many pairs are due."""


@dataclass(slots=True)
class DownloadContext:
    """What the pairs of one run share.

    Attributes:
        client: of the exchange.
        archive: where trades are stored.
        settings: of harvester.
        options: of the run.
        clock: of the exchange; nothing is requested before it is used.
        maintenance: limits how many pairs are compacted at once.
        merging: lets one write buffer merge segments at a time.
        memory: bounds the trades that wait in memory.
        last_page_s: when the last good page of any pair came, by the monotonic clock.
    """

    client: Client
    archive: TradeStore
    settings: Settings
    options: RunOptions
    clock: ExchangeClock = field(init=False)
    maintenance: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MAX_MAINTAINED_AT_ONCE)
    )
    merging: asyncio.Lock = field(default_factory=asyncio.Lock)
    memory: MemoryBudget = field(default_factory=MemoryBudget)
    last_page_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        settle_s = self.settings.refresh.settle_s
        self.clock = ExchangeClock(self.client, settle_s, self.options.now_ns)


# --- the exchange's clock -------------------------------------------------------------------------

MAX_CLOCK_AGE_S = 600.0
"""The age at which the exchange's clock is requested again."""

CLOCK_ATTEMPTS = 3
"""An implausible time may be one bad answer among good ones, so it is requested again."""


class ExchangeClock:
    """The exchange's clock, checked against this machine's clock.

    It may be behind by years, as that of an API server over an old archive is. It can't be ahead:
    coverage would reach into time whose trades are still to come.
    """

    def __init__(
        self, client: Client, settle_s: float, machine_ns: Callable[[], int] | None = None
    ) -> None:
        """Create a clock; the exchange is not asked yet.

        Args:
            client: of the exchange.
            settle_s: seconds in which late trades may still be published.
            machine_ns: this machine's clock, in nanoseconds; by default `time.time_ns`.
        """
        self._client = client
        self._settle_ns = int(settle_s * SECOND)
        self._machine_ns = machine_ns or time.time_ns
        self._asked_s = -math.inf
        self._asking = asyncio.Lock()
        self.max_age_s = MAX_CLOCK_AGE_S
        """How many seconds an answer is used before `settled_ns` asks again."""
        self.time_ns = 0
        """The exchange's clock when it was last asked."""
        self.last_settled_ns = 0
        """By that clock, no more trades are published at or before this time."""
        self.ahead_ns = 0
        """How far it was ahead of this machine's clock; negative if it was behind."""
        self.is_behind = False
        """Whether it was behind this machine's clock by more than the tolerance."""

    async def settled_ns(self, pair: Pair | None = None) -> int:
        """The latest time up to which all trades are final, by an answer at most `max_age_s` old.

        If an API server covers `pair` less far than its clock: `settle_s` before coverage ends.

        The clock is not extrapolated by this machine's: the clock of an API server stands still
        where its archive ends, and a copy would claim trades that are not there.

        Args:
            pair: the market; None for the exchange's clock.

        Raises:
            UnreadableAnswer: the exchange's clock is implausible.
        """
        # One request for all pairs that need the time now.
        async with self._asking:
            if time.monotonic() - self._asked_s > self.max_age_s:
                await self.update()
        end_ns = END_OF_TIME
        if pair is not None:
            end_ns = self._client.coverage_ends_ns.get(pair.key or pair.altname, END_OF_TIME)
        return min(self.last_settled_ns, end_ns - self._settle_ns)

    async def update(self) -> None:
        """Ask for the exchange's clock.

        Trades are settled by the earlier of both clocks: where they differ within the tolerance,
        nobody knows which one is right.

        Raises:
            UnreadableAnswer: the clock is implausible in several answers.
        """
        for _ in range(CLOCK_ATTEMPTS):
            exchange_ns = await self._client.clock_ns()
            machine_ns = self._machine_ns()
            if BEGINNING_NS <= exchange_ns <= machine_ns + CLOCK_TOLERANCE_NS:
                self.time_ns, self._asked_s = exchange_ns, time.monotonic()
                self.ahead_ns = exchange_ns - machine_ns
                self.is_behind = self.ahead_ns < -CLOCK_TOLERANCE_NS
                self.last_settled_ns = min(exchange_ns, machine_ns) - self._settle_ns
                return
        raise UnreadableAnswer(
            f"the exchange's clock says {_time_text(exchange_ns)}, this machine's "
            f"{_time_text(machine_ns)}: that can't be, so nothing was downloaded; check this "
            "machine's clock, or try later"
        )

    def describe(self) -> str:
        """Both clocks, as the beginning of a message."""
        return (
            f"the exchange's clock says {_time_text(self.time_ns)}, this machine's "
            f"{_time_text(self.time_ns - self.ahead_ns)}"
        )

    async def reject_future_trades(self, rows: pa.RecordBatch, pair: str) -> None:
        """Refuse a page with a trade of the future, which would end a download too early.

        The exchange's clock counts. It is requested again first, as this machine may have slept
        since the last time.

        Args:
            rows: of the page.
            pair: its altname, for the message.

        Raises:
            UnreadableAnswer: a trade is more than a day ahead of the exchange's clock.
        """
        await self.update()
        latest_ns = int(times(rows).max())
        if latest_ns > self.time_ns + DAY:
            # Without the column `time`, which pyarrow converts to an object through pandas only.
            latest = rows.slice(int(times(rows).argmax()), 1)
            row = latest.drop_columns(["time"]).to_pylist()[0]
            raise UnreadableAnswer(
                f"{pair}: the exchange sent a trade of {show(latest_ns)}, id {row['trade_id']}, "
                f"price {row['price']:f}, volume {row['volume']:f}, while its clock says "
                f"{show(self.time_ns)}; nothing of this page was kept"
            )


def _time_text(time_ns: int) -> str:
    """A time for a message; the number of seconds where it is out of harvester's range."""
    return show(time_ns) if 0 <= time_ns < END_OF_TIME else f"{time_ns // SECOND} s"


# --- pages of a pair ------------------------------------------------------------------------------


MAX_PAGES_OF_A_GAP = 8
"""Pages that are requested at most to show an id gap again."""

MAX_CONFLICTS = 5
"""After more answers in a row that contradict one another, the download of the pair ends."""


class PairPages:
    """Requests pages of one pair, counts them, and refuses trades of the future.

    Each request ends early when the run is cancelled.

    Attributes:
        pair: whose pages.
        requested: pages requested so far.
        after: where the range begins that is downloaded, in nanoseconds.
        conflicts: answers in a row that contradicted another. Whoever sees answers agree sets it
            to 0.
        newest_ns: the last trade's time on the newest page; 0 if empty, None if not requested yet.
        newest_id: the id of that trade; 0 if unknown.
        newest_rows: the rows of the newest page, once the end of history was checked.
    """

    def __init__(self, context: DownloadContext, pair: Pair) -> None:
        """Create it; nothing is requested yet.

        Args:
            context: of the run; the exchange's clock was asked before.
            pair: whose pages.
        """
        self._context = context
        self._client = context.client
        self._cancel = context.options.cancel
        self._weekly_counts: list[tuple[int, int]] | None = None
        self.pair = pair
        self.requested = 0
        self.after = 0
        self.conflicts = 0
        self.newest_ns: int | None = None
        self._latest_ns = 0
        self.newest_id = 0
        self.newest_rows: pa.RecordBatch | None = None

    def begin_range(self, after: int) -> None:
        """Start the download of the range that begins at the time `after`, in nanoseconds."""
        self.after, self.conflicts, self.newest_rows = after, 0, None

    async def page(self, since_ns: int | None) -> TradesPage:
        """One page of trades: from the time `since_ns` on, or the newest page for None.

        An API server refuses a page that begins in a gap of its archive, as a request from a margin
        before a range may. It compares exact times: nothing of the range is missing from its start.

        Raises:
            Interrupted: the run was cancelled.
            ExchangeError: the exchange can't be reached, or refuses, or sends trades of the future.
        """
        self.requested += 1
        try:
            page = await self._cancel.guard(self._client.page(self.pair, since_ns))
        except PageNotCovered:
            if since_ns is None or not 0 < since_ns <= self.after:
                raise
            page = await self._cancel.guard(self._client.page(self.pair, self.after + 1))
        latest_ns = int(times(page.rows).max()) if page.rows.num_rows else 0
        if latest_ns > self._context.clock.time_ns + DAY:
            checked = self._context.clock.reject_future_trades(page.rows, self.pair.altname)
            await self._cancel.guard(checked)
        self._context.last_page_s = time.monotonic()
        if since_ns is None:
            self._keep_newest(page.rows)
        return page

    async def request_newest(self) -> None:
        """Request the newest page, and keep its last trade also if that is one of the future."""
        self.requested += 1
        page = await self._cancel.guard(self._client.page(self.pair, None))
        self._keep_newest(page.rows)

    def _keep_newest(self, rows: pa.RecordBatch) -> None:
        stamps = times(rows)
        self.newest_ns = int(stamps.max(initial=0))
        self._latest_ns = max(self._latest_ns, self.newest_ns)
        self.newest_id = int(trade_ids(rows)[stamps == self.newest_ns].max(initial=0))

    async def weekly_counts(self) -> list[tuple[int, int]]:
        """Trades of each week as (open time in ns, count), requested once.

        The list is empty if the exchange does not answer.
        """
        if self._weekly_counts is None:
            try:
                self._weekly_counts = await self._cancel.guard(
                    self._client.weekly_counts(self.pair)
                )
            except ExchangeError:
                self._weekly_counts = []
        return self._weekly_counts

    async def has_traded(self) -> bool:
        """Whether the market ever traded, by the exchange's weekly candles.

        False needs candles that are there and show no trade: an empty list, or a refusal, is also
        what an outage looks like.

        Raises:
            ExchangeUnreachable: there are no candles to prove it.
        """
        weeks, why = [], "shows no candles of it either"
        try:
            weeks = await self._cancel.guard(self._client.weekly_candles(self.pair))
        except ExchangeError as error:
            why = f"can't show its candles ({error})"
        if not weeks:
            raise ExchangeUnreachable(
                f"{self.pair.altname}: the exchange shows no trade of it, and {why}: that does not "
                "prove that it never traded, so nothing was marked as covered; the same command "
                "asks again"
            )
        # An empty candle repeats the last price: one that is not 0 comes from an earlier trade.
        return any(week.count or week.volume or week.close for week in weeks)

    def record_conflict(self, what: str) -> None:
        """Count an answer that contradicts another; `what` describes it.

        Raises:
            ExchangeUnreachable: there were too many in a row.
        """
        self.conflicts += 1
        if self.conflicts > MAX_CONFLICTS:
            raise ExchangeUnreachable(
                f"{self.pair.altname}: the exchange's answers contradict one another "
                f"({what}); nothing in doubt was kept, the same command goes on where it stopped"
            )

    async def is_end_of_history(
        self, last_ns: int | None, after: int, stored_ns: int | None, left: LastId | None
    ) -> bool:
        """Whether the newest page shows that no trade is missing at the end of history.

        A single empty answer is no proof: the newest page must end with the last row of the range.
        A market that seems empty must seem so twice, and its weekly candles must show it as well.

        Args:
            last_ns: the published time of the last row of this range; None before the first.
            after: where the range begins, in nanoseconds.
            stored_ns: the time of the last stored trade before the range; None if there is none.
            left: the last stored trade with an id before the range, if it is known.
        """
        newest = (await self.page(None)).rows
        if newest.num_rows == 0:
            is_nothing_known = last_ns is None and stored_ns is None
            if is_nothing_known and self.conflicts and not await self.has_traded():
                return True
            self.record_conflict("the newest page is empty")
            return False
        self.newest_rows = newest
        latest_ns = int(times(newest).max())
        if latest_ns <= self._latest_ns - LONGEST_ROUNDING_NS:
            shown = show(self._latest_ns)
            self.record_conflict(f"the newest page ends {show(latest_ns)}, one before it {shown}")
            return False
        if last_ns is None and left is not None and left.is_newest(self.newest_id, latest_ns):
            return True
        if latest_ns == last_ns or (last_ns is None and (stored_ns or 0) <= latest_ns <= after):
            return True
        expected_ns = last_ns if last_ns is not None else after
        self.record_conflict(
            f"by one answer nothing follows {show(expected_ns)}, "
            f"the newest page ends {show(latest_ns)}"
        )
        return False

    async def request_again(self, gaps: list[IdGap], since_ns: int) -> pa.RecordBatch:
        """The trades from `since_ns` on, until they show the far side of the last of some id gaps.

        Args:
            gaps: in order.
            since_ns: a time before the first gap.
        """
        merger = PageMerger(since_ns, first_since=since_ns)
        found: list[pa.RecordBatch] = []
        last_gap = gaps[-1]
        for _ in range(MAX_PAGES_OF_A_GAP):
            page = await self.page(merger.next_since())
            step = merger.join(page.rows, page.cursor_ns, page.unit_ns, END_OF_TIME)
            found.append(step.rows)
            is_shown = bool((trade_ids(page.rows) == last_gap.before_id).any())
            is_past = (merger.last_ns or 0) > last_gap.before_ns
            ends = (JoinResult.NO_NEW_ROWS, JoinResult.TIMESTAMP_FULL)
            if is_shown or is_past or step.result in ends:
                break
        return joined([batch for batch in [*found, merger.finish()] if batch.num_rows])
