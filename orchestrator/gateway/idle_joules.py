"""Joules that a node's idle power took while work ran: no request's, and still the owner's.

Nodes tell running sums of their process; a stream counts from its first one on, because an earlier stream or an earlier
gateway may have counted what was before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from orchestrator.fleet.session import NodeSession
from orchestrator.gateway.till import Till
from orchestrator.metrics import Metrics
from orchestrator.types import Provenance

# One row per node and this long: idle power flows all the time, books need not.
WRITE_S = 60.0


class IdleJoules:
    """Running sums of nodes, as differences in the counters and the books.

    Args:
        till: Writes them down.
        metrics: Counters.
        clock: Monotonic seconds.
    """

    def __init__(self, till: Till, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._till = till
        self._metrics = metrics
        self._clock = clock
        self._unwritten_j: dict[tuple[str, Provenance], float] = {}
        self._written_s = clock()

    def told(self, session: NodeSession, sum_j: float) -> None:
        """A heartbeat's running sum."""
        if not 0.0 <= sum_j < math.inf:
            return
        before_j, session.idle_j = session.idle_j, sum_j
        step_j = 0.0 if before_j is None else sum_j - before_j
        if step_j <= 0.0:
            return
        name = session.name, session.hello.energy_provenance
        self._metrics.idled(*name, step_j)
        self._unwritten_j[name] = self._unwritten_j.get(name, 0.0) + step_j
        if self._clock() - self._written_s >= WRITE_S:
            self.write()

    def write(self) -> None:
        """Write down what has come since the last time."""
        self._written_s = self._clock()
        unwritten_j, self._unwritten_j = self._unwritten_j, {}
        for (node, provenance), energy_j in unwritten_j.items():
            self._till.idle(node, provenance, energy_j)
