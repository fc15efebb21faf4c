"""The budgets that the demo asks under: a ladder of joules up to no limit, and two deadlines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.demo.policies import cheapest_arms
from orchestrator.client import Budget
from orchestrator.client.types import FleetStatus
from orchestrator.units import format_duration_ms, format_energy_j

# A promise covers 99 % of the draws: 2.2 times the prediction under the demo's noise, 2.5 before any was seen.
STEP_FACTOR = 3.0
LOOSE_MS = 1000.0
# The shorter deadline: well above what one answer in a hundred took, and above the cheapest arm's promise.
TIGHT_QUANTILE = 0.99
TIGHT_FACTOR = 3.0
PROMISE_FACTOR = 1.5
TIGHT_STEP_MS = 10.0


@dataclass(frozen=True)
class Level:
    """A budget per request; None for no limit on joules."""

    max_energy_j: float | None
    max_latency_ms: float

    @property
    def budget(self) -> Budget:
        """What the client sends."""
        return Budget(max_energy_j=self.max_energy_j, max_latency_ms=self.max_latency_ms)

    @property
    def text(self) -> str:
        """For people."""
        joules = "any joules" if self.max_energy_j is None else f"≤ {format_energy_j(self.max_energy_j, 2)}"
        return f"{joules}, ≤ {format_duration_ms(self.max_latency_ms)}"


UNLIMITED = Level(None, LOOSE_MS)


def energy_levels(status: FleetStatus) -> tuple[float | None, ...]:
    """One step per expert, from just above what the cheapest arm promises; the dearest expert's step has no limit."""
    steps = [round_up(STEP_FACTOR * arm.predicted_energy_j) for arm in cheapest_arms(status)]
    return (*steps[:-1], None)


def tight_ms(status: FleetStatus, seen_ms: Sequence[float]) -> float:
    """The shorter deadline for this machine as it is now; chains of experts may be too slow for it.

    Args:
        status: The fleet after some answers.
        seen_ms: Milliseconds of the answers so far, as the callers saw them.
    """
    slow_ms = TIGHT_FACTOR * float(np.quantile(seen_ms, TIGHT_QUANTILE))
    least_ms = max(slow_ms, PROMISE_FACTOR * cheapest_arms(status)[0].bound_ms)
    return min(LOOSE_MS, math.ceil(least_ms / TIGHT_STEP_MS) * TIGHT_STEP_MS)


def round_up(value: float) -> float:
    """Rounded up to two significant digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")
