"""The exchange's clock: up to when trades are settled, and which times are impossible."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from harvester.download.page_merge import Page
from harvester.errors import UnreadableAnswer
from harvester.kraken.client import Client
from harvester.schema import times
from harvester.storage.trade_store import TOLERANCE_NS
from harvester.times import BEGINNING_NS, DAY, END_OF_TIME, SECOND, show

# --- clock ----------------------------------------------------------------------------------------

CATCH_UP_NS = 600 * SECOND
"""A head that moved on by more than this while its past was fetched is fetched as well."""

TIMES_ASKED = 3
"""An implausible time may be one bad answer among good ones, so it is asked for again."""


class ExchangeClock:
    """The exchange's clock, checked against this machine's.

    It may be behind by years, as that of an API server over an old archive is. It can't be ahead:
    coverage would reach into time whose trades are still to come.
    """

    def __init__(
        self, client: Client, settle_s: float, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """Ask nothing yet.

        Args:
            client: how the exchange is asked.
            settle_s: trades younger than this may still be joined by late ones.
            now_ns: this machine's clock.
        """
        self._client = client
        self._settle_ns = int(settle_s * SECOND)
        self._now_ns = now_ns
        self._heard_s = -math.inf
        self.heard_ns = 0
        """The exchange's clock, as it was last heard."""
        self.last_settled_ns = 0
        """Trades were settled up to here, by then."""

    async def settled_ns(self) -> int:
        """Trades published up to here are settled; asked anew once that is ten minutes old.

        A clock that is carried on by ours would run ahead of a mirror's, which stands still where
        its archive ends, and a copy would claim what is not there.

        Raises:
            UnreadableAnswer: the exchange's clock is implausible.
        """
        if time.monotonic() - self._heard_s > CATCH_UP_NS / SECOND:
            await self.hear()
        return self.last_settled_ns

    async def hear(self) -> None:
        """Ask for the exchange's clock.

        Trades are settled by the earlier of both clocks: where they differ within the tolerance,
        nobody knows which one is right.

        Raises:
            UnreadableAnswer: it is implausible, asked several times.
        """
        for _ in range(TIMES_ASKED):
            heard_ns = await self._client.clock_ns()
            now_ns = self._now_ns()
            if BEGINNING_NS <= heard_ns <= now_ns + TOLERANCE_NS:
                self.heard_ns, self._heard_s = heard_ns, time.monotonic()
                self.last_settled_ns = min(heard_ns, now_ns) - self._settle_ns
                return
        raise UnreadableAnswer(
            f"the exchange's clock says {_spoken(heard_ns)}, this machine's {_spoken(now_ns)}: "
            "that can't be, so nothing was downloaded; check this machine's clock, or try later"
        )

    @property
    def ahead_ns(self) -> int:
        """How far the exchange's clock is ahead of this machine's; negative where it is behind."""
        return self.heard_ns - self._now_ns()

    @property
    def is_behind(self) -> bool:
        """Whether it is behind this machine's by more than the tolerance."""
        return self.ahead_ns < -TOLERANCE_NS

    def both(self) -> str:
        """What the two clocks say, for people."""
        return (
            f"the exchange's clock says {_spoken(self.heard_ns)}, this machine's "
            f"{_spoken(self._now_ns())}"
        )

    async def believe(self, page: Page, pair: str) -> Page:
        """The page, if it tells of nothing that is still to come.

        A time in the future would end a crawl long before its end. The exchange's own clock is
        what counts, asked anew before anything is refused, as this machine may have slept.

        Raises:
            UnreadableAnswer: a trade's time lies more than a day ahead of the exchange's clock.
        """
        latest_ns = int(times(page.rows).max()) if page.rows.num_rows else 0
        if latest_ns > self.heard_ns + DAY:
            await self.hear()
        if latest_ns > self.heard_ns + DAY:
            # Without its time, which pyarrow turns into an object by pandas only.
            latest = page.rows.slice(int(times(page.rows).argmax()), 1)
            row = latest.drop_columns(["time"]).to_pylist()[0]
            raise UnreadableAnswer(
                f"{pair}: the exchange sent a trade of {show(latest_ns)}, id {row['trade_id']}, "
                f"price {row['price']:f}, volume {row['volume']:f}, while its clock says "
                f"{show(self.heard_ns)}; nothing of this page was kept"
            )
        return page


def _spoken(stamp_ns: int) -> str:
    """A moment for people; the bare number where it is no moment that harvester knows."""
    return show(stamp_ns) if 0 <= stamp_ns < END_OF_TIME else f"{stamp_ns // SECOND} s"
