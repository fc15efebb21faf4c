"""What this agent's work has cost by its own meter, to be held against what a gateway's ledger says."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nodes.agent import messages as m
from nodes.energy.contract import EnergyReading

Send = Callable[[m.Event], Awaitable[None]]


@dataclass
class Tally:
    """Adds up the final joules of all outcomes that gateways were told.

    Attributes:
        works: Pieces of work with a final figure, those that failed included.
        unmeasured: Outcomes of work that was begun and whose joules nobody knows.
    """

    works: int = 0
    unmeasured: int = 0
    _total_j: float = 0.0
    _lost_j: float = 0.0

    @property
    def energy_j(self) -> float:
        """Their joules, summed without losing digits however many there are."""
        return self._total_j + self._lost_j

    def summary(self) -> dict[str, float]:
        """The figures by their names in the log."""
        return {"works": self.works, "unmeasured": self.unmeasured, "work_j": self.energy_j}

    def counting(self, send: Send) -> Send:
        """The same way of telling a gateway, which counts what was queued for it."""

        async def counted(event: m.Event) -> None:
            await send(event)
            self.count(event)

        return counted

    def count(self, event: m.Event) -> None:
        """Add what an event says; a preliminary figure waits for the one that settles it."""
        match event:
            case m.WorkDone() | m.WorkFailed() if event.energy is not None and event.energy.final:
                self._add(event.energy)
            case m.EnergySettled(readings):
                for _, reading in readings:
                    self._add(reading)
            case _:
                pass

    def _add(self, reading: EnergyReading) -> None:
        self.works += 1
        if reading.energy_j is None:
            self.unmeasured += 1
            return
        # What rounding the sum loses is summed apart (Neumaier).
        grown_j = self._total_j + reading.energy_j
        self._lost_j += math.fsum((self._total_j, reading.energy_j, -grown_j))
        self._total_j = grown_j
