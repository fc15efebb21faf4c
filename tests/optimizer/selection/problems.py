"""Small selection problems whose answers can be found by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optimizer.selection.arms import Arm, Limits, Routing
from optimizer.selection.problem import Problem
from optimizer.selection.utility import AnyRight, BestOf, Floats, Utility


def arms_with(energy_n: Sequence[float], memory_n: Sequence[int] | None = None) -> tuple[Arm, ...]:
    """Arms on one node."""
    memory_n = memory_n or [1] * len(energy_n)
    return tuple(
        Arm(f"a{n}", "x", "n0", energy_j, 1.0, memory_bytes)
        for n, (energy_j, memory_bytes) in enumerate(zip(energy_n, memory_n, strict=True))
    )


def equal_weights(utility: Utility) -> Floats:
    """Every query counts the same, all of them 1."""
    return np.full(utility.queries, 1.0 / utility.queries)


def trap() -> Problem:
    """Greedy by gain per joule takes arm 0, worth 0.2, after which arm 1, worth 1, does not fit any more."""
    utility = BestOf(np.array([[0.2, 1.0]]))
    return Problem(arms_with([1.0, 10.0]), utility, equal_weights(utility), Limits(energy_j=10.0))


def specialists() -> Problem:
    """Three arms that are each right on two of three queries; two of them may be active, and cover everything."""
    utility = AnyRight(np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]) * 0.5)
    return Problem(arms_with([1.0, 1.0, 1.0]), utility, equal_weights(utility), Limits(active=2))


def shared_memory() -> Problem:
    """Routed: arm 0 is cheap, arm 1 good, arm 2 good and cheap but as large as both; half the queries can pay for 1."""
    utility = BestOf(np.array([[0.4, 1.0, 0.8], [0.4, 1.0, 0.8]]))
    arms = arms_with([0.0, 2.0, 0.5], [1, 1, 2])
    return Problem(arms, utility, equal_weights(utility), Limits(memory_bytes={"n0": 2.0}), Routing(1.0))
