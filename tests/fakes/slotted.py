"""What every fake engine has: slots with a queue, as the real ones do, and nothing behind them."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.arms import ArmSpec
from nodes.engines.contract import EngineEvents, EngineState
from nodes.engines.slots import Slots


class SlottedEngine:
    """The part of the engine's contract that is not about running.

    Args:
        slots: Runs at once.
        queue_limit: Most that wait.
    """

    def __init__(self, slots: int, queue_limit: int) -> None:
        self.events = EngineEvents()
        self.state = EngineState.STARTING
        self.restarts = 0
        self._slots = Slots(slots, queue_limit)

    @property
    def running(self) -> int:
        return self._slots.taken

    @property
    def queued(self) -> int:
        return self._slots.queued

    async def load(self, arms: Sequence[ArmSpec]) -> None:
        self.state = EngineState.READY
