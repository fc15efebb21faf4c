"""What pacing is measured against: fixed prices, found on the first half or in hindsight, and a random mixture.

Shape letters: q requests, m models, a arms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.online.pacing import Allowance, Pacer
from tests.bench.pacing_fleet import FixedPrice, Fleet, Mixture, Paced, Policy, Result, Run
from tests.bench.pacing_world import SEED, TYPICAL_TOKENS, Requests

Floats = NDArray[np.float64]

# Joules per admitted request: a third of what is spent when joules are free.
BUDGET_J = 800.0
BUDGET_TOLERANCE = 0.02
# Prices tried in hindsight: a coarse grid, then halvings around the price at which the budget is just met.
COARSE = tuple(np.geomspace(5e-6, 5e-3, 10).tolist())
HALVINGS = 7


@dataclass(frozen=True)
class Case:
    """One load and one promise."""

    fleet: Fleet
    requests: Requests
    load_fraction: float
    rate_per_s: float
    alpha: float

    def play(self, policy: Policy, requests: Requests | None = None, *, margins: bool = True) -> Result:
        """The policy on the stream, or on a part of it."""
        stream, alpha = self.requests if requests is None else requests, self.alpha if margins else None
        return Run(self.fleet, stream, rate_per_s=self.rate_per_s, alpha=alpha, budget_j=BUDGET_J).play(policy)

    @property
    def first_half(self) -> Requests:
        """What came before the tasks changed."""
        return self.requests.take(slice(0, self.requests.count // 2))


def play_paced(case: Case, allowance: Allowance | None = None, *, margins: bool = True) -> tuple[Result, Paced]:
    """The policy under test: it is told the budget, and nothing else."""
    policy = Paced(Pacer(Allowance(per_request_j=BUDGET_J) if allowance is None else allowance))
    return case.play(policy, margins=margins), policy


def play_unpaced(case: Case) -> Result:
    """The price that spends the budget on the first half, kept on the whole stream."""
    half = case.first_half
    tried = _halve(lambda price: case.play(FixedPrice(price), half))
    price = min(tried, key=lambda one: abs(tried[one].mean_j - BUDGET_J))
    return case.play(FixedPrice(price))


def play_hindsight(case: Case) -> Result | None:
    """The best quality that one price reaches within the budget and the promise on the whole stream; None if none."""
    tried = {price: case.play(FixedPrice(price)) for price in COARSE}
    tried |= _halve(lambda price: case.play(FixedPrice(price)))
    within = [one for one in tried.values() if _keeps_rules(one, case.alpha)]
    return max(within, key=lambda one: one.quality, default=None)


def _keeps_rules(result: Result, alpha: float) -> bool:
    return result.mean_j <= BUDGET_J * (1.0 + BUDGET_TOLERANCE) and result.late_fraction <= alpha


def _halve(play: Callable[[float], Result]) -> dict[float, Result]:
    """Results at prices that close in on the one that spends the budget."""
    low, high = COARSE[0], COARSE[-1]
    tried = {}
    for _ in range(HALVINGS):
        price = float(np.sqrt(low * high))
        tried[price] = play(price)
        low, high = (price, high) if tried[price].mean_j > BUDGET_J else (low, price)
    return tried


def play_mixture(case: Case) -> Result:
    """The best random mixture of models that spends the budget on the first half: two models at most."""
    half, fleet = case.first_half, case.fleet
    models = np.unique(fleet.model_a)
    quality_m = half.estimate_qm.mean(axis=0)
    energy_m = np.array([fleet.j_a[fleet.model_a == m][0] for m in models]) * TYPICAL_TOKENS * half.factor_q.mean()
    best, chance_m = -np.inf, np.zeros(len(models))
    for low, high in itertools.permutations(models, 2):
        if not energy_m[low] <= BUDGET_J < energy_m[high]:
            continue
        share = (BUDGET_J - energy_m[low]) / (energy_m[high] - energy_m[low])
        quality = share * quality_m[high] + (1.0 - share) * quality_m[low]
        if quality > best:
            best, chance_m = quality, np.zeros(len(models))
            chance_m[[low, high]] = 1.0 - share, share
    copies_m = np.bincount(fleet.model_a, minlength=len(models))
    return case.play(Mixture((chance_m / copies_m)[fleet.model_a], np.random.default_rng(SEED)))
