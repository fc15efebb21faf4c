"""What a bar on joules at a lower bound of quality asks of a policy, and what each policy has there.

Within so many joules of the best single model's, every policy has a mean difference of quality and, paired by prompt,
its standard error. For the lower 95 % bound to be within the margin the true difference must be at least *needed* =
1.96 standard errors − margin, and then it is so in half of all samples; `chance` is how often for the difference that
was measured. `task_seen` chooses per task with the judged prompts' own outcomes in hand: no honest policy that goes by
the task alone does better on these prompts. `oracle` knows the outcome of every prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from optimizer.study.estimates import Estimate, means_by
from optimizer.study.outcome import Outcome
from optimizer.study.record import CURVES, MARGIN, Spent, Study
from optimizer.study.rules import priced
from optimizer.study.table import Table
from tests.bench.harness import Row

Z = 1.96


def reach_rows(name: str, study: Study, ratio: float) -> list[Row]:
    """Of every policy that has a curve, at a ratio of the best single model's joules."""
    rival = study.proven["best_single"]
    budget_j = ratio * rival.energy_j
    points = {policy: _at(study, policy, budget_j) for policy in CURVES if policy != "best_single"}
    points["task_seen"] = _task_seen(study.table, budget_j)
    rows = list[Row]()
    for policy, spent in points.items():
        difference_q = spent.quality_q - rival.quality_q
        rows += _rows(f"{name}.reach.{policy}", difference_q, float(spent.joules_q.mean()) / rival.energy_j, ratio)
    return rows


def _rows(name: str, difference_q: NDArray[np.float64], spent: float, ratio: float) -> Iterator[Row]:
    mean, error = float(difference_q.mean()), float(difference_q.std()) / math.sqrt(len(difference_q))
    needed = Z * error - MARGIN
    sizes: dict[str, object] = {
        "joules_allowed": ratio,
        "joules_spent": spent,
        "standard_error": error,
        "needed_difference": needed,
        "chance_of_the_bar": NormalDist().cdf((mean - needed) / error),
        "prompts_for_half_a_chance": _prompts(mean, error, len(difference_q)),
    }
    yield Row(name, mean, "fraction", sizes)


def _prompts(mean: float, error: float, prompts: int) -> int | None:
    """How many prompts would show this difference in every second sample; None where no number does."""
    if mean <= -MARGIN:
        return None
    return math.ceil(prompts * (Z * error / (mean + MARGIN)) ** 2)


def _at(study: Study, policy: str, budget_j: float) -> Spent:
    """A policy's point on its curve with just these joules, between two of its points."""
    points = sorted((spent for (name, _), spent in study.curve.items() if name == policy), key=_joules)
    above = next((n for n, spent in enumerate(points) if _joules(spent) > budget_j), len(points))
    if above in (0, len(points)):
        return points[0] if above == 0 else points[-1]
    low, high = points[above - 1], points[above]
    share = (budget_j - _joules(low)) / (_joules(high) - _joules(low))
    return Spent(*((1.0 - share) * a + share * b for a, b in zip(low, high, strict=True)))


def _joules(spent: Spent) -> float:
    return float(spent.joules_q.mean())


def _task_seen(table: Table, budget_j: float) -> Spent:
    """Each model's mean in the task on the very prompts that are judged."""
    row_of = {task: row for row, task in enumerate(dict.fromkeys(table.tasks))}
    task_q = np.array([row_of[task] for task in table.tasks])
    seen = [means_by(task_q, value_qm, groups=len(row_of))[task_q] for value_qm in (table.earned_qm, table.joules_qm)]
    rules = priced(*(Estimate(value_qm, value_qm) for value_qm in seen), training=table, judged=table)
    outcome = Outcome.of(rules, rules.spend(budget_j)[0], table)
    return Spent(outcome.quality_q, outcome.joules_q)
