"""Processes that the demo starts, and none of which outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_S = 10.0
FOREGROUND_S = 30.0
TAIL_LINES = 8


class DemoFailed(Exception):
    """The demo cannot go on; the text says what happened and where to look."""


@dataclass(frozen=True)
class Child:
    """A process of the demo, leader of a process group of its own.

    Args:
        name: For messages and for the name of its log.
        process: The running process.
        log: What it writes to stderr.
    """

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


class Processes:
    """Starts processes and stops all of them, the latest first; used as ``async with Processes(logs)``.

    Each gets a session of its own, so that a Ctrl-C in the terminal reaches the demo alone, which then stops the
    others in order. None sees the user's own Edgewise settings.

    Args:
        logs: Folder of their logs.
        stop_s: How long they may take to drain.
    """

    def __init__(self, logs: Path, *, stop_s: float = STOP_S) -> None:
        self._logs = logs
        self._stop_s = stop_s
        self._children: list[Child] = []
        self._private = tempfile.TemporaryDirectory(prefix="edgewise-demo-")
        self.folder = Path(self._private.name)

    async def __aenter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        self._private.cleanup()

    async def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a process whose stderr goes to ``NAME.log``."""
        log = self._logs / f"{name}.log"
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=_environment(self.folder),
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    async def foreground(self, command: Sequence[str], *, columns: int) -> int:
        """Run a command that writes to the demo's own terminal; returns its exit code."""
        environment = {**_environment(self.folder), "COLUMNS": str(columns)}
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, env=environment)
        try:
            async with asyncio.timeout(FOREGROUND_S):
                return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def check(self) -> None:
        """Raise when one has ended that should not have.

        Raises:
            DemoFailed: Which one, with the end of its log.
        """
        for child in self._children:
            if not child.running:
                how = f"{child.name} ended with exit code {child.process.returncode}"
                raise DemoFailed(f"{how}. The end of {child.log}:\n{child.tail()}")

    async def stop(self) -> None:
        """Ask each to drain, the latest first; what has not ended in time is killed."""
        for child in reversed(self._children):
            if child.running:
                child.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._stop_s):
                await self._ended()
        except TimeoutError:
            self.kill()
            await self._ended()
        finally:
            self.kill()

    def kill(self) -> None:
        """End what still runs at once, with all that it has started."""
        for child in self._children:
            if child.running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)

    async def _ended(self) -> None:
        await asyncio.gather(*(child.process.wait() for child in self._children))


def _environment(folder: Path) -> dict[str, str]:
    """The environment without Edgewise variables and with an empty folder where configuration would be."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EDGEWISE_")}
    # ONNX Runtime's builds report to their maker and leave an identifier in the temporary folder unless told not to.
    return {**kept, "XDG_CONFIG_HOME": str(folder), "PYTHONUNBUFFERED": "1", "ORT_DISABLE_TELEMETRY": "1"}
