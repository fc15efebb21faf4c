"""The arms that can be active at all, with their set costs: what every baseline searches in.

Shape letters: n eligible arms, k set costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.selection.problem import ROUNDING, Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.utility import Bools, Floats


@dataclass(frozen=True)
class Ground:
    """Eligible arms by their own numbering; sets of them are boolean vectors.

    Args:
        problem: Whose arms they are.
        arms: Index of each in the problem, ascending.
        cost_kn: Set costs of each.
        limit_k: Limits with the slack that sums of floats need.
    """

    problem: Problem
    arms: tuple[int, ...]
    cost_kn: Floats
    limit_k: Floats

    def fits(self, chosen_n: Bools) -> bool:
        """Whether a set is within every limit."""
        return bool((self.cost_kn[:, chosen_n].sum(axis=1) <= self.limit_k).all())

    def room_k(self, chosen_n: Bools) -> Floats:
        """What the set leaves of each limit, at least 0."""
        return np.asarray(np.maximum(self.limit_k - self.cost_kn[:, chosen_n].sum(axis=1), 0.0))

    def addable_n(self, chosen_n: Bools) -> Bools:
        """Which arms the set could take in next."""
        taken_k = self.cost_kn[:, chosen_n].sum(axis=1)
        fits_n = (taken_k[:, None] + self.cost_kn <= self.limit_k[:, None]).all(axis=0)
        return np.asarray(fits_n & ~chosen_n)

    def indices(self, chosen_n: Bools) -> tuple[int, ...]:
        """The set in the problem's numbering."""
        return tuple(self.arms[int(n)] for n in np.flatnonzero(chosen_n))

    def extended(self, chosen_n: Bools, within_n: Bools, rank_n: Floats) -> Bools:
        """The set made maximal with arms of another one, best rank first (arXiv 2501.09410 projects like this)."""
        grown_n = chosen_n.copy()
        for n in np.argsort(-rank_n, kind="stable"):
            if not within_n[n] or grown_n[n]:
                continue
            grown_n[n] = True
            if not self.fits(grown_n):
                grown_n[n] = False
        return grown_n


def ground_of(problem: Problem) -> Ground:
    """The eligible part of a problem."""
    arms = problem.eligible
    costs = problem.set_costs
    return Ground(problem, arms, costs.cost_kn[:, list(arms)], costs.limit_k * (1.0 + ROUNDING))


def infeasible(solver: str) -> Solution:
    """What every method answers where no arm can be active."""
    return Solution(Status.INFEASIBLE, (), 0.0, 0.0, 0, solver)
