"""One piece of work in the hands of a fake node's behaviour, and the ways to answer it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import fleet_pb2 as fleet
from tests.fakes.arms import FakeArm


@dataclass
class Turn:
    """One piece of work in the hands of a behaviour."""

    work: fleet.Work
    arm: FakeArm
    emit: Callable[[fleet.NodeEvent], None]
    vanish: Callable[[], Awaitable[None]]
    # Of a text that other nodes write too, as they come; the first is there already.
    turns: asyncio.Queue[fleet.Turn] = field(default_factory=asyncio.Queue)

    def energy(self, energy_j: float | None = None) -> common.Energy:
        """Joules of this work: those given, else those that the arm announced."""
        value = self.arm.energy_j if energy_j is None else energy_j
        if value is None:
            return common.Energy(provenance=common.PROVENANCE_UNMEASURED, method="none")
        return common.Energy(energy_j=value, provenance=common.PROVENANCE_MODELLED, method="profile:fake")

    def done(self, *outputs: common.Tensor, energy_j: float | None = None, **fields: Any) -> None:
        """The work is finished."""
        energy = self.energy(energy_j)
        result = fleet.WorkDone(work_id=self.work.work_id, outputs=outputs, energy=energy, **fields)
        self.emit(fleet.NodeEvent(done=result))

    def failed(self, reason: str, *, message: str = "", final: bool = False, energy_j: float | None = None) -> None:
        """The work cannot be done."""
        energy = None if energy_j is None else self.energy(energy_j)
        result = fleet.WorkFailed(work_id=self.work.work_id, reason=reason, message=message, final=final, energy=energy)
        self.emit(fleet.NodeEvent(failed=result))

    def say(self, text: str, *token_ids: int) -> None:
        """A piece of generated text, where anybody reads it before the end."""
        if self.work.text.whole:
            return
        delta = fleet.TextDelta(work_id=self.work.work_id, text=text, token_ids=token_ids)
        self.emit(fleet.NodeEvent(delta=delta))

    def write(self, text: str, *token_ids: int, **fields: Any) -> None:
        """What came of a turn of such a text."""
        written = fleet.Written(work_id=self.work.work_id, text=text, token_ids=token_ids, **fields)
        self.emit(fleet.NodeEvent(written=written))


Behaviour = Callable[[Turn], Awaitable[None]]
