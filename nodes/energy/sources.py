"""Opens each energy source, ready to meter: what discovery chooses from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nodes.energy.contract import Gauge, Meter, Signals
from nodes.energy.meters.calibration import load_calibration
from nodes.energy.meters.counter import CounterMeter, measure_idle_w
from nodes.energy.meters.hwmon import HWMON, JetsonGauge
from nodes.energy.meters.late import LateMeter
from nodes.energy.meters.nvml import Library, NvmlDevices
from nodes.energy.meters.rapl import POWERCAP, RaplCounter
from nodes.energy.meters.replay import ReplayCounter
from nodes.energy.meters.sampler import RATE_HZ, Sampler
from nodes.energy.meters.zeus import ZeusCounter
from nodes.energy.native import sampling
from nodes.energy.native.sampling import NativeSampler
from nodes.errors import EnergySourceMissing


def no_signals() -> Signals:
    """Of a device that says nothing about its state."""
    return Signals()


@dataclass(frozen=True)
class Places:
    """Where sources are looked for; tests bring their own.

    Attributes:
        trace: CSV file that `replay` follows.
        calibration: What a meter at the plug said about a board's sensors.
        nvml: NVML library; None loads it.
        idle_window_s: How long idle power is measured at the start.
    """

    powercap: Path = POWERCAP
    hwmon: Path = HWMON
    trace: Path | None = None
    calibration: Path | None = None
    nvml: Library | None = None
    idle_window_s: float = 1.0
    wait: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Opened:
    """A source that can be read.

    Attributes:
        device: What it measures, in words; "" where the source does not know.
        rate_hz: How often it is sampled; 0 where it is read when work begins and ends.
        why: One line for doctor and log.
    """

    meter: Meter
    device: str
    rate_hz: float
    why: str
    signals: Callable[[], Signals] = field(default=no_signals)
    sampler: Sampler | NativeSampler | None = None


def open_rapl(places: Places) -> Opened:
    """The CPU's packages. Raises EnergySourceMissing."""
    counter = RaplCounter(places.powercap)
    idle_w = measure_idle_w(counter, window_s=places.idle_window_s, wait=places.wait)
    why = f"the CPU's counters ({', '.join(counter.names)}) are readable; idle power is {idle_w:.3g} W"
    return Opened(CounterMeter(counter, idle_w=idle_w), "", 0.0, why)


def open_jetson(places: Places) -> Opened:
    """A Jetson board's own sensors. Raises EnergySourceMissing, ConfigError."""
    calibration = None if places.calibration is None else load_calibration(places.calibration)
    gauge = JetsonGauge(places.hwmon, calibration)
    rails = " + ".join(rail.label for rail in gauge.rails)
    meter, why = _late(gauge, places, f"the board's rails ({rails})")
    sampler = file_sampler(gauge, meter) if sampling.available() else Sampler(meter.sample)
    return Opened(meter, "", RATE_HZ, why, sampler=sampler)


def file_sampler(gauge: JetsonGauge, meter: LateMeter) -> NativeSampler:
    """The compiled sampler of a gauge that consists of files."""
    sampler = NativeSampler(
        gauge.files, lambda read_s_k, rows: meter.keep(read_s_k, [*map(gauge.power_w, rows)]), rate_hz=RATE_HZ
    )
    meter.drain = sampler.drain
    return sampler


def open_nvml(places: Places) -> Opened:
    """NVIDIA GPUs: their energy counters, or their power where they have none. Raises EnergySourceMissing."""
    devices = NvmlDevices(places.nvml)
    try:
        counter = devices.counter()
    except EnergySourceMissing as missing:
        what = f"GPU power (no energy counter: {missing.problem})"
        meter, why = _late(devices.gauge(), places, what)
        return Opened(meter, devices.name, RATE_HZ, why, devices.signals, Sampler(meter.sample))
    idle_w = measure_idle_w(counter, window_s=places.idle_window_s, wait=places.wait)
    why = f"the GPU's energy counter is readable, at {RATE_HZ:g} Hz; idle power is {idle_w:.3g} W"
    meter = LateMeter(counter, idle_w=idle_w)
    return Opened(meter, devices.name, RATE_HZ, why, devices.signals, Sampler(meter.sample))


def open_zeus(places: Places) -> Opened:
    """Whatever Zeus finds. Raises EnergySourceMissing."""
    counter = ZeusCounter()
    idle_w = measure_idle_w(counter, window_s=places.idle_window_s, wait=places.wait)
    why = f"Zeus measures this machine; idle power is {idle_w:.3g} W"
    return Opened(CounterMeter(counter, idle_w=idle_w, step_s=counter.step_s), "", 0.0, why)


def open_replay(places: Places) -> Opened:
    """A recorded trace. Raises EnergySourceMissing, ConfigError."""
    if places.trace is None:
        raise EnergySourceMissing("no trace was named", cure="--energy-trace FILE.csv")
    counter = ReplayCounter(places.trace)
    idle_w = counter.first_w
    meter = CounterMeter(counter, idle_w=idle_w, step_s=counter.step_s)
    return Opened(
        meter, "", 0.0, f"follows {places.trace.name}; its first row, {idle_w:.3g} W, is taken for idle power"
    )


def _late(gauge: Gauge, places: Places, what: str) -> tuple[LateMeter, str]:
    """A meter of a gauge, and the line that says so."""
    idle_w = _idle_of(gauge, places)
    part = "" if gauge.window_s >= gauge.period_s else f", seen for {gauge.window_s / gauge.period_s:.0%} of the time"
    return LateMeter(gauge, idle_w=idle_w), f"{what} at {RATE_HZ:g} Hz{part}; idle power is {idle_w:.3g} W"


def _idle_of(gauge: Gauge, places: Places) -> float:
    """Mean of what a gauge shows while the node does nothing. Blocks for the window."""
    reads = max(1, round(places.idle_window_s / gauge.period_s))
    total_w = gauge.read_w()
    for _ in range(reads - 1):
        places.wait(gauge.period_s)
        total_w += gauge.read_w()
    return total_w / reads
