"""Routes run over evidence: exactly what the gateway does, for a whole reference set at once.

Shape letters: q queries, e experts, r routes, s stages, c classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.evidence.answers import Evidence
from optimizer.routes.fusion import confident, fuse
from optimizer.routes.route import Route

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Costs:
    """What one run of each expert costs on the arm that it would run on.

    Args:
        energy_e: Joules.
        latency_e: Milliseconds.

    Raises:
        EvidenceError: Values that are negative or not finite, or of different shape.
    """

    energy_e: Floats
    latency_e: Floats

    def __post_init__(self) -> None:
        for name in ("energy_e", "latency_e"):
            values_e = np.asarray(getattr(self, name), dtype=np.float64)
            if values_e.ndim != 1 or not np.isfinite(values_e).all() or (values_e < 0).any():
                raise EvidenceError(f"{name} must be finite, at least 0 and have one entry per expert.")
            object.__setattr__(self, name, values_e)
        if self.energy_e.shape != self.latency_e.shape:
            raise EvidenceError("energy_e and latency_e must have the same shape.")


@dataclass(frozen=True)
class Outcome:
    """What one route, or one policy, did to each query.

    Args:
        correct_q: 1 where the answer was right; a policy that draws routes has the probability of it.
        energy_q: Joules spent.
        latency_q: Milliseconds of the stages that ran, one after the other.
    """

    correct_q: Floats
    energy_q: Floats
    latency_q: Floats

    @cached_property
    def quality(self) -> float:
        """Share of right answers."""
        return float(self.correct_q.mean())

    @cached_property
    def energy_j(self) -> float:
        """Mean joules of one query."""
        return float(self.energy_q.mean())


@dataclass(frozen=True)
class Replay:
    """A route's outcome and how far each query went.

    Args:
        outcome: Right or wrong, joules, milliseconds.
        stages_q: Number of stages that ran.
    """

    outcome: Outcome
    stages_q: NDArray[np.int64]


def replay(route: Route, evidence: Evidence, costs: Costs) -> Replay:
    """Run a route over every query of the evidence.

    Raises:
        EvidenceError: The route has an expert without evidence.
    """
    row_of = {expert: row for row, expert in enumerate(evidence.experts)}
    if not set(route.experts) <= set(row_of):
        raise EvidenceError(f"There is no evidence for some expert of the route {route.name!r}.")
    label_q = np.empty(evidence.queries, dtype=np.int64)
    energy_q, latency_q = np.zeros(evidence.queries), np.zeros(evidence.queries)
    stages_q = np.zeros(evidence.queries, dtype=np.int64)
    running_q = np.ones(evidence.queries, dtype=bool)
    answered: list[str] = []
    for stage, experts in enumerate(route.stages):
        rows = [row_of[expert] for expert in experts]
        answered.extend(experts)
        energy_q[running_q] += costs.energy_e[rows].sum()
        latency_q[running_q] += costs.latency_e[rows].max()
        stages_q[running_q] += 1
        fused = fuse(route, [(expert, evidence.outputs_eqc[row_of[expert]]) for expert in answered])
        label_q[running_q] = fused.label[running_q]
        running_q &= ~confident_q(route, stage, fused.confidence)
    correct_q = (label_q == evidence.labels_q).astype(np.float64)
    return Replay(Outcome(correct_q, energy_q, latency_q), stages_q)


def confident_q(route: Route, stage: int, confidence_q: Floats) -> Bools:
    """`confident` for many queries, (q,)."""
    return np.array([confident(route, stage, confidence) for confidence in confidence_q.tolist()])


@dataclass(frozen=True)
class ReplayTable:
    """Replays of several routes side by side.

    Args:
        correct_qr: 1 where the route's answer was right.
        energy_qr: Joules.
        latency_qr: Milliseconds.
        reached_qrs: Whether each stage ran.
    """

    correct_qr: Floats
    energy_qr: Floats
    latency_qr: Floats
    reached_qrs: Bools

    @classmethod
    def of(cls, routes: Sequence[Route], evidence: Evidence, costs: Costs) -> ReplayTable:
        """Replay every route."""
        replays = [replay(route, evidence, costs) for route in routes]
        stages = np.arange(max(len(route.stages) for route in routes))
        return cls(
            np.stack([r.outcome.correct_q for r in replays], axis=1),
            np.stack([r.outcome.energy_q for r in replays], axis=1),
            np.stack([r.outcome.latency_q for r in replays], axis=1),
            np.stack([r.stages_q[:, None] > stages for r in replays], axis=1),
        )

    def take(self, rows_q: Bools) -> ReplayTable:
        """The table on some of the queries."""
        return ReplayTable(
            self.correct_qr[rows_q], self.energy_qr[rows_q], self.latency_qr[rows_q], self.reached_qrs[rows_q]
        )

    def pick(self, index_q: NDArray[np.int64]) -> Outcome:
        """The outcome of a policy that gives each query its own route."""
        rows = np.arange(len(index_q))
        return Outcome(self.correct_qr[rows, index_q], self.energy_qr[rows, index_q], self.latency_qr[rows, index_q])
