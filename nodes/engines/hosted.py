"""What engines in a child process of their own have in common: they are started, watched and closed alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nodes.arms import ArmSpec
from nodes.engines.child import Limits, LoadOrder, Supervisor
from nodes.engines.contract import EngineEvents, EngineState
from nodes.engines.process import WorkerCommand
from nodes.errors import EngineError


class HostedEngine:
    """An engine whose models run in a child process; what it does with jobs is its kind's.

    Args:
        command: Interpreter and slots of the child process.
        limits: Queue bound, time-outs and crash policy.
    """

    def __init__(self, command: WorkerCommand, limits: Limits | None = None) -> None:
        self.events = EngineEvents()
        self._child = Supervisor(command, limits or Limits(), on_arms_lost=self._tell_lost)

    def _tell_lost(self, arms: Sequence[str]) -> None:
        self.events.on_arms_lost(arms)

    @property
    def state(self) -> EngineState:
        """See `Engine`."""
        return self._child.state

    @property
    def restarts(self) -> int:
        """See `Engine`."""
        return self._child.restarts

    @property
    def running(self) -> int:
        """See `Engine`."""
        return self._child.running

    @property
    def queued(self) -> int:
        """See `Engine`."""
        return self._child.queued

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._child.pid

    @property
    def versions(self) -> Mapping[str, Any]:
        """Python, numpy and onnxruntime versions that the child reported."""
        return self._child.versions

    async def load(self, arms: Sequence[ArmSpec]) -> None:
        """See `Engine`."""
        await self._child.start([_order(arm) for arm in arms])

    async def add(self, arm: ArmSpec) -> None:
        """See `Growing`."""
        await self._child.attach(_order(arm))

    async def unload_arm(self, key: str) -> None:
        """See `LoadsArms`."""
        self._child.detach(key)

    def load_progress(self, key: str) -> float | None:  # noqa: ARG002
        """See `LoadsArms`: the process tells when it is done, not before."""
        return None

    async def close(self) -> None:
        """See `Engine`."""
        await self._child.close()


def _order(arm: ArmSpec) -> LoadOrder:
    if arm.model_file is None:
        raise EngineError(f"{arm.key} names no model file")
    compiled = {} if arm.compiled is None else arm.compiled.told()
    return LoadOrder(arm.key, str(arm.model_file), arm.model_digest, compiled=compiled)
