"""Promises at a stated quantile, from what was observed.

A per-request budget is a promise: with probability ``quantile`` the actual figure stays below it. The bound is the
conformal quantile of recent observations (split conformal prediction: the ceil((n + 1) * quantile)-th smallest of n
exchangeable observations covers the next one with at least that probability); until there are enough observations for
it to exist, a stated prior or the largest observation holds, whichever is larger.
"""

from __future__ import annotations

import math

import numpy as np

REFRESH_EVERY = 16


class ConformalBound:
    """Upper bound on the next observation, over a sliding window.

    Args:
        quantile: Probability with which the bound holds, in (0, 1).
        prior: Bound that holds while nothing was observed.
        window: Observations that are kept; older ones are forgotten, so that the bound follows drift.
    """

    def __init__(self, *, quantile: float, prior: float, window: int = 1024) -> None:
        self._quantile = quantile
        self._prior = prior
        self._values = np.zeros(window)
        self._count = 0
        self._bound = prior
        self._confirmed = 0.0
        self._typical = math.nan

    @property
    def count(self) -> int:
        """How many observations there were."""
        return self._count

    @property
    def settled(self) -> bool:
        """Whether there were enough observations for the quantile to exist; from then on the prior has no say."""
        held = min(self._count, self._values.size)
        return math.ceil((held + 1) * self._quantile) <= held

    @property
    def bound(self) -> float:
        """The current upper bound, in the unit of the observations."""
        return self._bound

    @property
    def confirmed(self) -> float:
        """While not settled: what at least two observations reached, 0 before. One alone may be an outlier."""
        return self._confirmed

    @property
    def typical(self) -> float:
        """The median of the window; NaN before the first observation."""
        return self._typical

    def observe(self, value: float) -> bool:
        """Take one observation; true when the bound was recomputed."""
        self._values[self._count % self._values.size] = value
        self._count += 1
        if self._count > REFRESH_EVERY and self._count % REFRESH_EVERY and value <= self._bound:
            return False
        self._refresh()
        return True

    def _refresh(self) -> None:
        values = self._values[: min(self._count, self._values.size)]
        rank = math.ceil((values.size + 1) * self._quantile)
        middle = values.size // 2
        if rank > values.size:
            largest = np.sort(values)[-2:]
            self._bound = max(self._prior, float(largest[-1]))
            self._confirmed = float(largest[0]) if largest.size == 2 else 0.0
            self._typical = float(np.partition(values, middle)[middle])
            return
        ordered = np.partition(values, (middle, rank - 1))
        self._bound, self._typical = float(ordered[rank - 1]), float(ordered[middle])
