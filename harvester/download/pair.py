"""Download everything that is missing of one pair, then compact it and build roll-ups."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise

import msgspec

from harvester.download.buffer import Locks, WriteBuffer
from harvester.download.estimate import Estimate
from harvester.download.events import (
    BackfillResult,
    DownloadCounts,
    Listener,
    Noted,
    Started,
    Step,
    Upgrade,
)
from harvester.download.exchange_clock import CATCH_UP_NS
from harvester.download.import_boundary import look, settle
from harvester.download.page_merge import Page, PageSource
from harvester.download.range import Bounds, RangeDownload
from harvester.download.range_split import SplitCallbacks, SplitDownload
from harvester.download.request import BackfillRequest, CompletedPair, DownloadContext
from harvester.errors import (
    ArchiveDamaged,
    ExchangeError,
    ExchangeRefused,
    ExchangeUnreachable,
    HarvesterError,
    ImportIncomplete,
    MarketChanged,
    UnreadableAnswer,
    capture_error,
)
from harvester.kraken.decode import OtherMarket
from harvester.kraken.pairs import Pair
from harvester.schema import times
from harvester.storage.replacement import end_replacing
from harvester.storage.replacement_staging import check_not_torn, from_files
from harvester.storage.trade_store import TOLERANCE_NS, TradeStore, check_not_in_future
from harvester.storage.writer import Writer, writer
from harvester.times import BEGINNING_NS, DAY, Range, missing, overlap, show

# --- tending --------------------------------------------------------------------------------------


def finish_replacing(writer: Writer, listener: Listener) -> None:
    """End what a crash left of an upgrade; that it can't be now stops nothing.

    Where trades are not whole for it, `check_not_torn` says so, once all else is done.

    Args:
        writer: of the pair; its lock is held.
        listener: told of damage that was met.

    Raises:
        ArchiveUnwritable: the machine refused.
    """
    for text in end_replacing(writer):
        listener(Noted(writer.pair, text))
    settle(writer)


def run_maintenance(writer: Writer, rollups: Sequence[str], listener: Listener) -> None:
    """Merge small segments, then make the roll-ups that are lacking.

    Args:
        writer: of the pair; its lock is held.
        rollups: their levels, such as 1m; none for no roll-ups.
        listener: told how far it is, and of segments that can have no roll-ups.

    Raises:
        ArchiveDamaged: a segment's rows are not those of its footer.
        ArchiveUnwritable: the machine refused.
        BadInterval: a level is no interval of fixed length.
    """

    def step(pair: str, done: int, of: int) -> None:
        listener(Step(pair, done, of))

    writer.compact(closed=True, progress=step)
    if not rollups:
        return
    # The rooms of candles are wanted only now, and take their time to load.
    from harvester.query.rollups import parse_levels, roll_up  # noqa: PLC0415

    for note in roll_up(writer, parse_levels(rollups), step).notes:
        listener(Noted(writer.pair, note))


# --- pair -----------------------------------------------------------------------------------------

CHUNK_NS = 30 * DAY

LOST_ROUNDS = 3
"""What is downloaded again may show that more is missing beside it; so often that is followed."""


class PairDownload:
    """Everything that is missing of one pair."""

    def __init__(
        self, run: DownloadContext, wish: BackfillRequest, heard: Callable[[], None] = lambda: None
    ) -> None:
        """`heard` is told of each good answer."""
        self._run = run
        self._wish = wish
        self._heard = heard
        self._pair = wish.pair.altname
        self._tally = DownloadCounts(self._pair, run.watch.listener)
        self._locks = Locks(asyncio.Lock(), run.merging)
        self._weeks: list[tuple[int, int]] | None = None
        self._done = Range(wish.span.after, wish.span.after)
        self._upgrade: Upgrade | None = None
        self._newest_ns: int | None = None

    async def _page(self, since_ns: int | None) -> Page:
        self._tally.pages += 1
        page = await self._run.client.page(self._wish.pair, since_ns)
        believed = await self._run.clock.believe(page, self._pair)
        self._heard()
        if since_ns is None:
            self._note_newest(believed)
        return believed

    def _note_newest(self, page: Page) -> None:
        self._newest_ns = int(times(page.rows).max()) if page.rows.num_rows else 0

    async def run(self) -> BackfillResult:
        """Fetch what is missing of the wish; what ends it early is in the outcome."""
        error = await self._explained(await capture_error(self._backfill()))
        return self._outcome([self._done] if self._done.through > self._done.after else [], error)

    def not_begun(self, error: HarvesterError) -> BackfillResult:
        """The outcome of a pair that nobody was asked for."""
        return self._outcome([], error)

    async def fill(self, writer: Writer) -> BackfillResult:
        """Fetch the gaps on record; the lock is held by the writer."""
        error = await capture_error(self._fill(writer))
        return self._outcome(self._run.archive.gaps(self._pair), error)

    def _outcome(self, asked: list[Range], error: HarvesterError | None) -> BackfillResult:
        try:
            coverage = self._run.archive.coverage(self._pair)
        except ArchiveDamaged as damage:
            # A folder of the pair that is refused: nothing can be said of it.
            asked, coverage, error = [], [], error or damage
        gaps = missing([*asked, *self._tally.lost], coverage)
        reached = next((one for one in reversed(coverage)), None)
        return BackfillResult(
            self._pair,
            self._tally.trades,
            self._tally.pages,
            reached,
            gaps,
            error,
            self._run.client.pace(self._wish.pair),
            self._upgrade,
        )

    async def _backfill(self) -> None:
        self._done = await self._asked()
        with writer(self._run.archive, self._pair) as one:
            await asyncio.to_thread(one.check_market, self._wish.pair.key)
            await asyncio.to_thread(finish_replacing, one, self._run.watch.listener)
            if self._run.watch.then is None:
                self._done = await self._fetch(one)
            else:
                await self._fetch_and_then(one, self._run.watch.then)
            await self._tend(one)

    async def _explained(self, error: HarvesterError | None) -> HarvesterError | None:
        """The same, unless the exchange gives no answer because the name means another market now.

        Then its list tells, which is asked for only where a key is unknown to the exchange.
        """
        key = self._wish.pair.key
        is_unknown = isinstance(error, ExchangeRefused) and "Unknown asset pair" in str(error)
        if not (is_unknown or isinstance(error and error.__cause__, OtherMarket)):
            return error
        listed: dict[str, Pair] = {}

        async def ask() -> None:
            listed.update(await self._run.watch.stop.guard(self._run.client.pairs()))

        await capture_error(ask())
        now = listed.get(self._pair)
        if now is None or now.key == key:
            return error
        held = await asyncio.to_thread(self._run.archive.market_footer, self._pair)
        is_held = held is not None and held.key == key
        return MarketChanged(self._pair, key, now.key) if is_held else error

    async def _fetch_and_then(
        self, writer: Writer, then: Callable[[CompletedPair], Awaitable[None]]
    ) -> None:
        """Fetch what is missing; what shows that a file lacks trades is no reason to end there."""
        before: list[Range] | None = None
        lacks: list[ImportIncomplete] = []
        while before != (now := self._run.archive.coverage(self._pair)):
            before = now
            try:
                self._done = await self._fetch(writer)
                break
            except ImportIncomplete as lack:
                # The range that showed it is whole: the next time others are missing.
                lacks.append(lack)
        await then(CompletedPair(self._run, self._wish, writer, self._crawl, self._take))
        left = [part for _, part in from_files(self._run.archive, self._pair)]
        for known in lacks:
            if any(overlap(part, Range(known.after, known.through)) for part in left):
                raise known

    def _take(self, upgrade: Upgrade) -> None:
        self._upgrade = upgrade

    async def _fill(self, writer: Writer) -> None:
        await asyncio.to_thread(writer.check_market, self._wish.pair.key)
        await asyncio.to_thread(finish_replacing, writer, self._run.watch.listener)
        gaps = self._run.archive.gaps(self._pair)
        if gaps:
            settled_ns = await self._run.watch.stop.guard(self._run.clock.settled_ns())
            gaps = [gap._replace(through=min(gap.through, settled_ns)) for gap in gaps]
            gaps = [gap for gap in gaps if gap.after < gap.through]
            await asyncio.to_thread(self._trim_wanted, writer)
            await self._begin(gaps, self._wish.span)
        for gap in self._ordered(gaps):
            await self._crawl_gap(writer, gap)
        await self._fetch_lost(writer)
        await self._tend(writer)

    async def _tend(self, writer: Writer) -> None:
        rollups = self._run.settings.candles.rollups
        async with self._run.tending:
            await asyncio.to_thread(run_maintenance, writer, rollups, self._run.watch.listener)
        await asyncio.to_thread(check_not_torn, self._run.archive, self._pair)

    async def _asked(self) -> Range:
        settled_ns = await self._run.watch.stop.guard(self._run.clock.settled_ns())
        return Range(self._wish.span.after, min(self._wish.span.through, settled_ns))

    async def _fetch(self, writer: Writer) -> Range:
        """Fetch what is missing, and check the clock by which nothing more is."""
        while True:
            done = await self._fetch_missing(writer)
            now_ns = self._run.watch.now_ns()
            await asyncio.to_thread(check_not_in_future, self._run.archive, self._pair, now_ns)
            if done.through >= self._wish.span.through or await self._clock_is_plausible():
                return done

    async def _clock_is_plausible(self) -> bool:
        """Whether no trade or coverage contradicts an exchange's clock that is far behind ours.

        One that is right by now, asked again, is no proof for what was downloaded until then: False
        means to go on.

        Raises:
            UnreadableAnswer: something does contradict it.
        """
        clock, guard = self._run.clock, self._run.watch.stop.guard
        if not clock.is_behind:
            return True
        if self._newest_ns is None:
            # Not by `_page`, which would refuse such a trade without naming this machine's clock.
            page = await guard(self._run.client.page(self._wish.pair, None))
            self._tally.pages += 1
            self._note_newest(page)
        covered = self._run.archive.coverage(self._pair)
        known = {
            "it is asked for from": self._wish.span.after,
            "its newest trade is of": self._newest_ns or 0,
            "it is covered through": covered[-1].through if covered else 0,
        }
        latest_ns = max(known.values())
        if latest_ns <= clock.heard_ns + TOLERANCE_NS:
            return True
        await guard(clock.hear())
        if not clock.is_behind:
            return False
        text = next(text for text, stamp_ns in known.items() if stamp_ns == latest_ns)
        raise UnreadableAnswer(
            f"{self._pair}: {text} {show(latest_ns)}, but {clock.both()}: by that clock nothing "
            "later can be downloaded; what was downloaded is kept"
        )

    def _trim_wanted(self, writer: Writer) -> None:
        clock, now_ns = self._run.clock, self._run.watch.now_ns()
        writer.trim_wanted(now_ns, now_ns if clock.is_behind else clock.last_settled_ns)

    async def _fetch_missing(self, writer: Writer) -> Range:
        """Fetch until nothing is missing, the head having moved on meanwhile or not."""
        done = Range(0, 0)
        while True:
            asked = await self._asked()
            caught_up = done.through and asked.through - done.through < CATCH_UP_NS
            if caught_up or asked.through <= asked.after:
                return done if done.through else asked
            await asyncio.to_thread(writer.want, asked)
            await asyncio.to_thread(self._trim_wanted, writer)
            self._mind_the_clock()
            ranges = missing([asked], self._run.archive.coverage(self._pair))
            await self._begin(ranges, asked)
            for span in self._ordered(ranges):
                await self._crawl_gap(writer, span)
            await self._fetch_lost(writer)
            if asked.through == self._wish.span.through:
                return asked
            done = asked

    async def _fetch_lost(self, writer: Writer) -> None:
        """Download again the ranges that turned out to lack trades; what stays missing is a gap."""
        for _ in range(LOST_ROUNDS):
            for span in missing(self._tally.lost, self._run.archive.coverage(self._pair)):
                await self._crawl_gap(writer, span)

    def _mind_the_clock(self) -> None:
        """Say so where coverage reaches into time to come, or where the two clocks differ."""
        clock = self._run.clock
        if clock.ahead_ns > CATCH_UP_NS:
            text = f"{clock.both()}: trades are downloaded up to the earlier of the two"
            self._run.watch.listener(Noted(self._pair, text))
        reached = max((one.through for one in self._run.archive.coverage(self._pair)), default=0)
        if reached > self._run.clock.heard_ns:
            text = (
                f"it is covered through {show(reached)}, which by the exchange's clock is still to "
                f"come ({show(self._run.clock.heard_ns)}): if that clock was wrong before, trades "
                f"may be missing; `harvester verify {self._pair} --against-exchange` tells"
            )
            self._run.watch.listener(Noted(self._pair, text))

    async def _crawl_gap(self, writer: Writer, span: Range) -> None:
        await look(writer, span, self._guarded_page)
        try:
            await self._crawl(writer, self._run.archive, span)
        finally:
            await asyncio.to_thread(settle, writer)

    async def _crawl(self, writer: Writer, archive: TradeStore, span: Range) -> None:
        run = self._run
        spelled = msgspec.json.encode(self._wish.pair).decode()
        kept = run.settings.archive
        bounds = Bounds(run.backlog, kept.flush_s, kept.flush_rows)

        def make(part: Range) -> RangeDownload:
            buffer = WriteBuffer(writer, part.after, spelled, run.watch.listener, self._locks)
            source = PageSource(self._page, self._pair, self._has_traded)
            return RangeDownload(part, source, buffer, bounds, run.watch.stop, self._tally)

        means = SplitCallbacks(
            lambda: run.client.is_latency_bound(self._wish.pair), self._guarded_page, self._weekly
        )
        await SplitDownload(make, means).run(archive, self._pair, span)

    async def _guarded_page(self, since_ns: int) -> Page:
        return await self._run.watch.stop.guard(self._page(since_ns))

    async def _has_traded(self) -> bool:
        """Whether the market ever traded, by the exchange's weekly candles.

        False needs candles that are there and show no trade: an empty list, or a refusal, is also
        what an outage looks like.

        Raises:
            ExchangeUnreachable: there are no candles to tell.
        """
        try:
            weeks = await self._run.client.weekly_candles(self._wish.pair)
        except ExchangeError as error:
            raise self._unproven(f"can't show its candles ({error})") from error
        if not weeks:
            raise self._unproven("shows no candles of it either")
        # An empty candle repeats the last price: one that is not 0 comes from an earlier trade.
        return any(week.count or week.volume or week.close for week in weeks)

    def _unproven(self, why: str) -> ExchangeUnreachable:
        return ExchangeUnreachable(
            f"{self._pair}: the exchange shows no trade of it, and {why}: that does not prove that "
            "it never traded, so nothing was marked as covered; the same command asks again"
        )

    def _ordered(self, ranges: list[Range]) -> list[Range]:
        if not self._run.watch.newest_first:
            return ranges
        return [part for one in reversed(ranges) for part in reversed(_chunks(one))]

    async def _begin(self, ranges: list[Range], asked: Range) -> None:
        """Report what is missing of a request, and how many of its trades are stored."""
        expected = await self._expected(ranges)
        is_shown = self._run.watch.estimates
        held = await asyncio.to_thread(self._held, asked) if is_shown else 0
        self._run.watch.listener(Started(self._pair, ranges, expected, held))

    def _held(self, asked: Range) -> int:
        """About how many trades of a range are stored, by the footers; 0 where they can't tell.

        A segment that reaches beyond the range counts by its share of time.
        """
        archive, rows = self._run.archive, 0.0
        try:
            for segment, within in archive.pieces(self._pair, asked):
                share = (within.through - within.after) / (
                    segment.range.through - segment.range.after
                )
                rows += archive.footer(segment).rows * share
        except (HarvesterError, FileNotFoundError):
            # It is for show alone: the download itself reports what is wrong.
            return 0
        return round(rows)

    async def _expected(self, ranges: list[Range]) -> int | None:
        known = self._run.appraiser.trades.pop(self._pair, None)
        if known is not None:
            return known
        if not (ranges and self._run.watch.estimates):
            return None
        weeks = await self._weekly()
        return Estimate(weeks).trades(ranges) if weeks else None

    async def _weekly(self) -> list[tuple[int, int]]:
        """Trades a week, asked for once; none where the exchange does not tell."""
        if self._weeks is None:
            try:
                counts = self._run.client.weekly_counts(self._wish.pair)
                self._weeks = await self._run.watch.stop.guard(counts)
            except ExchangeError:
                self._weeks = []
        return self._weeks


def _chunks(span: Range) -> list[Range]:
    """A range in parts of a month or so, cut at fixed moments so that a second run cuts alike."""
    # What lies before there was an exchange is one part.
    cuts = range((max(span.after, BEGINNING_NS) // CHUNK_NS + 1) * CHUNK_NS, span.through, CHUNK_NS)
    return [Range(*ends) for ends in pairwise([span.after, *cuts, span.through])]
