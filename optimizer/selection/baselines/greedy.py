"""What one would try first: the most gain per cost, arm by arm, or the best single arm.

For a monotone submodular objective under one knapsack that is never worse than (1 − 1/e)/2 of the best set (Khuller,
Moss, Naor 1999); elsewhere nothing is promised, and the bound says how far it can be off.

Shape letters: n eligible arms, k set costs.
"""

from __future__ import annotations

import numpy as np

from optimizer.selection.baselines.gains import Gains, gains_of
from optimizer.selection.baselines.ground import Ground, ground_of, infeasible
from optimizer.selection.baselines.relaxations import Box, Submodular, per_price
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.utility import Bools, Floats

_NAME = "greedy"
_TOLERANCE = 1e-12


def solve_greedily(problem: Problem, *, swaps: bool = False) -> Solution:
    """A good set, fast.

    Args:
        problem: Of either mode.
        swaps: Also exchange one arm for another while that helps.

    Returns:
        `FEASIBLE` with a bound: gains on top of the greedy prefixes where the objective is submodular, otherwise the
        worth of all eligible arms; infinite where a table is not even monotone. `OPTIMAL` where that meets the set.

    Cost: n² evaluations of the objective at most; with swaps as many per exchange.
    """
    ground = ground_of(problem)
    if not ground.arms:
        return infeasible(_NAME)
    gains = gains_of(ground)
    chosen_n = _better(gains, _grown(ground, gains), _single(ground, gains))
    if swaps:
        chosen_n = _swapped(ground, gains, chosen_n)
    objective = gains.value(chosen_n)
    bound = max(objective, _bound(ground, gains))
    status = Status.OPTIMAL if bound - objective <= _TOLERANCE * abs(objective) else Status.FEASIBLE
    return Solution(status, ground.indices(chosen_n), objective, bound, 1, _NAME)


def _better(gains: Gains, first_n: Bools, second_n: Bools) -> Bools:
    return first_n if gains.value(first_n) >= gains.value(second_n) else second_n


def _single(ground: Ground, gains: Gains) -> Bools:
    arms = np.arange(len(ground.arms))
    return np.asarray(arms == max(arms, key=lambda n: gains.value(arms == n)))


def _grown(ground: Ground, gains: Gains) -> Bools:
    chosen_n = np.zeros(len(ground.arms), dtype=np.bool_)
    price_n = _scarcity_n(ground)
    while (addable_n := ground.addable_n(chosen_n)).any():
        ratio_n = per_price(np.maximum(gains.gain_n(chosen_n), 0.0), price_n)
        chosen_n[np.where(addable_n, ratio_n, -1.0).argmax()] = True
    return chosen_n


def _scarcity_n(ground: Ground) -> Floats:
    """What each arm takes of the limits, as the sum of fractions."""
    limit_k = np.where(ground.limit_k > 0.0, ground.limit_k, 1.0)
    return np.asarray((ground.cost_kn / limit_k[:, None]).sum(axis=0))


def _swapped(ground: Ground, gains: Gains, chosen_n: Bools) -> Bools:
    best, improved = gains.value(chosen_n), True
    while improved:
        improved = False
        for other_n in _neighbours(ground, chosen_n):
            value = gains.value(other_n)
            if value > best + _TOLERANCE * abs(best):
                chosen_n, best, improved = other_n, value, True
                break
    return chosen_n


def _neighbours(ground: Ground, chosen_n: Bools) -> list[Bools]:
    """Feasible sets with one arm exchanged."""
    found = []
    for out in np.flatnonzero(chosen_n):
        without_n = chosen_n.copy()
        without_n[out] = False
        for into in np.flatnonzero(ground.addable_n(without_n)):
            with_n = without_n.copy()
            with_n[into] = True
            found.append(with_n)
    return found


def _bound(ground: Ground, gains: Gains) -> float:
    everything_n = np.ones(len(ground.arms), dtype=np.bool_)
    routed, traits = ground.problem.routing is not None, ground.problem.utility.traits
    if not routed and not traits.monotone:
        return float("inf")
    corner = gains.value(everything_n)
    if routed or not traits.submodular or ground.fits(everything_n):
        return corner
    box = Box(~everything_n, everything_n, corner)
    return Submodular(ground, gains).look(box, enough=-np.inf).bound
