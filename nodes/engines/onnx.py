"""ONNX Runtime, and our own kernels for pruned chains, in a child process. Tensors only."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from nodes.arms import ArmSpec
from nodes.engines.child import Limits, LoadOrder, Supervisor
from nodes.engines.contract import EngineEvents, EngineState, Job, JobResult, TextEnd, TextJob, TextPiece
from nodes.engines.process import WorkerCommand
from nodes.errors import EngineError
from nodes.worker.frames import FrameError


class OnnxEngine:
    """Runs `.onnx` files and chains (`.npz`) on the CPU, each run single-threaded, `command.slots` of them at once.

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

    async def attach(self, arm: str, model: bytes) -> None:
        """Load one more model from memory, under a key that no gateway asks for.

        Raises:
            EngineError: if it does not load.
        """
        await self._child.attach(LoadOrder(arm, "", hashlib.sha256(model).hexdigest(), model))

    def detach(self, arm: str) -> None:
        """Forget a model that was attached; one that is not there is no error."""
        self._child.detach(arm)

    async def infer(self, job: Job) -> JobResult:
        """See `Engine`. Cost: one hop to the child and back, about 0.1 ms, beyond the model itself."""
        frame, queue_ms = await self._child.run(job)
        try:
            return JobResult(frame.tensors(), queue_ms, float(frame.header["compute_ms"]))
        except (FrameError, KeyError, TypeError, ValueError) as error:
            raise EngineError("The engine's answer cannot be read") from error

    def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        """Refused: this engine maps tensors to tensors."""
        raise EngineError(f"{job.arm} takes tensors, not text")

    async def close(self) -> None:
        """See `Engine`."""
        await self._child.close()


def _order(arm: ArmSpec) -> LoadOrder:
    if arm.model_file is None:
        raise EngineError(f"{arm.key} names no model file")
    return LoadOrder(arm.key, str(arm.model_file), arm.model_digest)
