"""What every energy meter of a node promises.

A piece of work is bracketed by `begin` and `end`. The joules of all readings add up to the active energy that the
meter saw; idle energy is kept apart. A meter that knows nothing says so (`energy_j` is None), it never says zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Provenance(StrEnum):
    """Where a figure comes from."""

    MEASURED = "measured"
    REPLAYED = "replayed"
    MODELLED = "modelled"
    UNMEASURED = "unmeasured"


@dataclass(frozen=True)
class EnergyReading:
    """Joules of one piece of work.

    Attributes:
        energy_j: Joules; None where nobody knows.
        uncertainty_j: How far `energy_j` may be off (one standard deviation).
        method: How it was obtained, such as "rapl" or "profile:rtx-4090".
    """

    energy_j: float | None
    uncertainty_j: float
    provenance: Provenance
    method: str


@dataclass(eq=False)
class Span:
    """One running piece of work; made by `Meter.begin`, given back to `Meter.end` exactly once.

    Attributes:
        energy_j: Joules charged so far.
        uncertainty_j: Uncertainty gathered so far.
    """

    energy_j: float = 0.0
    uncertainty_j: float = 0.0


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

    def begin(self) -> Span:
        """A piece of work starts now."""
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

    def estimate(self, macs: int) -> EnergyReading | None:
        """What such work costs in the mean, where that is known without running it; None where it is not."""
        ...
