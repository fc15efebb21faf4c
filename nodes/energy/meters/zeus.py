"""Joules through Zeus, for devices that only it can read (AMD GPUs, Apple silicon). Extra `energy`.

Zeus measures windows; each read closes one and opens the next, and their joules are added up. A monitor that found
no device measures nothing and raises nothing: such an empty measurement is *unmeasured* here, never 0 J.

Zeus and Ray must not be installed together: Zeus brings amdsmi, and beside it `import ray` fails without ROCm.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from nodes.energy.contract import Provenance
from nodes.errors import EnergySourceMissing

WINDOW = "edgewise"


class Monitor(Protocol):
    """The part of `zeus.monitor.ZeusMonitor` that is used."""

    def begin_window(self, key: str, sync_execution: bool = True) -> None:
        """Start to measure."""
        ...

    def end_window(self, key: str, sync_execution: bool = True) -> Any:
        """Joules since `begin_window`: attributes gpu_energy, cpu_energy, dram_energy (dicts or None), soc_energy."""
        ...


class ZeusCounter:
    """Joules of all devices that Zeus finds, since it was opened.

    Raises:
        EnergySourceMissing: Zeus is not installed, or finds no device.
    """

    provenance = Provenance.MEASURED
    method = "zeus"
    step_s = 0.1

    def __init__(self, monitor: Monitor | None = None) -> None:
        self._monitor = monitor or _open_monitor()
        self._total_j = 0.0
        self._monitor.begin_window(WINDOW, sync_execution=False)
        self.read_j()

    def read_j(self) -> float:
        """Joules since it was opened.

        Raises:
            EnergySourceMissing: the measurement was empty.
        """
        try:
            measured = self._monitor.end_window(WINDOW, sync_execution=False)
            self._monitor.begin_window(WINDOW, sync_execution=False)
        except Exception as error:  # The rim: Zeus raises what its back ends raise.
            raise EnergySourceMissing(f"Zeus failed: {type(error).__name__}") from error
        self._total_j += _joules(measured)
        return self._total_j


def _open_monitor() -> Monitor:
    try:
        monitor: Monitor = importlib.import_module("zeus.monitor").ZeusMonitor()
    except ImportError as error:
        raise EnergySourceMissing("Zeus is not installed", cure="pip install 'edgewise[energy]'") from error
    except Exception as error:  # The rim: see above.
        raise EnergySourceMissing(f"Zeus cannot start: {type(error).__name__}") from error
    return monitor


def _joules(measured: Any) -> float:
    """All joules of a measurement."""
    parts = [getattr(measured, name, None) for name in ("gpu_energy", "cpu_energy", "dram_energy", "soc_energy")]
    known = [part for part in parts if part]
    if not known:
        raise EnergySourceMissing("Zeus found no device that it can measure")
    return float(sum(_sum(part) for part in known))


def _sum(part: Any) -> float:
    if isinstance(part, dict):
        return float(sum(part.values()))
    if isinstance(part, int | float):
        return float(part)
    # Apple silicon: an object with millijoules by domain.
    values_mj = [value for name, value in vars(part).items() if name.endswith("_mj") and value is not None]
    return float(sum(values_mj)) * 1e-3
