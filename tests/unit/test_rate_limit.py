"""When a pair is asked: by a clock that is handed in, so nothing here waits.

`Made` plays an exchange with a limit, and a download that requests the next page as soon as it may.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_faults import Bucket

from harvester.kraken.rate_limit import FORGET_S, RECOVERY_S, PaceState, RateLimiter


def no_jitter() -> float:
    return 0.0


def rate_limiter(rate: float, most_in_flight: int = 100, wait_s: float = 5) -> RateLimiter:
    return RateLimiter(rate, wait_s, most_in_flight, no_jitter)


def starts(limiter: RateLimiter, gaps: list[float], now: float = 100.0) -> list[float]:
    """Start times of sequential requests, each due after one of these gaps."""
    made = []
    for gap in gaps:
        now += gap
        now += limiter.delay_s("A", now)
        limiter.record_start("A", now)
        limiter.record_end("A")
        made.append(now)
    return made


def rate(limiter: RateLimiter, now: float, name: str = "A") -> float:
    return limiter.state(name, now).rate


# Starts are counted from starts.


@settings(deadline=None)
@given(st.lists(st.floats(0, 5), min_size=2, max_size=40), st.sampled_from((0.5, 1.0, 4.0)))
def test_no_window_holds_more_starts_than_the_rate_allows_and_a_quarter(
    gaps: list[float], rate: float
) -> None:
    made = starts(rate_limiter(rate), gaps)
    for first in range(len(made)):
        for last in range(first, len(made)):
            calls = last - first + 1
            assert calls <= 1 + (made[last] - made[first]) * rate + 0.25 + 1e-6


@settings(deadline=None)
@given(st.lists(st.floats(0, 0.06), min_size=200, max_size=200))
def test_being_late_by_some_milliseconds_costs_no_calls_in_the_long_run(late: list[float]) -> None:
    limiter, now = rate_limiter(4), 100.0
    for some in late:
        now += limiter.delay_s("A", now) + some
        limiter.record_start("A", now)
    assert now - 100 <= 199 * 0.25 + 2 * 0.06 + 1e-6


def test_latency_costs_nothing_while_it_is_shorter_than_the_pace() -> None:
    # Each request is due when the answer to the previous one arrives, after 0.9 s.
    assert starts(rate_limiter(1), [0, *[0.9] * 5]) == [100, 101, 102, 103, 104, 105]


def test_a_turn_that_came_much_too_late_is_made_up_for_by_a_quarter_only() -> None:
    assert starts(rate_limiter(1), [0, 10, 0, 0]) == [100, 110, 110.75, 111.75]


def test_no_limit_never_waits() -> None:
    assert starts(rate_limiter(0), [0] * 100) == [100] * 100


# A refusal.


def refused_at(
    limiter: RateLimiter, now: float, wait_s: float | None = None, name: str = "A"
) -> float:
    """Record a call that is refused at once; returns the wait that follows."""
    limiter.record_start(name, now)
    limiter.record_refusal(name, now, now, "no", wait_s)
    limiter.record_end(name)
    return limiter.delay_s(name, now)


def test_a_refusal_is_waited_out_and_halves_the_rate() -> None:
    limiter = rate_limiter(1)
    assert refused_at(limiter, 100) == 5
    assert rate(limiter, 100) == pytest.approx(0.5, rel=0.01)
    assert starts(limiter, [0, 0, 0]) == pytest.approx([105, 107, 109], abs=0.01)


def test_a_refusal_of_a_rate_that_passed_for_long_lowers_it_little() -> None:
    limiter = rate_limiter(1)
    for now in range(100, 200):
        limiter.record_start("A", now)
        limiter.record_success("A", now)
    refused_at(limiter, 200)
    assert rate(limiter, 200) == pytest.approx(0.95, rel=0.01)


def test_a_refusal_lowers_the_rate_to_what_passed_since_the_one_before() -> None:
    limiter = rate_limiter(1)
    refused_at(limiter, 100)
    refused_at(limiter, 106)
    for now in (120, 123, 126, 129, 132):
        limiter.record_start("A", now)
        limiter.record_success("A", now)
    refused_at(limiter, 132.5)
    # Five passed in twelve and a half seconds, two of which may have been a burst.
    assert rate(limiter, 132.5) == pytest.approx(max(0.25, 3 / 12.5), rel=0.05)


def test_the_rate_grows_slowly_at_first_and_is_the_set_rate_in_the_end() -> None:
    limiter = rate_limiter(4)
    refused_at(limiter, 100)
    grown = [rate(limiter, 105 + at) for at in range(0, round(RECOVERY_S) + 1, 5)]
    assert grown == sorted(grown)
    assert grown[4] < 2.05
    assert grown[-4] < 3
    assert grown[-1] == 4


def test_waits_double_while_nothing_passes_up_to_a_minute() -> None:
    limiter, now, waits = rate_limiter(1), 100.0, []
    for _ in range(6):
        waits.append(refused_at(limiter, now))
        now += waits[-1] + 1
    assert waits == [5, 10, 20, 40, 60, 60]


def test_what_passes_makes_the_next_wait_short_again() -> None:
    limiter = rate_limiter(1)
    refused_at(limiter, 100)
    refused_at(limiter, 200)
    limiter.record_start("A", 300)
    limiter.record_success("A", 300)
    assert refused_at(limiter, 400) == 5


def test_a_wait_until_a_given_time_ends_at_that_second() -> None:
    assert refused_at(RateLimiter(1, 5, 9, lambda: 0.9), 100, 33) == 33


def test_a_wait_is_longer_by_up_to_a_quarter_by_chance() -> None:
    assert refused_at(RateLimiter(1, 4, 9, lambda: 0.5), 100) == 4.5


def test_of_calls_refused_together_only_the_first_lowers_the_rate() -> None:
    limiter = rate_limiter(1)
    limiter.record_start("A", 100)
    limiter.record_start("A", 100)
    limiter.record_refusal("A", 100, 101, "no")
    limiter.record_refusal("A", 100, 101.5, "no")
    assert rate(limiter, 101) == pytest.approx(0.5, rel=0.01)
    assert (limiter.delay_s("A", 101), limiter.state("A", 101).refusals) == (5, 2)


def test_a_refusal_right_after_a_wait_does_not_slow_down_further() -> None:
    limiter = rate_limiter(4)
    refused_at(limiter, 100)
    refused_at(limiter, 106)
    assert rate(limiter, 106) == pytest.approx(2, rel=0.01)


def test_a_pair_without_a_rate_continues_as_fast_as_calls_passed_and_is_unlimited_later() -> None:
    limiter = rate_limiter(0)
    for at in range(100):
        limiter.record_start("A", 100 + at / 50)
        limiter.record_success("A", 100 + at / 50)
    refused_at(limiter, 102)
    assert rate(limiter, 102) == pytest.approx(0.95 * 49, rel=0.01)
    assert rate(limiter, 107 + FORGET_S - 1) < math.inf
    assert rate(limiter, 107 + FORGET_S) == math.inf


def test_a_pair_without_a_rate_whose_first_call_is_refused_gets_a_call_per_wait() -> None:
    limiter = rate_limiter(0)
    refused_at(limiter, 100)
    assert rate(limiter, 100) == pytest.approx(0.1, rel=0.01)


# Many pairs.


def test_a_refusal_slows_its_own_pair_only() -> None:
    limiter = rate_limiter(1)
    refused_at(limiter, 100)
    assert rate(limiter, 100) == pytest.approx(0.5, rel=0.01)
    assert rate(limiter, 100, "B") == 1
    assert limiter.delay_s("B", 100) == 0


def test_a_state_has_all_figures_of_a_pair() -> None:
    limiter = rate_limiter(4, most_in_flight=7)
    limiter.record_start("A", 100)
    assert limiter.state("A", 100) == PaceState("A", 4, 4, 1, 0, "", 1, 7)
    limiter.record_refusal("A", 100, 100.1, "EAPI:Rate limit exceeded")
    limiter.record_end("A")
    state = limiter.state("A", 101)
    assert state.rate == pytest.approx(2, rel=0.01)
    why = "EAPI:Rate limit exceeded"
    assert state == PaceState("A", state.rate, 4, 1, 1, why, 0, 7)
    assert state.is_slowed


# Against limits, over hours that pass in no time.


class Sent(NamedTuple):
    at_s: float
    pair: str
    passed: bool


class Made:
    """Pairs that are downloaded through `RateLimiter`, and an exchange whose limit may change."""

    def __init__(
        self,
        pairs: int,
        limit: Callable[[float], float],
        *,
        rate: float = 4.0,
        latency_s: float = 0.12,
        burst: float = 2.0,
        seed: int = 0,
    ) -> None:
        self.limit, self.latency_s = limit, latency_s
        self.random = random.Random(seed)
        self.limiter = RateLimiter(rate, 5, 1000, self.random.random)
        self.names = [f"P{number}" for number in range(pairs)]
        self.buckets = {name: Bucket(burst=burst, tokens=burst) for name in self.names}
        self.sent: list[Sent] = []

    def run(self, until_s: float) -> list[Sent]:
        """Let time pass; returns all that was sent."""
        turns = [(self.random.random() / 10, name, -1.0, True) for name in self.names]
        while turns:
            now, name, started, passed = heapq.heappop(turns)
            if now > until_s:
                break
            if started < 0 and (delay := self.limiter.delay_s(name, now)) > 0:
                # The machine is a little late.
                turn = (now + delay + self.random.random() / 200, name, -1.0, True)
            elif started < 0:
                self.limiter.record_start(name, now)
                arrives = now + self.latency_s / 2
                passed = self.buckets[name].take(self.limit(now), arrives)
                self.sent.append(Sent(now, name, passed))
                turn = (now + self.latency_s, name, now, passed)
            else:
                if passed:
                    self.limiter.record_success(name, started)
                else:
                    self.limiter.record_refusal(name, started, now, "no")
                self.limiter.record_end(name)
                turn = (now + 0.003, name, -1.0, True)
            heapq.heappush(turns, turn)
        return self.sent

    def refusals(self, start_s: float = 0, end_s: float = math.inf) -> int:
        return sum(not sent.passed and start_s <= sent.at_s < end_s for sent in self.sent)

    def used(self, start_s: float, end_s: float) -> float:
        """The part of what was allowed, by limit or rate, that passed."""
        passed = sum(sent.passed and start_s <= sent.at_s < end_s for sent in self.sent)
        allowed = min(4.0, self.limit(start_s)) * (end_s - start_s) * len(self.names)
        return passed / allowed


@pytest.mark.parametrize("limit", [4.0, 4.4, 1e9])
def test_a_limit_that_is_not_below_the_rate_is_used_to_the_last_call(limit: float) -> None:
    made = Made(5, lambda _now: limit)
    made.run(600)
    assert (made.refusals(), made.used(1, 600) > 0.995) == (0, True)


@pytest.mark.parametrize("limit", [0.7, 1.0, 1.5, 2.5, 3.0, 3.5, 3.9])
@pytest.mark.parametrize("seed", range(3))
def test_a_limit_below_the_rate_costs_a_refusal_a_minute_and_is_used(
    limit: float, seed: int
) -> None:
    made = Made(1, lambda _now: limit, seed=seed)
    made.run(3600)
    assert made.refusals() <= 75
    assert made.used(600, 3600) > 0.85


@settings(deadline=None, max_examples=25)
@given(
    st.floats(0.3, 3.9),
    st.floats(1.0, 6.0),
    st.integers(1, 6),
    st.floats(0.01, 0.2),
    st.integers(0, 999),
)
def test_any_limit_is_found_without_a_storm(
    limit: float, burst: float, pairs: int, latency_s: float, seed: int
) -> None:
    made = Made(pairs, lambda _now: limit, burst=burst, latency_s=latency_s, seed=seed)
    made.run(900)
    assert made.refusals(300) / pairs <= 40
    assert made.used(300, 900) > 0.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("pairs", [1, 5, 20])
@pytest.mark.parametrize("rate", [1.0, 4.0])
def test_a_limit_that_falls_to_a_quarter_and_returns_is_used_from_the_second_minute_on(
    rate: float, pairs: int, seed: int
) -> None:
    made = Made(pairs, lambda now: rate / 4 if 60 <= now < 180 else rate, rate=rate, seed=seed)
    made.run(300)
    assert made.used(120, 180) > 0.85
    assert made.used(240, 300) > 0.95
    assert made.refusals(0, 60) == made.refusals(180) == 0
    assert made.refusals(60, 120) <= 4 * pairs
    assert made.refusals(120, 180) <= 2 * pairs


def test_a_limit_that_comes_back_after_hours_is_found_within_two_minutes() -> None:
    made = Made(1, lambda now: 1.0 if 60 <= now < 7200 else 4.0)
    made.run(7500)
    assert made.refusals(200, 7200) <= 150
    assert made.used(7320, 7500) > 0.95


# Too many calls at once.

THROTTLED = "EService: Throttled: 1700000030"


def test_a_throttling_error_halves_the_calls_in_flight_and_leaves_every_rate() -> None:
    limiter = rate_limiter(1.0, most_in_flight=8)
    for number in range(8):
        limiter.record_start(f"C{number}", 100.0)
    limiter.record_throttling("C0", 100.0, 100.5, THROTTLED, 30.0)
    assert [limiter.state(f"C{number}", 100.5).rate for number in range(8)] == [1.0] * 8
    assert limiter.state("C0", 100.5).most_in_flight == 4
    assert (limiter.state("C0", 100.5).refusals, limiter.state("C1", 100.5).refusals) == (1, 0)


def test_a_throttling_error_holds_all_pairs_back_until_the_time_in_it() -> None:
    limiter = rate_limiter(1.0)
    limiter.record_start("A", 100.0)
    limiter.record_throttling("A", 100.0, 100.5, THROTTLED, 30.0)
    limiter.record_end("A")
    assert [limiter.delay_s(name, 110.0) for name in ("A", "B")] == [20.5, 20.5]
    assert limiter.state("B", 110.0).waiting == THROTTLED
    assert [limiter.delay_s(name, 130.5) for name in ("A", "B")] == [0.0, 0.0]
    assert limiter.state("B", 130.5).waiting == ""


def test_throttling_errors_of_concurrent_calls_lower_the_limit_once() -> None:
    limiter = rate_limiter(1.0, most_in_flight=8)
    for number in range(8):
        limiter.record_start(f"C{number}", 100.0)
    for number in range(8):
        limiter.record_throttling(f"C{number}", 100.0, 100.5 + number / 100, THROTTLED, 30.0)
    assert limiter.state("C0", 101.0).most_in_flight == 4


def test_throttling_errors_without_a_time_have_longer_and_longer_waits() -> None:
    limiter, now_s, waits = rate_limiter(0, wait_s=5), 100.0, []
    for _ in range(5):
        limiter.record_start("A", now_s)
        limiter.record_throttling("A", now_s, now_s + 0.1, "EService:Throttled")
        limiter.record_end("A")
        waits.append(limiter.delay_s("A", now_s + 0.1))
        now_s += 0.1 + waits[-1]
    assert waits == pytest.approx([5, 10, 20, 40, 60])


def test_good_answers_bring_the_calls_in_flight_back() -> None:
    limiter = rate_limiter(0, most_in_flight=4)
    for name in "ABCD":
        limiter.record_start(name, 100.0)
    limiter.record_throttling("A", 100.0, 100.5, THROTTLED, 1.0)
    for name in "ABCD":
        limiter.record_end(name)
    allowed = [limiter.state("A", 102.0).most_in_flight]
    for step in range(8):
        limiter.record_start("A", 102.0 + step)
        limiter.record_success("A", 102.0 + step)
        limiter.record_end("A")
        allowed.append(limiter.state("A", 102.5 + step).most_in_flight)
    assert (allowed[0], allowed[-1]) == (2, 4)
    assert allowed == sorted(allowed)


def test_one_call_may_always_be_in_flight() -> None:
    limiter = rate_limiter(1, most_in_flight=4)
    for now in range(0, 1000, 20):
        limiter.record_start("A", now)
        limiter.record_throttling("A", now, now + 0.1, THROTTLED, 1.0)
        limiter.record_end("A")
    assert not limiter.is_full
    assert limiter.state("A", 1000).most_in_flight == 1


def test_at_the_limit_of_calls_in_flight_a_pair_reports_why_it_waits() -> None:
    limiter = rate_limiter(1, most_in_flight=1)
    limiter.record_start("A", 100)
    assert limiter.is_full
    assert limiter.state("B", 100).waiting == "too many calls are in flight"
    limiter.record_end("A")
    assert (limiter.is_full, limiter.state("B", 100).waiting) == (False, "")
