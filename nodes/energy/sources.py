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
    sampler: Sampler | None = None


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
    return _sampled(gauge, places, device="", what=f"the board's rails ({rails})", signals=no_signals)


def open_nvml(places: Places) -> Opened:
    """NVIDIA GPUs: their energy counters, or their power where they have none. Raises EnergySourceMissing."""
    devices = NvmlDevices(places.nvml)
    try:
        counter = devices.counter()
    except EnergySourceMissing as missing:
        what = f"GPU power (no energy counter: {missing.problem})"
        return _sampled(devices.gauge(), places, device=devices.name, what=what, signals=devices.signals)
    idle_w = measure_idle_w(counter, window_s=places.idle_window_s, wait=places.wait)
    why = f"the GPU's energy counter is readable; idle power is {idle_w:.3g} W"
    return Opened(LateMeter(counter, idle_w=idle_w), devices.name, 0.0, why, devices.signals)


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


def _sampled(gauge: Gauge, places: Places, *, device: str, what: str, signals: Callable[[], Signals]) -> Opened:
    idle_w = _idle_of(gauge, places)
    meter = LateMeter(gauge, idle_w=idle_w)
    sampler = Sampler(meter.sample)
    part = "" if gauge.window_s >= gauge.period_s else f", seen for {gauge.window_s / gauge.period_s:.0%} of the time"
    return Opened(
        meter, device, RATE_HZ, f"{what} at {RATE_HZ:g} Hz{part}; idle power is {idle_w:.3g} W", signals, sampler
    )


def _idle_of(gauge: Gauge, places: Places) -> float:
    """Mean of what a gauge shows while the node does nothing. Blocks for the window."""
    reads = max(1, round(places.idle_window_s / gauge.period_s))
    total_w = gauge.read_w()
    for _ in range(reads - 1):
        places.wait(gauge.period_s)
        total_w += gauge.read_w()
    return total_w / reads
