"""What a plan is made from and what planning returns: plain values that cross a process boundary."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from optimizer.deciding.model import TaskModel
from optimizer.evidence.answers import Evidence
from optimizer.evidence.texts import TextEvidence
from optimizer.selection.arms import Arm as PlanArm
from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.types import CertificateRecord, Provenance


@dataclass(frozen=True)
class Snapshot:
    """One task at one moment.

    Args:
        task: Name of the task.
        arms: Routable arms as the solver wants them.
        evidence: Answers on the reference set of every expert that sent them; None where there are none.
        energy_limit_j: Limit on the active set, None for no limit.
        max_active: Most active arms, None for no limit.
        memory_limit_bytes: Per node.
        mean_energy_j: Limit on the mean joules of a query, None for no limit; with one, `energy_limit_j` is not used.
        resting: Nodes that sleep, or are to: the plan must not need them.
    """

    task: str
    arms: tuple[PlanArm, ...]
    evidence: Evidence | TextEvidence | None
    energy_limit_j: float | None
    max_active: int | None
    memory_limit_bytes: dict[str, int]
    mean_energy_j: float | None = None
    resting: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Planned:
    """A certified plan.

    Args:
        model: What was learned; None where there is no evidence.
        active: Names of the active arms.
        certificate: How good the set is proven to be.
        needed: Nodes of the certified set; arms on nodes that rest are active beside it where they fit.
    """

    model: TaskModel | None
    active: frozenset[str]
    certificate: CertificateRecord
    needed: frozenset[str]


def plan_arms(states: list[ArmState], board: ArmBoard) -> tuple[PlanArm, ...]:
    """Arms for the solver, by what they have shown to cost; by what they announced until then.

    Arms whose joules nobody knows count as the dearest of those that are known.
    """
    unknown = Provenance.UNMEASURED
    known = [board.energy_j_n[s.index] for s in states if s.arm.energy.provenance is not unknown]
    dearest_j = max(known, default=0.0)
    return tuple(
        PlanArm(
            name=state.arm.name,
            expert=state.arm.expert,
            node=state.arm.node,
            energy_j=float(dearest_j if state.arm.energy.provenance is unknown else board.energy_j_n[state.index]),
            latency_ms=state.arm.p95_ms,
            memory_bytes=state.arm.memory_bytes,
        )
        for state in states
    )


def moved(arms: tuple[PlanArm, ...], planned: tuple[PlanArm, ...], fraction: float) -> bool:
    """Whether these are other arms than those that were planned for, or some joules differ by more than a fraction.

    Milliseconds do not count: they follow the load from one second to the next, and no limit of a plan is about them.
    """
    if len(arms) != len(planned):
        return True
    for now, then in zip(arms, planned, strict=True):
        if (now.name, now.memory_bytes) != (then.name, then.memory_bytes):
            return True
        if abs(now.energy_j - then.energy_j) > fraction * max(abs(then.energy_j), 1e-300):
            return True
    return False


def same_evidence(mine: Evidence | TextEvidence | None, theirs: Evidence | TextEvidence | None) -> bool:
    """Whether learning again could change anything."""
    if mine is theirs:
        return True
    if mine is None or theirs is None or type(mine) is not type(theirs):
        return False
    return all(_equal(getattr(mine, field.name), getattr(theirs, field.name)) for field in fields(mine))


def _equal(mine: object, theirs: object) -> bool:
    if isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray):
        return np.array_equal(mine, theirs)
    return mine == theirs
