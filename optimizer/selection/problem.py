"""The planning problem: which arms may be active, so that queries are answered best within hard limits.

Two modes, never mixed up (arXiv 2501.09410 has the first):

**worst_case.** Every active arm may run for one query, so the energies of the active set S add up against one limit:
maximise Σ_q w_q · worth(S, q) subject to Σ_{i∈S} e_i ≤ E, memory per node, standby watts, number of arms.

**routed.** S pays only set costs (memory, standby watts, number). A policy runs at most ``fanout`` of its arms per
query, or none, and the *mean* energy over the queries is limited: maximise the best policy's Σ_q w_q · worth(S_q, q).
For a fixed S that is a linear program with one price, so the value of S is monotone in S.

Latency is a filter per task class: an arm that is too slow for a class is worth nothing to its queries.

Shape letters: q queries, n arms, c task classes, k set costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import ProblemError
from optimizer.selection.arms import Arm, Limits, Routing, TaskClass, check_arms, check_limits, sound
from optimizer.selection.options import Options, options_of
from optimizer.selection.pricing import best_policy
from optimizer.selection.utility import BestOf, Bools, Floats, Utility

Ints = NDArray[np.int64]

# Sums of floats depend on their order; a limit that equals a sum must hold in any order.
ROUNDING = 1e-12


class Mode(StrEnum):
    """What the energy limit is about."""

    WORST_CASE = "worst_case"
    ROUTED = "routed"


@dataclass(frozen=True)
class SetCosts:
    """Everything that adds up over the active arms, as knapsacks.

    Args:
        cost_kn: What each arm takes of each.
        limit_k: What there is.
        name_k: For messages: "energy_j", "memory_bytes[node]", "standby_w", "active".
    """

    cost_kn: Floats
    limit_k: Floats
    name_k: tuple[str, ...]

    def fits(self, active: Sequence[int]) -> bool:
        """Whether a set is within every limit."""
        taken_k = self.cost_kn[:, list(active)].sum(axis=1)
        return bool((taken_k <= self.limit_k * (1.0 + ROUNDING)).all())


@dataclass(frozen=True)
class Problem:
    """Maximise the weighted worth of a non-empty set of active arms that respects every limit.

    Args:
        arms: What may be active.
        utility: What a set is worth to each query.
        weights_q: Weight of each query, at least 0; all 1/q gives the mean. Share times weight for a class.
        limits: On set costs.
        routing: None for mode ``worst_case``, a limit on the mean energy for mode ``routed``.
        classes: Task classes with their latency limits.
        class_q: Class of each query by index; None puts all in the first.
        latency_cn: Milliseconds of each arm for each class at its quantile; None takes the arms' own.
        energy_qn: Joules of each arm on each query in mode ``routed``; None takes the arms' own.

    Raises:
        ProblemError: Shapes that do not fit together, values that are negative or not finite, repeated names, a limit
            of the other mode.
    """

    arms: tuple[Arm, ...]
    utility: Utility
    weights_q: Floats
    limits: Limits = field(default_factory=Limits)
    routing: Routing | None = None
    classes: tuple[TaskClass, ...] = (TaskClass(),)
    class_q: Ints | None = None
    latency_cn: Floats | None = None
    energy_qn: Floats | None = None

    def __post_init__(self) -> None:
        check_arms(self.arms)
        check_limits(self.limits, self.routing)
        if self.utility.arms != len(self.arms):
            raise ProblemError(f"The utility speaks of {self.utility.arms} arms, the problem has {len(self.arms)}.")
        queries, arms, classes = self.utility.queries, len(self.arms), len(self.classes)
        object.__setattr__(self, "weights_q", _checked(self.weights_q, (queries,), "weights_q"))
        for name, shape in (("latency_cn", (classes, arms)), ("energy_qn", (queries, arms))):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _checked(getattr(self, name), shape, name))
        object.__setattr__(self, "class_q", _classes(self.class_q, queries, classes))
        for one in self.classes:
            if one.latency_limit_ms is not None and not sound(one.latency_limit_ms):
                raise ProblemError(f"Class {one.name!r}: latency_limit_ms must be finite and at least 0, or None.")

    @property
    def mode(self) -> Mode:
        """Which of the two problems this is."""
        return Mode.WORST_CASE if self.routing is None else Mode.ROUTED

    @property
    def has_latency_limits(self) -> bool:
        """Whether an arm can be too slow for anything."""
        return any(one.latency_limit_ms is not None for one in self.classes)

    @cached_property
    def set_costs(self) -> SetCosts:
        """The limits as knapsacks."""
        limits, rows = self.limits, list[tuple[str, float, list[float]]]()
        if limits.energy_j is not None:
            rows.append(("energy_j", limits.energy_j, [arm.energy_j for arm in self.arms]))
        for node, limit_bytes in limits.memory_bytes.items():
            taken = [arm.bytes_on(node) for arm in self.arms]
            rows.append((f"memory_bytes[{node}]", limit_bytes, taken))
        if limits.standby_w is not None:
            rows.append(
                ("standby_w", limits.standby_w, [sum(part.standby_w for part in arm.parts) for arm in self.arms])
            )
        if limits.active is not None:
            rows.append(("active", float(limits.active), [float(len(arm.parts)) for arm in self.arms]))
        return SetCosts(
            np.array([row[2] for row in rows], dtype=np.float64).reshape(len(rows), len(self.arms)),
            np.array([row[1] for row in rows], dtype=np.float64),
            tuple(row[0] for row in rows),
        )

    @cached_property
    def allowed_qn(self) -> Bools:
        """Whether each arm is fast enough for each query's class."""
        if not self.has_latency_limits:
            return np.ones((self.utility.queries, len(self.arms)), dtype=bool)
        latency_cn = self.latency_cn
        if latency_cn is None:
            latency_cn = np.tile(np.array([arm.latency_ms for arm in self.arms]), (len(self.classes), 1))
        limit_c = np.array([np.inf if c.latency_limit_ms is None else c.latency_limit_ms for c in self.classes])
        fast_qn: Bools = np.asarray(latency_cn[self.class_q] <= limit_c[self.class_q][:, None])
        return fast_qn

    @cached_property
    def run_energy_qn(self) -> Floats:
        """Joules of each arm on each query in mode ``routed``."""
        if self.energy_qn is not None:
            return self.energy_qn
        return np.tile(np.array([arm.energy_j for arm in self.arms]), (self.utility.queries, 1))

    @cached_property
    def eligible(self) -> tuple[int, ...]:
        """Arms that could be active all by themselves, and are fast enough for some class; by index."""
        costs = self.set_costs
        alone_kn = costs.cost_kn <= (costs.limit_k * (1.0 + ROUNDING))[:, None]
        eligible_n: Bools = np.asarray(alone_kn.all(axis=0) & self.allowed_qn.any(axis=0))
        return tuple(np.flatnonzero(eligible_n).tolist())

    def fits(self, active: Sequence[int]) -> bool:
        """Whether the set respects every limit and holds no arm that is too slow for every class."""
        return self.set_costs.fits(active) and bool(self.allowed_qn[:, list(active)].any(axis=0).all())

    def value(self, active: tuple[int, ...]) -> float:
        """The objective of a set: 0 for the empty one. It need not fit."""
        if not active:
            return 0.0
        if self.routing is None:
            return float(self.weights_q @ self.utility.worth_q(active, self.allowed_qn))
        return best_policy(self.options(active), self.routing.mean_energy_j).value

    def take(self, kept: Sequence[int]) -> Problem:
        """The problem with only these arms, in this order."""
        columns = list(kept)
        latency_cn, energy_qn = self.latency_cn, self.energy_qn
        return replace(
            self,
            arms=tuple(self.arms[n] for n in columns),
            utility=self.utility.take(columns),
            latency_cn=None if latency_cn is None else latency_cn[:, columns],
            energy_qn=None if energy_qn is None else energy_qn[:, columns],
        )

    def options(self, active: tuple[int, ...]) -> Options:
        """Mode ``routed``: what may run for a query, its weighted worth and joules, within an active set."""
        assert self.routing is not None
        fanout = 1 if isinstance(self.utility, BestOf) else self.routing.fanout
        return options_of(self, active, fanout)


def _classes(class_q: Ints | None, queries: int, classes: int) -> Ints:
    if classes == 0:
        raise ProblemError("A problem needs at least one task class.")
    given = np.zeros(queries, dtype=np.int64) if class_q is None else np.asarray(class_q)
    if given.shape != (queries,) or not np.issubdtype(given.dtype, np.integer):
        raise ProblemError(f"class_q must hold one index per query, shape ({queries},).")
    if (given < 0).any() or (given >= classes).any():
        raise ProblemError(f"class_q must name one of the {classes} classes by index.")
    return given.astype(np.int64)


def _checked(values: Floats, shape: tuple[int, ...], name: str) -> Floats:
    array = np.ascontiguousarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ProblemError(f"{name} must have shape {shape}, not {array.shape}.")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ProblemError(f"{name} must be finite and at least 0.")
    return array
