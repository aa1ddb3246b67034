"""What the crawls of one pair have come to, however many there are at once."""

from __future__ import annotations

from harvester.download.events import Listener, PageRead
from harvester.times import Range


class Tally:
    """Trades and pages of one pair's run, and how far each of its crawls has come."""

    def __init__(self, pair: str, listener: Listener) -> None:
        """`pair` is the altname."""
        self.pair = pair
        self.listener = listener
        self.trades = self.pages = 0
        self.lost: list[Range] = []
        """Ranges that turned out to lack trades and are not covered any more."""
        self._reached: dict[object, int] = {}

    def read(self, crawl: object, reached_ns: int) -> None:
        """A crawl has read a page; where there are two, the earlier tells how far the pair is."""
        self._reached[crawl] = reached_ns
        reached_ns = min(self._reached.values())
        self.listener(PageRead(self.pair, self.trades, self.pages, reached_ns))

    def leave(self, crawl: object) -> None:
        """A crawl has ended."""
        self._reached.pop(crawl, None)
