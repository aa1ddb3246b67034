"""How fast a pair may be asked: pure arithmetic over a clock that is handed in.

Kraken limits Trades by address and pair: about one call a second each, and calls made while
refused prolong the refusal. Every pair has a `Pace`; `Paces` slows all of them when several are
refused together, which tells that the address as a whole asks too much.
"""

from __future__ import annotations

SPEEDING = 0.85
FIRST_SLOWING = 0.05
"""Of the wait after a refusal: what a pair without a limit is slowed to at first."""

SLOWEST = 4
"""A pair is never slowed below this part of its set rate, or one call in each wait."""

TOGETHER_S = 10.0
TOGETHER_PAIRS = 3


class Pace:
    """Times of one pair's requests, counted from request start to request start."""

    def __init__(self, rate: float, wait_s: float) -> None:
        """`rate` in requests a second, 0 for no limit; `wait_s`: the wait after a refusal."""
        self.set_interval_s = 1 / rate if rate else 0.0
        self.interval_s = self.set_interval_s
        self._first_slow_s = FIRST_SLOWING * wait_s
        self._slowest_s = max(SLOWEST * self.set_interval_s, wait_s)
        self._next_s = 0.0

    @property
    def slowed(self) -> bool:
        """Whether a refusal still keeps this pair under its set rate."""
        return self.interval_s > self.set_interval_s

    def turn(self, now_s: float) -> float:
        """Take the next turn; returns the seconds to wait for it."""
        start = max(now_s, self._next_s)
        self._next_s = start + self.interval_s
        return start - now_s

    def refused(self, now_s: float) -> None:
        """Halve the speed."""
        self.interval_s = min(self._slowest_s, max(self._first_slow_s, 2 * self.interval_s))
        self._next_s = max(self._next_s, now_s + self.interval_s)

    def succeeded(self) -> None:
        """Come back towards the set rate, step by step."""
        if self.slowed:
            faster = self.interval_s * SPEEDING
            faster = 0.0 if faster < self._first_slow_s / 4 else faster
            self.interval_s = max(faster, self.set_interval_s)


class Paces:
    """The paces of all pairs, by name."""

    def __init__(self, rate: float, wait_s: float) -> None:
        """`rate` in requests a second for each pair; `wait_s`: the wait after a refusal."""
        self._rate = rate
        self._wait_s = wait_s
        self._paces: dict[str, Pace] = {}
        self._refusals: dict[str, float] = {}

    def of(self, name: str) -> Pace:
        """The pace of a pair, made at its first request."""
        return self._paces.setdefault(name, Pace(self._rate, self._wait_s))

    def refused(self, name: str, now_s: float) -> None:
        """Slow that pair down, and all when several are refused together."""
        self.of(name).refused(now_s)
        self._refusals[name] = now_s
        lately = [n for n, when in self._refusals.items() if now_s - when <= TOGETHER_S]
        if len(lately) >= TOGETHER_PAIRS:
            for other, pace in self._paces.items():
                if other not in lately:
                    pace.refused(now_s)
            self._refusals.clear()
