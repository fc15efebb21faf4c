"""One llama-server process: started on a loopback port with a key that only its agent knows, watched, started again.

The event loop owns all state. What the process prints is kept in a short tail for the reason of its death and goes
nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from nodes.engines.contract import EngineState
from nodes.engines.crashes import CrashLog, CrashPolicy
from nodes.engines.remote.wire import ConnectionBroken, Host
from nodes.errors import EngineDied, EngineError

TAIL_BYTES = 4096
POLL_S = 0.05
# A load that takes long is told about this often.
TELL_S = 5.0
STOP_S = 5.0

# Dies with the agent, whatever ends that; llama-server itself knows nothing of its parent.
_BOOTSTRAP = """
import ctypes, os, signal, sys
if sys.platform.startswith("linux"):
    try: ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (OSError, AttributeError): pass
if os.getppid() != int(sys.argv[1]): os._exit(0)
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.execv(sys.argv[2], sys.argv[2:])
"""

log = structlog.get_logger("nodes.engine")


@dataclass(frozen=True)
class LlamaCommand:
    """How a server is started.

    Attributes:
        server: The llama-server program.
        model: GGUF file.
        alias: What requests call the model.
        context_tokens: Of one text, prompt and answer together.
        slots: Texts at once.
    """

    server: Path
    model: Path
    alias: str
    context_tokens: int
    slots: int

    def arguments(self, port: int) -> list[str]:
        """The command line; the key is in the environment, where other users cannot read it."""
        settings = {
            "--model": self.model,
            "--alias": self.alias,
            "--host": "127.0.0.1",
            "--port": port,
            "--parallel": self.slots,
            "--ctx-size": self.context_tokens * self.slots,
        }
        given = [str(part) for pair in settings.items() for part in pair]
        return [sys.executable, "-c", _BOOTSTRAP, str(os.getpid()), str(self.server), *given]


@dataclass(frozen=True)
class ChildLimits:
    """Bounds of one server.

    Attributes:
        load_timeout_s: A model that is not ready by then is given up.
    """

    load_timeout_s: float = 600.0
    crashes: CrashPolicy = field(default_factory=CrashPolicy)


@dataclass(frozen=True)
class Door:
    """Where a running server is asked."""

    url: str
    key: str = field(repr=False)


class LlamaChild:
    """Keeps one server alive.

    Args:
        command: How it is started.
        limits: Time-outs and crash policy.
        on_up: Called with where it is, each time it is ready.
        busy: Whether texts run on it, which decides whether a death is the model's doing.
        on_lost: Called once where it is given up because it died too often while it worked.
    """

    def __init__(
        self,
        command: LlamaCommand,
        limits: ChildLimits,
        *,
        on_up: Callable[[Door], None],
        busy: Callable[[], bool],
        on_lost: Callable[[], None],
    ) -> None:
        self._command, self._limits = command, limits
        self._on_up, self._busy, self._on_lost = on_up, busy, on_lost
        self._crashes = CrashLog(limits.crashes)
        self._process: asyncio.subprocess.Process | None = None
        self._tail = b""
        self._tasks: list[asyncio.Task[None]] = []
        self.state = EngineState.STARTING
        self.restarts = 0
        self.quarantined = False

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start, and wait until the model is loaded; it is kept alive from then on.

        Raises:
            EngineError: if it does not come up; nothing is left running then.
        """
        await self._bring_up()
        self._tasks.append(asyncio.create_task(self._keep()))

    async def close(self) -> None:
        """End it, at once where it does not go by itself."""
        self.state = EngineState.CLOSED
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end()

    async def _keep(self) -> None:
        """Wait for its death and start it again, for as long as it is worth it."""
        while self._process is not None:
            code = await self._process.wait()
            self.state = EngineState.RESTARTING
            log.warning("llama-server died", model=self._command.alias, code=code, printed=self._printed())
            self._blame()
            while not self.quarantined and not await self._started_again():
                continue
            if self.quarantined:
                return

    def _blame(self) -> None:
        arms = {self._command.alias} if self._busy() else set()
        if self._crashes.record(time.monotonic(), arms):
            self.quarantined = True
            log.error("arm quarantined", model=self._command.alias, crashes=self._limits.crashes.quarantine_after)
            self._on_lost()

    async def _started_again(self) -> bool:
        await asyncio.sleep(self._crashes.delay_s(time.monotonic()))
        self.restarts += 1
        try:
            await self._bring_up()
        except EngineError as error:
            log.error("llama-server does not come back", restarts=self.restarts, why=error.message)
            self._crashes.record(time.monotonic(), ())
            return False
        return True

    async def _bring_up(self) -> None:
        door = Door(f"http://127.0.0.1:{free_port()}", secrets.token_urlsafe(32))
        port = int(door.url.rpartition(":")[2])
        self._tail = b""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command.arguments(port),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "LLAMA_API_KEY": door.key},
            )
        except OSError as error:
            raise EngineError(f"{self._command.server} cannot be started: {error.strerror}") from error
        reading = asyncio.create_task(self._read(self._process))
        self._tasks = [task for task in self._tasks if not task.done()] + [reading]
        try:
            await self._loaded(self._process, door)
        except BaseException:
            await self._end()
            raise
        self.state = EngineState.READY
        self._on_up(door)

    async def _loaded(self, process: asyncio.subprocess.Process, door: Door) -> None:
        started_s = told_s = time.monotonic()
        host = Host(door.url)
        try:
            while not await _healthy(host):
                now_s = time.monotonic()
                if process.returncode is not None:
                    await asyncio.sleep(POLL_S)  # Its last words are on the way.
                    raise EngineDied(f"llama-server ended while it loaded {self._command.model}{self._printed()}")
                if now_s - started_s > self._limits.load_timeout_s:
                    raise EngineError(
                        f"{self._command.model} did not load in {self._limits.load_timeout_s:g} s{self._printed()}"
                    )
                if now_s - told_s > TELL_S:
                    told_s = now_s
                    log.info(
                        "loading",
                        model=self._command.alias,
                        s=round(now_s - started_s),
                        resident=self.resident_fraction,
                    )
                await asyncio.sleep(POLL_S)
        finally:
            host.close()
        log.info("loaded", model=self._command.alias, s=round(time.monotonic() - started_s, 3), pid=process.pid)

    @property
    def resident_fraction(self) -> float | None:
        """How much of the file is in memory; None where the system does not tell."""
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
            return min(1.0, pages * os.sysconf("SC_PAGE_SIZE") / self._command.model.stat().st_size)
        return None

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        while process.stderr is not None and (part := await process.stderr.read(TAIL_BYTES)):
            self._tail = (self._tail + part)[-TAIL_BYTES:]

    def _printed(self) -> str:
        """The last line that it printed, for the log and whoever started the node."""
        lines = [line for line in self._tail.decode(errors="replace").splitlines() if line.strip()]
        return f": {lines[-1].strip()[:300]}" if lines else ""

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _healthy(host: Host) -> bool:
    """Whether it says that the model is loaded; until then it answers 503, before that not at all."""
    try:
        async with host.request("GET", "health", {}) as reply:
            await reply.body()
            return reply.status == 200
    except ConnectionBroken:
        return False


def free_port() -> int:
    """A port that nobody has at this moment; whoever loses a race for it dies, and is started again on another."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
