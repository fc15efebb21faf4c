"""ONNX Runtime, and our own kernels for pruned chains, in a child process. Tensors only."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator

from nodes.engines.child import LoadOrder
from nodes.engines.contract import Job, JobResult, TextEnd, TextJob, TextPiece
from nodes.engines.hosted import HostedEngine
from nodes.engines.staging import Staged
from nodes.errors import EngineError
from nodes.worker.frames import FrameError


class OnnxEngine(HostedEngine):
    """Runs `.onnx` files and chains (`.npz`) on the CPU, each run single-threaded, `command.slots` of them at once.

    Args:
        command: Interpreter and slots of the child process.
        limits: Queue bound, time-outs and crash policy.
    """

    async def attach(self, arm: str, model: bytes) -> None:
        """Load one more model from memory, under a key that no gateway asks for.

        Raises:
            EngineError: if it does not load.
        """
        await self._child.attach(LoadOrder(arm, "", hashlib.sha256(model).hexdigest(), model))

    async def attach_files(self, arm: str, sha256: str, staged: Staged) -> None:
        """Load one more model from files that are handed over: the process opens nothing itself.

        Raises:
            EngineError: if it does not load.
        """
        await self._child.attach(LoadOrder(arm, "", sha256, staged=staged))

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
