"""Finds the energy source of this node, and says which one and why."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nodes.energy.contract import Meter
from nodes.energy.modelled import ModelledMeter
from nodes.energy.profile import DeviceProfile
from nodes.energy.rapl import POWERCAP, RaplCounter, RaplMeter, measure_idle_w
from nodes.energy.unmeasured import UnmeasuredMeter
from nodes.errors import EnergySourceMissing


class EnergyMode(StrEnum):
    """What the operator asks for."""

    AUTO = "auto"
    MODELLED = "modelled"
    RAPL = "rapl"


@dataclass(frozen=True)
class EnergySource:
    """A meter, the device that it speaks for, and the reason for the choice.

    Attributes:
        simulated: True where the device is a profile and not the machine that the agent runs on.
    """

    meter: Meter
    device: str
    simulated: bool
    why: str


def discover(
    mode: EnergyMode,
    profile: DeviceProfile | None,
    *,
    seed: int = 0,
    root: Path = POWERCAP,
    idle_window_s: float = 1.0,
) -> EnergySource:
    """Choose a meter. Blocks for `idle_window_s` where a sensor is found: its idle power is measured then.

    `auto` takes the sensor of this machine, unless the profile is of another device: a sensor here says nothing
    about that one. Without either, energy is unmeasured.

    Raises:
        EnergySourceMissing: if the source that was asked for cannot be read.
    """
    if mode is EnergyMode.MODELLED:
        if profile is None:
            raise EnergySourceMissing("Energy `modelled` needs a device profile; name one with --profile")
        return _modelled(profile, seed, "asked for")
    if mode is EnergyMode.AUTO and profile is not None and profile.simulated:
        return _modelled(profile, seed, "the profile is of another device, which no sensor here measures")
    try:
        return _rapl(profile, root, idle_window_s)
    except EnergySourceMissing as missing:
        if mode is EnergyMode.RAPL:
            raise EnergySourceMissing(f"Energy `rapl` cannot be served: {missing.message}") from missing
        if profile is not None:
            return _modelled(profile, seed, missing.message)
        why = f"{missing.message}, and no profile was named"
        return EnergySource(UnmeasuredMeter(), this_device(), False, why)


def this_device() -> str:
    """The machine's processor in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _modelled(profile: DeviceProfile, seed: int, why: str) -> EnergySource:
    return EnergySource(ModelledMeter(profile, seed=seed), profile.device, profile.simulated, why)


def _rapl(profile: DeviceProfile | None, root: Path, idle_window_s: float) -> EnergySource:
    counter = RaplCounter(root)
    idle_w = measure_idle_w(counter, window_s=idle_window_s)
    device = profile.device if profile is not None and not profile.simulated else this_device()
    why = f"the CPU package counter is readable; idle power is {idle_w:.3g} W"
    return EnergySource(RaplMeter(counter, idle_w=idle_w), device, False, why)
