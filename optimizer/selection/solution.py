"""What a solver returns, and what a check of it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from optimizer.selection.proof import Proof


class Status(StrEnum):
    """How far a solver came."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True, slots=True)
class Solution:
    """An active set with its certificate.

    Args:
        status: `OPTIMAL` when the bound meets the objective, `FEASIBLE` when the solver was stopped first or makes no
            stronger claim, `INFEASIBLE` when no arm can be active.
        active: Indices into the problem's arms, ascending.
        objective: The worth of `active`, in units of quality.
        bound: No feasible set is worth more than this.
        explored: Nodes of the search tree that were looked at.
        solver: Name of the method.
        price_per_j: Mode ``routed``: quality that one more joule per query would add to this set; 0 elsewhere.
        proof: What `certify` can check instead of searching itself; None where the solver keeps none.
        trace: What the solver can start from when the problem has changed a little; opaque to everyone else.
    """

    status: Status
    active: tuple[int, ...]
    objective: float
    bound: float
    explored: int
    solver: str = "exact"
    price_per_j: float = 0.0
    proof: Proof | None = field(default=None, compare=False, repr=False)
    trace: object = field(default=None, compare=False, repr=False)

    @property
    def gap(self) -> float:
        """How much quality a better set could add at most."""
        return max(0.0, self.bound - self.objective)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `certify` found.

    Args:
        ok: The set is feasible, the objective is its worth and no feasible set beats the bound: all proven.
        reasons: What is wrong or could not be proven, one sentence each; empty when `ok`.
    """

    ok: bool
    reasons: tuple[str, ...] = ()
