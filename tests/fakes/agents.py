"""Real agents with an engine that has no weights: everything of a node but what takes memory and seconds to load.

Session, desk, metering, evidence and reconnecting are the node's own; only the arms' answers are made up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache

import grpc.aio
import numpy as np

from nodes.agent.agent import Agent
from nodes.agent.parts import Parts
from nodes.arms import ArmProfile, ArmSpec, Inventory, TaskSpec, Tensors, TensorSpec
from nodes.config import parse_config
from nodes.energy.contract import Meter, Provenance
from nodes.energy.discovery import EnergySource
from nodes.energy.meters.modelled import ModelledMeter
from nodes.engines.contract import Engine, EngineState, Job, JobResult, TextEnd, TextJob, TextPiece
from nodes.errors import EngineError
from nodes.zoo.digest import tensor_digest
from tests.fakes.energy.worlds import profile
from tests.fakes.slotted import SlottedEngine

LABELS = tuple("0123456789")
SAMPLES = 80
# Expert, multiply-accumulates, share of right answers.
EXPERTS = (("hollow-small", 20_000, 0.85), ("hollow-large", 200_000, 0.97))
ANSWER = 7


class HollowEngine(SlottedEngine):
    """Answers 7 after a while; honours the engine's contract, slots and queue included.

    Args:
        slots: Runs at once.
        queue_limit: Most that wait.
        compute_s: How long a run takes; nothing is computed meanwhile.
    """

    def __init__(self, slots: int = 4, queue_limit: int = 64, compute_s: float = 0.002) -> None:
        super().__init__(slots, queue_limit)
        self.most_running = 0
        self._compute_s = compute_s

    async def infer(self, job: Job) -> JobResult:
        await self._slots.take()
        try:
            self.most_running = max(self.most_running, self.running)
            job.on_start()
            await asyncio.sleep(self._compute_s)
            scores = np.full((1, len(LABELS)), 0.01, dtype=np.float32)
            scores[0, ANSWER] = 0.91
            return JobResult({"probabilities": scores}, 0.0, self._compute_s * 1e3)
        finally:
            self._slots.give_back()

    async def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        if job.arm:
            raise EngineError("no expert here writes texts")
        yield TextEnd("stop", 0, 0, 0.0, 0.0)

    async def close(self) -> None:
        self.state = EngineState.CLOSED


@cache
def inventory() -> Inventory:
    """Two experts for digits with evidence; the same on every node, as where all load the same catalogue."""
    rng = np.random.default_rng(0)
    labels_n = rng.integers(0, len(LABELS), SAMPLES).astype(np.uint8)
    reference: Tensors = {"inputs": rng.random((SAMPLES, 8, 8), dtype=np.float32), "labels": labels_n}
    evidence: dict[str, Tensors] = {tensor_digest(reference): reference}
    arms = []
    for name, macs, quality in EXPERTS:
        right_n = rng.random(SAMPLES) < quality
        chosen_n = np.where(right_n, labels_n, (labels_n + 1) % len(LABELS))
        outputs: Tensors = {"outputs": (np.eye(len(LABELS), dtype=np.float32)[chosen_n] * 0.9 + 0.01)}
        digest = tensor_digest(outputs)
        evidence[digest] = outputs
        arms.append(ArmSpec(name, "v1", "digits", "hollow", macs, 1000, quality, SAMPLES, evidence_digest=digest))
    task = TaskSpec(
        "digits",
        TensorSpec("image", "float32", (-1, 8, 8)),
        TensorSpec("probabilities", "float32", (-1, len(LABELS))),
        LABELS,
        tensor_digest(reference),
    )
    return Inventory((task,), tuple(arms), evidence)


async def _told_profiles(engine: Engine, meter: Meter, offered: Inventory) -> dict[str, ArmProfile]:
    """Milliseconds and joules as of a device profile, without measuring."""
    found = {}
    for arm in offered.arms:
        reading = meter.estimate(arm.macs)
        assert reading is not None
        found[arm.key] = ArmProfile(2.0, 3.0, 50, Provenance.MODELLED, reading)
    return found


def hollow_parts(engine: HollowEngine | None = None, *, experts: Sequence[str] = ()) -> Parts:
    """The parts of one agent; it offers these experts, or all."""
    energy = EnergySource(ModelledMeter(profile()), "hollow", True, "test")
    offered = inventory()
    if experts:
        offered = replace(offered, arms=tuple(arm for arm in offered.arms if arm.expert in experts))
    return Parts(engine or HollowEngine(), energy, offered, measure=_told_profiles)


@asynccontextmanager
async def running_agent(
    gateway: str,
    name: str = "hollow-1",
    *,
    engine: HollowEngine | None = None,
    dial: Callable[[str], grpc.aio.Channel] | None = None,
    seed: int = 0,
) -> AsyncIterator[Agent]:
    """An agent that serves until the block ends."""
    config = parse_config({"gateway": gateway, "name": name, "concurrency": 4})
    agent = Agent(config, hollow_parts(engine), rng=random.Random(seed), dial=dial)
    await agent.prepare()
    task = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await agent.close()
