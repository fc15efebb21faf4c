"""Arms that add nothing but still fit: another node to fall back on. `fill.c` does the same for what stays in C."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizer.selection.problem import ROUNDING, Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.utility import Bools


def filled(problem: Problem, found: Solution) -> Solution:
    """With the arms that still fit; where the search was stopped early they may even add something."""
    active = _maximal(problem, found.active)
    if active == found.active:
        return found
    if found.status is Status.OPTIMAL:
        return replace(found, active=active)
    objective = problem.value(active)
    return replace(found, active=active, objective=objective, bound=max(found.bound, objective))


def _maximal(problem: Problem, active: tuple[int, ...]) -> tuple[int, ...]:
    costs = problem.set_costs
    left_k = costs.limit_k * (1.0 + ROUNDING) - costs.cost_kn[:, list(active)].sum(axis=1)
    out_n: Bools = np.asarray(problem.allowed_qn.any(axis=0))
    out_n[list(active)] = False
    if not len(left_k) and not out_n.any():
        return active
    while (fits := np.flatnonzero(out_n & (costs.cost_kn <= left_k[:, None]).all(axis=0))).size:
        chosen = int(min(fits.tolist(), key=lambda n: (problem.arms[n].energy_j, n)))
        active, out_n[chosen] = (*active, chosen), False
        left_k = left_k - costs.cost_kn[:, chosen]
    return tuple(sorted(active))
