"""Greedy: what it finds, what it misses, and that its bound never lies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optimizer.selection.arms import Limits
from optimizer.selection.baselines.exhaustive import solve_exhaustively
from optimizer.selection.baselines.greedy import solve_greedily
from optimizer.selection.problem import Mode, Problem
from optimizer.selection.solution import Status
from optimizer.selection.utility import BestOf, Table
from tests.optimizer.selection.problems import arms_with, equal_weights, specialists, trap
from tests.property.selection_problems import MODES, UTILITIES, make_problem, worth_scale


@pytest.mark.parametrize("swaps", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("utility", UTILITIES)
def test_between_feasible_and_the_bound(utility: str, mode: Mode, swaps: bool) -> None:
    for seed in range(40):
        problem = make_problem(utility, mode, seed)
        solution, exact = solve_greedily(problem, swaps=swaps), solve_exhaustively(problem)
        slack = 1e-9 * worth_scale(problem)
        assert (solution.status is Status.INFEASIBLE) == (exact.status is Status.INFEASIBLE)
        assert problem.fits(solution.active)
        assert solution.objective - slack <= exact.objective <= solution.bound + slack
        if solution.status is Status.OPTIMAL:
            assert solution.objective >= exact.objective - slack


def test_the_best_single_arm_saves_it() -> None:
    assert solve_greedily(trap()).active == (1,)


def test_a_symmetric_choice_is_not_proven() -> None:
    solution = solve_greedily(specialists())
    assert solution.status is Status.FEASIBLE
    assert solution.objective == pytest.approx(1.75 / 3)
    assert solution.bound > solution.objective


def test_a_swap_helps() -> None:
    # Arm 0 gains the most first; the pair of the others covers everything.
    utility = BestOf(np.array([[0.6, 0.9, 0.0], [0.6, 0.0, 0.9]]))
    problem = Problem(arms_with([1.0, 1.0, 1.0]), utility, equal_weights(utility), Limits(active=2))
    assert solve_greedily(problem).objective == pytest.approx(0.75)
    assert solve_greedily(problem, swaps=True).objective == pytest.approx(0.9)


def test_a_table_that_is_not_monotone_has_no_cheap_bound() -> None:
    utility = Table(np.array([[0.0, 0.5, 0.5, 0.1]]))
    problem = Problem(arms_with([1.0, 1.0]), utility, equal_weights(utility))
    assert math.isinf(solve_greedily(problem).bound)
