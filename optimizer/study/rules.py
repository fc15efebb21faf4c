"""From estimates to rules of choice, and from rules to the best mixture within a budget.

A rule sends every prompt to one model. A policy offers several (one per price of a joule, or one per model), and
spends a budget in expectation by a lottery between two of them, chosen on the training prompts.

Shape letters: q training prompts, n prompts to be judged, m models, r rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.study.estimates import Estimate
from optimizer.study.table import Table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PRICES = 72
_FAR = -1e9


class Lottery(NamedTuple):
    """Two rules and the chance of the second. What is judged is the expectation, so no luck of a draw comes in."""

    first: int
    second: int
    chance: float


@dataclass(frozen=True)
class Rules:
    """What each rule does.

    Args:
        training: The training prompts.
        unseen_rq: Model of each training prompt, by estimates that had not seen it.
        judged_rn: Model of each prompt to be judged.
    """

    training: Table
    unseen_rq: Ints
    judged_rn: Ints

    @cached_property
    def quality_rq(self) -> Floats:
        """Quality on the training prompts."""
        return taken(self.training.earned_qm, self.unseen_rq)

    @cached_property
    def joules_rq(self) -> Floats:
        """Joules on the training prompts."""
        return taken(self.training.joules_qm, self.unseen_rq)

    @cached_property
    def quality_r(self) -> Floats:
        """Mean quality of each rule on the training prompts."""
        return np.asarray(self.quality_rq.mean(axis=1))

    @cached_property
    def joules_r(self) -> Floats:
        """Mean joules of each rule on the training prompts."""
        return np.asarray(self.joules_rq.mean(axis=1))

    @cached_property
    def hull(self) -> Ints:
        """Rules on the upper edge: no mixture of others is as good for as few joules."""
        return upper_hull(self.joules_r, self.quality_r)

    def expected(self, lottery: Lottery) -> Floats:
        """Quality of each training prompt under a lottery."""
        return np.asarray(
            (1.0 - lottery.chance) * self.quality_rq[lottery.first] + lottery.chance * self.quality_rq[lottery.second]
        )

    def spend(self, budget_j: float) -> tuple[Lottery, float]:
        """The best lottery whose mean joules on the training prompts are within a budget, and its mean quality there.

        The cheapest rule where nothing is within.
        """
        joules, quality = self.joules_r[self.hull], self.quality_r[self.hull]
        right = int(np.searchsorted(joules, budget_j, side="right"))
        if right == 0 or right == len(joules):
            only = int(self.hull[max(right - 1, 0)])
            return Lottery(only, only, 0.0), float(self.quality_r[only])
        chance = float((budget_j - joules[right - 1]) / (joules[right] - joules[right - 1]))
        mean = (1.0 - chance) * quality[right - 1] + chance * quality[right]
        return Lottery(int(self.hull[right - 1]), int(self.hull[right]), chance), float(mean)


def taken(value_qm: Floats, choice_rq: Ints) -> Floats:
    """The chosen entries, (r, q)."""
    return np.asarray(value_qm[np.arange(len(value_qm)), choice_rq])


def upper_hull(joules_r: Floats, quality_r: Floats) -> Ints:
    """Indices of the points on the upper left edge, cheapest first; quality rises along it."""
    edge: list[int] = []
    for r in np.lexsort((-quality_r, joules_r)).tolist():
        if edge and quality_r[r] <= quality_r[edge[-1]] + 1e-12:
            continue
        while len(edge) > 1 and _below(edge[-2], edge[-1], r, joules_r, quality_r):
            edge.pop()
        edge.append(r)
    return np.array(edge, dtype=np.int64)


def _below(a: int, b: int, c: int, joules_r: Floats, quality_r: Floats) -> bool:
    rise_ab = (quality_r[b] - quality_r[a]) * (joules_r[c] - joules_r[a])
    rise_ac = (quality_r[c] - quality_r[a]) * (joules_r[b] - joules_r[a])
    return bool(rise_ab <= rise_ac)


def priced(estimate: Estimate, cost: Estimate, *, training: Table, judged: Table) -> Rules:
    """One rule per price of a joule: the model with the most estimated quality less price × estimated joules.

    Args:
        estimate: Of quality.
        cost: Of joules.
        training: Where a model is not offered it cannot be chosen.
        judged: Likewise; nothing else of it is read.
    """
    prices = _grid(cost.unseen_qm)
    seen = [_choose(estimate.unseen_qm, cost.unseen_qm, training.choice_qm, price) for price in prices]
    later = [_choose(estimate.judged_nm, cost.judged_nm, judged.choice_qm, price) for price in prices]
    return Rules(training, np.array(seen), np.array(later))


def _grid(joules_qm: Floats) -> list[float]:
    mean_m = joules_qm.mean(axis=0)
    low, high = max(float(mean_m.min()), 1e-12), max(float(mean_m.max()), 1e-12)
    return [0.0, *np.geomspace(1e-3 / high, 50.0 / low, _PRICES).tolist()]


def _choose(quality_qm: Floats, joules_qm: Floats, known_qm: NDArray[np.bool_], price_per_j: float) -> Ints:
    return np.asarray(np.where(known_qm, quality_qm - price_per_j * joules_qm, _FAR).argmax(axis=1))


def single(models: Ints, *, training: Table, judged: int) -> Rules:
    """One rule per model: everything goes there."""
    column = models[:, None]
    return Rules(training, np.repeat(column, len(training.texts), axis=1), np.repeat(column, judged, axis=1))
