"""What an open archive asks the exchange for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harvester.api.moments import Moment, span_between
from harvester.api.opened import Opened
from harvester.archive.archive import Archive as Disk
from harvester.crawl.names import known_pairs
from harvester.errors import UnknownPair, UsageError
from harvester.kraken.pairs import Pair, search
from harvester.times import Range

if TYPE_CHECKING:
    from harvester.api.crawling import Crawl
    from harvester.crawl.events import Event, Outcome


class Fetching(Opened):
    """Backfills, and the names of markets."""

    def backfill(
        self,
        *pairs: str,
        since: Moment = "start",
        until: Moment | None = None,
        newest_first: bool = False,
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
            progress: told each event of `harvester.crawl.events` in another thread; `print` will
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

        crawl = self._crawl(pairs, span_between(since, until), progress, newest_first=newest_first)
        return _checked(from_here(crawl.run), check=check)

    async def abackfill(
        self,
        *pairs: str,
        since: Moment = "start",
        until: Moment | None = None,
        newest_first: bool = False,
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

        crawl = self._crawl(pairs, span_between(since, until), progress, newest_first=newest_first)
        return _checked(await to_its_end(crawl.run), check=check)

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
    ) -> Crawl:
        from harvester.api.crawling import Crawl

        self._check_open()
        if not pairs:
            raise UsageError("backfill what? Give one pair or several, such as 'XBT/USD'")

        def tell(event: Event) -> None:
            if progress is not None:
                progress(event)

        # An archive of its own, as that one is used in another thread.
        another = Disk(self.path)
        return Crawl(another, self._settings, pairs, span, newest_first, tell)


def _checked(outcomes: list[Outcome], *, check: bool) -> list[Outcome]:
    from harvester.api.crawling import raise_gravest

    if check:
        raise_gravest(outcomes)
    return outcomes
