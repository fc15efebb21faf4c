from __future__ import annotations

import pytest

from nodes.energy.contract import Signals, Throttle
from nodes.energy.meters.nvml import NvmlDevices
from nodes.errors import EnergySourceMissing
from tests.fakes.energy.nvml import GPU_LOST, NO_PERMISSION, FakeGpu, FakeNvml


def test_counters_of_all_gpus_add_up_from_the_moment_of_opening() -> None:
    library = FakeNvml([FakeGpu(energy_mj=5_000), FakeGpu(energy_mj=9_000)])
    counter = NvmlDevices(library).counter()
    assert counter.read_j() == 0.0
    library.gpus[0].energy_mj = 6_500
    library.gpus[1].energy_mj = 9_250
    assert counter.read_j() == pytest.approx(1.75)


def test_a_counter_that_starts_again_never_takes_joules_back() -> None:
    library = FakeNvml([FakeGpu(energy_mj=5_000)])
    counter = NvmlDevices(library).counter()
    library.gpus[0].energy_mj = 6_000
    before_j = counter.read_j()
    library.gpus[0].energy_mj = 100
    assert counter.read_j() == before_j
    library.gpus[0].energy_mj = 400
    assert counter.read_j() == pytest.approx(before_j + 0.3)


@pytest.mark.parametrize(
    ("gpu", "power_w", "window_s"),
    [
        (FakeGpu(capability=(8, 0), instant_mw=200_000), 200.0, 0.025),  # A100: a quarter of the time.
        (FakeGpu(capability=(9, 0), instant_mw=300_000), 300.0, 0.025),  # H100: the same.
        (FakeGpu(capability=(8, 9), instant_mw=90_000), 90.0, 0.1),
        (FakeGpu(capability=(8, 9), instant_mw=None, power_mw=80_000), 80.0, 1.0),  # Averaged over a second.
        (FakeGpu(capability=(8, 0), instant_mw=None, power_mw=70_000), 70.0, 0.025),  # GA100 is not.
        (FakeGpu(capability=(7, 5), instant_mw=None, power_mw=40_000), 40.0, 0.1),
    ],
)
def test_power_says_what_it_is_the_mean_of(gpu: FakeGpu, power_w: float, window_s: float) -> None:
    gauge = NvmlDevices(FakeNvml([gpu])).gauge()
    assert gauge.read_w() == pytest.approx(power_w)
    assert gauge.window_s == window_s


def test_every_reason_for_slow_clocks_is_named() -> None:
    library = FakeNvml([FakeGpu(reasons=0x4 | 0x80, temperature_c=71), FakeGpu(reasons=0x1 | 0x20, temperature_c=83)])
    assert NvmlDevices(library).signals() == Signals(
        83.0, (Throttle.POWER_CAP, Throttle.SOFTWARE_THERMAL, Throttle.POWER_BRAKE)
    )
    library.gpus = [FakeGpu(reasons=0x8 | 0x40), FakeGpu()]
    assert NvmlDevices(library).signals().throttles == (Throttle.HARDWARE_SLOWDOWN, Throttle.HARDWARE_THERMAL)


def test_what_a_gpu_does_not_tell_is_unknown_and_never_zero() -> None:
    library = FakeNvml([FakeGpu(temperature_c=None)])
    assert NvmlDevices(library).signals() == Signals(None, ())


def test_without_counter_and_power_nothing_is_made_up() -> None:
    devices = NvmlDevices(FakeNvml([FakeGpu(energy_mj=None, power_mw=None, instant_mw=None)]))
    with pytest.raises(EnergySourceMissing, match="does not support this"):
        devices.counter()
    with pytest.raises(EnergySourceMissing, match="does not support this"):
        devices.gauge()


@pytest.mark.parametrize(
    ("function", "code", "cure"),
    [
        ("nvmlDeviceGetHandleByIndex", NO_PERMISSION, "/dev/nvidia"),
        ("nvmlDeviceGetCount", GPU_LOST, "restart"),
    ],
)
def test_errors_come_with_their_cure(function: str, code: int, cure: str) -> None:
    with pytest.raises(EnergySourceMissing, match=function) as missing:
        NvmlDevices(FakeNvml(broken={function: code}))
    assert cure in missing.value.cure


def test_no_gpu_is_said_and_a_gpu_that_is_lost_later_too() -> None:
    with pytest.raises(EnergySourceMissing, match="no GPU"):
        NvmlDevices(FakeNvml([]))
    library = FakeNvml()
    counter, gauge = NvmlDevices(library).counter(), NvmlDevices(library).gauge()
    library.broken = {"nvmlDeviceGetTotalEnergyConsumption": GPU_LOST, "nvmlDeviceGetFieldValues": GPU_LOST}
    with pytest.raises(EnergySourceMissing, match="restart"):
        counter.read_j()
    with pytest.raises(EnergySourceMissing, match="no longer shows"):
        gauge.read_w()
