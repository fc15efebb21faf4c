"""Families of candidate routes, with their figures on the evidence computed a whole grid of thresholds at a time.

Shape letters: q queries, e experts, t thresholds, k candidates of one family.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optimizer.evidence import Evidence
from optimizer.fusion import fuse
from optimizer.replay import Costs, replay
from optimizer.routes import Fusion, Route

Floats = NDArray[np.float64]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
# Four stages have three thresholds each: a coarser grid keeps the family as small as that of three stages.
COARSE_THRESHOLDS = THRESHOLDS[2::2]
_MAX_CHAIN_EXPERTS = 6


@dataclass(frozen=True)
class Family:
    """Candidates that differ in their thresholds alone.

    Args:
        quality_k: Share of right answers on the evidence.
        energy_k: Mean joules.
        energy_max_j: Joules with all stages run.
        latency_max_ms: Milliseconds with all stages run.
        route_of: Builds the candidate k.
    """

    quality_k: Floats
    energy_k: Floats
    energy_max_j: float
    latency_max_ms: float
    route_of: Callable[[int], Route] = field(repr=False)


def singles(evidence: Evidence, costs: Costs) -> list[Family]:
    """One family per expert."""
    return [fixed(Route.single(expert), evidence, costs) for expert in evidence.experts]


def fanouts(evidence: Evidence, costs: Costs, *, max_experts: int) -> list[Family]:
    """Fused sets of two and three experts that run in parallel: mixture always, vote for three."""
    weight_of = dict(zip(evidence.experts, evidence.accuracy_e.tolist(), strict=True))
    routes = []
    experts = [evidence.experts[e] for e in chain_experts(evidence, costs)]
    for size in range(2, min(3, max_experts) + 1):
        for stage in itertools.combinations(experts, size):
            # Log odds of an expert's accuracy: the weight that makes independent experts' votes optimal.
            weights = tuple(_vote_weight(weight_of[expert]) for expert in stage)
            routes.append(Route((stage,), fusion=Fusion.MIXTURE, weights=weights))
            if size > 2:
                routes.append(Route((stage,), fusion=Fusion.VOTE))
    return [fixed(route, evidence, costs) for route in routes]


def cascades(evidence: Evidence, costs: Costs, *, fusions: Sequence[Fusion], sizes: Sequence[int]) -> list[Family]:
    """Chains of experts by rising cost, on a grid of confidence thresholds."""
    experts = chain_experts(evidence, costs)
    return [
        _cascade([evidence.experts[e] for e in chain], fusion, evidence=evidence, costs=costs)
        for size in sizes
        for chain in itertools.combinations(experts, size)
        for fusion in fusions
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


def fixed(route: Route, evidence: Evidence, costs: Costs) -> Family:
    """The family of one route."""
    outcome = replay(route, evidence, costs).outcome
    energy_max_j, latency_max_ms = full_costs(route, evidence.experts, costs)
    return Family(
        np.array([outcome.quality]), np.array([outcome.energy_j]), energy_max_j, latency_max_ms, lambda _: route
    )


def full_costs(route: Route, experts: Sequence[str], costs: Costs) -> tuple[float, float]:
    """Joules and milliseconds of a route with all its stages run."""
    row_of = {expert: row for row, expert in enumerate(experts)}
    energy_j = sum(costs.energy_e[row_of[expert]] for expert in route.experts)
    latency_ms = sum(max(costs.latency_e[row_of[expert]] for expert in stage) for stage in route.stages)
    return float(energy_j), float(latency_ms)


def _vote_weight(accuracy: float) -> float:
    kept = min(max(accuracy, 0.01), 0.999)
    return max(float(np.log(kept / (1.0 - kept))), 0.05)


def _cascade(chain: Sequence[str], fusion: Fusion, *, evidence: Evidence, costs: Costs) -> Family:
    grid = THRESHOLDS if len(chain) < 4 else COARSE_THRESHOLDS
    thresholds_k = list(itertools.product(grid, repeat=len(chain) - 1))
    stages = tuple((expert,) for expert in chain)

    def route_of(k: int) -> Route:
        return Route(stages, continue_below=thresholds_k[k], fusion=fusion)

    right_sq, confidence_sq = _stage_answers(route_of(0), evidence)
    rows = [evidence.experts.index(expert) for expert in chain]
    quality_k, energy_k = _sweep(right_sq, confidence_sq, np.array(grid), costs.energy_e[rows])
    energy_max_j, latency_max_ms = full_costs(route_of(0), evidence.experts, costs)
    return Family(quality_k, energy_k, energy_max_j, latency_max_ms, route_of)


def _stage_answers(route: Route, evidence: Evidence) -> tuple[Floats, Floats]:
    """Whether the answer after each stage is right, and its confidence, both (stages, q)."""
    fused = [fuse(route, answers) for answers in _prefixes(route, evidence)]
    right_sq = np.stack([f.label == evidence.labels_q for f in fused]).astype(np.float64)
    return right_sq, np.stack([f.confidence for f in fused])


def _prefixes(route: Route, evidence: Evidence) -> Iterator[list[tuple[str, Floats]]]:
    answers: list[tuple[str, Floats]] = []
    for expert in route.experts:
        answers.append((expert, evidence.outputs_eqc[evidence.experts.index(expert)]))
        yield answers


def _sweep(right_sq: Floats, confidence_sq: Floats, grid_t: Floats, energy_s: Floats) -> tuple[Floats, Floats]:
    """Mean quality and joules for every combination of thresholds, in the order of `itertools.product`.

    A query adds its outcome at the stage where it stops, so the mean over queries of all combinations of the last
    threshold is one matrix product: (combinations so far, q) @ (q, t).
    """
    queries = right_sq.shape[1]
    reach_kq = np.ones((1, queries))
    right_k, energy_k = np.zeros(1), np.full(1, energy_s[0] * queries)
    for stage in range(len(right_sq) - 1):
        stop_tq = (confidence_sq[stage] >= grid_t[:, None]).astype(np.float64)
        right_k = (right_k[:, None] + reach_kq @ (stop_tq * right_sq[stage]).T).ravel()
        reached_k = (reach_kq @ (1.0 - stop_tq).T).ravel()
        energy_k = np.repeat(energy_k, len(grid_t)) + energy_s[stage + 1] * reached_k
        reach_kq = (reach_kq[:, None, :] * (1.0 - stop_tq)).reshape(-1, queries)
    return (right_k + reach_kq @ right_sq[-1]) / queries, energy_k / queries
