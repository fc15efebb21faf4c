"""How many joules queries like the recent ones spend at a price: the curve that a long-run budget is read from.

At price λ a query takes argmax quality - λ·joules. As λ falls it climbs its own concave hull of (joules, quality) step
by step, so the mean spend over recent queries is a falling staircase whose steps are the hulls' slopes, merged. Reading
λ off the staircase answers "at what price do these queries spend the target", without creeping there.

Shape letters: q queries, r routes, s steps of all queries together.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The curve is rebuilt after this many new queries; the first time sooner, each time after twice as many.
REBUILD_EVERY = 128
FIRST_REBUILD = 8
# Half the distance of the two prices that are taken in turn: wider than estimates of the same thing drift while they
# are in the window, and so narrow that what is lost between them is of second order.
BAND = 0.02


@dataclass(frozen=True, slots=True)
class Reading:
    """What the curve says of one target: a price, and a lower one for a share of the queries.

    Where many queries share a step of the staircase, no single price spends the target; two in turn do.

    Args:
        price_per_j: Quality that a joule must buy; 0 where everything is affordable.
        lower_per_j: The lower price.
        lower_share: Share of the queries that should get the lower price for the mean to be the target.
        base_j: Mean joules of the cheapest choice: no price goes below it.
        full_j: Mean joules when joules are free.
    """

    price_per_j: float
    lower_per_j: float
    lower_share: float
    base_j: float
    full_j: float


@dataclass(frozen=True, slots=True)
class Climb:
    """Queries' hulls.

    Args:
        base_q: Joules of the cheapest choice; NaN for a query without any.
        row_s: To which query each step belongs.
        slope_s: Quality per joule of each step.
        extra_s: Joules of each step.
    """

    base_q: Floats
    row_s: NDArray[np.intp]
    slope_s: Floats
    extra_s: Floats


def climb(quality_qr: Floats, energy_qr: Floats, floor_q: Floats) -> Climb:
    """Every query's cheapest choice and the steps of its hull.

    Args:
        quality_qr: Estimated quality; minus infinity where the query may not take the route.
        energy_qr: Expected joules; anything finite where it may not.
        floor_q: Price below which the query never goes; its steps that are worth less are left out.

    Cost: about 10 numpy calls per step of the longest hull.
    """
    base_q = np.full(len(quality_qr), np.nan)
    row_q = np.flatnonzero(np.isfinite(quality_qr).any(axis=1))
    quality_qr, energy_qr, floor_q = quality_qr[row_q], energy_qr[row_q], floor_q[row_q]
    every, here_q = np.arange(len(row_q)), _cheapest(quality_qr, energy_qr)
    energy_q, quality_q = energy_qr[every, here_q], quality_qr[every, here_q]
    base_q[row_q] = energy_q
    rows, slopes, extras = [row_q[:0]], [np.zeros(0)], [np.zeros(0)]
    while len(row_q):
        more_qr, better_qr = energy_qr - energy_q[:, None], quality_qr - quality_q[:, None]
        up_qr = (more_qr > 0.0) & (better_qr > 0.0)
        slope_qr = np.divide(better_qr, more_qr, out=np.full_like(more_qr, -np.inf), where=up_qr)
        steepest_q = slope_qr.argmax(axis=1)
        slope_q = slope_qr[every, steepest_q]
        on = np.flatnonzero(slope_q > floor_q)
        row_q, there_q = row_q[on], steepest_q[on]
        rows.append(row_q)
        slopes.append(slope_q[on])
        extras.append(more_qr[on, there_q])
        quality_qr, energy_qr, floor_q, every = quality_qr[on], energy_qr[on], floor_q[on], np.arange(len(on))
        energy_q, quality_q = energy_qr[every, there_q], quality_qr[every, there_q]
    return Climb(base_q, np.concatenate(rows), np.concatenate(slopes), np.concatenate(extras))


def _cheapest(quality_qr: Floats, energy_qr: Floats) -> NDArray[np.intp]:
    """The fewest joules; among equals the best."""
    allowed_qr = np.where(np.isfinite(quality_qr), energy_qr, np.inf)
    least_qr = allowed_qr <= allowed_qr.min(axis=1, keepdims=True)
    return np.asarray(np.where(least_qr, quality_qr, -np.inf).argmax(axis=1))


class SpendCurve:
    """The staircase over a sliding window of queries.

    Args:
        window: Queries that are kept, at least `REBUILD_EVERY`.

    New queries wait until there is a batch of them: climbing many hulls at once costs as many numpy calls as one.

    Cost: `add` copies two short rows (1 µs), `read` is a bisection (1 µs), a rebuild 0.4 ms once in `REBUILD_EVERY`
    queries; see `decision_us` of tests/bench/bench_pacing.py.
    """

    def __init__(self, window: int = 512) -> None:
        self._window = window
        self._count = self._climbed = 0
        self._next_rebuild = FIRST_REBUILD
        # A ring of queries that wait, and one of the hulls of those that were climbed.
        self._quality_qr = np.full((REBUILD_EVERY, 1), -np.inf)
        self._energy_qr = np.zeros((REBUILD_EVERY, 1))
        self._floor_q = np.zeros(REBUILD_EVERY)
        self._base_q = np.full(window, np.nan)
        self._row_s, self._slope_s, self._extra_s = np.zeros(0, dtype=np.intp), np.zeros(0), np.zeros(0)
        # Ascending, hence with their signs turned.
        self._minus_price_s: list[float] = []
        self._spend_s: list[float] = []
        self._base_j = self._full_j = 0.0
        self.ready = False

    def add(self, quality_r: Floats, energy_r: Floats, floor_per_j: float = 0.0) -> None:
        """Take one query's options; see `climb`."""
        routes, width = len(quality_r), self._quality_qr.shape[1]
        if routes > width:
            self._widen(routes)
        row = self._count - self._climbed
        self._quality_qr[row, :routes] = quality_r
        self._energy_qr[row, :routes] = energy_r
        if routes < width:
            self._quality_qr[row, routes:] = -np.inf
        self._floor_q[row] = floor_per_j
        self._count += 1
        if self._count >= self._next_rebuild:
            self._rebuild()

    def _widen(self, routes: int) -> None:
        extra = ((0, 0), (0, routes - self._quality_qr.shape[1]))
        self._quality_qr = np.pad(self._quality_qr, extra, constant_values=-np.inf)
        self._energy_qr = np.pad(self._energy_qr, extra)

    def _rebuild(self) -> None:
        self._next_rebuild = self._count + min(REBUILD_EVERY, self._count)
        self._take_waiting()
        queries = int(np.isfinite(self._base_q).sum())
        if not queries:
            return
        self._base_j = float(np.nansum(self._base_q)) / queries
        order = np.argsort(-self._slope_s)
        spend_s = self._base_j + np.cumsum(self._extra_s[order]) / queries
        self._minus_price_s, self._spend_s = (-self._slope_s[order]).tolist(), spend_s.tolist()
        self._full_j = self._spend_s[-1] if self._spend_s else self._base_j
        self.ready = True

    def _take_waiting(self) -> None:
        """Climb the hulls of the queries that wait, in place of the oldest."""
        waiting = self._count - self._climbed
        fresh = climb(self._quality_qr[:waiting], self._energy_qr[:waiting], self._floor_q[:waiting])
        place_q = (self._climbed + np.arange(waiting)) % self._window
        stale_q = np.zeros(self._window, dtype=bool)
        stale_q[place_q] = True
        keep_s = ~stale_q[self._row_s]
        self._base_q[place_q] = fresh.base_q
        self._row_s = np.concatenate([self._row_s[keep_s], place_q[fresh.row_s]])
        self._slope_s = np.concatenate([self._slope_s[keep_s], fresh.slope_s])
        self._extra_s = np.concatenate([self._extra_s[keep_s], fresh.extra_s])
        self._climbed = self._count

    @property
    def base_j(self) -> float:
        """Mean joules of the cheapest choices."""
        return self._base_j

    def read(self, target_j: float) -> Reading:
        """The prices around the step at which the mean spend passes the target."""
        step = bisect_right(self._spend_s, target_j)
        if step == len(self._spend_s):
            return Reading(0.0, 0.0, 0.0, self._base_j, self._full_j)
        price = -self._minus_price_s[step if target_j >= self._base_j else 0]
        upper, lower = price * (1.0 + BAND), price * (1.0 - BAND)
        least_j, most_j = self._spend(upper), self._spend(lower)
        share = min(1.0, max(0.0, (target_j - least_j) / (most_j - least_j)))
        return Reading(upper, lower, share, self._base_j, self._full_j)

    def _spend(self, price_per_j: float) -> float:
        """Mean joules at a price: of all steps that are worth more."""
        taken = bisect_left(self._minus_price_s, -price_per_j)
        return self._spend_s[taken - 1] if taken else self._base_j
