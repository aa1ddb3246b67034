"""How far a run is: rates, remaining time and lines of text, computed from its events."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable

from harvester import events
from harvester.times import show_seconds

Clock = Callable[[], float]

RATE_SAMPLES = 20
"""The current rate is the average of this many seconds with a page or a step."""


class PairProgress:
    """The progress of one pair, computed from its events.

    Attributes:
        trades: downloaded in this run.
        pages: requested in this run.
        reached_ns: published time of the last trade that was read; None before the first page.
        waiting: why no answer comes at present; empty if answers come.
        slowed: the lowered rate, in words; empty if it is not lowered.
        step: the progress of work that downloads no trades; None during downloads.
        is_download: whether a download has started; its result ends the pair then.
    """

    def __init__(self, pair: str, clock: Clock) -> None:
        self.pair = pair
        self.trades = self.pages = 0
        self.reached_ns: int | None = None
        self.waiting = self.slowed = ""
        self.step: events.Step | None = None
        self.is_download = False
        self._request = events.Started(pair, [], None)
        self._trades_before = 0
        self._first_page: events.PageRead | None = None
        self._clock = clock
        self._samples = deque([(clock(), 0)], RATE_SAMPLES)

    def add(self, event: events.Event) -> None:
        """Add an event of this pair."""
        match event:
            case events.Started():
                # A long run starts again for what was published meanwhile.
                self._request, self._trades_before, self._first_page = event, self.trades, None
                self.is_download = True
            case events.PageRead(_, trades, pages, reached_ns):
                is_same_work, self.step = self.step is None, None
                self.trades, self.pages, self.reached_ns = trades, pages, reached_ns
                self._first_page = self._first_page or event
                self._add_sample(is_same_work=is_same_work)
            case events.Step():
                before, self.step = self.step, event
                self._add_sample(is_same_work=before is not None and before.unit == event.unit)
            case events.Waiting():
                self.waiting = event.reason
            case events.Paced(_, pace):
                self.slowed = f"slowed to {pace.rate:.2g}/s" if pace.is_slowed else ""
            case _:
                pass

    def _add_sample(self, *, is_same_work: bool) -> None:
        self.waiting = ""
        sample = (self._clock(), self._done)
        if not is_same_work or sample[1] < self._samples[-1][1]:
            self._samples.clear()
        elif len(self._samples) > 1 and sample[0] - self._samples[-2][0] < 1.0:
            # One sample per second, so that many pages per second cost nothing.
            self._samples.pop()
        self._samples.append(sample)

    @property
    def _done(self) -> int:
        return self.trades if self.step is None else self.step.done

    @property
    def per_s(self) -> float:
        """Current rate of trades, or of steps, per second."""
        (first_s, first), (last_s, last) = self._samples[0], self._samples[-1]
        # The next page is not yet late while it takes no longer than the average page; without
        # this, the rate would fall and jump between pages.
        page_s = (last_s - first_s) / max(1, len(self._samples) - 1)
        passed_s = max(last_s, self._clock() - page_s) - first_s
        return (last - first) / passed_s if passed_s > 0 else 0.0

    @property
    def pages_s(self) -> float:
        """Current rate of pages per second."""
        return self.per_s * self.pages / self.trades if self.trades and not self.step else 0.0

    @property
    def left(self) -> int | None:
        """Remaining trades or steps; None if they can't be estimated.

        Trades by the exchange's counts; if these are absent or used up, by the trades per time that
        were read.
        """
        if self.step is not None:
            return self.step.of - self.step.done
        missing, expected = self._request.missing, self._request.expected
        if self.is_download and not missing:
            return 0
        if expected is not None and expected > self.trades - self._trades_before:
            return expected - (self.trades - self._trades_before)
        first, reached_ns = self._first_page, self.reached_ns
        if first is None or reached_ns is None or reached_ns <= first.reached_ns:
            return None if expected is None else 0
        ns_left = sum(max(0, part.through - max(part.after, reached_ns)) for part in missing)
        return round((self.trades - first.trades) / (reached_ns - first.reached_ns) * ns_left)

    @property
    def left_s(self) -> float | None:
        """Remaining seconds at the current rate; None if they can't be estimated."""
        left, per_s = self.left, self.per_s
        return left / per_s if left is not None and per_s > 0 else None

    @property
    def fraction(self) -> float | None:
        """Fraction of the request that is done, from 0 to 1; None if it can't be estimated.

        What was stored before this run counts as done, so the bar of a resumed download goes on
        where it was.
        """
        left, done = self.left, self._done
        if self.step is None:
            done += self._request.stored - self._trades_before
        elif not self.step.of:
            return 1.0
        return None if left is None or not done + left else done / (done + left)

    @property
    def parts(self) -> list[str]:
        """What a line says of the pair, the most important last."""
        done = [
            "" if self.reached_ns is None else show_seconds(self.reached_ns),
            f"{self.trades:,} trades",
            f"{self.pages_s:.1f} pages/s",
        ]
        if step := self.step:
            done = [f"{step.done:,} of {step.of:,} {step.unit}"]
            if step.unit == "bytes":
                done = [f"{step.done / 1e6:,.0f} of {step.of / 1e6:,.0f} MB"]
        waiting = self.waiting and f"waiting: {self.waiting}"
        return [part for part in (*done, time_left(self.left_s), self.slowed, waiting) if part]


class RunProgress:
    """The progress of all pairs of a run, computed from its events.

    Attributes:
        pairs: number of pairs in all; None if unknown.
        running: the progress of pairs that have started and not ended, by altname.
        status: what all pairs wait for, such as the exchange's clock, or how far followed pairs
            are; empty for nothing.
    """

    def __init__(self, clock: Clock = time.monotonic, pairs: int | None = None) -> None:
        self._clock = clock
        self._begin(pairs)

    def _begin(self, pairs: int | None) -> None:
        """Begin a run, or a part of it, with this many pairs, of which none has begun."""
        self.pairs = pairs
        self.running: dict[str, PairProgress] = {}
        self.status = ""
        self._trades = 0
        # Pairs that have ended, and whether without an error. After a result, no step follows.
        self._ended: dict[str, bool] = {}
        self._has_result: set[str] = set()

    def add(self, event: events.Event) -> None:
        """Add an event; late events of a pair that has ended are ignored."""
        match event:
            case events.Begun(pairs):
                self._begin(pairs)
            case events.Started(pair):
                self._has_result.discard(pair)
                self._ended.pop(pair, None)
                self._progress_of(pair).add(event)
            case events.PageRead(pair) if pair not in self._has_result:
                self.status = ""
                self._progress_of(pair).add(event)
            case events.Step(pair, done, of) if pair not in self._has_result:
                self._progress_of(pair).add(event)
                # Steps within a download do not end a pair: its result does.
                if done >= of and not self.running[pair].is_download:
                    self._end(pair, 0)
            case events.Imported(pair, status):
                self._end(pair, status)
            case events.Waiting() | events.Paced() if event.pair in self.running:
                self.running[event.pair].add(event)
            case events.Waiting() | events.Followed():
                self.status = str(event)
            case events.BackfillResult() | events.Ended():
                self._add_result(event)
            case _:
                pass

    def _progress_of(self, pair: str) -> PairProgress:
        # More work on a pair that was done; what failed stays a failure.
        if self._ended.get(pair):
            del self._ended[pair]
        return self.running.setdefault(pair, PairProgress(pair, self._clock))

    def _add_result(self, event: events.BackfillResult | events.Ended) -> None:
        if isinstance(event, events.BackfillResult):
            self._trades += event.trades
        elif event.pair in self.running:
            self._trades += self.running[event.pair].trades
        self._ended.pop(event.pair, None)
        self.status = ""
        self._end(event.pair, event.exit_status)
        self._has_result.add(event.pair)

    def _end(self, pair: str, exit_status: int) -> None:
        self.running.pop(pair, None)
        self._ended[pair] = self._ended.get(pair, True) and exit_status == 0

    @property
    def done(self) -> int:
        """Number of pairs that ended without an error."""
        return sum(self._ended.values())

    @property
    def failed(self) -> int:
        """Number of pairs that ended with an error."""
        return len(self._ended) - self.done

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

        The larger of the slowest running pair's and of what all remaining work takes at the current
        rate. Pairs that have not started are assumed to have as many trades on average as those
        that have.
        """
        running = list(self.running.values())
        known = [left for pair in running if (left := pair.left) is not None]
        units = {pair.step and pair.step.unit for pair in running}
        per_s = sum(pair.per_s for pair in running)
        started = len(self._ended) + len(running)
        not_started = max(0, (self.pairs or 0) - started)
        if len(known) < len(running) or len(units) != 1 or per_s <= 0:
            return None
        if not_started and units != {None}:
            return None
        all_left = sum(known) + not_started * (self.trades + sum(known)) / started
        return max([all_left / per_s, *(pair.left_s or 0.0 for pair in running)])

    def busiest(self, count: int) -> list[PairProgress]:
        """Up to `count` running pairs with the highest rates; of equal ones, the oldest."""
        running = list(self.running.values())
        chosen = sorted(running, key=lambda pair: -round(pair.pages_s, 1))[:count]
        return [pair for pair in running if pair in chosen]

    def __str__(self) -> str:
        """One line for all pairs, the most important part first."""
        of = f" of {self.pairs:,}" if self.pairs is not None else ""
        failed = f", {self.failed:,} failed" if self.failed else ""
        waiting = [pair.waiting for pair in self.running.values() if pair.waiting]
        parts = [
            f"{len(self._ended):,}{of} pairs ended{failed}",
            time_left(self.left_s),
            f"{len(waiting):,} waiting: {waiting[0]}" if waiting else "",
            f"{self.trades:,} trades" if self.trades else "",
            f"{self.pages_s:.1f} pages/s" if self.pages_s else "",
        ]
        return "  ".join(part for part in parts if part)


def time_left(seconds: float | None) -> str:
    """Remaining time with one or two units, such as `8 h 05 min left`; empty for None."""
    if seconds is None:
        return ""
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole % 86_400 // 3600, whole % 3600 // 60
    if days:
        return f"{days} d {hours} h left"
    if hours:
        return f"{hours} h {minutes:02d} min left"
    return f"{minutes} min left" if minutes else f"{whole} s left"


def messages(event: events.Event) -> list[str]:
    """Return the log lines of an event; most have none."""
    if isinstance(event, events.Imported):
        return list(event.lines)
    return [str(event)] if isinstance(event, events.Noted | events.BackfillResult) else []


def is_utf8_locale() -> bool:
    """Whether the locale is UTF-8, so that more than ASCII can be printed.

    Python replaces the C locale by C.UTF-8 when it starts, so LC_CTYPE alone proves nothing.
    """
    names = [os.environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    if names[1] == "C.UTF-8" and names[2] in ("C", "POSIX"):
        names[1] = ""
    chosen = next((name for name in names if name), "UTF-8" if sys.flags.utf8_mode else "")
    return "UTF8" in chosen.upper().replace("-", "")
