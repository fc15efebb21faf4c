"""The joint allocation of one budget: the convex program where cvxpy is installed, the merge of slopes elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache

from optimizer.allocation.convex import ConvexAllocator
from optimizer.allocation.problem import Allocation, AllocationProblem
from optimizer.allocation.slopes import allocate_by_slopes
from optimizer.errors import SolverMissing

CONVEX, SLOPES = "convex program", "merged slopes; cvxpy is not installed"


def allocate(problem: AllocationProblem) -> tuple[Allocation, str]:
    """The relaxation's optimum with its shadow price, and which of the two found it: both find the same.

    Raises:
        SolverFailed: The solver gave no answer to a problem that has one.

    Cost: seconds for the import of cvxpy and 20 ms for the program of a size, once per process; then milliseconds.
    """
    try:
        allocator = _allocator(len(problem.classes), max(len(plans.energy_k) for plans in problem.classes))
    except SolverMissing:
        return allocate_by_slopes(problem), SLOPES
    return allocator.solve(problem), CONVEX


@cache
def _allocator(classes: int, plans: int) -> ConvexAllocator:
    """Programs are compiled for a size."""
    _silence_greeting()
    return ConvexAllocator(classes, plans)


@cache
def _silence_greeting() -> None:
    """HiGHS writes its name to standard output with its first object, where a program's JSON goes."""
    try:
        from highspy import Highs
    except ImportError:
        return
    sys.stdout.flush()
    greet: Callable[[], object] = Highs
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        greet()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
