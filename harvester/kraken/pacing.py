"""When a pair may be asked: pure arithmetic over a clock that is handed in.

Kraken limits Trades by address and pair, and calls made while refused prolong the refusal. Every
pair has a `Pace`, aimed at a rate and counted from request start to request start, so that latency
costs nothing; `limit.py` finds the rate that is allowed. `Paces` knows all pairs: where several
are refused together, the address as a whole asks too much; then all slow down, and fewer calls are
in flight at once. Where the exchange says that too many calls are in flight ("Throttled"), that
alone is lowered, and no pair is asked for a while.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from harvester.kraken.limit import FoundLimit, Limit, NoLimit

SPANS_A_PAIR = 2
"""So many calls of one pair may be in flight at once: see `crawl/split.py`."""

LONGEST_WAIT_S = 60.0
JITTER = 0.25

CATCH_UP = 0.25
"""Of the interval: so much a late start is made up for. The machine is often late by some
milliseconds, which would add up; more would be a burst."""

TOGETHER_S = 10.0
TOGETHER_PAIRS = 3

TRIES_EVERY_S = 8.0
TRYING_PAIRS = 8
"""One of so many pairs tries more at a time, and for so long no other, unless its try comes off."""

LATENCY_WEIGHT = 0.3
LATENCY_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class PaceState:
    """How a pair is asked at present.

    `rate` and `set_rate` in calls a second, infinite where there is no limit; `waiting` tells why
    nothing is asked for now, and is empty where it is.
    """

    pair: str
    rate: float
    set_rate: float
    calls: int
    refusals: int
    waiting: str
    in_flight: int
    most_in_flight: int

    @property
    def slowed(self) -> bool:
        """Whether refusals keep the pair under its set rate."""
        return self.rate < self.set_rate

    def __str__(self) -> str:
        """How fast the pair is asked from now on, and why, in one line for people."""
        rate = "without a limit" if self.rate == math.inf else f"at {self.rate:.2f} calls a second"
        why = f", {self.waiting}" if self.waiting else ""
        return f"asked {rate}{why} ({self.refusals:,} of {self.calls:,} calls refused)"


class Pace:
    """Times of one pair's requests."""

    def __init__(self, rate: float, wait_s: float, jitter: Callable[[], float]) -> None:
        """`rate` in requests a second, 0 for no limit; `wait_s`: the wait after a refusal.

        `jitter` draws from [0, 1): whoever is refused together shall not come back together.
        """
        self.limit: Limit = FoundLimit(rate) if rate else NoLimit(wait_s)
        self.calls = self.refusals = 0
        self.waiting = ""
        self._wait_s = wait_s
        self._jitter = jitter
        self._next_s = self._held_until_s = self._refused_s = -math.inf
        self._streak = 0
        self._latency_s = 0.0
        self._answers = 0

    @property
    def interval_s(self) -> float:
        """From one start to the next."""
        return 1 / self.limit.rate

    @property
    def starved(self) -> bool:
        """Whether answers take longer than the pace, so that one call after another can't keep it.

        Without a set rate there is no pace to keep.
        """
        known = self._answers >= LATENCY_SAMPLES and self.limit.set_rate < math.inf
        return known and self._latency_s > self.interval_s

    def delay_s(self, now_s: float) -> float:
        """How long the next request has to wait; 0 when its time has come."""
        return max(0.0, self._next_s - now_s, self._held_until_s - now_s)

    def start(self, now_s: float) -> None:
        """Note that a request starts."""
        interval_s = self.interval_s
        due_s = max(self._next_s, now_s - CATCH_UP * interval_s) if self.calls else now_s
        self.calls += 1
        self._next_s = due_s + interval_s

    def answered(self, started_s: float, now_s: float) -> None:
        """Learn how long answers take, good ones or not."""
        took_s = now_s - started_s
        weight = LATENCY_WEIGHT if self._answers else 1.0
        self._latency_s += weight * (took_s - self._latency_s)
        self._answers += 1

    def passed(self, started_s: float, now_s: float) -> bool:
        """A request brought what was asked for; tells whether a try came off."""
        self._streak = 0
        if now_s >= self._held_until_s:
            self.waiting = ""
        return self.limit.passed(started_s, now_s)

    def refused(
        self, started_s: float, now_s: float, why: str, wait_s: float | None = None
    ) -> bool:
        """A request was refused: nothing is asked for a while, and then more slowly.

        Args:
            started_s: when it was sent. One sent before the last refusal came tells nothing new.
            now_s: when the refusal came.
            why: the exchange's words.
            wait_s: the exchange's own word for how long to wait.

        Returns whether it was a try at more than what is known to pass.
        """
        self.refusals += 1
        self.waiting = why
        if wait_s is not None:
            self._held_until_s = max(self._held_until_s, now_s + wait_s)
        if started_s <= self._refused_s:
            return False
        self._refused_s = now_s
        self._streak += 1
        if wait_s is None:
            wait_s = min(LONGEST_WAIT_S, self._wait_s * 2.0 ** min(self._streak - 1, 30))
            wait_s *= 1 + JITTER * self._jitter()
        self._held_until_s = max(self._held_until_s, now_s + wait_s)
        self._next_s = max(self._next_s, self._held_until_s)
        # What comes first after a wait, and is refused, tells of the wait and not of the rate.
        return self.limit.refused(started_s, now_s) if self._streak == 1 else False


class Paces:
    """The paces of all pairs, by name."""

    def __init__(
        self,
        rate: float,
        wait_s: float,
        most_in_flight: int,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`rate` in requests a second for each pair; `wait_s`: the wait after a refusal."""
        self._rate = rate
        self._wait_s = wait_s
        self._jitter = jitter
        self._most = most_in_flight
        self._allowed = float(most_in_flight)
        self._flying: dict[str, int] = {}
        self._in_flight = 0
        self._peak = 0
        self._paces: dict[str, Pace] = {}
        self._refusals: dict[str, float] = {}
        self._slowed: dict[str, float] = {}
        self._tries_s = self._free_until_s = -math.inf
        self._throttled_s = self._throttled_until_s = -math.inf
        self._throttles = 0
        self._throttled_why = ""

    def of(self, name: str) -> Pace:
        """The pace of a pair, made at its first request."""
        if name not in self._paces:
            self._paces[name] = Pace(self._rate, self._wait_s, self._jitter)
        return self._paces[name]

    def state(self, name: str, now_s: float) -> PaceState:
        """How a pair is asked at present."""
        pace = self.of(name)
        throttled = self._throttled_why if now_s < self._throttled_until_s else ""
        waiting = pace.waiting or throttled or ("too many calls are in flight" if self.full else "")
        return PaceState(
            name,
            pace.limit.rate,
            pace.limit.set_rate,
            pace.calls,
            pace.refusals,
            waiting if self.full or self.delay_s(name, now_s) > 0 else "",
            self._flying.get(name, 0),
            int(self._allowed),
        )

    @property
    def full(self) -> bool:
        """Whether as many calls are in flight as may be: one must end before another starts."""
        return self._in_flight >= int(self._allowed)

    @property
    def _spacing_s(self) -> float:
        return TRIES_EVERY_S * TRYING_PAIRS / max(TRYING_PAIRS, len(self._paces))

    def delay_s(self, name: str, now_s: float) -> float:
        """How long the next request of a pair has to wait; 0 when its time has come."""
        return max(self.of(name).delay_s(now_s), self._throttled_until_s - now_s)

    def start(self, name: str, now_s: float) -> None:
        """Note that a request starts."""
        self.of(name).start(now_s)
        self._flying[name] = self._flying.get(name, 0) + 1
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)

    def end(self, name: str, started_s: float, now_s: float) -> None:
        """Note that a request is over, whatever came of it."""
        self.of(name).answered(started_s, now_s)
        self._flying[name] -= 1
        self._in_flight -= 1

    def passed(self, name: str, started_s: float, now_s: float) -> None:
        """A request brought what was asked for: come back, step by step."""
        pace = self.of(name)
        if started_s > self._throttled_s:
            self._throttles = 0
        if pace.passed(started_s, now_s):
            self._free_until_s = now_s + TRIES_EVERY_S
            for other in self._paces.values():
                other.limit.hurry(now_s)
        may_try = now_s >= self._tries_s or now_s < self._free_until_s
        if may_try and pace.limit.climb(now_s):
            self._tries_s = now_s + self._spacing_s
        self._allowed = min(self._most, self._allowed + 1 / self._allowed)

    def refused(
        self, name: str, started_s: float, now_s: float, why: str, wait_s: float | None = None
    ) -> None:
        """Slow that pair down, and all when several are refused together. See `Pace.refused`."""
        was_try = self.of(name).refused(started_s, now_s, why, wait_s)
        self._slowed[name] = now_s
        if was_try:
            # Nobody else asked for that: it says nothing of the others.
            self._tries_s, self._free_until_s = now_s + self._spacing_s, -math.inf
            return
        self._refusals[name] = now_s
        lately = [n for n, when in self._refusals.items() if now_s - when <= TOGETHER_S]
        if len(lately) >= TOGETHER_PAIRS:
            self._slow_all(now_s)
            self._refusals.clear()

    def throttled(
        self, name: str, started_s: float, now_s: float, why: str, wait_s: float | None = None
    ) -> None:
        """Too many calls were in flight: fewer from now on, and none for a while.

        That is about all pairs together, so the rate of none is changed.

        Args:
            name: the pair whose request was refused.
            started_s: when it was sent. One sent before the last such refusal tells nothing new.
            now_s: when the refusal came.
            why: the exchange's words.
            wait_s: the exchange's own word for how long to wait.
        """
        self.of(name).refusals += 1
        self._throttled_why = why
        if started_s > self._throttled_s:
            self._throttled_s = now_s
            self._throttles += 1
            self._lower_flights()
        if wait_s is None:
            wait_s = min(LONGEST_WAIT_S, self._wait_s * 2.0 ** min(self._throttles - 1, 30))
            wait_s *= 1 + JITTER * self._jitter()
        self._throttled_until_s = max(self._throttled_until_s, now_s + wait_s)

    def _slow_all(self, now_s: float) -> None:
        """Slow down whoever was not just now, and let fewer calls be in flight."""
        for name, pace in self._paces.items():
            if now_s - self._slowed.get(name, -math.inf) > TOGETHER_S:
                self._slowed[name] = now_s
                pace.limit.slow(now_s)
        self._lower_flights()

    def _lower_flights(self) -> None:
        """Allow half of the calls that were in flight at once, and one at least."""
        self._allowed = max(1.0, min(self._allowed, self._peak) / 2)
        self._peak = self._in_flight
