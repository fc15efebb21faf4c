"""What a solver returns, and what a check of it says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How far a solver came."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True, slots=True)
class Solution:
    """An active set with its certificate.

    Args:
        status: `OPTIMAL` when the bound meets the objective, `FEASIBLE` when the solver was stopped first,
            `INFEASIBLE` when no arm can be active.
        active: Indices into the problem's arms, ascending.
        objective: The utility of `active`, in units of quality.
        bound: No feasible set has more utility than this.
        explored: Nodes of the search tree that were looked at.
    """

    status: Status
    active: tuple[int, ...]
    objective: float
    bound: float
    explored: int

    @property
    def gap(self) -> float:
        """How much utility a better set could add at most, in units of quality."""
        return max(0.0, self.bound - self.objective)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `certify` found.

    Args:
        ok: The set is feasible, the objective is its utility and no feasible set beats the bound: all proven.
        reasons: What is wrong or could not be proven, one sentence each; empty when `ok`.
    """

    ok: bool
    reasons: tuple[str, ...] = ()
