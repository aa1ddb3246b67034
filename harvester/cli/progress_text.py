"""Progress as text: rates, remaining time, lines of a given width."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from harvester.download.events import (
    BackfillResult,
    Begun,
    Ended,
    Event,
    Imported,
    Paced,
    PageRead,
    Started,
    Step,
    Waiting,
)
from harvester.times import Range, show

PAGE_ROWS = 1000
WINDOW_S = 20.0
"""The current rate is the average of this many seconds."""

MIN_PAGES = 4
"""From this many pages on, a pair's own pages predict how many trades a page has."""

Clock = Callable[[], float]


class Sample(NamedTuple):
    """How far a pair was at a time."""

    at_s: float
    pages: int
    trades: int
    reached_ns: int


class PairProgress:
    """The progress of one pair, computed from its events.

    Attributes:
        expected: trades in the missing ranges, by the exchange's weekly counts; None if unknown.
        stored: trades of the request that were stored before it began.
        reached_ns: published time of the last trade that was read; None before the first page.
        waiting: why no answer comes at present; empty if answers come.
        slowed: the lowered rate, in words; empty if it is not lowered.
        step: the progress of work that downloads no trades; None during downloads.
    """

    def __init__(self, pair: str, clock: Clock = time.monotonic) -> None:
        """Nothing has happened yet."""
        self.pair = pair
        self.expected: int | None = None
        self.stored = 0
        self.trades = self.pages = 0
        self.reached_ns: int | None = None
        self.waiting = self.slowed = ""
        self.step: Step | None = None
        self.is_download = False
        self._missing: list[Range] = []
        self._clock = clock
        self._samples = deque([Sample(clock(), 0, 0, 0)])
        self._page_s = self._samples[0].at_s
        self._step_samples = deque([(clock(), 0)])
        # Trades of earlier rounds: a long run starts again for what was published meanwhile.
        self._earlier_trades = 0

    def start(self, event: Started) -> None:
        """Add the missing ranges; a long run starts again for what was published meanwhile."""
        self._earlier_trades, self.is_download = self.trades, True
        self.expected, self._missing, self.stored = event.expected, event.missing, event.held

    def add_page(self, event: PageRead) -> None:
        """Add a page."""
        self.trades, self.pages, self.waiting = event.trades, event.pages, ""
        self.reached_ns, self.step = event.reached_ns, None
        self._page_s = now = self._clock()
        # One sample per second, so that many pages per second cost nothing.
        if now - self._samples[-1].at_s >= 1.0 or not self._samples[-1].pages:
            self._samples.append(Sample(now, self.pages, self.trades, event.reached_ns))
        while len(self._samples) > 2 and now - self._samples[1].at_s >= WINDOW_S:
            self._samples.popleft()

    def add_step(self, step: Step) -> None:
        """Add the progress of work that downloads no trades."""
        if self.step is None or self.step.unit != step.unit or step.done < self.step.done:
            self._step_samples = deque([(self._clock(), step.done)])
        self.step, self.waiting = step, ""
        now = self._clock()
        if now - self._step_samples[-1][0] >= 1.0:
            self._step_samples.append((now, step.done))
        while len(self._step_samples) > 2 and now - self._step_samples[1][0] >= WINDOW_S:
            self._step_samples.popleft()

    @property
    def steps_s(self) -> float:
        """Current rate of steps per second."""
        (start_s, done), step = self._step_samples[0], self.step
        passed_s = self._clock() - start_s
        return (step.done - done) / passed_s if step is not None and passed_s > 0 else 0.0

    @property
    def pages_s(self) -> float:
        """Current rate of pages per second."""
        first = self._samples[0]
        pages, passed_s = self.pages - first.pages, self._clock() - first.at_s
        if pages:
            # A page is not late before it takes longer than those before it: else the rate, and
            # the remaining time with it, would go up and down between any two pages.
            pages_s = self._page_s - first.at_s
            passed_s = max(pages_s, passed_s - pages_s / pages)
        return pages / passed_s if passed_s > 0 else 0.0

    @property
    def trades_left(self) -> int | None:
        """Remaining trades; None if they can't be estimated.

        By the exchange's counts; if these are absent or used up, by the trades per time of the last
        pages.
        """
        if self.is_download and not self._missing:
            return 0
        if self.expected is not None and self.trades - self._earlier_trades < self.expected:
            return self.expected - (self.trades - self._earlier_trades)
        first, reached_ns = self._samples[0], self.reached_ns
        if not first.pages:
            first = next((sample for sample in self._samples if sample.pages), first)
        if reached_ns is None or not first.pages or reached_ns <= first.reached_ns:
            return None if self.expected is None else 0
        trades_per_ns = (self.trades - first.trades) / (reached_ns - first.reached_ns)
        return round(trades_per_ns * self._ns_left(reached_ns))

    def _ns_left(self, reached_ns: int) -> int:
        return sum(
            max(0, time_range.through - max(time_range.after, reached_ns))
            for time_range in self._missing
        )

    @property
    def calls_left(self) -> float | None:
        """Remaining requests, if pages stay as full as they were so far."""
        trades_left = self.trades_left
        if trades_left is None:
            return None
        has_sample = self.pages >= MIN_PAGES and self.trades
        return trades_left / (self.trades / self.pages if has_sample else PAGE_ROWS)

    @property
    def left_s(self) -> float | None:
        """Remaining seconds at the current rate; None if they can't be estimated."""
        if self.step is not None:
            return (self.step.of - self.step.done) / self.steps_s if self.steps_s > 0 else None
        calls, pages_s = self.calls_left, self.pages_s
        return calls / pages_s if calls is not None and pages_s > 0 else None

    @property
    def fraction(self) -> float | None:
        """Fraction of the request that is done, from 0 to 1; None if it can't be estimated.

        What was stored before this run counts as done, so the bar of a resumed download goes on
        where it was.
        """
        if self.step is not None:
            return self.step.done / self.step.of if self.step.of else 1.0
        trades_left = self.trades_left
        done = self.stored + self.trades - self._earlier_trades
        return (
            None if trades_left is None or not done + trades_left else done / (done + trades_left)
        )


class RunProgress:
    """The progress of all pairs of a run, computed from its events.

    Attributes:
        pairs: number of pairs in all; None if unknown.
        running: the progress of pairs that have started and not ended, by altname.
        waiting: what all pairs wait for, such as the exchange's clock; empty for nothing.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """No pair has started."""
        self._clock = clock
        self.pairs: int | None = None
        self.running: dict[str, PairProgress] = {}
        self._trades = self._pages = 0
        # Pairs whose download ended, and whether it succeeded.
        self._ended: dict[str, bool] = {}
        self.waiting = ""
        # Pairs whose work downloads no trades, by its result: further work may follow.
        self._succeeded_steps: set[str] = set()
        self._failed_steps: set[str] = set()

    def add(self, event: Event) -> None:
        """Add an event; late events of a pair that has ended are ignored."""
        if isinstance(event, PageRead | Step) and event.pair in self._ended:
            return
        match event:
            case Begun(pairs):
                self.pairs = pairs
            case Started(pair):
                self._ended.pop(pair, None)
                self._progress_of(pair).start(event)
            case PageRead(pair):
                self.waiting = ""
                self._progress_of(pair).add_page(event)
            case Step():
                self._add_step(event)
            case Imported(pair, status):
                self.running.pop(pair, None)
                (self._failed_steps if status else self._succeeded_steps).add(pair)
            case Waiting():
                self._add_wait(event)
            case Paced(pair, pace) if pair in self.running:
                self.running[pair].slowed = f"slowed to {pace.rate:.2g}/s" if pace.is_slowed else ""
            case BackfillResult() | Ended():
                self._end(event)

    def _add_wait(self, event: Waiting) -> None:
        if track := self.running.get(event.pair):
            track.waiting = event.reason
        else:
            self.waiting = f"{event.pair}: waiting: {event.reason}"

    def _end(self, event: BackfillResult | Ended) -> None:
        track = self.running.pop(event.pair, None)
        self._succeeded_steps.discard(event.pair)
        self._ended[event.pair] = event.exit_status == 0
        if done := event if isinstance(event, BackfillResult) else track:
            self._trades += done.trades
            self._pages += done.pages

    def _progress_of(self, pair: str) -> PairProgress:
        if pair not in self.running:
            self.running[pair] = PairProgress(pair, self._clock)
        return self.running[pair]

    def _add_step(self, step: Step) -> None:
        pair_progress = self._progress_of(step.pair)
        pair_progress.add_step(step)
        self._succeeded_steps.discard(step.pair)
        # Steps within a download do not end a pair: its result does.
        if step.done >= step.of and not pair_progress.is_download:
            del self.running[step.pair]
            self._succeeded_steps.add(step.pair)

    @property
    def done(self) -> int:
        """Number of pairs that ended without an error."""
        return sum(self._ended.values()) + len(self._succeeded_steps - self._failed_steps)

    @property
    def failed(self) -> int:
        """Number of pairs that ended with an error."""
        return len(self._ended) - sum(self._ended.values()) + len(self._failed_steps)

    @property
    def trades(self) -> int:
        """Trades of all pairs so far."""
        return self._trades + sum(pair.trades for pair in self.running.values())

    @property
    def pages_s(self) -> float:
        """Current rate of pages per second, of all pairs."""
        return sum(pair.pages_s for pair in self.running.values())

    @property
    def left_s(self) -> float | None:
        """Remaining seconds of the run; None if they can't be estimated.

        The larger of the slowest running pair's and of what all remaining requests take at the
        current rate. Pairs that have not started are assumed to need as many requests on average as
        those that have.
        """
        running = list(self.running.values())
        steps = [pair.step for pair in running if pair.step is not None and not pair.is_download]
        if steps:
            return self._steps_left_s(steps)
        known = [calls for pair in running if (calls := pair.calls_left) is not None]
        ended = self.done + self.failed
        if not running or len(known) < len(running) or self.pages_s <= 0:
            return None
        calls_left = sum(known)
        calls_done = self._pages + sum(pair.pages for pair in running)
        not_started = max(0, (self.pairs or 0) - ended - len(running))
        calls_left += not_started * (calls_done + calls_left) / (ended + len(running))
        return max([calls_left / self.pages_s, *(pair.left_s or 0.0 for pair in running)])

    def _steps_left_s(self, steps: list[Step]) -> float | None:
        """Remaining seconds of work that downloads no trades; None until each pair has started."""
        ended = self.done + self.failed
        steps_s = sum(pair.steps_s for pair in self.running.values())
        is_all = len(steps) == len(self.running) and ended + len(steps) >= (self.pairs or 0)
        if not is_all or len({step.unit for step in steps}) > 1 or steps_s <= 0:
            return None
        return sum(step.of - step.done for step in steps) / steps_s

    def busiest(self, count: int) -> list[PairProgress]:
        """Up to `count` running pairs with the highest rates; of equal ones, the oldest."""
        running = list(self.running.values())
        if len(running) <= count:
            return running
        chosen = sorted(running, key=lambda pair: -round(pair.pages_s + pair.steps_s, 1))[:count]
        return [pair for pair in running if pair in chosen]


# Text


class Symbols(NamedTuple):
    """Characters that bars are drawn with, and the mark at the end of a line that was cut."""

    done: str
    rest: str
    cut: str


UNICODE = Symbols("━", "╌", "…")
ASCII = Symbols("=", "-", "...")

WIDE, MIDDLE = 110, 72
"""Lines of at least this many characters show the time of day, and a bar."""


def duration(seconds: float) -> str:
    """A duration with one or two units: `3 d 4 h`, `8 h 05 min`, `12 min`, `45 s`."""
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole % 86_400 // 3600, whole % 3600 // 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes else f"{whole} s"


def cut(text: str, width: int, symbols: Symbols) -> str:
    """The text, cut to a width in characters."""
    if len(text) <= width:
        return text
    kept = width - len(symbols.cut)
    return text[:kept].rstrip() + symbols.cut if kept > 0 else text[: max(0, width)]


def overall(run: RunProgress, width: int, symbols: Symbols) -> str:
    """One line for all pairs; the less important parts are left out if it is too long."""
    ended = run.done + run.failed
    of = f" of {run.pairs:,}" if run.pairs is not None else ""
    failed = f", {run.failed:,} failed" if run.failed else ""
    parts = [f"{ended:,}{of} pairs ended{failed}"]
    if run.trades:
        parts.append(f"{run.trades:,} trades")
    if run.pages_s:
        parts.append(f"{run.pages_s:.1f} pages/s")
    if run.left_s is not None:
        parts.append(f"{duration(run.left_s)} left")
    waiting = [pair for pair in run.running.values() if pair.waiting]
    if waiting:
        parts.insert(1, f"{len(waiting):,} waiting: {waiting[0].waiting}")
    while len(parts) > 2 and len("  ".join(parts)) > width:
        parts.pop(-2)
    return cut("  ".join(parts), width, symbols)


def pair_line(pair: PairProgress, name_width: int, width: int, symbols: Symbols) -> str:
    """One line for a pair, with its columns aligned to those of the other pairs.

    Args:
        pair: the pair's progress.
        name_width: characters of the longest name.
        width: characters of the line.
        symbols: the characters for bars.
    """
    cells = [pair.pair.ljust(name_width)]
    if width >= MIDDLE:
        cells.append(_bar(pair.fraction, 24 if width >= WIDE else 12, symbols))
    cells.append("    " if pair.fraction is None else f"{int(100 * pair.fraction):3d}%")
    if pair.step is not None:
        cells += [_step(pair.step), _state(pair)]
        return cut("  ".join(cells).rstrip(), width, symbols)
    cells += [_reached(pair, 16 if width >= WIDE else 10), f"{pair.trades:>11,}"]
    if width >= MIDDLE:
        cells.append(f"{pair.pages_s:5.1f}/s")
    cells.append(_state(pair))
    return cut("  ".join(cells).rstrip(), width, symbols)


def log_line(pair: PairProgress) -> str:
    """One line of a log: time reached, trades, pages per second, remaining time, why it waits."""
    reached = "" if pair.reached_ns is None else show(pair.reached_ns // 10**9 * 10**9)
    left = "" if pair.left_s is None else f"{duration(pair.left_s)} left"
    waiting = pair.waiting and f"waiting: {pair.waiting}"
    parts = [reached, f"{pair.trades:,} trades", f"{pair.pages_s:.1f} pages/s", left]
    if pair.step is not None:
        parts = [_step(pair.step), left]
    return f"{pair.pair}: " + ", ".join(p for p in [*parts, pair.slowed, waiting] if p)


def progress_lines(run: RunProgress, width: int, height: int, symbols: Symbols) -> list[str]:
    """All lines for a terminal: the busiest pairs, and one line for all if there are several."""
    has_several = (run.pairs or 0) > 1 or len(run.running) > 1
    shown = run.busiest(max(1, height - 4))
    name_width = max((len(pair.pair) for pair in shown), default=0)
    lines = [pair_line(pair, name_width, width, symbols) for pair in shown]
    more = len(run.running) - len(shown)
    if more:
        lines.append(cut(f"and {more:,} more", width, symbols))
    if run.waiting:
        lines.append(cut(run.waiting, width, symbols))
    if has_several:
        lines.append(overall(run, width, symbols))
    return lines


def _bar(fraction: float | None, width: int, symbols: Symbols) -> str:
    done = round(width * (fraction or 0.0))
    return symbols.done * done + symbols.rest * (width - done)


def _reached(pair: PairProgress, width: int) -> str:
    text = "" if pair.reached_ns is None else show(pair.reached_ns).replace("T", " ")[:width]
    return text.ljust(width)


def _step(step: Step) -> str:
    if step.unit == "bytes":
        return f"{step.done / 1e6:,.0f} of {step.of / 1e6:,.0f} MB"
    return f"{step.done:,} of {step.of:,} {step.unit}"


def _state(pair: PairProgress) -> str:
    if pair.waiting:
        return f"waiting: {pair.waiting}"
    left = "" if pair.left_s is None else f"{duration(pair.left_s)} left"
    return ", ".join(part for part in (left, pair.slowed) if part)
