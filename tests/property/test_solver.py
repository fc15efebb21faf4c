"""The solver against brute force, and the certificate against both."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from optimizer.certify import certify
from optimizer.problem import Arm, Problem
from optimizer.solution import Status
from optimizer.solve import solve

seeds = st.integers(0, 2**32 - 1)


def pick(rng: np.random.Generator, *options: Any) -> Any:
    """One of the options; repeat an option to make it likelier."""
    return options[int(rng.integers(len(options)))]


def make_problem(seed: int) -> Problem:
    """A small problem, mostly hard, with what is awkward in it: ties, zero costs, extreme scales, hopeless limits."""
    rng = np.random.default_rng(seed)
    arms, queries = int(rng.integers(1, 13, 2).max()), int(rng.integers(1, 25))
    quality_qn = rng.integers(0, 4, (queries, arms)) / 3.0 if pick(rng, True, False) else rng.random((queries, arms))
    energy_n = rng.integers(0, 4, arms).astype(float) if pick(rng, True, False) else rng.random(arms)
    energy_n *= pick(rng, 1.0, 1e-9, 1e9)
    fraction = pick(rng, None, 0.0, 0.2, 0.3, 0.3, 0.4, 0.4, 0.6)
    listed = tuple(
        Arm(f"a{n}", "x", f"n{rng.integers(2)}", float(e), float(rng.integers(1, 5)), int(rng.integers(0, 4)))
        for n, e in enumerate(energy_n)
    )
    return Problem(
        arms=listed,
        quality_qn=quality_qn,
        weights_q=rng.random(queries) if pick(rng, True, False) else np.full(queries, 1.0 / queries),
        energy_limit_j=None if fraction is None else float(energy_n.sum() * fraction),
        latency_limit_ms=pick(rng, None, None, None, None, None, None, 0.0, 3.0),
        memory_limit_bytes=pick(rng, {}, {}, {"n0": 3}, {"n0": 5, "n1": 4}),
        max_active=pick(rng, None, None, None, None, None, 0, 2, 4),
    )


def brute_force(problem: Problem) -> float | None:
    """The best value over every non-empty set that fits; `None` if there is none."""
    values = [
        problem.value(active)
        for size in range(1, len(problem.arms) + 1)
        for active in itertools.combinations(range(len(problem.arms)), size)
        if problem.fits(active)
    ]
    return max(values, default=None)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(seeds)
def test_the_solver_is_exact_and_its_certificate_holds(seed: int) -> None:
    problem = make_problem(seed)
    solution, best = solve(problem), brute_force(problem)
    assert certify(problem, solution).ok
    if best is None:
        assert solution.status is Status.INFEASIBLE
        return
    assert solution.status is Status.OPTIMAL
    assert problem.fits(solution.active)
    assert abs(solution.objective - best) <= 1e-9


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seeds, st.integers(0, 4))
def test_a_stopped_solver_never_claims_too_little(seed: int, node_limit: int) -> None:
    problem = make_problem(seed)
    solution, best = solve(problem, node_limit=node_limit), brute_force(problem)
    if best is not None:
        assert solution.objective - 1e-9 <= best <= solution.bound + 1e-9
        assert certify(problem, solution).ok


def test_the_generated_problems_are_worth_solving() -> None:
    explored = [solve(make_problem(seed)) for seed in range(300)]
    assert sum(solution.explored > 1 for solution in explored) > 100
    assert sum(solution.status is Status.INFEASIBLE for solution in explored) > 10
