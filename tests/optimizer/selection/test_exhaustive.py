"""Every feasible set, against a loop over them in plain Python."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from optimizer.errors import ProblemError
from optimizer.selection.arms import Limits
from optimizer.selection.baselines.exhaustive import solve_exhaustively
from optimizer.selection.problem import Mode, Problem
from optimizer.selection.solution import Status
from optimizer.selection.utility import BestOf
from tests.optimizer.selection.problems import arms_with, equal_weights, shared_memory, specialists, trap
from tests.property.selection_problems import MODES, UTILITIES, make_problem, worth_scale


def by_loop(problem: Problem) -> float | None:
    """The best value over every non-empty set that fits; None if there is none."""
    values = [
        problem.value(active)
        for size in range(1, len(problem.arms) + 1)
        for active in itertools.combinations(range(len(problem.arms)), size)
        if problem.fits(active)
    ]
    return max(values, default=None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("utility", UTILITIES)
def test_the_best_of_a_plain_loop(utility: str, mode: Mode) -> None:
    small = [problem for seed in range(120) if len((problem := make_problem(utility, mode, seed)).arms) <= 8]
    assert len(small) > 15
    for problem in small:
        solution, best = solve_exhaustively(problem), by_loop(problem)
        assert (solution.status is Status.INFEASIBLE) == (best is None)
        if best is not None:
            assert problem.fits(solution.active)
            assert solution.objective == problem.value(solution.active)
            assert abs(solution.objective - best) <= 1e-11 * worth_scale(problem)


def test_by_hand() -> None:
    assert solve_exhaustively(trap()).active == (1,)
    two = solve_exhaustively(specialists())
    # One query has two of the pair, with 1 − ½·½, the others one.
    assert two.objective == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert two.explored == 6
    routed = solve_exhaustively(shared_memory())
    # Arm 2 alone is worth 0.8; arm 1 on half the queries and arm 0 on the others 0.7.
    assert routed.active == (2,)
    assert routed.objective == pytest.approx(0.8)


def test_too_many_sets_are_refused() -> None:
    utility = BestOf(np.ones((1, 21)))
    problem = Problem(arms_with([1.0] * 21), utility, equal_weights(utility), Limits(active=2))
    with pytest.raises(ProblemError, match="21 arms"):
        solve_exhaustively(problem)
