from __future__ import annotations

import numpy as np
import pytest

from nodes.energy.meters.modelled import ModelledMeter
from nodes.energy.profile import Noise
from tests.fakes.energy.worlds import profile


def _draws_j(meter: ModelledMeter, count: int) -> np.ndarray:
    readings = [meter.end(meter.begin(), compute_ms=1.0, macs=1000) for _ in range(count)]
    return np.array([reading.energy_j for reading in readings])


def test_without_noise_every_run_costs_the_prediction() -> None:
    meter = ModelledMeter(profile())
    assert _draws_j(meter, 3).tolist() == [pytest.approx(3e-3)] * 3
    assert meter.estimate(1000).energy_j == pytest.approx(3e-3)
    assert meter.method == "profile:test"


def test_noise_is_lognormal_with_outliers_and_repeats_with_its_seed() -> None:
    noise = Noise(0.3, 0.005, 3.0)
    draws_j = _draws_j(ModelledMeter(profile(noise), seed=1), 20_000)
    factors = draws_j / 3e-3
    assert np.median(factors) == pytest.approx(1.0, rel=0.02)
    assert np.std(np.log(factors)) == pytest.approx(np.hypot(0.3, np.log(3) * 0.005**0.5), rel=0.03)
    assert (_draws_j(ModelledMeter(profile(noise), seed=1), 50) == draws_j[:50]).all()
    assert (_draws_j(ModelledMeter(profile(noise), seed=2), 50) != draws_j[:50]).any()


def test_noise_is_named_and_does_not_touch_the_prediction() -> None:
    meter = ModelledMeter(profile(Noise(0.3, 0.0, 1.0)))
    assert meter.method == "profile:test+noise"
    estimate = meter.estimate(1000)
    assert estimate.energy_j == pytest.approx(3e-3)
    assert estimate.uncertainty_j == pytest.approx(0.3 * 3e-3)
