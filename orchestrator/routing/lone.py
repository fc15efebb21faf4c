"""Routes of one arm each on the figures of one text.

Each text has figures of its own, and mostly there is a handful of arms: plain numbers are looked up arm by arm and made
arrays of once, which costs less than setting numpy in motion for each of them.

Shape letters: n arms, r bound routes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.choose import Offer
from optimizer.deciding.model import Estimate
from orchestrator.routing.table import RouteTable
from orchestrator.routing.text_figures import TextFigures

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Of more arms arrays are kept, which take less memory: the journal holds the tables of thousands of texts.
MOST_ARMS = 32
_EVERY_ONE: Bools = np.ones(MOST_ARMS, dtype=bool)
_EVERY_ONE.setflags(write=False)


def priced(table: RouteTable, figures: TextFigures) -> RouteTable:
    """The same routes on the figures of one text."""
    arms = table.lone_arms
    if arms is None or len(arms) > MOST_ARMS:
        return table.priced(figures.columns())
    return LoneTable(table, figures, arms)


class LoneTable(RouteTable):
    """A table whose routes are one arm each, on the figures of one text.

    Args:
        routes: The table.
        figures: Of the text.
        arms: Of the table, by route.
    """

    def __init__(self, routes: RouteTable, figures: TextFigures, arms: list[int]) -> None:
        self.__dict__ = vars(routes).copy()
        self._figures = figures
        self._arms = arms
        figures.cover(arms)

    def offer(self, estimate: Estimate, allowed_r: Bools | None = None, *, admitted: bool = False) -> Offer:
        """See `RouteTable.offer`."""
        figures = self._figures
        energy_j_n, energy_bound_j_n = figures.energy_j_n, figures.energy_bound_j_n
        service_ms_n, service_bound_ms_n = figures.service_ms_n, figures.service_bound_ms_n
        # A queue that is full is closed for ever.
        most_ms = sys.float_info.max if admitted else 0.0
        joules, most_joules, typical_ms, bound_ms, takes = [], [], [], [], []
        for n in self._arms:
            busy = figures.busy_n[n]
            joules.append(energy_j_n[n])
            most_joules.append(energy_bound_j_n[n])
            typical_ms.append(service_ms_n[n] + busy.wait_ms)
            bound_ms.append(service_bound_ms_n[n] + busy.wait_bound_ms)
            takes.append(busy.available and busy.closed_ms <= most_ms)
        if all(takes):
            available_r = _EVERY_ONE[: len(takes)] if allowed_r is None else allowed_r
        else:
            available_r = np.array(takes, dtype=bool)
            available_r = available_r if allowed_r is None else available_r & allowed_r
        # One row after the other: numpy reads a flat list sooner than one of lists.
        figures_kr = np.array(joules + most_joules + typical_ms + bound_ms).reshape(4, -1)
        energy_r, energy_bound_r, latency_r, latency_bound_r = figures_kr
        return Offer(
            self._quality(estimate.quality_r),
            energy_r,
            energy_bound_r,
            latency_r,
            latency_bound_r,
            available_r,
        )

    def first_of(self, model_index: int) -> int | None:
        """See `RouteTable.first_of`."""
        found = np.flatnonzero(self.model_m == model_index).tolist()
        return min(found, key=lambda r: self._figures.energy_j_n[self._arms[r]], default=None)

    def _of_each_arm(self, figure: Callable[[int], float]) -> Floats:
        return np.array([figure(n) for n in self._arms], dtype=np.float64)

    def unloaded_ms(self, *, typical: bool = False) -> Floats:
        """See `RouteTable.unloaded_ms`."""
        figures = self._figures
        return self._of_each_arm((figures.service_ms_n if typical else figures.service_bound_ms_n).__getitem__)

    def load_ms(self) -> Floats | None:
        """See `RouteTable.load_ms`."""
        if not self._figures.loaded:
            return None
        loads_ms = [self._figures.busy_n[n].load_ms for n in self._arms]
        return np.array(loads_ms) if any(loads_ms) else None

    def cached_tokens(self) -> Floats | None:
        """See `RouteTable.cached_tokens`."""
        return self._of_each_arm(self._figures.cached_tokens_n.__getitem__)

    def crowded(self) -> Bools:
        """See `RouteTable.crowded`."""
        return (self._of_each_arm(lambda n: self._figures.busy_n[n].available) > 0.0) & (self.closed_ms() > 0.0)

    def closed_ms(self) -> Floats:
        """See `RouteTable.closed_ms`."""
        return self._of_each_arm(lambda n: self._figures.busy_n[n].closed_ms)
