"""One world per meter: burn joules in it, and ask an outsider how many there were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nodes.energy.contract import EnergyReading, Meter, Settlement, Span
from nodes.energy.meters.counter import CounterMeter
from nodes.energy.meters.hwmon import JetsonGauge
from nodes.energy.meters.late import LateMeter
from nodes.energy.meters.modelled import ModelledMeter
from nodes.energy.meters.nvml import NvmlDevices
from nodes.energy.meters.rapl import RaplCounter
from nodes.energy.meters.replay import ReplayCounter
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.energy.meters.zeus import ZeusCounter
from nodes.energy.profile import DeviceProfile, Noise, Source
from tests.fakes.energy.clock import FakeClock
from tests.fakes.energy.jetson import FakeJetson, agx_orin, orin_nx, thor
from tests.fakes.energy.nvml import FakeGpu, FakeNvml
from tests.fakes.energy.powercap import FakeRapl

MACS = 1000
POWER_W = 10.0


def profile(noise: Noise | None = None) -> DeviceProfile:
    """Constants of no device."""
    source = Source("title", "submission", ())
    return DeviceProfile("test", "test device", True, 2e-6, 1e-3, None, source, "by hand", noise)


def _no_pause() -> None:
    return None


@dataclass
class World:
    """A meter and the world that it measures.

    Attributes:
        burn: Let work of so many joules pass.
        truth_j: What an outsider says that so many runs took; None where only the meter knows.
        catch_up: Let so much quiet time pass that a late sensor has shown everything.
        tolerance: How far sums may be off, as a part of them.
    """

    meter: Meter
    burn: Callable[[float], None]
    truth_j: Callable[[int], float] | None
    catch_up: Callable[[], None] = _no_pause
    tolerance: float = 1e-5
    settled: dict[Span, EnergyReading] = field(default_factory=dict)

    def settle(self) -> Sequence[Settlement]:
        """Final readings of what has ended."""
        self.catch_up()
        found = self.meter.settle()
        self.settled.update({one.span: one.reading for one in found})
        return found


def modelled(_folder: Path) -> World:
    return World(ModelledMeter(profile()), lambda _j: None, lambda runs: runs * (1e-3 + MACS * 2e-6))


def noisy(_folder: Path) -> World:
    return World(ModelledMeter(profile(Noise(0.3, 0.005, 3.0)), seed=7), lambda _j: None, None)


def rapl(folder: Path) -> World:
    world = FakeRapl(folder, range_uj=60_000_000)  # Wraps on the way.
    meter = CounterMeter(RaplCounter(folder), idle_w=0.0, clock=lambda: world.now_s)
    return World(meter, world.burn, lambda _runs: world.burned_j)


def replay(folder: Path) -> World:
    """A trace of ten watts; burning is letting it run."""
    (folder / "ten-watts.csv").write_text("time_s,power_w\n0,10\n500,10\n1000,10\n")
    clock = FakeClock()
    meter = CounterMeter(ReplayCounter(folder / "ten-watts.csv", clock=clock), idle_w=0.0, clock=clock)
    return World(meter, lambda joules: clock.wait(joules / POWER_W), lambda _runs: (clock.now_s - 100.0) * POWER_W)


class FakeZeus:
    """A monitor of one GPU and one CPU package; `empty` finds no device."""

    def __init__(self, *, empty: bool = False) -> None:
        self.empty = empty
        self.burned_j = self._shown_j = 0.0

    def begin_window(self, key: str, sync_execution: bool = True) -> None:
        """As ZeusMonitor."""
        self._shown_j = self.burned_j

    def end_window(self, key: str, sync_execution: bool = True) -> object:
        """As ZeusMonitor."""
        step_j = self.burned_j - self._shown_j

        class Measurement:
            gpu_energy = {} if self.empty else {0: step_j * 0.75}
            cpu_energy = None if self.empty else {0: step_j * 0.25}
            dram_energy = None
            soc_energy = None

        return Measurement()


def zeus(_folder: Path) -> World:
    monitor, clock = FakeZeus(), FakeClock()
    meter = CounterMeter(ZeusCounter(monitor), idle_w=0.0, clock=clock)

    def burn(joules: float) -> None:
        clock.wait(joules / POWER_W)
        monitor.burned_j += joules

    return World(meter, burn, lambda _runs: monitor.burned_j)


def nvml_counter(_folder: Path) -> World:
    """A GPU whose counter moves on at every tick with what flowed. Prompt here: lag is the attribution's test."""
    library, clock = FakeNvml([FakeGpu(energy_mj=0)]), FakeClock()
    meter = LateMeter(NvmlDevices(library).counter(), idle_w=1.0, clock=clock)
    gpu = library.gpus[0]

    def set_w(power_w: float) -> None:
        gpu.energy_mj = (gpu.energy_mj or 0) + round(power_w * 100)

    return _sampled(meter, clock, set_w)


def _sampled(meter: LateMeter, clock: FakeClock, set_w: Callable[[float], None]) -> World:
    """A source that is read every 100 ms; `set_w` says what flows for the next of them."""
    burned = [0.0]

    def flow(power_w: float, seconds: float) -> None:
        for _ in range(max(1, round(seconds / 0.1))):
            set_w(power_w)
            clock.wait(0.1)
            meter.sample()

    def burn(joules: float) -> None:
        seconds = max(1, round(joules / POWER_W / 0.1)) * 0.1
        burned[0] += seconds * POWER_W
        flow(POWER_W + 1.0, seconds)

    flow(1.0, 1.0)
    return World(meter, burn, lambda _runs: burned[0], lambda: flow(1.0, 1.5), tolerance=0.05)


def nvml_power(_folder: Path) -> World:
    library, clock = FakeNvml([FakeGpu(energy_mj=None)]), FakeClock()
    meter = LateMeter(NvmlDevices(library).gauge(), idle_w=1.0, clock=clock)

    def set_w(power_w: float) -> None:
        library.gpus[0].instant_mw = round(power_w * 1e3)

    return _sampled(meter, clock, set_w)


def _jetson(folder: Path, make: Callable[[Path], FakeJetson], label: str) -> World:
    board, clock = make(folder), FakeClock()
    meter = LateMeter(JetsonGauge(folder), idle_w=1.0, clock=clock)
    return _sampled(meter, clock, board.set_vin_w if label == "VIN" else lambda power_w: board.set_w(label, power_w))


def jetson_agx(folder: Path) -> World:
    return _jetson(folder, agx_orin, "VDD_GPU_SOC")


def jetson_nx(folder: Path) -> World:
    return _jetson(folder, orin_nx, "VDD_IN")


def jetson_thor(folder: Path) -> World:
    return _jetson(folder, thor, "VIN")


def unmeasured(_folder: Path) -> World:
    return World(UnmeasuredMeter(), lambda _j: None, None)


PROMPT = (modelled, noisy, rapl, replay, zeus, unmeasured)
LATE = (nvml_counter, nvml_power, jetson_agx, jetson_nx, jetson_thor)
EVERY = (*PROMPT, *LATE)
