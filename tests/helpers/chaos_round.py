"""One round of torture: a made market, a faulty exchange, and a harvester that is never left alone.

benchmarks/torture.py goes many rounds; tests/chaos/test_torture.py goes a short one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self

import csv_files
import sample_trades
from crash_points import WHEN, Plan
from kraken_faults import Fault, Faults
from kraken_market import SECOND_NS, Clock, Market, Trade, TradeRows, named
from kraken_server import Exchange
from ledger import Ledger, Loss, check_nothing_left, imported_ranges_of, misnamed_files, staged
from process import Disk, Ended, Victims

SETTLE_S = 60
LATENCY_S = 0.004
MOST_TRIALS = 80
GAPS = 4
NO_BOUNDARY = "skipped at boundaries, where "
COUNT = "the imported file lacks trades, or the exchange skipped ids"
"""The status of a run that leaves some."""
STEPS = 20
"""Trials over which a market's history passes, where not all of it has when they begin."""
PASSING = (
    *("rate_limit", "too_many", "throttled", "unavailable", "busy", "deadline", "internal"),
    *("http:429", "http:500", "http:502", "http:503", "http:504", "http:520", "http:522"),
    *("cut", "reset", "close", "drop_after", "bad_json", "not_json", "warning"),
    *("empty", "stale", "older", "skip", "repeat", "shuffle"),
    *("last_missing", "last_short", "last_stuck", "last_garbage"),
    *("first_rows", "last_rows", "later", "newest"),
)
"""What an exchange does now and then; a second request is answered correctly."""
LASTING = ("denied", "lockout", "invalid", "unknown_pair", "http:403")
"""What ends a run at once; the next one goes on."""
SLOW = ("hang", "dribble", "big:34000000")
"""What costs a time-out each, or as much."""


class Command(NamedTuple):
    """A command that may be killed, how often it is chosen, and how it may end by itself."""

    words: str
    weight: int
    statuses: tuple[int, ...] = (0,)


# What stands in braces is filled in for each run. A command more is a line more.
COMMANDS = (
    Command("backfill {pairs} -q", 12, (0, 3)),
    Command("backfill {pair} -q", 4, (0, 3)),
    Command("backfill {pairs} -q --newest-first", 2, (0, 3)),
    Command("backfill {pair} -q --since {since} --until {until}", 3, (0, 3)),
    Command("refresh {pairs} -q", 4, (0, 3)),
    Command("compact -q", 6),
    Command("rollup -q", 4),
    Command("pairs --update -q", 1),
)

OF_FILES = (
    Command("import {files} -q", 6, (0, 3)),
    Command("backfill {pairs} -q --replace-imported", 12, (0, 3)),
    Command("backfill {pair} -q --replace-imported", 6, (0, 3)),
)
"""What is chosen, too, where there are files; they come first."""
FILES_FIRST = 4
"""So many trials import, before any other command does."""
CHANCE_OF_FILES = 0.4

LAST_COMMANDS = (
    "pairs --update -q",
    "backfill {pairs} -q",
    # Of nothing that came from files, it does nothing.
    "backfill {pairs} -q --replace-imported",
    # What it says of itself while it runs is left by one that was killed, and cleared by the next.
    "refresh {pairs} -q",
    "compact -q",
    "rollup -q",
    "verify",
    "status",
)
"""What is run undisturbed at the end, and must end well."""

AIMS = (
    ("stage", ""),
    ("write", "commit"),
    ("write", "compact"),
    ("sync", "commit"),
    ("sync", "compact"),
    ("rename", ""),
    ("rename", "commit"),
    ("rename", "compact"),
    ("write", "store_rollup"),
    ("sync", "store_rollup"),
    ("rename", "store_rollup"),
    ("write", "commit_stream"),
    ("rename", "commit_stream"),
    ("stage", "replace_imported"),
    ("rename", "replace_imported"),
    ("rename", "replace_imported"),
    ("unlink", "replace_imported"),
    ("unlink", "compact"),
    ("unlink", "sweep"),
    ("unlink", ""),
    ("mkdir", ""),
    ("rmdir", ""),
)
"""Steps to die at, and the method of the writer that is to be at it."""


@dataclass
class Tally:
    """What happened, for the summary."""

    kills: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    trials: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    skipped: set[str] = field(default_factory=set)
    runs: int = 0
    calls: int = 0
    trades: int = 0


def troubled(n: int, seed: int) -> Market:
    """Make an XBTUSD over New Year with bursts, equal times, id gaps and runs of id 0."""
    chances = random.Random(f"troubled {seed}")
    start_ns = sample_trades.utc_ns(2023, 12, 31, 23, 30) + 7
    trades: list[Trade] = []
    skipped, zero = 0, False
    for place, trade in enumerate(
        sample_trades.xbtusd_like(n, seed, start_ns=start_ns, first_id=1)
    ):
        skipped += chances.choice((1, 2, 40)) if chances.random() < 0.0005 else 0
        zero = n // 3 < place < n // 2 and chances.random() < (0.85 if zero else 0.05)
        trades.append(replace(trade, trade_id=0 if zero else (trade.trade_id or 0) + skipped))
    return sample_trades.market(trades)


SECONDS: tuple[Callable[[int, int], Market], ...] = (
    lambda n, seed: named(1, sample_trades.zero_ids(n, seed)),
    sample_trades.tiny_coin,
    lambda n, seed: replace(
        named(1, []), trades=sample_trades.old_style(n, seed).trades, decimals=4
    ),
    lambda n, seed: named(1, sample_trades.look_alikes(n, seed, first_id=None)),
    # Some three years of them: a clock that is ahead of this machine's is not believed.
    lambda n, seed: named(1, sample_trades.sparse(min(n // 4, 300), seed)),
    lambda n, seed: named(1, sample_trades.ids_with_gaps(n, seed, chance=0.5)),
    lambda n, seed: named(1, sample_trades.inside_stamps(n, seed, page_size=250)),
)
"""Markets beside the first; each round has one of them."""
ID_GAPS_EVERYWHERE = 5
"""The market with so many id gaps that a row left out looks like a further id gap."""


def faulty(seed: int, chance: float) -> Faults:
    """Make all faults strike by chance: of a hundred calls, about `3000 * chance` meet one."""
    chances = dict.fromkeys(PASSING, chance)
    chances |= dict.fromkeys(SLOW, chance / 3) | dict.fromkeys(LASTING, chance / 10)
    return Faults(seed=seed, chances=chances, throttle_s=0, hang_s=20, dribble_s=20)


class Round:
    """An archive, the exchange it copies, and all that is done to them; a context manager."""

    def __init__(
        self, disk: Disk, seed: int, trades: int, tally: Tally, *, has_files: bool = False
    ) -> None:
        """`seed` decides all that is random; `trades`: of each of two markets.

        With `has_files`, a beginning of each history is there to be imported, else by chance.
        """
        self.random = random.Random(f"round {seed}")
        self.disk = disk
        self.tally = tally
        self.commands: Sequence[Command] = COMMANDS
        self.doing = "nothing yet"
        self.markets = [troubled(trades, seed), SECONDS[seed % len(SECONDS)](trades, seed)]
        self._stamps = sorted(trade.true_ns for market in self.markets for trade in market.trades)
        self._known_at_first = self.random.choice((0.2, 0.6, 1.0))
        self.trials = 0
        self.clock = Clock(self._stamps[0])
        self.faults = faulty(seed, 0.01)
        if seed % len(SECONDS) == ID_GAPS_EVERYWHERE:
            self.faults.chances.pop(Fault("skip"))
        self.exchange = Exchange(
            self.markets,
            clock=self.clock,
            page_size=self.random.choice((100, 100, 250, 1000)),
            since_mode=self.random.choice(("inclusive", "exclusive")),
            latency_s=LATENCY_S,
            faults=self.faults,
        )
        self.victims = Victims(disk.folder, "")
        self.files: list[Path] = []
        chances = random.Random(f"files {seed}")
        imported_rows: Sequence[TradeRows | None] = [None] * len(self.markets)
        if chances.random() < CHANCE_OF_FILES or has_files:
            imported_rows = self._offer_files(chances)
        self.ledgers = [
            Ledger(disk.folder, *both) for both in zip(self.markets, imported_rows, strict=True)
        ]

    def _offer_files(self, chances: random.Random) -> list[TradeRows]:
        """Let there be files of a beginning of each market's history; returns their rows."""
        self.commands = (*COMMANDS, *OF_FILES)
        # Beside a file's trades, which have no ids, a missing row can't be noticed.
        self.faults.chances.pop(Fault("skip"), None)
        rounding = chances.choice(csv_files.ROUNDINGS)
        folder = self.disk.folder.with_name("files")
        folder.mkdir(exist_ok=True)
        imported_rows = []
        for market in self.markets:
            trades = market.trades[: int(len(market.trades) * chances.uniform(0.1, 0.9))]
            self.files.append(folder / f"{market.altname}.csv")
            self.files[-1].write_bytes(csv_files.three_columns(trades, rounding))
            imported_rows.append(csv_files.rows_of_file(trades, rounding))
        return imported_rows

    def __enter__(self) -> Self:
        """Let the exchange listen."""
        self.exchange.start()
        self.victims.url = self.exchange.url
        self.victims.settings = {
            "HARVESTER_ARCHIVE_FLUSH_ROWS": str(self.random.choice((40, 90, 200, 400))),
            "HARVESTER_ARCHIVE_FLUSH_S": "0.2",
            "HARVESTER_EXCHANGE_RATE": self.random.choice(("0", "100000")),
            "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.005",
            "HARVESTER_EXCHANGE_TIMEOUT_S": "0.5",
            "HARVESTER_EXCHANGE_GIVE_UP_S": "20",
            "HARVESTER_REFRESH_SETTLE_S": str(SETTLE_S),
        }
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, and count what it served."""
        self.exchange.stop()
        self.tally.faults += self.faults.done
        self.tally.calls += len(self.exchange.calls)
        self.tally.runs += self.victims.started
        self.tally.trades += len(self._stamps)

    # What every trial needs.

    @property
    def pairs(self) -> list[str]:
        """The altnames."""
        return [market.altname for market in self.markets]

    def has_traded(self, pair: str) -> bool:
        """Whether a market has trades by the exchange's clock: without any, a backfill ends 3."""
        market = next(market for market in self.markets if market.altname == pair)
        return any(trade.true_ns <= self.clock.now_ns for trade in market.trades)

    def command(self) -> Command:
        """Choose a command, its words filled in."""
        of_files = self.files and self.trials <= FILES_FIRST
        commands = OF_FILES[:1] if of_files else self.commands
        chosen = self.random.choices(commands, [command.weight for command in commands])[0]
        since, until = sorted(self.random.sample(self._stamps, 2))
        words = chosen.words.format(
            pairs=" ".join(self.pairs),
            pair=self.random.choice(self.pairs),
            files=" ".join(map(str, self.files)),
            since=since,
            until=until + 1,
        )
        return chosen._replace(words=words)

    def aim(self) -> Plan:
        """Choose a step to die at."""
        step, phase = self.random.choice(AIMS)
        nth = self.random.choice((1, 1, 1, 2, 2, 3, 5, 8))
        return Plan(step, self.random.choice(WHEN), nth, phase)

    def glance(self) -> bool:
        """Note what is committed; whether any of it is new."""
        before = [pair_ledger.committed for pair_ledger in self.ledgers]
        for ledger in self.ledgers:
            ledger.glance()
        return before != [pair_ledger.committed for pair_ledger in self.ledgers]

    def pass_time(self, *, whole: bool = False) -> None:
        """Let the market trade on; now and then the exchange's clock moves, there and back."""
        self.trials += 1
        part = 1.0 if whole else min(1.0, self._known_at_first + self.trials / STEPS)
        if not whole and self.random.random() < 0.1:
            part *= self.random.random()
            self.tally.trials["the exchange's clock moves"] += 1
        self.set_clock(part)

    def set_clock(self, part: float) -> None:
        """Let such a part of the history have happened, and be settled."""
        place = round(part * (len(self._stamps) - 1))
        self.clock.now_ns = self._stamps[place] + (SETTLE_S + 1) * SECOND_NS

    def shifted(self, plan: Plan) -> Plan:
        """Now and then a machine's clock is wrong, or moves while it is read."""
        if self.random.random() < 0.6:
            return plan
        self.tally.trials["the machine's clock is wrong or moves"] += 1
        day_s = 86_400
        return replace(
            plan,
            clock_s=self.random.choice((0, -3600, 3600, -9 * day_s, 400 * day_s)),
            clock_shift_s=self.random.choice((0, -7200, 5)),
        )

    def judge(self, command: Command, end: Ended) -> None:
        """Hold a run that nobody killed to how its command may end.

        Raises:
            Loss: it ended otherwise.
        """
        self.tally.statuses[end.status] += 1
        refreshes = command.words.startswith("refresh")
        if refreshes and end.status == GAPS and self._wants_what_is_to_come():
            self.tally.trials["a gap beyond the exchange's clock, and refresh says so"] += 1
        elif command.words.startswith("import") and end.status == GAPS and NO_BOUNDARY in end.err:
            self.tally.trials["a file in which no boundary can be drawn, and import says so"] += 1
        elif (
            "--replace-imported" in command.words
            and end.status == GAPS
            and self._covers_the_future()
        ):
            self.tally.trials[
                "a file beyond the exchange's clock, and the re-download says so"
            ] += 1
        elif end.status == GAPS and COUNT in end.err + end.out:
            self.tally.trials["an import across ids that skip, and its count says so"] += 1
        elif end.status not in command.statuses:
            raise Loss(f"{command.words!r} ended with status {end.status}: {end.err[-800:]!r}")

    def _wants_what_is_to_come(self) -> bool:
        """Whether a gap ends past the exchange's clock, as that has moved back."""
        for ledger in self.ledgers:
            ledger.glance()
        return any(
            gap[1] > self._settled_ns for pair_ledger in self.ledgers for gap in pair_ledger.gaps()
        )

    def _covers_the_future(self) -> bool:
        """Whether an import covers time past the exchange's clock, as that has moved back."""
        return any(
            part[1] > self._settled_ns
            for ledger in self.ledgers
            for seen in ledger.listing()
            for part in imported_ranges_of(seen.path)
        )

    @property
    def _settled_ns(self) -> int:
        return self.clock.now_ns // SECOND_NS * SECOND_NS - SETTLE_S * SECOND_NS

    def booked(self, way: str, command: Command, end: Ended) -> None:
        """Count a run by how it died, or judge it where it did not; then check the archive."""
        if end.killed:
            step, _, phase = end.died_at.rpartition(" ")
            self.tally.kills[f"{way}: {step} in {phase}" if step else way] += 1
            self._count_what_was_left()
        else:
            self.judge(command, end)
        self.check()

    def _count_what_was_left(self) -> None:
        left = self.tally.left
        if any(path.parent.name in self.pairs for path in staged(self.disk.folder)):
            left["a file in staging"] += 1
        if any(ledger.check() for ledger in self.ledgers):
            left["segments beside their merger"] += 1
        if any(len(ledger.committed) > 1 for ledger in self.ledgers):
            left["gaps between what is committed"] += 1

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to be fetched, or enough was tried."""
        last_ns = self._stamps[-1]
        reached = [ledger.committed[-1][1] if ledger.committed else 0 for ledger in self.ledgers]
        whole = all(len(ledger.committed) == 1 for ledger in self.ledgers)
        is_all = whole and min(reached) >= last_ns and not self._is_imported_only()
        return self.trials >= MOST_TRIALS or is_all

    def _is_imported_only(self) -> bool:
        return bool(self.files) and any(ledger.imported_ranges() for ledger in self.ledgers)

    def check(self) -> None:
        """Hold the archive, nobody writing, against all that is known of it.

        Raises:
            Loss: a promise was broken.
        """
        for ledger in self.ledgers:
            ledger.check()
        if found := misnamed_files(self.disk.folder):
            raise Loss(f"foreign files among the segments: {found}")

    def finish(self, commands: Sequence[str] = LAST_COMMANDS) -> None:
        """Leave it alone for some commands, and hold what is then there to the last digit.

        Raises:
            Loss: the trades are not the exchange's, or something is left over.
        """
        self.doing = "the last, undisturbed run"
        self.exchange.faults = Faults()
        self.clock.now_ns = self._stamps[-1] + 3600 * SECOND_NS
        for words in commands:
            filled = words.format(pairs=" ".join(self.pairs))
            self.judge(Command(filled, 0), self.victims.run(filled.split()))
        for ledger in self.ledgers:
            ledger.check_whole(self.clock.now_ns // SECOND_NS * SECOND_NS - SETTLE_S * SECOND_NS)
        check_nothing_left(self.disk.folder)
