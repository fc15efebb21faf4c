"""A model whose heads come, as far as they are known there, from a gate that was trained by hand.

Shape letters: f features, r routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.model import Estimate, ProfilePrice, TaskModel
from optimizer.heads.given import Given, MixedHeads, matches
from orchestrator.routing.combined import CombinedModel
from orchestrator.routing.model import QualityModel


class GatedModel:
    """Announced qualities, with those that a given gate knows by query.

    Args:
        model: One route per expert, each as good as its node says.
        given: What is known better.
    """

    def __init__(self, model: QualityModel, given: Given) -> None:
        self._model, self._given = model, given
        self.routes = model.routes
        names = [route.experts[0] if route.is_single else "" for route in model.routes]
        self._from_g, self._to_r = matches(given.experts, names)

    @property
    def prices(self) -> Mapping[str, ProfilePrice]:
        """As announced."""
        return self._model.prices

    def estimate(self, x_f: NDArray[np.floating[Any]]) -> Estimate:
        """The announced qualities, but those of the gate where it knows the expert and can read the query."""
        known, quality_g = self._model.estimate(x_f), self._given.quality(x_f)
        if quality_g is None:
            return known
        quality_r = known.quality_r.copy()
        quality_r[self._to_r] = quality_g[self._from_g]
        return Estimate(quality_r, known.reach_rs)


def gated(model: QualityModel, given: Given) -> QualityModel:
    """The model with the given heads; the model itself where the gate knows none of its experts.

    A learned model keeps its routes, its links from heads to routes and its prices, but is no longer pinned to one
    route: that a route is as good as deciding by query was found with other heads.
    """
    if isinstance(model, CombinedModel):
        inner = gated(model.model, given)
        return model if inner is model.model else model.over(inner)
    if not isinstance(model, TaskModel):
        singles = [route.experts[0] for route in model.routes if route.is_single]
        return GatedModel(model, given) if set(singles) & set(given.experts) else model
    if isinstance(model.heads, MixedHeads):
        return model
    heads = MixedHeads.of(model.heads, model.experts, given)
    if heads is None:
        return model
    return replace(
        model, heads=heads, prices={name: replace(price, pinned=None) for name, price in model.prices.items()}
    )
