"""Tries a stranger's model in a process of its own that ends afterwards: whatever it does, it does it there.

What it may cost is limited by the process's rules; what comes out is compared with what the task wants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodes.arms import TaskSpec, Tensors
from nodes.artifacts.inspection import Inspected
from nodes.engines.child import Limits
from nodes.engines.contract import Job
from nodes.engines.crashes import CrashPolicy
from nodes.engines.onnx import OnnxEngine
from nodes.engines.process import WorkerCommand
from nodes.engines.staging import OutsideTensor, Staged
from nodes.errors import ArtifactRefused, EngineDied, EngineError, InputInvalid
from nodes.worker.lockdown import Rules

ARM = "rehearsal"
RUNS = 2
# What ONNX Runtime and the C++ library say when memory is refused.
OUT_OF_MEMORY = ("bad_alloc", "allocate memory", "alloc failed", "MemoryError", "BFCArena")


@dataclass(frozen=True)
class Cage:
    """What a stranger's model may take.

    Attributes:
        memory_bytes: Beyond what the process has mapped before it.
        cpu_s: Of a rehearsal, loading included.
        run_s: Of one run.
        load_s: Of loading.
        locked: Whether a kernel that cannot lock the process in is reason enough to take no model; where it is not, the
            process is locked as far as the kernel can.
    """

    python: Path
    memory_bytes: int = 2 * 2**30
    cpu_s: int = 60
    run_s: float = 10.0
    load_s: float = 30.0
    locked: bool = True

    def command(self, *, slots: int = 1, cpu_s: int = 0) -> WorkerCommand:
        """How a process for strangers' models is started."""
        return WorkerCommand(self.python, slots, rules=Rules(memory_bytes=self.memory_bytes, cpu_s=cpu_s))

    def limits(self, *, queue_limit: int = 64, quarantine_after: int = 1) -> Limits:
        """How it is watched."""
        return Limits(
            queue_limit=queue_limit,
            load_timeout_s=self.load_s,
            stall_timeout_s=self.run_s,
            crashes=CrashPolicy(quarantine_after=quarantine_after),
        )


def staged(found: Inspected, read: Callable[[str], bytes]) -> Staged:
    """What to hand over of a model.

    Args:
        read: Verified bytes of a file by its SHA-256.
    """
    files = tuple(sorted({one.path for one in found.outside}))
    digests = tuple(entry.sha256 for path in files if (entry := found.manifest.file(path)) is not None)
    outside = tuple(
        OutsideTensor(one.name, one.dtype, one.shape, files.index(one.path), one.offset) for one in found.outside
    )
    return Staged(read, found.model.sha256, digests, outside)


async def rehearse(cage: Cage, files: Staged, task: TaskSpec, inputs: Tensors) -> None:
    """Load a model and run it on an input of its task.

    Raises:
        ArtifactRefused: ARTIFACT_INVALID or ARTIFACT_TOO_LARGE.
        EngineError: if the process cannot be started at all.
    """
    engine = OnnxEngine(cage.command(cpu_s=cage.cpu_s), cage.limits())
    try:
        await engine.load(())
        try:
            await engine.attach_files(ARM, files.model, files)
            for _ in range(RUNS):
                result = await engine.infer(Job(ARM, inputs))
        except EngineDied:
            text = "The model took more memory or time than a model may, or it crashed the engine."
            raise ArtifactRefused("ARTIFACT_TOO_LARGE", text) from None
        except (EngineError, InputInvalid) as error:
            raise _refusal(error) from error
        _check_outputs(task, inputs, result.outputs)
    finally:
        await engine.close()


def _refusal(error: EngineError | InputInvalid) -> ArtifactRefused:
    if any(sign in error.message for sign in OUT_OF_MEMORY):
        return ArtifactRefused("ARTIFACT_TOO_LARGE", "The model wants more memory than a model may take.")
    if "did not load in" in error.message:
        return ArtifactRefused("ARTIFACT_TOO_LARGE", "The model takes longer to load than a model may.")
    what = "does not take the task's input" if isinstance(error, InputInvalid) else "does not load or run"
    return ArtifactRefused("ARTIFACT_INVALID", f"The model {what}; the node's log says why.")


def _check_outputs(task: TaskSpec, inputs: Tensors, outputs: Tensors) -> None:
    wanted = task.output
    if wanted is None:
        raise ArtifactRefused("ARTIFACT_INVALID", "The task takes texts; only models for tensors can be pushed.")
    found = outputs.get(wanted.name)
    rows = len(next(iter(inputs.values())))
    shape = tuple(rows if size < 0 else size for size in wanted.shape)
    if found is None or found.shape != shape or found.dtype != np.dtype(wanted.dtype):
        text = f"The model's output must be {wanted.name}, {wanted.dtype} {list(wanted.shape)}, as the task says."
        raise ArtifactRefused("ARTIFACT_INVALID", text)
    if not np.isfinite(found).all():
        raise ArtifactRefused("WEIGHTS_NOT_FINITE", "The model answers with NaN or infinite numbers.")
