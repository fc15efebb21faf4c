"""Upper bounds on what a box of the search can still reach.

A box is a set of arms that are in, and arms that are still free. Shape letters: q queries, k free arms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def knapsack_bound(gain_k: Floats, energy_k: Floats, energy_left_j: float, places_left: float) -> float:
    """Most that gains can add up to within the joules and the places that are left.

    The smaller of two relaxations: joules alone, where the last arm may be taken in part (Dantzig), and places
    alone. An upper bound of every set of free arms, because a submodular function never gains more than the sum.

    Args:
        gain_k: What each arm alone would add.
        energy_k: What it costs.
        energy_left_j: Infinite where there is no limit.
        places_left: Infinite where there is no limit.
    """
    total = float(gain_k.sum())
    if places_left < len(gain_k):
        total = float(np.sort(gain_k)[::-1][: int(places_left)].sum())
    if float(energy_k.sum()) <= energy_left_j:
        return total
    order_k = np.argsort(-ratio(gain_k, energy_k), kind="stable")
    spent_k = np.cumsum(energy_k[order_k])
    whole = int(np.searchsorted(spent_k, energy_left_j, side="right"))
    by_energy = float(gain_k[order_k[:whole]].sum())
    if whole < len(order_k):
        before_j = float(spent_k[whole - 1]) if whole else 0.0
        last = order_k[whole]
        by_energy += float(gain_k[last]) * (energy_left_j - before_j) / float(energy_k[last])
    return min(total, by_energy)


def ratio(gain_k: Floats, energy_k: Floats) -> Floats:
    """Gain per joule, infinite where an arm costs nothing."""
    free_k = energy_k <= 0.0
    per_joule_k: Floats = np.where(free_k, np.inf, gain_k / np.where(free_k, 1.0, energy_k))
    return per_joule_k
