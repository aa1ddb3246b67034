"""Progress events of a download, its result, and the token that cancels it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from harvester.errors import HarvesterError, Interrupted, counted
from harvester.kraken.rate_limit import PaceState
from harvester.times import Range, show_seconds

# --- cancellation ---------------------------------------------------------------------------------

T = TypeVar("T")


class CancelToken:
    """Cancels a download: what is being waited for is dropped, what was downloaded is kept.

    Only what runs under `guard` is ever interrupted; a commit on its way to disk never is.
    """

    def __init__(self) -> None:
        self.is_cancelled = False
        """Whether the run has to end: `cancel` was called, or its time is up."""
        self.is_cancelled_by_caller = False
        """Whether `cancel` was called."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Task[Any]] = set()

    @property
    def is_running(self) -> bool:
        """Whether work runs that `cancel` can end."""
        return self._loop is not None and self._loop.is_running()

    def cancel(self) -> None:
        """Cancel the download, from any thread or a signal handler."""
        self.is_cancelled_by_caller = True
        self.end_run()

    def end_run(self) -> None:
        """Cancel what runs, as its time is up; the caller's next run is not cancelled by that."""
        self.is_cancelled = True
        if self._loop is not None:
            # A closed loop has nothing left to cancel.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._cancel_waiting)

    def _cancel_waiting(self) -> None:
        while self._waiting:
            self._waiting.pop().cancel()

    async def guard(self, work: Awaitable[T]) -> T:
        """Wait for `work`, unless the run is cancelled first.

        Raises:
            Interrupted: the token was cancelled first.
        """
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a coroutine always runs in a task")
        self._loop = asyncio.get_running_loop()
        self._waiting.add(task)
        try:
            if self.is_cancelled:
                self._waiting.discard(task)
                task.cancel()
            answer = await work
            # A cancellation that came with the answer arrives here, and nowhere later.
            await asyncio.sleep(0) if self.is_cancelled else None
        except asyncio.CancelledError:
            if not self.is_cancelled:
                raise
            task.uncancel()
            raise Interrupted from None
        finally:
            self._waiting.discard(task)
        return answer


SIGNAL_POLL_S = 0.2


def result_of(future: Future[T]) -> T:
    """Wait for a future in such a way that no signal is missed; return its result, or raise.

    A signal that arrives just before the main thread begins to wait for a lock, or in another
    thread, does not wake it. Its handler would run only when the work ends.
    """
    while not wait([future], timeout=SIGNAL_POLL_S).done:
        pass
    return future.result()


# --- re-download ----------------------------------------------------------------------------------


class DayDifference(NamedTuple):
    """A UTC day on which imported and downloaded trades differ; `day` is ISO 8601."""

    day: str
    file_rows: int
    file_volume: Decimal
    exchange_rows: int
    exchange_volume: Decimal

    def __str__(self) -> str:
        if (self.file_rows, self.file_volume) == (self.exchange_rows, self.exchange_volume):
            return (
                f"{self.day}: file and exchange have {self.file_rows:,} trades of volume "
                f"{self.file_volume:f}, but not the same ones"
            )
        return (
            f"{self.day}: the file has {self.file_rows:,} trades of volume {self.file_volume:f}, "
            f"the exchange {self.exchange_rows:,} of {self.exchange_volume:f}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "day": self.day,
            "file": {"rows": self.file_rows, "volume": f"{self.file_volume:f}"},
            "exchange": {"rows": self.exchange_rows, "volume": f"{self.exchange_volume:f}"},
        }


class NotReplaced(NamedTuple):
    """An imported range that was not replaced, and why."""

    range: Range
    reason: str


class ReplacementResult(NamedTuple):
    """The result of replacing the imported trades of one pair.

    Attributes:
        replaced: ranges whose trades were replaced, in the order in which they were.
        left: ranges that keep their imported trades.
        days: days on which file and exchange differ.
        kept: where imported segments that differ were copied to, within the archive.
    """

    replaced: tuple[Range, ...] = ()
    left: tuple[NotReplaced, ...] = ()
    days: tuple[DayDifference, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether all days agreed, and all ranges were replaced."""
        return not (self.days or self.left)

    def __str__(self) -> str:
        """The result as a part of a line; empty if there was nothing to do."""
        parts = []
        if self.replaced:
            parts.append(f"{counted(len(self.replaced), 'imported range')} replaced")
        if self.left:
            parts.append(f"{counted(len(self.left), 'imported range')} not replaced")
        if self.days:
            parts.append(f"{counted(len(self.days), 'day')} on which file and exchange differ")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "replaced": list(self.replaced),
            "not_replaced": [left._asdict() for left in self.left],
            "days": [day.to_dict() for day in self.days],
            "kept": list(self.kept),
        }


# --- events ---------------------------------------------------------------------------------------


class Begun(NamedTuple):
    """A run begins; `pairs` is how many it has."""

    pairs: int


class Step(NamedTuple):
    """Progress of work on a pair that downloads no trades: `done` units of `of`.

    `unit` is what is counted: files, months, lengths of candles, or bytes.
    """

    pair: str
    done: int
    of: int
    unit: str = "files"


class Imported(NamedTuple):
    """Files of a pair were imported: the result as `lines` of text, and as `report` for JSON."""

    pair: str
    exit_status: int
    lines: list[str]
    report: dict[str, Any]


class Started(NamedTuple):
    """A pair's download begins.

    Attributes:
        pair: altname.
        missing: the ranges to download.
        expected: estimate of their trades; None if the exchange gave no counts.
        stored: trades of the request that are there already, counted if progress is shown as a bar.
    """

    pair: str
    missing: list[Range]
    expected: int | None
    stored: int = 0

    def __str__(self) -> str:
        if not self.missing:
            return f"{self.pair}: up to date"
        many = f"{len(self.missing)} ranges, the first " if len(self.missing) > 1 else ""
        about = "" if self.expected is None else f", about {self.expected:,} trades"
        return f"{self.pair}: downloading {many}from {self.missing[0]}{about}"


class PageRead(NamedTuple):
    """A page was read: the trades and pages of this run so far, and the time reached."""

    pair: str
    trades: int
    pages: int
    reached_ns: int

    def __str__(self) -> str:
        reached = show_seconds(self.reached_ns)
        pages = counted(self.pages, "page")
        return f"{self.pair}: {self.trades:,} trades in {pages}, through {reached}"


class Committed(NamedTuple):
    """Trades were written to the archive: all trades of a range."""

    pair: str
    span: Range
    rows: int

    def __str__(self) -> str:
        rows = counted(self.rows, "trade")
        return f"{self.pair}: {rows} written, through {show_seconds(self.span.through)}"


class Waiting(NamedTuple):
    """The exchange gave no good answer; the request will be repeated."""

    pair: str
    reason: str

    def __str__(self) -> str:
        return f"{self.pair}: waiting: {self.reason}"


class Paced(NamedTuple):
    """The rate of requests for a pair has changed."""

    pair: str
    pace: PaceState

    def __str__(self) -> str:
        return f"{self.pair}: {self.pace}"


class Noted(NamedTuple):
    """Something that users should know, and that does not stop the download."""

    pair: str
    text: str

    def __str__(self) -> str:
        return f"{self.pair}: {self.text}"


class Followed(NamedTuple):
    """A followed pair was polled, or has come further.

    Attributes:
        pair: altname.
        state: `catching up` while it is more than ten minutes behind, `live`, or `waiting` for the
            exchange.
        trades: stored since the start.
        through_ns: all trades up to this published time are stored; None if nothing was stored.
        last_ns: published time of the newest trade that the exchange showed; None if there is none.
        last_price: of that trade, with all its digits.
        unsettled: newer trades than those stored, which are requested again once they are settled;
            1000 if there are more.
        summary: all followed pairs in one line.
    """

    pair: str
    state: str
    trades: int
    through_ns: int | None
    last_ns: int | None
    last_price: str | None
    unsettled: int
    summary: str

    def __str__(self) -> str:
        return self.summary


class Replaced(NamedTuple):
    """Imported trades of a range were replaced by downloaded ones."""

    pair: str
    span: Range
    rows: int

    def __str__(self) -> str:
        return f"{self.pair}: {self.rows:,} imported trades replaced, {self.span}"


class Ended(NamedTuple):
    """A pair's gaps were downloaded as part of other work, which reports the result."""

    pair: str
    exit_status: int

    def __str__(self) -> str:
        return f"{self.pair}: done" if self.exit_status == 0 else f"{self.pair}: failed"


class BackfillResult(NamedTuple):
    """The result of a pair's download.

    Attributes:
        pair: altname.
        trades: downloaded in this run.
        pages: requested in this run.
        reached: the last covered range; None if nothing is covered.
        gaps: requested ranges that are not covered.
        error: what ended the download early.
        pace: the rate of requests.
        replacement: the result of replacing imported trades, if that was asked for.
    """

    pair: str
    trades: int
    pages: int
    reached: Range | None
    gaps: list[Range]
    error: HarvesterError | None
    pace: PaceState | None = None
    replacement: ReplacementResult | None = None

    @property
    def exit_status(self) -> int:
        """0 if everything that was requested is covered."""
        if self.error is not None:
            return self.error.exit_status
        is_sound = self.replacement is None or self.replacement.is_sound
        return 0 if is_sound and not self.gaps else 4

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON, without `reached`."""
        return {
            "pair": self.pair,
            "exit_status": self.exit_status,
            "trades": self.trades,
            "pages": self.pages,
            "gaps": self.gaps,
            "error": None if self.error is None else str(self.error),
            "pace": self.pace and self.pace.to_dict(),
            "replacement": self.replacement and self.replacement.to_dict(),
        }

    def __str__(self) -> str:
        done = f"{self.pair}: {counted(self.trades, 'trade')} in {counted(self.pages, 'page')}"
        if self.replacement is not None and str(self.replacement):
            done = f"{done}, {self.replacement}"
        if self.error is not None and not self.pages:
            why = str(self.error)
            return why if why.startswith(self.pair) else f"{self.pair}: {why}"
        if self.error is not None:
            return f"{done}; {self.error}"
        if self.gaps:
            return f"{done}; {remaining_gaps(self.gaps)}"
        reached = f", complete through {show_seconds(self.reached.through)}" if self.reached else ""
        has_changed = self.trades or str(self.replacement or "")
        return f"{done if has_changed else f'{self.pair}: up to date'}{reached}"


def remaining_gaps(gaps: Sequence[Range]) -> str:
    """How many gaps remain, and which is the first, such as `1 gap remains: A to B`."""
    if len(gaps) == 1:
        return f"1 gap remains: {gaps[0]}"
    return f"{len(gaps):,} gaps remain, the first {gaps[0]}"


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
    | Followed
    | Replaced
    | Ended
    | BackfillResult
)
Listener = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """The listener of a caller that does not want to know."""


def steps(listener: Listener) -> Callable[[str, int, int], None]:
    """A callback for work below this package, which reports pair, done and all; see `Step`."""
    return lambda *step: listener(Step(*step))


ProgressOption = Callable[[Event], object] | bool
"""What callers of the public API give: a function for each event, or True for a progress bar."""
