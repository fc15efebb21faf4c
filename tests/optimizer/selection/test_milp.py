"""The MILP oracle: right by hand, and honest about its limits."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from optimizer.errors import SolverMissing
from optimizer.selection.arms import Limits, Routing
from optimizer.selection.baselines.exhaustive import solve_exhaustively
from optimizer.selection.baselines.milp import Effort, solve_by_milp
from optimizer.selection.problem import Mode, Problem
from optimizer.selection.solution import Status
from optimizer.selection.utility import AnyRight, Table
from tests.optimizer.selection.problems import arms_with, equal_weights, shared_memory, specialists, trap
from tests.property.selection_problems import make_problem


def test_by_hand() -> None:
    assert solve_by_milp(trap()).active == (1,)
    assert solve_by_milp(specialists()).objective == pytest.approx(1.75 / 3)
    routed = solve_by_milp(shared_memory())
    assert (routed.active, routed.status) == ((2,), Status.OPTIMAL)


def test_a_table_needs_no_structure() -> None:
    utility = Table(np.array([[0.0, 0.5, 0.4, 0.1], [0.0, 0.1, 0.4, 0.1]]))
    problem = Problem(arms_with([1.0, 1.0]), utility, equal_weights(utility))
    assert solve_by_milp(problem).active == (1,)


def test_panels_of_two() -> None:
    utility = AnyRight(np.array([[0.5, 0.5, 0.6]]))
    problem = Problem(arms_with([1.0, 1.0, 4.0]), utility, equal_weights(utility), Limits(active=2), Routing(2.0, 2))
    solution = solve_by_milp(problem)
    assert solution.active == (0, 1)
    assert solution.objective == pytest.approx(0.75)


def test_nothing_that_can_be_active() -> None:
    problem = make_problem("best_of", Mode.WORST_CASE, 0)
    impossible = Problem(problem.arms, problem.utility, problem.weights_q, Limits(active=0))
    assert solve_by_milp(impossible).status is Status.INFEASIBLE


@pytest.mark.parametrize("effort", [Effort(time_limit_s=1e-6), Effort(gap=0.9)])
def test_less_effort_claims_less(effort: Effort) -> None:
    for seed in range(12):
        problem = make_problem("best_of", Mode.WORST_CASE, seed)
        solution, exact = solve_by_milp(problem, effort), solve_exhaustively(problem)
        assert solution.objective <= exact.objective * (1.0 + 1e-9)
        assert solution.bound >= exact.objective * (1.0 - 1e-6)


def test_without_cvxpy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(SolverMissing, match="plan"):
        solve_by_milp(trap())
