"""Find the request rate that the exchange accepts for one pair.

`AdaptiveRate` lowers the rate after a refusal and raises it with care, up to the set rate.
`UnlimitedRate` replaces it where no rate is set. Nothing here reads a clock: the caller passes the
time in, in seconds of a monotonic clock.
"""

from __future__ import annotations

import math

# Kraken does not publish its limits, and they change. Only a refusal shows a limit, and each one
# costs a wait. So a rate is lowered at once and raised with care:
#
# - After a refusal the rate is halved, or lowered to what the calls that passed show to be safe.
# - From there it rises half-way to the lowest rate that was refused, and so on, until the two are
#   close. Each refused probe returns to the rate before it and doubles the delay until the next.
# - A proven rate that is lost was accepted for a reason: for two minutes it is probed again every
#   ten seconds, so that a limit that returns is found soon. Then it is forgotten.

MIN_PASSED_CALLS = 4
MIN_PASSED_S = 2.0
"""A rate is accepted once so many calls passed over at least this time: see `_trial_s`."""

PROVEN_S = 20.0
"""A rate that passed for so long is proven: two calls too many a minute would have been refused."""

BURST_CALLS = 2
"""Calls that a limiter is assumed to let pass at once. If it allows more, that costs one refusal
more."""

BACKOFF_FACTOR = 0.5
SAFE_FACTOR = 0.95
"""At most this part of a refused rate counts as safe."""

DROP_THRESHOLD = 0.9
"""A refusal below this part of a proven rate shows that the limit fell; above it, the rate was only
close to the limit."""

MIN_STEP_RATIO = 1.07
"""If the refused rate is at most so many times the present one, coming closer to it is not worth a
refusal."""

PROBE_FACTOR = 1.1
"""How far a probe goes past a refused rate."""

GROWTH_FACTOR = 1.5
"""How fast the rate grows while no refused rate is known."""

FIRST_PROBE_DELAY_S = 5.0
LONGEST_PROBE_DELAY_S = 600.0
LOST_RATE_MEMORY_S = 120.0
LOST_RATE_PROBE_S = 10.0
LOWEST_RATE = 1 / 60
"""Calls per second: no pair is slowed further."""

RECOVERY_FACTOR = 1 / 0.85
FIRST_INTERVAL_FACTOR = 0.05
"""A pair without a set rate is first slowed to an interval of this part of the refusal's wait."""


class AdaptiveRate:
    """Find the request rate that the exchange accepts for one pair, up to the set rate.

    Attributes:
        rate: calls per second at present.
        set_rate: calls per second that the settings ask for; never exceeded.
    """

    def __init__(self, set_rate: float) -> None:
        """Start at `set_rate`, in calls per second, above 0."""
        self.set_rate = set_rate
        self.rate = set_rate
        self._refused_rate = math.inf
        """The lowest rate that was refused, until it is accepted again."""
        self._proven_rate = 0.0
        self._base_rate = 0.0
        """During a probe: the rate before it, to return to until the probe's rate is proven."""
        self._is_accepted = True
        self._lost_rate = 0.0
        self._lost_s = -math.inf
        self._probe_delay_s = 0.0
        self._next_probe_s = -math.inf
        self._rate_set_s = self._first_passed_s = -math.inf
        self._passed_calls = 0

    def record_success(self, started_s: float, now_s: float) -> bool:
        """Record a call that passed; accept the present rate once enough of them did.

        Args:
            started_s: when the call was sent.
            now_s: when its answer arrived.

        Returns whether a probe of a higher rate has succeeded by this call.
        """
        if started_s < self._rate_set_s:
            return False
        if not self._passed_calls:
            self._first_passed_s = started_s
        self._passed_calls += 1
        passed_s = now_s - self._first_passed_s
        if passed_s >= PROVEN_S:
            self._proven_rate, self._base_rate = self.rate, 0.0
            if self._refused_rate == math.inf:
                self._probe_delay_s = 0.0
        if self._is_accepted or self._passed_calls < MIN_PASSED_CALLS or passed_s < self._trial_s:
            return False
        self._is_accepted = True
        if self.rate >= self._refused_rate:
            self._refused_rate = math.inf
        if self.rate >= DROP_THRESHOLD * self._lost_rate:
            self._lost_rate = 0.0
        return self._base_rate > 0

    def record_refusal(self, started_s: float, now_s: float) -> bool:
        """Record a refused call; lower the rate to one that is known or measured to pass.

        Args:
            started_s: when the call was sent.
            now_s: when the refusal arrived.

        Returns whether the call was part of a probe above the rates known to pass.
        """
        if started_s < self._rate_set_s:
            # The call was sent at another rate, which is given up already.
            return False
        rate, proven = self.rate, self._proven_rate
        known = self._base_rate or (proven if proven < rate else 0.0)
        self._refused_rate = min(rate, self._refused_rate) if self._base_rate else rate
        measured = self._measured_rate(started_s)
        if proven and rate < DROP_THRESHOLD * proven:
            self._lose_proven_rate(now_s)
        if known:
            lower = max(known, min(SAFE_FACTOR * rate, measured))
            delay_s = max(FIRST_PROBE_DELAY_S, 2 * self._probe_delay_s)
            self._probe_delay_s = min(LONGEST_PROBE_DELAY_S, delay_s)
        else:
            measured = 0.0 if proven == rate else measured
            lower = max(BACKOFF_FACTOR * rate, min(SAFE_FACTOR * rate, measured))
            self._probe_delay_s = 0.0 if proven else self._probe_delay_s
        self._next_probe_s = now_s + (LOST_RATE_PROBE_S if self._lost_rate else self._probe_delay_s)
        self._set_rate(lower, now_s)
        self._base_rate = known if known < self.rate else 0.0
        return bool(known)

    def back_off(self, now_s: float) -> None:
        """Halve the rate, because several other pairs were refused."""
        self._refused_rate = min(self.rate, self._refused_rate)
        self._probe_delay_s, self._next_probe_s = 0.0, now_s + FIRST_PROBE_DELAY_S
        if self._proven_rate:
            self._lose_proven_rate(now_s)
        self._set_rate(BACKOFF_FACTOR * self.rate, now_s)

    def try_increase(self, now_s: float) -> bool:
        """Probe a higher rate, if the present one is accepted and the delay is over.

        Returns whether a probe begins.
        """
        if self.rate >= self.set_rate or not self._is_accepted or now_s < self._next_probe_s:
            return False
        if now_s - self._lost_s >= LOST_RATE_MEMORY_S:
            self._lost_rate = 0.0
        base_rate = self.rate
        self._set_rate(self._next_rate(), now_s)
        self._base_rate = base_rate
        return True

    def retry_lost_rate(self, now_s: float) -> None:
        """Allow a probe of the lost rate at once, because another pair's probe succeeded."""
        if self._lost_rate:
            self._next_probe_s = now_s

    def _next_rate(self) -> float:
        if self._lost_rate:
            return self._lost_rate
        if self._refused_rate == math.inf:
            return GROWTH_FACTOR * self.rate
        if self._refused_rate > MIN_STEP_RATIO * self.rate:
            return (self.rate + self._refused_rate) / 2
        return PROBE_FACTOR * self._refused_rate

    @property
    def _trial_s(self) -> float:
        """How long calls must pass before a rate is accepted.

        A probe that is slightly too fast is refused late: only once it has sent a whole burst too
        many.
        """
        if not self._base_rate:
            return MIN_PASSED_S
        return min(PROVEN_S, max(MIN_PASSED_S, BURST_CALLS / (self.rate - self._base_rate)))

    def _measured_rate(self, refused_s: float) -> float:
        """The rate that the passed calls show to be allowed, even if a burst was among them."""
        passed_s = refused_s - self._first_passed_s
        if self._passed_calls > BURST_CALLS and passed_s > 0:
            return (self._passed_calls - BURST_CALLS) / passed_s
        return 0.0

    def _lose_proven_rate(self, now_s: float) -> None:
        self._lost_rate, self._lost_s = self._proven_rate, now_s
        self._proven_rate = 0.0

    def _set_rate(self, rate: float, now_s: float) -> None:
        self.rate = min(self.set_rate, max(rate, LOWEST_RATE))
        self._rate_set_s, self._passed_calls = now_s, 0
        self._is_accepted, self._base_rate = False, 0.0


class UnlimitedRate:
    """The rate of a pair without a set rate, such as one of an API server.

    Refusals are rare and soon forgotten. The methods are those of `AdaptiveRate`.
    """

    set_rate = math.inf

    def __init__(self, wait_s: float) -> None:
        """Start without a limit; `wait_s`: the wait after a refusal, in seconds."""
        self.rate = math.inf
        self._first_rate = 1 / (FIRST_INTERVAL_FACTOR * wait_s) if wait_s else math.inf
        self._lowest_rate = 1 / wait_s if wait_s else math.inf

    def record_success(self, started_s: float, now_s: float) -> bool:  # noqa: ARG002
        """Raise the rate, until there is no limit again."""
        faster = self.rate * RECOVERY_FACTOR
        self.rate = math.inf if faster > 4 * self._first_rate else faster
        return False

    def record_refusal(self, started_s: float, now_s: float) -> bool:  # noqa: ARG002
        """Halve the rate."""
        self.rate = max(self._lowest_rate, min(self._first_rate, BACKOFF_FACTOR * self.rate))
        return False

    def back_off(self, now_s: float) -> None:
        """Halve the rate."""
        self.record_refusal(now_s, now_s)

    def try_increase(self, now_s: float) -> bool:  # noqa: ARG002
        """Do nothing: each call that passes raises the rate."""
        return False

    def retry_lost_rate(self, now_s: float) -> None:
        """Do nothing: each call that passes raises the rate."""
