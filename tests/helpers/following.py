"""Runs `follow` over the test exchange, whose clock a test moves from poll to poll."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import sample_trades
from backfills import rows_on_disk
from kraken_market import SECOND_NS, Clock, Market, TradeRows, expected
from kraken_server import Exchange

from harvester import config
from harvester.download.exchange import RunOptions
from harvester.events import BackfillResult, CancelToken, Committed, Event, Followed, Noted
from harvester.operations.follow import follow
from harvester.pair_selection import PairName, PairSelection
from harvester.storage.trade_store import TradeStore

SETTLE_NS = 60 * SECOND_NS
OPTIONS = {"exchange.rate": 0, "exchange.retry_wait_s": 0.005, "exchange.timeout_s": 5}


@cache
def busy_market() -> Market:
    """About 150 trades a second: bursts with up to 17 equal stamps."""
    return sample_trades.market(sample_trades.xbtusd_like(60_000, 5, gap_s=0.03))


class Following:
    """One archive, one exchange, one clock, and what was reported."""

    def __init__(self, folder: Path, exchange: Exchange, clock: Clock) -> None:
        """Nothing is followed yet."""
        self.folder = folder
        self.exchange = exchange
        self.clock = clock
        self.events: list[Event] = []
        self.cancel = CancelToken()

    @property
    def settled_ns(self) -> int:
        """Trades up to here are to be stored."""
        return self.clock.now_ns // SECOND_NS * SECOND_NS - SETTLE_NS

    @property
    def notes(self) -> list[str]:
        """The texts of all notes."""
        return [str(event) for event in self.events if isinstance(event, Noted)]

    @property
    def commits(self) -> list[Committed]:
        """What was written."""
        return [event for event in self.events if isinstance(event, Committed)]

    @property
    def polls(self) -> list[Followed]:
        """What was reported of each poll, and of each commit."""
        return [event for event in self.events if isinstance(event, Followed)]

    def run(
        self,
        *names: str,
        on_event: Callable[[Event], object],
        after: int | None = None,
        **options: Any,
    ) -> list[BackfillResult]:
        """Follow until `on_event`, which is called with each event, cancels `cancel`.

        Options are settings, with __ for the dot.
        """
        given = {name.replace("__", "."): value for name, value in options.items()}
        given = OPTIONS | {"exchange.url": self.exchange.url} | given
        settings = config.load(given, environment={})
        self.cancel = CancelToken()

        def listen(event: Event) -> None:
            self.events.append(event)
            on_event(event)

        return asyncio.run(
            follow(
                TradeStore(self.folder),
                settings,
                RunOptions(listen, self.cancel, now_ns=lambda: self.clock.now_ns),
                PairSelection([PairName(name) for name in names], False, (), None),
                after=after,
                every_s=0.001,
            )
        )

    def run_steps(
        self, steps: Iterator[None], *names: str, after: int | None = None, **options: Any
    ) -> list[BackfillResult]:
        """Follow; take a step whenever all settled trades of all pairs are stored, then stop."""

        def on_event(event: Event) -> None:
            is_live = isinstance(event, Followed) and event.state == "live"
            if is_live and self.is_caught_up(*names):
                self.take_step(steps)

        return self.run(*names, on_event=on_event, after=after, **options)

    def is_caught_up(self, *names: str) -> bool:
        """Whether coverage of each pair ends where trades are settled."""
        coverage = [TradeStore(self.folder).coverage(name) for name in names or ("XBTUSD",)]
        return all(parts and parts[-1].through == self.settled_ns for parts in coverage)

    def take_step(self, steps: Iterator[None]) -> None:
        """Take the next step; stop where there is none."""
        if next(steps, "end") == "end":
            self.cancel.cancel()

    def minutes(self, count: float, seconds: float = 10.0) -> Iterator[None]:
        """Steps that move the clock, by some seconds each, over so many minutes."""
        for _ in range(round(count * 60 / seconds)):
            self.clock.advance(seconds)
            yield

    def stored(self, name: str = "XBTUSD") -> TradeRows:
        """What is stored, by plain Parquet."""
        return rows_on_disk(self.folder, name)

    def shown(self, market: Market, after: int = 0) -> TradeRows:
        """What is to be stored."""
        return [row for row in expected(market) if after < row[1] <= self.settled_ns]

    def files(self) -> int:
        """How many segments there are."""
        return len(list(self.folder.glob("trades/**/*.parquet")))
