"""Rate limiting: decide when each pair's next request may be sent.

Kraken limits the Trades endpoint by address and pair, does not publish its limits, and prolongs a
refusal when requests go on. So:

- A pair's requests are spaced evenly, from start to start: latency costs nothing.
- After a refusal nothing is sent for a while, longer with each refusal in a row. Then the pair's
  rate is halved, or lowered to what passed since the refusal before, whichever is higher.
- From there the rate grows by steps that double: slowly at first, close to the limit that was just
  found, then ever faster, in case the limit is gone.
- If the exchange says that too many requests are in flight ("Throttled"), their number is halved,
  no pair is requested for a while, and no pair's rate changes.

Nothing here reads a clock or sleeps: the caller passes the time in, in seconds of a monotonic
clock.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LONGEST_WAIT_S = 60.0
JITTER = 0.25

CATCH_UP_FACTOR = 0.25
"""The part of the interval by which a late start is made up for. A machine is often late by some
milliseconds, which would add up; catching up on more would be a burst."""

BACKOFF_FACTOR = 0.5
SAFE_FACTOR = 0.95
"""The highest rate after a refusal, as a part of the refused one."""

BURST_CALLS = 2
"""Calls that a limiter is assumed to let pass at once, so they say nothing about its rate."""

RECOVERY_S = 75.0
DOUBLING_S = 6.0
"""What is added to the rate doubles every `DOUBLING_S` without a refusal; after `RECOVERY_S` it is
the set rate. A constant step that finds a limit again within a minute after it rose would run into
a limit that stays every ten seconds."""

FORGET_S = 2 * RECOVERY_S
"""A pair without a set rate has no limit again after so long without a refusal."""

LOWEST_RATE = 1 / 60
"""Calls per second: no pair is slowed further."""


@dataclass(frozen=True, slots=True)
class PaceState:
    """How fast a pair is requested at present.

    Attributes:
        pair: its altname.
        rate: calls per second; infinite without a limit.
        set_rate: calls per second that the settings ask for; infinite without a limit.
        calls: requests sent so far.
        refusals: how many of them were refused.
        waiting: why no request is sent now; empty if requests are sent.
        in_flight: requests of this pair without an answer yet.
        most_in_flight: requests of all pairs that may be in flight at once.
    """

    pair: str
    rate: float
    set_rate: float
    calls: int
    refusals: int
    waiting: str
    in_flight: int
    most_in_flight: int

    def to_dict(self) -> dict[str, Any]:
        """The fields but `pair`, for JSON; no limit is None."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "pair"}
        return {name: None if value == math.inf else value for name, value in fields.items()}

    @property
    def is_slowed(self) -> bool:
        """Whether refusals keep the pair below its set rate."""
        return self.rate < self.set_rate

    def __str__(self) -> str:
        """The rate from now on, and the reason, in one line."""
        rate = "without a limit" if self.rate == math.inf else f"at {self.rate:.2f} calls a second"
        why = f", {self.waiting}" if self.waiting else ""
        return f"requested {rate}{why} ({self.refusals:,} of {self.calls:,} calls refused)"


@dataclass(slots=True)
class _Pair:
    """What is known of one pair's requests; times are in seconds, infinite in the past for none."""

    calls: int = 0
    refusals: int = 0
    refusals_in_a_row: int = 0
    in_flight: int = 0
    why: str = ""
    next_s: float = -math.inf
    """When the next request is due by the rate."""
    wait_until_s: float = -math.inf
    refused_s: float = -math.inf
    base_rate: float = math.inf
    """The rate right after the last refusal; infinite before the first."""
    base_s: float = -math.inf
    """When the rate began to grow: at the end of the wait."""
    passed: int = 0
    first_passed_s: float = 0.0
    """Requests that passed since the last refusal, and when the first of them was sent."""


class RateLimiter:
    """Decide when requests of all pairs may be sent, and how many may be in flight at once."""

    def __init__(
        self,
        rate: float,
        wait_s: float,
        most_in_flight: int,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """A limiter without requests yet.

        Args:
            rate: requests per second for each pair, 0 for no limit.
            wait_s: the first wait after a refusal, in seconds.
            most_in_flight: requests of all pairs that may be in flight at once.
            jitter: draws from [0, 1), so that pairs refused together do not return together.
        """
        self._set_rate = rate or math.inf
        self._wait_s = wait_s
        self._jitter = jitter
        self._most_in_flight = most_in_flight
        self._allowed_in_flight = float(most_in_flight)
        self._in_flight = self._peak_in_flight = 0
        self._pairs: defaultdict[str, _Pair] = defaultdict(_Pair)
        self._throttled_s = self._throttled_until_s = -math.inf
        self._throttles = 0
        self._throttled_why = ""

    @property
    def is_full(self) -> bool:
        """Whether one request in flight must end before another may be sent."""
        return self._in_flight >= int(self._allowed_in_flight)

    def state(self, name: str, now_s: float) -> PaceState:
        """How fast the pair with this altname is requested at present."""
        pair = self._pairs[name]
        waiting = ""
        if now_s < pair.wait_until_s:
            waiting = pair.why
        elif now_s < self._throttled_until_s:
            waiting = self._throttled_why
        elif self.is_full:
            waiting = "too many calls are in flight"
        return PaceState(
            name,
            self._rate(pair, now_s),
            self._set_rate,
            pair.calls,
            pair.refusals,
            waiting,
            pair.in_flight,
            int(self._allowed_in_flight),
        )

    def delay_s(self, name: str, now_s: float) -> float:
        """Seconds until a pair's next request may be sent; 0 if it may be sent now."""
        pair = self._pairs[name]
        return max(0.0, max(pair.next_s, pair.wait_until_s, self._throttled_until_s) - now_s)

    def record_start(self, name: str, now_s: float) -> None:
        """Record that a pair's request is sent."""
        pair = self._pairs[name]
        interval_s = 1 / self._rate(pair, now_s)
        due_s = max(pair.next_s, now_s - CATCH_UP_FACTOR * interval_s) if pair.calls else now_s
        pair.next_s = due_s + interval_s
        pair.calls += 1
        pair.in_flight += 1
        self._in_flight += 1
        self._peak_in_flight = max(self._peak_in_flight, self._in_flight)

    def record_end(self, name: str) -> None:
        """Record that a pair's request is over, passed or not."""
        self._pairs[name].in_flight -= 1
        self._in_flight -= 1

    def record_success(self, name: str, started_s: float) -> None:
        """Record that a pair's request, sent at `started_s`, passed."""
        pair = self._pairs[name]
        if started_s > pair.refused_s:
            pair.refusals_in_a_row = 0
            pair.first_passed_s = pair.first_passed_s if pair.passed else started_s
            pair.passed += 1
        if started_s > self._throttled_s:
            self._throttles = 0
        raised = self._allowed_in_flight + 1 / self._allowed_in_flight
        self._allowed_in_flight = min(self._most_in_flight, raised)

    def record_refusal(
        self, name: str, started_s: float, now_s: float, why: str, wait_s: float | None = None
    ) -> None:
        """Record a refused request: send nothing of its pair for a while, and then more slowly.

        Args:
            name: the pair whose request was refused.
            started_s: when it was sent. One sent before the last refusal arrived adds nothing.
            now_s: when the refusal arrived.
            why: the exchange's words.
            wait_s: seconds to wait, if the exchange names them.
        """
        pair = self._pairs[name]
        pair.refusals += 1
        pair.why = why
        if started_s > pair.refused_s:
            pair.refusals_in_a_row += 1
            # If the first request after a wait is refused, the wait was too short: that says
            # nothing about the rate.
            if pair.refusals_in_a_row == 1:
                pair.base_rate = self._lower_rate(pair, started_s)
            pair.refused_s, pair.passed = now_s, 0
            if wait_s is None:
                wait_s = self._growing_wait_s(pair.refusals_in_a_row)
        pair.wait_until_s = max(pair.wait_until_s, now_s + (wait_s or 0.0))
        pair.base_s = pair.wait_until_s
        pair.next_s = max(pair.next_s, pair.wait_until_s)

    def record_throttling(
        self, name: str, started_s: float, now_s: float, why: str, wait_s: float | None = None
    ) -> None:
        """Allow half of the requests that were in flight at once, and send none for a while.

        The arguments are those of `record_refusal`.
        """
        self._pairs[name].refusals += 1
        self._throttled_why = why
        if started_s > self._throttled_s:
            self._throttled_s = now_s
            self._throttles += 1
            most = min(self._allowed_in_flight, self._peak_in_flight)
            self._allowed_in_flight = max(1.0, most / 2)
            self._peak_in_flight = self._in_flight
        if wait_s is None:
            wait_s = self._growing_wait_s(self._throttles)
        self._throttled_until_s = max(self._throttled_until_s, now_s + wait_s)

    def _rate(self, pair: _Pair, now_s: float) -> float:
        """The pair's rate at this time."""
        passed_s = max(0.0, now_s - pair.base_s)
        if passed_s >= FORGET_S:
            return self._set_rate
        scale = pair.base_rate if self._set_rate == math.inf else self._set_rate
        grown: float = (2.0 ** (passed_s / DOUBLING_S) - 1) / (2.0 ** (RECOVERY_S / DOUBLING_S) - 1)
        return min(self._set_rate, pair.base_rate + scale * grown)

    def _lower_rate(self, pair: _Pair, refused_s: float) -> float:
        """The rate after a refusal of a request that was sent at `refused_s`."""
        rate, passed_s, measured = self._rate(pair, refused_s), refused_s - pair.first_passed_s, 0.0
        if pair.passed > BURST_CALLS and passed_s > 0:
            measured = (pair.passed - BURST_CALLS) / passed_s
        if rate == math.inf:
            rate = max(measured, 1 / self._wait_s if self._wait_s else math.inf)
        return max(LOWEST_RATE, BACKOFF_FACTOR * rate, min(SAFE_FACTOR * rate, measured))

    def _growing_wait_s(self, refusals: int) -> float:
        """The wait after so many refusals in a row: doubling, up to a minute, plus jitter."""
        wait_s: float = min(LONGEST_WAIT_S, self._wait_s * 2.0 ** min(refusals - 1, 30))
        return wait_s * (1 + JITTER * self._jitter())
