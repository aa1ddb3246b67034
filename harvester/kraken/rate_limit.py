"""Rate limit per pair: when the next request may be sent, and which rate the exchange accepts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

# --- limit ----------------------------------------------------------------------------------------

# Nobody has published the limits, and they change. A refusal is the only thing that tells of one,
# and it costs a wait; so a rate is given up at once and sought again with care:
#
# - Half of what was refused is gone to first, or what the calls that passed show to be safe.
# - From there it goes half-way to the lowest rate that was refused, and again, until the two are
#   near. Each try that is refused goes back to the rate before it, and makes the next one wait
#   twice as long.
# - A rate that had been sure and is lost was allowed for a reason: for two minutes it is tried
#   again every ten seconds, so that a limit that comes back is found soon. After that it is
#   forgotten.

PASSED_CALLS = 4
PASSED_S = 2.0
"""A rate is believed once so many calls passed at it over so long, or longer: see `_trial_s`."""

SURE_S = 20.0
"""A rate that passed for so long is sure: two calls too many a minute would have shown."""

BURST = 2
"""Calls that a limiter lets pass at once. A true one that is larger costs a refusal more."""

HALF = 0.5
BELOW = 0.95
"""Of a rate that was refused: no more is taken for safe."""

LOWER = 0.9
"""A refusal below this part of a sure rate shows that the limit fell; above, that it was close."""

NEAR = 1.07
"""A refused rate so many times the present one is not worth a refusal to come closer to."""

BEYOND = 1.1
STRIDE = 1.5
"""How far a try goes past a refused rate, and on from there while nothing is refused."""

FIRST_PATIENCE_S = 5.0
LONGEST_PATIENCE_S = 600.0
LOST_S = 120.0
LOST_EVERY_S = 10.0
SLOWEST = 1 / 60
"""Calls a second: no pair is ever slowed below."""

SPEEDING = 1 / 0.85
FIRST_SLOWING = 0.05
"""Of the wait after a refusal: the interval that a pair without a set rate is slowed to first."""


class Limit(Protocol):
    """The rate at which a pair may be asked, as far as is known."""

    @property
    def rate(self) -> float:
        """Calls a second."""

    @property
    def set_rate(self) -> float:
        """Calls a second that are wished for."""

    def passed(self, started_s: float, now_s: float) -> bool:
        """A call passed; tells whether a try is believed to have come off by it."""

    def refused(self, started_s: float, now_s: float) -> bool:
        """A call was refused; tells whether it was a try at more than what is known to pass."""

    def slow(self, now_s: float) -> None:
        """Others were refused."""

    def climb(self, now_s: float) -> bool:
        """Try more, if it is time to; tells whether it is."""

    def hurry(self, now_s: float) -> None:
        """A try of another pair came off: look for a lost rate now."""


class FoundLimit:
    """The limit of a pair with a set rate, which is never gone beyond."""

    def __init__(self, set_rate: float) -> None:
        """`set_rate` in calls a second, above 0."""
        self.set_rate = set_rate
        self.rate = set_rate
        self._refused_rate = math.inf
        """The lowest rate refused since it was last found to pass."""
        self._sure_rate = 0.0
        self._base_rate = 0.0
        """What a try began from, and goes back to until its own rate is sure."""
        self._believed = True
        self._lost_rate = 0.0
        self._lost_s = -math.inf
        self._patience_s = 0.0
        self._try_s = -math.inf
        self._set_s = self._began_s = -math.inf
        self._passed = 0

    def passed(self, started_s: float, now_s: float) -> bool:
        """Believe a rate step by step."""
        if started_s < self._set_s:
            return False
        if not self._passed:
            self._began_s = started_s
        self._passed += 1
        over_s = now_s - self._began_s
        if over_s >= SURE_S:
            self._sure_rate, self._base_rate = self.rate, 0.0
            if self._refused_rate == math.inf:
                self._patience_s = 0.0
        if self._believed or self._passed < PASSED_CALLS or over_s < self._trial_s:
            return False
        self._believed = True
        if self.rate >= self._refused_rate:
            self._refused_rate = math.inf
        if self.rate >= LOWER * self._lost_rate:
            self._lost_rate = 0.0
        return self._base_rate > 0

    def refused(self, started_s: float, now_s: float) -> bool:
        """Go down, to what is known or shown to pass."""
        if started_s < self._set_s:
            # It was sent at another rate, which is given up already.
            return False
        rate, sure = self.rate, self._sure_rate
        known = self._base_rate or (sure if sure < rate else 0.0)
        self._refused_rate = min(rate, self._refused_rate) if self._base_rate else rate
        shown = self._shown(started_s)
        if sure and rate < LOWER * sure:
            self._lose(now_s)
        if known:
            lower = max(known, min(BELOW * rate, shown))
            self._patience_s = min(LONGEST_PATIENCE_S, max(FIRST_PATIENCE_S, 2 * self._patience_s))
            self._try_s = now_s + self._patience_s
        else:
            shown = 0.0 if sure == rate else shown
            lower = max(HALF * rate, min(BELOW * rate, shown))
            self._patience_s = 0.0 if sure else self._patience_s
            self._try_s = now_s + self._patience_s
        if self._lost_rate:
            self._try_s = now_s + LOST_EVERY_S
        self._go(lower, now_s)
        self._base_rate = known if known < self.rate else 0.0
        return bool(known)

    def slow(self, now_s: float) -> None:
        """Halve the speed."""
        self._refused_rate = min(self.rate, self._refused_rate)
        self._patience_s, self._try_s = 0.0, now_s + FIRST_PATIENCE_S
        if self._sure_rate:
            self._lose(now_s)
        self._go(HALF * self.rate, now_s)

    def climb(self, now_s: float) -> bool:
        """Try a higher rate, if the present one passes and it is time."""
        if self.rate >= self.set_rate or not self._believed or now_s < self._try_s:
            return False
        if now_s - self._lost_s >= LOST_S:
            self._lost_rate = 0.0
        base = self.rate
        self._go(self._next_rate(), now_s)
        self._base_rate = base
        return True

    def hurry(self, now_s: float) -> None:
        """Let the lost rate be tried at once."""
        if self._lost_rate:
            self._try_s = now_s

    def _next_rate(self) -> float:
        if self._lost_rate:
            return self._lost_rate
        if self._refused_rate == math.inf:
            return STRIDE * self.rate
        if self._refused_rate > NEAR * self.rate:
            return (self.rate + self._refused_rate) / 2
        return BEYOND * self._refused_rate

    @property
    def _trial_s(self) -> float:
        """A try that is a little too fast shows late: when calls of a whole burst were too many."""
        if not self._base_rate:
            return PASSED_S
        return min(SURE_S, max(PASSED_S, BURST / (self.rate - self._base_rate)))

    def _shown(self, refused_s: float) -> float:
        """What the calls that passed show to be allowed, however many came from a burst."""
        over_s = refused_s - self._began_s
        return (self._passed - BURST) / over_s if self._passed > BURST and over_s > 0 else 0.0

    def _lose(self, now_s: float) -> None:
        self._lost_rate, self._lost_s = self._sure_rate, now_s
        self._sure_rate = 0.0

    def _go(self, rate: float, now_s: float) -> None:
        self.rate = min(self.set_rate, max(rate, SLOWEST))
        self._set_s, self._passed = now_s, 0
        self._believed, self._base_rate = False, 0.0


class NoLimit:
    """A pair without a set rate, such as of a mirror: refusals are rare and soon forgotten."""

    set_rate = math.inf

    def __init__(self, wait_s: float) -> None:
        """`wait_s`: the wait after a refusal."""
        self.rate = math.inf
        self._first = 1 / (FIRST_SLOWING * wait_s) if wait_s else math.inf
        self._slowest = 1 / wait_s if wait_s else math.inf

    def passed(self, started_s: float, now_s: float) -> bool:  # noqa: ARG002 - as the other
        """Speed up."""
        faster = self.rate * SPEEDING
        self.rate = math.inf if faster > 4 * self._first else faster
        return False

    def refused(self, started_s: float, now_s: float) -> bool:  # noqa: ARG002 - as the other
        """Halve the speed."""
        self.rate = max(self._slowest, min(self._first, HALF * self.rate))
        return False

    def slow(self, now_s: float) -> None:
        """Halve the speed."""
        self.refused(now_s, now_s)

    def climb(self, now_s: float) -> bool:  # noqa: ARG002 - as the other
        """Passing is enough."""
        return False

    def hurry(self, now_s: float) -> None:
        """Passing is enough."""


# --- pacing ---------------------------------------------------------------------------------------

# Kraken limits Trades by address and pair, and calls made while refused prolong the refusal.
# Every pair has a `Pace`, aimed at a rate and counted from request start to request start, so
# that latency costs nothing; `limit.py` finds the rate that is allowed. `Paces` knows all pairs:
# where several are refused together, the address as a whole asks too much; then all slow down,
# and fewer calls are in flight at once. Where the exchange says that too many calls are in flight
# ("Throttled"), that alone is lowered, and no pair is asked for a while.

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
