"""The workbench: a worker process that builds and tries out what will later run in a process like it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nodes.arms import CompiledTraits, Tensors
from nodes.compile.errors import CompileError, RuntimeMissing
from nodes.compile.forms import Runtime
from nodes.engines.process import WorkerCommand, WorkerProcess
from nodes.worker.frames import Frame

CPU_SERVE, GPU_SERVE = "nodes.worker.main", "nodes.worker.gpu"
START_TIMEOUT_S = 30.0
# TensorRT tries out kernels for minutes; a build that takes longer hangs.
BUILD_TIMEOUT_S = 3600.0
RUN_TIMEOUT_S = 120.0
BATCH = 32

Progress = Callable[[str], None]


class Workbench:
    """Use as a context manager, from one thread and outside of any event loop; the process starts when needed.

    Args:
        python: The interpreter that will run the compiled arms.
        serve: The worker's module; that of GPU arms does without onnxruntime.
    """

    def __init__(self, python: Path, serve: str) -> None:
        self._command = WorkerCommand(python, 1, serve)
        self._process: WorkerProcess | None = None
        self._batch: int | None = None
        self._runner: asyncio.Runner | None = None

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            if self._process is not None:
                self._runner.run(self._process.close())
            self._runner.close()

    def identify(self, runtime: Runtime) -> dict[str, Any]:
        """Version of a runtime, and its GPU.

        Raises:
            RuntimeMissing: It is not there.
        """
        answer = self._ask({"op": "identify", "runtime": str(runtime)}, timeout_s=RUN_TIMEOUT_S)
        if answer.op == "failed":
            raise RuntimeMissing(f"{runtime} cannot be used with {self._command.python}: {_why(answer)}")
        return dict(answer.header)

    def build(self, order: Mapping[str, Any], progress: Progress) -> str:
        """Build; see `nodes.worker.building.build`. Returns the name of the file to load.

        Raises:
            CompileError: It cannot be built; the text is the runtime's.
        """
        answer = self._ask({**order, "op": "build"}, progress=progress, timeout_s=BUILD_TIMEOUT_S)
        if answer.op == "failed":
            raise CompileError(f"{order['runtime']} cannot build this model: {_why(answer)}")
        return str(answer.header["file"])

    def load(self, file: Path, digest: str, compiled: CompiledTraits | None = None) -> None:
        """Load what `run` runs from then on.

        Raises:
            CompileError: It does not load.
        """
        order = {"op": "load", "arm": "tried", "path": str(file), "sha256": digest}
        traits = {} if compiled is None else {"compiled": compiled.told()}
        answer = self._ask({**order, **traits}, timeout_s=BUILD_TIMEOUT_S)
        if answer.op == "failed":
            raise CompileError(f"{file.name} does not load: {_why(answer)}")
        self._batch = _fixed_batch(answer)

    def run(self, inputs: Tensors) -> NDArray[Any]:
        """Answers (n, ...) of the one output to inputs (n, ...), some at a time, or as many as the model takes.

        Raises:
            CompileError: A run fails, or there is more than one output.
        """
        count, size = min(len(array) for array in inputs.values()), self._batch or BATCH
        starts = range(0, count, size)
        parts = [
            self._run({name: _rows(array, start, size, fill=self._batch is not None) for name, array in inputs.items()})
            for start in starts
        ]
        return np.concatenate(parts)[:count]

    def _run(self, inputs: Tensors) -> NDArray[Any]:
        answer = self._ask({"op": "infer", "arm": "tried"}, inputs, timeout_s=RUN_TIMEOUT_S)
        if answer.op == "failed":
            raise CompileError(f"the compiled model does not run: {_why(answer)}")
        outputs = answer.tensors()
        if len(outputs) != 1:
            raise CompileError(f"the model has {len(outputs)} outputs; experts have one")
        return next(iter(outputs.values()))

    def _ask(
        self,
        header: Mapping[str, Any],
        tensors: Tensors | None = None,
        *,
        timeout_s: float,
        progress: Progress = lambda _step: None,
    ) -> Frame:
        if self._runner is None:
            raise RuntimeError("the workbench is not open")
        return self._runner.run(self._answer(header, tensors, timeout_s=timeout_s, progress=progress))

    async def _answer(
        self, header: Mapping[str, Any], tensors: Tensors | None, *, timeout_s: float, progress: Progress
    ) -> Frame:
        if self._process is None or not self._process.alive:
            self._process = await WorkerProcess.start(
                self._command, timeout_s=START_TIMEOUT_S, on_death=lambda _process: None
            )
        told = self._process.request(header, tensors, on_piece=lambda piece: progress(str(piece.header.get("step"))))
        try:
            async with asyncio.timeout(timeout_s):
                return await told
        except TimeoutError as error:
            self._process.kill()
            raise CompileError(f"{header['op']} took longer than {timeout_s:g} s") from error


def _fixed_batch(loaded: Frame) -> int | None:
    first = [value["shape"][0] for value in loaded.header.get("inputs", ()) if value["shape"]]
    return next((int(size) for size in first if size.isdecimal()), None)


def _rows(array: NDArray[Any], start: int, size: int, *, fill: bool) -> NDArray[Any]:
    rows = array[start : start + size]
    missing = size - len(rows) if fill else 0
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else np.ascontiguousarray(rows)


def _why(answer: Frame) -> str:
    return str(answer.header.get("text", "")).removeprefix("LoadRefused: ")
