"""One life of an engine process: start, requests by id, death. Knows nothing of models, queues or restarts."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import kernels
import nodes.worker
from nodes.arms import Tensors
from nodes.errors import EngineDied, EngineError
from nodes.worker.frames import Frame, FrameDecoder, FrameError, encode
from nodes.worker.lockdown import Rules

STDERR_TAIL_BYTES = 4096
CLOSE_TIMEOUT_S = 0.5

# `nodes` and `kernels` are made by hand and hold only the worker and what it runs, so that another interpreter sees
# nothing of the packages that the agent's interpreter has installed beside it.
_BOOTSTRAP = """
import sys
sys.path[:] = [p for p in sys.path if p]
import types
for name, folder in {folders!r}.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from {serve} import main
from nodes.worker.lockdown import Rules
main(slots={slots}, parent_pid={parent_pid}, rules={rules})
"""


@dataclass(frozen=True)
class WorkerCommand:
    """How the engine process is started.

    Attributes:
        python: The interpreter; needs numpy and onnxruntime, Python 3.10 or newer.
        slots: Models that run at once.
        serve: Module in the worker package whose `main` the process runs.
        rules: What the process may still do once it is ready; None leaves it as free as the agent.
    """

    python: Path
    slots: int
    serve: str = "nodes.worker.main"
    rules: Rules | None = None

    def arguments(self) -> list[str]:
        """The command line."""
        folders = {"nodes": str(Path(nodes.worker.__path__[0]).parent), "kernels": str(kernels.__path__[0])}
        code = _BOOTSTRAP.format(
            folders=folders, serve=self.serve, slots=self.slots, parent_pid=os.getpid(), rules=self.rules
        )
        return [str(self.python), "-c", code]

    def environment(self) -> dict[str, str]:
        """The agent's environment, less what would mix two interpreters; one thread per model."""
        dropped = {"PYTHONHOME", "__PYVENV_LAUNCHER__"}
        if str(self.python) != sys.executable:
            dropped.add("PYTHONPATH")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        quiet = {"ORT_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return {**kept, "OMP_NUM_THREADS": "1", **quiet}


@dataclass(frozen=True)
class _Waiting:
    """Who waits for the answers to one request."""

    answer: asyncio.Future[Frame]
    on_end: Callable[[], None]
    on_piece: Callable[[Frame], None]


def _no_pieces(_frame: Frame) -> None:
    return None


class WorkerProcess(asyncio.SubprocessProtocol):
    """The agent's end of the pipes. `request` from the event loop only."""

    def __init__(self, on_death: Callable[[WorkerProcess], None]) -> None:
        self._on_death = on_death
        self._decoder = FrameDecoder()
        self._waiting: dict[int, _Waiting] = {}
        self._next_id = 0
        self._stderr_tail = b""
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._exited = asyncio.Event()
        self._dead = False
        self.ready: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(
        cls, command: WorkerCommand, *, timeout_s: float, on_death: Callable[[WorkerProcess], None]
    ) -> WorkerProcess:
        """Start and wait until the process says that it is ready.

        Raises:
            EngineError: if it does not start, or not in time; the text says what it printed.
        """
        loop = asyncio.get_running_loop()
        process = cls(on_death)
        try:
            async with asyncio.timeout(timeout_s):
                await loop.subprocess_exec(lambda: process, *command.arguments(), env=command.environment(), cwd="/")
                await asyncio.shield(process.ready)
        except TimeoutError as error:
            await process._put_down()
            silence = f"{command.python} gave no sign of life within {timeout_s:g} s"
            raise EngineError(silence + process.printed()) from error
        except OSError as error:
            raise EngineError(f"{command.python} cannot be started: {error.strerror}") from error
        except EngineDied as error:
            await process._put_down()
            raise EngineError(f"{command.python} ended while starting{process.printed()}") from error
        except asyncio.CancelledError:
            await process._put_down()
            raise
        return process

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return self._transport.get_pid() if self._transport else None

    @property
    def alive(self) -> bool:
        """Whether requests can be answered."""
        return not self._dead

    def printed(self) -> str:
        """The last line that the process wrote to stderr, for the log."""
        lines = self._stderr_tail.decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""

    def request(
        self,
        header: Mapping[str, Any],
        tensors: Tensors | None = None,
        *,
        on_end: Callable[[], None] = lambda: None,
        on_piece: Callable[[Frame], None] = _no_pieces,
    ) -> asyncio.Future[Frame]:
        """Send one operation; the future gives the answering frame, or EngineDied.

        Args:
            on_end: Called when the process has answered or died, also where the future was cancelled before.
            on_piece: Called with every frame ``piece`` that comes before the answer.

        Raises:
            EngineDied: if the process is gone.
            FrameError: if the tensors are too large.
        """
        if self._dead or self._stdin is None:
            raise EngineDied("The engine process has ended")
        self._next_id += 1
        data = encode({**header, "id": self._next_id}, tensors)
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[self._next_id] = _Waiting(answer, on_end, on_piece)
        self._stdin.write(data)
        return answer

    def cancel(self, answer: asyncio.Future[Frame]) -> None:
        """Ask the process to end the request early; it still answers. Does nothing where it has answered or died."""
        self.tell(answer, {"op": "cancel"})

    def tell(self, answer: asyncio.Future[Frame], header: Mapping[str, Any]) -> None:
        """Say something more about a request. Does nothing where the process has answered it or died."""
        for request_id, waiting in self._waiting.items():
            if waiting.answer is answer and self._stdin is not None:
                self._stdin.write(encode({**header, "id": request_id}))
                return

    def kill(self) -> None:
        """End the process now; does nothing where it has ended by itself."""
        # Killing asks for the exit status first, which must be left to asyncio's watcher where there is one to get.
        if not self._dead:
            self._kill()

    def _kill(self) -> None:
        if self._transport is not None and self._transport.get_returncode() is None:
            self._transport.kill()

    async def close(self) -> None:
        """Close the process's stdin and wait until it is gone; kill it where it does not go."""
        if self._transport is None:
            return
        if self._stdin is not None:
            self._stdin.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._exited.wait()
        except TimeoutError:
            self._kill()
            await self._exited.wait()

    async def _put_down(self) -> None:
        self.kill()
        await self.close()

    # ---- asyncio.SubprocessProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop when the process was started."""
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Called by the event loop with bytes of stdout or stderr."""
        if fd == 2:
            self._stderr_tail = (self._stderr_tail + data)[-STDERR_TAIL_BYTES:]
            return
        try:
            for frame in self._decoder.feed(data):
                self._deliver(frame)
        except FrameError:
            self.kill()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        """Called by the event loop when a pipe closed; a closed stdout means that no answer comes any more."""
        if fd == 1:
            self._die()
            # One that closed its stdout and lives on is of no use.
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self._kill)

    def process_exited(self) -> None:
        """Called by the event loop when the process was reaped."""
        self._die()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Called by the event loop last: the process is gone and its pipes are read to the end."""
        if self._transport is not None:
            self._transport.close()
        self._exited.set()

    def _deliver(self, frame: Frame) -> None:
        if frame.op == "ready":
            if not self.ready.done():
                self.ready.set_result(frame.header)
            return
        request_id = frame.header.get("id", 0)
        waiting = self._waiting.get(request_id)
        if waiting is None:
            return
        if frame.op == "piece":
            waiting.on_piece(frame)
            return
        del self._waiting[request_id]
        if not waiting.answer.done():
            waiting.answer.set_result(frame)
        waiting.on_end()

    def _die(self) -> None:
        if self._dead:
            return
        self._dead = True
        waiting, self._waiting = list(self._waiting.values()), {}
        _fail(self.ready)
        for one in waiting:
            _fail(one.answer)
        # The owner hears of the death first: slots that come free must not go to this process again.
        self._on_death(self)
        for one in waiting:
            one.on_end()


def _fail(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(EngineDied("The engine process ended before it answered"))
        # Whoever waited may be gone; asyncio must not complain about that.
        answer.exception()
