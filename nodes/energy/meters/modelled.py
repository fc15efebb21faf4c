"""Joules from a device profile: arithmetic done times the device's published joules per multiply-accumulate.

With a noise block in the profile, actual joules differ from predicted ones as real ones do; promises that only
hold when predictions are exact then show. The method says so: ``profile:NAME+noise``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nodes.energy.contract import EnergyReading, Provenance, Settlement, Span
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

    def begin(self, arm: str = "", stage: str = "") -> Span:
        """See `Meter`."""
        span = Span(arm, stage)
        self._open.add(span)
        return span

    def enter(self, span: Span, stage: str) -> None:
        """See `Meter`. A profile does not tell stages apart."""
        span.stage = stage

    def end(self, span: Span, *, compute_ms: float, macs: int) -> EnergyReading:
        """See `Meter`. Failed work is charged in full: nobody knows how far it got.

        Work whose multiply-accumulates nobody counted is charged by its time at the device's active power; where the
        profile has none, it is unmeasured.
        """
        if span not in self._open:
            raise ValueError("the span is not open")
        self._open.remove(span)
        expected_j = self._profile.energy_j(macs) if macs else self._by_time_j(compute_ms)
        if expected_j is None:
            return EnergyReading(None, 0.0, Provenance.UNMEASURED, self.method)
        span.energy_j = expected_j * self._draw()
        return self._reading(span.energy_j, expected_j, idle_j=self._idle_j(compute_ms))

    def settle(self) -> Sequence[Settlement]:
        """See `Meter`: every reading is final."""
        return ()

    def estimate(self, macs: int) -> EnergyReading:
        """See `Meter`: the prediction, without noise."""
        energy_j = self._profile.energy_j(macs)
        return self._reading(energy_j, energy_j)

    def _draw(self) -> float:
        noise = self._profile.noise
        if noise is None:
            return 1.0
        factor = float(self._random.lognormal(0.0, noise.lognormal_sigma))
        return factor * (noise.outlier_factor if self._random.random() < noise.outlier_fraction else 1.0)

    def _by_time_j(self, compute_ms: float) -> float | None:
        profile = self._profile
        return None if profile.active_w is None else (profile.active_w - (profile.idle_w or 0.0)) * compute_ms * 1e-3

    def _idle_j(self, compute_ms: float) -> float | None:
        return None if self._profile.idle_w is None else self._profile.idle_w * compute_ms * 1e-3

    def _reading(self, energy_j: float, expected_j: float, *, idle_j: float | None = None) -> EnergyReading:
        sigma = self._profile.noise.lognormal_sigma if self._profile.noise else 0.0
        return EnergyReading(energy_j, sigma * expected_j, self.provenance, self.method, idle_j)
