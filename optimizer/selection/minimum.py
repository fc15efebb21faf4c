"""The other way round: the fewest joules that reach a quality.

The best quality under an energy limit rises with the limit, so the least sufficient limit is found by halving an
interval. Both ends are certified: at the upper one a set reaches the quality, at the lower one the solver's bound says
that none does. In mode ``worst_case`` the joules are those of the active set, in mode ``routed`` the mean of what runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from optimizer.selection.arms import Routing
from optimizer.selection.exact import Search
from optimizer.selection.problem import Mode, Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.solve import solve

PRECISION = 1e-4
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Minimum:
    """The fewest joules that reach a quality, with both sides certified.

    Args:
        solution: A set that reaches it; `INFEASIBLE` where none does, whatever the energy.
        energy_j: What that set takes: all of it in mode ``worst_case``, the mean limit in mode ``routed``.
        lower_j: No set that takes less than this reaches it.
    """

    solution: Solution
    energy_j: float
    lower_j: float

    @property
    def gap_fraction(self) -> float:
        """How much cheaper another set could be at most."""
        return 0.0 if self.energy_j <= 0.0 else (self.energy_j - self.lower_j) / self.energy_j


def least_energy(
    problem: Problem, *, min_quality: float, search: Search | None = None, precision: float = PRECISION
) -> Minimum:
    """The fewest joules with which the problem's objective reaches `min_quality`.

    Args:
        problem: Of either mode; its energy limit, if any, is the most that may be spent.
        min_quality: In units of the objective.
        search: For each solve.
        precision: Largest gap between the two certified ends, as a fraction of the upper one.

    Cost: about fifteen solves.
    """
    most_j = _most_energy(problem)
    best = solve(limited(problem, most_j), search)
    if best.status is Status.INFEASIBLE or not _reaches(best.objective, min_quality):
        return Minimum(replace(best, status=Status.INFEASIBLE, active=(), objective=0.0), 0.0, most_j)
    found = _pruned(problem, best, min_quality)
    low_j, high_j = 0.0, _spent(problem, found, most_j)
    while high_j - low_j > precision * high_j:
        middle_j = 0.5 * (low_j + high_j)
        tried = solve(limited(problem, middle_j), search)
        if tried.status is not Status.INFEASIBLE and _reaches(tried.objective, min_quality):
            found = _pruned(problem, tried, min_quality)
            high_j = _spent(problem, found, middle_j)
        elif tried.status is Status.INFEASIBLE or not _reaches(tried.bound, min_quality):
            low_j = middle_j
        else:
            # Stopped early: neither side is proven here, so the interval stays.
            break
    return Minimum(found, high_j, low_j)


def _pruned(problem: Problem, solution: Solution, min_quality: float) -> Solution:
    """Mode ``worst_case``: without the arms that the quality does not need, the dearest first."""
    active = solution.active
    if problem.mode is Mode.ROUTED:
        return solution
    for arm in sorted(active, key=lambda n: -problem.arms[n].energy_j):
        fewer = tuple(n for n in active if n != arm)
        if fewer and _reaches(problem.value(fewer), min_quality):
            active = fewer
    return replace(solution, active=active, objective=problem.value(active), proof=None, trace=None)


def _reaches(quality: float, min_quality: float) -> bool:
    return quality >= min_quality - _ROUNDING * max(1.0, abs(min_quality))


def limited(problem: Problem, limit_j: float) -> Problem:
    """The problem with another limit on its mode's energy."""
    if problem.routing is None:
        return replace(problem, limits=replace(problem.limits, energy_j=limit_j))
    return replace(problem, routing=Routing(limit_j, problem.routing.fanout))


def _most_energy(problem: Problem) -> float:
    if problem.routing is not None:
        return problem.routing.mean_energy_j
    total_j = sum(arm.energy_j for arm in problem.arms)
    return total_j if problem.limits.energy_j is None else min(total_j, problem.limits.energy_j)


def _spent(problem: Problem, solution: Solution, limit_j: float) -> float:
    if problem.mode is Mode.ROUTED:
        return limit_j
    return min(limit_j, sum(problem.arms[n].energy_j for n in solution.active))
