"""Idle power that drifts: straight lines between knots.

Shape letters: q knots, k windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nodes.energy.attribution.activity import Floats

KNOT_S = 10.0
# Idle power is taken to move by no more than about this part of itself from knot to knot (one standard deviation).
DRIFT_FRACTION = 0.08


@dataclass(frozen=True)
class IdleLine:
    """Where the knots lie, and about how many watts flow at rest.

    Attributes:
        about_w: Measured at rest, or the least that the sensor showed: what the drift is a fraction of.
    """

    knot_s_q: Floats
    about_w: float

    @classmethod
    def over(cls, low_s: float, high_s: float, about_w: float) -> IdleLine:
        """Knots about every `KNOT_S` from end to end."""
        count = max(2, round((high_s - low_s) / KNOT_S) + 1)
        return cls(np.linspace(low_s, high_s, count), max(about_w, 1e-3))

    def basis(self, low_s_k: Floats, high_s_k: Floats) -> Floats:
        """Weight (k, q) of each knot in the mean of each window, taken at its middle: idle power moves slowly."""
        at_s_k = (low_s_k + high_s_k) / 2
        unit_qq = np.eye(len(self.knot_s_q))
        return np.stack([np.interp(at_s_k, self.knot_s_q, unit_q) for unit_q in unit_qq], axis=1)

    def covariance(self, level_fraction: float) -> Floats:
        """Prior covariance (q, q): one unknown level and a random walk from knot to knot."""
        step = np.arange(len(self.knot_s_q))
        walk_qq = np.minimum(step[:, None], step[None, :]) * DRIFT_FRACTION**2
        covariance: Floats = (walk_qq + level_fraction**2) * self.about_w**2
        return covariance

    def ties(self, sigma: float) -> tuple[Floats, Floats]:
        """Rows (q, q) and targets (q,) that hold knots together, scaled to residuals of spread `sigma`."""
        count = len(self.knot_s_q)
        scale = sigma / (DRIFT_FRACTION * self.about_w)
        rows_qq = np.zeros((count, count))
        rows_qq[0, 0] = scale / 2
        for q in range(1, count):
            rows_qq[q, q - 1 : q + 1] = -scale, scale
        target_q = np.zeros(count)
        target_q[0] = self.about_w * scale / 2
        return rows_qq, target_q
