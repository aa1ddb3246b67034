"""What an open archive asks the exchange for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harvester.api.moments import Moment, span_between
from harvester.api.opened import Opened
from harvester.argument_types import check_types
from harvester.download.pair_selection import known_pairs
from harvester.errors import UnknownPair, UsageError
from harvester.kraken.pairs import Pair, search
from harvester.storage.trade_store import Archive as Disk
from harvester.times import Range

if TYPE_CHECKING:
    from harvester.api.crawling import Crawl
    from harvester.download.events import Event, Outcome
    from harvester.operations.refresh import Refresh


class Fetching(Opened):
    """Backfills, refreshes, and the names of markets."""

    @check_types
    def backfill(
        self,
        *pairs: str,
        since: Moment = "start",
        until: Moment | None = None,
        newest_first: bool = False,
        upgrade: bool = False,
        progress: Callable[[Event], object] | None = None,
        check: bool = True,
    ) -> list[Outcome]:
        """Fetch what is missing of some pairs, side by side, and keep it.

        Whatever stops it, the same call goes on where it stopped. It works inside a notebook's
        running event loop, too. Ctrl-C ends it as it ends the command: what was fetched is kept.

        Args:
            *pairs: which; the exchange is asked for names that the archive does not know.
            since: from when on; all history unless given.
            until: up to before when; what is published by now, and settled, unless given.
            newest_first: the newest missing month first.
            upgrade: then fetch anew what came from Kraken's CSV files, and replace it range by
                range. docs/import.md tells more.
            progress: told each event of `harvester.download.events` in another thread; `print` will
                do.
            check: raise the gravest error once all pairs are done. Else it is only told in the
                outcomes.

        Returns:
            An outcome a pair: how many trades came in how many pages, and what was reached.

        Raises:
            BadTime: `since` or `until` is no moment, or they are not in order.
            UnknownPair: no market goes by one of the names.
            ExchangeError: the exchange can't be reached, refuses, or answers nonsense.
            ArchiveLocked: another run is writing one of the pairs.
            ArchiveHasHoles: something that was asked for is not covered.
            ArchiveIncomplete: what was replaced, or could not be, does not agree with its file.
            ArchiveDamaged: what the exchange shows contradicts what is held.
            ArchiveUnwritable: the machine refused.
            ValueDoesNotFit: a trade that the format has no room for.
            KeyboardInterrupt: Ctrl-C, after what was fetched was written.

        Example:
            >>> [outcome] = archive.backfill("XBT/USD", since="2026-01-21")
            >>> outcome.pair, outcome.exit_status
            ('XBTUSD', 0)
        """
        from harvester.api.crawling import from_here

        span = span_between(since, until)
        crawl = self._crawl(pairs, span, progress, newest_first=newest_first, upgrade=upgrade)
        return _checked(from_here(crawl.run), check=check)

    @check_types
    async def abackfill(
        self,
        *pairs: str,
        since: Moment = "start",
        until: Moment | None = None,
        newest_first: bool = False,
        upgrade: bool = False,
        progress: Callable[[Event], object] | None = None,
        check: bool = True,
    ) -> list[Outcome]:
        """As `backfill`, on the event loop that runs. Cancelled, it first keeps what was fetched.

        Raises:
            asyncio.CancelledError: it was cancelled, and what was fetched is kept.
            HarvesterError: all that `backfill` raises.

        Example:
            >>> async def both():
            ...     return await archive.abackfill("XBT/USD", since="2026-01-21")
            >>> [outcome] = asyncio.run(both())
            >>> outcome.holes
            []
        """
        from harvester.api.crawling import to_its_end

        span = span_between(since, until)
        crawl = self._crawl(pairs, span, progress, newest_first=newest_first, upgrade=upgrade)
        return _checked(await to_its_end(crawl.run), check=check)

    @check_types
    def refresh(
        self,
        *pairs: str,
        max_minutes: float | None = None,
        progress: Callable[[Event], object] | None = None,
        check: bool = True,
    ) -> Refresh:
        """Bring pairs up to the exchange's now, fill their holes, and tend their files.

        The run of every night. A pair that is held goes on from where it was asked for; a new one
        begins with its first trade. docs/nightly.md tells what the states mean.

        Args:
            *pairs: names and patterns such as `*/EUR`; without any, those of `refresh.pairs` in
                the settings, or all that are held where it names none.
            max_minutes: end in good order after so long; the next run goes on. That is no error:
                pairs that were not finished have the state `unfinished`.
            progress: as of `backfill`.
            check: raise what ended the run, or the gravest error of a pair. Else it is only told
                in the result.

        Returns:
            The run as a whole: `pairs` (each with `state`, `trades`, `holes`, `calls`, ...),
            `exchange`, `calls`, `refusals`, `seconds`, `error`, `exit_status`.

        Raises:
            UsageError: `max_minutes` is no number above 0.
            NothingHeld: no pair is named, and none is held.
            ExchangeError: the exchange can't be reached, refuses, or is in maintenance.
            ArchiveLocked: another refresh goes on, or another run is writing one of the pairs.
            ArchiveHasHoles: something that was asked for is not covered.
            ArchiveDamaged: what the exchange shows contradicts what is held.
            ArchiveUnwritable: the machine refused.
            ValueDoesNotFit: a trade that the format has no room for.
            KeyboardInterrupt: Ctrl-C, after what was fetched was written.

        Example:
            >>> done = archive.refresh()
            >>> [(pair.pair, pair.state) for pair in done.pairs]
            [('XBTUSD', 'complete')]
        """
        from harvester.api.crawling import Renewal, from_here, raise_gravest

        self._check_open()
        minutes = None if max_minutes is None else float(max_minutes)
        if minutes is not None and not minutes > 0:
            raise UsageError(f"max_minutes is {minutes:g}: give a number above 0")
        renewal = Renewal(Disk(self.path), self._settings, pairs, minutes, _listener(progress))
        done = from_here(renewal.run)
        if check:
            if done.error is not None and done.error.exit_status:
                raise done.error
            raise_gravest(done.pairs)
        return done

    @check_types
    def pairs(self, text: str = "", *, update: bool = False) -> list[Pair]:
        """The markets whose names hold a text, in any spelling: BTC finds XBT.

        Args:
            text: all markets unless given.
            update: ask the exchange, also where names are known already.

        Returns:
            The markets by altname, each with its spellings and its decimals.

        Raises:
            UnknownPair: there is none.
            ExchangeError: the exchange can't be asked.

        Example:
            >>> [pair.wsname for pair in archive.pairs("btc")]
            ['XBT/USD']
        """
        self._check_open()
        known = known_pairs(self._disk)
        if update or len(known) <= len(self._disk.held()):
            from harvester.api.crawling import from_here, market_names

            another = Disk(self._disk.path)
            known = from_here(lambda stop: stop.guard(market_names(self._settings, another)))
        found = search(text, known.values())
        if not found:
            raise UnknownPair(
                f"no market bears {text!r} in its names; update=True asks the exchange anew"
            )
        return found

    def _crawl(
        self,
        pairs: tuple[str, ...],
        span: Range,
        progress: Callable[[Event], object] | None,
        *,
        newest_first: bool,
        upgrade: bool,
    ) -> Crawl:
        from harvester.api.crawling import Crawl

        self._check_open()
        if not pairs:
            raise UsageError("backfill what? Give one pair or several, such as 'XBT/USD'")

        # An archive of its own, as that one is used in another thread.
        another = Disk(self.path)
        told = _listener(progress)
        return Crawl(another, self._settings, pairs, span, newest_first, upgrade, told)


def _listener(progress: Callable[[Event], object] | None) -> Callable[[Event], None]:
    """What is told each event, whatever `progress` returns."""

    def tell(event: Event) -> None:
        if progress is not None:
            progress(event)

    return tell


def _checked(outcomes: list[Outcome], *, check: bool) -> list[Outcome]:
    from harvester.api.crawling import raise_gravest

    if check:
        raise_gravest(outcomes)
    return outcomes
