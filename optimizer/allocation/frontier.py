"""The certified plans that one task class could follow: the best active set and policy at a row of mean energies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizer.allocation.problem import ClassPlans
from optimizer.errors import ProblemError
from optimizer.selection.certify import certify
from optimizer.selection.exact import Search
from optimizer.selection.pricing import best_policy
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Status
from optimizer.selection.solve import solve

# Steps of a fifth to a half between the cheapest answers and the best: finer ones change what a class gets by less than
# its quality is known.
LEVELS = 12


def frontier(name: str, share: float, problem: Problem, *, search: Search | None = None) -> ClassPlans:
    """One class with its plans, the cheapest first.

    Args:
        name: Of the class.
        share: Its part of all requests, or its requests per second.
        problem: Mode ``routed``; its limit on the mean energy is not looked at.
        search: For each solve.

    Raises:
        ProblemError: Mode ``worst_case``, or no plan that can be certified.

    Cost: `LEVELS` solves and checks, most of it the checks: 0.2 s for 6 arms and 300 queries, 0.4 s for 12 and 1,000
        (2026-11-28, beside other work).
    """
    if problem.routing is None:
        raise ProblemError("only plans of mode routed share a budget of mean energies.")
    search = replace(search or Search(), prove=True)
    found = [plan for level_j in _levels(problem) if (plan := _plan(problem, level_j, search)) is not None]
    if not found:
        raise ProblemError(f"class {name!r} has no plan that fits its other limits.")
    quality_k, energy_k = np.array(found).T
    return ClassPlans(name, share, quality_k, energy_k)


def _levels(problem: Problem) -> list[float]:
    """From one cheapest arm that answers everything to the dearest, each a part more than the one before."""
    weight = float(problem.weights_q.sum())
    mean_n = problem.weights_q @ problem.run_energy_qn
    fitting = mean_n[list(problem.eligible)]
    if not fitting.size:
        return []
    least_j, most_j = float(fitting.min()), float(fitting.max())
    if least_j >= most_j:
        return [most_j]
    # Arms that take nothing: the row begins where it costs something.
    above = [] if least_j > 0.0 else [least_j]
    start_j = least_j or float(fitting[fitting > 0.0].min()) * 0.5
    return [*above, *np.geomspace(start_j, most_j, LEVELS).tolist()] if weight > 0.0 else [most_j]


def _plan(problem: Problem, level_j: float, search: Search) -> tuple[float, float] | None:
    """Quality and joules of the best plan within a mean energy; None where there is none or its proof does not hold."""
    assert problem.routing is not None
    within = replace(problem, routing=replace(problem.routing, mean_energy_j=level_j))
    solution = solve(within, search)
    if solution.status is Status.INFEASIBLE or not certify(within, solution).ok:
        return None
    policy = best_policy(within.options(solution.active), level_j)
    return policy.value, policy.energy_j
