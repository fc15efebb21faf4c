from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from optimizer.certify import certify
from optimizer.problem import Arm, Problem
from optimizer.solution import Status
from optimizer.solve import solve


def instance(*, arms: int = 14, queries: int = 200, energy_fraction: float | None = 0.4, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    energy_n = rng.random(arms) + 0.1
    limit_j = None if energy_fraction is None else float(energy_n.sum() * energy_fraction)
    listed = tuple(Arm(f"a{n}", "x", f"n{n % 3}", float(energy_n[n]), 1.0) for n in range(arms))
    return Problem(listed, rng.random((queries, arms)), np.full(queries, 1.0 / queries), limit_j)


def test_without_limits_the_top_corner_is_the_answer_after_one_box() -> None:
    problem = instance(arms=20, queries=1500, energy_fraction=None)
    solution = solve(problem)
    assert solution.status is Status.OPTIMAL
    assert solution.active == tuple(range(20))
    assert solution.explored == 1


def test_replicas_that_fit_stay_active_as_a_fallback() -> None:
    twin = tuple(Arm(f"x@n{n}", "x", f"n{n}", 1.0, 1.0) for n in range(3))
    problem = Problem(twin, np.full((4, 3), 0.7), np.full(4, 0.25), energy_limit_j=2.0)
    solution = solve(problem)
    assert solution.status is Status.OPTIMAL
    assert len(solution.active) == 2


def test_infeasible_is_a_status() -> None:
    problem = Problem((Arm("a", "x", "n", 2.0, 1.0),), np.ones((1, 1)), np.ones(1), energy_limit_j=1.0)
    solution = solve(problem)
    assert (solution.status, solution.active, solution.gap) == (Status.INFEASIBLE, (), 0.0)


def test_a_node_limit_gives_a_feasible_set_and_a_bound_that_holds() -> None:
    problem = instance()
    best = solve(problem)
    for limit in (0, 1, 3, 10):
        stopped = solve(problem, node_limit=limit)
        assert problem.fits(stopped.active)
        assert stopped.active
        assert stopped.objective <= best.objective + 1e-12 <= stopped.bound + 2e-12
        assert stopped == solve(problem, node_limit=limit)
    assert solve(problem, node_limit=1).status is Status.FEASIBLE
    assert best.explored > 10


def test_stop_is_asked_before_each_box() -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 5

    solution = solve(instance(), should_stop=stop)
    assert solution.explored == 5
    assert solution.gap > 0.0


def test_an_unweighted_query_does_not_count() -> None:
    arms = (Arm("a", "x", "n", 1.0, 1.0), Arm("b", "y", "n", 1.0, 1.0))
    problem = Problem(arms, np.array([[1.0, 0.0], [0.2, 0.3]]), np.array([0.0, 1.0]), max_active=1)
    assert solve(problem).active == (1,)


def test_certify_accepts_the_solver_and_sees_through_every_lie() -> None:
    problem = instance()
    honest = solve(problem)
    assert certify(problem, honest).ok
    lies = {
        "objective": replace(honest, objective=honest.objective + 0.01, bound=honest.bound + 0.01),
        "takes": replace(honest, active=tuple(range(14))),
        "bound is": replace(honest, active=(0,), objective=problem.value((0,)), bound=problem.value((0,))),
        "below the objective": replace(honest, status=Status.FEASIBLE, bound=honest.objective - 0.1),
        "called optimal": replace(honest, bound=honest.objective + 0.1),
        "does not have": replace(honest, active=(99,)),
        "twice": replace(honest, active=(0, 0)),
        "finite": replace(honest, bound=float("nan")),
        "empty": replace(honest, active=(), objective=0.0),
        "an arm fits": replace(honest, status=Status.INFEASIBLE, active=()),
    }
    for word, lie in lies.items():
        verdict = certify(problem, lie)
        assert not verdict.ok, word
        assert word in " ".join(verdict.reasons).replace("Called", "called"), verdict.reasons


def test_certify_says_when_it_could_not_prove_the_bound() -> None:
    problem = instance()
    verdict = certify(problem, solve(problem), proof_nodes=2)
    assert verdict.reasons == ("The bound could not be proven within 2 boxes.",)


@pytest.mark.parametrize("energy_fraction", [0.1, 0.3, 0.8])
def test_twenty_arms_and_many_queries_are_solved_and_certified(energy_fraction: float) -> None:
    rng = np.random.default_rng(1)
    hard_q1, noise_qn = rng.normal(2.0, 1.5, (1500, 1)), rng.normal(0.0, 1.0, (1500, 20))
    quality_qn = 1.0 / (1.0 + np.exp(-(hard_q1 + noise_qn + np.linspace(-1.0, 1.0, 20))))
    energy_n = np.geomspace(0.01, 1.0, 20)
    arms = tuple(Arm(f"a{n}", "x", "n", float(energy_n[n]), 1.0) for n in range(20))
    limit_j = float(energy_n.sum() * energy_fraction)
    problem = Problem(arms, quality_qn, np.full(1500, 1 / 1500), limit_j)
    solution = solve(problem, node_limit=2_000)
    assert solution.status is Status.OPTIMAL
    assert certify(problem, solution).ok
