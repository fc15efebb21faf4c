"""What comes: requests, and deaths of nodes; and what is known of a request that was let in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.online.pacing import Charge
from orchestrator.routing.pace import Pace
from orchestrator.simulation.machines import Work
from orchestrator.types import Limits

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kill:
    """A node dies.

    Args:
        silent: False: its process ends and its stream breaks, which the gateway sees at once. True: power or network is
            gone, which it notices by the silence: an attempt's patience ends, or the node's lease.
    """

    node: str
    at_s: float
    silent: bool = False


@dataclass(frozen=True)
class Load:
    """What comes.

    Args:
        at_s_q: When, not falling.
        task_q: Index into the world's tasks.
        seed: Of all chance.
        kills: Nodes that die.
        queueing: False lets every node run everything at once; for the control experiments of the tests.
    """

    at_s_q: Floats
    task_q: NDArray[np.intp]
    seed: int = 0
    kills: Sequence[Kill] = ()
    queueing: bool = True


@dataclass(slots=True, eq=False)
class Asked:
    """A request that was let in. Decisions are not kept: each holds what it was made on, of every arm.

    Args:
        entered_s: When it was let in.
        quality: Expected there.
        ends_s: When an answer is of no use any more.
        spent_j: Joules of attempts that failed, as predicted.
        reasons: Why they failed.
    """

    index: int
    entered_s: float
    limits: Limits
    pace: Pace | None
    charge: Charge | None
    ends_s: float
    quality: float = math.nan
    avoid: frozenset[int] = frozenset()
    attempts: int = 0
    spent_j: float = 0.0
    work: Work | None = None
    reasons: tuple[str, ...] = ()
