"""How fast a pair is asked: by a clock that is handed in, so nothing here waits."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.kraken.pacing import Pace, Paces

ARRIVALS = st.lists(st.floats(0, 5), min_size=2, max_size=30)


def starts(pace: Pace, gaps: list[float]) -> list[float]:
    """When requests start that ask for their turn after these gaps, one after the other."""
    now, made = 100.0, []
    for gap in gaps:
        now += gap
        now += pace.turn(now)
        made.append(now)
    return made


@settings(deadline=None)
@given(ARRIVALS, st.sampled_from((0.5, 1.0, 4.0)))
def test_requests_never_start_closer_than_the_set_rate_allows(
    gaps: list[float], rate: float
) -> None:
    made = starts(Pace(rate, 5), gaps)
    assert all(later - earlier >= 1 / rate - 1e-9 for earlier, later in pairwise(made))


def test_a_turn_that_is_due_does_not_wait() -> None:
    pace = Pace(1, 5)
    assert [pace.turn(100), pace.turn(101), pace.turn(103.5)] == [0, 0, 0]


def test_a_turn_that_came_late_is_not_made_up_for() -> None:
    pace = Pace(1, 5)
    assert [pace.turn(100), pace.turn(110), pace.turn(110)] == [0, 0, 1]


def test_turns_taken_at_once_queue_up() -> None:
    pace = Pace(2, 5)
    assert [pace.turn(100) for _ in range(4)] == [0, 0.5, 1, 1.5]


def test_no_limit_never_waits() -> None:
    pace = Pace(0, 5)
    assert [pace.turn(100) for _ in range(100)] == [0] * 100


def test_a_refusal_halves_the_speed_and_delays_the_next_turn() -> None:
    pace = Pace(1, 5)
    pace.turn(100)
    pace.refused(100)
    assert (pace.interval_s, pace.slowed, pace.turn(100)) == (2, True, 2)


def test_refusals_slow_down_to_a_bound_only() -> None:
    pace = Pace(1, 5)
    for _ in range(50):
        pace.refused(100)
    assert pace.interval_s == 5


def test_refusals_slow_down_what_has_no_limit() -> None:
    pace = Pace(0, 5)
    pace.refused(100)
    assert pace.slowed
    assert pace.turn(100) > 0


@pytest.mark.parametrize("rate", [0.0, 1.0, 4.0])
def test_success_comes_back_to_the_set_rate_and_not_beyond(rate: float) -> None:
    pace = Pace(rate, 5)
    before = pace.interval_s
    for _ in range(50):
        pace.refused(100)
    steps = 0
    while pace.slowed:
        pace.succeeded()
        steps += 1
        assert steps < 100
    assert pace.interval_s == before


def test_success_speeds_up_step_by_step() -> None:
    pace = Pace(1, 5)
    pace.refused(100)
    pace.refused(100)
    pace.succeeded()
    assert 1 < pace.interval_s < 4


def test_success_at_the_set_rate_changes_nothing() -> None:
    pace = Pace(1, 5)
    pace.succeeded()
    assert pace.interval_s == 1


# Many pairs.


def test_a_refusal_slows_its_own_pair_only() -> None:
    paces = Paces(1, 5)
    others = [paces.of(name) for name in "BCD"]
    paces.refused("A", 100)
    assert (paces.of("A").slowed, [one.slowed for one in others]) == (True, [False] * 3)


def test_three_pairs_refused_together_slow_all() -> None:
    paces = Paces(1, 5)
    bystander = paces.of("D")
    for name in "ABC":
        paces.refused(name, 100)
    assert bystander.slowed


def test_three_pairs_refused_far_apart_do_not_slow_the_others() -> None:
    paces = Paces(1, 5)
    bystander = paces.of("D")
    for number, name in enumerate("ABC"):
        paces.refused(name, 100 + 11 * number)
    assert not bystander.slowed


def test_one_pair_refused_again_and_again_does_not_slow_the_others() -> None:
    paces = Paces(1, 5)
    bystander = paces.of("D")
    for _ in range(10):
        paces.refused("A", 100)
    assert not bystander.slowed


def test_a_pair_refused_together_with_others_is_slowed_once() -> None:
    paces = Paces(1, 5)
    for name in "ABC":
        paces.refused(name, 100)
    assert [paces.of(name).interval_s for name in "ABC"] == [2, 2, 2]


def test_the_pace_of_a_pair_is_one_and_the_same() -> None:
    paces = Paces(1, 5)
    assert paces.of("A") is paces.of("A")
