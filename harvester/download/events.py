"""Progress events of a download, its result, and the request to stop it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sized
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from harvester.errors import HarvesterError, Interrupted
from harvester.kraken.rate_limit import PaceState
from harvester.times import SECOND, Range, show

# --- stop -----------------------------------------------------------------------------------------

T = TypeVar("T")


class CancelToken:
    """The wish to stop: what is being waited for is dropped, what was fetched is kept.

    Only what stands under `guard` is ever cut short; a commit on its way to disk never is.
    """

    def __init__(self) -> None:
        """Nobody wishes so yet."""
        self._wished = False
        self._waiting: set[asyncio.Task[Any]] = set()

    @property
    def is_wished(self) -> bool:
        """Whether everything is to come to an end."""
        return self._wished

    def wish(self) -> None:
        """Ask everything to come to an end."""
        self._wished = True
        for task in self._waiting:
            task.cancel()

    async def guard(self, work: Awaitable[T]) -> T:
        """Wait for `work`.

        Raises:
            Interrupted: the wish came first.
        """
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a coroutine always runs in a task")
        self._waiting.add(task)
        try:
            if self._wished:
                task.cancel()
            answer = await work
            # A wish that came with the answer lands here, and nowhere later.
            await asyncio.sleep(0) if self._wished else None
        except asyncio.CancelledError:
            if not self._wished:
                raise
            task.uncancel()
            raise Interrupted("interrupted; the same command goes on where it stopped") from None
        finally:
            self._waiting.discard(task)
        return answer


# --- upgrades -------------------------------------------------------------------------------------


class Day(NamedTuple):
    """A UTC day of which a file and the exchange tell otherwise; `day` is ISO 8601."""

    day: str
    file_rows: int
    file_volume: Decimal
    exchange_rows: int
    exchange_volume: Decimal

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.day}: the file has {self.file_rows:,} trades of volume {self.file_volume:f}, "
            f"the exchange {self.exchange_rows:,} of {self.exchange_volume:f}"
        )

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "day": self.day,
            "file": {"rows": self.file_rows, "volume": f"{self.file_volume:f}"},
            "exchange": {"rows": self.exchange_rows, "volume": f"{self.exchange_volume:f}"},
        }


class Rounding(NamedTuple):
    """How files of whole seconds round their times.

    Attributes:
        way: `down`, `nearest` or `up`; `none` of these; `not told` where several explain as much.
        agree: rows of the file that the best way explains.
        of: rows that were compared.
    """

    way: str
    agree: int
    of: int

    def words(self, trades: str) -> str:
        """The same behind `whole seconds, `; `trades` are those that were compared."""
        counts = f"{self.agree:,} of {self.of:,} {trades}"
        return {
            "down": f"rounded down: {counts} agree",
            "nearest": f"rounded to the nearest: {counts} agree",
            "up": f"rounded up: {counts} agree",
            "none": f"rounded neither down, nor to the nearest, nor up: at best {counts} agree",
        }.get(self.way, f"and {self.of:,} {trades} do not tell how they were rounded")


class Left(NamedTuple):
    """A range that stays as the file told it, and why."""

    range: Range
    reason: str


class Upgrade(NamedTuple):
    """What an upgrade of one pair came to.

    Attributes:
        replaced: the ranges, in the order in which they were.
        left: those that stay as they were.
        days: those that do not agree, in order.
        kept: where files that do not agree were copied to, within the archive.
        rounding: measured over all that was compared; None where nothing was, or where times are
            finer than seconds.
    """

    replaced: tuple[Range, ...] = ()
    left: tuple[Left, ...] = ()
    days: tuple[Day, ...] = ()
    kept: tuple[str, ...] = ()
    rounding: Rounding | None = None

    @property
    def is_sound(self) -> bool:
        """Whether all agreed, and nothing had to stay as it was."""
        return not (self.days or self.left)

    def __str__(self) -> str:
        """What it came to, as a part of a line; empty where there was nothing to do."""
        parts = []
        if self.replaced:
            parts.append(f"{_counted(self.replaced, 'range')} from files replaced")
        if self.left:
            parts.append(f"{_counted(self.left, 'range')} from files left as they were")
        if self.days:
            parts.append(f"{_counted(self.days, 'day')} not as in the file")
        if self.rounding is not None:
            parts.append(f"the file's times are whole seconds, {self.rounding.words('trades')}")
        return ", ".join(parts)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "replaced": list(self.replaced),
            "left": [{"range": one.range, "reason": one.reason} for one in self.left],
            "days": [day.plain() for day in self.days],
            "kept": list(self.kept),
            "rounding": None if self.rounding is None else self.rounding._asdict(),
        }


def _counted(things: Sized, name: str) -> str:
    return f"{len(things)} {name}" + ("s" if len(things) != 1 else "")


# --- events ---------------------------------------------------------------------------------------


class Begun(NamedTuple):
    """A run over so many pairs begins."""

    pairs: int


class Step(NamedTuple):
    """So much of a pair's work is done, of so much: work that fetches no trades.

    `unit` is what is counted: files, months, lengths of candles, or bytes.
    """

    pair: str
    done: int
    of: int
    unit: str = "files"


class Imported(NamedTuple):
    """Files of a pair were taken in: `lines` tell people, `report` tells machines."""

    pair: str
    exit_status: int
    lines: list[str]
    report: dict[str, Any]


class Started(NamedTuple):
    """A pair's crawl begins.

    `expected` estimates the trades in `missing`, None where the exchange gave no counts; `held`
    those of the request that are stored already, counted where progress is shown as a bar.
    """

    pair: str
    missing: list[Range]
    expected: int | None
    held: int = 0

    def __str__(self) -> str:
        """One line for people."""
        if not self.missing:
            return f"{self.pair}: up to date"
        many = f"{len(self.missing)} ranges, the first " if len(self.missing) > 1 else ""
        about = "" if self.expected is None else f", about {self.expected:,} trades"
        return f"{self.pair}: {many}{self.missing[0]} to fetch{about}"


class PageRead(NamedTuple):
    """A page was read: all trades so far of this run, and the moment reached."""

    pair: str
    trades: int
    pages: int
    reached_ns: int

    def __str__(self) -> str:
        """One line for people."""
        reached = _second(self.reached_ns)
        return f"{self.pair}: {self.trades:,} trades in {self.pages:,} pages, through {reached}"


class Committed(NamedTuple):
    """Trades were made part of the archive."""

    pair: str
    span: Range
    rows: int

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.pair}: {self.rows:,} trades written, through {_second(self.span.through)}"


class Waiting(NamedTuple):
    """The exchange gave no good answer; it will be asked again."""

    pair: str
    reason: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.pair}: waiting: {self.reason}"


class Paced(NamedTuple):
    """The rate at which a pair is asked has changed."""

    pair: str
    pace: PaceState

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.pair}: {self.pace}"


class Noted(NamedTuple):
    """Something that people should know, and that does not stop the crawl."""

    pair: str
    text: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.pair}: {self.text}"


class Replaced(NamedTuple):
    """Trades of the exchange took the place of what a file told of a range."""

    pair: str
    span: Range
    rows: int

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.pair}: {self.rows:,} trades from files replaced, {self.span}"


class Ended(NamedTuple):
    """A pair's gaps were downloaded as part of other work, which reports what came of it."""

    pair: str
    exit_status: int

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.pair}: done" if self.exit_status == 0 else f"{self.pair}: failed"


class BackfillResult(NamedTuple):
    """What a pair's crawl came to.

    `reached` is what was covered up to; `gaps` are ranges asked for that stay uncovered; `pace`
    is how the exchange was asked, where it was; `upgrade` what became of ranges from files.
    """

    pair: str
    trades: int
    pages: int
    reached: Range | None
    gaps: list[Range]
    error: HarvesterError | None
    pace: PaceState | None = None
    upgrade: Upgrade | None = None

    @property
    def exit_status(self) -> int:
        """0 when all that was asked for is covered."""
        if self.error is not None:
            return self.error.exit_status
        is_sound = self.upgrade is None or self.upgrade.is_sound
        return 0 if is_sound and not self.gaps else 4

    def __str__(self) -> str:
        """One line for people."""
        done = f"{self.pair}: {self.trades:,} trades in {self.pages:,} pages"
        if self.upgrade is not None and str(self.upgrade):
            done = f"{done}, {self.upgrade}"
        if self.error is not None and not self.pages:
            why = str(self.error)
            return why if why.startswith(self.pair) else f"{self.pair}: {why}"
        if self.error is not None:
            return f"{done}; {self.error}"
        if self.gaps:
            return f"{done}; {len(self.gaps)} gaps stay, the first {self.gaps[0]}"
        reached = f", complete through {_second(self.reached.through)}" if self.reached else ""
        if not self.trades and not str(self.upgrade or ""):
            return f"{self.pair}: up to date{reached}"
        return f"{done}{reached}"


def _second(stamp_ns: int) -> str:
    return show(stamp_ns // SECOND * SECOND)


class Reported(NamedTuple):
    """A result is known before the call ends, such as the report of one of several pairs.

    Attributes:
        pair: altname; empty where the report is about no pair.
        report: of the type that the method's docstring names.
    """

    pair: str
    report: object


Event = (
    Begun
    | Step
    | Reported
    | Imported
    | Started
    | PageRead
    | Committed
    | Waiting
    | Paced
    | Noted
    | Replaced
    | Ended
    | BackfillResult
)
Listener = Callable[[Event], None]


# --- tally ----------------------------------------------------------------------------------------


class DownloadCounts:
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
