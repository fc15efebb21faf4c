"""Joules from a recorded trace: a CSV file with `time_s` and either `power_w` or `energy_j`.

Seconds of the trace count from the moment at which it is opened. Between rows power runs in a straight line; a counter
does too. A trace that has ended cannot tell any more, and says so instead of repeating itself.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nodes.energy.attribution.activity import Floats
from nodes.energy.contract import Provenance
from nodes.errors import ConfigError, EnergySourceMissing


class ReplayCounter:
    """A counter that follows a trace.

    Args:
        path: The CSV file.
        clock: Monotonic seconds.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or its times or joules fall.
    """

    provenance = Provenance.REPLAYED
    step_s = 0.0

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._time_s, self._energy_j = load_trace(path)
        self.method = f"replay:{path.stem}"
        self._clock = clock
        self._start_s = clock()

    @property
    def first_w(self) -> float:
        """Mean watts between the first two rows."""
        return float((self._energy_j[1] - self._energy_j[0]) / (self._time_s[1] - self._time_s[0]))

    def read_j(self) -> float:
        """Joules of the trace up to now.

        Raises:
            EnergySourceMissing: the trace has ended.
        """
        at_s = self._clock() - self._start_s + self._time_s[0]
        if at_s > self._time_s[-1]:
            raise EnergySourceMissing(f"the trace of {self.method} ended after {self._time_s[-1]:g} s")
        return float(np.interp(at_s, self._time_s, self._energy_j))


def load_trace(path: Path) -> tuple[Floats, Floats]:
    """Times in seconds and joules since the first, one of each per row.

    Raises:
        ConfigError: see `ReplayCounter`.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as problem:
        raise ConfigError(f"Trace {path} cannot be read: {problem.strerror}") from None
    column = next((name for name in ("energy_j", "power_w") if rows and name in rows[0]), None)
    if column is None or "time_s" not in rows[0] or len(rows) < 2:
        raise ConfigError(f"Trace {path}: needs the columns time_s and power_w or energy_j, and two rows")
    try:
        time_s, value = (np.array([float(row[name]) for row in rows]) for name in ("time_s", column))
    except (TypeError, ValueError):
        raise ConfigError(f"Trace {path}: every cell must be a number") from None
    energy_j = value - value[0] if column == "energy_j" else _integral(time_s, value)
    if not (np.isfinite(energy_j).all() and (np.diff(time_s) > 0).all() and (np.diff(energy_j) >= 0).all()):
        raise ConfigError(f"Trace {path}: times must rise, and joules may not fall")
    return time_s, energy_j


def _integral(time_s: Floats, power_w: Floats) -> Floats:
    steps_j = np.diff(time_s) * (power_w[1:] + power_w[:-1]) / 2
    return np.concatenate([[0.0], np.cumsum(steps_j)])
