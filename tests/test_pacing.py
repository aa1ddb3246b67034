"""When a pair is asked: by a clock that is handed in, so nothing here waits.

`Made` plays an exchange with a limit, and a crawl that asks for the next page as soon as it may.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
from exchange import Bucket
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.kraken.rate_limit import Pace, Paces, PaceState


def no_jitter() -> float:
    return 0.0


def pace(rate: float, wait_s: float = 5) -> Pace:
    return Pace(rate, wait_s, no_jitter)


def paces(rate: float, most_in_flight: int = 100, wait_s: float = 5) -> Paces:
    return Paces(rate, wait_s, most_in_flight, no_jitter)


def starts(pace: Pace, gaps: list[float]) -> list[float]:
    """When requests start that are wished for after these gaps, one after the other."""
    now, made = 100.0, []
    for gap in gaps:
        now += gap
        now += pace.delay_s(now)
        pace.start(now)
        made.append(now)
    return made


# Starts are counted from starts.


@settings(deadline=None)
@given(st.lists(st.floats(0, 5), min_size=2, max_size=40), st.sampled_from((0.5, 1.0, 4.0)))
def test_no_window_holds_more_starts_than_the_rate_allows_and_a_quarter(
    gaps: list[float], rate: float
) -> None:
    made = starts(pace(rate), gaps)
    for first in range(len(made)):
        for last in range(first, len(made)):
            calls = last - first + 1
            assert calls <= 1 + (made[last] - made[first]) * rate + 0.25 + 1e-6


@settings(deadline=None)
@given(st.lists(st.floats(0, 0.06), min_size=200, max_size=200))
def test_being_late_by_some_milliseconds_costs_no_calls_in_the_long_run(late: list[float]) -> None:
    one, now = pace(4), 100.0
    for some in late:
        now += one.delay_s(now) + some
        one.start(now)
    assert now - 100 <= 199 * 0.25 + 2 * 0.06 + 1e-6


def test_latency_costs_nothing_while_it_is_shorter_than_the_pace() -> None:
    # Each is asked for when the answer to the one before has come, after 0.9 s.
    assert starts(pace(1), [0, *[0.9] * 5]) == [100, 101, 102, 103, 104, 105]


def test_a_turn_that_came_much_too_late_is_made_up_for_by_a_quarter_only() -> None:
    assert starts(pace(1), [0, 10, 0, 0]) == [100, 110, 110.75, 111.75]


def test_no_limit_never_waits() -> None:
    assert starts(pace(0), [0] * 100) == [100] * 100


# A refusal.


def refused_at(pace: Pace, now: float, wait_s: float | None = None) -> float:
    """A call that is refused at once; returns how long nothing is asked for then."""
    pace.start(now)
    pace.refused(now, now, "no", wait_s)
    return pace.delay_s(now)


def test_a_refusal_is_waited_out_and_halves_the_rate() -> None:
    one = pace(1)
    assert (refused_at(one, 100), one.limit.rate) == (5, 0.5)
    assert starts(one, [0, 0, 0]) == [105, 107, 109]


def test_waits_double_while_nothing_passes_up_to_a_minute() -> None:
    one, now, waits = pace(1), 100.0, []
    for _ in range(6):
        waits.append(refused_at(one, now))
        now += waits[-1] + 1
    assert waits == [5, 10, 20, 40, 60, 60]


def test_what_passes_makes_the_next_wait_short_again() -> None:
    one = pace(1)
    refused_at(one, 100)
    refused_at(one, 200)
    one.start(300)
    one.passed(300, 300.1)
    assert refused_at(one, 400) == 5


def test_a_stamp_is_waited_for_to_the_second() -> None:
    one = Pace(1, 5, lambda: 0.9)
    assert refused_at(one, 100, 33) == 33


def test_a_wait_is_longer_by_up_to_a_quarter_by_chance() -> None:
    assert refused_at(Pace(1, 4, lambda: 0.5), 100) == 4.5


def test_only_the_first_of_calls_refused_together_tells_something() -> None:
    one = pace(1)
    one.start(100)
    one.start(100)
    one.refused(100, 101, "no")
    one.refused(100, 101.5, "no")
    assert (one.limit.rate, one.delay_s(101), one.refusals) == (0.5, 5, 2)


def test_a_refusal_right_after_a_wait_does_not_slow_down_further() -> None:
    one = pace(4)
    refused_at(one, 100)
    refused_at(one, 106)
    assert one.limit.rate == 2


def test_a_pair_without_a_rate_comes_back_by_passing_alone() -> None:
    one, now = pace(0), 100.0
    refused_at(one, now)
    assert one.limit.rate == 4
    for _ in range(30):
        one.passed(now, now)
    assert one.limit.rate == math.inf


# Answers that take longer than the pace.


@pytest.mark.parametrize(("took_s", "is_starved"), [(0.2, False), (0.3, True)])
def test_a_pair_is_starved_where_answers_take_longer_than_the_pace(
    took_s: float, is_starved: bool
) -> None:
    one = pace(4)
    for at in range(3):
        assert not one.starved
        one.answered(at, at + took_s)
    assert one.starved is is_starved


def test_a_mirror_starves_nobody() -> None:
    one = pace(0)
    for at in range(9):
        one.answered(at, at + 1)
    assert not one.starved


# Many pairs.


def refuse(many: Paces, name: str, now: float) -> None:
    many.start(name, now)
    many.refused(name, now, now, "no")
    many.end(name, now, now)


def test_a_refusal_slows_its_own_pair_only() -> None:
    many = paces(1)
    many.of("B")
    refuse(many, "A", 100)
    assert (many.of("A").limit.rate, many.of("B").limit.rate) == (0.5, 1)


def test_three_pairs_refused_together_slow_all() -> None:
    many = paces(1)
    many.of("D")
    for name in "ABC":
        refuse(many, name, 100)
    assert [many.of(name).limit.rate for name in "ABCD"] == [0.5] * 4


def test_three_pairs_refused_far_apart_do_not_slow_the_others() -> None:
    many = paces(1)
    many.of("D")
    for number, name in enumerate("ABC"):
        refuse(many, name, 100 + 11 * number)
    assert many.of("D").limit.rate == 1


def test_one_pair_refused_again_and_again_does_not_slow_the_others() -> None:
    many = paces(1)
    many.of("D")
    for number in range(10):
        refuse(many, "A", 100 + number)
    assert many.of("D").limit.rate == 1


def test_pairs_refused_together_halve_what_may_be_in_flight_and_passing_brings_it_back() -> None:
    many = paces(1, most_in_flight=10)
    for number in range(8):
        many.start(f"P{number}", 100)
    for number in range(3):
        many.refused(f"P{number}", 100, 100.1, "no")
    # Eight were in flight at most.
    assert many.state("P0", 100).most_in_flight == 4
    assert many.full
    for number in range(8):
        many.end(f"P{number}", 100, 100.1)
    steps = [many.state("P7", 100).most_in_flight]
    for _ in range(60):
        many.passed("P7", 101, 101)
        steps.append(many.state("P7", 100).most_in_flight)
    assert steps[-1] == 10
    assert all(0 <= later - earlier <= 1 for earlier, later in pairwise(steps))


def test_one_call_may_always_be_in_flight() -> None:
    many = paces(1, most_in_flight=4)
    for now in range(0, 1000, 20):
        for name in "ABC":
            refuse(many, name, now)
    assert not many.full
    assert many.state("A", 1000).most_in_flight == 1


def test_a_state_tells_all() -> None:
    many = paces(4, most_in_flight=7)
    many.start("A", 100)
    assert many.state("A", 100) == PaceState("A", 4, 4, 1, 0, "", 1, 7)
    many.refused("A", 100, 100.1, "EAPI:Rate limit exceeded")
    many.end("A", 100, 100.1)
    state = many.state("A", 101)
    assert state == PaceState("A", 2, 4, 1, 1, "EAPI:Rate limit exceeded", 0, 7)
    assert state.slowed


# Against limits, over hours that pass in no time.


class Sent(NamedTuple):
    at_s: float
    pair: str
    passed: bool


class Made:
    """Pairs that are crawled through `Paces`, and an exchange whose limit may change."""

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
        self.paces = Paces(rate, 5, 1000, self.random.random)
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
            if started < 0 and (delay := self.paces.of(name).delay_s(now)) > 0:
                # The machine is a little late.
                turn = (now + delay + self.random.random() / 200, name, -1.0, True)
            elif started < 0:
                self.paces.start(name, now)
                arrives = now + self.latency_s / 2
                passed = self.buckets[name].take(self.limit(now), arrives)
                self.sent.append(Sent(now, name, passed))
                turn = (now + self.latency_s, name, now, passed)
            else:
                if passed:
                    self.paces.passed(name, started, now)
                else:
                    self.paces.refused(name, started, now, "no")
                self.paces.end(name, started, now)
                turn = (now + 0.003, name, -1.0, True)
            heapq.heappush(turns, turn)
        return self.sent

    def refusals(self, start_s: float = 0, end_s: float = math.inf) -> int:
        return sum(not one.passed and start_s <= one.at_s < end_s for one in self.sent)

    def used(self, start_s: float, end_s: float) -> float:
        """The part of what was allowed, by limit or rate, that passed."""
        passed = sum(one.passed and start_s <= one.at_s < end_s for one in self.sent)
        allowed = min(4.0, self.limit(start_s)) * (end_s - start_s) * len(self.names)
        return passed / allowed


@pytest.mark.parametrize("limit", [4.0, 4.4, 1e9])
def test_a_limit_that_is_not_below_the_rate_is_used_to_the_last_call(limit: float) -> None:
    made = Made(5, lambda _now: limit)
    made.run(600)
    assert (made.refusals(), made.used(1, 600) > 0.995) == (0, True)


@pytest.mark.parametrize("limit", [0.7, 1.0, 1.5, 2.5, 3.0, 3.5, 3.9])
@pytest.mark.parametrize("seed", range(3))
def test_a_limit_below_the_rate_costs_few_refusals_and_is_used(limit: float, seed: int) -> None:
    made = Made(1, lambda _now: limit, seed=seed)
    made.run(3600)
    assert made.refusals() <= 30
    assert made.refusals(1800) <= 8
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
def test_a_limit_that_falls_and_comes_back_is_found_within_twenty_seconds(
    pairs: int, seed: int
) -> None:
    made = Made(pairs, lambda now: 1.0 if 60 <= now < 120 else 4.0, seed=seed)
    made.run(180)
    assert made.used(140, 180) > 0.95
    assert made.used(80, 120) > 0.55
    assert made.refusals(0, 60) == made.refusals(140) == 0
    assert made.refusals(60, 80) <= 3 * pairs
    assert made.refusals(80, 140) <= 5 + 2 * pairs


def test_a_limit_that_comes_back_after_hours_is_found_in_the_end() -> None:
    made = Made(1, lambda now: 1.0 if 60 <= now < 7200 else 4.0)
    made.run(9000)
    assert made.refusals(200, 7200) <= 40
    assert made.used(8000, 9000) > 0.95


# Too many calls at once.

THROTTLED = "EService: Throttled: 1700000030"


def test_a_throttle_halves_the_calls_in_flight_and_leaves_every_rate() -> None:
    many = paces(1.0, most_in_flight=8)
    for number in range(8):
        many.start(f"C{number}", 100.0)
    many.throttled("C0", 100.0, 100.5, THROTTLED, 30.0)
    assert [many.state(f"C{number}", 100.5).rate for number in range(8)] == [1.0] * 8
    assert many.state("C0", 100.5).most_in_flight == 4
    assert (many.state("C0", 100.5).refusals, many.state("C1", 100.5).refusals) == (1, 0)


def test_a_throttle_holds_all_pairs_back_until_its_stamp() -> None:
    many = paces(1.0)
    many.start("A", 100.0)
    many.throttled("A", 100.0, 100.5, THROTTLED, 30.0)
    many.end("A", 100.0, 100.5)
    assert [many.delay_s(name, 110.0) for name in ("A", "B")] == [20.5, 20.5]
    assert many.state("B", 110.0).waiting == THROTTLED
    assert [many.delay_s(name, 130.5) for name in ("A", "B")] == [0.0, 0.0]
    assert many.state("B", 130.5).waiting == ""


def test_throttles_of_calls_that_flew_together_lower_once() -> None:
    many = paces(1.0, most_in_flight=8)
    for number in range(8):
        many.start(f"C{number}", 100.0)
    for number in range(8):
        many.throttled(f"C{number}", 100.0, 100.5 + number / 100, THROTTLED, 30.0)
    assert many.state("C0", 101.0).most_in_flight == 4


def test_throttles_without_a_stamp_are_waited_out_longer_and_longer() -> None:
    many, now_s, waits = paces(0, wait_s=5), 100.0, []
    for _ in range(5):
        many.start("A", now_s)
        many.throttled("A", now_s, now_s + 0.1, "EService:Throttled")
        many.end("A", now_s, now_s + 0.1)
        waits.append(many.delay_s("A", now_s + 0.1))
        now_s += 0.1 + waits[-1]
    assert waits == pytest.approx([5, 10, 20, 40, 60])


def test_good_answers_bring_the_calls_in_flight_back() -> None:
    many = paces(0, most_in_flight=4)
    for name in "ABCD":
        many.start(name, 100.0)
    many.throttled("A", 100.0, 100.5, THROTTLED, 1.0)
    for name in "ABCD":
        many.end(name, 100.0, 100.5)
    allowed = [many.state("A", 102.0).most_in_flight]
    for step in range(8):
        many.start("A", 102.0 + step)
        many.passed("A", 102.0 + step, 102.5 + step)
        many.end("A", 102.0 + step, 102.5 + step)
        allowed.append(many.state("A", 102.5 + step).most_in_flight)
    assert (allowed[0], allowed[-1]) == (2, 4)
    assert allowed == sorted(allowed)
