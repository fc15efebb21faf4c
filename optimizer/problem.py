"""The planning problem: which arms may be active, so that the best of them answers well within hard limits.

Mode ``worst_case`` of arXiv 2501.09410 (MoE²): every active arm may run for one query, so the energies of the active
set add up against one limit; latency is a filter, because the slowest active arm decides; memory adds up per node.
The utility is best-of-S, E_q[max over i in S of quality_qn[q, i]], a monotone submodular set function.

Shape letters: q reference queries, n arms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import ProblemError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arm:
    """One variant of one expert on one node.

    Args:
        name: Unique in its problem, ``expert:variant@node``.
        expert: The expert that the arm is a variant of.
        node: Where it runs; arms of one node share its memory.
        energy_j: Joules of one run.
        latency_ms: Milliseconds of one run, at the quantile that the limit is meant for.
        memory_bytes: Resident bytes while the arm is active.
    """

    name: str
    expert: str
    node: str
    energy_j: float
    latency_ms: float
    memory_bytes: int = 0


@dataclass(frozen=True)
class Problem:
    """Maximise Σ_q weights_q · max_{i∈S} quality_qn[q, i] over the non-empty sets S that respect every limit.

    Args:
        arms: What may be active.
        quality_qn: Quality of each arm's answer to each reference query, at least 0.
        weights_q: Weight of each query, at least 0; all 1/q gives the mean.
        energy_limit_j: Limit on the sum of the active arms' energies, `None` for no limit.
        latency_limit_ms: Limit on each active arm's latency, `None` for no limit.
        memory_limit_bytes: Limit per node; a node that is absent has none.
        max_active: Most arms that may be active, `None` for no limit.

    Raises:
        ProblemError: Shapes that do not fit together, values that are negative or not finite, repeated names.
    """

    arms: tuple[Arm, ...]
    quality_qn: Floats
    weights_q: Floats
    energy_limit_j: float | None = None
    latency_limit_ms: float | None = None
    memory_limit_bytes: Mapping[str, int] = field(default_factory=dict)
    max_active: int | None = None

    def __post_init__(self) -> None:
        quality_qn = np.asarray(self.quality_qn, dtype=np.float64)
        _check_arms(self.arms)
        _check_matrix(quality_qn, len(self.arms))
        weights_q = np.asarray(self.weights_q, dtype=np.float64)
        _check_weights(weights_q, len(quality_qn))
        _check_limits(self)
        object.__setattr__(self, "quality_qn", quality_qn)
        object.__setattr__(self, "weights_q", weights_q)

    @cached_property
    def energy_n(self) -> Floats:
        """Joules of each arm."""
        return np.array([arm.energy_j for arm in self.arms])

    def eligible(self) -> tuple[int, ...]:
        """Arms that could be active all by themselves, by index."""
        return tuple(i for i in range(len(self.arms)) if self.fits((i,)))

    def fitting(self, active: tuple[int, ...], candidates: Sequence[int]) -> list[int]:
        """Candidates that the set, which fits itself, could take next; each by itself within its latency limit."""
        if self.max_active is not None and len(active) >= self.max_active:
            return []
        taken = list(candidates)
        if self.energy_limit_j is not None:
            total_k = self.energy_n[list(active)].sum() + self.energy_n[taken]
            taken = [taken[k] for k in np.flatnonzero(_fits(total_k, self.energy_limit_j))]
        if self.memory_limit_bytes:
            taken = [n for n in taken if self._memory_fits((*active, n))]
        return taken

    def fits(self, active: tuple[int, ...]) -> bool:
        """Whether the set respects every limit. The empty set does."""
        arms = [self.arms[i] for i in active]
        return bool(
            (self.max_active is None or len(arms) <= self.max_active)
            and (self.energy_limit_j is None or _fits(sum(a.energy_j for a in arms), self.energy_limit_j))
            and all(self.latency_limit_ms is None or a.latency_ms <= self.latency_limit_ms for a in arms)
            and self._memory_fits(active)
        )

    def _memory_fits(self, active: tuple[int, ...]) -> bool:
        arms = [self.arms[i] for i in active]
        return all(
            sum(arm.memory_bytes for arm in arms if arm.node == node) <= limit_bytes
            for node, limit_bytes in self.memory_limit_bytes.items()
        )

    def value(self, active: tuple[int, ...]) -> float:
        """The objective of a set: 0 for the empty one."""
        if not active:
            return 0.0
        return float(self.weights_q @ self.quality_qn[:, list(active)].max(axis=1))


# Sums of floats depend on their order; a limit that equals a sum must hold in any order.
_ROUNDING = 1e-12


def _fits(total: Any, limit: float) -> Any:
    return total <= limit * (1.0 + _ROUNDING)


def _check_arms(arms: tuple[Arm, ...]) -> None:
    if len({arm.name for arm in arms}) != len(arms):
        raise ProblemError("Two arms of one problem have the same name.")
    for arm in arms:
        for quantity in ("energy_j", "latency_ms", "memory_bytes"):
            if not _sound(getattr(arm, quantity)):
                raise ProblemError(f"Arm {arm.name!r}: {quantity} must be finite and at least 0.")


def _check_matrix(quality_qn: Floats, arms: int) -> None:
    if quality_qn.ndim != 2 or quality_qn.shape[1] != arms or len(quality_qn) == 0:
        raise ProblemError(
            f"quality_qn must have shape (queries >= 1, {arms}), one column per arm, not {quality_qn.shape}."
        )
    if not np.isfinite(quality_qn).all() or (quality_qn < 0).any():
        raise ProblemError("quality_qn must be finite and at least 0.")


def _check_weights(weights_q: Floats, queries: int) -> None:
    if weights_q.shape != (queries,):
        raise ProblemError(f"weights_q must have shape ({queries},), not {weights_q.shape}.")
    if not np.isfinite(weights_q).all() or (weights_q < 0).any():
        raise ProblemError("weights_q must be finite and at least 0.")


def _check_limits(problem: Problem) -> None:
    for name in ("energy_limit_j", "latency_limit_ms", "max_active"):
        limit = getattr(problem, name)
        if limit is not None and not _sound(limit):
            raise ProblemError(f"{name} must be finite and at least 0, or None for no limit.")
    for node, limit_bytes in problem.memory_limit_bytes.items():
        if not _sound(limit_bytes):
            raise ProblemError(f"memory_limit_bytes[{node!r}] must be finite and at least 0.")


def _sound(value: float) -> bool:
    return math.isfinite(value) and value >= 0
