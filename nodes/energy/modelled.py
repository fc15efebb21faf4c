"""Joules from a device profile: arithmetic done times the device's published joules per multiply-accumulate.

With a noise block in the profile, actual joules differ from predicted ones as real ones do; promises that only
hold when predictions are exact then show. The method says so: ``profile:NAME+noise``.
"""

from __future__ import annotations

import numpy as np

from nodes.energy.contract import EnergyReading, Provenance, Span
from nodes.energy.profile import DeviceProfile


class ModelledMeter:
    """Charges ``overhead_j + j_per_mac * macs``, times a seeded draw where the profile asks for noise.

    The uncertainty of a reading is the spread that the profile states. How far the profile's constants are from
    this network on that device is not known and not in it.

    Args:
        profile: The device.
        seed: Of the noise; equal seeds give equal draws.
    """

    provenance = Provenance.MODELLED

    def __init__(self, profile: DeviceProfile, *, seed: int = 0) -> None:
        self._profile = profile
        self._random = np.random.default_rng(seed)
        self._open: set[Span] = set()
        self.method = f"profile:{profile.name}" + ("+noise" if profile.noise else "")

    def begin(self) -> Span:
        """See `Meter`."""
        span = Span()
        self._open.add(span)
        return span

    def end(self, span: Span, *, compute_ms: float, macs: int) -> EnergyReading:  # noqa: ARG002
        """See `Meter`. Failed work is charged in full: nobody knows how far it got."""
        if span not in self._open:
            raise ValueError("the span is not open")
        self._open.remove(span)
        span.energy_j = self._profile.energy_j(macs) * self._draw()
        return self._reading(span.energy_j, macs)

    def estimate(self, macs: int) -> EnergyReading:
        """See `Meter`: the prediction, without noise."""
        return self._reading(self._profile.energy_j(macs), macs)

    def _draw(self) -> float:
        noise = self._profile.noise
        if noise is None:
            return 1.0
        factor = float(self._random.lognormal(0.0, noise.lognormal_sigma))
        return factor * (noise.outlier_factor if self._random.random() < noise.outlier_fraction else 1.0)

    def _reading(self, energy_j: float, macs: int) -> EnergyReading:
        sigma = self._profile.noise.lognormal_sigma if self._profile.noise else 0.0
        return EnergyReading(energy_j, sigma * self._profile.energy_j(macs), self.provenance, self.method)
