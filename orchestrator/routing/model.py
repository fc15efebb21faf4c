"""What routing needs to know of quality, behind one contract.

The learned model (`optimizer.deciding.model.TaskModel`) reads the query; `AnnouncedModel` knows only the accuracy that
each expert announced: it serves tasks without evidence, text tasks, and the moments before learning has finished.

Shape letters: f features, r routes, s stages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.model import Estimate, ProfilePrice
from optimizer.routes.route import Route
from orchestrator.types import Arm, Provenance

# What `balanced` and `eco` give up against the best expert where nothing was learned: quality for the whole span of
# joules between the cheapest and the dearest expert.
ANNOUNCED_SACRIFICE = {"best": 0.0, "balanced": 0.003, "eco": 0.01}


class QualityModel(Protocol):
    """Routes and how good each is expected to be for one query."""

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes; estimates have one entry per route, in this order."""
        ...

    @property
    def prices(self) -> Mapping[str, ProfilePrice]:
        """What a joule must buy, per profile."""
        ...

    def estimate(self, x_f: NDArray[np.floating[Any]]) -> Estimate:
        """Quality of each route for the features `x_f`, and the probability that each stage is reached."""
        ...


class AnnouncedModel:
    """One route per expert, each as good as its node says, whatever the query.

    Args:
        quality_by_expert: Announced share of right answers.
        energy_by_expert: Announced joules; experts whose joules are unknown count as 0 here.
    """

    def __init__(self, quality_by_expert: Mapping[str, float], energy_by_expert: Mapping[str, float]) -> None:
        experts = sorted(quality_by_expert)
        self.routes = tuple(Route.single(expert) for expert in experts)
        quality_r = np.array([quality_by_expert[expert] for expert in experts])
        energy_r = np.array([energy_by_expert.get(expert, 0.0) for expert in experts])
        self._estimate = Estimate(quality_r, np.ones((len(experts), 1)))
        self.prices = {profile: _announced_price(profile, quality_r, energy_r) for profile in ANNOUNCED_SACRIFICE}

    def estimate(self, x_f: NDArray[np.floating[Any]]) -> Estimate:  # noqa: ARG002
        """The announced qualities."""
        return self._estimate


def announced_model(arms: Iterable[Arm]) -> AnnouncedModel:
    """What these arms announced: of an expert on several nodes, the fewest joules that anybody knows."""
    quality, joules = {}, dict[str, float]()
    for arm in arms:
        quality[arm.expert] = arm.quality_fraction
        if arm.energy.provenance is not Provenance.UNMEASURED:
            joules[arm.expert] = min(arm.energy.energy_j, joules.get(arm.expert, math.inf))
    return AnnouncedModel(quality, joules)


def _announced_price(profile: str, quality_r: NDArray[np.float64], energy_r: NDArray[np.float64]) -> ProfilePrice:
    span_j = float(energy_r.max() - energy_r.min()) if energy_r.size else 0.0
    price_per_j = ANNOUNCED_SACRIFICE[profile] / span_j if span_j > 0 else 0.0
    if not energy_r.size:
        return ProfilePrice(profile, 0.0, None, 0.0, 0.0)
    best = int(np.argmax(quality_r - price_per_j * energy_r))
    return ProfilePrice(profile, price_per_j, None, float(quality_r[best]), float(energy_r[best]))
