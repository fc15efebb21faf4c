"""One selection problem, three answers that share no code: the solver's, the best of every set, a MILP's."""

from __future__ import annotations

from collections.abc import Callable

from optimizer.selection.baselines.exhaustive import solve_exhaustively
from optimizer.selection.baselines.milp import solve_by_milp
from optimizer.selection.certify import certify
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.solve import solve
from tests.property.selection_problems import worth_scale

# Of what every set is worth at most. HiGHS keeps rows within 1e-6, so its choice may be that much worse.
TOLERANCE, MILP_TOLERANCE = 1e-9, 1e-6


def against_milp(problem: Problem, solver: Callable[[Problem], Solution] = solve) -> str:
    """What the solver and the MILP do not agree on; "" where they do."""
    return _differs(problem, solver(problem), solve_by_milp(problem), MILP_TOLERANCE)


def against_both(problem: Problem, solver: Callable[[Problem], Solution] = solve) -> str:
    """The same with every set looked at and the solution certified."""
    ours = solver(problem)
    reasons = [
        _differs(problem, ours, solve_exhaustively(problem), TOLERANCE),
        _differs(problem, ours, solve_by_milp(problem), MILP_TOLERANCE),
        *certify(problem, ours).reasons,
    ]
    return "; ".join(reason for reason in reasons if reason)


def _differs(problem: Problem, ours: Solution, theirs: Solution, tolerance: float) -> str:
    if (ours.status is Status.INFEASIBLE) != (theirs.status is Status.INFEASIBLE):
        return f"{ours.status}, and {theirs.status} by {theirs.solver}"
    if abs(ours.objective - theirs.objective) <= tolerance * worth_scale(problem):
        return ""
    return f"worth {ours.objective!r}, and {theirs.objective!r} by {theirs.solver}"
