"""What every energy source and every meter of a node promises.

A *source* reads hardware: a counter of joules or a gauge of watts. A *meter* says what each piece of work took. A piece
of work is bracketed by `begin` and `end`. The joules of all readings add up to the active energy that the meter saw;
idle energy is kept apart. A meter that knows nothing says so (`energy_j` is None), it never says zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Provenance(StrEnum):
    """Where a figure comes from."""

    MEASURED = "measured"
    REPLAYED = "replayed"
    MODELLED = "modelled"
    UNMEASURED = "unmeasured"


class ShareRule(StrEnum):
    """How a device's joules became those of one piece of work."""

    WHOLE = "whole"  # Nothing else ran, or each piece of work has its own figure.
    OCCUPANCY = "occupancy"  # Split equally among what ran at the moment.
    WEIGHTS = "weights"  # Split by learned watts of each arm and stage.
    PREDICTED = "predicted"  # From learned watts; the sensor has not yet shown this stretch of time.


@dataclass(frozen=True)
class EnergyReading:
    """Joules of one piece of work.

    Attributes:
        energy_j: Active joules; None where nobody knows.
        uncertainty_j: How far `energy_j` may be off (one standard deviation).
        method: How it was obtained, such as "rapl" or "profile:rtx-4090".
        idle_j: Idle power's joules over the same time, shared equally; not in `energy_j`. None where nobody knows.
        share: How the device's joules were split.
        stages_j: Joules of named stages, such as prefill and decode; they add up to `energy_j`. Empty without stages.
        final: False where a better figure follows once the sensor has caught up.
    """

    energy_j: float | None
    uncertainty_j: float
    provenance: Provenance
    method: str
    idle_j: float | None = None
    share: ShareRule = ShareRule.WHOLE
    stages_j: tuple[tuple[str, float], ...] = ()
    final: bool = True


@dataclass(eq=False)
class Span:
    """One running piece of work; made by `Meter.begin`, given back to `Meter.end` exactly once.

    Attributes:
        arm: Key of the arm that runs; "" where nobody said.
        stage: Stage that it is in; "" for work of one stage.
        energy_j: Joules charged so far.
        idle_j: Idle joules shared out so far.
        variance_j2: Independent uncertainty gathered so far, squared.
        doubt_j: Uncertainty that adds up in line, such as that of the share.
        stages_j: Joules by stage.
    """

    arm: str = ""
    stage: str = ""
    energy_j: float = 0.0
    idle_j: float = 0.0
    variance_j2: float = 0.0
    doubt_j: float = 0.0
    stages_j: dict[str, float] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Class of work that is taken to draw similar power."""
        return f"{self.arm}/{self.stage}" if self.stage else self.arm


@dataclass(frozen=True)
class Settlement:
    """The final reading of work that had ended with a preliminary one."""

    span: Span
    reading: EnergyReading


class Meter(Protocol):
    """Attributes joules to work. Called on one thread; no call blocks for more than a sysfs read."""

    @property
    def provenance(self) -> Provenance:
        """Provenance of every reading of this meter."""
        ...

    @property
    def method(self) -> str:
        """Method of every reading of this meter."""
        ...

    def begin(self, arm: str = "", stage: str = "") -> Span:
        """A piece of work of an arm starts now, in a named stage where it has several."""
        ...

    def enter(self, span: Span, stage: str) -> None:
        """The work enters a named stage, such as "prefill" or "decode"."""
        ...

    def end(self, span: Span, *, compute_ms: float, macs: int) -> EnergyReading:
        """A piece of work ended now, also where it failed.

        Args:
            compute_ms: Milliseconds that it computed.
            macs: Multiply-accumulates that it did.

        Raises:
            ValueError: if the span has ended before, or is not of this meter.
        """
        ...

    def settle(self) -> Sequence[Settlement]:
        """Final readings of work that ended with a preliminary one. May be called from another thread.

        Cost: nothing for meters whose first reading is final; up to some 100 ms of CPU for those that attribute late.
        """
        ...

    def estimate(self, macs: int) -> EnergyReading | None:
        """What such work costs in the mean, where that is known without running it; None where it is not."""
        ...


class Counter(Protocol):
    """A source that counts joules."""

    provenance: Provenance
    method: str

    def read_j(self) -> float:
        """Joules since it was opened; never falls.

        Raises:
            EnergySourceMissing: if it cannot be read any more.
        """
        ...


class Gauge(Protocol):
    """A source that shows watts.

    Attributes:
        period_s: How often the hardware updates its value.
        window_s: How much of that period the value is the mean of.
    """

    provenance: Provenance
    method: str
    period_s: float
    window_s: float

    def read_w(self) -> float:
        """Watts now, as late as the hardware is.

        Raises:
            EnergySourceMissing: if it cannot be read any more.
        """
        ...


class Throttle(StrEnum):
    """Why a device runs slower than it could."""

    POWER_CAP = "power-cap"
    HARDWARE_SLOWDOWN = "hardware-slowdown"
    SOFTWARE_THERMAL = "software-thermal"
    HARDWARE_THERMAL = "hardware-thermal"
    POWER_BRAKE = "power-brake"


@dataclass(frozen=True)
class Signals:
    """What a device says about its own state; None and empty where it says nothing."""

    temperature_c: float | None = None
    throttles: tuple[Throttle, ...] = ()
