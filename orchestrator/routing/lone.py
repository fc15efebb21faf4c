"""Routes of one arm each on the figures of one text.

Each text has figures of its own, and mostly there is a handful of arms: plain numbers are looked up arm by arm and made
arrays of once, which costs less than setting numpy in motion for each of them. Of one arm alone none are made.

Shape letters: n arms, r bound routes.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.model import Estimate
from optimizer.deciding.promise import Offer, OnlyOffer
from orchestrator.routing.table import RouteTable
from orchestrator.routing.text_figures import UNKNOWN, TextFigures

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

    __slots__ = ("_costs", "_loaded")

    def __init__(self, routes: RouteTable, figures: TextFigures, arms: list[int]) -> None:
        # What hangs on no text is the table's own, with what it keeps of the like; nothing of this text goes in there.
        self.__dict__ = vars(routes)
        cost_n, self._loaded = figures.cost_n, figures.loaded
        self._costs = [cost_n.get(n, UNKNOWN) for n in arms]

    def offer(self, estimate: Estimate, allowed_r: Bools | None = None, *, admitted: bool = False) -> Offer:
        """See `RouteTable.offer`."""
        costs, quality_r = self._costs, self._quality(estimate.quality_r)
        # A queue that is full is closed for ever.
        most_ms = sys.float_info.max if admitted else 0.0
        if len(costs) == 1:
            only = costs[0]
            free = only.busy.available and only.busy.closed_ms <= most_ms
            return OnlyOffer(quality_r, only, available=free and (allowed_r is None or allowed_r.item()))
        takes = [cost.busy.available and cost.busy.closed_ms <= most_ms for cost in costs]
        if all(takes):
            available_r = _EVERY_ONE[: len(takes)] if allowed_r is None else allowed_r
        else:
            available_r = np.array(takes, dtype=bool)
            available_r = available_r if allowed_r is None else available_r & allowed_r
        joules, most_joules = [cost.energy_j for cost in costs], [cost.energy_bound_j for cost in costs]
        typical_ms, bound_ms = [cost.latency_ms for cost in costs], [cost.latency_bound_ms for cost in costs]
        # One row after the other: numpy reads a flat list sooner than one of lists.
        energy_r, energy_bound_r, latency_r, latency_bound_r = np.array(
            joules + most_joules + typical_ms + bound_ms
        ).reshape(4, -1)
        return Offer(quality_r, energy_r, energy_bound_r, latency_r, latency_bound_r, available_r)

    def first_of(self, model_index: int) -> int | None:
        """See `RouteTable.first_of`."""
        found = np.flatnonzero(self.model_m == model_index).tolist()
        return min(found, key=lambda r: self._costs[r].energy_j, default=None)

    def unloaded_ms(self, *, typical: bool = False) -> Floats:
        """See `RouteTable.unloaded_ms`."""
        return np.array([cost.service_ms if typical else cost.service_bound_ms for cost in self._costs])

    def load_ms(self) -> Floats | None:
        """See `RouteTable.load_ms`."""
        if not self._loaded:
            return None
        loads_ms = [cost.busy.load_ms for cost in self._costs]
        return np.array(loads_ms) if any(loads_ms) else None

    def cached_tokens(self) -> Floats | None:
        """See `RouteTable.cached_tokens`."""
        return np.array([cost.cached_tokens for cost in self._costs])

    def crowded(self) -> Bools:
        """See `RouteTable.crowded`."""
        return np.array([cost.busy.available and cost.busy.closed_ms > 0.0 for cost in self._costs], dtype=bool)

    def closed_ms(self) -> Floats:
        """See `RouteTable.closed_ms`."""
        return np.array([cost.busy.closed_ms for cost in self._costs])
