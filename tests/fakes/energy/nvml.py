"""An NVML library without a driver: the functions of nvidia-ml-py that are used, and faults on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

NOT_SUPPORTED, NO_PERMISSION, GPU_LOST = 3, 4, 15


class NVMLError(Exception):
    """As the real one: `value` is NVML's code."""

    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


@dataclass
class FakeGpu:
    """One GPU; None means that it does not support a reading."""

    name: str = "Fake GPU"
    capability: tuple[int, int] = (8, 6)
    energy_mj: int | None = 1_000_000
    power_mw: int | None = 60_000
    instant_mw: int | None = 60_000
    temperature_c: int | None = 55
    reasons: int = 0


@dataclass
class _Value:
    uiVal: int


@dataclass
class _Field:
    nvmlReturn: int
    value: _Value


@dataclass
class FakeNvml:
    """Handles are indices. `broken` names functions that fail, with the code they fail with."""

    gpus: list[FakeGpu] = field(default_factory=lambda: [FakeGpu()])
    broken: dict[str, int] = field(default_factory=dict)
    NVMLError: type[NVMLError] = NVMLError

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        code = super().__getattribute__("broken").get(name) if name.startswith("nvml") else None
        if code is None:
            return found
        return _failing(name, code)

    def nvmlInit(self) -> None:
        return None

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.gpus[handle].name

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return self.gpus[handle].capability

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return _or_refuse(self.gpus[handle].energy_mj)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return _or_refuse(self.gpus[handle].power_mw)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        assert sensor == 0
        return _or_refuse(self.gpus[handle].temperature_c)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return self.gpus[handle].reasons

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[int]) -> list[_Field]:
        assert fields == [186]
        instant_mw = self.gpus[handle].instant_mw
        return [_Field(NOT_SUPPORTED if instant_mw is None else 0, _Value(instant_mw or 0))]


def _or_refuse(value: int | None) -> int:
    if value is None:
        raise NVMLError(NOT_SUPPORTED)
    return value


def _failing(name: str, code: int) -> Callable[..., NoReturn]:
    def fail(*_arguments: object) -> NoReturn:
        raise NVMLError(code)

    fail.__name__ = name
    return fail
