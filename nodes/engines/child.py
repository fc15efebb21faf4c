"""Keeps one engine process busy and alive: slots, restarts, quarantine, a watch for hangs.

The event loop owns all state, so there are no locks. Waiting work never reaches the process, which makes dropping
it free; running work holds its slot until the process answers, whether somebody still waits for it or not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog

from nodes.arms import Tensors
from nodes.engines.contract import EngineState, Job, TextJob, Turn
from nodes.engines.crashes import CrashLog, CrashPolicy
from nodes.engines.process import WorkerCommand, WorkerProcess
from nodes.engines.slots import Slots
from nodes.engines.staging import Staged, hand_over
from nodes.errors import ArmQuarantined, DeadlinePassed, EngineBusy, EngineDied, EngineError, InputInvalid
from nodes.worker.frames import Frame, FrameError

# Texts of one process that experts on other nodes write too; each holds its keys and values in memory.
MOST_SHARED = 64
NO_TENSORS: Tensors = {}

log = structlog.get_logger("nodes.engine")


@dataclass(frozen=True)
class LoadOrder:
    """One model for the process to load: a file, bytes that are kept in memory alone, or files to be handed over.

    Attributes:
        compiled: What the worker must know of a compiled form, see `nodes.worker.sessions`; else empty.
        staged: The files that are handed over; None where the process reads `path` itself.
    """

    arm: str
    path: str
    sha256: str
    model: bytes | None = field(default=None, repr=False)
    compiled: Mapping[str, Any] = field(default_factory=dict)
    staged: Staged | None = None


@dataclass(frozen=True)
class Limits:
    """Bounds of one supervised process.

    Attributes:
        stall_timeout_s: A run longer than this means that the process hangs; it is killed.
    """

    queue_limit: int = 64
    start_timeout_s: float = 20.0
    load_timeout_s: float = 60.0
    stall_timeout_s: float = 30.0
    crashes: CrashPolicy = field(default_factory=CrashPolicy)


class Supervisor:
    """Runs jobs in an engine process and starts that process again, alone, when it dies."""

    def __init__(
        self, command: WorkerCommand, limits: Limits, *, on_arms_lost: Callable[[Sequence[str]], None]
    ) -> None:
        self._command = command
        self._limits = limits
        self._on_arms_lost = on_arms_lost
        self._crashes = CrashLog(limits.crashes)
        self._slots = Slots(command.slots, limits.queue_limit)
        self._orders: dict[str, LoadOrder] = {}
        self._quarantined: set[str] = set()
        self._process: WorkerProcess | None = None
        self._running: dict[object, tuple[str, float]] = {}
        self._shared = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.state = EngineState.STARTING
        self.restarts = 0

    @property
    def running(self) -> int:
        """Runs that hold a slot."""
        return self._slots.taken

    @property
    def queued(self) -> int:
        """Jobs that wait for a slot."""
        return self._slots.queued

    @property
    def pid(self) -> int | None:
        """Process id of the engine, None while there is none."""
        return self._process.pid if self._process else None

    @property
    def versions(self) -> Mapping[str, Any]:
        """What the process said about itself when it started."""
        return self._process.ready.result() if self._process else {}

    async def start(self, orders: Sequence[LoadOrder]) -> None:
        """Start the process and load everything.

        Raises:
            EngineError: if either fails; the process is gone then.
        """
        self._orders = {order.arm: order for order in orders}
        await self._bring_up()
        self._spawn(self._watch_stalls())

    async def attach(self, order: LoadOrder) -> None:
        """Load one more model; it is loaded again after a restart.

        Raises:
            EngineError: if it does not load, or the process is not ready.
        """
        if self.state is not EngineState.READY or self._process is None:
            raise EngineDied(f"The engine is {self.state}")
        await self._load(self._process, order)
        self._orders[order.arm] = order
        self._quarantined.discard(order.arm)

    def detach(self, arm: str) -> None:
        """Forget a model that was attached."""
        self._orders.pop(arm, None)
        if self._process is not None and self._process.alive:
            self._process.request({"op": "unload", "arm": arm})

    async def run(self, job: Job) -> tuple[Frame, float]:
        """The process's answer to one job, and the milliseconds that the job waited.

        Raises:
            EngineDied, EngineBusy, ArmQuarantined, DeadlinePassed, EngineError, InputInvalid.
        """
        submitted_s = time.monotonic()
        self._check(job)
        await self._slots.take()
        started_s = time.monotonic()
        try:
            answer = self._begin(job, started_s)
        except BaseException:
            self._slots.give_back()
            raise
        return _successful(await answer), (started_s - submitted_s) * 1e3

    async def stream(
        self, job: TextJob, order: Mapping[str, Any], tensors: Tensors = NO_TENSORS
    ) -> AsyncGenerator[tuple[Frame, float]]:
        """Every frame that the process sends for one text, the last one included, and the milliseconds it waited.

        Leaving the generator early asks the process to stop the text at its next token.

        Raises:
            As `run`.
        """
        submitted_s = time.monotonic()
        self._check(job)
        await self._slots.take()
        started_s = time.monotonic()
        queue_ms = (started_s - submitted_s) * 1e3
        frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        try:
            answer = self._begin_text(job, {**order, "op": "generate", "arm": job.arm}, frames, tensors)
        except BaseException:
            self._slots.give_back()
            raise
        process = self._process
        try:
            while (piece := await frames.get()) is not None:
                yield piece, queue_ms
            yield _successful(await answer), queue_ms
        finally:
            if not answer.done() and process is not None:
                process.cancel(answer)

    async def share(self, job: TextJob, order: Mapping[str, Any]) -> AsyncGenerator[Frame]:
        """As `stream`, for a text that experts on other nodes write too.

        It holds no slot: mostly it waits for others, and two such texts on two nodes must not wait for each other. So
        many at a time are taken, more are refused.

        Raises:
            As `run`.
        """
        turns, until_s = job.turns, job.start_by_s
        if turns is None:
            raise InputInvalid("a shared text needs turns")
        if self._shared >= MOST_SHARED:
            raise EngineBusy(f"{MOST_SHARED} shared texts are under way already")
        frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        process, run = self._admit(job, time.monotonic()), object()

        def progressed(frame: Frame) -> None:
            # Whose turn it is not does not hang.
            if frame.header.get("rests"):
                self._running.pop(run, None)
            else:
                self._running[run] = job.arm, time.monotonic()
            frames.put_nowait(frame)

        def ended() -> None:
            self._running.pop(run, None)
            self._shared -= 1
            frames.put_nowait(None)

        def take(turn: Turn) -> None:
            if answer.done():
                return  # It crossed the end on its way; waiting for what comes of it would look like a hang.
            self._running[run] = job.arm, time.monotonic()
            process.tell(answer, {"op": "turn", **turn.header()})

        answer = process.request({**order, "op": "generate", "arm": job.arm}, on_end=ended, on_piece=progressed)
        self._shared += 1
        turns.listen(take)
        try:
            while (frame := await _in_time(frames, until_s)) is not None:
                yield frame
            yield _successful(await answer)
        finally:
            if not answer.done():
                process.cancel(answer)

    async def close(self) -> None:
        """End the process; what runs or waits fails with EngineDied."""
        self.state = EngineState.CLOSED
        self._slots.refuse_waiting("The engine was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._process is not None:
            await self._process.close()

    # ---- one job

    def _check(self, job: Job | TextJob) -> WorkerProcess:
        if job.arm in self._quarantined:
            raise ArmQuarantined(f"{job.arm} is in quarantine: the engine died repeatedly while it ran")
        if self.state is not EngineState.READY or self._process is None:
            raise EngineDied(f"The engine is {self.state}")
        return self._process

    def _begin(self, job: Job, now_s: float) -> asyncio.Future[Frame]:
        process = self._admit(job, now_s)
        header, run = {"op": "infer", "arm": job.arm}, object()
        try:
            # The slot stays taken until the process has answered, also where the caller leaves before.
            answer = process.request(header, job.inputs, on_end=lambda: self._finished(run))
        except FrameError as error:
            raise InputInvalid(str(error)) from error
        self._running[run] = job.arm, now_s
        return answer

    def _begin_text(
        self, job: TextJob, header: Mapping[str, Any], frames: asyncio.Queue[Frame | None], tensors: Tensors
    ) -> asyncio.Future[Frame]:
        process, run = self._admit(job, time.monotonic()), object()

        def progressed(frame: Frame) -> None:
            # A long text is no hang as long as it goes on.
            self._running[run] = job.arm, time.monotonic()
            frames.put_nowait(frame)

        def ended() -> None:
            self._finished(run)
            frames.put_nowait(None)

        try:
            own = tensors if job.delta_n is None else {**tensors, "delta": job.delta_n}
            answer = process.request(header, own or None, on_end=ended, on_piece=progressed)
        except FrameError as error:
            raise InputInvalid(str(error)) from error
        self._running[run] = job.arm, time.monotonic()
        return answer

    def _admit(self, job: Job | TextJob, now_s: float) -> WorkerProcess:
        process = self._check(job)
        if job.start_by_s is not None and now_s >= job.start_by_s:
            raise DeadlinePassed("The work's time ran out before it could start")
        job.on_start()
        return process

    def _finished(self, run: object) -> None:
        del self._running[run]
        self._slots.give_back()

    # ---- life and death of the process

    async def _bring_up(self) -> None:
        process = await WorkerProcess.start(self._command, timeout_s=self._limits.start_timeout_s, on_death=self._died)
        self._process = process
        try:
            for order in list(self._orders.values()):
                if order.arm not in self._quarantined:
                    await self._load_or_lose(process, order)
        except (EngineError, asyncio.CancelledError):
            process.kill()
            await process.close()
            raise
        if not process.alive:
            raise EngineDied("The engine ended while it loaded")
        self.state = EngineState.READY

    async def _load_or_lose(self, process: WorkerProcess, order: LoadOrder) -> None:
        """A model that was sent, or a compiled form that is damaged after a restart, must not keep all others away."""
        try:
            await self._load(process, order)
        except EngineDied:
            raise
        except EngineError as error:
            if order.staged is None and not (self.restarts and order.compiled):
                raise
            self._give_up({order.arm}, error.message)

    async def _load(self, process: WorkerProcess, order: LoadOrder) -> None:
        held = None if order.model is None else {"model": np.frombuffer(order.model, np.uint8)}
        header: dict[str, Any] = {"op": "load", "arm": order.arm, "path": order.path, "sha256": order.sha256}
        if order.compiled:
            header["compiled"] = dict(order.compiled)
        try:
            if order.staged is not None:
                header["staged"] = await hand_over(process, order.staged)
            async with asyncio.timeout(self._limits.load_timeout_s):
                _successful(await process.request(header, held))
        except TimeoutError as error:
            raise EngineError(f"{order.arm} did not load in {self._limits.load_timeout_s:g} s") from error
        except EngineDied as error:
            self._blame({order.arm})
            raise EngineDied(f"The engine ended while it loaded {order.arm}{process.printed()}") from error
        except EngineError as error:
            raise EngineError(f"{order.arm} did not load: {error.message}") from error

    def _died(self, process: WorkerProcess) -> None:
        if process is not self._process or self.state is not EngineState.READY:
            return  # Whoever is starting or closing it sees that for themselves.
        log.warning("engine died", pid=process.pid, running=len(self._running), printed=process.printed())
        self.state = EngineState.RESTARTING
        self._blame({arm for arm, _ in self._running.values()})
        self._slots.refuse_waiting("The engine process ended before this work could start")
        self._spawn(self._restart())

    def _blame(self, arms: set[str]) -> None:
        lost = self._crashes.record(time.monotonic(), arms) - self._quarantined
        if lost:
            self._give_up(lost, f"{self._limits.crashes.quarantine_after} crashes")

    def _give_up(self, arms: Set[str], why: str) -> None:
        self._quarantined |= arms
        log.error("arms quarantined", arms=sorted(arms), why=why)
        self._on_arms_lost(sorted(arms))

    async def _restart(self) -> None:
        while True:
            await asyncio.sleep(self._crashes.delay_s(time.monotonic()))
            self.restarts += 1
            try:
                await self._bring_up()
            except EngineError as error:
                log.error("engine restart failed", restarts=self.restarts, why=error.message)
                if not isinstance(error, EngineDied):
                    self._crashes.record(time.monotonic(), ())
                continue
            log.info("engine back", pid=self.pid, restarts=self.restarts)
            return

    async def _watch_stalls(self) -> None:
        limit_s = self._limits.stall_timeout_s
        while True:
            await asyncio.sleep(min(1.0, limit_s / 4))
            oldest_s = min((since_s for _, since_s in self._running.values()), default=None)
            if self._process and oldest_s is not None and time.monotonic() - oldest_s > limit_s:
                log.error("engine hangs", pid=self.pid, limit_s=limit_s)
                self._process.kill()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _in_time(frames: asyncio.Queue[Frame | None], until_s: float | None) -> Frame | None:
    if not frames.empty() or until_s is None:
        return await frames.get()
    try:
        async with asyncio.timeout(until_s - time.monotonic()):
            return await frames.get()
    except TimeoutError:
        raise DeadlinePassed("The shared text's time ran out before it was complete") from None


def _successful(frame: Frame) -> Frame:
    if frame.op != "failed":
        return frame
    text = str(frame.header.get("text", ""))
    raise InputInvalid(text) if frame.header.get("reason") == "INPUT_INVALID" else EngineError(text)
