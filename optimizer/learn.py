"""From evidence to a task model: heads, a small table of routes, and prices.

Shape letters: q queries, f features, e experts, r routes, s stages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.evidence import Evidence
from optimizer.head import HeadBank, cross_fit_head
from optimizer.links import fit_links
from optimizer.model import Links, Reference, TaskModel
from optimizer.offer import RouteTable
from optimizer.prices import Predictions, Targets, best_single, price_profiles
from optimizer.replay import Costs, ReplayTable
from optimizer.routes import Route
from optimizer.table import build_table

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LearnSettings:
    """What learning aims at; qualities are shares of right answers.

    Args:
        safety: "balanced" must beat the best single expert by this much on the evidence: the cheapest of many
            candidates is a lucky one, and gives a little of its quality back on new queries.
        tolerance: The best single expert is the cheapest within this distance of the most accurate.
        eco_loss: Quality that "eco" may lose against the best single expert.
        max_composites: Most routes in the table beside the single experts.
        max_fanout: Most experts that may run in parallel.
        seed: Of the folds.
    """

    safety: float = 0.0005
    tolerance: float = 0.003
    eco_loss: float = 0.01
    max_composites: int = 24
    max_fanout: int = 3
    seed: int = 0

    def targets(self, best_single_quality: float) -> Targets:
        """Least quality of each profile."""
        return Targets(eco=best_single_quality - self.eco_loss, balanced=best_single_quality + self.safety)


def learn(evidence: Evidence, costs: Costs, *, settings: LearnSettings | None = None) -> TaskModel:
    """Fit heads, choose the table of routes, link routes to heads and set the prices.

    Args:
        evidence: Answers of every expert to samples that it was not trained on.
        costs: Of each expert on its cheapest arm, in the order of `evidence.experts`.
        settings: What to aim at.

    Raises:
        EvidenceError: Costs of other experts than the evidence.

    Cost: 0.5 s for 5 experts × 1,437 queries × 64 features; meant for a thread beside the event loop.
    """
    settings = settings or LearnSettings()
    if len(costs.energy_e) != len(evidence.experts):
        raise EvidenceError(f"Costs must have one entry per expert ({len(evidence.experts)}).")
    fits = [
        cross_fit_head(evidence.features_qf, evidence.correct_qe[:, e], seed=settings.seed)
        for e in range(len(evidence.experts))
    ]
    best = best_single(evidence, costs, tolerance=settings.tolerance)
    targets = settings.targets(float(evidence.accuracy_e[best]))
    routes = _routes(evidence, costs, targets, settings)
    table = ReplayTable.of(routes, evidence, costs)
    log_odds_qe = np.stack([fit.log_odds_q for fit in fits], axis=1)
    links = fit_links(routes, evidence.experts, table=table, log_odds_qe=log_odds_qe)
    predictions = predict(links, RouteTable.of(routes, evidence.experts), costs, log_odds_qe=log_odds_qe)
    return TaskModel(
        experts=evidence.experts,
        routes=routes,
        heads=HeadBank.stack([fit.head for fit in fits]),
        links=links,
        reference=_reference(routes, evidence, costs, table),
        prices=price_profiles(table, predictions, targets=targets, safety=settings.safety),
        best_single=best,
    )


def predict(links: Links, table: RouteTable, costs: Costs, *, log_odds_qe: Floats) -> Predictions:
    """What the gate predicts for many queries: the batch form of `Links.estimate` and `RouteTable.offer`."""
    quality_qr, reach_qrs = links.estimate_many(log_odds_qe)
    energy_rs = table.member_rse @ costs.energy_e
    return Predictions(quality_qr, (reach_qrs * energy_rs).sum(axis=2))


def _routes(evidence: Evidence, costs: Costs, targets: Targets, settings: LearnSettings) -> tuple[Route, ...]:
    return build_table(
        evidence,
        costs,
        targets=(targets.balanced, targets.eco),
        max_composites=settings.max_composites,
        max_fanout=settings.max_fanout,
    )


def _reference(routes: tuple[Route, ...], evidence: Evidence, costs: Costs, table: ReplayTable) -> Reference:
    latency_rs = (RouteTable.of(routes, evidence.experts).member_rse * costs.latency_e).max(axis=2)
    return Reference(
        quality_r=table.correct_qr.mean(axis=0),
        energy_r=table.energy_qr.mean(axis=0),
        latency_r=table.latency_qr.mean(axis=0),
        latency_max_r=latency_rs.sum(axis=1),
        reach_rs=table.reached_qrs.mean(axis=0),
    )
