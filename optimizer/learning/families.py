"""Families of candidate routes, with their figures on the evidence computed a whole grid of thresholds at a time.

Shape letters: q queries, e experts, t thresholds, k candidates of one family.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optimizer.evidence.answers import Evidence
from optimizer.evidence.replay import Costs, replay
from optimizer.evidence.standard import Figures, Trial, figures_of, lower_bound
from optimizer.routes.fusion import fuse
from optimizer.routes.route import Fusion, Route

Floats = NDArray[np.float64]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
# Four stages have three thresholds each: a coarser grid keeps the family as small as that of three stages.
COARSE_THRESHOLDS = THRESHOLDS[2::2]
_MAX_CHAIN_EXPERTS = 6
# Confidence of a vote of two: at most 0.59 where they disagree, above 2/3 where they agree. Higher thresholds ask for
# sure answers beside that.
AGREEMENT_THRESHOLDS = (0.65, 0.8, 0.9, 0.97, 0.99)


@dataclass(frozen=True)
class Family:
    """Candidates that differ in their thresholds alone.

    Args:
        figures: Quality, mean joules and lower bound of each, (k,).
        energy_max_j: Joules with all stages run.
        latency_max_ms: Milliseconds with all stages run.
        route_of: Builds the candidate k.
    """

    figures: Figures
    energy_max_j: float
    latency_max_ms: float
    route_of: Callable[[int], Route] = field(repr=False)


def singles(trial: Trial) -> list[Family]:
    """One family per expert."""
    return [fixed(Route.single(expert), trial) for expert in trial.evidence.experts]


def fanouts(trial: Trial, *, max_experts: int) -> list[Family]:
    """Fused sets of two and three experts that run in parallel: mixture always, vote for three."""
    evidence = trial.evidence
    weight_of = dict(zip(evidence.experts, evidence.accuracy_e.tolist(), strict=True))
    routes = []
    experts = [evidence.experts[e] for e in chain_experts(evidence, trial.costs)]
    for size in range(2, min(3, max_experts) + 1):
        for stage in itertools.combinations(experts, size):
            # Log odds of an expert's accuracy: the weight that makes independent experts' votes optimal.
            weights = tuple(_vote_weight(weight_of[expert]) for expert in stage)
            routes.append(Route((stage,), fusion=Fusion.MIXTURE, weights=weights))
            if size > 2:
                routes.append(Route((stage,), fusion=Fusion.VOTE))
    return [fixed(route, trial) for route in routes]


def cascades(trial: Trial, *, fusions: Sequence[Fusion], sizes: Sequence[int]) -> list[Family]:
    """Chains of experts by rising cost, on a grid of confidence thresholds."""
    experts = chain_experts(trial.evidence, trial.costs)
    return [
        _cascade([trial.evidence.experts[e] for e in chain], fusion, trial)
        for size in sizes
        for chain in itertools.combinations(experts, size)
        for fusion in fusions
    ]


def agreements(trial: Trial) -> list[Family]:
    """Two experts side by side, a dearer one behind them that is asked where they disagree; then all three vote."""
    experts = [trial.evidence.experts[e] for e in chain_experts(trial.evidence, trial.costs)]
    return [
        _staged(((one, other), (third,)), Fusion.VOTE, np.array(AGREEMENT_THRESHOLDS), trial)
        for one, other, third in itertools.combinations(experts, 3)
    ]


def chain_experts(evidence: Evidence, costs: Costs) -> list[int]:
    """Experts worth combining, by rising cost: the Pareto front of accuracy and joules, thinned if it is long."""
    order = sorted(range(len(evidence.experts)), key=lambda e: (costs.energy_e[e], -evidence.accuracy_e[e]))
    front: list[int] = []
    for e in order:
        if not front or evidence.accuracy_e[e] > evidence.accuracy_e[front[-1]]:
            front.append(e)
    if len(front) <= _MAX_CHAIN_EXPERTS:
        return front
    return [front[i] for i in np.linspace(0, len(front) - 1, _MAX_CHAIN_EXPERTS).round().astype(int)]


def fixed(route: Route, trial: Trial) -> Family:
    """The family of one route."""
    outcome = replay(route, trial.evidence, trial.costs).outcome
    figures = figures_of(outcome.correct_q[:, None], outcome.energy_q[:, None], trial.rival_q)
    energy_max_j, latency_max_ms = full_costs(route, trial.evidence.experts, trial.costs)
    return Family(figures, energy_max_j, latency_max_ms, lambda _: route)


def full_costs(route: Route, experts: Sequence[str], costs: Costs) -> tuple[float, float]:
    """Joules and milliseconds of a route with all its stages run."""
    row_of = {expert: row for row, expert in enumerate(experts)}
    energy_j = sum(costs.energy_e[row_of[expert]] for expert in route.experts)
    latency_ms = sum(max(costs.latency_e[row_of[expert]] for expert in stage) for stage in route.stages)
    return float(energy_j), float(latency_ms)


def _vote_weight(accuracy: float) -> float:
    kept = min(max(accuracy, 0.01), 0.999)
    return max(float(np.log(kept / (1.0 - kept))), 0.05)


def _cascade(chain: Sequence[str], fusion: Fusion, trial: Trial) -> Family:
    grid = THRESHOLDS if len(chain) < 4 else COARSE_THRESHOLDS
    return _staged(tuple((expert,) for expert in chain), fusion, np.array(grid), trial)


def _staged(stages: tuple[tuple[str, ...], ...], fusion: Fusion, grid_t: Floats, trial: Trial) -> Family:
    """Stages with every combination of thresholds between them."""
    thresholds_k = list(itertools.product(grid_t.tolist(), repeat=len(stages) - 1))

    def route_of(k: int) -> Route:
        return Route(stages, continue_below=thresholds_k[k], fusion=fusion)

    energy_max_j, latency_max_ms = full_costs(route_of(0), trial.evidence.experts, trial.costs)
    return Family(_sweep(route_of(0), grid_t, trial), energy_max_j, latency_max_ms, route_of)


def stage_answers(route: Route, evidence: Evidence) -> tuple[Floats, Floats]:
    """Whether the answer after each stage is right, and its confidence, both (stages, q)."""
    fused = [fuse(route, answers) for answers in _prefixes(route, evidence)]
    right_sq = np.stack([f.label == evidence.labels_q for f in fused]).astype(np.float64)
    return right_sq, np.stack([f.confidence for f in fused])


def _prefixes(route: Route, evidence: Evidence) -> Iterator[list[tuple[str, Floats]]]:
    answers: list[tuple[str, Floats]] = []
    for stage in route.stages:
        answers += [(expert, evidence.outputs_eqc[evidence.experts.index(expert)]) for expert in stage]
        yield answers


def _sweep(route: Route, grid_t: Floats, trial: Trial) -> Figures:
    """Figures for every combination of thresholds, in the order of `itertools.product`."""
    right_sq, confidence_sq = stage_answers(route, trial.evidence)
    row_of = {expert: row for row, expert in enumerate(trial.evidence.experts)}
    energy_s = np.array([sum(trial.costs.energy_e[row_of[expert]] for expert in stage) for stage in route.stages])
    stop_stq = (confidence_sq[:-1, None, :] >= grid_t[:, None]).astype(np.float64)
    rival_q = trial.rival_q
    quality_k = _mean(right_sq, stop_stq)
    # (right - rival)² is linear in right, because both are 0 or 1: so its mean is one more sweep.
    square_k = _mean(right_sq * (1.0 - 2.0 * rival_q), stop_stq) + rival_q.mean()
    spent_sq = np.repeat(np.cumsum(energy_s)[:, None], trial.evidence.queries, axis=1)
    low_k = lower_bound(quality_k - rival_q.mean(), square_k, trial.evidence.queries)
    return Figures(quality_k, _mean(spent_sq, stop_stq), _steady(low_k, len(grid_t)))


def _steady(low_k: Floats, thresholds: int) -> Floats:
    """The least bound of a combination and of those with one threshold a notch lower.

    A notch that is good by luck alone has bad ones beside it; what escalates a little less must be good enough too.
    """
    low_tt = low_k.reshape((thresholds,) * round(np.log(len(low_k)) / np.log(thresholds)))
    steady_tt = low_tt.copy()
    for axis in range(low_tt.ndim):
        notch = np.roll(low_tt, 1, axis=axis)
        np.moveaxis(notch, axis, 0)[0] = np.moveaxis(low_tt, axis, 0)[0]
        steady_tt = np.minimum(steady_tt, notch)
    return steady_tt.ravel()


def _mean(value_sq: Floats, stop_stq: Floats) -> Floats:
    """Mean over queries of the value at the stage where the query stops, for every combination of thresholds.

    The sum over queries for all values of one more threshold is one matrix product: (combinations so far, q) @ (q, t).
    """
    reach_kq = np.ones((1, value_sq.shape[1]))
    total_k = np.zeros(1)
    for stop_tq, value_q in zip(stop_stq, value_sq[:-1], strict=True):
        total_k = (total_k[:, None] + reach_kq @ (stop_tq * value_q).T).ravel()
        reach_kq = (reach_kq[:, None, :] * (1.0 - stop_tq)).reshape(-1, value_sq.shape[1])
    return np.asarray((total_k + reach_kq @ value_sq[-1]) / value_sq.shape[1])
