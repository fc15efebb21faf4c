"""Latency bounds that are missed at most as often as promised, also while the stream drifts.

Two parts. The conformal quantile of a sliding window covers the next score with the promised probability as long as
the scores are exchangeable. On top of it comes an offset that every miss raises and every hit lowers a little
(quantile tracking): whatever the stream does, the share of misses cannot stay above the promise, because the offset
would grow until nothing misses. The offset never falls below zero, so the window's quantile is not undercut.

Scores are what a request took beyond its prediction in units of the spread that its load leads to expect
(`Normaliser`), so that requests of all sizes, and those with and without a queue before them, share one quantile.

Source: quantile tracking and its deterministic guarantee: Angelopoulos, Candès, Tibshirani (arXiv 2307.16895), after
adaptive conformal inference, Gibbs and Candès (arXiv 2106.00170). The floor at zero and the unit are ours.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

# One miss raises the offset by this many units, and (1 - alpha) / alpha hits lower it again.
GAIN = 0.1
# Least unit, as a share of the predicted spread: keeps the offset moving where the window hardly varies.
LEAST_UNIT = 0.05
# A quantile is settled when so many observations are expected beyond it that no single one sets it.
SETTLED_BEYOND = 4.0


@dataclass(frozen=True, slots=True)
class Normaliser:
    """What a request is predicted to take, and the spread that a score is measured in.

    Args:
        predicted_ms: Wait and service.
        spread_ms: Root of the sum of squares of all pieces of work that the time is made of: relative errors of work
            that waits ahead average out, those of a single piece do not.
    """

    predicted_ms: float
    spread_ms: float

    def score(self, actual_ms: float) -> float:
        """Spreads beyond the prediction."""
        return (actual_ms - self.predicted_ms) / self.spread_ms

    def bound_ms(self, score: float) -> float:
        """The milliseconds at which the score would be reached."""
        return self.predicted_ms + score * self.spread_ms


class AdaptiveBound:
    """Upper bound on the next score.

    Args:
        alpha: Share of misses that is promised, in (0, 1).
        prior: Score that bounds while nothing was observed.
        window: Observations that are kept.

    Guarantee: over T observations the share of misses is at most alpha + (B + u) / (GAIN · v · T), for scores below B
    beyond the window's quantile, u the largest and v the least unit in force.

    Cost: 1 to 2 µs per observation: two bisections in a sorted list.
    """

    def __init__(self, *, alpha: float, prior: float, window: int = 1024) -> None:
        self._alpha = alpha
        self._prior = prior
        self._recent: deque[float] = deque(maxlen=window)
        self._sorted: list[float] = []
        self._offset = 0.0
        self._bound = prior
        self.count = 0
        self.misses = 0

    @property
    def bound(self) -> float:
        """The bound in force."""
        return self._bound

    @property
    def settled(self) -> bool:
        """Whether a few observations lie beyond the quantile."""
        held = len(self._sorted)
        return held == self._recent.maxlen or held * self._alpha >= SETTLED_BEYOND

    def observe(self, score: float, *, bound: float) -> bool:
        """Take a score and the bound that was promised for it, which may be older; true where it missed."""
        missed = score > bound
        self.count += 1
        self.misses += missed
        self._keep(score)
        held = self._sorted
        rank = math.ceil((len(held) + 1) * (1.0 - self._alpha))
        quantile = held[rank - 1] if rank <= len(held) else max(self._prior, held[-1])
        unit = max(LEAST_UNIT, quantile - held[len(held) // 2])
        self._offset = max(0.0, self._offset + GAIN * unit * (missed - self._alpha))
        self._bound = quantile + self._offset
        return missed

    def _keep(self, score: float) -> None:
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect_left(self._sorted, self._recent[0])]
        self._recent.append(score)
        insort(self._sorted, score)


class Margins:
    """A bound per key (an arm, or an arm and a task); until a key has shown enough itself, the bound of all together.

    Args:
        alpha: Share of misses that is promised.
        prior: Score that bounds while nothing was observed.
        window: Observations kept per key.
    """

    def __init__(self, *, alpha: float, prior: float, window: int = 1024) -> None:
        self._make = {"alpha": alpha, "prior": prior}
        self._window = window
        self._all = AdaptiveBound(alpha=alpha, prior=prior, window=window)
        self._own: dict[Hashable, AdaptiveBound] = {}

    def bound(self, key: Hashable) -> float:
        """The bound in force for a key."""
        own = self._own.get(key)
        if own is None or not own.settled:
            return self._all.bound if own is None else max(self._all.bound, own.bound if own.misses else 0.0)
        return own.bound

    def observe(self, key: Hashable, score: float, *, bound: float) -> bool:
        """Take a score; see `AdaptiveBound.observe`."""
        own = self._own.get(key)
        if own is None:
            own = self._own[key] = AdaptiveBound(window=self._window, **self._make)
        self._all.observe(score, bound=bound)
        return own.observe(score, bound=bound)

    @property
    def miss_fraction(self) -> float:
        """Share of all observations that exceeded their bound; NaN before the first."""
        return self._all.misses / self._all.count if self._all.count else math.nan
