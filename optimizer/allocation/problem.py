"""What is shared and among whom, and what comes out.

Shape letters: c classes, k plans of a class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import ProblemError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassPlans:
    """The certified plans that one task class could follow.

    Args:
        name: Of the class.
        share: Its part of all requests; shares need not add up to 1. For a budget in watts: its requests per second.
        quality_k: Expected quality of each plan.
        energy_k: Its mean joules per request.

    Raises:
        ProblemError: No plan, shapes that differ, values that are not finite, or joules or a share below 0.
    """

    name: str
    share: float
    quality_k: Floats
    energy_k: Floats

    def __post_init__(self) -> None:
        for field in ("quality_k", "energy_k"):
            object.__setattr__(self, field, np.asarray(getattr(self, field), dtype=np.float64))
        if self.quality_k.ndim != 1 or self.quality_k.shape != self.energy_k.shape or not self.quality_k.size:
            raise ProblemError(f"class {self.name!r} needs the quality and the joules of at least one plan.")
        values = np.concatenate([self.quality_k, self.energy_k, [self.share]])
        if not np.isfinite(values).all() or (self.energy_k < 0.0).any() or self.share < 0.0:
            raise ProblemError(f"class {self.name!r} has values that are not finite, or joules or a share below 0.")


@dataclass(frozen=True)
class AllocationProblem:
    """Maximise quality per request within a budget.

    Args:
        classes: Who shares.
        budget: Joules per request, averaged over the shares; or watts, where shares are requests per second.
        per_request: Whether the budget is joules per request.

    Raises:
        ProblemError: No class, no requests at all, equal names, or a budget that is not finite.
    """

    classes: tuple[ClassPlans, ...]
    budget: float
    per_request: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if not self.classes or math.fsum(one.share for one in self.classes) <= 0.0:
            raise ProblemError("some class must have requests.")
        if len({one.name for one in self.classes}) < len(self.classes):
            raise ProblemError("class names must differ.")
        if not math.isfinite(self.budget):
            raise ProblemError("the budget must be finite.")

    @property
    def weight_c(self) -> Floats:
        """Each class's part of all requests."""
        share_c = np.array([one.share for one in self.classes])
        return np.asarray(share_c / share_c.sum())

    @property
    def budget_j(self) -> float:
        """Joules per request, averaged over all classes."""
        return self.budget if self.per_request else self.budget / math.fsum(one.share for one in self.classes)


class AllocationStatus(StrEnum):
    """What became of a problem; infeasible is an answer, not an error."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True)
class Allocation:
    """The relaxation's optimum: each class may follow two plans in turn.

    Args:
        status: Whether the budget covers each class's cheapest plan.
        quality: Of the mean request: an upper bound on what one plan per class can reach.
        energy_j: Of the mean request.
        price_per_j: Shadow price: quality that one more joule per request would buy.
        mix_c: Per class, the share of its requests that follows each of its plans (k,).
        needed_j: Joules per request that the cheapest plans take: the smallest feasible budget.
    """

    status: AllocationStatus
    quality: float
    energy_j: float
    price_per_j: float
    mix_c: tuple[Floats, ...]
    needed_j: float


def smallest_budget_j(problem: AllocationProblem) -> float:
    """Joules per request of each class's cheapest plan."""
    least_c = np.array([one.energy_k.min() for one in problem.classes])
    return float(problem.weight_c @ least_c)


def infeasible(problem: AllocationProblem) -> Allocation:
    """The answer where the budget does not cover the cheapest plans."""
    nothing = tuple(np.zeros(len(one.energy_k)) for one in problem.classes)
    return Allocation(AllocationStatus.INFEASIBLE, math.nan, math.nan, math.inf, nothing, smallest_budget_j(problem))


def totals(problem: AllocationProblem, mix_c: Sequence[Floats]) -> tuple[float, float]:
    """Quality and joules of the mean request."""
    pairs = list(zip(problem.weight_c.tolist(), problem.classes, mix_c, strict=True))
    quality = math.fsum(weight * float(one.quality_k @ mix_k) for weight, one, mix_k in pairs)
    return quality, math.fsum(weight * float(one.energy_k @ mix_k) for weight, one, mix_k in pairs)
