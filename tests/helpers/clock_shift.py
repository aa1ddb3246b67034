"""An exchange whose clock is wrong, over some days of made trades."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sample_trades
from kraken_market import SECOND_NS, Clock, Market, expected
from kraken_server import Exchange

DAY_S = 86_400
DAY_NS = DAY_S * SECOND_NS
# Ten days of trades, so that the last three days of them fill more than a page.
TRADES = sample_trades.xbtusd_like(6_000, 61, gap_s=600, first_id=1)
MARKET = sample_trades.market(TRADES)
NOW_NS = TRADES[-1].true_ns // SECOND_NS * SECOND_NS + 3_600 * SECOND_NS
SETTLED_NS = NOW_NS - 60 * SECOND_NS
SPAN_S = (TRADES[-1].true_ns - TRADES[0].true_ns) // SECOND_NS

Lie = Callable[[int], int]


class Lying(Exchange):
    """An exchange that says a wrong time, so many times, and shows trades by the right one."""

    def __init__(self, market: Market, lie: Lie, times: int = 10**6) -> None:
        """`lie` makes the wrong time of the right one, in seconds."""
        self.right = Clock(NOW_NS)
        super().__init__([market], clock=self.right)
        self.lie, self.times = lie, times

    def _time(self, params: Mapping[str, str]) -> bytes:
        if self.times <= 0:
            return super()._time(params)
        self.times -= 1
        said_s = self.lie(self.right.now_ns // SECOND_NS)
        return b'{"error":[],"result":{"unixtime":%d,"rfc1123":""}}' % said_s


def all_settled(settled_ns: int = SETTLED_NS) -> list[Any]:
    """Give what is to be held once all settled trades are downloaded."""
    return [row for row in expected(MARKET) if row[1] <= settled_ns]
