from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from optimizer.errors import ProblemError
from optimizer.selection.arms import Arm, Limits
from optimizer.selection.awake import Demand, Power, Step, keep_awake
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Status
from optimizer.selection.solve import solve
from optimizer.selection.utility import BestOf
from tests.optimizer.selection.problems import equal_weights


def fleet(seed: int = 0) -> tuple[Problem, dict[str, Power]]:
    rng = np.random.default_rng(seed)
    arms = tuple(Arm(f"a{n}", "x", f"n{n % 4}", float(rng.uniform(0.5, 2.0)), 1.0) for n in range(9))
    utility = BestOf(rng.random((10, 9)))
    powers = {
        f"n{k}": Power(float(rng.uniform(2.0, 20.0)), 1.0, float(rng.uniform(5.0, 50.0)), 3.0, awake=bool(k % 2))
        for k in range(4)
    }
    return Problem(arms, utility, equal_weights(utility), Limits(energy_j=4.0)), powers


def brute_force(problem: Problem, powers: Mapping[str, Power], demand: Demand) -> float:
    best = -np.inf
    for size in range(1, len(powers) + 1):
        for nodes in itertools.combinations(powers, size):
            kept = [n for n, arm in enumerate(problem.arms) if arm.node in nodes]
            value = solve(problem.take(kept)).objective
            idle = sum((powers[node].idle_w - powers[node].sleep_w) / demand.rate_per_s for node in nodes)
            wake = sum(powers[n].wake_j / demand.rate_per_s / demand.horizon_s for n in nodes if not powers[n].awake)
            best = max(best, value - demand.price_per_j * (idle + wake))
    return best


@pytest.mark.parametrize("price", [0.0, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_best_of_every_choice_of_nodes(seed: int, price: float) -> None:
    problem, powers = fleet(seed)
    demand = Demand(rate_per_s=0.5, price_per_j=price, horizon_s=60.0)
    vigil = keep_awake(problem, powers, demand)
    assert vigil.objective == pytest.approx(brute_force(problem, powers, demand), abs=1e-9)
    assert vigil.bound == pytest.approx(vigil.objective, abs=1e-8)
    assert {problem.arms[n].node for n in vigil.solution.active} <= vigil.awake


def test_actions_wake_first_and_drain_before_they_suspend() -> None:
    problem, powers = fleet()
    dear = {node: Power(100.0, 1.0, 5.0, 7.0, awake=node != "n3") for node in powers}
    cheap_n3 = dear | {"n3": Power(1.0, 1.0, 5.0, 7.0, awake=False)}
    vigil = keep_awake(problem, cheap_n3, Demand(rate_per_s=1.0, price_per_j=1.0))
    assert vigil.awake == {"n3"}
    assert [action.step for action in vigil.actions] == [Step.WAKE] + [Step.DRAIN] * 3 + [Step.SUSPEND] * 3
    assert vigil.actions[0].energy_j == 5.0
    assert {action.after_s for action in vigil.actions} == {7.0}


def test_nodes_that_may_not_sleep_stay_and_slow_ones_are_not_woken() -> None:
    problem, powers = fleet()
    powers = {node: Power(50.0, wake_s=30.0, awake=node == "n0", may_sleep=node != "n0") for node in powers}
    vigil = keep_awake(problem, powers, Demand(rate_per_s=10.0, price_per_j=1e-9, max_wake_s=5.0))
    assert vigil.awake == {"n0"}
    assert vigil.actions == ()


def test_nothing_that_can_be_active_is_a_status() -> None:
    problem, powers = fleet()
    hopeless = Problem(problem.arms, problem.utility, problem.weights_q, Limits(energy_j=0.0))
    assert keep_awake(hopeless, powers, Demand(1.0, 0.0)).solution.status is Status.INFEASIBLE


@pytest.mark.parametrize("demand", [Demand(0.0, 1.0), Demand(1.0, -1.0), Demand(1.0, 1.0, 0.0)])
def test_a_demand_that_cannot_be_meant_is_refused(demand: Demand) -> None:
    with pytest.raises(ProblemError):
        keep_awake(*fleet(), demand)


def test_a_node_that_draws_more_asleep_than_awake_is_refused() -> None:
    problem, _ = fleet()
    with pytest.raises(ProblemError, match="sleeping cannot take more"):
        keep_awake(problem, {"n0": Power(1.0, 2.0)}, Demand(1.0, 1.0))
