"""How a long-run budget takes part in one routing decision: pure, no clock, no account.

Shape letters: r routes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.choose import Choice, Limits, Price, choose, narrowed
from optimizer.deciding.promise import Offer
from orchestrator.longrun import PacingRecord


@dataclass(frozen=True, slots=True)
class Pace:
    """What a long-run budget asks of the next request.

    Args:
        price_per_j: Quality that a joule must buy.
        headroom_j: The most that may be reserved; only the cheapest route may exceed it.
        record: For whoever asks why.
    """

    price_per_j: float
    headroom_j: float
    record: PacingRecord


def dearer(price: Price, pace: Pace) -> Price:
    """The profile's price or the budget's, whichever is higher; a pinned route gives way to a higher price."""
    if pace.price_per_j <= price.per_j:
        return price
    return Price(pace.price_per_j, price.per_ms)


def choose_paced(offer: Offer, *, limits: Limits, price: Price, pace: Pace) -> Choice:
    """The choice at a price within the headroom; where nothing is within it, the route with the fewest joules.

    Routes whose joules nobody knows count as beyond every headroom.

    Args:
        offer: What every route promises.
        limits: The request's own, which always hold.
        price: The dearer one, see `dearer`.
        pace: Of the long-run budget.
    """
    choice = choose(offer, limits=limits, price=price)
    if choice.index is None or offer.promise(choice.index).energy_bound_j <= pace.headroom_j:
        return choice
    own_j = sys.float_info.max if limits.energy_j is None else limits.energy_j
    within = narrowed(choice, min(own_j, max(0.0, pace.headroom_j)))
    if within.index is not None:
        return within
    return Choice(_cheapest(offer, choice.feasible_r), choice.feasible_r, offer, limits, price)


def _cheapest(offer: Offer, feasible_r: NDArray[np.bool_]) -> int:
    """Among routes with known joules if there is one: an unknown cost is announced as 0."""
    known_r = feasible_r & np.isfinite(offer.energy_bound_r)
    return int(np.where(known_r if known_r.any() else feasible_r, offer.energy_r, np.inf).argmin())
