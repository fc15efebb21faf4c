from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nodes.arms import Inventory
from nodes.energy.contract import Provenance
from nodes.energy.meters.counter import CounterMeter
from nodes.energy.meters.modelled import ModelledMeter
from nodes.energy.meters.rapl import RaplCounter
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.energy.profile import Noise
from nodes.engines.contract import Job, JobResult
from nodes.profiling import MAX_RUNS, MIN_RUNS, profile_arms
from tests.fakes.energy.powercap import FakeRapl
from tests.fakes.energy.worlds import profile
from tests.nodes.agent.engines import FakeEngine
from tests.nodes.conftest import MACS


class BurningEngine(FakeEngine):
    """Every run burns 0.01 J in a powercap tree."""

    def __init__(self, world: FakeRapl) -> None:
        super().__init__()
        self._world = world

    async def infer(self, job: Job) -> JobResult:
        self._world.burn(0.01)
        return JobResult({"probabilities": np.zeros((1, 10), np.float32)}, 0.0, 0.1)


async def test_milliseconds_are_measured_and_modelled_joules_are_the_prediction(inventory: Inventory) -> None:
    meter = ModelledMeter(profile(Noise(0.3, 0.0, 1.0)))
    profiles = await profile_arms(FakeEngine(), meter, inventory, seconds_per_arm=0.02)
    assert list(profiles) == [arm.key for arm in inventory.arms]
    tiny = profiles["tiny:onnx-fp32"]
    assert MIN_RUNS <= tiny.samples <= MAX_RUNS
    assert 0.0 < tiny.p50_ms <= tiny.p95_ms
    assert tiny.latency_provenance is Provenance.MEASURED
    assert tiny.energy.energy_j == pytest.approx(1e-3 + MACS * 2e-6)


async def test_a_sensors_joules_are_the_mean_of_many_runs(inventory: Inventory, tmp_path: Path) -> None:
    world = FakeRapl(tmp_path)
    meter = CounterMeter(RaplCounter(tmp_path), idle_w=0.0, clock=lambda: world.now_s)
    profiles = await profile_arms(BurningEngine(world), meter, inventory, seconds_per_arm=0.02)
    energy = profiles["tiny:onnx-fp32"].energy
    assert (energy.provenance, energy.method) == (Provenance.MEASURED, "rapl")
    assert energy.energy_j == pytest.approx(0.01, rel=1e-6)


async def test_unknown_joules_stay_unknown(inventory: Inventory) -> None:
    profiles = await profile_arms(FakeEngine(), UnmeasuredMeter(), inventory, seconds_per_arm=0.01)
    energy = profiles["tiny:onnx-fp32"].energy
    assert (energy.provenance, energy.energy_j) == (Provenance.UNMEASURED, None)
