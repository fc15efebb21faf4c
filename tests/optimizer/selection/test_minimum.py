from __future__ import annotations

import itertools

import numpy as np
import pytest

from optimizer.selection.arms import Limits, Routing
from optimizer.selection.minimum import least_energy
from optimizer.selection.pricing import best_policy
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Status
from optimizer.selection.utility import AnyRight, BestOf
from tests.optimizer.selection.problems import arms_with, equal_weights


def drawn(seed: int, kind: type[BestOf] | type[AnyRight], *, routed: bool) -> Problem:
    rng = np.random.default_rng(seed)
    utility = kind(rng.random((12, 7)))
    energy_n = rng.uniform(0.1, 1.0, 7).tolist()
    routing = Routing(float(max(energy_n))) if routed else None
    limits = Limits(memory_bytes={"n0": 4.0})
    return Problem(arms_with(energy_n), utility, equal_weights(utility), limits, routing)


def sets(problem: Problem) -> list[tuple[int, ...]]:
    every = range(len(problem.arms))
    listed = [active for size in every for active in itertools.combinations(every, size + 1)]
    return [active for active in listed if problem.fits(active)]


@pytest.mark.parametrize("kind", [BestOf, AnyRight])
@pytest.mark.parametrize("seed", range(12))
def test_worst_case_finds_the_cheapest_sufficient_set(seed: int, kind: type[BestOf] | type[AnyRight]) -> None:
    problem = drawn(seed, kind, routed=False)
    target = 0.9 * max(problem.value(active) for active in sets(problem))
    enough = [active for active in sets(problem) if problem.value(active) >= target]
    cheapest_j = min(sum(problem.arms[n].energy_j for n in active) for active in enough)
    found = least_energy(problem, min_quality=target)
    assert found.energy_j == pytest.approx(cheapest_j, rel=2e-4)
    assert found.lower_j <= cheapest_j + 1e-12
    assert problem.value(found.solution.active) >= target - 1e-9
    assert found.gap_fraction <= 1e-4


@pytest.mark.parametrize("seed", range(8))
def test_routed_finds_the_least_mean_energy(seed: int) -> None:
    problem = drawn(seed, BestOf, routed=True)
    target = 0.9 * max(problem.value(active) for active in sets(problem))
    found = least_energy(problem, min_quality=target)
    just_less = found.lower_j * (1.0 - 1e-9)
    assert all(best_policy(problem.options(active), just_less).value < target + 1e-9 for active in sets(problem))
    assert best_policy(problem.options(found.solution.active), found.energy_j).value >= target - 1e-9


def test_what_nothing_reaches_is_a_status() -> None:
    problem = drawn(0, BestOf, routed=False)
    assert least_energy(problem, min_quality=2.0).solution.status is Status.INFEASIBLE
