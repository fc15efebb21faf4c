"""Measures a node's arms on purpose: milliseconds and joules as functions of input size and concurrency.

Every arm runs at each batch size alone, and at batch 1 with each number of runs at once. What is written says how every
figure came about; a figure that nobody measured is null, never 0.

Shape letters: b batch sizes.
"""

from __future__ import annotations

import asyncio
import json
import platform
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nodes.arms import ArmSpec, Inventory, TaskSpec
from nodes.energy.contract import EnergyReading, Meter
from nodes.energy.discovery import EnergySource
from nodes.engines.contract import Engine
from nodes.errors import ConfigError
from nodes.profiling import Runs, mean_reading, run_for, sample, settled

FORMAT = 1
# Of a point: short runs must last longer together than a sensor takes to see them.
MOST_RUNS = 5000


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        batches: Input sizes, in samples; more than one only for arms whose first dimension is free.
        concurrencies: Runs at once.
        seconds: Of measuring per point.
    """

    batches: tuple[int, ...] = (1, 4, 16)
    concurrencies: tuple[int, ...] = (1,)
    seconds: float = 1.0


@dataclass(frozen=True)
class Point:
    """What one run took, on the average, at one input size and concurrency.

    Attributes:
        macs: Multiply-accumulates of one sample.
        energy_j: Active joules of one run; None where nobody knows.
        uncertainty_j: One standard deviation of it.
        idle_j: Idle power's joules beside it.
        share: How joules of concurrent runs were told apart.
    """

    arm: str
    batch: int
    concurrency: int
    macs: int
    runs: int
    p50_ms: float
    p95_ms: float
    energy_j: float | None
    uncertainty_j: float
    idle_j: float | None
    provenance: str
    share: str


@dataclass(frozen=True)
class Line:
    """Cost of one run as fixed plus per sample, least squares over the batch sizes; None for unknown joules."""

    arm: str
    fixed_ms: float
    per_sample_ms: float
    fixed_j: float | None
    per_sample_j: float | None


async def survey(
    engine: Engine,
    meter: Meter,
    inventory: Inventory,
    plan: Plan,
    *,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[Point]:
    """Measure every tensor arm at every point. Takes about `plan.seconds` per point.

    Raises:
        EngineError: if an arm cannot be run.
    """
    points = []
    for arm in inventory.arms:
        task = inventory.task(arm.task)
        for batch, concurrency in () if task.text else _grid(task, plan):
            await _runs(engine, meter, arm, inventory, (batch, concurrency, plan.seconds / 5))
            runs = await _runs(engine, meter, arm, inventory, (batch, concurrency, plan.seconds))
            final = await settled(meter, runs, pause=pause)
            points.append(_point(arm, batch, concurrency, runs, [*final.values()]))
    return points


def _grid(task: TaskSpec, plan: Plan) -> list[tuple[int, int]]:
    free = task.input is not None and task.input.shape[0] < 0
    batches = plan.batches if free else (1,)
    return [(batch, 1) for batch in batches] + [(1, count) for count in plan.concurrencies if count > 1]


async def _runs(
    engine: Engine, meter: Meter, arm: ArmSpec, inventory: Inventory, point: tuple[int, int, float]
) -> list[Runs]:
    batch, concurrency, seconds = point
    inputs = sample(inventory.task(arm.task), inventory.evidence, batch)
    async with asyncio.TaskGroup() as group:
        runners = [
            group.create_task(run_for(engine, meter, arm, inputs, seconds=seconds, batch=batch, most=MOST_RUNS))
            for _ in range(concurrency)
        ]
    return [runner.result() for runner in runners]


def _point(
    arm: ArmSpec, batch: int, concurrency: int, runs: Sequence[Runs], readings: Sequence[EnergyReading]
) -> Point:
    ms = [ms for one in runs for ms in one.ms_n]
    p50_ms, p95_ms = np.quantile(ms, [0.5, 0.95])
    mean = mean_reading(readings)
    idle_j = [reading.idle_j for reading in readings if reading.idle_j is not None]
    return Point(
        arm=arm.key,
        batch=batch,
        concurrency=concurrency,
        macs=arm.macs,
        runs=len(ms),
        p50_ms=float(p50_ms),
        p95_ms=float(p95_ms),
        energy_j=mean.energy_j,
        uncertainty_j=mean.uncertainty_j,
        idle_j=float(np.mean(idle_j)) if idle_j else None,
        provenance=mean.provenance.value,
        share=readings[0].share.value,
    )


def lines(points: Sequence[Point]) -> list[Line]:
    """How cost grows with input size, of each arm that was measured at two sizes or more."""
    fitted = []
    for arm in dict.fromkeys(point.arm for point in points):
        alone = [point for point in points if point.arm == arm and point.concurrency == 1]
        if len({point.batch for point in alone}) < 2:
            continue
        per_sample_ms, fixed_ms = _fit(alone, [point.p50_ms for point in alone])
        known_j = [point.energy_j for point in alone if point.energy_j is not None]
        per_sample_j, fixed_j = _fit(alone, known_j) if len(known_j) == len(alone) else (None, None)
        fitted.append(Line(arm, fixed_ms, per_sample_ms, fixed_j, per_sample_j))
    return fitted


def _fit(points: Sequence[Point], cost_b: Sequence[float]) -> tuple[float, float]:
    slope, fixed = np.polyfit([point.batch for point in points], cost_b, 1)
    return float(slope), float(fixed)


def document(source: EnergySource, plan: Plan, points: Sequence[Point], *, made_unix_s: float) -> dict[str, Any]:
    """Everything that was measured, and what with."""
    return {
        "format": FORMAT,
        "made_unix_s": made_unix_s,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made_unix_s)),
        "device": source.device,
        "simulated": source.simulated,
        "python": platform.python_version(),
        "latency_provenance": "measured",
        "energy": {
            "method": source.meter.method,
            "provenance": source.meter.provenance.value,
            "rate_hz": source.rate_hz,
            "why": source.why,
            "problem": source.problem,
            "cure": source.cure,
            "profile_digest": source.digest,
        },
        "plan": asdict(plan),
        "points": [asdict(point) for point in points],
        "lines": [asdict(line) for line in lines(points)],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Put a document where the old one was, whole or not at all.

    Raises:
        ConfigError: it cannot be written there.
    """
    fresh = path.with_suffix(path.suffix + ".new")
    try:
        fresh.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
        fresh.replace(path)
    except OSError as problem:
        raise ConfigError(f"--to: {path} cannot be written: {problem.strerror}") from None
