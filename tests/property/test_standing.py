"""A plan that follows drifts against every set, against a cold solve, and by its certificate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.random import Generator

from optimizer.selection.baselines.exhaustive import solve_exhaustively
from optimizer.selection.certify import certify
from optimizer.selection.exact import Search
from optimizer.selection.problem import Mode, Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.solve import solve
from optimizer.selection.standing import StandingPlan
from optimizer.selection.utility import AnyRight, Floats, Table
from tests.property.selection_problems import make_problem, pick, worth_scale

PROBLEMS = 600
DRIFTS = 6
TOLERANCE = 1e-9
FACTORS = (0.95, 1.05, 0.95, 1.05, 0.95, 1.05, 0.5, 2.0, 0.0, 1.0)


def drifted(rng: Generator, problem: Problem) -> tuple[int, Floats | None, float | None]:
    """One arm's new column and energy: mostly 5 %, sometimes the double, half, nothing, or what another arm has."""
    n, other = (int(x) for x in rng.integers(len(problem.arms), size=2))
    utility = problem.utility
    assert not isinstance(utility, Table)
    matrix_qn = utility.right_qn if isinstance(utility, AnyRight) else utility.quality_qn
    worth_q, energy_j = matrix_qn[:, n] * pick(rng, *FACTORS), problem.arms[n].energy_j * pick(rng, *FACTORS)
    if pick(rng, True, *[False] * 7):
        worth_q, energy_j = matrix_qn[:, other], problem.arms[other].energy_j
    if isinstance(utility, AnyRight):
        worth_q = np.minimum(worth_q, 1.0)
    return n, pick(rng, worth_q, worth_q, None), pick(rng, energy_j, energy_j, None)


def applied(problem: Problem, n: int, worth_q: Floats | None, energy_j: float | None) -> Problem:
    """The changed problem, made by other means than the plan's."""
    utility = problem.utility
    assert not isinstance(utility, Table)
    matrix_qn = (utility.right_qn if isinstance(utility, AnyRight) else utility.quality_qn).copy()
    if worth_q is not None:
        matrix_qn[:, n] = worth_q
    arms = list(problem.arms)
    if energy_j is not None:
        arms[n] = replace(arms[n], energy_j=energy_j)
    return replace(problem, arms=tuple(arms), utility=type(utility)(matrix_qn))


def faults(problem: Problem, found: Solution, exact: Solution) -> Iterator[str]:
    """What is wrong with a solution."""
    slack = TOLERANCE * worth_scale(problem)
    if found.status is not exact.status:
        yield f"{found.status} instead of {exact.status}"
    if abs(found.objective - exact.objective) > slack:
        yield f"worth {found.objective!r}, the best set {exact.objective!r}"
    if found.bound < exact.objective - slack:
        yield "the bound is too low"
    yield from certify(problem, found).reasons


def followed(problem: Problem, rng: Generator, *, prove: bool) -> Iterator[str]:
    """Faults along a sequence of drifts; without `prove` the proof is only asked for at the end."""
    with StandingPlan(problem, Search(prove=prove)) as plan:
        yield from faults(problem, plan.solution, solve_exhaustively(problem))
        for _ in range(DRIFTS):
            n, worth_q, energy_j = drifted(rng, problem)
            problem = applied(problem, n, worth_q, energy_j)
            found, exact = plan.drift(n, worth_q=worth_q, energy_j=energy_j), solve_exhaustively(problem)
            yield from faults(problem, found, exact)
            cold = solve(problem)
            if abs(found.objective - cold.objective) > TOLERANCE * worth_scale(problem):
                yield "a cold solve says otherwise"
        assert plan.problem.arms == problem.arms
        if exact.status is not Status.INFEASIBLE:
            assert prove or plan.solution.objective == 0.0 or plan.proven().proof is not None
        yield from certify(plan.problem, plan.proven()).reasons


@pytest.mark.parametrize("utility", ["best_of", "any_right"])
def test_drifts_are_followed_exactly(utility: str) -> None:
    wrong = {}
    for seed in range(PROBLEMS):
        rng = np.random.default_rng([seed, 3])
        found = list(followed(make_problem(utility, Mode.WORST_CASE, seed), rng, prove=seed % 2 == 0))
        if found:
            wrong[seed] = found
    assert wrong == {}


@pytest.mark.parametrize("utility", ["best_of", "any_right"])
def test_routed_plans_are_solved_anew(utility: str) -> None:
    for seed in range(30):
        problem, rng = make_problem(utility, Mode.ROUTED, seed), np.random.default_rng([seed, 3])
        assert list(followed(problem, rng, prove=True)) == []


@pytest.mark.parametrize("utility", ["best_of", "any_right"])
def test_a_stopped_plan_never_claims_too_little(utility: str) -> None:
    for seed in range(60):
        problem, rng = make_problem(utility, Mode.WORST_CASE, seed), np.random.default_rng([seed, 3])
        with StandingPlan(problem, Search(node_limit=seed % 4, gap=(0.0, 0.1)[seed % 2], prove=True)) as plan:
            for _ in range(DRIFTS):
                n, worth_q, energy_j = drifted(rng, plan.problem)
                found = plan.drift(n, worth_q=worth_q, energy_j=energy_j)
                exact, slack = solve_exhaustively(plan.problem), TOLERANCE * worth_scale(plan.problem)
                assert found.objective - slack <= exact.objective <= found.bound + slack
                assert certify(plan.problem, found).reasons == ()
