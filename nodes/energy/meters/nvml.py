"""Joules, watts and state of NVIDIA GPUs through NVML. Extra `gpu` (nvidia-ml-py); the library is loaded on first use.

Where the GPU has an energy counter (Volta and newer), that is read: it misses nothing between readings. Else its
power is sampled, and two things must be known about the value: A100 and H100 look at their power for only about 25 ms
of every 100, so a reading stands for four times the time that it saw (`window_s` against `period_s`; what happened in
between is reconstructed from what was busy, see `nodes.energy.attribution`); and from Ampere on, GA100 excepted, the
plain power reading is an average over the last second, which is why the instantaneous field is preferred.

Source: NVML API reference (nvmlDeviceGetTotalEnergyConsumption, nvmlDeviceGetPowerUsage, clock event reasons);
arXiv:2312.02741 for duty and period. Not run on hardware by us: a fake library stands in.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nodes.energy.contract import Provenance, Signals, Throttle
from nodes.errors import EnergySourceMissing

PERIOD_S = 0.1
PART_TIME_WINDOW_S = 0.025
AVERAGE_WINDOW_S = 1.0
# Compute capabilities of the chips that watch their power part of the time: A100 and H100.
PART_TIME = {(8, 0), (9, 0)}
AMPERE = (8, 0)
POWER_INSTANT = 186

REASONS = {
    0x04: Throttle.POWER_CAP,
    0x08: Throttle.HARDWARE_SLOWDOWN,
    0x20: Throttle.SOFTWARE_THERMAL,
    0x40: Throttle.HARDWARE_THERMAL,
    0x80: Throttle.POWER_BRAKE,
}
NOT_SUPPORTED = 3
CURES = {
    4: "let this user open /dev/nvidia* (group video or render)",
    9: "load NVIDIA's driver; nvidia-smi must work first",
    12: "install NVIDIA's driver; its libnvidia-ml.so.1 is what is missing",
    15: "restart the machine; nvidia-smi names the GPU that was lost",
    18: "driver and library differ in version; restart the machine",
}

Value = TypeVar("Value")
# nvidia-ml-py has no types; anything with its functions will do.
Library = Any


def open_library() -> Library:
    """NVML, started.

    Raises:
        EnergySourceMissing: nvidia-ml-py is not installed, or NVML does not start.
    """
    try:
        library = importlib.import_module("pynvml")
    except ImportError as error:
        raise EnergySourceMissing("nvidia-ml-py is not installed", cure="pip install 'edgewise[gpu]'") from error
    _call(library, library.nvmlInit)
    return library


@dataclass(frozen=True)
class _Gpu:
    library: Library
    handle: Any
    name: str
    capability: tuple[int, int]

    def ask(self, function: str, *arguments: Any) -> Any:
        return _call(self.library, getattr(self.library, function), self.handle, *arguments)


class NvmlDevices:
    """All GPUs that NVML shows; `counter` or `gauge` reads their power, `signals` their state.

    Raises:
        EnergySourceMissing: NVML fails or shows no GPU.
    """

    def __init__(self, library: Library | None = None) -> None:
        self._library = library if library is not None else open_library()
        count = _call(self._library, self._library.nvmlDeviceGetCount)
        if not count:
            raise EnergySourceMissing("NVML shows no GPU")
        self._gpus = [_gpu(self._library, index) for index in range(count)]
        self.name = " + ".join(gpu.name for gpu in self._gpus)

    def counter(self) -> NvmlCounter:
        """Their energy counters.

        Raises:
            EnergySourceMissing: one of them has none.
        """
        return NvmlCounter(self._gpus)

    def gauge(self) -> NvmlGauge:
        """Their power readings.

        Raises:
            EnergySourceMissing: one of them shows none, as on Jetson boards.
        """
        return NvmlGauge(self._gpus)

    def signals(self) -> Signals:
        """The highest temperature and all reasons for slow clocks. What a GPU does not tell is left out."""
        temperatures = [_quietly(gpu, "nvmlDeviceGetTemperature", 0) for gpu in self._gpus]
        masks = [_reasons(gpu) for gpu in self._gpus]
        known = [float(value) for value in temperatures if value is not None]
        throttles = [throttle for bit, throttle in REASONS.items() if any(mask & bit for mask in masks)]
        return Signals(max(known, default=None), tuple(throttles))


class NvmlCounter:
    """Joules of all GPUs since it was opened. The counter is late and steps about every 20 to 100 ms."""

    provenance = Provenance.MEASURED
    method = "nvml-energy"
    step_s = PERIOD_S

    def __init__(self, gpus: Sequence[_Gpu]) -> None:
        self._gpus = gpus
        self._last_mj = [self._read_mj(gpu) for gpu in gpus]
        self._total_mj = 0

    def read_j(self) -> float:
        """See `Counter`. A driver that was loaded again counts from 0; what it counted in between is lost."""
        for index, gpu in enumerate(self._gpus):
            now_mj = self._read_mj(gpu)
            self._total_mj += max(0, now_mj - self._last_mj[index])
            self._last_mj[index] = now_mj
        return self._total_mj * 1e-3

    def _read_mj(self, gpu: _Gpu) -> int:
        return int(gpu.ask("nvmlDeviceGetTotalEnergyConsumption"))


class NvmlGauge:
    """Watts of all GPUs."""

    provenance = Provenance.MEASURED
    method = "nvml-power"
    period_s = PERIOD_S

    def __init__(self, gpus: Sequence[_Gpu]) -> None:
        self._readers = [_power_reader(gpu) for gpu in gpus]
        # Several GPUs add up; the narrowest window is the one that is missed most easily.
        self.window_s = min(window_s for _, window_s in self._readers)

    def read_w(self) -> float:
        """See `Gauge`."""
        return sum(read_w() for read_w, _ in self._readers)


def _power_reader(gpu: _Gpu) -> tuple[Callable[[], float], float]:
    """How to read a GPU's watts, and what they are the mean of."""
    full_s = PART_TIME_WINDOW_S if gpu.capability in PART_TIME else PERIOD_S
    if _instant_w(gpu) is not None:
        return lambda: _required(gpu), full_s
    gpu.ask("nvmlDeviceGetPowerUsage")
    averaged = gpu.capability > AMPERE
    return lambda: float(gpu.ask("nvmlDeviceGetPowerUsage")) * 1e-3, AVERAGE_WINDOW_S if averaged else full_s


def _instant_w(gpu: _Gpu) -> float | None:
    read = getattr(gpu.library, "nvmlDeviceGetFieldValues", None)
    values = None if read is None else _quietly(gpu, "nvmlDeviceGetFieldValues", [POWER_INSTANT])
    if values is None or values[0].nvmlReturn != 0:
        return None
    return float(values[0].value.uiVal) * 1e-3


def _required(gpu: _Gpu) -> float:
    power_w = _instant_w(gpu)
    if power_w is None:
        raise EnergySourceMissing(f"{gpu.name} no longer shows its power")
    return power_w


def _gpu(library: Library, index: int) -> _Gpu:
    handle = _call(library, library.nvmlDeviceGetHandleByIndex, index)
    name = _call(library, library.nvmlDeviceGetName, handle)
    capability = _call(library, library.nvmlDeviceGetCudaComputeCapability, handle)
    return _Gpu(library, handle, name.decode() if isinstance(name, bytes) else str(name), tuple(capability))


def _reasons(gpu: _Gpu) -> int:
    new = hasattr(gpu.library, "nvmlDeviceGetCurrentClocksEventReasons")
    name = "nvmlDeviceGetCurrentClocksEventReasons" if new else "nvmlDeviceGetCurrentClocksThrottleReasons"
    return int(_quietly(gpu, name) or 0)


def _quietly(gpu: _Gpu, function: str, *arguments: Any) -> Any:
    try:
        return gpu.ask(function, *arguments)
    except EnergySourceMissing:
        return None


def _call(library: Library, function: Callable[..., Value], *arguments: Any) -> Value:
    try:
        return function(*arguments)
    except library.NVMLError as error:
        code = int(getattr(error, "value", 0))
        what = "does not support this" if code == NOT_SUPPORTED else f"failed: {error}"
        raise EnergySourceMissing(f"NVML {what} ({function.__name__})", cure=CURES.get(code, "")) from error
