"""hwmon trees of Jetson boards, as NVIDIA's developer guide and the kernel's ina3221.rst and ina238.rst describe them.

Written from documentation, not recorded on a board: volts, rails and folder names follow it, currents are made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Rails = Sequence[tuple[str, int]]  # label, millivolts

ORIN_NX: tuple[Rails, ...] = ((("VDD_IN", 5000), ("VDD_CPU_GPU_CV", 5000), ("VDD_SOC", 5000)),)
AGX_ORIN: tuple[Rails, ...] = (
    (("VDD_GPU_SOC", 19000), ("VDD_CPU_CV", 19000), ("VIN_SYS_5V0", 5000)),
    (("NC", 0), ("VDDQ_VDD2_1V8AO", 5000), ("NC", 0)),
)
THOR: tuple[Rails, ...] = ((("VDD_GPU", 12000), ("VDD_CPU_SOC_MSS", 12000), ("VIN_SYS_5V0", 5000)),)


class FakeJetson:
    """A board's hwmon folder. Other chips (a fan, a temperature sensor) are there too, as on every board."""

    def __init__(self, root: Path, chips: Sequence[Rails], *, ina238_w: float | None = None) -> None:
        self.root = root
        self._files: dict[str, tuple[Path, int]] = {}
        self._folder(0, "pwmfan")
        for number, rails in enumerate(chips, start=1):
            self._ina3221(self._folder(number, "ina3221"), rails)
        if ina238_w is not None:
            folder = self._folder(len(chips) + 1, "ina238")
            (folder / "in1_input").write_text("19000\n")
            self._vin = folder / "power1_input"
            self.set_vin_w(ina238_w)

    def _folder(self, number: int, name: str) -> Path:
        folder = self.root / f"hwmon{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(name + "\n")
        return folder

    def _ina3221(self, folder: Path, rails: Rails) -> None:
        for channel, (label, millivolts) in enumerate(rails, start=1):
            (folder / f"in{channel}_label").write_text(label + "\n")
            (folder / f"in{channel}_enable").write_text("1\n")
            (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
            self._files[label] = folder / f"curr{channel}_input", millivolts
            (folder / f"curr{channel}_input").write_text("0\n")
        # The driver's fourth channel sums shunt voltages: it is no rail.
        (folder / "in7_input").write_text("123\n")

    def set_w(self, label: str, power_w: float) -> None:
        """Make a rail draw so many watts."""
        file, millivolts = self._files[label]
        file.write_text(f"{round(power_w * 1e6 / millivolts)}\n")

    def set_vin_w(self, power_w: float) -> None:
        """Make the INA238 show so many watts."""
        self._vin.write_text(f"{round(power_w * 1e6)}\n")


def agx_orin(root: Path) -> FakeJetson:
    """A board without a total of its own."""
    return FakeJetson(root, AGX_ORIN)


def orin_nx(root: Path) -> FakeJetson:
    """A module with a total."""
    return FakeJetson(root, ORIN_NX)


def thor(root: Path) -> FakeJetson:
    """A board whose total has a sensor of another kind."""
    return FakeJetson(root, THOR, ina238_w=23.0)
