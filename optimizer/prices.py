"""What a joule must buy, per profile: simulated on the reference evidence with heads that had not seen the query.

Shape letters: q queries, r routes, s stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.evidence import Evidence
from optimizer.model import ProfilePrice
from optimizer.replay import Costs, Outcome, ReplayTable

Floats = NDArray[np.float64]

_PRICES = 48


@dataclass(frozen=True)
class Targets:
    """Quality that each profile asks for on the reference evidence.

    Args:
        eco: Least quality of the profile that saves.
        balanced: Least quality of the default profile: at least the best single expert's.
    """

    eco: float
    balanced: float


@dataclass(frozen=True)
class Predictions:
    """What the gate would have predicted for each reference query.

    Args:
        quality_qr: Quality of each route.
        energy_qr: Expected joules of each route.
    """

    quality_qr: Floats
    energy_qr: Floats


@dataclass(frozen=True)
class Candidate:
    """One way to decide: a price for every query, or one route for all.

    Args:
        quality: Share of right answers on the reference evidence.
        energy_j: Mean joules.
        price_per_j: Price of the per-query decision.
        pinned: The one route, where there is one.
    """

    quality: float
    energy_j: float
    price_per_j: float
    pinned: int | None = None


def best_single(evidence: Evidence, costs: Costs, *, tolerance: float = 0.003) -> int:
    """Index of the cheapest expert within `tolerance` of the most accurate one's share of right answers."""
    good_e = np.flatnonzero(evidence.accuracy_e >= evidence.accuracy_e.max() - tolerance - 1e-12)
    order = sorted(good_e.tolist(), key=lambda e: (costs.energy_e[e], -evidence.accuracy_e[e]))
    return int(order[0])


def decide(predictions: Predictions, price_per_j: float) -> NDArray[np.int64]:
    """The route of each query at a price, (q,): the same rule as `choose` without limits."""
    score_qr = predictions.quality_qr - price_per_j * predictions.energy_qr
    tied_qr = score_qr >= score_qr.max(axis=1, keepdims=True) - 1e-12
    return np.asarray(np.where(tied_qr, predictions.energy_qr, np.inf).argmin(axis=1))


def price_profiles(
    table: ReplayTable, predictions: Predictions, *, targets: Targets, safety: float
) -> Mapping[str, ProfilePrice]:
    """The price of each profile: fewest joules at a quality of at least its target.

    A profile pins one route where that route is as good and costs less than deciding per query, so that the gate
    never costs more joules than the best static route on the reference evidence.

    Args:
        table: What each route did.
        predictions: What the gate would have predicted, by heads that had not seen the query.
        targets: Least quality of "eco" and "balanced".
        safety: "best" may lie this far below the best quality that was seen, to save joules.
    """
    priced = [_per_query(table, predictions, price) for price in _grid(predictions.energy_qr)]
    static = [_static(table, route) for route in range(table.correct_qr.shape[1])]
    top = max(candidate.quality for candidate in priced + static)
    quality_of = {"eco": targets.eco, "balanced": targets.balanced, "best": top - safety}
    return {profile: _profile(profile, priced, static, min(quality, top)) for profile, quality in quality_of.items()}


def _grid(energy_qr: Floats) -> list[float]:
    energy_r = energy_qr.mean(axis=0)
    positive_r = energy_r[energy_r > 0.0]
    if not len(positive_r):
        return [0.0]
    return [0.0, *np.geomspace(1e-5 / positive_r.max(), 1.0 / positive_r.min(), _PRICES).tolist()]


def _per_query(table: ReplayTable, predictions: Predictions, price_per_j: float) -> Candidate:
    outcome: Outcome = table.pick(decide(predictions, price_per_j))
    return Candidate(outcome.quality, outcome.energy_j, price_per_j)


def _static(table: ReplayTable, route: int) -> Candidate:
    quality, energy_j = table.correct_qr[:, route].mean(), table.energy_qr[:, route].mean()
    return Candidate(float(quality), float(energy_j), 0.0, pinned=route)


def _profile(profile: str, priced: list[Candidate], static: list[Candidate], quality: float) -> ProfilePrice:
    good = [candidate for candidate in priced if candidate.quality >= quality - 1e-12]
    pins = [candidate for candidate in static if candidate.quality >= quality - 1e-12]
    winner = min(good + pins, key=lambda candidate: candidate.energy_j)
    # Used also when the pinned route is out of reach of one query's budget.
    price_per_j = max((candidate.price_per_j for candidate in good), default=0.0)
    if winner.pinned is None:
        price_per_j = winner.price_per_j
    return ProfilePrice(profile, price_per_j, winner.pinned, winner.quality, winner.energy_j)
