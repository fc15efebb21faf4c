"""A powercap tree as Linux documents it (power/powercap/powercap.rst), with counters that wrap."""

from __future__ import annotations

from pathlib import Path


class FakeRapl:
    """Two packages, a core zone within the first, psys beside them, and a clock.

    Args:
        packages: How many; none leaves psys alone.
    """

    def __init__(self, root: Path, *, range_uj: int = 10_000_000, packages: int = 2) -> None:
        self.root = root
        self.range_uj = range_uj
        self.counters_uj = [range_uj - 1000, 5][:packages]
        self.burned_j = 0.0
        self.now_s = 100.0
        for index in range(packages):
            self._zone(f"intel-rapl:{index}", f"package-{index}")
        self._zone("intel-rapl:0:0", "core")
        self._zone("intel-rapl:2", "psys")
        self._write()

    def add_top_zone(self, zone: str, name: str) -> None:
        """Put a zone beside the packages, as servers do with DRAM."""
        self._zone(zone, name)

    def _zone(self, zone: str, name: str) -> None:
        folder = self.root / zone
        folder.mkdir(parents=True)
        (folder / "name").write_text(name + "\n")
        (folder / "max_energy_range_uj").write_text(f"{self.range_uj}\n")
        (folder / "energy_uj").write_text("777\n")

    def _write(self) -> None:
        for index, counter_uj in enumerate(self.counters_uj):
            (self.root / f"intel-rapl:{index}" / "energy_uj").write_text(f"{counter_uj}\n")

    def burn(self, joules: float) -> None:
        """Equal parts in each package, at 10 W."""
        for index in range(len(self.counters_uj)):
            step_uj = round(joules * 1e6 / len(self.counters_uj))
            self.counters_uj[index] = (self.counters_uj[index] + step_uj) % (self.range_uj + 1)
        self.burned_j += joules
        self.now_s += joules / 10.0
        self._write()
