"""Texts from GGUF files: a llama-server for each, asked over loopback as any OpenAI-compatible server is."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from nodes.arms import ArmSpec
from nodes.engines.contract import EngineEvents, EngineState, Job, JobResult, TextEnd, TextJob, TextPiece
from nodes.engines.llama.child import ChildLimits, Door, LlamaChild, LlamaCommand
from nodes.engines.remote.engine import RemoteEngine
from nodes.engines.remote.server import Address, Server
from nodes.errors import ArmQuarantined, EngineDied, EngineError

API = "/v1"
# A broken connection may be noticed before the death that broke it.
NOTICED_S = 1.0


class _Serving:
    """One arm: its process, and the engine that asks it."""

    def __init__(self, arm: ArmSpec, command: LlamaCommand, *, queue_limit: int) -> None:
        self.arm = arm
        self.server = Server(Address("http://127.0.0.1" + API))
        models = {arm.key: command.alias}
        self.texts = RemoteEngine(self.server, models, concurrency=command.slots, queue_limit=queue_limit)
        self.broke_s = -math.inf

    def up(self, door: Door) -> None:
        """It listens, maybe somewhere else than before."""
        self.server.move(Address(door.url + API, key=door.key))

    def busy(self) -> bool:
        """Whether a text runs, or broke off just now."""
        return self.texts.running > 0 or time.monotonic() - self.broke_s < NOTICED_S


class LlamaEngine:
    """Serves every arm from a llama-server of its own.

    Args:
        commands: By key of the arm.
        queue_limit: Requests that may wait for an arm.
        limits: Of each process.
    """

    def __init__(
        self, commands: Mapping[str, LlamaCommand], *, queue_limit: int, limits: ChildLimits | None = None
    ) -> None:
        self.events = EngineEvents()
        self._commands = dict(commands)
        self._queue_limit = queue_limit
        self._limits = limits or ChildLimits()
        self._serving: dict[str, tuple[_Serving, LlamaChild]] = {}
        self._loading: dict[str, LlamaChild] = {}
        self._closed = False

    @property
    def state(self) -> EngineState:
        """See `Engine`: one process that restarts does not keep the others from working."""
        if self._closed:
            return EngineState.CLOSED
        states = {child.state for _, child in self._serving.values()}
        if not states or EngineState.READY in states:
            return EngineState.READY
        return EngineState.RESTARTING

    @property
    def restarts(self) -> int:
        """See `Engine`."""
        return sum(child.restarts for _, child in self._serving.values())

    @property
    def running(self) -> int:
        """See `Engine`."""
        return sum(one.texts.running for one, _ in self._serving.values())

    @property
    def queued(self) -> int:
        """See `Engine`."""
        return sum(one.texts.queued for one, _ in self._serving.values())

    @property
    def pids(self) -> Mapping[str, int | None]:
        """Process ids by arm."""
        return {key: child.pid for key, (_, child) in self._serving.items()}

    async def load(self, arms: Sequence[ArmSpec]) -> None:
        """See `Engine`. One after the other: several would only wait for the same disk."""
        for arm in arms:
            await self.add(arm)

    async def add(self, arm: ArmSpec) -> None:
        """See `Growing`."""
        if arm.key in self._serving:
            return
        command = self._commands[arm.key]
        one = _Serving(arm, command, queue_limit=self._queue_limit)
        child = LlamaChild(
            command,
            self._limits,
            on_up=one.up,
            busy=one.busy,
            on_lost=lambda: self.events.on_arms_lost([arm.key]),
        )
        self._loading[arm.key] = child
        try:
            await child.start()
            await one.texts.load([arm])
        except BaseException:
            await child.close()
            raise
        finally:
            del self._loading[arm.key]
        self._serving[arm.key] = one, child

    async def unload_arm(self, key: str) -> None:
        """See `LoadsArms`: its process ends; what runs on it all the same fails with EngineDied."""
        found = self._serving.pop(key, None)
        if found is not None:
            await found[0].texts.close()
            await found[1].close()

    def load_progress(self, key: str) -> float | None:
        """See `LoadsArms`: how much of the file is in memory."""
        child = self._loading.get(key)
        return None if child is None else child.resident_fraction

    async def infer(self, job: Job) -> JobResult:
        """Refused: this engine writes texts."""
        raise EngineError(f"{job.arm} takes text, not tensors")

    async def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        """See `Engine`. Work is counted by tokens: what a kept prefix saves is not known here."""
        one, child = self._serving.get(job.arm) or (None, None)
        if one is None or child is None:
            raise EngineDied(f"{job.arm} is not loaded")
        if child.quarantined:
            raise ArmQuarantined(f"{job.arm} is in quarantine: llama-server died repeatedly while it ran")
        if child.state is not EngineState.READY:
            raise EngineDied(f"llama-server is {child.state}")
        try:
            async with aclosing(one.texts.generate(job)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, TextEnd):
                        tokens = piece.prompt_tokens - (piece.cached_tokens or 0) + piece.completion_tokens
                        piece = replace(piece, macs=tokens * one.arm.macs)
                    yield piece
        except EngineDied:
            one.broke_s = time.monotonic()
            raise

    async def close(self) -> None:
        """See `Engine`."""
        self._closed = True
        await asyncio.gather(*(self.unload_arm(key) for key in list(self._serving)))
