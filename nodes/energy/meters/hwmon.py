"""Watts of NVIDIA Jetson boards from the INA3221 and INA238 sensors in hwmon.

An INA3221 has up to three rails, each with a label, millivolts and milliamperes; an INA238 has one, in microwatts. NVML
reports no power on these boards. Which rails make up the whole depends on the board, and no total may be made up:

================  ==========================================  ==================
board             what counts                                 label
================  ==========================================  ==================
Orin NX, Nano     VDD_IN, the module's total                  ``ina3221``
AGX Orin          VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0      ``board_rails``
Thor              the INA238's VIN, the board's total         ``ina238``
================  ==========================================  ==================

On AGX Orin, VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0 and would count twice. Boards draw more than their rails show (6 to
7 W under the wall were seen): a calibration, found once with a meter at the plug, can be kept in a file.

Source: NVIDIA Jetson Linux Developer Guide, "Platform Power and Performance", and Linux Documentation/hwmon/ina3221.rst
and ina238.rst. Not run on hardware by us: replayed from trees that follow that documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nodes.energy.contract import Provenance
from nodes.energy.meters.calibration import Calibration
from nodes.energy.meters.sysfs import NumberFile, text_or_none
from nodes.errors import EnergySourceMissing

HWMON = Path("/sys/class/hwmon")
CHANNELS = (1, 2, 3)
# What the sensors average over and how often they have a new value, with the settings that NVIDIA's device trees give.
UPDATE_S = 0.05


@dataclass(frozen=True)
class Rail:
    """One measured supply: its label, and the files whose product it is, in units that `unit_w` makes watts."""

    label: str
    files: tuple[Path, ...]
    unit_w: float = 1e-6


@dataclass(frozen=True)
class _Rule:
    """Rails that make up the whole, and what to call that."""

    rails: tuple[str, ...]
    method: str


# The first rule whose rails are all there holds.
RULES = (
    _Rule(("VDD_IN",), "ina3221"),
    _Rule(("VIN",), "ina238"),
    _Rule(("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), "board_rails"),
)
PARTS = {name for rule in RULES for name in rule.rails} | {"VDD_GPU", "VDD_CPU_SOC_MSS"}


class JetsonGauge:
    """Watts of the board.

    Attributes:
        rails: What is added up.

    Raises:
        EnergySourceMissing: if there is no such sensor, a rail of the board is missing, or a file may not be read.
    """

    provenance = Provenance.MEASURED
    period_s = UPDATE_S
    window_s = UPDATE_S

    def __init__(self, root: Path = HWMON, calibration: Calibration | None = None) -> None:
        found = {rail.label: rail for rail in _rails(root)}
        rule = _rule(found, root)
        self.rails = tuple(found[label] for label in rule.rails)
        self._factors = [([NumberFile(file) for file in rail.files], rail.unit_w) for rail in self.rails]
        self._calibration = calibration or Calibration()
        self.method = rule.method + ("+calibrated" if calibration else "")
        self.read_w()

    def read_w(self) -> float:
        """Watts now. Cost: two sysfs reads per rail; each makes the kernel talk to the sensor over I2C."""
        return self.power_w([file.read() for files, _ in self._factors for file in files])

    @property
    def files(self) -> tuple[Path, ...]:
        """What a reading consists of."""
        return tuple(file for rail in self.rails for file in rail.files)

    def power_w(self, values: Sequence[int]) -> float:
        """Watts of one reading of `files`."""
        power_w, position = 0.0, 0
        for files, unit_w in self._factors:
            product = unit_w
            for value in values[position : position + len(files)]:
                product *= value
            position += len(files)
            # A sensor near its zero may read a little less than none; what it says is added as it is.
            power_w += product
        return self._calibration.applied_w(power_w)


def _rule(found: dict[str, Rail], root: Path) -> _Rule:
    for rule in RULES:
        if all(label in found for label in rule.rails):
            return rule
    if not found:
        raise EnergySourceMissing(f"no INA3221 or INA238 sensor under {root}")
    known = sorted(PARTS & set(found))
    if known:
        raise EnergySourceMissing(
            f"the rails {', '.join(known)} are there, but they do not make up a whole board",
            cure="name a device profile with --profile, or report the labels of this board",
        )
    raise EnergySourceMissing(f"the rails {', '.join(sorted(found))} are of no board that is known")


def _rails(root: Path) -> list[Rail]:
    rails: list[Rail] = []
    for folder in sorted(root.glob("hwmon*")):
        name = text_or_none(folder / "name")
        if name == "ina3221":
            rails += [rail for channel in CHANNELS if (rail := _channel(folder, channel)) is not None]
        elif name == "ina238":
            rails.append(Rail("VIN", (folder / "power1_input",)))
    return rails


def _channel(folder: Path, channel: int) -> Rail | None:
    label = text_or_none(folder / f"in{channel}_label")
    if not label or label == "NC" or text_or_none(folder / f"in{channel}_enable") == "0":
        return None
    return Rail(label, (folder / f"in{channel}_input", folder / f"curr{channel}_input"))
