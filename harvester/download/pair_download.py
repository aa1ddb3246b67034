"""Download everything that is missing of one pair, then compact it and build roll-ups."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

from harvester.download.completeness import check_imported_counts
from harvester.download.exchange import (
    BackfillRequest,
    DownloadContext,
    PairPages,
)
from harvester.download.range_download import RangeDownload, check_listed_again
from harvester.errors import (
    ArchiveDamaged,
    ExchangeError,
    ExchangeRefused,
    HarvesterError,
    ImportIncomplete,
    MarketChanged,
    UnreadableAnswer,
    capture_error,
)
from harvester.events import (
    BackfillResult,
    Ended,
    Listener,
    Noted,
    ReplacementResult,
    Started,
    steps,
)
from harvester.kraken.answers import OtherMarket, is_unknown_pair
from harvester.kraken.ohlc import expected_trades
from harvester.kraken.pairs import Pair, is_listed
from harvester.storage.locks_and_requests import Requests
from harvester.storage.trade_store import CLOCK_TOLERANCE_NS, check_not_in_future
from harvester.storage.writer import Writer, open_writer
from harvester.times import BEGINNING_NS, DAY, END_OF_TIME, SECOND, Range, missing, show

# --- maintenance ----------------------------------------------------------------------------------


def run_maintenance(writer: Writer, rollups: Sequence[str], listener: Listener) -> None:
    """Merge small segments, then build the roll-ups that are missing.

    Args:
        writer: of the pair; its lock is held.
        rollups: their intervals, such as 1m; empty for no roll-ups.
        listener: receives progress, and notes about segments that can have no roll-ups.

    Raises:
        ArchiveDamaged: a segment's rows are not those of its footer.
        ArchiveUnwritable: the machine refused.
        BadInterval: an interval has no fixed length.
    """
    progress = steps(listener)
    writer.compact(merge_past_years=True, progress=progress)
    if not rollups:
        return
    # The query package is needed only here, and takes time to load.
    from harvester.query.rollups import parse_levels, roll_up  # noqa: PLC0415

    for note in roll_up(writer, parse_levels(rollups), progress).notes:
        listener(Noted(writer.pair, note))


# --- pair -----------------------------------------------------------------------------------------

CHUNK_NS = 30 * DAY

CATCH_UP_NS = 600 * SECOND
"""If the end of history moved on by more than this meanwhile, that part is downloaded too."""
MAX_CLOCK_DIFFERENCE_NS = 600 * SECOND
"""If the exchange's clock is further ahead of this machine's, a note says so."""

MAX_LOSS_ROUNDS = 3
"""At most this many more rounds: a range that is downloaded again may show another to be lost."""


class PairDownload:
    """Downloads everything that is missing of one pair.

    Attributes:
        context: what the pairs of the run share.
        request: the pair and the range.
        writer: of the pair, while its lock is held.
        replacement: the result of replacing imported trades, set by whoever did it.
        incomplete: imported ranges that turned out to lack trades; an error if they stay imported.
        trades: downloaded in this run.
        lost: ranges that turned out to lack trades, and are not covered any more.
        pages: of the pair.
    """

    writer: Writer

    def __init__(self, context: DownloadContext, request: BackfillRequest) -> None:
        """Create the download of a pair; nothing is requested yet.

        Args:
            context: what the pairs of the run share.
            request: the pair and the range.
        """
        self.context = context
        self.request = request
        self.replacement: ReplacementResult | None = None
        self.incomplete: list[ImportIncomplete] = []
        self.trades = 0
        self.lost: list[Range] = []
        self.pages = PairPages(context, request.pair)
        self._options = context.options
        self._archive = context.archive
        self._pair = request.pair.altname
        self._done = Range(request.range.after, request.range.after)
        self._before: tuple[list[Range], Requests | None] = [], None
        """What was covered, and what was on record as requested, when the run began."""

    async def run(self) -> BackfillResult:
        """Download what is missing of the request; an error that ends it is in the result."""
        error = await capture_error(self._backfill())
        return self.result([self._done] if self._done.through > self._done.after else [], error)

    async def download_new(self, writer: Writer) -> None:
        """Download what is missing of the request now; the writer holds the lock of the pair.

        Files are not merged, and no roll-ups are built.

        Raises:
            HarvesterError: what ended it early; what was downloaded completely is stored.
        """
        self.writer = writer
        try:
            await asyncio.to_thread(writer.check_market, self.request.pair.key)
            self._done = await self._download()
            if self.incomplete:
                raise self.incomplete[0]
        except HarvesterError as error:
            raise await self._more_precise(error) from error.__cause__

    async def fill_gaps(self, writer: Writer) -> BackfillResult:
        """Download the recorded gaps of the pair, one after the other, then maintain its files.

        Where there are no gaps, the exchange is not asked. The writer holds the pair's lock.
        """
        self.writer = writer
        error = await capture_error(self._fill_gaps())
        if error is not None:
            error = await self._more_precise(error)
        result = self.result(self._archive.gaps(self._pair), error)
        self._options.listener(Ended(result.pair, result.exit_status))
        return result

    def result(self, requested: list[Range], error: HarvesterError | None) -> BackfillResult:
        """The result so far.

        Args:
            requested: ranges that should be covered now.
            error: what ended the download early.
        """
        try:
            coverage = self._archive.coverage(self._pair)
        except ArchiveDamaged as damage:
            # A folder of the pair is refused: nothing is known of it.
            requested, coverage, error = [], [], error or damage
        return BackfillResult(
            self._pair,
            self.trades,
            self.pages.requested,
            coverage[-1] if coverage else None,
            missing([*requested, *self.lost], coverage),
            error,
            self.context.client.pace(self.request.pair),
            self.replacement,
        )

    async def _backfill(self) -> None:
        self._done = await self._settled_request()
        with open_writer(self._archive, self._pair) as self.writer:
            try:
                await asyncio.to_thread(self.writer.check_market, self.request.pair.key)
                self._done = await self._download()
                if self._options.once_complete is not None:
                    await self._options.once_complete(self)
                    # A re-download may have turned covered ranges into gaps.
                    await self._download_ranges([])
                await self._finish()
                if any(segment.is_imported for segment in self._archive.segments(self._pair)):
                    await self._check_imports()
            except HarvesterError as error:
                # While the lock is held, as what was requested may be taken back.
                raise await self._more_precise(error) from error.__cause__

    async def _check_imports(self) -> None:
        """Count imported trades; a nightly run, which can't replace them, only says so.

        If no trade is stored after them, the exchange's newest one shows how many there are.

        Raises:
            ImportIncomplete: they are fewer or more than ids leave room for.
        """
        last_ns = self._archive.last_time(self._pair, END_OF_TIME) or 0
        if self.pages.newest_ns is None and self._archive.is_imported_at(self._pair, last_ns):
            with suppress(ExchangeError):
                await self.pages.page(None)
        newest_id = self._stored_newest_id()
        try:
            await asyncio.to_thread(check_imported_counts, self._archive, self._pair, newest_id)
        except ImportIncomplete as lack:
            if not self._options.tolerates_wrong_import_counts:
                raise
            self._options.listener(Noted(self._pair, str(lack).removeprefix(f"{self._pair}: ")))

    def _stored_newest_id(self) -> int:
        """The id of the exchange's newest trade; 0 if it is not covered, or was not requested."""
        coverage = self._archive.coverage(self._pair)
        newest_ns = self.pages.newest_ns or 0
        is_stored = bool(coverage) and coverage[-1].after < newest_ns <= coverage[-1].through
        return self.pages.newest_id if is_stored else 0

    async def _more_precise(self, error: HarvesterError) -> HarvesterError:
        """Return MarketChanged or ExchangeRefused if the exchange's list of pairs explains it.

        Otherwise return the error itself. The list is requested only where the exchange does not
        know the pair's key.
        """
        key = self.request.pair.key
        is_unknown = is_unknown_pair(error)
        if not (is_unknown or isinstance(error.__cause__, OtherMarket)):
            return error
        listed: dict[str, Pair] = {}
        # Whatever fails here, the error that is known already is reported.
        with suppress(Exception):
            listed = await self._options.cancel.guard(self.context.client.pairs())
        now = listed.get(self._pair)
        is_unlisted = is_unknown and await asyncio.to_thread(self._end_requests_if_unlisted, listed)
        if is_unlisted and now is None:
            return ExchangeRefused(
                f"{self._pair}: the exchange does not list this pair any more (Unknown asset "
                "pair): nothing of it can be downloaded, and what is stored stays"
            )
        if now is None or now.key == key:
            return error
        footer = await asyncio.to_thread(self._archive.market_footer, self._pair)
        is_stored = footer is not None and footer.key == key
        return MarketChanged(self._pair, key, now.key) if is_stored else error

    def _end_requests_if_unlisted(self, listed: dict[str, Pair]) -> bool:
        """If the exchange's list lacks the pair, take back what this run requested; then True."""
        if not listed or is_listed(self.request.pair, listed):
            return False
        covered, requested = self._before
        has_downloaded = missing(self._archive.coverage(self._pair), covered)
        self.writer.end_requests(None if has_downloaded else requested)
        return True

    async def _fill_gaps(self) -> None:
        await asyncio.to_thread(self.writer.check_market, self.request.pair.key)
        gaps = self._archive.gaps(self._pair)
        if gaps:
            settled_ns = await self._options.cancel.guard(
                self.context.clock.settled_ns(self.request.pair)
            )
            gaps = [gap._replace(through=min(gap.through, settled_ns)) for gap in gaps]
            gaps = [gap for gap in gaps if gap.after < gap.through]
            await self._begin(gaps, self.request.range)
        await self._download_ranges(gaps)
        if gaps:
            await asyncio.to_thread(self.writer.record_requested, gaps[0], is_listed=True)
        await self._finish()

    async def _finish(self) -> None:
        """Merge files, build roll-ups, and report imported data that lacks trades, if it is left.

        Raises:
            ImportIncomplete: it was not replaced meanwhile.
        """
        rollups = self.context.settings.candles.rollups
        async with self.context.maintenance:
            await asyncio.to_thread(run_maintenance, self.writer, rollups, self._options.listener)
        for error in self.incomplete:
            pieces = self._archive.pieces(self._pair, Range(error.after, error.through))
            if any(piece.segment.is_imported for piece in pieces):
                raise error

    async def _settled_request(self) -> Range:
        """The requested range, up to the time until which trades are settled."""
        requested = self.request.range
        clock = self.context.clock
        settled_ns = await self._options.cancel.guard(clock.settled_ns(self.request.pair))
        return requested._replace(through=min(requested.through, settled_ns))

    async def _download(self) -> Range:
        """Download until nothing settled is missing, including trades published meanwhile.

        Returns the range that is now complete. Finally checks that the exchange's clock is
        plausible.
        """
        clock, end = self.context.clock, self.request.range.through
        done: Range | None = None
        while True:
            requested = await self._settled_request()
            is_caught_up = done is not None and requested.through - done.through < CATCH_UP_NS
            if requested.after < requested.through and not is_caught_up:
                coverage = self._archive.coverage(self._pair)
                if self._before[1] is None:
                    self._before = coverage, await asyncio.to_thread(self.writer.requests)
                await asyncio.to_thread(self.writer.record_requested, requested, is_listed=True)
                self._warn_about_clock(coverage)
                ranges = missing([requested], coverage)
                await self._begin(ranges, requested)
                await self._download_ranges(ranges)
                done = requested
                if requested.through != end:
                    continue
            now_ns = self._options.now_ns()
            await asyncio.to_thread(check_not_in_future, self._archive, self._pair, now_ns)
            done = done or requested
            is_complete = done.through >= end or not clock.is_behind
            if is_complete or await self._is_clock_plausible():
                return done
            done = None

    async def _is_clock_plausible(self) -> bool:
        """Whether no trade or coverage contradicts an exchange's clock that is far behind ours.

        If the clock is right when it is asked again, that is no proof for what was downloaded until
        then: False means to go on.

        Raises:
            UnreadableAnswer: something contradicts the clock.
        """
        clock, guard, pages = self.context.clock, self._options.cancel.guard, self.pages
        if pages.newest_ns is None:
            # Not by `PairPages.page`: it would refuse a trade of the future without naming this
            # machine's clock.
            await pages.request_newest()
        covered = self._archive.coverage(self._pair)
        known = {
            "it is requested from": self.request.range.after,
            "its newest trade is of": pages.newest_ns or 0,
            "it is covered through": covered[-1].through if covered else 0,
        }
        latest_ns = max(known.values())
        if latest_ns <= clock.time_ns + CLOCK_TOLERANCE_NS:
            return True
        await guard(clock.update())
        if not clock.is_behind:
            return False
        text = next(text for text, time_ns in known.items() if time_ns == latest_ns)
        raise UnreadableAnswer(
            f"{self._pair}: {text} {show(latest_ns)}, but {clock.describe()}: by that clock "
            "nothing later can be downloaded; what was downloaded is kept"
        )

    def _warn_about_clock(self, coverage: list[Range]) -> None:
        """Note coverage that reaches into the future, and clocks that differ."""
        clock = self.context.clock
        if clock.ahead_ns > MAX_CLOCK_DIFFERENCE_NS:
            text = f"{clock.describe()}: trades are downloaded up to the earlier of the two"
            self._options.listener(Noted(self._pair, text))
        reached_ns = coverage[-1].through if coverage else 0
        if reached_ns > clock.time_ns:
            text = (
                f"it is covered through {show(reached_ns)}, which by the exchange's clock is still "
                f"to come ({show(clock.time_ns)}): if that clock was wrong before, trades may be "
                f"missing; `harvester verify {self._pair} --against-exchange` checks that"
            )
            self._options.listener(Noted(self._pair, text))

    async def _download_ranges(self, ranges: list[Range]) -> None:
        """Download missing ranges one after the other, then those that turned out to lack trades.

        What stays missing is a gap.
        """
        if ranges and any(segment.is_imported for segment in self._archive.segments(self._pair)):
            await check_listed_again(self)
        for _ in range(1 + MAX_LOSS_ROUNDS):
            if self._options.newest_first:
                ranges = [chunk for part in reversed(ranges) for chunk in reversed(_chunks(part))]
            for part in ranges:
                try:
                    await RangeDownload(self, self.writer, self._archive, part).run()
                except ImportIncomplete as lack:
                    # The part itself is complete, and imported data ends no download of others.
                    self.incomplete.append(lack)
            ranges = missing(self.lost, self._archive.coverage(self._pair))
            if not ranges:
                return

    async def _begin(self, ranges: list[Range], requested: Range) -> None:
        """Shorten requests that end in the future; report what is missing, and what is stored."""
        clock, now_ns = self.context.clock, self._options.now_ns()
        settled_ns = now_ns if clock.is_behind else clock.last_settled_ns
        await asyncio.to_thread(self.writer.shorten_requested, now_ns, settled_ns)
        expected, stored = None, 0
        if self._options.estimates:
            if ranges:
                weeks = await self.pages.weekly_counts()
                expected = expected_trades(weeks, ranges, clock.time_ns) if weeks else None
            stored = await asyncio.to_thread(self._count_stored, requested)
        self._options.listener(Started(self._pair, ranges, expected, stored))

    def _count_stored(self, requested: Range) -> int:
        """About how many trades of a range are stored, by the footers; 0 if they can't be read.

        A segment that reaches beyond the range counts by its share of time.
        """
        rows = 0.0
        try:
            for segment, within in self._archive.pieces(self._pair, requested):
                share = (within.through - within.after) / (
                    segment.range.through - segment.range.after
                )
                rows += self._archive.footer(segment).rows * share
        except (HarvesterError, FileNotFoundError):
            # The number is only displayed: the download itself reports what is wrong.
            return 0
        return round(rows)


def _chunks(within: Range) -> list[Range]:
    """Split a range into parts of 30 days, at fixed times so that a second run splits alike."""
    # All before the first exchange is one part.
    first = (max(within.after, BEGINNING_NS) // CHUNK_NS + 1) * CHUNK_NS
    cuts = range(first, within.through, CHUNK_NS)
    return [Range(*ends) for ends in pairwise([within.after, *cuts, within.through])]
