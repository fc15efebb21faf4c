"""Watts of each kind of work, learned while it runs: so that a split among concurrent work need not be an equal one.

Joules of short stretches are regressed, robustly and without negative watts, on the effort of each kind within them.

Shape letters: k stretches, a kinds.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from nodes.energy.attribution.regression import robust_non_negative

# Total power goes with about this power of what runs at once; as all work of a moment shares it, splits depend on it
# little.
EXPONENT = 0.8
STRETCH_S = 0.05
KEEP = 400
LEARN_EVERY = 20
MIN_STRETCHES = 20
LEAST_FRACTION = 0.05
# Equal splits are taken to be off by so much of a share until more is known.
EQUAL_DOUBT_FRACTION = 0.7


class WattLearner:
    """Follows the work that runs. Not thread-safe.

    Attributes:
        doubt_fraction: How far a kind's learned watts may be off (one standard deviation, as a part of them).
    """

    def __init__(self) -> None:
        self._rows: deque[tuple[dict[str, float], float]] = deque(maxlen=KEEP)
        self._effort_s: dict[str, float] = {}
        self._energy_j = 0.0
        self._length_s = 0.0
        self._new = 0
        self._watts: dict[str, float] = {}
        self.doubt_fraction = EQUAL_DOUBT_FRACTION

    @property
    def watts(self) -> dict[str, float]:
        """Watts of each kind per second of effort; empty until learned."""
        return dict(self._watts)

    def knows(self, kinds: set[str]) -> bool:
        """Whether every one of these kinds has learned watts."""
        return kinds <= self._watts.keys()

    def weight(self, kind: str) -> float:
        """What a kind counts in a split; never nothing, for nothing runs for free."""
        if not self._watts:
            return 1.0
        mean_w = sum(self._watts.values()) / len(self._watts)
        return max(self._watts.get(kind, mean_w), LEAST_FRACTION * mean_w) or 1.0

    def saw(self, kinds: list[str], length_s: float, active_j: float) -> None:
        """So many active joules while work of these kinds ran at once. Cost: a regression now and then."""
        rate = len(kinds) ** (EXPONENT - 1.0)
        for kind in kinds:
            self._effort_s[kind] = self._effort_s.get(kind, 0.0) + rate * length_s
        self._energy_j += active_j
        self._length_s += length_s
        if self._length_s >= STRETCH_S:
            self._rows.append((self._effort_s, self._energy_j))
            self._effort_s, self._energy_j, self._length_s = {}, 0.0, 0.0
            self._new += 1
        if self._new >= LEARN_EVERY and len(self._rows) >= MIN_STRETCHES:
            self._new = 0
            self._learn()

    def _learn(self) -> None:
        kinds = sorted({kind for effort_s, _ in self._rows for kind in effort_s})
        design_ka = np.array([[effort_s.get(kind, 0.0) for kind in kinds] for effort_s, _ in self._rows])
        energy_j_k = np.array([energy_j for _, energy_j in self._rows])
        watt_a, sigma_j = robust_non_negative(design_ka, energy_j_k)
        self._watts = dict(zip(kinds, watt_a.tolist(), strict=True))
        self.doubt_fraction = _doubt(design_ka, watt_a.mean(), sigma_j)


def _doubt(design_ka: np.ndarray, mean_w: float, sigma_j: float) -> float:
    """Standard error of a typical kind's watts, as a part of them, and never less than a few percent."""
    gram_aa = design_ka.T @ design_ka
    variance_a = sigma_j**2 * np.diag(np.linalg.pinv(gram_aa))
    error_fraction = float(np.sqrt(np.mean(variance_a))) / max(float(mean_w), 1e-12)
    return float(np.clip(error_fraction, 0.05, EQUAL_DOUBT_FRACTION))
