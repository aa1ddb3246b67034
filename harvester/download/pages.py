"""Asks one pair's pages, and asks again where an answer leaves room for doubt."""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa

from harvester.download.tape import Tape, Verdict
from harvester.errors import ExchangeUnreachable
from harvester.schema import joined, times, trade_ids
from harvester.times import show
from harvester.trade_ids import Gap

REASK_PAGES = 8
CONTRADICTIONS = 5
"""So often answers may contradict one another before the crawl of a pair gives up."""


class Page(Protocol):
    """One answer of the Trades endpoint."""

    @property
    def rows(self) -> pa.RecordBatch:
        """A batch of `columns.ROWS`, as the exchange ordered them."""

    @property
    def last(self) -> str | None:
        """The cursor verbatim."""

    @property
    def cursor_ns(self) -> int | None:
        """The cursor as nanoseconds, where it has its nineteen digits."""

    @property
    def unit_ns(self) -> int:
        """One unit of the last decimal that the page's times print."""


class Source:
    """The pages of one crawl. Counts the contradictions among them."""

    def __init__(self, fetch: Fetch, pair: str, has_traded: Traded | None = None) -> None:
        """`fetch` answers a page from a stamp, or the newest for None.

        `has_traded` tells by other means whether there were trades at all; without it, a market is
        never taken for empty.
        """
        self._fetch = fetch
        self._pair = pair
        self._has_traded = has_traded
        self._contradictions = 0
        self.newest_ns: int | None = None
        """The last published time on the newest page, once it was asked for."""

    async def page(self, since_ns: int | None) -> Page:
        """One page from a stamp on, or the newest for None."""
        return await self._fetch(since_ns)

    @property
    def in_doubt(self) -> bool:
        """Whether answers contradicted one another more than once in a row."""
        return self._contradictions > 1

    def agreed(self) -> None:
        """The answers agree again."""
        self._contradictions = 0

    def contradicted(self, what: str) -> None:
        """Count an answer that contradicts another.

        Raises:
            ExchangeUnreachable: there were too many in a row.
        """
        self._contradictions += 1
        if self._contradictions > CONTRADICTIONS:
            raise ExchangeUnreachable(
                f"{self._pair}: the exchange's answers contradict one another ({what}); "
                "nothing in doubt was kept, the same command goes on where it stopped"
            )

    async def at_head(self, last_ns: int | None, after: int, known_ns: int | None) -> bool:
        """Whether the newest page holds nothing that is still to come.

        One empty answer is not believed for years: the newest page must end with the last row
        seen. A market that seems empty must seem so twice, and its candles must show it as well.

        Args:
            last_ns: the published time of the last row seen of this range; None before the first.
            after: where the range begins.
            known_ns: the time of the last trade held before it; None where none is.
        """
        newest = (await self.page(None)).rows
        if newest.num_rows == 0:
            nothing_known = last_ns is None and known_ns is None
            if nothing_known and self._contradictions and not await self._was_alive():
                return True
            self.contradicted("the newest page is empty")
            return False
        latest = self.newest_ns = int(times(newest).max())
        if latest == last_ns or (last_ns is None and (known_ns or 0) <= latest <= after):
            return True
        last = last_ns if last_ns is not None else after
        self.contradicted(
            f"by one nothing follows {show(last)}, the newest page ends {show(latest)}"
        )
        return False

    async def _was_alive(self) -> bool:
        return self._has_traded is None or await self._has_traded()

    async def again(self, gaps: list[Gap], since_ns: int) -> pa.RecordBatch:
        """The tape from `since_ns` on, until it shows the far side of the last of some gaps."""
        tape = Tape(since_ns, first_since=since_ns)
        found: list[pa.RecordBatch] = []
        end = gaps[-1].before_ns
        for _ in range(REASK_PAGES):
            page = await self.page(tape.next_since())
            step = tape.join(page.rows, page.cursor_ns, page.unit_ns, end)
            found.append(step.rows)
            there = bool((trade_ids(page.rows) == gaps[-1].before_id).any())
            if there or step.verdict in (Verdict.PAST, Verdict.QUIET, Verdict.STAMP_FULL):
                break
        return joined([batch for batch in [*found, tape.finish()] if batch.num_rows])


class Traded(Protocol):
    """Whether a market ever traded, by other means than its pages."""

    async def __call__(self) -> bool:
        """Ask for it.

        Raises:
            ExchangeUnreachable: the exchange shows neither that it did nor that it did not.
        """


class Fetch(Protocol):
    """How pages are had."""

    async def __call__(self, since_ns: int | None) -> Page:
        """One page from a stamp on, or the newest for None."""
