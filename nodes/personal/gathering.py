"""Runs several users' inputs as one batch of one graph. One event loop.

Nobody waits to be gathered: whoever comes while the graph runs is in the next batch.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.engines.contract import Job, JobResult

MOST_ROWS = 16

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class _Waiting:
    job: Job
    answer: asyncio.Future[JobResult]


class Gathering:
    """Gathers jobs of one sample each.

    Args:
        infer: Runs a job of several samples.
        arm: Key of the graph; all its inputs have the samples first.
    """

    def __init__(self, infer: Callable[[Job], Awaitable[JobResult]], arm: str) -> None:
        self._infer = infer
        self._arm = arm
        self._waiting: list[_Waiting] = []
        self._running: asyncio.Task[None] | None = None

    async def run(self, job: Job) -> JobResult:
        """The outputs of one job's row; raises what the engine raises. A cancelled caller leaves the others alone."""
        waiting = _Waiting(job, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run_all())
        return await waiting.answer

    async def _run_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST_ROWS], self._waiting[MOST_ROWS:]
                batch = [one for one in batch if not one.answer.done()]
                if batch:
                    await self._run(batch)
        finally:
            self._running = None

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        try:
            result = await self._infer(_joined([one.job for one in batch], self._arm))
        except Exception as error:  # Whatever fails, everybody in the batch is told.
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for position, one in enumerate(batch):
            if not one.answer.done():
                mine = {name: array[position : position + 1] for name, array in result.outputs.items()}
                one.answer.set_result(replace(result, outputs=mine))


def _joined(jobs: Sequence[Job], arm: str) -> Job:
    def start() -> None:
        for job in jobs:
            job.on_start()

    # Nobody is turned away for another one's hurry.
    limits = [math.inf if job.start_by_s is None else job.start_by_s for job in jobs]
    start_by_s = None if math.inf in limits else max(limits)
    inputs = {name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}
    return Job(arm, inputs, start_by_s, start)
