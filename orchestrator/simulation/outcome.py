"""What became of every request, and of every node.

Shape letters: q requests, n nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulation.machines import Machine

Floats = NDArray[np.float64]

# States in which a request may be; all but the first are ends, named by the gateway's reasons.
STATES = (
    "OPEN",
    "ANSWERED",
    "OVERLOADED",
    "BUDGET_INFEASIBLE",
    "DEADLINE_EXCEEDED",
    "ATTEMPTS_FAILED",
    "NO_NODE",
    "FIELD_OUT_OF_RANGE",
)
CODE = {state: code for code, state in enumerate(STATES)}


class Ends:
    """One entry per request; every request ends exactly once.

    Args:
        at_s_q: When each came.
        task_q: Index of its task.
    """

    def __init__(self, at_s_q: Floats, task_q: NDArray[np.intp]) -> None:
        count = len(at_s_q)
        self.at_s_q = at_s_q
        self.task_q = task_q
        self.state_q = np.zeros(count, dtype=np.int8)
        self.ms_q = np.full(count, np.nan)
        self.energy_j_q = np.zeros(count)
        self.quality_q = np.full(count, np.nan)
        self.node_ms_q = np.full(count, np.nan)
        self.attempts_q = np.zeros(count, dtype=np.int16)

    def end(self, request: int, state: str, now_s: float) -> None:
        """A request has ended.

        Raises:
            ValueError: It had ended before.
        """
        if self.state_q[request]:
            raise ValueError(f"request {request} ends twice")
        self.state_q[request] = CODE[state]
        self.ms_q[request] = (now_s - self.at_s_q[request]) * 1e3

    @property
    def answered_q(self) -> NDArray[np.bool_]:
        """Which were answered."""
        return np.asarray(self.state_q == CODE["ANSWERED"])


@dataclass(frozen=True)
class Outcome:
    """One run.

    Args:
        ends: Per request.
        machines: Per node.
        until_s: When the last event was.
        events: How many there were.
    """

    ends: Ends
    machines: tuple[Machine, ...]
    until_s: float
    events: int
