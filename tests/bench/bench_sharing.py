"""What sharing one budget among tasks earns, on public models' measured answers to real prompts.

Each task's plans are its models: their mean quality and modelled joules on training prompts. Three ways to divide the
same joules per request among the tasks, each judged on prompts of the other fold, five folds: the joint allocation, the
same joules for every task, and the same fraction of the way from each task's cheapest to its dearest useful plan.
Within its part a task mixes two plans, as pacing does. Budgets lie between the cheapest and the dearest that is useful.

Needs the evaluation data; the bars were set before the first run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from optimizer.allocation.problem import AllocationProblem, ClassPlans, smallest_budget_j
from optimizer.allocation.slopes import allocate_by_slopes, hull
from optimizer.study.table import Table
from tests.bench.bench_routing_quality import load
from tests.bench.harness import Bar, Row, evaluation_data, main
from tests.bench.routing_arms import TABLES

Floats = NDArray[np.float64]
Mixes = Sequence[Floats]

FOLDS = 5
WHERE = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
BARS = (
    # Points of quality, joint minus the better of the other two, on prompts not seen.
    Bar("gain_points_mean", 0.0, ">="),
    Bar("gain_points_worst", -0.3, ">="),
)


def class_plans(table: Table, tasks: Sequence[str]) -> tuple[ClassPlans, ...]:
    """Every task's models, by their means over these prompts."""
    found = []
    for task in tasks:
        rows = np.flatnonzero(np.array(table.tasks) == task)
        known_qm, choice_qm = table.known_qm[rows], table.choice_qm[rows]
        earned = np.where(known_qm, table.quality_qm[rows], 0.0).sum(axis=0) / np.maximum(known_qm.sum(axis=0), 1)
        offered = np.flatnonzero(choice_qm.any(axis=0) & known_qm.any(axis=0))
        quality_m = np.full(len(table.models), -1.0)
        quality_m[offered] = earned[offered]
        joules_m = table.joules_qm[rows].mean(axis=0)
        # A model that is not offered stays in its place, but nobody would take it.
        joules_m = np.where(quality_m < 0.0, joules_m.max() * 2.0, joules_m)
        found.append(ClassPlans(task, float(len(rows)), quality_m, joules_m))
    return tuple(found)


def jointly(plans: tuple[ClassPlans, ...], budget_j: float) -> Mixes:
    """The joint allocation."""
    return allocate_by_slopes(AllocationProblem(plans, budget_j)).mix_c


def alone(one: ClassPlans, part_j: float) -> Floats:
    """A task with a part of its own; its cheapest plan where that does not do."""
    problem = AllocationProblem((one,), max(part_j, float(one.energy_k.min())))
    return allocate_by_slopes(problem).mix_c[0]


def equally(plans: tuple[ClassPlans, ...], budget_j: float) -> Mixes:
    """The same joules for every task."""
    return [alone(one, budget_j) for one in plans]


def evenly(plans: tuple[ClassPlans, ...], budget_j: float) -> Mixes:
    """The same fraction of the way from each task's cheapest plan to its best."""
    weight_c = AllocationProblem(plans, budget_j).weight_c
    least_c = np.array([one.energy_k.min() for one in plans])
    most_c = np.array([one.energy_k[hull(one)[-1]] for one in plans])
    way = (budget_j - weight_c @ least_c) / max(1e-300, float(weight_c @ (most_c - least_c)))
    return [
        alone(one, float(low + min(1.0, way) * (high - low)))
        for one, low, high in zip(plans, least_c, most_c, strict=True)
    ]


WAYS: dict[str, Callable[[tuple[ClassPlans, ...], float], Mixes]] = {
    "joint": jointly,
    "equal": equally,
    "even": evenly,
}


def judged(plans: tuple[ClassPlans, ...], mixes: Mixes) -> tuple[float, float]:
    """Quality and joules of the mean request of other prompts."""
    weight_c = AllocationProblem(plans, 1.0).weight_c
    quality = sum(w * float(one.quality_k @ mix_k) for w, one, mix_k in zip(weight_c, plans, mixes, strict=True))
    joules = sum(w * float(one.energy_k @ mix_k) for w, one, mix_k in zip(weight_c, plans, mixes, strict=True))
    return float(quality), float(joules)


def compared(table: Table) -> dict[tuple[str, float], tuple[float, float]]:
    """Mean quality and joules over the folds, by way and place of the budget."""
    fold_q = np.random.default_rng(0).permutation(np.arange(len(table.texts)) % FOLDS)
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for fold in range(FOLDS):
        inside, outside = table.rows(np.flatnonzero(fold_q == fold)), table.rows(np.flatnonzero(fold_q != fold))
        tasks = sorted(set(inside.tasks) & set(outside.tasks))
        trained, other = class_plans(outside, tasks), class_plans(inside, tasks)
        problem = AllocationProblem(trained, 0.0)
        least_j = smallest_budget_j(problem)
        most_j = float(problem.weight_c @ [one.energy_k[hull(one)[-1]] for one in trained])
        for where in WHERE:
            budget_j = least_j + where * (most_j - least_j)
            for name, way in WAYS.items():
                found.setdefault((name, where), []).append(judged(other, way(trained, budget_j)))
    means = {key: np.array(pairs).mean(axis=0).tolist() for key, pairs in found.items()}
    return {key: (quality, joules) for key, (quality, joules) in means.items()}


def run() -> list[Row]:
    """Every table at every budget."""
    data, rows, gains = evaluation_data(), list[Row](), list[float]()
    for name in TABLES:
        table = load(data, name)
        if len(set(table.tasks)) < 2:
            continue
        figures = compared(table)
        sizes: dict[str, object] = {"prompts": len(table.texts), "tasks": len(set(table.tasks)), "folds": FOLDS}
        for where in WHERE:
            quality, joules = figures["joint", where]
            for rival in ("equal", "even"):
                points = 100.0 * (quality - figures[rival, where][0])
                spent = joules / figures[rival, where][1]
                row = Row(f"{name}.at_{where:g}.over_{rival}", points, "points", {**sizes, "joules_ratio": spent})
                rows.append(row)
            gains.append(100.0 * (quality - max(figures["equal", where][0], figures["even", where][0])))
    total: dict[str, object] = {"budgets": len(WHERE), "cases": len(gains)}
    rows.append(Row("gain_points_mean", statistics.fmean(gains), "points", total))
    rows.append(Row("gain_points_worst", min(gains), "points", total))
    return rows


if __name__ == "__main__":
    main(stem="sharing", run=run, bars=BARS)
