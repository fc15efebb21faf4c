"""From the relaxation to one certified plan per class, and to sentences for the operator.

Shape letters: c classes, k plans of a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.allocation.problem import Allocation, AllocationProblem, AllocationStatus, totals
from optimizer.allocation.slopes import hull

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Rounded:
    """One plan per class, within the budget.

    Args:
        plan_c: Index of the plan that each class follows.
        quality: Of the mean request.
        energy_j: Of the mean request.
        gap: The relaxation's quality minus this: no choice of one plan per class is better by more.
    """

    plan_c: tuple[int, ...]
    quality: float
    energy_j: float
    gap: float


@dataclass(frozen=True)
class ShadowPrice:
    """What a class would make of one more joule for each of its requests.

    Args:
        task_class: Name of the class.
        points_per_j: Percentage points of quality; 0 where it has its best plan.
        next: Whether it is the class that would get the next joule of the budget.
    """

    task_class: str
    points_per_j: float
    next: bool


def round_to_plans(problem: AllocationProblem, allocation: Allocation) -> Rounded | None:
    """Round every class down to the cheaper of the plans it mixes, then spend what is left where it buys most.

    Returns:
        None for an infeasible problem.
    """
    if allocation.status is AllocationStatus.INFEASIBLE:
        return None
    plan_c = []
    for plans, mix_k in zip(problem.classes, allocation.mix_c, strict=True):
        used = np.flatnonzero(mix_k > 1e-9)
        plan_c.append(int(used[plans.energy_k[used].argmin()]))
    energy_j = _figures(problem, plan_c)[1]
    while (better := _best_upgrade(problem, plan_c, problem.budget_j - energy_j)) is not None:
        c, k = better
        plan_c[c] = k
        energy_j = _figures(problem, plan_c)[1]
    quality, energy_j = _figures(problem, plan_c)
    return Rounded(tuple(plan_c), quality, energy_j, max(0.0, allocation.quality - quality))


def _figures(problem: AllocationProblem, plan_c: list[int]) -> tuple[float, float]:
    mix_c = [np.eye(len(plans.energy_k))[k] for plans, k in zip(problem.classes, plan_c, strict=True)]
    return totals(problem, mix_c)


def _best_upgrade(problem: AllocationProblem, plan_c: list[int], left_j: float) -> tuple[int, int] | None:
    """The change of one class's plan that gains most quality within what is left."""
    best_gain, best = _ROUNDING, None
    for c, (weight, plans) in enumerate(zip(problem.weight_c, problem.classes, strict=True)):
        gain_k = weight * (plans.quality_k - plans.quality_k[plan_c[c]])
        cost_k = weight * (plans.energy_k - plans.energy_k[plan_c[c]])
        gain_k = np.where(cost_k <= left_j, gain_k, -np.inf)
        k = int(gain_k.argmax())
        if gain_k[k] > best_gain:
            best_gain, best = float(gain_k[k]), (c, k)
    return best


def shadow_prices(problem: AllocationProblem, allocation: Allocation) -> tuple[ShadowPrice, ...]:
    """Per class: the slope of its hull to the right of what it spends."""
    if allocation.status is AllocationStatus.INFEASIBLE:
        return ()
    slopes = []
    for plans, mix_k in zip(problem.classes, allocation.mix_c, strict=True):
        on = hull(plans)
        spent_j = float(plans.energy_k @ mix_k) * (1.0 + 1e-9)
        above = next((i for i, k in enumerate(on) if plans.energy_k[k] > spent_j), None)
        if above is None or above == 0:
            slopes.append(0.0)
            continue
        low, high = on[above - 1], on[above]
        rise = float(plans.quality_k[high] - plans.quality_k[low])
        slopes.append(rise / float(plans.energy_k[high] - plans.energy_k[low]))
    steepest = max(
        (slope for slope, plans in zip(slopes, problem.classes, strict=True) if plans.share > 0.0), default=0.0
    )
    return tuple(
        ShadowPrice(plans.name, 100.0 * slope, plans.share > 0.0 and slope == steepest > 0.0)
        for plans, slope in zip(problem.classes, slopes, strict=True)
    )


def sentence(price: ShadowPrice) -> str:
    """For the operator."""
    if price.points_per_j <= 0.0:
        return f"class {price.task_class} has its best plan: more joules buy nothing"
    return f"+1 J per request buys {price.points_per_j:+.3g} points for class {price.task_class}"
