from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.errors import OptimizerError
from optimizer.online.pacing import Allowance, Pacer, PacerState, PacingStatus

QUALITY_R = np.array([0.5, 0.7, 0.8])
ENERGY_R = np.array([1.0, 4.0, 16.0])


@dataclass
class Rider:
    """Sends requests through a pacer as routing does; each takes what it reserves times a factor up to 1."""

    pacer: Pacer
    rng: np.random.Generator
    over: float = 0.0
    spent_j: float = 0.0

    def ride(
        self,
        requests: int,
        *,
        scale: float = 1.0,
        gap_s: float = 1.0,
        noise: float = 0.0,
        error: float = 1.0,
        start_s: float = 0.0,
    ) -> float:
        """Mean joules of these requests."""
        spent_j, pacer = 0.0, self.pacer
        for number in range(requests):
            price = pacer.arrive(start_s + number * gap_s)
            energy_r = ENERGY_R * scale * self.rng.uniform(0.8, 1.2)
            quality_r = QUALITY_R + self.rng.normal(0.0, 0.05, 3)
            pacer.learn(quality_r, energy_r)
            score_r = quality_r - price * energy_r
            fits_r = 3.0 * energy_r <= pacer.headroom_j
            route = int(np.where(fits_r, score_r, -np.inf).argmax()) if fits_r.any() else 0
            charge = pacer.charge(float(energy_r[route]), 3.0 * float(energy_r[route]))
            actual_j = float(energy_r[route]) * error * float(np.exp(self.rng.normal(0.0, noise)))
            pacer.settle(charge, actual_j)
            spent_j += actual_j
            self.over = max(self.over, pacer.state.spent_j - pacer.state.accrued_j)
        return spent_j / requests


def rider(allowance: Allowance, *, seed: int = 0, state: PacerState | None = None) -> Rider:
    return Rider(Pacer(allowance, state=state), np.random.default_rng(seed))


# ---- the budget is held


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget_j", [2.0, 5.0, 9.0])
def test_joules_per_request_are_held_while_the_queries_change(seed: int, budget_j: float) -> None:
    run = rider(Allowance(per_request_j=budget_j), seed=seed)
    spent = [run.ride(8000, scale=scale, noise=0.3) for scale in (1.0, 1.7, 0.8)]
    assert np.mean(spent) == pytest.approx(budget_j, rel=0.02)
    assert run.pacer.status is PacingStatus.HELD


@pytest.mark.parametrize("budget_j", [1.5, 5.0, 12.0])
def test_queries_that_are_all_alike_take_turns(budget_j: float) -> None:
    """One step for all: any single price spends 1, 4 or 16 J, never the budget."""
    pacer, spent_j = Pacer(Allowance(per_request_j=budget_j)), 0.0
    for number in range(6000):
        score_r = QUALITY_R - pacer.arrive(float(number)) * ENERGY_R
        pacer.learn(QUALITY_R, ENERGY_R)
        energy_j = float(ENERGY_R[score_r.argmax()])
        pacer.settle(pacer.charge(energy_j, energy_j), energy_j)
        spent_j += energy_j
    assert spent_j / 6000 == pytest.approx(budget_j, rel=0.01)


def test_a_wrong_prediction_of_joules_is_made_up_for() -> None:
    run = rider(Allowance(per_request_j=5.0))
    assert run.ride(8000, error=1.6) == pytest.approx(5.0, rel=0.02)
    assert run.ride(8000, error=0.7) == pytest.approx(5.0, rel=0.02)


def test_watts_are_held_at_any_rate_of_arrivals() -> None:
    run = rider(Allowance(power_w=5.0, burst_s=300.0))
    seconds = spent_j = 0.0
    for gap_s in (1.0, 0.5, 2.0):
        spent_j += run.ride(8000, gap_s=gap_s, start_s=seconds) * 8000
        seconds += 8000 * gap_s
    assert spent_j / seconds == pytest.approx(5.0, rel=0.02)


def test_idle_time_is_saved_up_to_the_burst_allowance_only() -> None:
    run = rider(Allowance(power_w=5.0, burst_s=100.0))
    run.ride(1000)
    run.ride(1, start_s=1e6)
    assert run.pacer.state.balance_j <= 500.0
    assert run.pacer.state.lost_j > 4e6
    before_j = run.pacer.state.spent_j
    run.ride(1000, start_s=1e6)
    assert run.pacer.state.spent_j - before_j <= 1000 * 5.0 + 2.0 * 500.0


def test_arrivals_at_the_same_instant_do_no_harm() -> None:
    run = rider(Allowance(power_w=5.0, burst_s=100.0))
    run.ride(500, gap_s=0.0)
    assert run.over <= 500.0 + 500 * 1.2
    run.ride(4000, start_s=1.0)
    assert math.isfinite(run.pacer.price_per_j)


# ---- the ends of the range


def test_where_everything_is_affordable_joules_are_free() -> None:
    run = rider(Allowance(per_request_j=50.0))
    run.ride(500)
    assert (run.pacer.price_per_j, run.pacer.status) == (0.0, PacingStatus.SLACK)
    assert run.pacer.state.balance_j <= run.pacer.allowance.burst_j


def test_an_infeasible_budget_is_a_status_and_takes_the_cheapest() -> None:
    run = rider(Allowance(per_request_j=0.5))
    mean_j = run.ride(3000)
    assert run.pacer.status is PacingStatus.INFEASIBLE
    assert mean_j == pytest.approx(1.0, rel=0.05)
    assert run.pacer.cheapest_j == pytest.approx(1.0, rel=0.05)
    assert run.pacer.state.written_off_j > 0.0


def test_after_an_infeasible_time_the_debt_does_not_last_for_ever() -> None:
    run = rider(Allowance(per_request_j=0.5))
    run.ride(5000)
    run.pacer.change(Allowance(per_request_j=5.0))
    run.ride(1000)
    assert run.ride(4000) == pytest.approx(5.0, rel=0.05)


def test_a_changed_budget_is_followed() -> None:
    run = rider(Allowance(per_request_j=2.0))
    run.ride(4000)
    run.pacer.change(Allowance(per_request_j=8.0))
    run.ride(500)
    assert run.ride(8000) == pytest.approx(8.0, rel=0.02)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"per_request_j": 1.0, "power_w": 1.0},
        {"per_request_j": 0.0},
        {"per_request_j": math.inf},
        {"power_w": math.nan},
        {"power_w": 1.0, "burst_s": -1.0},
    ],
)
def test_budgets_that_cannot_be_meant_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(OptimizerError):
        Allowance(**values)


# ---- the hard promise


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_never_overspends_beyond_the_allowance_whatever_the_costs(data: st.DataObject) -> None:
    """Costs and options are adversarial; reservations cover them and the cheapest option is within the budget."""
    burst = data.draw(st.floats(1.0, 50.0))
    pacer = Pacer(Allowance(per_request_j=1.0, burst_requests=burst))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    greed = data.draw(st.sampled_from(["dear", "switching", "random"]))
    open_charges = []
    for number in range(400):
        pacer.arrive(float(number))
        scale = {"dear": 30.0, "switching": 100.0 if number % 97 > 48 else 1.1, "random": float(rng.pareto(1.0)) + 1.0}
        energy_r = np.array([rng.uniform(0.0, 1.0), scale[greed], 3.0 * scale[greed]])
        bound_r = np.array([1.0, 1.5 * energy_r[1], 1.5 * energy_r[2]])
        pacer.learn(np.array([0.1, 0.5, 0.9]), energy_r)
        fits_r = bound_r <= pacer.headroom_j
        route = int(np.flatnonzero(fits_r)[-1]) if fits_r.any() else 0
        open_charges.append((pacer.charge(float(energy_r[route]), float(bound_r[route])), float(bound_r[route])))
        if len(open_charges) > 5:
            charge, actual_j = open_charges.pop(int(rng.integers(0, 6)))
            pacer.settle(charge, actual_j)
        assert pacer.state.spent_j <= pacer.state.accrued_j + pacer.allowance.burst_j + 1e-9
    for charge, actual_j in open_charges:
        pacer.settle(charge, actual_j)
    assert pacer.state.spent_j <= pacer.state.accrued_j + pacer.allowance.burst_j + 1e-9
    assert pacer.state.in_flight_j == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(1.5, 4.0), st.floats(1.1, 3.0))
def test_a_larger_budget_never_has_a_higher_price(seed: int, budget_j: float, factor: float) -> None:
    small, large = (rider(Allowance(per_request_j=b), seed=seed) for b in (budget_j, budget_j * factor))
    rng = np.random.default_rng(seed)
    for number in range(128):
        quality_r, energy_r = QUALITY_R + rng.normal(0.0, 0.05, 3), ENERGY_R * rng.uniform(0.8, 1.2)
        for one in (small, large):
            one.pacer.arrive(float(number))
            one.pacer.learn(quality_r, energy_r)
            one.pacer.settle(one.pacer.charge(float(energy_r[0]), 1.0), float(energy_r[0]))
        # Two prices, twice BAND apart, are taken in turn.
        assert large.pacer.price_per_j <= small.pacer.price_per_j * 1.05


# ---- the account


def test_accounts_can_be_written_down_and_taken_up_again() -> None:
    run = rider(Allowance(per_request_j=5.0))
    run.ride(2000)
    written = json.loads(json.dumps(run.pacer.state.numbers()))
    again = rider(Allowance(per_request_j=5.0), state=PacerState(**written))
    assert again.pacer.price_per_j == run.pacer.price_per_j
    assert again.pacer.burn_ratio == run.pacer.burn_ratio
    assert again.ride(4000) == pytest.approx(5.0, rel=0.02)


def test_an_unknown_actual_lets_the_expectation_stand() -> None:
    pacer = Pacer(Allowance(per_request_j=5.0))
    pacer.arrive(0.0)
    pacer.settle(pacer.charge(2.0, math.inf), math.nan)
    assert (pacer.state.spent_j, pacer.state.in_flight_j) == (2.0, 0.0)


def test_a_request_that_is_turned_away_brings_and_costs_nothing() -> None:
    pacer = Pacer(Allowance(per_request_j=5.0))
    pacer.arrive(0.0)
    pacer.decline()
    assert (pacer.state.accrued_j, pacer.state.balance_j, pacer.decline_j) == (0.0, 0.0, 5.0)
    assert math.isnan(pacer.burn_ratio)
    assert math.isnan(pacer.cheapest_j)
