"""The certified plans of one class: what they are worth, and that a joint allocation of them is the best one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from optimizer.allocation.frontier import LEVELS, frontier
from optimizer.allocation.problem import AllocationProblem
from optimizer.allocation.rounding import round_to_plans
from optimizer.allocation.slopes import allocate_by_slopes
from optimizer.errors import ProblemError
from optimizer.selection.arms import Limits, Routing
from optimizer.selection.baselines.exhaustive import solve_exhaustively
from optimizer.selection.problem import Problem
from optimizer.selection.utility import BestOf
from tests.optimizer.selection.problems import arms_with, equal_weights


def a_class(seed: int, *, active: int | None = None) -> Problem:
    """Six arms, the better the costlier."""
    rng = np.random.default_rng(seed)
    skill_n = np.sort(rng.random(6))
    utility = BestOf(np.clip(0.6 * skill_n + 0.4 * rng.random((30, 6)), 0.0, 1.0))
    arms = arms_with((0.2 + 5.0 * skill_n**2).tolist())
    return Problem(arms, utility, equal_weights(utility), Limits(active=active), Routing(0.0))


@pytest.mark.parametrize("active", [None, 2])
def test_each_plan_is_the_best_at_what_it_takes(active: int | None) -> None:
    problem = a_class(1, active=active)
    plans = frontier("chat", 1.0, problem)
    assert len(plans.energy_k) == LEVELS
    assert (np.diff(plans.energy_k) >= -1e-12).all()
    assert (np.diff(plans.quality_k) >= -1e-12).all()
    for quality, energy_j in zip(plans.quality_k, plans.energy_k, strict=True):
        best = solve_exhaustively(replace(problem, routing=Routing(float(energy_j))))
        assert quality == pytest.approx(best.objective, rel=1e-9)
    assert plans.energy_k[0] == pytest.approx(min(arm.energy_j for arm in problem.arms))


def test_one_plan_per_class_is_within_the_stated_gap_of_every_other_choice() -> None:
    classes = tuple(frontier(name, share, a_class(seed)) for name, share, seed in (("a", 3.0, 2), ("b", 1.0, 3)))
    shared = AllocationProblem(classes, 1.5)
    rounded = round_to_plans(shared, allocate_by_slopes(shared))
    assert rounded is not None
    weight_c, every = shared.weight_c, [range(len(one.energy_k)) for one in classes]
    within = [
        float(sum(w * one.quality_k[k] for w, one, k in zip(weight_c, classes, chosen, strict=True)))
        for chosen in itertools.product(*every)
        if sum(w * one.energy_k[k] for w, one, k in zip(weight_c, classes, chosen, strict=True)) <= 1.5 + 1e-12
    ]
    assert rounded.quality <= max(within) + 1e-12 <= rounded.quality + rounded.gap + 1e-9
    assert rounded.energy_j <= 1.5 + 1e-12


def test_arms_that_take_nothing_and_arms_that_all_take_the_same() -> None:
    utility = BestOf(np.array([[0.5, 0.9]]))
    for joules, count in (([0.0, 1.0], LEVELS + 1), ([1.0, 1.0], 1), ([0.0, 0.0], 1)):
        plans = frontier("x", 1.0, Problem(arms_with(joules), utility, equal_weights(utility), routing=Routing(0.0)))
        assert len(plans.energy_k) == count
        assert plans.quality_k[-1] == pytest.approx(0.9)


def test_what_has_no_such_plans_is_refused() -> None:
    with pytest.raises(ProblemError, match="routed"):
        frontier("x", 1.0, replace(a_class(1), routing=None))
    with pytest.raises(ProblemError, match="no plan"):
        frontier("x", 1.0, a_class(1, active=0))
