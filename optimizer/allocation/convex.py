"""The relaxation as a parametrised linear program in cvxpy: built once, solved again in milliseconds.

With y_ck the part of all requests that are of class c and follow its plan k, every number of the problem (shares,
qualities, joules, budget) is a parameter that enters linearly, so that cvxpy's compilation is reused (disciplined
parametrised programming, Source: arXiv 1904.02247). The dual of the budget is the shadow price.

Shape letters: c classes, k plans (padded to the most that a class has).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.allocation.problem import (
    Allocation,
    AllocationProblem,
    AllocationStatus,
    infeasible,
    smallest_budget_j,
    totals,
)
from optimizer.errors import SolverFailed, SolverMissing

Floats = NDArray[np.float64]


def _cvxpy() -> Any:
    try:
        import cvxpy
    except ImportError as error:
        raise SolverMissing("cvxpy is not installed; install Edgewise with its extra `plan`.") from error
    module: Any = cvxpy
    if module.HIGHS not in module.installed_solvers():
        raise SolverMissing("HiGHS is not installed; install Edgewise with its extra `plan`.")
    return module


class ConvexAllocator:
    """Solves problems of up to a given size.

    Args:
        classes: Most classes.
        plans: Most plans of a class.

    Raises:
        SolverMissing: cvxpy or HiGHS is not installed.

    Cost: building 1.6 ms, the first solve 16 ms (it compiles the program), every other 2.1 ms on a quiet machine
    for 8 classes of 24 plans (tests/bench/bench_allocation.py). HiGHS writes its name to standard output once per
    process.
    """

    def __init__(self, classes: int, plans: int) -> None:
        cp = _cvxpy()
        self._solver, self._error = cp.HIGHS, cp.error.SolverError
        self._shape = classes, plans
        self._share_c = cp.Parameter(classes, nonneg=True)
        self._quality_ck = cp.Parameter(self._shape)
        self._energy_ck = cp.Parameter(self._shape, nonneg=True)
        self._cap_ck = cp.Parameter(self._shape, nonneg=True)
        self._budget_j = cp.Parameter()
        self._part_ck = cp.Variable(self._shape, nonneg=True)
        self._within = cp.sum(cp.multiply(self._energy_ck, self._part_ck)) <= self._budget_j
        limits = [cp.sum(self._part_ck, axis=1) == self._share_c, self._part_ck <= self._cap_ck, self._within]
        self._program = cp.Problem(cp.Maximize(cp.sum(cp.multiply(self._quality_ck, self._part_ck))), limits)

    def solve(self, problem: AllocationProblem) -> Allocation:
        """The optimum of the relaxation.

        Raises:
            ValueError: A problem larger than the allocator was made for.
            SolverFailed: The solver gave no answer to a problem that has one.
        """
        if problem.budget_j < smallest_budget_j(problem):
            return infeasible(problem)
        scale_j = self._fill(problem)
        # HiGHS has one pool of threads per process, of the size that its first solve asks for; another size is refused.
        try:
            self._program.solve(solver=self._solver, threads=1)
        except self._error as error:
            raise SolverFailed(f"HiGHS gave no answer ({error}).") from error
        if self._program.status != "optimal":
            raise SolverFailed(f"HiGHS ended with {self._program.status!r}.")
        mix_c = self._mix(problem)
        quality, energy_j = totals(problem, mix_c)
        price = max(0.0, float(self._within.dual_value)) / scale_j
        return Allocation(AllocationStatus.OPTIMAL, quality, energy_j, price, tuple(mix_c), smallest_budget_j(problem))

    def _fill(self, problem: AllocationProblem) -> float:
        """Set all parameters; joules are scaled to about 1, because solvers' tolerances are absolute."""
        widest = max(len(plans.energy_k) for plans in problem.classes)
        if len(problem.classes) > self._shape[0] or widest > self._shape[1]:
            raise ValueError(f"the problem is larger than {self._shape}.")
        share_c = np.zeros(self._shape[0])
        share_c[: len(problem.classes)] = problem.weight_c
        quality_ck, energy_ck, cap_ck = (np.zeros(self._shape) for _ in range(3))
        for c, plans in enumerate(problem.classes):
            count = len(plans.energy_k)
            quality_ck[c, :count], energy_ck[c, :count], cap_ck[c, :count] = plans.quality_k, plans.energy_k, 1.0
        scale_j = float(energy_ck.max()) or 1.0
        self._share_c.value, self._quality_ck.value, self._cap_ck.value = share_c, quality_ck, cap_ck
        self._energy_ck.value, self._budget_j.value = energy_ck / scale_j, problem.budget_j / scale_j
        return scale_j

    def _mix(self, problem: AllocationProblem) -> list[Floats]:
        """Shares within each class; a class without requests follows its cheapest plan."""
        part_ck, mix_c = np.maximum(np.asarray(self._part_ck.value), 0.0), []
        for c, plans in enumerate(problem.classes):
            part_k = part_ck[c, : len(plans.energy_k)]
            if part_k.sum() <= 0.0:
                part_k = np.zeros(len(plans.energy_k))
                part_k[plans.energy_k.argmin()] = 1.0
            mix_c.append(part_k / part_k.sum())
        return mix_c
