"""The objective of sets of eligible arms, and what each further arm would add.

Shape letters: q queries, n eligible arms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from optimizer.selection.baselines.ground import Ground
from optimizer.selection.baselines.panels import Panels
from optimizer.selection.utility import AnyRight, BestOf, Bools, Floats, Table


class Gains(Protocol):
    """A set function; neither method has a side effect."""

    def value(self, chosen_n: Bools) -> float:
        """The objective of a set."""
        ...

    def gain_n(self, chosen_n: Bools) -> Floats:
        """What each arm adds to the set, 0 for its members, (n,)."""
        ...

    def loss_n(self, chosen_n: Bools) -> Floats:
        """What the set loses without each of its members, 0 for others, (n,)."""
        ...


class BestOfGains:
    """Facility location."""

    def __init__(self, ground: Ground, utility: BestOf) -> None:
        arms = list(ground.arms)
        self._weights_q = ground.problem.weights_q
        self._quality_qn = np.where(ground.problem.allowed_qn[:, arms], utility.quality_qn[:, arms], 0.0)
        self._rows = np.arange(len(self._weights_q))

    def value(self, chosen_n: Bools) -> float:
        return float(self._weights_q @ self._covered_q(chosen_n))

    def gain_n(self, chosen_n: Bools) -> Floats:
        above_qn = self._quality_qn - self._covered_q(chosen_n)[:, None]
        return np.asarray(self._weights_q @ np.maximum(above_qn, 0.0))

    def loss_n(self, chosen_n: Bools) -> Floats:
        loss_n = np.zeros(len(chosen_n))
        if not chosen_n.any():
            return loss_n
        quality_qn = np.where(chosen_n, self._quality_qn, 0.0)
        best_q = quality_qn.argmax(axis=1)
        first_q = quality_qn[self._rows, best_q]
        quality_qn[self._rows, best_q] = 0.0
        np.add.at(loss_n, best_q, self._weights_q * (first_q - quality_qn.max(axis=1)))
        return loss_n

    def _covered_q(self, chosen_n: Bools) -> Floats:
        return np.asarray(self._quality_qn[:, chosen_n].max(axis=1, initial=0.0))


class AnyRightGains:
    """At least one right."""

    def __init__(self, ground: Ground, utility: AnyRight) -> None:
        arms = list(ground.arms)
        self._weights_q = ground.problem.weights_q
        self._right_qn = np.where(ground.problem.allowed_qn[:, arms], utility.right_qn[:, arms], 0.0)

    def value(self, chosen_n: Bools) -> float:
        return float(self._weights_q @ (1.0 - self._wrong_q(chosen_n)))

    def gain_n(self, chosen_n: Bools) -> Floats:
        gain_n = (self._weights_q * self._wrong_q(chosen_n)) @ self._right_qn
        return np.where(chosen_n, 0.0, gain_n)

    def loss_n(self, chosen_n: Bools) -> Floats:
        loss_n = np.zeros(len(chosen_n))
        for n in np.flatnonzero(chosen_n):
            without_n = chosen_n.copy()
            without_n[n] = False
            loss_n[n] = (self._weights_q * self._wrong_q(without_n)) @ self._right_qn[:, n]
        return loss_n

    def _wrong_q(self, chosen_n: Bools) -> Floats:
        return np.asarray((1.0 - self._right_qn[:, chosen_n]).prod(axis=1))


class AnyGains:
    """Any set function, by asking for one set after the other; remembers the answers."""

    def __init__(self, ask: Callable[[Bools], float]) -> None:
        self._ask = ask
        self._known: dict[bytes, float] = {}

    def value(self, chosen_n: Bools) -> float:
        key = chosen_n.tobytes()
        if key not in self._known:
            self._known[key] = self._ask(chosen_n)
        return self._known[key]

    def gain_n(self, chosen_n: Bools) -> Floats:
        return self._with_n(chosen_n, True) - self.value(chosen_n)

    def loss_n(self, chosen_n: Bools) -> Floats:
        return self.value(chosen_n) - self._with_n(chosen_n, False)

    def _with_n(self, chosen_n: Bools, put: bool) -> Floats:
        value_n = np.empty(len(chosen_n))
        for n in range(len(chosen_n)):
            changed_n = chosen_n.copy()
            changed_n[n] = put
            value_n[n] = self.value(changed_n)
        return value_n


def gains_of(ground: Ground) -> Gains:
    """The fastest one for a problem."""
    utility = ground.problem.utility
    if ground.problem.routing is not None:
        return AnyGains(Panels(ground).value)
    if isinstance(utility, Table):
        return AnyGains(lambda chosen_n: ground.problem.value(ground.indices(chosen_n)))
    return BestOfGains(ground, utility) if isinstance(utility, BestOf) else AnyRightGains(ground, utility)
