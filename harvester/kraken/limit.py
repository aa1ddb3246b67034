"""Finds how many calls a second a pair is allowed: pure arithmetic over times that are handed in.

Nobody has published the limits, and they change. A refusal is the only thing that tells of one,
and it costs a wait; so a rate is given up at once and sought again with care:

- Half of what was refused is gone to first, or what the calls that passed show to be safe.
- From there it goes half-way to the lowest rate that was refused, and again, until the two are
  near. Each try that is refused goes back to the rate before it, and makes the next one wait twice
  as long.
- A rate that had been sure and is lost was allowed for a reason: for two minutes it is tried again
  every ten seconds, so that a limit that comes back is found soon. After that it is forgotten.
"""

from __future__ import annotations

import math
from typing import Protocol

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
