"""What can be active, for whom, and within which limits: plain values, checked when a problem is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from optimizer.errors import ProblemError


@dataclass(frozen=True, slots=True)
class Arm:
    """One variant of one expert on one node.

    Args:
        name: Unique in its problem, ``expert:variant@node``.
        expert: The expert that the arm is a variant of.
        node: Where it runs; arms of one node share its memory.
        energy_j: Mean joules of one run.
        latency_ms: Milliseconds of one run, at the quantile that the limits are meant for.
        memory_bytes: Resident bytes while the arm is active.
        standby_w: Watts that it draws while it is active and idle.
        members: For a cascade, the arms that it runs one after the other; its node and bytes are then theirs, each
            where it is. An arm that is also active by itself counts once more: sets are kept within limits, and some
            that would just fit are left out.
    """

    name: str
    expert: str
    node: str
    energy_j: float
    latency_ms: float
    memory_bytes: int = 0
    standby_w: float = 0.0
    members: tuple[Arm, ...] = ()

    @property
    def parts(self) -> tuple[Arm, ...]:
        """The arms that are loaded while it is active: its members, or itself."""
        return self.members or (self,)

    def bytes_on(self, node: str) -> float:
        """Resident bytes on a node."""
        return float(sum(part.memory_bytes for part in self.parts if part.node == node))


@dataclass(frozen=True, slots=True)
class TaskClass:
    """An application category with a latency limit of its own.

    Args:
        name: Of the class.
        latency_limit_ms: Arms that are slower answer none of its queries; None for no limit.
    """

    name: str = "all"
    latency_limit_ms: float | None = None


@dataclass(frozen=True)
class Limits:
    """What a set of active arms may cost; None, or a node that is absent, means no limit.

    Args:
        energy_j: Sum of the active arms' energies, all of which may run for one query. Mode ``worst_case`` only.
        memory_bytes: Resident bytes per node.
        standby_w: Sum of the active arms' standby watts.
        active: Most active arms.
    """

    energy_j: float | None = None
    memory_bytes: Mapping[str, float] = field(default_factory=dict)
    standby_w: float | None = None
    active: int | None = None


@dataclass(frozen=True)
class Routing:
    """Mode ``routed``: per query at most `fanout` of the active arms run, and their mean energy is limited.

    Args:
        mean_energy_j: Limit on joules per query, averaged over the weighted queries.
        fanout: Most arms that run for one query.
    """

    mean_energy_j: float
    fanout: int = 1


def check_arms(arms: tuple[Arm, ...]) -> None:
    """Refuse arms that cannot be meant.

    Raises:
        ProblemError: Repeated names, quantities that are negative or not finite.
    """
    if len({arm.name for arm in arms}) != len(arms):
        raise ProblemError("Two arms of one problem have the same name.")
    for arm in arms:
        for quantity in ("energy_j", "latency_ms", "memory_bytes", "standby_w"):
            if not sound(getattr(arm, quantity)):
                raise ProblemError(f"Arm {arm.name!r}: {quantity} must be finite and at least 0.")


def check_limits(limits: Limits, routing: Routing | None) -> None:
    """Refuse limits that cannot be meant.

    Raises:
        ProblemError: A limit that is negative or not finite, or one of the other mode.
    """
    for name in ("energy_j", "standby_w", "active"):
        limit = getattr(limits, name)
        if limit is not None and not sound(limit):
            raise ProblemError(f"limits.{name} must be finite and at least 0, or None for no limit.")
    for node, limit_bytes in limits.memory_bytes.items():
        if not sound(limit_bytes):
            raise ProblemError(f"limits.memory_bytes[{node!r}] must be finite and at least 0.")
    if routing is None:
        return
    if limits.energy_j is not None:
        raise ProblemError("limits.energy_j belongs to the mode worst_case; routed plans limit routing.mean_energy_j.")
    if not sound(routing.mean_energy_j) or routing.fanout < 1:
        raise ProblemError("routing needs a mean_energy_j that is finite and at least 0, and a fanout of at least 1.")


def sound(value: float) -> bool:
    """Whether a quantity is finite and not negative."""
    return math.isfinite(value) and value >= 0
