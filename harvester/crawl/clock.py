"""The exchange's clock: what is settled by it, and what it makes impossible."""

from __future__ import annotations

import math
import time

from harvester.columns import times
from harvester.crawl.pages import Page
from harvester.errors import UnreadableAnswer
from harvester.kraken.client import Client
from harvester.times import DAY, SECOND, show

CATCH_UP_NS = 600 * SECOND
"""A head that moved on by more than this while its past was fetched is fetched as well."""


class Clock:
    """The exchange's clock as it was last heard. This machine's own is never believed."""

    def __init__(self, client: Client, settle_s: float) -> None:
        """`settle_s`: trades younger than this may still be joined by late ones."""
        self._client = client
        self._settle_ns = int(settle_s * SECOND)
        self._heard_s = -math.inf
        self.heard_ns = 0
        """The exchange's clock, as it was last heard."""
        self._settled_ns = 0

    async def settled_ns(self) -> int:
        """Trades published up to here are settled; asked anew once that is ten minutes old.

        A clock that is carried on by ours would run ahead of a mirror's, which stands still where
        its archive ends, and a copy would claim what is not there.
        """
        if time.monotonic() - self._heard_s > CATCH_UP_NS / SECOND:
            self.heard_ns = await self._client.clock_ns()
            self._settled_ns = self.heard_ns - self._settle_ns
            self._heard_s = time.monotonic()
        return self._settled_ns

    async def believe(self, page: Page, pair: str) -> Page:
        """The page, if it tells of nothing that is still to come.

        A time in the future would end a crawl long before its end. The exchange's own clock is
        what counts, asked anew before anything is refused, as this machine may have slept.

        Raises:
            UnreadableAnswer: a trade's time lies more than a day ahead of the exchange's clock.
        """
        latest_ns = int(times(page.rows).max()) if page.rows.num_rows else 0
        if latest_ns > self.heard_ns + DAY:
            self.heard_ns = await self._client.clock_ns()
        if latest_ns > self.heard_ns + DAY:
            row = page.rows.slice(int(times(page.rows).argmax()), 1).to_pylist()[0]
            raise UnreadableAnswer(
                f"{pair}: the exchange sent a trade of {show(latest_ns)}, id {row['trade_id']}, "
                f"price {row['price']:f}, volume {row['volume']:f}, while its clock says "
                f"{show(self.heard_ns)}; nothing of this page was kept"
            )
        return page
