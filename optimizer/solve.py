"""The exact solver: depth first over boxes of active sets, cut by submodular bounds; can be stopped at any time.

A box (in, free) stands for every set between ``in`` and ``in + free``. From ``in`` the solver completes greedily by
gain per joule, which gives an incumbent; each prefix T of that greedy order gives the bound
``U(T) + knapsack of the gains on top of T`` (Nemhauser, Wolsey, Fisher 1978), because for every set S in the box
U(S) ≤ U(T ∪ S) ≤ U(T) + Σ over S \\ T of the gain on top of T. The top corner of the box is a bound too and,
where everything still free fits, its best set (monotonicity, arXiv 2501.09410).

Shape letters: q queries, n arms, k free arms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optimizer.bounds import knapsack_bound, ratio
from optimizer.problem import Problem
from optimizer.solution import Solution, Status

Floats = NDArray[np.float64]

NODE_LIMIT = 200_000
# Two utilities closer than this are equal: the rounding of a mean over some thousand queries.
TOLERANCE = 1e-11


@dataclass(frozen=True)
class Box:
    """Every set between `inside` and `inside + free`; no set in it beats `bound`."""

    inside: tuple[int, ...]
    free: tuple[int, ...]
    bound: float


@dataclass
class _Search:
    """The state of one run: the best set so far and what is left to look at."""

    problem: Problem
    best: tuple[int, ...] = ()
    objective: float = -1.0
    explored: int = 0
    open: list[Box] = field(default_factory=list)

    def offer(self, active: tuple[int, ...]) -> None:
        """Keep a feasible set if it beats the best one."""
        objective = self.problem.value(active)
        if active and objective > self.objective:
            self.best, self.objective = tuple(sorted(active)), objective


def solve(problem: Problem, *, node_limit: int = NODE_LIMIT, should_stop: Callable[[], bool] | None = None) -> Solution:
    """Find the best active set and prove it.

    Args:
        problem: What to solve.
        node_limit: Most boxes to look at; the same limit always gives the same answer.
        should_stop: Asked before each box.

    Returns:
        `OPTIMAL` with a bound that equals the objective; `FEASIBLE` with a valid bound when it was stopped; or
        `INFEASIBLE` when no arm can be active.

    Cost: one look at the problem where all arms fit; otherwise about 0.25 ms per box at 20 arms × 1,500 queries,
    of which the hardest random limits took 10,000.
    """
    eligible = problem.eligible()
    if not eligible:
        return Solution(Status.INFEASIBLE, (), 0.0, 0.0, 0)
    free = _undominated(problem, eligible)
    search = _Search(problem, open=[Box((), free, np.inf)])
    # Whatever happens next, there is something to return.
    search.offer((max(free, key=lambda n: problem.value((n,))),))
    while search.open and search.explored < node_limit and not (should_stop and should_stop()):
        _look_at(search, search.open.pop())
    return _solution(search, eligible)


def _solution(search: _Search, eligible: tuple[int, ...]) -> Solution:
    active = _maximal(search.problem, search.best, eligible)
    objective = search.problem.value(active)
    left = max((box.bound for box in search.open), default=objective)
    bound = max(objective, min(left, search.problem.value(eligible)))
    status = Status.OPTIMAL if bound - objective <= TOLERANCE else Status.FEASIBLE
    return Solution(status, active, objective, bound, search.explored)


def _maximal(problem: Problem, active: tuple[int, ...], eligible: tuple[int, ...]) -> tuple[int, ...]:
    """The set with every arm added that still fits: replicas add no utility, but another node to fall back on."""
    for n in sorted(eligible, key=lambda n: problem.arms[n].energy_j):
        if n not in active and problem.fits((*active, n)):
            active = (*active, n)
    return tuple(sorted(active))


def _look_at(search: _Search, box: Box) -> None:
    problem = search.problem
    if box.bound <= search.objective + TOLERANCE:
        return
    search.explored += 1
    free = tuple(problem.fitting(box.inside, box.free))
    everything = (*box.inside, *free)
    if not free or problem.fits(everything):
        search.offer(everything)
        return
    corner = min(box.bound, problem.value(everything))
    if corner <= search.objective + TOLERANCE:
        return
    greedy, bound = _complete(problem, box.inside, free, enough=search.objective + TOLERANCE)
    search.offer((*box.inside, *greedy))
    bound = min(bound, corner)
    if bound <= search.objective + TOLERANCE:
        return
    first = _strongest(problem, box.inside, free)
    rest = tuple(n for n in free if n != first)
    # On the strongest arm: without it the top corner is low, with it little more can be gained.
    search.open.append(Box(box.inside, rest, bound))
    search.open.append(Box((*box.inside, first), rest, bound))


def _strongest(problem: Problem, inside: tuple[int, ...], free: tuple[int, ...]) -> int:
    covered_q = problem.quality_qn[:, list(inside)].max(axis=1, initial=0.0)
    value_k = problem.weights_q @ np.maximum(problem.quality_qn[:, list(free)], covered_q[:, None])
    return free[int(value_k.argmax())]


def _complete(
    problem: Problem, inside: tuple[int, ...], free: tuple[int, ...], *, enough: float
) -> tuple[list[int], float]:
    """Greedy completion by gain per joule, and the best of the bounds along it; ends early at a bound of `enough`."""
    limit_j = np.inf if problem.energy_limit_j is None else problem.energy_limit_j * (1.0 + 1e-12)
    left_j = limit_j - float(problem.energy_n[list(inside)].sum())
    places = (np.inf if problem.max_active is None else problem.max_active) - len(inside)
    covered_q = problem.quality_qn[:, list(inside)].max(axis=1, initial=0.0)
    greedy: list[int] = []
    bound = np.inf
    remaining = list(free)
    while True:
        gain_k = problem.weights_q @ np.maximum(problem.quality_qn[:, remaining] - covered_q[:, None], 0.0)
        cost_k = problem.energy_n[remaining]
        # The arms of the prefix count as free of charge: a set of the box may or may not have them.
        above = knapsack_bound(gain_k, cost_k, left_j, places)
        bound = min(bound, float(problem.weights_q @ covered_q) + above)
        fitting = problem.fitting((*inside, *greedy), remaining)
        if not fitting or bound <= enough:
            return greedy, bound
        greedy.append(_steepest(fitting, remaining, gain_k, cost_k))
        remaining.remove(greedy[-1])
        covered_q = np.maximum(covered_q, problem.quality_qn[:, greedy[-1]])


def _steepest(fitting: list[int], remaining: list[int], gain_k: Floats, cost_k: Floats) -> int:
    """The arm with the most gain per joule, and the most gain among arms that cost nothing."""
    at = [remaining.index(n) for n in fitting]
    return fitting[int(np.lexsort((-gain_k[at], -ratio(gain_k[at], cost_k[at])))[0])]


def _undominated(problem: Problem, eligible: tuple[int, ...]) -> tuple[int, ...]:
    """Arms without those that another arm replaces at once: nowhere better, not cheaper, no easier to place."""
    kept: list[int] = []
    for n in sorted(eligible, key=lambda n: (problem.arms[n].energy_j, problem.arms[n].memory_bytes, n)):
        if not any(_dominates(problem, other, n) for other in kept):
            kept.append(n)
    return tuple(sorted(kept))


def _dominates(problem: Problem, other: int, n: int) -> bool:
    a, b = problem.arms[other], problem.arms[n]
    no_more_memory = a.node not in problem.memory_limit_bytes or (a.node == b.node and a.memory_bytes <= b.memory_bytes)
    return (
        no_more_memory
        and a.energy_j <= b.energy_j
        and bool((problem.quality_qn[:, other] >= problem.quality_qn[:, n]).all())
    )
