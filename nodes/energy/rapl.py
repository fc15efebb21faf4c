"""Joules of the CPU packages from Linux powercap (Intel and AMD RAPL), attributed to concurrent work.

On every begin and end the counter's step since the last event, less idle power times the time, is split equally
among the work that ran in between. So the readings plus `idle_j` add up to what the counter counted while work
ran. The counter steps about once a millisecond: one short run may read nothing and the next one twice its
joules; only sums over many are exact. Source: Linux Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nodes.energy.contract import EnergyReading, Provenance, Span
from nodes.errors import EnergySourceMissing

POWERCAP = Path("/sys/class/powercap")
COUNTER_STEP_S = 1e-3


@dataclass
class _Package:
    file: Path
    range_uj: int
    last_uj: int


class RaplCounter:
    """Joules of all CPU packages together since it was opened; wrap-around is taken care of.

    Whoever does not read for longer than a wrap (about 40 minutes at 100 W) loses whole turns.

    Raises:
        EnergySourceMissing: if no package counter can be read; the text says why.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        zones = [zone for zone in zones if _text(zone / "name").startswith("package")]
        if not zones:
            raise EnergySourceMissing(f"no CPU package counter under {root}")
        self._packages = [_open_package(zone) for zone in zones]
        self._total_uj = 0

    def read_j(self) -> float:
        """Joules since the counter was opened."""
        for package in self._packages:
            now_uj = int(_text(package.file))
            # The counter starts again at 0 after its range.
            self._total_uj += (now_uj - package.last_uj) % (package.range_uj + 1)
            package.last_uj = now_uj
        return self._total_uj * 1e-6


def _open_package(zone: Path) -> _Package:
    try:
        return _Package(zone / "energy_uj", int(_text(zone / "max_energy_range_uj")), int(_text(zone / "energy_uj")))
    except ValueError as error:
        raise EnergySourceMissing(f"{zone} holds something that is not a number") from error


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except PermissionError as error:
        raise EnergySourceMissing(f"{file} may only be read by root; allow it with: sudo chmod a+r {file}") from error
    except OSError as error:
        raise EnergySourceMissing(f"{file} cannot be read: {error.strerror}") from error


def measure_idle_w(
    counter: RaplCounter,
    *,
    window_s: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> float:
    """Mean watts of the packages while the node does nothing. Blocks for the window."""
    start_s, start_j = clock(), counter.read_j()
    wait(window_s)
    return (counter.read_j() - start_j) / max(clock() - start_s, 1e-9)


class RaplMeter:
    """Shares the counter's joules out among concurrent work.

    Attributes:
        idle_j: Joules that were idle power's while work ran.

    Args:
        counter: The packages.
        idle_w: Watts that flow without any work.
        clock: Monotonic seconds.
    """

    provenance = Provenance.MEASURED
    method = "rapl"

    def __init__(self, counter: RaplCounter, *, idle_w: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._counter = counter
        self._idle_w = idle_w
        self._clock = clock
        self._open: set[Span] = set()
        self._last_j = counter.read_j()
        self._last_s = clock()
        self.idle_j = 0.0

    def begin(self) -> Span:
        """See `Meter`. Cost: one sysfs read per package."""
        self._share_out()
        span = Span()
        self._open.add(span)
        return span

    def end(self, span: Span, *, compute_ms: float, macs: int) -> EnergyReading:  # noqa: ARG002
        """See `Meter`. Cost: one sysfs read per package."""
        if span not in self._open:
            raise ValueError("the span is not open")
        self._share_out()
        self._open.remove(span)
        return EnergyReading(span.energy_j, math.sqrt(span.uncertainty_j), self.provenance, self.method)

    def estimate(self, macs: int) -> EnergyReading | None:  # noqa: ARG002
        """See `Meter`: only running tells."""
        return None

    def _share_out(self) -> None:
        now_j, now_s = self._counter.read_j(), self._clock()
        step_j, step_s = now_j - self._last_j, now_s - self._last_s
        self._last_j, self._last_s = now_j, now_s
        if not self._open:
            return
        idle_j = min(step_j, self._idle_w * step_s)
        self.idle_j += idle_j
        share_j = (step_j - idle_j) / len(self._open)
        # Either end of the interval may miss one step of the counter; variances add up, so squares are kept.
        miss_j = COUNTER_STEP_S * step_j / max(step_s, COUNTER_STEP_S)
        for span in self._open:
            span.energy_j += share_j
            span.uncertainty_j += (miss_j / len(self._open)) ** 2
