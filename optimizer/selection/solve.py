"""Which method is valid for which problem, and the one entry to all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizer.native.library import available
from optimizer.selection.exact import Search, solve_exact
from optimizer.selection.problem import ROUNDING, Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.utility import AnyRight, BestOf, Bools, Table


def solve(problem: Problem, search: Search | None = None, *, warm: Solution | None = None) -> Solution:
    """Find the best active set and prove it.

    Best-of and any-right go to the compiled branch and bound. Tables of measured fusions, and routed plans in which
    several experts answer one query, go to the search over boxes, which needs monotonicity alone. Where the compiled
    solver is not built, everything goes there.

    Args:
        problem: What to solve.
        search: How far to go; gap 0 and no proof unless asked for.
        warm: The solution of nearly the same problem.

    Returns:
        `OPTIMAL` with a bound that meets the objective; `FEASIBLE` with a valid bound when it was stopped, or asked for
        a gap; or `INFEASIBLE` when no arm can be active. Arms that add nothing but still fit are added last, the
        cheapest first: another node to fall back on.
    """
    search = search or Search()
    compiled = _for_compiled(problem)
    if compiled is None or not available():
        from optimizer.selection.baselines.boxes import solve_by_boxes

        return solve_by_boxes(problem, node_limit=search.node_limit, should_stop=search.should_stop)
    found = solve_exact(compiled, search, warm=warm)
    return found if found.status is Status.INFEASIBLE else _filled(problem, found)


def _for_compiled(problem: Problem) -> Problem | None:
    """The problem as the compiled solver takes it; None where it cannot."""
    utility, routing = problem.utility, problem.routing
    if isinstance(utility, Table):
        return None
    if isinstance(utility, AnyRight) and routing is not None:
        # With one expert per query, being right is all that it can be worth.
        return replace(problem, utility=BestOf(utility.right_qn)) if routing.fanout == 1 else None
    return problem


def _filled(problem: Problem, found: Solution) -> Solution:
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
