"""A quality model whose figures a test gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.model import Estimate, ProfilePrice
from optimizer.routes.route import Fusion, Route


class GivenModel:
    """The same quality and reach for every query.

    Args:
        routes: Routes with their quality.
        reach: Per route, the probability that each stage runs; 1 for what is not given.
        price_per_j: By profile.
        pinned: Index of the route that every profile takes where it fits.
    """

    def __init__(
        self,
        routes: Mapping[Route, float],
        *,
        reach: Mapping[Route, Sequence[float]] | None = None,
        price_per_j: Mapping[str, float] | None = None,
        pinned: int | None = None,
    ) -> None:
        self.routes = tuple(routes)
        stages = max(len(route.stages) for route in self.routes)
        reach_rs = np.zeros((len(self.routes), stages))
        for r, route in enumerate(self.routes):
            reach_rs[r, : len(route.stages)] = (reach or {}).get(route, [1.0] * len(route.stages))
        self._estimate = Estimate(np.array(list(routes.values())), reach_rs)
        prices = {"eco": 0.0, "balanced": 0.0, "best": 0.0} | dict(price_per_j or {})
        self.prices = {name: ProfilePrice(name, price, pinned, 0.0, 0.0) for name, price in prices.items()}

    def estimate(self, x_f: NDArray[np.floating[Any]]) -> Estimate:
        return self._estimate


def one(expert: str) -> Route:
    return Route.single(expert)


def together(*experts: str, fusion: Fusion = Fusion.MIXTURE) -> Route:
    return Route((experts,), fusion=fusion)


def cascade(*experts: str, below: float = 0.9, fusion: Fusion = Fusion.NONE) -> Route:
    return Route(tuple((expert,) for expert in experts), (below,) * (len(experts) - 1), fusion)
