"""An upper bound on what separate gains add up to within several knapsacks, by one price per knapsack.

For prices ν ≥ 0, any set within the limits gains at most Σ_k ν_k · room_k + Σ_n (gain_n − Σ_k ν_k · cost_kn)⁺. Prices
are found one knapsack at a time (with one knapsack this is Dantzig's bound); bad prices make the bound weak, not wrong.

Shape letters: n arms, k set costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.selection.utility import Floats


@dataclass(frozen=True)
class Filling:
    """The bound, and how much it depends on each arm.

    Args:
        bound: No set within the limits gains more.
        surplus_n: Gain of each arm above its price: the bound falls by as much if the arm may not be taken (where
            positive) or must be (where negative).
        share_n: How much of each arm the relaxed solution takes, 0 to 1.
        price_k: Of each knapsack.
    """

    bound: float
    surplus_n: Floats
    share_n: Floats
    price_k: Floats


def fill(gain_n: Floats, cost_kn: Floats, room_k: Floats, price_k: Floats | None = None) -> Filling:
    """Bound the gains.

    Args:
        gain_n: Of each arm by itself, at least 0.
        cost_kn: What it takes of each knapsack.
        room_k: What there is.
        price_k: Prices to start from, for instance those of a similar call.
    """
    binding = np.flatnonzero(cost_kn.sum(axis=1) > room_k)
    price_k = np.zeros(len(room_k)) if price_k is None else price_k.copy()
    price_k[cost_kn.sum(axis=1) <= room_k] = 0.0
    share_n = np.ones(len(gain_n))
    for k in binding.tolist() * (2 if len(binding) > 1 else 1):
        others_n = price_k @ cost_kn - price_k[k] * cost_kn[k]
        price_k[k], share_n = _critical(np.maximum(gain_n - others_n, 0.0), cost_kn[k], float(room_k[k]))
    surplus_n = gain_n - price_k @ cost_kn
    bound = float(price_k @ room_k) + float(np.maximum(surplus_n, 0.0).sum())
    return Filling(bound, surplus_n, share_n, price_k)


def _critical(gain_n: Floats, cost_n: Floats, room: float) -> tuple[float, Floats]:
    """Gain per cost of the arm that is taken in part, and how much of each arm is taken."""
    free_n = cost_n <= 0.0
    ratio_n = np.where(free_n, np.inf, gain_n / np.where(free_n, 1.0, cost_n))
    order_n = np.argsort(-ratio_n, kind="stable")
    before_n = np.concatenate([[0.0], np.cumsum(cost_n[order_n])[:-1]])
    sorted_n = cost_n[order_n]
    taken_n = np.clip((room - before_n) / np.where(sorted_n > 0.0, sorted_n, 1.0), 0.0, 1.0)
    taken_n[sorted_n <= 0.0] = 1.0
    share_n = np.empty_like(taken_n)
    share_n[order_n] = taken_n * (gain_n[order_n] > 0.0)
    partial = np.flatnonzero(taken_n < 1.0)
    price = float(ratio_n[order_n[partial[0]]]) if len(partial) else 0.0
    return price, share_n
