"""How many joules queries like the recent ones spend at a price: the curve that a long-run budget is read from.

At price λ a query takes argmax quality - λ·joules. As λ falls it climbs its own concave hull of (joules, quality) step
by step, so the mean spend over recent queries is a falling staircase whose steps are the hulls' slopes, merged. Reading
λ off the staircase answers "at what price do these queries spend the target", without creeping there.

Shape letters: q queries, r routes, s steps of all queries together.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The curve is rebuilt after this many new queries; the first time sooner, each time after twice as many.
REBUILD_EVERY = 64
FIRST_REBUILD = 8


@dataclass(frozen=True, slots=True)
class Reading:
    """What the curve says of one target.

    Args:
        price_per_j: Quality that a joule must buy; 0 where everything is affordable.
        base_j: Mean joules of the cheapest choice: no price goes below it.
        full_j: Mean joules when joules are free.
    """

    price_per_j: float
    base_j: float
    full_j: float


def climb(quality_qr: Floats, energy_qr: Floats, floor_q: Floats) -> tuple[Floats, Floats, Floats]:
    """Every query's cheapest choice and the steps of its hull.

    Args:
        quality_qr: Estimated quality; minus infinity where the query may not take the route.
        energy_qr: Expected joules; anything finite where it may not.
        floor_q: Price below which the query never goes; its steps that are worth less are left out.

    Returns:
        Joules of the cheapest choice (q,), and slopes and joules of all steps (s,) of queries that have some route.

    Cost: about 10 numpy calls per step of the longest hull.
    """
    rows = np.flatnonzero(np.isfinite(quality_qr).any(axis=1))
    quality_qr, energy_qr, floor_q = quality_qr[rows], energy_qr[rows], floor_q[rows]
    here_q = _cheapest(quality_qr, energy_qr)
    every = np.arange(len(rows))
    energy_q, quality_q = energy_qr[every, here_q], quality_qr[every, here_q]
    base_q, slopes, extras = energy_q, [np.zeros(0)], [np.zeros(0)]
    while len(every):
        more_qr, better_qr = energy_qr - energy_q[:, None], quality_qr - quality_q[:, None]
        up_qr = (more_qr > 0.0) & (better_qr > 0.0)
        slope_qr = np.divide(better_qr, more_qr, out=np.full_like(more_qr, -np.inf), where=up_qr)
        steepest_q = slope_qr.argmax(axis=1)
        slope_q = slope_qr[every, steepest_q]
        on = np.flatnonzero(slope_q > floor_q)
        slopes.append(slope_q[on])
        extras.append(more_qr[on, steepest_q[on]])
        quality_qr, energy_qr, floor_q = quality_qr[on], energy_qr[on], floor_q[on]
        every, there_q = np.arange(len(on)), steepest_q[on]
        energy_q, quality_q = energy_qr[every, there_q], quality_qr[every, there_q]
    return base_q, np.concatenate(slopes), np.concatenate(extras)


def _cheapest(quality_qr: Floats, energy_qr: Floats) -> NDArray[np.intp]:
    """The fewest joules; among equals the best."""
    allowed_qr = np.where(np.isfinite(quality_qr), energy_qr, np.inf)
    least_qr = allowed_qr <= allowed_qr.min(axis=1, keepdims=True)
    return np.asarray(np.where(least_qr, quality_qr, -np.inf).argmax(axis=1))


class SpendCurve:
    """The staircase over a sliding window of queries.

    Args:
        window: Queries that are kept.

    Cost: `add` copies two short rows (1 µs), `read` is a bisection (1 µs), a rebuild 0.2 to 0.4 ms once in
    `REBUILD_EVERY` queries; measured by tests/bench/bench_pacing.py.
    """

    def __init__(self, window: int = 512) -> None:
        self._window = window
        self._count = 0
        self._next_rebuild = FIRST_REBUILD
        self._quality_qr = np.full((window, 1), -np.inf)
        self._energy_qr = np.zeros((window, 1))
        self._floor_q = np.zeros(window)
        self._price_s: list[float] = []
        self._spend_s: list[float] = []
        self._base_j = self._full_j = 0.0
        self.ready = False

    def add(self, quality_r: Floats, energy_r: Floats, floor_per_j: float = 0.0) -> None:
        """Take one query's options; see `climb`."""
        routes, width = len(quality_r), self._quality_qr.shape[1]
        if routes > width:
            self._widen(routes)
        row = self._count % self._window
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
        held = min(self._count, self._window)
        base_q, slope_s, extra_s = climb(self._quality_qr[:held], self._energy_qr[:held], self._floor_q[:held])
        if not len(base_q):
            return
        self._base_j = float(base_q.mean())
        order = np.argsort(-slope_s, kind="stable")
        spend_s = self._base_j + np.cumsum(extra_s[order]) / len(base_q)
        self._price_s, self._spend_s = slope_s[order].tolist(), spend_s.tolist()
        self._full_j = self._spend_s[-1] if self._spend_s else self._base_j
        self.ready = True

    def read(self, target_j: float) -> Reading:
        """The lowest price at which the mean spend stays within the target; the steepest step where none does."""
        step = bisect_right(self._spend_s, target_j)
        price = self._price_s[step] if step < len(self._price_s) else 0.0
        return Reading(price, self._base_j, self._full_j)
