"""Policies over evidence: Edgewise beside the obvious alternatives, all chosen on one part and run on another.

Every alternative that has something to choose is chosen by the rule that Edgewise itself uses: fewest joules on the
training part at a quality of at least the best single expert's plus the safety.

Shape letters: q queries, e experts, r routes, f features.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.evidence import Evidence
from optimizer.families import cascades, singles
from optimizer.learn import LearnSettings, predict
from optimizer.model import TaskModel
from optimizer.offer import RouteTable
from optimizer.prices import best_single, decide
from optimizer.replay import Costs, Outcome, ReplayTable
from optimizer.routes import Fusion, Route
from optimizer.table import Pool

Floats = NDArray[np.float64]

POLICIES = ("best_single", "cheapest", "random", "all_fused", "static_mixture", "cascade")


@dataclass(frozen=True)
class Policy:
    """A policy that does not look at the query: one route, or a lottery over several.

    Args:
        routes: What may run.
        share_r: Probability of each.
    """

    routes: tuple[Route, ...]
    share_r: tuple[float, ...] = (1.0,)

    def draw(self, u: float) -> Route:
        """The route for a number drawn uniformly from [0, 1)."""
        index = int(np.searchsorted(np.cumsum(self.share_r), u, side="right"))
        return self.routes[min(index, len(self.routes) - 1)]

    def run(self, evidence: Evidence, costs: Costs) -> Outcome:
        """What the policy does to each query; a lottery gives the expectation, so that no luck is in the figures."""
        table = ReplayTable.of(self.routes, evidence, costs)

        def expected(values_qr: Floats) -> Floats:
            return np.asarray(values_qr @ np.array(self.share_r))

        return Outcome(*map(expected, (table.correct_qr, table.energy_qr, table.latency_qr)))


def baselines(evidence: Evidence, costs: Costs, *, settings: LearnSettings | None = None) -> Mapping[str, Policy]:
    """The policies of `POLICIES`, chosen on this evidence.

    ``static_mixture`` is the best lottery over single experts; ``cascade`` the best chain of two or three experts by
    rising cost, each with a threshold on its own largest probability. Where no candidate reaches the target they
    are the best single expert.
    """
    settings = settings or LearnSettings()
    best = best_single(evidence, costs, tolerance=settings.tolerance)
    target = settings.targets(float(evidence.accuracy_e[best])).balanced
    alone = tuple(Route.single(expert) for expert in evidence.experts)
    fallback = Policy((alone[best],))
    return {
        "best_single": fallback,
        "cheapest": Policy((alone[int(costs.energy_e.argmin())],)),
        "random": Policy(alone, (1.0 / len(alone),) * len(alone)),
        "all_fused": Policy((Route((evidence.experts,), fusion=Fusion.MIXTURE),)),
        "static_mixture": _static_mixture(alone, evidence, costs, target) or fallback,
        "cascade": _cascade(evidence, costs, target) or fallback,
    }


def run_model(model: TaskModel, evidence: Evidence, costs: Costs, *, profile: str = "balanced") -> Outcome:
    """What Edgewise does to each query of the evidence under a profile, without per-request limits."""
    index_q = routes_of(model, evidence, costs, profile=profile)
    return ReplayTable.of(model.routes, evidence, costs).pick(index_q)


def routes_of(model: TaskModel, evidence: Evidence, costs: Costs, *, profile: str) -> NDArray[np.int64]:
    """The route that Edgewise gives each query, (q,)."""
    price = model.prices[profile]
    if price.pinned is not None:
        return np.full(evidence.queries, price.pinned)
    log_odds_qe = evidence.features_qf @ model.heads.weights_ef.T + model.heads.bias_e
    table = RouteTable.of(model.routes, model.experts)
    return decide(predict(model.links, table, costs, log_odds_qe=log_odds_qe), price.price_per_j)


def run_oracle(evidence: Evidence, costs: Costs) -> Outcome:
    """The cheapest expert that is right for each query, the cheapest of all where none is. Nobody can have this."""
    spent_qe = np.where(evidence.correct_qe, costs.energy_e, np.inf)
    solvable_q = evidence.correct_qe.any(axis=1)
    expert_q = np.where(solvable_q, spent_qe.argmin(axis=1), costs.energy_e.argmin())
    return Outcome(solvable_q.astype(np.float64), costs.energy_e[expert_q], costs.latency_e[expert_q])


def _static_mixture(alone: tuple[Route, ...], evidence: Evidence, costs: Costs, target: float) -> Policy | None:
    """A linear program with one constraint beside the simplex: two experts at most, so pairs are enough."""
    accuracy_e, energy_e = evidence.accuracy_e, costs.energy_e
    best: tuple[float, Policy] | None = None
    for low, high in itertools.product(range(len(alone)), repeat=2):
        if accuracy_e[high] < target or (accuracy_e[low] >= target and low != high):
            continue
        rise = accuracy_e[high] - accuracy_e[low]
        share = 1.0 if low == high else float((target - accuracy_e[low]) / rise)
        energy_j = float(share * energy_e[high] + (1.0 - share) * energy_e[low])
        if best is None or energy_j < best[0]:
            best = energy_j, Policy((alone[high], alone[low]), (share, 1.0 - share))
    return best[1] if best else None


def _cascade(evidence: Evidence, costs: Costs, target: float) -> Policy | None:
    chains = cascades(evidence, costs, fusions=(Fusion.NONE,), sizes=(2, 3))
    pool = Pool.of([*singles(evidence, costs), *chains])
    index = pool.cheapest(target)
    return None if index is None else Policy((pool.route(index),))
