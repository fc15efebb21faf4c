"""The tempting formulation that is wrong: best response in quality, and a limit on the joules it then takes.

Sets are worth max over their arms, as in mode ``routed`` without a price; a set is feasible when the mean energy of
those best arms is within the limit. A larger set can be cheaper, so limits are not monotone, and branch-reduce-bound,
which drops every set above an infeasible one, drops feasible ones.

Shape letters: q queries, n arms.
"""

from __future__ import annotations

import itertools

import numpy as np

from optimizer.selection.problem import Problem
from optimizer.selection.utility import BestOf

Set = frozenset[int]


def spent_j(problem: Problem, active: Set) -> float:
    """Mean joules when each query goes to the arm that answers it best."""
    assert isinstance(problem.utility, BestOf)
    arms = sorted(active)
    best_q = problem.utility.quality_qn[:, arms].argmax(axis=1)
    energy_n = np.array([problem.arms[n].energy_j for n in arms])
    return float(problem.weights_q @ energy_n[best_q])


def naive_fits(problem: Problem, active: Set) -> bool:
    """The wrong limit."""
    assert problem.routing is not None
    return not active or spent_j(problem, active) <= problem.routing.mean_energy_j * (1.0 + 1e-12)


def naive_value(problem: Problem, active: Set) -> float:
    """Quality that ignores joules."""
    return float(problem.weights_q @ problem.utility.worth_q(tuple(sorted(active)), problem.allowed_qn))


def naive_exhaustive(problem: Problem) -> float:
    """The best naive value over the sets that fit naively; 0 for none."""
    arms = range(len(problem.arms))
    sets = (frozenset(s) for size in range(1, len(arms) + 1) for s in itertools.combinations(arms, size))
    return max((naive_value(problem, s) for s in sets if naive_fits(problem, s)), default=0.0)


def naive_boxes(problem: Problem) -> float:
    """Branch, reduce and bound as in arXiv 2501.09410, on the naive problem."""
    best, boxes = 0.0, [(Set(), frozenset(range(len(problem.arms))))]
    while boxes:
        inside, top = boxes.pop()
        top = inside | {n for n in top - inside if naive_fits(problem, inside | {n})}
        if not naive_fits(problem, inside) or not top or naive_value(problem, top) <= best:
            continue
        reached = inside
        for n in sorted(top - inside):
            reached = reached | {n} if naive_fits(problem, reached | {n}) else reached
        best = max(best, naive_value(problem, reached)) if reached else best
        if naive_fits(problem, top):
            best = max(best, naive_value(problem, top))
            continue
        chosen = min(top - inside)
        boxes += [(inside, top - {chosen}), (inside | {chosen}, top)]
    return best
