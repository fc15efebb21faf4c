"""Which method is valid for which problem, and the one entry to all of them."""

from __future__ import annotations

from dataclasses import replace

from optimizer.native.library import available
from optimizer.selection.exact import Search, solve_exact
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution
from optimizer.selection.utility import AnyRight, BestOf, Table


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
    return solve_exact(compiled, search, warm=warm)


def _for_compiled(problem: Problem) -> Problem | None:
    """The problem as the compiled solver takes it; None where it cannot."""
    utility, routing = problem.utility, problem.routing
    if isinstance(utility, Table):
        return None
    if isinstance(utility, AnyRight) and routing is not None:
        # With one expert per query, being right is all that it can be worth.
        return replace(problem, utility=BestOf(utility.right_qn)) if routing.fanout == 1 else None
    return problem
