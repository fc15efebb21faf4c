"""Joules of the CPU from Linux powercap (Intel and AMD RAPL).

Which zones count: all packages together, each with its DRAM zone where that lies beside it and not within. A package
zone counts its cores and its integrated graphics already. `psys`, the whole platform, counts the packages again: it is
taken only where there is no package, and then the method says so. Wrap-around is taken care of by each zone's range.

The counter steps about once a millisecond: one short run may read nothing and the next one twice its joules; only sums
over many are exact. Source: Linux Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nodes.energy.contract import Provenance
from nodes.energy.meters.sysfs import NumberFile, text_or_none
from nodes.errors import EnergySourceMissing

POWERCAP = Path("/sys/class/powercap")
COUNTER_STEP_S = 1e-3


@dataclass
class _Zone:
    file: NumberFile
    range_uj: int
    last_uj: int


class RaplCounter:
    """Joules of all counted zones since it was opened.

    Whoever does not read for longer than a wrap (about 40 minutes at 100 W) loses whole turns.

    Attributes:
        names: What is counted.

    Raises:
        EnergySourceMissing: if no zone can be read; the text says why, its cure what to do.
    """

    provenance = Provenance.MEASURED
    step_s = COUNTER_STEP_S

    def __init__(self, root: Path = POWERCAP) -> None:
        zones, self.method = _choose(root)
        self.names = tuple(name for _, name in zones)
        self._zones = [_open(zone) for zone, _ in zones]
        self._total_uj = 0

    def read_j(self) -> float:
        """Joules since the counter was opened. Cost: one sysfs read per zone."""
        for zone in self._zones:
            now_uj = zone.file.read()
            # The counter starts again at 0 after its range.
            self._total_uj += (now_uj - zone.last_uj) % (zone.range_uj + 1)
            zone.last_uj = now_uj
        return self._total_uj * 1e-6


def _choose(root: Path) -> tuple[list[tuple[Path, str]], str]:
    tops = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    named = [(zone, text_or_none(zone / "name") or "") for zone in tops]
    packages = [(zone, name) for zone, name in named if name.startswith(("package", "dram"))]
    if packages:
        return packages, "rapl"
    platform = [(zone, name) for zone, name in named if name == "psys"]
    if platform:
        return platform[:1], "rapl_psys"
    raise EnergySourceMissing(f"no CPU package counter under {root}")


def _open(zone: Path) -> _Zone:
    energy = NumberFile(zone / "energy_uj")
    return _Zone(energy, NumberFile(zone / "max_energy_range_uj").read(), energy.read())
