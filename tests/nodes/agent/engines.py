"""Fake engines that honour the contract: one that waits for the test, one that speaks token by token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import numpy as np

from nodes.engines.contract import (
    EngineState,
    Job,
    JobResult,
    TextEnd,
    TextJob,
    TextPiece,
)
from nodes.errors import DeadlinePassed, EngineError
from tests.fakes.slotted import SlottedEngine


class FakeEngine(SlottedEngine):
    """Runs jobs one at a time. Work for the expert "slow" waits for `gate`; text waits for it before each token."""

    def __init__(self) -> None:
        super().__init__(1, queue_limit=2)
        self.gate = asyncio.Event()
        self.failure: Exception | None = None
        self.spoken = 0

    async def infer(self, job: Job) -> JobResult:
        await self._slots.take()
        try:
            if job.start_by_s is not None and time.monotonic() >= job.start_by_s:
                raise DeadlinePassed("too late")
            job.on_start()
            if job.arm.startswith("slow") and job.start_by_s is not None:
                await self.gate.wait()
            if self.failure is not None:
                raise self.failure
            scores = next(iter(job.inputs.values())).reshape(-1, 64)[:, :10]
            return JobResult({"probabilities": scores.astype(np.float32)}, 0.25, 0.5)
        finally:
            self._slots.give_back()

    async def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        if not job.messages:
            raise EngineError("nothing to say")
        await self._slots.take()
        try:
            job.on_start()
            words = job.messages[-1][1].split()
            limit = job.max_tokens or len(words)
            for index, word in enumerate(words[:limit]):
                await self.gate.wait()
                self.spoken += 1
                yield TextPiece(word + " ", (index,))
            finish = "stop" if limit >= len(words) else "length"
            yield TextEnd(finish, len(job.messages), min(limit, len(words)), 0.0, 1.0, macs=1000)
        finally:
            self._slots.give_back()

    async def close(self) -> None:
        self.state = EngineState.CLOSED
