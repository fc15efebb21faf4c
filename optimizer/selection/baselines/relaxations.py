"""What a box of the search can still reach: the paper's bound, and the submodular one.

A box holds every set between ``inside`` and ``top``; its arms in between are free. Shape letters: n eligible arms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from optimizer.selection.baselines.gains import Gains
from optimizer.selection.baselines.ground import Ground
from optimizer.selection.baselines.knapsack import fill
from optimizer.selection.utility import Bools, Floats


@dataclass(frozen=True)
class Box:
    """Every set between two, none of which is worth more than `bound`.

    Args:
        inside_n: What all of them have; within the limits.
        top_n: What any of them has.
        bound: Inherited from the box that this one is a part of.
        hint: Whatever the relaxation of that box wants to hand down.
    """

    inside_n: Bools
    top_n: Bools
    bound: float
    hint: object = field(default=None, compare=False)

    @property
    def free_n(self) -> Bools:
        """What some have and some have not."""
        return self.top_n & ~self.inside_n


@dataclass(frozen=True)
class View:
    """What a relaxation sees in a box.

    Args:
        bound: No feasible set of the box is worth more.
        without_n: The same for those of its sets that lack an arm.
        with_n: The same for those that have it.
        reached_n: A feasible set of the box.
        rank_n: Which free arm to branch on: the one that ranks highest.
        hint: For the boxes within.
    """

    bound: float
    without_n: Floats
    with_n: Floats
    reached_n: Bools
    rank_n: Floats
    hint: object = None


class Relaxation(Protocol):
    """A way to bound boxes."""

    def value(self, chosen_n: Bools) -> float:
        """The objective of a set."""
        ...

    def look(self, box: Box, *, enough: float) -> View:
        """Bound a box whose top is not feasible; may stop at a bound of `enough`."""
        ...


class Corners:
    """A box is worth what its top corner is worth, whatever that costs: valid for every monotone objective.

    Source: arXiv 2501.09410, discrete monotonic optimisation.
    """

    def __init__(self, ground: Ground, gains: Gains) -> None:
        self._ground, self._gains = ground, gains
        self._alone_n = gains.gain_n(np.zeros(len(ground.arms), dtype=np.bool_))
        self.value = gains.value

    def look(self, box: Box, *, enough: float) -> View:
        corner = min(box.bound, self.value(box.top_n))
        unknown_n = np.full(len(box.top_n), corner)
        without_n = unknown_n
        if corner > enough:
            without_n = np.where(box.free_n, corner - self._gains.loss_n(box.top_n), corner)
        reached_n = self._ground.extended(box.inside_n, box.top_n, self._alone_n)
        return View(corner, without_n, unknown_n, reached_n, self._alone_n)


class Submodular:
    """Gains on top of any set T bound every S: U(S) ≤ U(T ∪ S) ≤ U(T) + Σ over S \\ T of the gain on top of T.

    T runs through the greedy sequence of the box (Nemhauser, Wolsey, Fisher 1978), and the sum is bounded by knapsacks.
    """

    def __init__(self, ground: Ground, gains: Gains) -> None:
        self._ground, self._gains = ground, gains
        self.value = gains.value

    def look(self, box: Box, *, enough: float) -> View:
        reached_n, first_n = box.inside_n.copy(), np.zeros(len(box.top_n))
        corner = self.value(box.top_n)
        losses_n = corner - np.where(box.free_n, self._gains.loss_n(box.top_n), 0.0)
        best = self._flat(min(box.bound, corner), reached_n, first_n)
        while best.bound > enough:
            view, ratio_n = self._on_top_of(box, reached_n)
            first_n = view.rank_n if reached_n.sum() == box.inside_n.sum() else first_n
            best = view if view.bound < best.bound else best
            addable_n = self._ground.addable_n(reached_n) & box.top_n
            if not addable_n.any():
                break
            reached_n[np.where(addable_n, ratio_n, -1.0).argmax()] = True
        return View(best.bound, np.minimum(best.without_n, losses_n), best.with_n, reached_n, first_n)

    def _flat(self, bound: float, reached_n: Bools, rank_n: Floats) -> View:
        bound_n = np.full(len(reached_n), bound)
        return View(bound, bound_n, bound_n, reached_n, rank_n)

    def _on_top_of(self, box: Box, reached_n: Bools) -> tuple[View, Floats]:
        """The bound with T = reached, and gain per price; T counts as free of charge, since sets may lack it."""
        rest_n, cost_kn = box.top_n & ~reached_n, self._ground.cost_kn
        gain_n = np.where(rest_n, np.maximum(self._gains.gain_n(reached_n), 0.0), 0.0)
        filling = fill(gain_n[rest_n], cost_kn[:, rest_n], self._ground.room_k(box.inside_n))
        bound = self.value(reached_n) + filling.bound
        surplus_n = np.zeros(len(rest_n))
        surplus_n[rest_n] = filling.surplus_n
        view = View(bound, bound - np.maximum(surplus_n, 0.0), bound - np.maximum(-surplus_n, 0.0), reached_n, gain_n)
        return view, per_price(gain_n, filling.price_k @ cost_kn)


def per_price(gain_n: Floats, price_n: Floats) -> Floats:
    """Gain per price; arms that cost nothing come first, in the order of their gains."""
    top = float(gain_n.max(initial=0.0)) or 1.0
    costly_n = price_n > 0.0
    ratio_n = gain_n / np.where(costly_n, price_n, 1.0)
    ceiling = float(ratio_n[costly_n].max(initial=0.0))
    return np.where(costly_n, ratio_n, ceiling + gain_n / top)
