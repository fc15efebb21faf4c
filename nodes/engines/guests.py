"""The node's own engine and, beside it, a process of their own for models that a gateway sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from nodes.arms import ArmSpec
from nodes.engines.contract import (
    Engine,
    EngineEvents,
    EngineState,
    Growing,
    Job,
    JobResult,
    TextEnd,
    TextJob,
    TextPiece,
)
from nodes.engines.onnx import OnnxEngine
from nodes.errors import EngineError


class EngineWithGuests:
    """Hands each job to the engine that has its arm; what guests do to their process, the node's own do not notice.

    Args:
        own: Of the node's own arms.
        guests: Of arms that were sent; started when the first one comes.
    """

    def __init__(self, own: Engine, guests: OnnxEngine) -> None:
        self.events = EngineEvents()
        self.own = own
        self.guests = guests
        self.guest_arms: set[str] = set()
        own.events.on_arms_lost = self._tell_lost
        own.events.on_arms_back = self._tell_back

    def _tell_lost(self, arms: Sequence[str]) -> None:
        self.events.on_arms_lost(arms)

    def _tell_back(self, arms: Sequence[str]) -> None:
        self.events.on_arms_back(arms)

    @property
    def state(self) -> EngineState:
        """That of the node's own engine."""
        return self.own.state

    @property
    def restarts(self) -> int:
        """See `Engine`."""
        return self.own.restarts + self.guests.restarts

    @property
    def running(self) -> int:
        """See `Engine`."""
        return self.own.running + self.guests.running

    @property
    def queued(self) -> int:
        """See `Engine`."""
        return self.own.queued + self.guests.queued

    async def load(self, arms: Sequence[ArmSpec]) -> None:
        """See `Engine`; loads the node's own."""
        await self.own.load(arms)

    async def add(self, arm: ArmSpec) -> None:
        """Load one more of the node's own arms.

        Raises:
            EngineError: The node's own engine takes no further arms, or the arm does not load.
        """
        growing: object = self.own
        if not isinstance(growing, Growing):
            raise EngineError("this engine takes no further arms")
        await growing.add(arm)

    async def infer(self, job: Job) -> JobResult:
        """See `Engine`."""
        return await (self.guests if job.arm in self.guest_arms else self.own).infer(job)

    def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        """See `Engine`."""
        return (self.guests if job.arm in self.guest_arms else self.own).generate(job)

    async def close(self) -> None:
        """See `Engine`."""
        await self.own.close()
        await self.guests.close()
