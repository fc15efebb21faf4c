"""Finds the energy source of this node, and says which one and why, and what kept better ones from being used.

A sensor counts only where it measures what the engine runs on: the package counter says nothing about a GPU, a GPU's
counter nothing about the CPU, and no sensor here anything about a server elsewhere.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from nodes.energy.contract import Meter, Provenance, Signals
from nodes.energy.meters.modelled import ModelledMeter
from nodes.energy.meters.sampler import Sampler
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.energy.native.sampling import NativeSampler
from nodes.energy.profile import DeviceProfile
from nodes.energy.sources import (
    Opened,
    Places,
    no_signals,
    open_jetson,
    open_nvml,
    open_rapl,
    open_replay,
    open_zeus,
)
from nodes.errors import EnergySourceMissing


class EnergyMode(StrEnum):
    """What the operator asks for."""

    AUTO = "auto"
    MODELLED = "modelled"
    RAPL = "rapl"
    NVML = "nvml"
    JETSON = "jetson"
    ZEUS = "zeus"
    REPLAY = "replay"


class RunsOn(StrEnum):
    """What the engine's work runs on."""

    CPU = "cpu"
    GPU = "gpu"
    ELSEWHERE = "elsewhere"


Opener = Callable[[Places], Opened]
OPENERS: dict[EnergyMode, Opener] = {
    EnergyMode.RAPL: open_rapl,
    EnergyMode.NVML: open_nvml,
    EnergyMode.JETSON: open_jetson,
    EnergyMode.ZEUS: open_zeus,
    EnergyMode.REPLAY: open_replay,
}
# What `auto` tries, best first: a board's total covers everything on it.
SENSORS = {
    RunsOn.CPU: (EnergyMode.JETSON, EnergyMode.RAPL),
    RunsOn.GPU: (EnergyMode.JETSON, EnergyMode.NVML),
}


@dataclass(frozen=True)
class EnergySource:
    """A meter, the device that it speaks for, and the reason for the choice.

    Attributes:
        simulated: True where the device is a profile and not the machine that the agent runs on.
        rate_hz: How often the source is sampled; 0 where it is read when work begins and ends, or not at all.
        problem: What kept a sensor from being used; "" where nothing did.
        cure: What would make it right.
        digest: sha256 of the profile file that joules are modelled with; "" without one.
        signals: The device's state, now.
    """

    meter: Meter
    device: str
    simulated: bool
    why: str
    rate_hz: float = 0.0
    problem: str = ""
    cure: str = ""
    digest: str = ""
    signals: Callable[[], Signals] = field(default=no_signals)
    sampler: Sampler | NativeSampler | None = None

    def start(self) -> None:
        """Begin to sample, where the source needs it."""
        if self.sampler is not None:
            self.sampler.start()

    def stop(self) -> None:
        """Stop sampling."""
        if self.sampler is not None:
            self.sampler.stop()


@dataclass(frozen=True)
class Wanted:
    """What is asked for, and what the work runs on."""

    mode: EnergyMode
    profile: DeviceProfile | None
    runs_on: RunsOn = RunsOn.CPU
    seed: int = 0


def discover(wanted: Wanted, places: Places | None = None) -> EnergySource:
    """Choose a meter. Blocks for the idle window where a sensor is found: its idle power is measured then.

    `auto` takes the sensor of what the work runs on, unless the profile is of another device: a sensor here says
    nothing about that one. Without either, energy is unmeasured. A source that was named is never replaced.

    Raises:
        EnergySourceMissing: if the source that was asked for cannot be read.
        ConfigError: if a trace or a calibration does not fit.
    """
    places = places or Places()
    profile = wanted.profile
    if wanted.mode is EnergyMode.MODELLED:
        if profile is None:
            raise EnergySourceMissing("Energy `modelled` needs a device profile", cure="name one with --profile")
        return _modelled(profile, wanted.seed, "asked for")
    if wanted.mode is not EnergyMode.AUTO:
        return _asked_for(wanted, places)
    if profile is not None and profile.simulated:
        return _modelled(profile, wanted.seed, "the profile is of another device, which no sensor here measures")
    return _automatic(wanted, places)


def _asked_for(wanted: Wanted, places: Places) -> EnergySource:
    if wanted.runs_on is RunsOn.ELSEWHERE and wanted.mode is not EnergyMode.REPLAY:
        raise EnergySourceMissing(f"Energy `{wanted.mode}` cannot be served: the work runs on another machine")
    try:
        return _measured(OPENERS[wanted.mode](places), wanted.profile)
    except EnergySourceMissing as missing:
        problem = f"Energy `{wanted.mode}` cannot be served: {missing.problem}"
        raise EnergySourceMissing(problem, cure=missing.cure) from missing


def _automatic(wanted: Wanted, places: Places) -> EnergySource:
    problems: list[EnergySourceMissing] = []
    for mode in SENSORS.get(wanted.runs_on, ()):
        try:
            return _measured(OPENERS[mode](places), wanted.profile, problems)
        except EnergySourceMissing as missing:
            problems.append(missing)
    why = (
        "; ".join(one.problem for one in problems) or "the work runs on another machine, which no sensor here measures"
    )
    problem, cure = _worst(problems)
    if wanted.profile is not None:
        return _modelled(wanted.profile, wanted.seed, why, problem=problem or why, cure=cure)
    cure = cure or "name a device profile with --profile, or replay a trace"
    device = this_device()
    return EnergySource(UnmeasuredMeter(), device, False, f"{why}, and no profile was named", problem=why, cure=cure)


def _worst(problems: list[EnergySourceMissing]) -> tuple[str, str]:
    """The problem that can be cured: a sensor that is there and may not be read comes before one that is not there."""
    curable = [one for one in problems if one.cure]
    return (curable[0].problem, curable[0].cure) if curable else ("", "")


def _measured(
    opened: Opened, profile: DeviceProfile | None, problems: list[EnergySourceMissing] | None = None
) -> EnergySource:
    real = profile is not None and not profile.simulated
    device = profile.device if profile is not None and real else opened.device or this_device()
    problem, cure = _worst(problems or [])
    return EnergySource(
        opened.meter, device, False, opened.why, opened.rate_hz, problem, cure, "", opened.signals, opened.sampler
    )


def _modelled(profile: DeviceProfile, seed: int, why: str, *, problem: str = "", cure: str = "") -> EnergySource:
    return EnergySource(
        ModelledMeter(profile, seed=seed),
        profile.device,
        profile.simulated,
        why,
        problem=problem,
        cure=cure,
        digest=profile.digest,
    )


def this_device() -> str:
    """The machine's processor in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def describe(source: EnergySource) -> str:
    """One line for doctor: which source, how often, and what is wrong with better ones."""
    rate = f"{source.rate_hz:g} Hz" if source.rate_hz else "read with the work"
    sampled = "" if source.meter.provenance in (Provenance.MODELLED, Provenance.UNMEASURED) else f", {rate}"
    digest = f", sha256 {source.digest[:12]}" if source.digest else ""
    line = f"{source.meter.method} ({source.meter.provenance}{sampled}{digest}): {source.why}"
    return line + (f"; cure: {source.cure}" if source.cure else "")
