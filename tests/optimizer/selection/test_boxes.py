"""Branch, reduce and bound: exact, valid when stopped, deterministic, and refused where it would be wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from optimizer.errors import ProblemError
from optimizer.selection.arms import Limits
from optimizer.selection.baselines.boxes import solve_by_boxes, solve_by_corners
from optimizer.selection.baselines.exhaustive import solve_exhaustively
from optimizer.selection.problem import Mode, Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.utility import AnyRight, Table
from tests.optimizer.selection.problems import arms_with, equal_weights, shared_memory, specialists, trap
from tests.property.selection_problems import MODES, UTILITIES, make_problem, worth_scale


def awkward(utility: str, mode: Mode, seeds: range) -> list[Problem]:
    """Problems that boxes are valid for."""
    problems = [make_problem(utility, mode, seed) for seed in seeds]
    return [one for one in problems if one.routing is not None or one.utility.traits.monotone]


@pytest.mark.parametrize("solve", [solve_by_boxes, solve_by_corners])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("utility", UTILITIES)
def test_exact(utility: str, mode: Mode, solve: Callable[[Problem], Solution]) -> None:
    for problem in awkward(utility, mode, range(1000, 1040)):
        solution, exact = solve(problem), solve_exhaustively(problem)
        assert solution.status is exact.status
        assert problem.fits(solution.active)
        assert abs(solution.objective - exact.objective) <= 1e-10 * worth_scale(problem)


@pytest.mark.parametrize("node_limit", [0, 1, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("utility", ["best_of", "any_right"])
def test_a_stopped_search_never_claims_too_little(utility: str, mode: Mode, node_limit: int) -> None:
    stopped = 0
    for problem in awkward(utility, mode, range(40)):
        exact, slack = solve_exhaustively(problem), 1e-10 * worth_scale(problem)
        for solution in (
            solve_by_boxes(problem, node_limit=node_limit),
            solve_by_corners(problem, node_limit=node_limit),
        ):
            stopped += solution.status is Status.FEASIBLE
            assert solution.explored <= node_limit
            assert solution.objective - slack <= exact.objective <= solution.bound + slack
    assert stopped > 0


def test_it_stops_when_told() -> None:
    problem = next(one for one in awkward("any_right", Mode.ROUTED, range(99)) if solve_by_boxes(one).explored > 5)
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    assert solve_by_boxes(problem, should_stop=should_stop).explored <= 2
    assert solve_by_boxes(problem, should_stop=lambda: True).active != ()


@pytest.mark.parametrize("node_limit", [2, 1000])
def test_the_same_limit_gives_the_same_answer(node_limit: int) -> None:
    for problem in awkward("table", Mode.ROUTED, range(10)):
        assert solve_by_boxes(problem, node_limit=node_limit) == solve_by_boxes(problem, node_limit=node_limit)


def test_better_bounds_need_fewer_boxes() -> None:
    rng = np.random.default_rng(0)
    utility = AnyRight(rng.random((15, 20)) * 0.6)
    energy_n = rng.uniform(0.2, 1.0, 20).tolist()
    problem = Problem(arms_with(energy_n), utility, equal_weights(utility), Limits(energy_j=3.0))
    boxes, corners = solve_by_boxes(problem), solve_by_corners(problem, node_limit=2000)
    assert boxes.status is Status.OPTIMAL
    assert corners.explored > 2 * boxes.explored


def test_by_hand() -> None:
    assert solve_by_boxes(trap()).active == solve_by_corners(trap()).active == (1,)
    assert solve_by_boxes(specialists()).objective == pytest.approx(1.75 / 3)
    assert solve_by_boxes(shared_memory()).active == (2,)


def test_a_table_that_is_not_monotone_is_enumerated_or_refused() -> None:
    utility = Table(np.array([[0.0, 0.5, 0.4, 0.1]]))
    problem = Problem(arms_with([1.0, 1.0]), utility, equal_weights(utility))
    assert solve_by_boxes(problem).active == (0,)
    with pytest.raises(ProblemError, match="not"):
        solve_by_corners(problem)
