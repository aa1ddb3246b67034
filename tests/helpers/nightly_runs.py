"""A test exchange whose days pass, and a machine that refreshes an archive every night."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import sample_trades
from backfills import rows_on_disk
from crash_points import Plan
from kraken_market import SECOND_NS, Clock, Market, TradeRows, expected
from kraken_server import Exchange
from process import Ended, Victims

from harvester import config
from harvester.cli.refresh import report
from harvester.download.exchange import RunOptions
from harvester.events import CancelToken, Event, Listener
from harvester.operations.refresh import refresh
from harvester.storage.trade_store import TradeStore

DAY_NS = 86_400 * SECOND_NS
SETTLE_NS = 60 * SECOND_NS
FIRST_NS = sample_trades.utc_ns(2024, 12, 12)
NAMES = {
    "XBTUSD": ("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD"),
    "ETHEUR": ("ETHEUR", "XETHZEUR", "ETH/EUR", "XETH", "ZEUR"),
    "XDGUSD": ("XDGUSD", "XDGUSD", "XDG/USD", "XXDG", "ZUSD"),
    "SOLEUR": ("SOLEUR", "SOLEUR", "SOL/EUR", "SOL", "ZEUR"),
}
OPTIONS = {
    "exchange.rate": 0,
    "exchange.retry_wait_s": 0.005,
    "exchange.give_up_s": 30,
    "exchange.timeout_s": 5,
}


def daily(name: str, a_day: int, days: int, seed: int = 1) -> Market:
    """A market of about so many trades a day, over so many days from the first on."""
    # Bursts hold some four trades and a half, so they lie that much farther apart.
    gap_s = 86_400 * 4.5 / a_day
    made = sample_trades.xbtusd_like(
        2 * a_day * days, seed, start_ns=FIRST_NS, gap_s=gap_s, first_id=1
    )
    end_ns = FIRST_NS + days * DAY_NS
    return Market(*NAMES[name], trades=[trade for trade in made if trade.true_ns < end_ns])


def range_of(file: Path) -> tuple[int, int]:
    """What a segment holds, by its name."""
    after, through = file.stem.split("-")
    return int(after), int(through)


class Nights:
    """One archive, one exchange, one clock."""

    def __init__(self, folder: Path, exchange: Exchange, clock: Clock) -> None:
        """Nothing is refreshed yet."""
        self.folder = folder
        self.exchange = exchange
        self.clock = clock
        self.pairs: Sequence[str] = ()
        self.events: list[Event] = []

    @property
    def settled_ns(self) -> int:
        """Trades published up to here are to be stored after a refresh, in whole seconds."""
        return self.clock.now_ns // SECOND_NS * SECOND_NS - SETTLE_NS

    def pass_day(self) -> None:
        """Let a day pass."""
        self.clock.now_ns += DAY_NS

    def refresh(
        self,
        *pairs: str,
        max_s: float | None = None,
        cancel: CancelToken | None = None,
        listener: Listener = lambda _event: None,
        **options: Any,
    ) -> Any:
        """Refresh in this process: the report, as the command prints it.

        Options are settings, with __ for the dot.
        """
        given = {"exchange.url": self.exchange.url, "refresh.pairs": list(self.pairs)}
        given |= {name.replace("__", "."): value for name, value in options.items()}
        settings = config.load(OPTIONS | given, environment={})

        def listen(event: Event) -> None:
            self.events.append(event)
            listener(event)

        watch = RunOptions(listen, cancel or CancelToken())
        archive = TradeStore(self.folder)
        max_minutes = None if max_s is None else max_s / 60
        done = asyncio.run(refresh(archive, settings, watch, pairs, max_minutes=max_minutes))
        return json.loads(msgspec.json.encode(report(done)))

    @property
    def machine(self) -> Victims:
        """Where the command runs as a process of its own."""
        variables = {
            "HARVESTER_" + key.replace(".", "_").upper(): str(value)
            for key, value in OPTIONS.items()
        }
        pairs = {"HARVESTER_REFRESH_PAIRS": ",".join(self.pairs)} if self.pairs else {}
        return Victims(self.folder, self.exchange.url, variables | pairs)

    def command(self, *words: str, plan: Plan | None = None) -> Ended:
        """Refresh by the command."""
        return self.machine.run(["refresh", *words], plan)

    def rows(self) -> dict[str, int]:
        """How many trades of each pair stand on disk, by the files' own count.

        A kill may leave files beside the one that they were merged into, which count no more.
        """
        found: dict[str, int] = {}
        for folder in (self.folder / "trades").glob("pair=*"):
            name, reached = folder.name.removeprefix("pair="), 0
            files = {range_of(file): file for file in folder.rglob("*.parquet")}
            for after, through in sorted(files, key=lambda file: (file[0], -file[1])):
                if through > reached:
                    rows = pq.read_metadata(files[after, through]).num_rows
                    found[name] = found.get(name, 0) + rows
                    reached = through
        return found

    def files(self, pair: str) -> int:
        """How many files a pair has."""
        return len(list((self.folder / "trades" / f"pair={pair}").rglob("*.parquet")))

    def history(self, pair: str) -> list[tuple[Any, ...]]:
        """What is held, by plain Parquet."""
        return rows_on_disk(self.folder, pair)


def move_ahead(seconds: float) -> None:
    """Move the clock of the running loop, so that what waits for a time need not."""
    loop = asyncio.get_running_loop()
    true = loop.time
    loop.time = lambda: true() + seconds  # type: ignore[method-assign]


def until(market: Market, through_ns: int) -> TradeRows:
    """The rows of a market up to a published time."""
    return [row for row in expected(market) if row[1] <= through_ns]


def states(report: Any) -> dict[str, str]:
    """The state of each pair."""
    return {outcome["pair"]: outcome["state"] for outcome in report["pairs"]}
