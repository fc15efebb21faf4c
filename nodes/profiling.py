"""Measures every arm on this node, now: milliseconds always, joules where the meter needs a run to know.

Shape letters: n samples.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nodes.arms import ArmProfile, ArmSpec, Inventory, TaskSpec, Tensors
from nodes.energy.contract import EnergyReading, Meter, Provenance
from nodes.engines.contract import Engine, Job

WARM_UP_FRACTION = 0.2
MIN_RUNS = 5
MAX_RUNS = 500


@dataclass(frozen=True)
class _Runs:
    ms_n: list[float]
    readings: list[EnergyReading]


async def profile_arms(
    engine: Engine, meter: Meter, inventory: Inventory, *, seconds_per_arm: float
) -> dict[str, ArmProfile]:
    """Profile of every tensor arm by its key.

    Milliseconds run from handing the job to the engine to holding its answer, one at a time, batch 1.
    Text arms have no profile: their cost depends on the text.

    Raises:
        EngineError: if an arm cannot be run.
    """
    profiles: dict[str, ArmProfile] = {}
    for arm in inventory.arms:
        task = inventory.task(arm.task)
        if not task.text:
            inputs = _sample(task, inventory.evidence)
            profiles[arm.key] = await _profile(engine, meter, arm, inputs, seconds_per_arm)
    return profiles


async def _profile(engine: Engine, meter: Meter, arm: ArmSpec, inputs: Tensors, seconds: float) -> ArmProfile:
    await _run_for(engine, meter, arm, inputs, seconds * WARM_UP_FRACTION)
    runs = await _run_for(engine, meter, arm, inputs, seconds * (1 - WARM_UP_FRACTION))
    p50_ms, p95_ms = np.quantile(runs.ms_n, [0.5, 0.95])
    energy = meter.estimate(arm.macs) or _mean(runs.readings)
    return ArmProfile(float(p50_ms), float(p95_ms), len(runs.ms_n), Provenance.MEASURED, energy)


async def _run_for(engine: Engine, meter: Meter, arm: ArmSpec, inputs: Tensors, seconds: float) -> _Runs:
    runs = _Runs([], [])
    until_s = time.perf_counter() + seconds
    while len(runs.ms_n) < MIN_RUNS or (time.perf_counter() < until_s and len(runs.ms_n) < MAX_RUNS):
        span = meter.begin()
        started_s = time.perf_counter()
        result = await engine.infer(Job(arm.key, inputs))
        runs.ms_n.append((time.perf_counter() - started_s) * 1e3)
        runs.readings.append(meter.end(span, compute_ms=result.compute_ms, macs=arm.macs))
    return runs


def _mean(readings: list[EnergyReading]) -> EnergyReading:
    known_j = [reading.energy_j for reading in readings if reading.energy_j is not None]
    first = readings[0]
    if not known_j:
        return first
    spread_j = float(np.sqrt(np.sum([reading.uncertainty_j**2 for reading in readings]))) / len(readings)
    return EnergyReading(float(np.mean(known_j)), spread_j, first.provenance, first.method)


def _sample(task: TaskSpec, evidence: Mapping[str, Tensors]) -> Tensors:
    if task.input is None:
        raise ValueError(f"task {task.name} has no input tensor")
    reference = evidence.get(task.reference_digest)
    if reference is not None:
        return {task.input.name: reference["inputs"][:1]}
    shape = [1 if size < 0 else size for size in task.input.shape]
    return {task.input.name: np.zeros(shape, task.input.dtype)}
