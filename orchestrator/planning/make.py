"""Make and certify a plan for one task: learn from evidence, choose the active set, check the proof.

Runs in a process of its own, so that requests never wait for planning.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from dataclasses import replace

import numpy as np

from optimizer.deciding.model import TaskModel
from optimizer.evidence.answers import Evidence
from optimizer.evidence.texts import TextEvidence
from optimizer.heads.texts import TextHeads
from optimizer.selection.arms import Limits, Routing
from optimizer.selection.certify import certify
from optimizer.selection.exact import Search
from optimizer.selection.filling import filled
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.solve import solve
from optimizer.selection.utility import BestOf
from orchestrator.planning.learning import Learning
from orchestrator.planning.snapshot import Planned, Snapshot
from orchestrator.types import CertificateRecord

# Seconds at most, on the slowest instances that the benchmark knows; the gap then says what is missing.
NODE_LIMIT = 20_000
_LEARNING = Learning()


class PlanRejected(Exception):
    """No certified plan exists for this snapshot; the text says why."""


def settle_in() -> None:
    """Give way to the processes that answer requests, and end with the gateway however it ends."""
    os.nice(10)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A gateway that was killed cannot tell this process, which would wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def learned(snapshot: Snapshot) -> TaskModel | None:
    """What the task's evidence teaches; what is the same as last time is not learned again."""
    return _LEARNING.model(snapshot)


def make_plan(snapshot: Snapshot) -> Planned:
    """A certified plan.

    Raises:
        PlanRejected: Nothing may be active, or the certificate does not hold.
    """
    model = learned(snapshot)
    whole = plan_problem(snapshot, model)
    kept = [n for n, arm in enumerate(snapshot.arms) if arm.node not in snapshot.resting]
    if not kept:
        raise PlanRejected("all nodes of the task are to sleep")
    problem = whole.take(kept) if snapshot.resting else whole
    solution = solve(problem, Search(node_limit=NODE_LIMIT, prove=True))
    if solution.status is Status.INFEASIBLE:
        raise PlanRejected("no arm fits the plan's limits")
    verdict = certify(problem, solution)
    if not verdict.ok:
        raise PlanRejected("; ".join(verdict.reasons))
    certified = tuple(kept[n] for n in solution.active)
    # What rests is still there for a request that wakes it, as far as it fits in.
    active = filled(whole, replace(solution, active=certified)).active if snapshot.resting else certified
    needed = frozenset(snapshot.arms[n].node for n in certified)
    return Planned(model, frozenset(snapshot.arms[n].name for n in active), _certificate(problem, solution), needed)


def plan_problem(snapshot: Snapshot, model: TaskModel | None) -> Problem:
    """The selection problem of a snapshot; ``routed`` where the mean energy is limited, otherwise ``worst_case``."""
    mean_j = snapshot.mean_energy_j
    return Problem(
        arms=snapshot.arms,
        utility=BestOf(_quality(snapshot, model)),
        weights_q=_weights(snapshot, model),
        limits=Limits(
            energy_j=snapshot.energy_limit_j if mean_j is None else None,
            memory_bytes=snapshot.memory_limit_bytes,
            active=snapshot.max_active,
        ),
        routing=None if mean_j is None else Routing(mean_j),
    )


def _certificate(problem: Problem, solution: Solution) -> CertificateRecord:
    return CertificateRecord(
        status=solution.status.value,
        gap=solution.gap,
        explored=solution.explored,
        mode=problem.mode.value,
        quality_fraction=solution.objective,
        bound_fraction=solution.bound,
        price_per_j=solution.price_per_j,
    )


def _quality(snapshot: Snapshot, model: TaskModel | None) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Estimated quality of each arm on each reference query; the announced 0-knowledge column without evidence."""
    arms = snapshot.arms
    if model is None or snapshot.evidence is None:
        return np.ones((1, len(arms)))
    quality_qe = _estimates(snapshot.evidence, model)
    column = {expert: e for e, expert in enumerate(model.experts)}
    blank_q = np.zeros(len(quality_qe))
    return np.stack([quality_qe[:, column[arm.expert]] if arm.expert in column else blank_q for arm in arms], axis=1)


def _estimates(
    evidence: Evidence | TextEvidence, model: TaskModel
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Quality of each expert on each reference query, as its head says."""
    heads = model.heads
    if isinstance(evidence, TextEvidence) and isinstance(heads, TextHeads):
        return heads.predict_many(evidence.prompts)
    if isinstance(evidence, TextEvidence):
        raise PlanRejected("these heads cannot read texts")
    return np.stack([heads.predict(x_f) for x_f in evidence.features_qf])


def _weights(snapshot: Snapshot, model: TaskModel | None) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    queries = 1 if model is None or snapshot.evidence is None else snapshot.evidence.queries
    return np.full(queries, 1.0 / queries)
