"""Promises at a stated quantile, from what was observed.

A per-request budget is a promise: with probability ``quantile`` the actual figure stays below it. The bound is the
conformal quantile of recent observations (split conformal prediction: the ceil((n + 1) * quantile)-th smallest of n
exchangeable observations covers the next one with at least that probability); until there are enough observations for
it to exist, a stated prior or the largest observation holds, whichever is larger.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, insort

REFRESH_EVERY = 16
# A bound is settled when it is not one of the very largest observations, of which a single one may be an outlier.
SETTLED_BEYOND = 4.0
# Up to this many times their expected number, observations beyond the quantile are put down to chance.
CHANCE = 2.0


class ConformalBound:
    """Upper bound on the next observation, over a sliding window.

    Args:
        quantile: Probability with which the bound holds, in (0, 1).
        prior: Bound that holds while nothing was observed.
        window: Observations that are kept; older ones are forgotten, so that the bound follows drift.

    Attributes, for reading only, all but the first in the unit of the observations:
        count: How many observations there were.
        bound: The current upper bound.
        confirmed: What more observations reached than chance would let beyond the quantile; 0 before there are two.
        typical: The median of the window; NaN before the first observation.
    """

    def __init__(self, *, quantile: float, prior: float, window: int = 1024) -> None:
        self._quantile = quantile
        self._prior = prior
        self._window = window
        # Of most arms of a large fleet little is ever observed. In the order of a ring, and by size.
        self._values = array("d")
        self._ordered = array("d")
        self.count = 0
        self.bound = prior
        self.confirmed = 0.0
        self.typical = math.nan
        # As many of these as it takes for a few of them to lie beyond the quantile; kept, as it is asked for often.
        self._settled_from = min(window, math.ceil(SETTLED_BEYOND / (1.0 - quantile)))

    @property
    def settled(self) -> bool:
        """Whether a few observations lie beyond the quantile, so that no single one of them sets the bound."""
        return self.count >= self._settled_from

    def forget(self) -> None:
        """What was observed no longer holds; the bound stays until there are enough new observations."""
        self._prior = max(self._prior, self.bound)
        self.confirmed = 0.0
        self.count = 0
        del self._values[:], self._ordered[:]

    def observe(self, value: float) -> bool:
        """Take one observation, one that is no number as an infinite one; true when the bound was recomputed."""
        if value != value:
            value = math.inf
        values, ordered, count = self._values, self._ordered, self.count
        if count < self._window:
            values.append(value)
        else:
            place = count % self._window
            del ordered[bisect_left(ordered, values[place])]
            values[place] = value
        insort(ordered, value)
        self.count = count = count + 1
        if count % REFRESH_EVERY and count > REFRESH_EVERY and value <= self.bound:
            return False
        self._refresh()
        return True

    def _refresh(self) -> None:
        ordered = self._ordered
        held = len(ordered)
        rank = math.ceil((held + 1) * self._quantile)
        enough = held - 1 - math.ceil(CHANCE * held * (1.0 - self._quantile))
        self.bound = ordered[rank - 1] if rank <= held else max(self._prior, ordered[-1])
        self.confirmed = ordered[enough] if enough >= 0 else 0.0
        self.typical = ordered[held // 2]
