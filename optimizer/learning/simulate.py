"""Policies over evidence: Edgewise beside the obvious alternatives, all chosen on one part and run on another.

Every alternative that has something to choose is chosen by the rule that Edgewise itself uses: fewest joules on the
training part at the standard of the default profile.

Shape letters: q queries, e experts, r routes, f features.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.model import TaskModel
from optimizer.deciding.offer import RouteTable
from optimizer.errors import EvidenceError
from optimizer.evidence.answers import Evidence
from optimizer.evidence.replay import Costs, Outcome, ReplayTable
from optimizer.evidence.standard import Standard, Trial, best_single
from optimizer.heads.head import HeadBank
from optimizer.learning.families import cascades, singles
from optimizer.learning.learn import LearnSettings, predict
from optimizer.learning.prices import decide
from optimizer.learning.table import Pool
from optimizer.routes.route import Fusion, Route

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

        return Outcome(expected(table.correct_qr), expected(table.energy_qr), expected(table.latency_qr))


def baselines(evidence: Evidence, costs: Costs, *, settings: LearnSettings | None = None) -> Mapping[str, Policy]:
    """The policies of `POLICIES`, chosen on this evidence.

    ``static_mixture`` is the best lottery over single experts; ``cascade`` the best chain of two or three experts by
    rising cost, each with a threshold on its own largest probability, or the single expert that beats them all.
    """
    settings = settings or LearnSettings()
    trial = Trial(evidence, costs, best_single(evidence, costs, tolerance=settings.tolerance))
    alone = tuple(Route.single(expert) for expert in evidence.experts)
    return {
        "best_single": Policy((alone[trial.rival],)),
        "cheapest": Policy((alone[int(costs.energy_e.argmin())],)),
        "random": Policy(alone, (1.0 / len(alone),) * len(alone)),
        "all_fused": Policy((Route((evidence.experts,), fusion=Fusion.MIXTURE),)),
        "static_mixture": _static_mixture(alone, trial, settings.balanced),
        "cascade": _cascade(trial, settings.balanced),
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
    if not isinstance(model.heads, HeadBank):
        raise EvidenceError("These heads read texts; this evidence has features.")
    log_odds_qe = evidence.features_qf @ model.heads.weights_ef.T + model.heads.bias_e
    table = RouteTable.of(model.routes, model.experts)
    return decide(predict(model.links, table, costs, log_odds_qe=log_odds_qe), price.price_per_j)


def run_oracle(evidence: Evidence, costs: Costs) -> Outcome:
    """The cheapest expert that is right for each query, the cheapest of all where none is. Nobody can have this."""
    spent_qe = np.where(evidence.correct_qe, costs.energy_e, np.inf)
    solvable_q = np.asarray(evidence.correct_qe.any(axis=1))
    expert_q = spent_qe.argmin(axis=1)
    expert_q[~solvable_q] = costs.energy_e.argmin()
    correct_q: Floats = solvable_q.astype(np.float64)
    return Outcome(correct_q, costs.energy_e[expert_q], costs.latency_e[expert_q])


def _static_mixture(alone: tuple[Route, ...], trial: Trial, standard: Standard) -> Policy:
    """A linear program with one constraint beside the simplex: two experts at most, so pairs are enough.

    Held to the mean alone, without the margin: the lenient side for a rival.
    """
    accuracy_e, energy_e = trial.evidence.accuracy_e, trial.costs.energy_e
    target = trial.rival_quality + standard.gain
    best_j, best = float(energy_e[trial.rival]), Policy((alone[trial.rival],))
    for low, high in itertools.permutations(range(len(alone)), 2):
        if not accuracy_e[low] < target <= accuracy_e[high]:
            continue
        share = float((target - accuracy_e[low]) / (accuracy_e[high] - accuracy_e[low]))
        energy_j = float(share * energy_e[high] + (1.0 - share) * energy_e[low])
        if energy_j < best_j:
            best_j, best = energy_j, Policy((alone[high], alone[low]), (share, 1.0 - share))
    return best


def _cascade(trial: Trial, standard: Standard) -> Policy:
    chains = cascades(trial, fusions=(Fusion.NONE,), sizes=(2, 3))
    pool = Pool.of([*singles(trial), *chains])
    index = pool.cheapest(standard, trial.rival_quality)
    return Policy((Route.single(trial.evidence.experts[trial.rival]) if index is None else pool.route(index),))
