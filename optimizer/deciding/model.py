"""What the gateway knows about a task: routes, quality heads and prices, learnt from evidence.

Shape letters: f features, e experts, r routes, s stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.fitting.logistic import sigmoid, sigmoid_of_half
from optimizer.heads.given import MixedHeads
from optimizer.heads.head import HeadBank
from optimizer.heads.texts import TextHeads
from optimizer.native.estimate import Estimator
from optimizer.native.library import available
from optimizer.routes.route import Route

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a query will get from every route.

    Args:
        quality_r: Probability that the route's answer is right.
        reach_rs: Probability that the stage runs: 1 for the first, never rising, 0 past the last.
    """

    quality_r: Floats
    reach_rs: Floats


@dataclass(frozen=True)
class Reference:
    """What every route did on the reference evidence.

    Args:
        quality_r: Share of right answers.
        energy_r: Mean joules.
        latency_r: Mean milliseconds.
        latency_max_r: Milliseconds with all stages run.
        reach_rs: Share of the queries on which the stage ran.
    """

    quality_r: Floats
    energy_r: Floats
    latency_r: Floats
    latency_max_r: Floats
    reach_rs: Floats


@dataclass(frozen=True, slots=True)
class ProfilePrice:
    """What a joule must buy under one profile, and what that gives on the reference evidence.

    Args:
        profile: "eco", "balanced" or "best".
        price_per_j: Quality that one joule must buy.
        pinned: Route that is at least as good and cheaper than deciding per query; `None` where none is.
        expected_quality: Share of right answers.
        expected_energy_j: Mean joules of one request.
    """

    profile: str
    price_per_j: float
    pinned: int | None
    expected_quality: float
    expected_energy_j: float


@dataclass(frozen=True)
class Links:
    """Routes as functions of the experts' heads: logistic in the heads' log odds.

    A single expert's quality is its own head. A composite route's depends on the heads of its first and its last
    expert, and the probability that a stage runs on the head of its first.

    Args:
        quality_re: Weights in the log odds of each route's quality.
        quality_bias_r: Their offsets.
        reach_rse: The same for the probability that a stage runs.
        reach_bias_rs: Their offsets: plus infinity for the first stage, minus infinity past the last.
    """

    quality_re: Floats
    quality_bias_r: Floats
    reach_rse: Floats
    reach_bias_rs: Floats

    @cached_property
    def _stacked(self) -> tuple[Floats, Floats]:
        """Quality and reach under each other, so that a query takes one matrix product and one sigmoid."""
        weights = np.concatenate([self.quality_re, self.reach_rse.reshape(-1, self.quality_re.shape[1])])
        return weights, np.concatenate([self.quality_bias_r, self.reach_bias_rs.ravel()])

    @cached_property
    def halved(self) -> tuple[Floats, Floats]:
        """Both, times a half: the sigmoid's own factor, taken once instead of for every query (and exact)."""
        weights, bias = self._stacked
        return 0.5 * weights, 0.5 * bias

    @cached_property
    def _reach_falls(self) -> bool:
        """Whether no stage can be likelier than one before it, whatever the query: two stages, the first certain."""
        return self.reach_bias_rs.shape[1] <= 2 and bool((self.reach_bias_rs[:, 0] == np.inf).all())

    def estimate(self, log_odds_e: Floats) -> Estimate:
        """Quality and reach for one query from the log odds of its heads."""
        weights, bias = self.halved
        routes = len(self.quality_bias_r)
        probability: Floats = weights.dot(log_odds_e)
        probability += bias
        sigmoid_of_half(probability)
        reach_rs = probability[routes:].reshape(routes, -1)
        if not self._reach_falls:
            reach_rs = np.minimum.accumulate(reach_rs, axis=1)
        return Estimate(probability[:routes], reach_rs)

    def estimate_many(self, log_odds_qe: Floats) -> tuple[Floats, Floats]:
        """quality_qr and reach_qrs for many queries."""
        weights, bias = self._stacked
        routes = len(self.quality_bias_r)
        probability_q = sigmoid(log_odds_qe @ weights.T + bias)
        reach_qrs = probability_q[:, routes:].reshape(len(log_odds_qe), routes, -1)
        return probability_q[:, :routes], np.minimum.accumulate(reach_qrs, axis=2)


@dataclass(frozen=True)
class TaskModel:
    """Routes of one task with everything that prices them for a query.

    Args:
        experts: Names; order of everything with an e axis.
        routes: The table: every single expert first, in the order of `experts`, then the composite routes.
        heads: One calibrated quality head per expert; those of a text task read a text's bytes, and some may have been
            trained elsewhere.
        links: From heads to routes.
        reference: What every route did on the reference evidence.
        prices: Per profile: "eco", "balanced", "best".
        best_single: Index of the cheapest expert within a tolerance of the most accurate.
    """

    experts: tuple[str, ...]
    routes: tuple[Route, ...]
    heads: HeadBank | TextHeads | MixedHeads
    links: Links
    reference: Reference
    prices: Mapping[str, ProfilePrice]
    best_single: int

    def estimate(self, x_f: NDArray[Any]) -> Estimate:
        """Quality and reach of every route for one query.

        Args:
            x_f: The same features, in the same order, as the evidence had.

        Cost: two matrix products and a sigmoid; for numbers in one compiled call where that is built.
        """
        compiled = self._compiled
        return self.links.estimate(self.heads.log_odds(x_f)) if compiled is None else Estimate(*compiled(x_f))

    @cached_property
    def _compiled(self) -> Estimator | None:
        """Heads and links in one; None where heads read texts, or nothing is compiled."""
        if not isinstance(self.heads, HeadBank) or not available():
            return None
        heads = self.heads.weights_ef, self.heads.bias_e
        return Estimator(heads, self.links.halved, routes=len(self.routes))

    def index_of(self, name: str) -> int:
        """Row of a route by its name.

        Raises:
            KeyError: No such route.
        """
        for index, route in enumerate(self.routes):
            if route.name == name:
                return index
        raise KeyError(name)
