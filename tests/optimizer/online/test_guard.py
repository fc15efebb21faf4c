from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.errors import OptimizerError
from optimizer.online.guard import BETS, Draw, Guard, GuardTerms, InForce, Wealth, reach_of_draws, worth


def differences(rng: np.random.Generator, mean: float, count: int, *, differ: float = 0.2) -> np.ndarray:
    """-1, 0 or 1: both right or both wrong most of the time."""
    better = (differ + mean) / 2.0
    return rng.choice([1.0, -1.0, 0.0], size=count, p=[better, differ - better, 1.0 - differ])


def first_switch(guard: Guard, stream: np.ndarray) -> int | None:
    for number, difference in enumerate(stream):
        if guard.observe(float(difference)):
            return number
    return None


@pytest.mark.parametrize("mean", [-0.02, 0.0])
def test_false_alarms_are_as_rare_as_stated(mean: float) -> None:
    """400 gates at the edge of the tolerance, looked at after every one of 1,500 requests."""
    terms = GuardTerms(tolerance=0.02, false_alarm_fraction=0.1)
    rng = np.random.default_rng(3)
    alarms = sum(first_switch(Guard(terms), differences(rng, mean, 1500)) is not None for _ in range(400))
    # 40 are allowed; at 1 in 1,000 more than 59 would be seen by chance if the promise were just kept.
    assert alarms <= (59 if mean < 0.0 else 10)


@given(st.integers(1, 300), st.integers(0, 1000))
def test_bets_lose_on_average_under_the_hypothesis(started: int, seed: int) -> None:
    """One step of the wealth, averaged over a fair coin, is what it was: the supermartingale that Ville needs."""
    rng = np.random.default_rng(seed)
    won = rng.random(len(BETS)).tolist()
    before = Wealth(1.0, started, list(won)).total
    after = [Wealth(1.0, started, list(won)).bet(x) for x in (1.0, -1.0)]
    assert np.mean(after) == pytest.approx(before, rel=1e-9)
    assert min(after) >= 0.0


@pytest.mark.parametrize("good_before", [0, 1000, 20_000])
def test_a_bad_gate_is_set_aside_also_after_a_long_good_time(good_before: int) -> None:
    rng = np.random.default_rng(0)
    guard = Guard(GuardTerms(tolerance=0.005, false_alarm_fraction=0.01))
    assert first_switch(guard, differences(rng, 0.03, good_before)) is None
    switched = first_switch(guard, differences(rng, -0.1, 5000))
    assert switched is not None
    assert switched < 1500
    assert guard.in_force is InForce.BEST_SINGLE


def test_it_recovers_and_can_be_set_aside_again_at_a_higher_bar() -> None:
    rng = np.random.default_rng(0)
    guard = Guard()
    before = guard.limit
    assert first_switch(guard, differences(rng, -0.2, 5000)) is not None
    assert guard.limit == before
    assert first_switch(guard, differences(rng, 0.1, 5000)) is not None
    assert (guard.in_force, guard.stays) == (InForce.GATE, 3)
    assert guard.limit == 3.0 * before
    assert first_switch(guard, differences(rng, -0.2, 5000)) is not None


def test_evidence_and_mean_are_told() -> None:
    guard = Guard()
    assert math.isnan(guard.mean_difference)
    assert guard.evidence_fraction == 0.0
    for _ in range(5):
        guard.observe(-1.0)
    assert guard.mean_difference == -1.0
    assert 0.0 < guard.evidence_fraction < 1.0


def test_guards_can_be_written_down_and_taken_up_again() -> None:
    guard, rng = Guard(), np.random.default_rng(0)
    first_switch(guard, differences(rng, -0.2, 5000))
    first_switch(guard, differences(rng, 0.0, 50))
    again = Guard.restored(guard.terms, json.loads(json.dumps(guard.numbers())))
    assert again.numbers() == guard.numbers()
    assert again.evidence_fraction == guard.evidence_fraction
    for broken in ({}, {**guard.numbers(), "won": [1.0]}, {**guard.numbers(), "stays": "many"}):
        with pytest.raises(OptimizerError):
            Guard.restored(guard.terms, broken)


def test_what_breaks_the_promise_is_refused() -> None:
    with pytest.raises(OptimizerError):
        Guard().observe(1.5)
    with pytest.raises(OptimizerError):
        Guard().observe(math.nan)
    for values in ({"tolerance": -0.1}, {"tolerance": 2.0}, {"false_alarm_fraction": 0.0}, {"reach": math.inf}):
        with pytest.raises(OptimizerError):
            GuardTerms(**values)


@pytest.mark.parametrize("expected", [(0.9, 0.8), (0.5, 1.0)])
def test_differences_of_one_answer_are_unbiased_whatever_was_predicted(expected: tuple[float, float]) -> None:
    rng, share, gate, single = np.random.default_rng(0), 0.1, 0.9, 0.8
    drawn = []
    for _ in range(200_000):
        took_gate = bool(rng.random() >= share)
        actual = float(rng.random() < (gate if took_gate else single))
        drawn.append(Draw(took_gate, share, *expected).difference(actual))
    assert np.mean(drawn) == pytest.approx(gate - single, abs=0.02)
    assert np.max(np.abs(drawn)) <= reach_of_draws(share)


def test_joules_count_at_the_price_in_force() -> None:
    assert worth(quality=0.9, energy_j=2.0, price_per_j=0.1) == pytest.approx(0.7)
