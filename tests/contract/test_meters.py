"""What every energy meter promises, run against every implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodes.energy.contract import EnergyReading, Meter, Provenance, Span
from nodes.energy.modelled import ModelledMeter
from nodes.energy.profile import DeviceProfile, Noise, Source
from nodes.energy.rapl import RaplCounter, RaplMeter
from nodes.energy.unmeasured import UnmeasuredMeter

MACS = 1000


@dataclass
class Bench:
    """A meter and the world that it measures.

    Attributes:
        burn: Let work of so many joules pass.
        truth_j: What an outsider says that all work took; None where only the meter knows.
    """

    meter: Meter
    burn: Callable[[float], None]
    truth_j: Callable[[int], float] | None


def profile(noise: Noise | None = None) -> DeviceProfile:
    source = Source("title", "submission", ())
    return DeviceProfile("test", "test device", True, 2e-6, 1e-3, None, source, "by hand", noise)


class FakeRapl:
    """A powercap tree of two packages whose counters wrap, and a clock."""

    def __init__(self, root: Path, *, range_uj: int = 10_000_000) -> None:
        self.root = root
        self.range_uj = range_uj
        self.counters_uj = [range_uj - 1000, 5]
        self.burned_j = 0.0
        self.now_s = 100.0
        for index in (0, 1):
            self._zone(f"intel-rapl:{index}", f"package-{index}")
        self._zone("intel-rapl:0:0", "core")
        self._zone("intel-rapl:2", "psys")
        self._write()

    def _zone(self, zone: str, name: str) -> None:
        folder = self.root / zone
        folder.mkdir(parents=True)
        (folder / "name").write_text(name + "\n")
        (folder / "max_energy_range_uj").write_text(f"{self.range_uj}\n")
        (folder / "energy_uj").write_text("777\n")

    def _write(self) -> None:
        for index, counter_uj in enumerate(self.counters_uj):
            (self.root / f"intel-rapl:{index}" / "energy_uj").write_text(f"{counter_uj}\n")

    def burn(self, joules: float) -> None:
        """Half of it in each package, at 10 W."""
        for index in (0, 1):
            self.counters_uj[index] = (self.counters_uj[index] + round(joules * 5e5)) % (self.range_uj + 1)
        self.burned_j += joules
        self.now_s += joules / 10.0
        self._write()


def modelled(_tmp_path: Path) -> Bench:
    return Bench(ModelledMeter(profile()), lambda _j: None, lambda runs: runs * (1e-3 + MACS * 2e-6))


def noisy(_tmp_path: Path) -> Bench:
    return Bench(ModelledMeter(profile(Noise(0.3, 0.005, 3.0)), seed=7), lambda _j: None, None)


def rapl(tmp_path: Path) -> Bench:
    world = FakeRapl(tmp_path)
    meter = RaplMeter(RaplCounter(tmp_path), idle_w=0.0, clock=lambda: world.now_s)
    return Bench(meter, world.burn, lambda _runs: world.burned_j)


def unmeasured(_tmp_path: Path) -> Bench:
    return Bench(UnmeasuredMeter(), lambda _j: None, None)


@pytest.fixture(params=[modelled, noisy, rapl, unmeasured], ids=lambda make: make.__name__)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    make: Callable[[Path], Bench] = request.param
    return make(tmp_path)


def _overlapping(bench: Bench) -> list[EnergyReading]:
    """Six runs, up to three at once, while joules burn; none burn outside of them."""
    meter = bench.meter
    readings: list[EnergyReading] = []
    spans: list[Span] = []
    for step in range(8):
        if step < 6:
            spans.append(meter.begin())
        bench.burn(0.25 * (step + 1))
        if step >= 2:
            readings.append(meter.end(spans.pop(0), compute_ms=5.0, macs=MACS))
    return readings


def test_readings_are_finite_not_negative_and_say_where_they_come_from(bench: Bench) -> None:
    readings = _overlapping(bench)
    assert len(readings) == 6
    for reading in readings:
        assert reading.provenance is bench.meter.provenance
        assert reading.method == bench.meter.method
        assert math.isfinite(reading.uncertainty_j)
        assert reading.uncertainty_j >= 0.0
        known = bench.meter.provenance is not Provenance.UNMEASURED
        assert (reading.energy_j is not None) == known
        if reading.energy_j is not None:
            assert math.isfinite(reading.energy_j)
            assert reading.energy_j > 0.0


@pytest.mark.parametrize("make", [modelled, rapl], ids=lambda make: make.__name__)
def test_shares_add_up_to_what_an_outsider_saw(make: Callable[[Path], Bench], tmp_path: Path) -> None:
    bench = make(tmp_path)
    assert bench.truth_j is not None
    total_j = sum(reading.energy_j or 0.0 for reading in _overlapping(bench))
    assert total_j == pytest.approx(bench.truth_j(6), rel=1e-5)


def test_more_work_is_never_cheaper_in_sum(bench: Bench) -> None:
    spent_j = 0.0
    for _ in range(20):
        span = bench.meter.begin()
        bench.burn(0.1)
        reading = bench.meter.end(span, compute_ms=1.0, macs=MACS)
        before_j, spent_j = spent_j, spent_j + (reading.energy_j or 0.0)
        assert spent_j >= before_j


def test_a_span_ends_once(bench: Bench) -> None:
    span = bench.meter.begin()
    bench.meter.end(span, compute_ms=1.0, macs=MACS)
    with pytest.raises(ValueError, match="span"):
        bench.meter.end(span, compute_ms=1.0, macs=MACS)


def test_an_estimate_is_of_the_meters_own_kind_or_none(bench: Bench) -> None:
    estimate = bench.meter.estimate(MACS)
    if bench.meter.provenance is Provenance.MEASURED:
        assert estimate is None
        return
    assert estimate is not None
    assert (estimate.provenance, estimate.method) == (bench.meter.provenance, bench.meter.method)
