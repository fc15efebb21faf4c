"""Why mode ``routed`` prices joules instead of limiting what the best answers happen to take."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from optimizer.selection.arms import Routing
from optimizer.selection.baselines.boxes import solve_by_boxes, solve_by_corners
from optimizer.selection.baselines.exhaustive import solve_exhaustively
from optimizer.selection.problem import Problem
from optimizer.selection.utility import BestOf
from tests.optimizer.selection.naive import naive_boxes, naive_exhaustive, naive_fits
from tests.optimizer.selection.problems import arms_with, equal_weights


def counter_example() -> Problem:
    """Arm 0 is costly and alone right on one query, arm 1 is cheap, arm 2 is the best and far too costly."""
    utility = BestOf(np.array([[0.9, 0.0, 0.95], [0.5, 0.6, 0.7], [0.5, 0.6, 0.0], [0.5, 0.6, 0.0]]))
    return Problem(arms_with([10.0, 1.0, 20.0]), utility, equal_weights(utility), routing=Routing(4.0))


def random_problem(seed: int) -> Problem:
    """Seven arms, the better the costlier, and a limit below the middle."""
    rng = np.random.default_rng(seed)
    skill_n = rng.random(7)
    utility = BestOf(np.clip(skill_n * 0.5 + rng.random((12, 7)) * 0.5, 0.0, 1.0))
    energy_n = 0.2 + skill_n * rng.uniform(0.5, 1.5, 7)
    return Problem(
        arms_with(energy_n.tolist()),
        utility,
        equal_weights(utility),
        routing=Routing(float(np.quantile(energy_n, 0.4))),
    )


def test_naive_limits_are_not_downward_closed() -> None:
    problem = counter_example()
    assert naive_fits(problem, frozenset({0, 1}))
    assert not naive_fits(problem, frozenset({0}))


def test_branch_reduce_bound_answers_wrongly_for_it() -> None:
    problem = counter_example()
    assert naive_exhaustive(problem) == pytest.approx((0.9 + 3 * 0.6) / 4)
    assert naive_boxes(problem) == pytest.approx(3 * 0.6 / 4)


def test_ours_is_right_and_better() -> None:
    problem = counter_example()
    exact = solve_exhaustively(problem).objective
    assert solve_by_boxes(problem).objective == pytest.approx(exact, rel=1e-12)
    assert solve_by_corners(problem).objective == pytest.approx(exact, rel=1e-12)
    assert exact >= naive_exhaustive(problem)


@pytest.mark.parametrize("problem", [counter_example(), *map(random_problem, range(4))], ids=lambda p: len(p.arms))
def test_ours_is_monotone_on_every_subset(problem: Problem) -> None:
    """The control is above: the naive limit drops a set of which a larger one is feasible."""
    arms = range(len(problem.arms))
    value = {frozenset(kept): problem.value(kept) for size in arms for kept in combinations(arms, size + 1)}
    for kept, worth in value.items():
        assert problem.fits(tuple(kept))
        for left in (kept - {arm} for arm in kept if len(kept) > 1):
            assert value[left] <= worth + 1e-12


def test_it_is_the_rule_not_the_exception() -> None:
    problems = [random_problem(seed) for seed in range(60)]
    wrong = [naive_boxes(problem) < naive_exhaustive(problem) - 1e-9 for problem in problems]
    assert sum(wrong) > 30
    for problem in problems:
        exact = solve_exhaustively(problem).objective
        assert solve_by_boxes(problem).objective == pytest.approx(exact, rel=1e-12)
        assert exact >= naive_exhaustive(problem) - 1e-12
