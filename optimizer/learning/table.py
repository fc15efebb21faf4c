"""The small table of routes that a task keeps: what wins under some budget and some price.

Shape letters: k candidates, z scenarios (an energy limit, a latency limit and a price each).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.evidence.standard import Figures, Standard, Trial
from optimizer.learning.families import Family, agreements, cascades, fanouts, fixed, singles
from optimizer.routes.route import Fusion, Route

Floats = NDArray[np.float64]

# Clients may ask for one of these by name, so the table holds the best route of each.
ASKABLE = (Fusion.MIXTURE, Fusion.VOTE)
_ENERGY_LEVELS = 8
_LATENCY_LEVELS = 4
_PRICES = 12


@dataclass(frozen=True)
class Pool:
    """Candidates of several families side by side.

    Args:
        families: Where the candidates come from.
        origin_k: (family, index within it) of each candidate.
        figures: Quality, mean joules and lower bound of each candidate, (k,).
        energy_max_k: Joules with all stages run.
        latency_max_k: Milliseconds with all stages run.
    """

    families: tuple[Family, ...]
    origin_k: tuple[tuple[int, int], ...]
    figures: Figures
    energy_max_k: Floats
    latency_max_k: Floats

    @classmethod
    def of(cls, families: Sequence[Family]) -> Pool:
        """Each family's Pareto fronts of joules with quality and with its lower bound."""
        origin_k = [(f, k) for f, family in enumerate(families) for k in _fronts(family.figures)]
        figures = [families[f].figures for f, _ in origin_k]
        at = list(zip(figures, (k for _, k in origin_k), strict=True))
        return cls(
            tuple(families),
            tuple(origin_k),
            Figures(
                quality=np.array([figure.quality[k] for figure, k in at]),
                energy_j=np.array([figure.energy_j[k] for figure, k in at]),
                low=np.array([figure.low[k] for figure, k in at]),
            ),
            np.array([families[f].energy_max_j for f, _ in origin_k]),
            np.array([families[f].latency_max_ms for f, _ in origin_k]),
        )

    def route(self, k: int) -> Route:
        """Build candidate k."""
        family, index = self.origin_k[k]
        return self.families[family].route_of(index)

    def cheapest(self, standard: Standard, rival_quality: float) -> int | None:
        """The candidate with the fewest mean joules among those that reach the standard."""
        good_k = np.flatnonzero(standard.accepts(self.figures, rival_quality))
        return int(good_k[self.figures.energy_j[good_k].argmin()]) if len(good_k) else None

    def best_of(self, fusion: Fusion) -> int | None:
        """The candidate of most quality with this fusion."""
        of_k = np.array([self.route(k).fusion is fusion for k in range(len(self.origin_k))], dtype=bool)
        return int(np.where(of_k, self.figures.quality, -1.0).argmax()) if of_k.any() else None


@dataclass(frozen=True)
class Table:
    """The chosen routes.

    Args:
        routes: Single experts first.
        low_r: Lower bound of each, as its family has it.
    """

    routes: tuple[Route, ...]
    low_r: Floats

    def joined(self, routes: Sequence[Route], trial: Trial) -> Table:
        """The table with more routes behind those that it has."""
        low_r = [fixed(route, trial).figures.low for route in routes]
        return Table((*self.routes, *routes), np.concatenate([self.low_r, *low_r]))


def build_table(
    trial: Trial,
    *,
    standards: Sequence[Standard],
    max_composites: int,
    max_fanout: int,
    cascading: Sequence[Fusion] = (Fusion.NONE, Fusion.GEOMETRIC, Fusion.PRODUCT),
) -> Table:
    """Every single expert, then at most `max_composites` fan-outs and cascades.

    Args:
        trial: What quality and joules are measured on.
        standards: The cheapest route that reaches each must be in the table, and the best of each fusion in `ASKABLE`.
        max_composites: Most routes beside the single experts.
        max_fanout: Most experts that may run in parallel.
        cascading: How the answers of a cascade's stages may be combined.
    """
    alone = Pool.of(singles(trial))
    pool = Pool.of(_composites(trial, max_fanout, cascading))
    singled_out = [pool.cheapest(standard, trial.rival_quality) for standard in standards]
    singled_out += [pool.best_of(fusion) for fusion in ASKABLE]
    chosen = list(dict.fromkeys(k for k in singled_out if k is not None))[:max_composites]
    scenarios = _scenarios(pool, alone)
    chosen += _cover(_scores(pool, scenarios), _scores(alone, scenarios).max(axis=1), chosen, max_composites)
    experts = tuple(Route.single(expert) for expert in trial.evidence.experts)
    routes = experts + tuple(pool.route(k) for k in chosen)
    return Table(routes, np.concatenate([alone.figures.low, pool.figures.low[chosen]]))


def _composites(trial: Trial, max_fanout: int, cascading: Sequence[Fusion]) -> list[Family]:
    chains = cascades(trial, fusions=cascading, sizes=(2, 3, 4))
    return [*fanouts(trial, max_experts=max_fanout), *chains, *(agreements(trial) if max_fanout > 1 else [])]


def _fronts(figures: Figures) -> list[int]:
    return sorted({*_front(figures.quality, figures.energy_j), *_front(figures.low, figures.energy_j)})


def _front(merit_k: Floats, energy_k: Floats) -> list[int]:
    """Candidates that no other beats in merit without more joules."""
    front: list[int] = []
    for k in np.lexsort((-merit_k, energy_k)).tolist():
        if not front or merit_k[k] > merit_k[front[-1]]:
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
    return np.where(fits_zk, np.maximum(pool.figures.quality - price_z * pool.figures.energy_j, 0.0), 0.0)


def _cover(score_zk: Floats, covered_z: Floats, chosen: Sequence[int], most: int) -> list[int]:
    """Greedy best-of-set cover: the candidate that raises the sum of the scenarios' best scores most, repeatedly."""
    covered_z = np.maximum(covered_z, score_zk[:, list(chosen)].max(axis=1, initial=0.0))
    added: list[int] = []
    while score_zk.shape[1] and len(chosen) + len(added) < most:
        gain_k = np.maximum(score_zk - covered_z[:, None], 0.0).sum(axis=0)
        best = int(gain_k.argmax())
        if gain_k[best] <= 1e-9:
            break
        added.append(best)
        covered_z = np.maximum(covered_z, score_zk[:, best])
    return added
