"""The small table of routes that a task keeps: what wins under some budget and some price.

Shape letters: k candidates, z scenarios (an energy limit, a latency limit and a price each).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.evidence import Evidence
from optimizer.families import Family, cascades, fanouts, singles
from optimizer.replay import Costs
from optimizer.routes import Fusion, Route

Floats = NDArray[np.float64]

_ENERGY_LEVELS = 8
_LATENCY_LEVELS = 4
_PRICES = 12


@dataclass(frozen=True)
class Pool:
    """Candidates of several families side by side.

    Args:
        families: Where the candidates come from.
        origin_k: (family, index within it) of each candidate.
        quality_k: Share of right answers.
        energy_k: Mean joules.
        energy_max_k: Joules with all stages run.
        latency_max_k: Milliseconds with all stages run.
    """

    families: tuple[Family, ...]
    origin_k: tuple[tuple[int, int], ...]
    quality_k: Floats
    energy_k: Floats
    energy_max_k: Floats
    latency_max_k: Floats

    @classmethod
    def of(cls, families: Sequence[Family]) -> Pool:
        """Each family's Pareto front of quality and mean joules; its candidates share all other figures."""
        origin_k = [(f, k) for f, family in enumerate(families) for k in _front(family)]
        return cls(
            tuple(families),
            tuple(origin_k),
            np.array([families[f].quality_k[k] for f, k in origin_k]),
            np.array([families[f].energy_k[k] for f, k in origin_k]),
            np.array([families[f].energy_max_j for f, _ in origin_k]),
            np.array([families[f].latency_max_ms for f, _ in origin_k]),
        )

    def route(self, k: int) -> Route:
        """Build candidate k."""
        family, index = self.origin_k[k]
        return self.families[family].route_of(index)

    def cheapest(self, quality: float) -> int | None:
        """The candidate with the fewest mean joules among those of at least this quality."""
        good_k = np.flatnonzero(self.quality_k >= quality - 1e-12)
        return int(good_k[self.energy_k[good_k].argmin()]) if len(good_k) else None


def build_table(
    evidence: Evidence, costs: Costs, *, targets: Sequence[float], max_composites: int, max_fanout: int
) -> tuple[Route, ...]:
    """Every single expert, then at most `max_composites` fan-outs and cascades.

    Args:
        evidence: What quality and joules are measured on.
        costs: Of each expert.
        targets: Qualities for which the cheapest route must be in the table.
        max_composites: Most routes beside the single experts.
        max_fanout: Most experts that may run in parallel.
    """
    alone = Pool.of(singles(evidence, costs))
    pool = Pool.of(_composites(evidence, costs, max_fanout))
    chosen = [k for k in (pool.cheapest(target) for target in targets) if k is not None]
    chosen = list(dict.fromkeys(chosen))[:max_composites]
    scenarios = _scenarios(pool, alone)
    chosen += _cover(_scores(pool, scenarios), _scores(alone, scenarios).max(axis=1), chosen, max_composites)
    return tuple(alone.route(k) for k in range(len(evidence.experts))) + tuple(pool.route(k) for k in chosen)


def _composites(evidence: Evidence, costs: Costs, max_fanout: int) -> list[Family]:
    fused = (Fusion.GEOMETRIC, Fusion.PRODUCT)
    return [
        *fanouts(evidence, costs, max_experts=max_fanout),
        *cascades(evidence, costs, fusions=(Fusion.NONE, *fused), sizes=(2, 3, 4)),
    ]


def _front(family: Family) -> list[int]:
    order = np.lexsort((-family.quality_k, family.energy_k))
    front: list[int] = []
    for k in order.tolist():
        if not front or family.quality_k[k] > family.quality_k[front[-1]]:
            front.append(k)
    return front


def _scenarios(pool: Pool, alone: Pool) -> list[tuple[float, float, float]]:
    """(energy limit, latency limit, price) that the table should serve well."""
    energies = _levels(np.concatenate([pool.energy_max_k, alone.energy_max_k]), _ENERGY_LEVELS)
    latencies = _levels(np.concatenate([pool.latency_max_k, alone.latency_max_k]), _LATENCY_LEVELS)
    positive = [energy for energy in energies if energy > 0.0]
    # From "a tenth of a point buys the dearest route" to "ten points do not buy the cheapest".
    prices = np.geomspace(1e-3 / positive[-1], 1e-1 / positive[0], _PRICES).tolist() if positive else []
    return list(itertools.product([*energies, np.inf], [*latencies, np.inf], [0.0, *prices]))


def _levels(values_k: Floats, count: int) -> list[float]:
    levels = np.unique(values_k)
    if len(levels) <= count:
        return levels.tolist()  # type: ignore[no-any-return]
    return levels[np.linspace(0, len(levels) - 1, count).round().astype(int)].tolist()  # type: ignore[no-any-return]


def _scores(pool: Pool, scenarios: Sequence[tuple[float, float, float]]) -> Floats:
    """score_zk: quality minus priced joules, 0 where the candidate does not fit."""
    energy_z, latency_z, price_z = (np.array(column)[:, None] for column in zip(*scenarios, strict=True))
    fits_zk = (pool.energy_max_k <= energy_z) & (pool.latency_max_k <= latency_z)
    return np.where(fits_zk, np.maximum(pool.quality_k - price_z * pool.energy_k, 0.0), 0.0)


def _cover(score_zk: Floats, covered_z: Floats, chosen: Sequence[int], most: int) -> list[int]:
    """Greedy best-of-set cover: the candidate that raises the sum of the scenarios' best scores most, repeatedly."""
    covered_z = np.maximum(covered_z, score_zk[:, list(chosen)].max(axis=1, initial=0.0))
    added: list[int] = []
    while len(chosen) + len(added) < most:
        gain_k = np.maximum(score_zk - covered_z[:, None], 0.0).sum(axis=0)
        best = int(gain_k.argmax())
        if gain_k[best] <= 1e-9:
            break
        added.append(best)
        covered_z = np.maximum(covered_z, score_zk[:, best])
    return added
