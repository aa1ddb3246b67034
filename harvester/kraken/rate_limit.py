"""Rate limiting: decide when each pair's next request may be sent.

Kraken limits the Trades endpoint by address and pair, and requests sent while refused prolong the
refusal. From the outside in:

- `RateLimiter` knows all pairs. It limits the requests in flight, and slows down every pair if
  several are refused at about the same time.
- `PairRateLimiter` spaces one pair's requests, from start to start, so that latency costs nothing,
  and waits after a refusal.
- `AdaptiveRate`, in a module of its own, finds the rate that the exchange accepts for one pair.

Nothing here reads a clock or sleeps: the caller passes the time in, in seconds of a monotonic
clock.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from harvester.kraken.adaptive_rate import AdaptiveRate, UnlimitedRate

CALLS_PER_PAIR = 2
"""Most requests of one pair in flight at once; `download/range_split.py` uses two."""

LONGEST_WAIT_S = 60.0
JITTER = 0.25

CATCH_UP_FACTOR = 0.25
"""The part of the interval by which a late start is made up for. A machine is often late by some
milliseconds, which would add up; catching up on more would be a burst."""

LATENCY_WEIGHT = 0.3
LATENCY_SAMPLES = 3


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

    @property
    def is_slowed(self) -> bool:
        """Whether refusals keep the pair below its set rate."""
        return self.rate < self.set_rate

    def __str__(self) -> str:
        """The rate from now on, and the reason, in one line."""
        rate = "without a limit" if self.rate == math.inf else f"at {self.rate:.2f} calls a second"
        why = f", {self.waiting}" if self.waiting else ""
        return f"requested {rate}{why} ({self.refusals:,} of {self.calls:,} calls refused)"


class PairRateLimiter:
    """Space the requests of one pair, and wait after refusals.

    Attributes:
        limit: finds the rate that the exchange accepts.
        calls: requests sent so far.
        refusals: how many of them were refused.
        waiting: the exchange's reason for the present wait; empty without one.
    """

    def __init__(self, rate: float, wait_s: float, jitter: Callable[[], float]) -> None:
        """A pair without requests yet.

        Args:
            rate: requests per second, 0 for no limit.
            wait_s: the first wait after a refusal, in seconds.
            jitter: draws from [0, 1), so that pairs refused together do not return together.
        """
        self.limit: AdaptiveRate | UnlimitedRate = (
            AdaptiveRate(rate) if rate else UnlimitedRate(wait_s)
        )
        self.calls = self.refusals = 0
        self.waiting = ""
        self._wait_s = wait_s
        self._jitter = jitter
        self._next_s = self._wait_until_s = self._refused_s = -math.inf
        self._refusals_in_a_row = 0
        self._latency_s = 0.0
        self._answers = 0

    @property
    def interval_s(self) -> float:
        """Seconds from one request's start to the next."""
        return 1 / self.limit.rate

    @property
    def is_latency_bound(self) -> bool:
        """Whether answers take longer than the interval, so that sequential requests are too slow.

        False without a set rate: there is no rate to reach.
        """
        is_known = self._answers >= LATENCY_SAMPLES and self.limit.set_rate < math.inf
        return is_known and self._latency_s > self.interval_s

    def delay_s(self, now_s: float) -> float:
        """Seconds until the next request may be sent; 0 if it may be sent now."""
        return max(0.0, self._next_s - now_s, self._wait_until_s - now_s)

    def record_start(self, now_s: float) -> None:
        """Record that a request is sent."""
        interval_s = self.interval_s
        due_s = max(self._next_s, now_s - CATCH_UP_FACTOR * interval_s) if self.calls else now_s
        self.calls += 1
        self._next_s = due_s + interval_s

    def record_latency(self, started_s: float, now_s: float) -> None:
        """Update the average latency by a request that was sent at `started_s`, passed or not."""
        took_s = now_s - started_s
        weight = LATENCY_WEIGHT if self._answers else 1.0
        self._latency_s += weight * (took_s - self._latency_s)
        self._answers += 1

    def record_success(self, started_s: float, now_s: float) -> bool:
        """Record a request that passed; returns whether a probe succeeded by it."""
        self._refusals_in_a_row = 0
        if now_s >= self._wait_until_s:
            self.waiting = ""
        return self.limit.record_success(started_s, now_s)

    def record_refusal(
        self, started_s: float, now_s: float, why: str, wait_s: float | None = None
    ) -> bool:
        """Record a refused request: send nothing for a while, and then more slowly.

        Args:
            started_s: when it was sent. One sent before the last refusal arrived adds nothing.
            now_s: when the refusal arrived.
            why: the exchange's words.
            wait_s: seconds to wait, if the exchange names them.

        Returns whether it was part of a probe above the rates known to pass.
        """
        self.refusals += 1
        self.waiting = why
        if wait_s is not None:
            self._wait_until_s = max(self._wait_until_s, now_s + wait_s)
        if started_s <= self._refused_s:
            return False
        self._refused_s = now_s
        self._refusals_in_a_row += 1
        if wait_s is None:
            wait_s = _growing_wait_s(self._wait_s, self._refusals_in_a_row, self._jitter)
        self._wait_until_s = max(self._wait_until_s, now_s + wait_s)
        self._next_s = max(self._next_s, self._wait_until_s)
        # If the first request after a wait is refused, the wait was too short: that says nothing
        # about the rate.
        is_first = self._refusals_in_a_row == 1
        return self.limit.record_refusal(started_s, now_s) if is_first else False


def _growing_wait_s(first_s: float, refusals: int, jitter: Callable[[], float]) -> float:
    """The wait after so many refusals in a row: doubling, up to a minute, with jitter on top."""
    wait_s: float = min(LONGEST_WAIT_S, first_s * 2.0 ** min(refusals - 1, 30))
    return wait_s * (1 + JITTER * jitter())


# --- The requests of all pairs --------------------------------------------------------------------

# If several pairs are refused within some seconds, the address as a whole sends too much: then all
# pairs slow down, and fewer requests are in flight at once. If the exchange says that too many
# requests are in flight ("Throttled"), only their number is lowered, and no pair is requested for a
# while.

SHARED_REFUSAL_S = 10.0
SHARED_REFUSAL_PAIRS = 3
"""So many pairs refused within so many seconds slow down all pairs."""

PROBE_SPACING_S = 8.0
PAIRS_PER_PROBE = 8
"""Of so many pairs one probes a higher rate at a time. No other does within the spacing, unless the
probe succeeds."""


class RateLimiter:
    """Decide when requests of all pairs may be sent, and how many may be in flight at once."""

    def __init__(
        self,
        rate: float,
        wait_s: float,
        most_in_flight: int,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """A limiter without pairs yet.

        Args:
            rate: requests per second for each pair, 0 for no limit.
            wait_s: the first wait after a refusal, in seconds.
            most_in_flight: requests of all pairs that may be in flight at once.
            jitter: draws from [0, 1), to lengthen waits.
        """
        self._rate = rate
        self._wait_s = wait_s
        self._jitter = jitter
        self._most_in_flight = most_in_flight
        self._allowed_in_flight = float(most_in_flight)
        self._in_flight_of: dict[str, int] = {}
        self._in_flight = 0
        self._peak_in_flight = 0
        self._pairs: dict[str, PairRateLimiter] = {}
        self._refused_s: dict[str, float] = {}
        self._slowed_s: dict[str, float] = {}
        self._next_probe_s = self._free_probes_until_s = -math.inf
        self._throttled_s = self._throttled_until_s = -math.inf
        self._throttles = 0
        self._throttled_why = ""

    def pair(self, name: str) -> PairRateLimiter:
        """The rate limiter of the pair with this altname; created when it is first needed."""
        if name not in self._pairs:
            self._pairs[name] = PairRateLimiter(self._rate, self._wait_s, self._jitter)
        return self._pairs[name]

    def state(self, name: str, now_s: float) -> PaceState:
        """How fast the pair with this altname is requested at present."""
        pair = self.pair(name)
        throttled = self._throttled_why if now_s < self._throttled_until_s else ""
        is_full = self.is_full
        waiting = pair.waiting or throttled or ("too many calls are in flight" if is_full else "")
        return PaceState(
            name,
            pair.limit.rate,
            pair.limit.set_rate,
            pair.calls,
            pair.refusals,
            waiting if is_full or self.delay_s(name, now_s) > 0 else "",
            self._in_flight_of.get(name, 0),
            int(self._allowed_in_flight),
        )

    @property
    def is_full(self) -> bool:
        """Whether one request in flight must end before another may be sent."""
        return self._in_flight >= int(self._allowed_in_flight)

    @property
    def _probe_spacing_s(self) -> float:
        return PROBE_SPACING_S * PAIRS_PER_PROBE / max(PAIRS_PER_PROBE, len(self._pairs))

    def delay_s(self, name: str, now_s: float) -> float:
        """Seconds until a pair's next request may be sent; 0 if it may be sent now."""
        return max(self.pair(name).delay_s(now_s), self._throttled_until_s - now_s)

    def record_start(self, name: str, now_s: float) -> None:
        """Record that a pair's request is sent."""
        self.pair(name).record_start(now_s)
        self._in_flight_of[name] = self._in_flight_of.get(name, 0) + 1
        self._in_flight += 1
        self._peak_in_flight = max(self._peak_in_flight, self._in_flight)

    def record_end(self, name: str, started_s: float, now_s: float) -> None:
        """Record that a pair's request, sent at `started_s`, is over, passed or not."""
        self.pair(name).record_latency(started_s, now_s)
        self._in_flight_of[name] -= 1
        self._in_flight -= 1

    def record_success(self, name: str, started_s: float, now_s: float) -> None:
        """Record that a pair's request, sent at `started_s`, passed; raise limits step by step."""
        pair = self.pair(name)
        if started_s > self._throttled_s:
            self._throttles = 0
        if pair.record_success(started_s, now_s):
            self._free_probes_until_s = now_s + PROBE_SPACING_S
            for other in self._pairs.values():
                other.limit.retry_lost_rate(now_s)
        may_probe = now_s >= self._next_probe_s or now_s < self._free_probes_until_s
        if may_probe and pair.limit.try_increase(now_s):
            self._next_probe_s = now_s + self._probe_spacing_s
        raised = self._allowed_in_flight + 1 / self._allowed_in_flight
        self._allowed_in_flight = min(self._most_in_flight, raised)

    def record_refusal(
        self, name: str, started_s: float, now_s: float, why: str, wait_s: float | None = None
    ) -> None:
        """Slow down one pair, or all if several are refused within some seconds.

        Args:
            name: the pair whose request was refused.
            started_s: see `PairRateLimiter.record_refusal`, as for the other arguments.
            now_s: when the refusal arrived.
            why: the exchange's words.
            wait_s: seconds to wait, if the exchange names them.
        """
        was_probe = self.pair(name).record_refusal(started_s, now_s, why, wait_s)
        self._slowed_s[name] = now_s
        if was_probe:
            # Only this pair went faster: its refusal says nothing about the others.
            self._next_probe_s = now_s + self._probe_spacing_s
            self._free_probes_until_s = -math.inf
            return
        self._refused_s[name] = now_s
        recent = [at_s for at_s in self._refused_s.values() if now_s - at_s <= SHARED_REFUSAL_S]
        if len(recent) >= SHARED_REFUSAL_PAIRS:
            self._back_off_all(now_s)
            self._refused_s.clear()

    def record_throttling(
        self, name: str, started_s: float, now_s: float, why: str, wait_s: float | None = None
    ) -> None:
        """Allow fewer requests in flight, and send none for a while: too many were in flight.

        This concerns all pairs together, so no pair's rate changes.

        Args:
            name: the pair whose request was refused.
            started_s: when it was sent. One sent before the last such refusal adds nothing.
            now_s: when the refusal arrived.
            why: the exchange's words.
            wait_s: seconds to wait, if the exchange names them.
        """
        self.pair(name).refusals += 1
        self._throttled_why = why
        if started_s > self._throttled_s:
            self._throttled_s = now_s
            self._throttles += 1
            self._halve_in_flight()
        if wait_s is None:
            wait_s = _growing_wait_s(self._wait_s, self._throttles, self._jitter)
        self._throttled_until_s = max(self._throttled_until_s, now_s + wait_s)

    def _back_off_all(self, now_s: float) -> None:
        """Slow down each pair that was not slowed just now, and allow fewer requests in flight."""
        for name, pair in self._pairs.items():
            if now_s - self._slowed_s.get(name, -math.inf) > SHARED_REFUSAL_S:
                self._slowed_s[name] = now_s
                pair.limit.back_off(now_s)
        self._halve_in_flight()

    def _halve_in_flight(self) -> None:
        """Allow half of the requests that were in flight at once, but at least one."""
        most = min(self._allowed_in_flight, self._peak_in_flight)
        self._allowed_in_flight = max(1.0, most / 2)
        self._peak_in_flight = self._in_flight
