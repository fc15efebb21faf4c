"""Measures every arm on this node, now: milliseconds always, joules where the meter needs a run to know.

Shape letters: n samples.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nodes.arms import ArmProfile, ArmSpec, Inventory, TaskSpec, Tensors
from nodes.energy.contract import EnergyReading, Meter, Provenance, Span
from nodes.engines.contract import Engine, Job
from nodes.text_profiling import TextRun, measure_text, text_profile

WARM_UP_FRACTION = 0.2
MIN_RUNS = 5
MAX_RUNS = 500
# What a late sensor shows comes after at most some 0.3 s; a counter may lag by a step more.
SETTLE_PAUSE_S = 0.5
SETTLE_TRIES = 4


@dataclass(frozen=True)
class Runs:
    """Milliseconds (n) of each run, and what each took as far as that is known."""

    ms_n: list[float]
    readings: dict[Span, EnergyReading]


async def profile_arms(
    engine: Engine, meter: Meter, inventory: Inventory, *, seconds_per_arm: float
) -> dict[str, ArmProfile]:
    """Profile of every arm by its key.

    Milliseconds run from handing the job to the engine to holding its answer, one at a time, batch 1.
    Text arms get a line over the tokens of question and answer; those without traits have no profile.

    Raises:
        EngineError: if an arm cannot be run.
    """
    measured: list[tuple[ArmSpec, Runs]] = []
    texts: list[tuple[ArmSpec, list[TextRun]]] = []
    for arm in inventory.arms:
        task = inventory.task(arm.task)
        if arm.text is not None:
            texts.append((arm, await measure_text(engine, meter, arm, seconds=seconds_per_arm)))
        elif not task.text:
            inputs = sample(task, inventory.evidence)
            measured.append((arm, await _measure(engine, meter, arm, inputs, seconds_per_arm)))
    written = [Runs([], {run.span: run.reading for run in runs}) for _, runs in texts]
    final = await settled(meter, [*(runs for _, runs in measured), *written])
    profiles = {arm.key: _profile(meter, arm, runs, final) for arm, runs in measured}
    return profiles | {arm.key: text_profile(arm, meter, runs, final) for arm, runs in texts}


async def settled(
    meter: Meter, measured: Sequence[Runs], *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> dict[Span, EnergyReading]:
    """The last word on every run; waits for a late sensor, for a second or two at most."""
    readings = {span: reading for runs in measured for span, reading in runs.readings.items()}
    for _ in range(SETTLE_TRIES):
        if all(reading.final for reading in readings.values()):
            break
        await pause(SETTLE_PAUSE_S)
        for one in await asyncio.to_thread(meter.settle):
            if one.span in readings:
                readings[one.span] = one.reading
    return readings


async def _measure(engine: Engine, meter: Meter, arm: ArmSpec, inputs: Tensors, seconds: float) -> Runs:
    await run_for(engine, meter, arm, inputs, seconds=seconds * WARM_UP_FRACTION)
    return await run_for(engine, meter, arm, inputs, seconds=seconds * (1 - WARM_UP_FRACTION))


def _profile(meter: Meter, arm: ArmSpec, runs: Runs, final: Mapping[Span, EnergyReading]) -> ArmProfile:
    p50_ms, p95_ms = np.quantile(runs.ms_n, [0.5, 0.95])
    energy = meter.estimate(arm.macs) or mean_reading([final[span] for span in runs.readings])
    return ArmProfile(float(p50_ms), float(p95_ms), len(runs.ms_n), Provenance.MEASURED, energy)


async def run_for(
    engine: Engine,
    meter: Meter,
    arm: ArmSpec,
    inputs: Tensors,
    *,
    seconds: float,
    batch: int = 1,
    most: int = MAX_RUNS,
) -> Runs:
    """One run after the other for so long, or until there were `most`.

    Raises:
        EngineError: if the arm cannot be run.
    """
    runs = Runs([], {})
    until_s = time.perf_counter() + seconds
    while len(runs.ms_n) < MIN_RUNS or (time.perf_counter() < until_s and len(runs.ms_n) < most):
        span = meter.begin(arm.key)
        started_s = time.perf_counter()
        result = await engine.infer(Job(arm.key, inputs))
        runs.ms_n.append((time.perf_counter() - started_s) * 1e3)
        runs.readings[span] = meter.end(span, compute_ms=result.compute_ms, macs=arm.macs * batch)
    return runs


def mean_reading(readings: Sequence[EnergyReading]) -> EnergyReading:
    """Mean joules of runs of one kind; unmeasured where none is known."""
    known_j = [reading.energy_j for reading in readings if reading.energy_j is not None]
    first = readings[0]
    if not known_j:
        return first
    spread_j = float(np.sqrt(np.sum([reading.uncertainty_j**2 for reading in readings]))) / len(readings)
    return EnergyReading(float(np.mean(known_j)), spread_j, first.provenance, first.method)


def sample(task: TaskSpec, evidence: Mapping[str, Tensors], batch: int = 1) -> Tensors:
    """An input of a tensor task: samples of its reference set, else zeros."""
    if task.input is None:
        raise ValueError(f"task {task.name} has no input tensor")
    reference = evidence.get(task.reference_digest)
    if reference is not None:
        return {task.input.name: np.resize(reference["inputs"], (batch, *reference["inputs"].shape[1:]))}
    shape = [batch if size < 0 else size for size in task.input.shape]
    return {task.input.name: np.zeros(shape, task.input.dtype)}
