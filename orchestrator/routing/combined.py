"""Votes, judges and texts written together beside the routes of a model, for clients that ask for them by name.

What was not learned is not promised: such a route counts as no better than the best of its experts, so that the gateway
never takes it by itself where one expert alone does. Written together a text is partly the worst one's, and may cost
less than the best one's: it counts as that one's, which alone costs less still. What feedback has shown of a route says
how much better or worse it is.

Shape letters: r routes, s stages.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.model import Estimate, ProfilePrice
from optimizer.routes.route import Fusion, Route
from orchestrator.routing.fused import Calibrated
from orchestrator.routing.model import QualityModel
from orchestrator.routing.turns import byte_routes, turn_routes

MOST_VOTERS = 4
_LEAST_WEIGHT = 0.05


class CombinedModel:
    """A model with votes, judges and texts written together added at the end of its routes.

    Args:
        model: The routes that were learned or announced.
        quality_by_expert: Share of right answers, for the weights of the votes and of turns.
        calibrated: What feedback has made of the quality of such a route; None has learned nothing.
        vocabularies: Of the experts that can write in turns.
        spellers: Experts that can write with those of other vocabularies.
    """

    def __init__(
        self,
        model: QualityModel,
        quality_by_expert: Mapping[str, float],
        calibrated: Calibrated | None = None,
        *,
        vocabularies: Mapping[str, str] = MappingProxyType({}),
        spellers: Collection[str] = (),
    ) -> None:
        self.model = model
        ranked = sorted(quality_by_expert, key=lambda expert: (-quality_by_expert[expert], expert))
        weights = {expert: max(quality, _LEAST_WEIGHT) for expert, quality in quality_by_expert.items()}
        together = [*turn_routes(ranked, vocabularies, weights), *byte_routes(ranked, spellers, weights)]
        extra = [*_votes(ranked, quality_by_expert), *_judges(ranked), *together]
        single = {route.experts[0]: r for r, route in enumerate(model.routes) if route.is_single}
        extra = [route for route in extra if all(expert in single for expert in route.experts)]
        self.routes = (*model.routes, *extra)
        self._extra = extra
        self._calibrated = calibrated or _as_said
        self._members = [[single[expert] for expert in route.experts] for route in extra]
        self._stages = [len(route.stages) for route in extra]
        self._best_r = [not route.writes_together for route in extra]

    def over(self, model: QualityModel) -> CombinedModel:
        """The same votes and judges beside another model of the same routes."""
        other = copy(self)
        other.model = model
        return other

    @property
    def prices(self) -> Mapping[str, ProfilePrice]:
        """Those of the model within."""
        return self.model.prices

    def estimate(self, x_f: NDArray[Any]) -> Estimate:
        """As the model within; what was added is as good as its best expert, written together as its worst, or as
        feedback has shown."""
        known = self.model.estimate(x_f)
        if not self._members:
            return known
        pairs = zip(self._best_r, self._members, strict=True)
        said = [float((max if best else min)(known.quality_r[members])) for best, members in pairs]
        quality_r = np.array([self._calibrated(*one) for one in zip(self._extra, said, strict=True)])
        width = max(known.reach_rs.shape[1], *self._stages)
        reach_rs = np.zeros((len(self.routes), width))
        reach_rs[: len(known.reach_rs), : known.reach_rs.shape[1]] = known.reach_rs
        for row, stages in enumerate(self._stages, start=len(known.reach_rs)):
            reach_rs[row, :stages] = 1.0
        return Estimate(np.concatenate([known.quality_r, quality_r]), reach_rs)


def _as_said(_route: Route, said: float) -> float:
    return said


def _votes(ranked: Sequence[str], quality: Mapping[str, float]) -> list[Route]:
    """The best three or four experts side by side, each vote weighted with the log odds of its expert.

    Of two the one with more weight would always win: that is a vote only where there is no third.
    """
    routes = []
    for size in range(min(3, max(2, len(ranked))), min(MOST_VOTERS, len(ranked)) + 1):
        weights = tuple(_weight(quality[expert]) for expert in ranked[:size])
        routes.append(Route((tuple(ranked[:size]),), fusion=Fusion.MIXTURE, weights=weights))
    return routes


def _weight(quality_fraction: float) -> float:
    kept = min(max(quality_fraction, 0.01), 0.999)
    return max(float(np.log(kept / (1.0 - kept))), _LEAST_WEIGHT)


def _judges(ranked: Sequence[str]) -> list[Route]:
    """The best expert judges what the next two say; where they agree it need not be asked."""
    if len(ranked) < 3:
        return []
    return [Route(((ranked[1], ranked[2]), (ranked[0],)), continue_below=(1.0,), fusion=Fusion.JUDGE)]
