"""From evidence to a task model: heads, a small table of routes, and prices.

Shape letters: q queries, f features, e experts, r routes, s stages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.model import Links, Reference, TaskModel
from optimizer.deciding.offer import RouteTable
from optimizer.errors import EvidenceError
from optimizer.evidence.answers import Evidence
from optimizer.evidence.replay import Costs, ReplayTable
from optimizer.evidence.standard import Standard, Trial, best_single
from optimizer.evidence.texts import TextEvidence
from optimizer.fitting.judging import folds_of
from optimizer.heads.head import HeadBank, cross_fit_head
from optimizer.heads.texts import TextFit, TextHeads, fit_text_heads
from optimizer.learning.links import fit_links
from optimizer.learning.pairs import pairs
from optimizer.learning.prices import Predictions, build_options, price_profiles
from optimizer.learning.table import Table, build_table
from optimizer.routes.route import Fusion, Route

Floats = NDArray[np.float64]

_FOLDS = 5
# As good as the best single expert, and with 95 % confidence not worse by more than half a tenth of a point. Chosen on
# the training folds of tests/bench/bench_quality.py: a margin of 0.1 points gave more of its quality back.
BALANCED = Standard(gain=0.0, margin=0.0005)
# One point may go for joules.
ECO = Standard(gain=-0.01, margin=0.005)


@dataclass(frozen=True)
class LearnSettings:
    """What learning aims at; qualities are shares of right answers.

    Args:
        balanced: What the default profile must reach beside the best single expert.
        eco: What the saving profile must reach.
        tolerance: The best single expert is the cheapest within this distance of the most accurate.
        max_composites: Most routes in the table beside the single experts.
        max_fanout: Most experts that may run in parallel.
        seed: Of the folds.
        cascades: How the answers of a cascade's stages may be combined.
        by_prompt: Whether pairs are sought that are worth having for some queries only, and all heads tell of a route.

    Raises:
        EvidenceError: A standard that the best single expert itself would not reach.
    """

    balanced: Standard = BALANCED
    eco: Standard = ECO
    tolerance: float = 0.003
    max_composites: int = 24
    max_fanout: int = 3
    seed: int = 0
    cascades: tuple[Fusion, ...] = (Fusion.NONE, Fusion.GEOMETRIC, Fusion.PRODUCT)
    by_prompt: bool = False

    def __post_init__(self) -> None:
        for standard in (self.balanced, self.eco):
            if standard.gain > 0.0 or standard.margin < 0.0:
                raise EvidenceError("A standard needs gain <= 0 and margin >= 0, so that some policy can reach it.")


def learn(evidence: Evidence, costs: Costs, *, settings: LearnSettings | None = None) -> TaskModel:
    """Fit heads, choose the table of routes, link routes to heads and set the prices.

    Args:
        evidence: Answers of every expert to samples that it was not trained on.
        costs: Of each expert on its cheapest arm, in the order of `evidence.experts`.
        settings: What to aim at.

    Raises:
        EvidenceError: Costs of other experts than the evidence.

    Cost: 0.7 s for 5 experts, 1.5 s for 20, at 1,437 queries × 64 features; meant for a thread beside the event loop.
    """
    settings = settings or LearnSettings()
    _check_costs(costs, len(evidence.experts))
    fits = [
        cross_fit_head(evidence.features_qf, evidence.correct_qe[:, e], seed=settings.seed)
        for e in range(len(evidence.experts))
    ]
    heads = HeadBank.stack([fit.head for fit in fits])
    return _model(evidence, costs, heads, log_odds_qe=np.stack([f.log_odds_q for f in fits], axis=1), settings=settings)


def learn_text(
    evidence: TextEvidence, costs: Costs, *, settings: LearnSettings | None = None, fit: TextFit | None = None
) -> TaskModel:
    """The same for texts: the gate reads the prompt, cascades go by what a margin says about an answer.

    Args:
        evidence: Answers of every expert to prompts that it was not trained on.
        costs: Of a typical answer of each expert on its cheapest arm.
        settings: What to aim at; answers of texts have no geometric mean, so cascades take the last answer.
        fit: Heads that were fitted to this evidence before; None fits them.

    Raises:
        EvidenceError: Costs of other experts than the evidence.
        NativeMissing: The compiled part of the gate is not built.

    Cost: 2 s for 2,000 prompts and 5 experts, most of it for the heads.
    """
    settings = replace(settings or LearnSettings(), cascades=(Fusion.NONE,), by_prompt=True)
    _check_costs(costs, len(evidence.experts))
    fit = fit or fit_text_heads(evidence, seed=settings.seed)
    classes = evidence.as_classes(fit.confidence_qe)
    return _model(classes, costs, fit.heads, log_odds_qe=fit.log_odds_qe, settings=settings)


def _check_costs(costs: Costs, experts: int) -> None:
    if len(costs.energy_e) != experts:
        raise EvidenceError(f"Costs must have one entry per expert ({experts}).")


def _model(
    evidence: Evidence, costs: Costs, heads: HeadBank | TextHeads, *, log_odds_qe: Floats, settings: LearnSettings
) -> TaskModel:
    trial = Trial(evidence, costs, best_single(evidence, costs, tolerance=settings.tolerance))
    chosen = _table(trial, settings)
    if settings.by_prompt:
        most = settings.max_composites + len(evidence.experts) - len(chosen.routes)
        chosen = chosen.joined(pairs(trial, log_odds_qe, beside=chosen.routes, most=most, seed=settings.seed), trial)
    routes = chosen.routes
    table = ReplayTable.of(routes, evidence, costs)
    predictions = _cross_predict(trial, routes, table=table, log_odds_qe=log_odds_qe, settings=settings)
    options = build_options(table, predictions, rival_q=trial.rival_q, low_r=chosen.low_r)
    return TaskModel(
        experts=evidence.experts,
        routes=routes,
        heads=heads,
        links=fit_links(routes, evidence.experts, table=table, log_odds_qe=log_odds_qe, every_head=settings.by_prompt),
        reference=_reference(routes, evidence, costs, table),
        prices=price_profiles(options, eco=settings.eco, balanced=settings.balanced, rival_quality=trial.rival_quality),
        best_single=trial.rival,
    )


def predict(links: Links, table: RouteTable, costs: Costs, *, log_odds_qe: Floats) -> Predictions:
    """What the gate predicts for many queries: the batch form of `Links.estimate` and `RouteTable.offer`."""
    quality_qr, reach_qrs = links.estimate_many(log_odds_qe)
    energy_rs = table.member_rse @ costs.energy_e
    return Predictions(quality_qr, (reach_qrs * energy_rs).sum(axis=2))


def _table(trial: Trial, settings: LearnSettings) -> Table:
    return build_table(
        trial,
        standards=(settings.balanced, settings.eco),
        max_composites=settings.max_composites,
        max_fanout=settings.max_fanout,
        cascading=settings.cascades,
    )


def _cross_predict(
    trial: Trial, routes: tuple[Route, ...], *, table: ReplayTable, log_odds_qe: Floats, settings: LearnSettings
) -> Predictions:
    """What a gate that had not seen the query would predict for it: heads and links both out of fold."""
    fold_q = folds_of(len(log_odds_qe), folds=min(_FOLDS, len(log_odds_qe)), seed=settings.seed)
    experts = trial.evidence.experts
    membership = RouteTable.of(routes, experts)
    quality_qr, energy_qr = np.empty(table.correct_qr.shape), np.empty(table.correct_qr.shape)
    for fold in range(int(fold_q.max()) + 1):
        seen, unseen = fold_q != fold, fold_q == fold
        links = fit_links(
            routes,
            experts,
            table=table.take(seen),
            log_odds_qe=log_odds_qe[seen],
            every_head=settings.by_prompt,
        )
        part = predict(links, membership, trial.costs, log_odds_qe=log_odds_qe[unseen])
        quality_qr[unseen], energy_qr[unseen] = part.quality_qr, part.energy_qr
    return Predictions(quality_qr, energy_qr)


def _reference(routes: tuple[Route, ...], evidence: Evidence, costs: Costs, table: ReplayTable) -> Reference:
    latency_rs = (RouteTable.of(routes, evidence.experts).member_rse * costs.latency_e).max(axis=2)
    return Reference(
        quality_r=table.correct_qr.mean(axis=0),
        energy_r=table.energy_qr.mean(axis=0),
        latency_r=table.latency_qr.mean(axis=0),
        latency_max_r=latency_rs.sum(axis=1),
        reach_rs=table.reached_qrs.mean(axis=0),
    )
