"""One budget of mean joules shared among the tasks of a routed plan, and what one more joule would buy each of them.

Shape letters: q prompts, n active arms, c task classes, k prices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.allocation.problem import AllocationProblem, AllocationStatus, ClassPlans
from optimizer.allocation.rounding import round_to_plans, shadow_prices
from optimizer.selection.problem import Problem
from optimizer.selection.utility import AnyRight, BestOf
from orchestrator.planning.allocating import allocate

Floats = NDArray[np.float64]

# Prices of a joule that a task can follow: enough for steps of a few per cent between its cheapest and its best.
_PRICES = 24


@dataclass(frozen=True)
class TaskShare:
    """What a task gets of the budget.

    Args:
        task: Its name.
        energy_j: Mean joules of its queries.
        quality_fraction: What it gets for them.
        points_per_j: Percentage points that one more joule for each of its queries would buy.
        next: Whether it is the task that would get the next joule.
    """

    task: str
    energy_j: float
    quality_fraction: float
    points_per_j: float
    next: bool


@dataclass(frozen=True)
class Shares:
    """A budget shared among tasks, one price per task.

    Args:
        tasks: Every task's part.
        quality_fraction: Of the mean query.
        gap_fraction: How much more a different choice of prices could reach at most.
        solver: What found the parts.
    """

    tasks: tuple[TaskShare, ...]
    quality_fraction: float
    gap_fraction: float
    solver: str


def share_budget(problem: Problem, active: tuple[int, ...]) -> Shares | None:
    """Share the mean joules of a routed plan among its task classes.

    Args:
        problem: Mode ``routed``, one arm per query.
        active: The plan's arms.

    Returns:
        None where the budget does not cover every task's cheapest price.
    """
    assert problem.routing is not None
    asked = AllocationProblem(class_plans(problem, active), problem.routing.mean_energy_j)
    allocation, solver = allocate(asked)
    rounded = round_to_plans(asked, allocation)
    if allocation.status is AllocationStatus.INFEASIBLE or rounded is None:
        return None
    prices = shadow_prices(asked, allocation)
    shares = tuple(
        TaskShare(one.name, float(one.energy_k[k]), float(one.quality_k[k]), price.points_per_j, price.next)
        for one, k, price in zip(asked.classes, rounded.plan_c, prices, strict=True)
    )
    return Shares(shares, rounded.quality, rounded.gap, solver)


def class_plans(problem: Problem, active: tuple[int, ...]) -> tuple[ClassPlans, ...]:
    """Mean quality and joules of each task at every price of a grid, its first entry being to answer nothing."""
    assert problem.class_q is not None
    worth_qn, joules_qn = _figures(problem, list(active))
    prices = _grid(worth_qn, joules_qn)
    rows = np.arange(len(worth_qn))
    quality_kq, energy_kq = np.zeros((2, len(prices) + 1, len(worth_qn)))
    for k, price in enumerate(prices, start=1):
        score_qn = worth_qn - price * joules_qn
        chosen_q = score_qn.argmax(axis=1)
        runs_q = score_qn[rows, chosen_q] > 0.0
        quality_kq[k] = np.where(runs_q, worth_qn[rows, chosen_q], 0.0)
        energy_kq[k] = np.where(runs_q, joules_qn[rows, chosen_q], 0.0)
    inside = [problem.class_q == c for c in range(len(problem.classes))]
    return tuple(
        ClassPlans(one.name, float(mask_q.sum()), quality_kq[:, mask_q].mean(axis=1), energy_kq[:, mask_q].mean(axis=1))
        for one, mask_q in zip(problem.classes, inside, strict=True)
    )


def _figures(problem: Problem, active: list[int]) -> tuple[Floats, Floats]:
    utility = problem.utility
    assert isinstance(utility, BestOf | AnyRight)
    quality_qn = utility.quality_qn if isinstance(utility, BestOf) else utility.right_qn
    allowed_qn = problem.allowed_qn[:, active]
    return np.where(allowed_qn, quality_qn[:, active], 0.0), problem.run_energy_qn[:, active]


def _grid(worth_qn: Floats, joules_qn: Floats) -> list[float]:
    """From the price at which the dearest answers stop to one at which hardly anything runs, and free of charge."""
    costly = joules_qn > 0.0
    if not costly.any():
        return [0.0]
    rate = worth_qn[costly] / joules_qn[costly]
    rate = rate[rate > 0.0]
    if not rate.size:
        return [0.0]
    low, high = float(np.quantile(rate, 0.001)) / 100.0, float(rate.max())
    return [*np.geomspace(high, low, _PRICES - 1).tolist(), 0.0]
