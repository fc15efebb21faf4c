"""From a table of one's own traffic and an arms file to a selection problem, and from its solution to what people read.

Shape letters: q prompts, m models, n arms (model on node), c task classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optimizer.selection.arms import Arm as PlanArm
from optimizer.selection.arms import Limits, Routing, TaskClass
from optimizer.selection.pricing import best_policy
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution
from optimizer.selection.utility import AnyRight, BestOf
from orchestrator.study.arms import Arm
from orchestrator.study.cascades import Ground, Wide
from orchestrator.study.errors import StudyError

Floats = NDArray[np.float64]

# Latency of an arm for a class: this quantile of its prompts.
LATENCY_QUANTILE = 0.95


@dataclass(frozen=True)
class Wish:
    """What a plan must respect.

    Args:
        max_energy_j: Joules if every active arm ran for one query (mode ``worst_case``).
        mean_energy_j: Joules of a query on the average (mode ``routed``).
        latency_ms: Limit per task; "" is the limit of all tasks that are not named.
        memory_bytes: Limit per node.
        max_active: Most active arms.
        fanout: Most arms that answer one query together, in mode ``routed`` with `any_right`.
        any_right: Worth is that one of several is right, instead of what the best is worth.
    """

    max_energy_j: float | None = None
    mean_energy_j: float | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: Mapping[str, float] = field(default_factory=dict)
    max_active: int | None = None
    fanout: int = 1
    any_right: bool = False


@dataclass(frozen=True)
class ActiveArm:
    """One arm of a plan: its mean joules, its slowest class, and the share of queries for which it is the best."""

    name: str
    model: str
    node: str
    energy_j: float
    latency_ms: float
    memory_bytes: float
    share_fraction: float


@dataclass(frozen=True)
class ClassRecord:
    """One task under a plan."""

    task: str
    weight_fraction: float
    quality_fraction: float
    latency_limit_ms: float | None


def plan_problem(wide: Wide, tokens_qm: Floats, quality_qm: Floats, arms: list[Arm], wish: Wish) -> Problem:
    """The selection problem of a table.

    Args:
        wide: Prompts, tasks and models, and cascades of these where there are any.
        tokens_qm: Output tokens of each model on each prompt.
        quality_qm: Estimated quality of models and cascades, from fits that had not seen the prompt.
        arms: Every node's; those of models that the table does not have are left out.
        wish: Limits.

    Raises:
        StudyError: A limit names a task or a node that there is not.
    """
    table = wide.table
    kept = [arm for arm in arms if arm.model in table.models]
    column = [table.models.index(arm.model) for arm in kept]
    tasks = sorted(set(table.tasks))
    _check_names(wish, tasks, kept)
    tokens_qn = tokens_qm[:, column]
    joules_qn = np.array([a.j_base for a in kept]) + np.array([a.j_per_output_token for a in kept]) * tokens_qn
    ms_qn = np.array([a.ms_base for a in kept]) + np.array([a.ms_per_output_token for a in kept]) * tokens_qn
    class_q = np.array([tasks.index(task) for task in table.tasks], dtype=np.int64)
    alone = [_plan_arm(arm, joules_qn[:, n], ms_qn[:, n]) for n, arm in enumerate(kept)]
    rows = [class_q == c for c in range(len(tasks))]
    latency_cn = np.stack([np.quantile(ms_qn[inside], LATENCY_QUANTILE, axis=0) for inside in rows])
    routed = wish.mean_energy_j is not None
    placed = [*Ground(alone, joules_qn, latency_cn, routed).placed(wide)]
    quality_qn = quality_qm[:, [*column, *(one.column for one in placed)]]
    joules_qn = np.column_stack([joules_qn, *(one.joules_q for one in placed)])
    return Problem(
        arms=(*alone, *(one.arm for one in placed)),
        utility=AnyRight(quality_qn) if wish.any_right else BestOf(quality_qn),
        weights_q=np.full(len(table.texts), 1.0 / len(table.texts)),
        limits=Limits(wish.max_energy_j, dict(wish.memory_bytes), None, wish.max_active),
        routing=Routing(wish.mean_energy_j, wish.fanout) if wish.mean_energy_j is not None else None,
        classes=tuple(TaskClass(task, wish.latency_ms.get(task, wish.latency_ms.get(""))) for task in tasks),
        class_q=class_q,
        latency_cn=np.column_stack([latency_cn, *(one.latency_c for one in placed)]),
        energy_qn=joules_qn if routed else None,
    )


def _plan_arm(arm: Arm, joules_q: Floats, ms_q: Floats) -> PlanArm:
    latency_ms = float(np.quantile(ms_q, LATENCY_QUANTILE))
    name = f"{arm.model}@{arm.node}" if arm.node else arm.model
    return PlanArm(name, arm.model, arm.node, float(joules_q.mean()), latency_ms, int(arm.memory_bytes))


def _check_names(wish: Wish, tasks: list[str], arms: list[Arm]) -> None:
    nodes = {arm.node for arm in arms}
    for kind, named, known in (("task", wish.latency_ms, {*tasks, ""}), ("node", wish.memory_bytes, nodes)):
        unknown = sorted(set(named) - known)
        if unknown:
            raise StudyError(f"there is no {kind} {unknown[0]!r}", f"known: {', '.join(sorted(known - {''}))}")


def choice_q(problem: Problem, active: tuple[int, ...]) -> NDArray[np.int64]:
    """Which active arm the plan prefers for each query, by index in the problem; -1 where none may or should run."""
    quality_qn = problem.utility.quality_qn if isinstance(problem.utility, BestOf) else None
    if quality_qn is None:
        assert isinstance(problem.utility, AnyRight)
        quality_qn = problem.utility.right_qn
    arms = list(active)
    score_qn = np.where(problem.allowed_qn[:, arms], quality_qn[:, arms], 0.0)
    if problem.routing is not None:
        price = best_policy(problem.options(active), problem.routing.mean_energy_j).price_per_j
        score_qn = score_qn - price * problem.run_energy_qn[:, arms]
    return np.where(score_qn.max(axis=1) > 0.0, np.array(arms)[score_qn.argmax(axis=1)], -1)


def active_arms(problem: Problem, solution: Solution) -> list[ActiveArm]:
    """The plan's arms, those that answer most first."""
    chosen_q = choice_q(problem, solution.active)
    latency_cn = problem.latency_cn
    assert latency_cn is not None
    records = [
        ActiveArm(
            name=problem.arms[n].name,
            model=problem.arms[n].expert,
            node=problem.arms[n].node,
            energy_j=problem.arms[n].energy_j,
            latency_ms=float(latency_cn[:, n].max()),
            memory_bytes=float(problem.arms[n].memory_bytes),
            share_fraction=float((chosen_q == n).mean()),
        )
        for n in solution.active
    ]
    return sorted(records, key=lambda record: (-record.share_fraction, record.name))


def class_records(problem: Problem, solution: Solution) -> list[ClassRecord]:
    """Every task's share of the queries and what the plan's preferred arm is expected to be worth there."""
    if isinstance(problem.utility, BestOf) and problem.routing is not None:
        chosen_q = choice_q(problem, solution.active)
        quality_qn = problem.utility.quality_qn
        worth_q = np.where(chosen_q >= 0, quality_qn[np.arange(len(chosen_q)), chosen_q], 0.0)
    else:
        worth_q = problem.utility.worth_q(solution.active, problem.allowed_qn)
    assert problem.class_q is not None
    rows = [problem.class_q == c for c in range(len(problem.classes))]
    return [
        ClassRecord(one.name, float(inside.mean()), float(worth_q[inside].mean()), one.latency_limit_ms)
        for one, inside in zip(problem.classes, rows, strict=True)
    ]
