"""An agent, real but for its engine and its sensor: both replay a recording of runs, one row after the other.

Run as ``python -m tests.fakes.replay_agent GATEWAY NAME RECORDING.csv PROFILE.csv IDLE_W``. A recording has the columns
``ms`` and ``joules``. The engine answers after the row's milliseconds; the counter that the meter reads adds the row's
joules while they pass, on top of idle power. What the node announces comes from the other file: what is replayed was
never seen before. Answers tell what happened: see `encode_run`.
"""

from __future__ import annotations

import asyncio
import csv
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np

from nodes.agent.agent import Agent
from nodes.agent.parts import Parts
from nodes.arms import ArmProfile, ArmSpec, Inventory, TaskSpec, TensorSpec
from nodes.config import parse_config
from nodes.energy.contract import EnergyReading, Meter, Provenance
from nodes.energy.discovery import EnergySource
from nodes.energy.meters.counter import CounterMeter
from nodes.engines.contract import Engine, EngineState, Job, JobResult, TextEnd, TextJob, TextPiece
from nodes.errors import DeadlinePassed, EngineError
from tests.fakes.slotted import SlottedEngine

TASK, EXPERT, VARIANT = "replayed", "answerer", "v1"
QUALITY = 0.9
# Milliseconds that stand for a probability of one.
SCALE_MS = 100_000.0

Recording = list[tuple[float, float]]


def read_recording(path: Path) -> Recording:
    """Milliseconds and joules of each run."""
    with path.open(newline="") as file:
        return [(float(row["ms"]), float(row["joules"])) for row in csv.DictReader(file)]


def encode_run(compute_ms: float, queue_ms: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Probabilities that tell how long a run took and waited."""
    told = [compute_ms / SCALE_MS, queue_ms / SCALE_MS]
    return np.array([[*told, 1.0 - sum(told)]], dtype=np.float32)


class ReplayCounter:
    """Joules of idle power and of the rows that have passed."""

    provenance = Provenance.REPLAYED
    method = "replay:recording"

    def __init__(self, idle_w: float) -> None:
        self._idle_w = idle_w
        self._opened_s = time.monotonic()
        self._past_j = 0.0
        self._running: dict[object, tuple[float, float, float]] = {}

    def begin(self, key: object, from_s: float, ms: float, *, joules: float) -> None:
        """A row begins to pass."""
        self._running[key] = from_s, ms * 1e-3, joules

    def end(self, key: object) -> None:
        """It has passed."""
        self._past_j += self._running.pop(key)[2]

    def read_j(self) -> float:
        """See `Counter`."""
        now_s = time.monotonic()
        shown_j = sum(
            joules * min(1.0, (now_s - began_s) / lasts_s) for began_s, lasts_s, joules in self._running.values()
        )
        return self._idle_w * (now_s - self._opened_s) + self._past_j + shown_j


class ReplayEngine(SlottedEngine):
    """Answers after the milliseconds of the next row; begins anew at the end.

    Paced: a run that follows another begins when that one was to end, so that a device does not become slower because
    this machine wakes the process late.
    """

    def __init__(self, recording: Recording, counter: ReplayCounter, *, queue_limit: int) -> None:
        super().__init__(1, queue_limit)
        self._rows = recording
        self._next = 0
        self._free_s = 0.0
        self._counter = counter

    async def infer(self, job: Job) -> JobResult:
        came_s = time.monotonic()
        await self._slots.take()
        try:
            started_s = max(came_s, self._free_s)
            if job.start_by_s is not None and started_s >= job.start_by_s:
                raise DeadlinePassed("too late")
            ms, joules = self._rows[self._next % len(self._rows)]
            self._next += 1
            self._free_s = started_s + ms * 1e-3
            job.on_start()
            key = object()
            self._counter.begin(key, started_s, ms, joules=joules)
            await asyncio.sleep(max(0.0, self._free_s - time.monotonic()))
            self._counter.end(key)
            queue_ms = (started_s - came_s) * 1e3
            return JobResult({"answer": encode_run(ms, queue_ms)}, queue_ms, ms)
        finally:
            self._slots.give_back()

    def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        raise EngineError("a recording of tensors has no texts")

    async def close(self) -> None:
        self.state = EngineState.CLOSED


def inventory() -> Inventory:
    """One task, one expert, no evidence: the gateway routes by what was announced."""
    task = TaskSpec(
        TASK, TensorSpec("x", "float32", (-1, 1)), TensorSpec("answer", "float32", (-1, 3)), ("a", "b", "c")
    )
    arm = ArmSpec(EXPERT, VARIANT, TASK, "replay", 0, 1, QUALITY, 1000)
    return Inventory((task,), (arm,), {})


def profile_of(recording: Recording) -> ArmProfile:
    """What the node announces."""
    ms_n, joules_n = np.array(recording).T
    p50_ms, p95_ms = np.quantile(ms_n, (0.5, 0.95))
    energy = EnergyReading(float(joules_n.mean()), 0.0, Provenance.REPLAYED, ReplayCounter.method)
    return ArmProfile(float(p50_ms), float(p95_ms), len(recording), Provenance.MEASURED, energy)


def build(gateway: str, name: str, recording: Path, profile: Path, idle_w: float) -> Agent:
    """The agent."""
    announced = profile_of(read_recording(profile))
    config = parse_config({"gateway": gateway, "name": name, "concurrency": 1})
    counter = ReplayCounter(idle_w)
    engine = ReplayEngine(read_recording(recording), counter, queue_limit=config.queue_limit)
    meter = CounterMeter(counter, idle_w=idle_w)
    offered = inventory()

    async def measure(_engine: Engine, _meter: Meter, _inventory: Inventory) -> dict[str, ArmProfile]:
        return {offered.arms[0].key: announced}

    source = EnergySource(meter, "recorded device", True, "follows a recording")
    return Agent(config, Parts(engine, source, offered, measure=measure))


async def serve(agent: Agent) -> None:
    """Until the gateway sends it away or the process ends."""
    try:
        await agent.prepare()
        await agent.run()
    finally:
        await agent.close()


if __name__ == "__main__":
    target, node, replayed, announced_from, watts = sys.argv[1:]
    asyncio.run(serve(build(target, node, Path(replayed), Path(announced_from), float(watts))))
