"""The best routing policy for a fixed set of options under a limit on mean energy: a linear program with one price.

For a price λ (quality per joule) every query takes the option with the largest worth − λ · joules, or none. The dual
g(λ) = λE + Σ_q max(0, max over o of worth − λ · joules) is convex and piecewise linear, and its least value is the best
policy's quality: policies may draw between two options, so the limit is met exactly.

Shape letters: q queries, o options.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.selection.options import Options

_TOLERANCE = 1e-13
_STEPS = 200


@dataclass(frozen=True)
class Policy:
    """The best policy of a fixed set.

    Args:
        value: Its weighted quality.
        price_per_j: What one more joule per query would add: the multiplier of the energy limit.
        energy_j: What it spends on the average at most.
    """

    value: float
    price_per_j: float
    energy_j: float


@dataclass(frozen=True, slots=True)
class _Line:
    """A tangent of g: g(λ) ≥ quality + λ · (limit − spent)."""

    price: float
    quality: float
    spent: float

    def dual(self, limit_j: float) -> float:
        return self.quality + self.price * (limit_j - self.spent)


def best_policy(options: Options, mean_energy_j: float) -> Policy:
    """Solve the linear program exactly.

    The tangents left and right of the least point are replaced by the one where they cross, until it crosses on g
    itself: finitely many steps, because g has finitely many pieces.
    """
    left = _at(options, 0.0)
    if left.spent <= mean_energy_j:
        return Policy(left.quality, 0.0, left.spent)
    right = _free_of_charge(options)
    price = right.price
    close = _TOLERANCE * max(left.quality, 1e-300)
    for _ in range(_STEPS):
        # Both tangents have the same height where they cross.
        price = (left.quality - right.quality) / (left.spent - right.spent)
        crossing = left.quality + price * (mean_energy_j - left.spent)
        here = _at(options, price)
        if here.dual(mean_energy_j) <= crossing + close:
            break
        if here.spent > mean_energy_j:
            left = here
        else:
            right = here
    return Policy(min(here.dual(mean_energy_j), left.quality), price, mean_energy_j)


def _at(options: Options, price: float) -> _Line:
    """The tangent at a price: every query takes what is best there, and among equals what takes the fewest joules."""
    score_qo = options.worth_qo - price * options.energy_qo
    best_q = np.maximum(score_qo.max(axis=1, initial=0.0), 0.0)
    scale = np.abs(options.worth_qo).max(initial=0.0)
    tied_qo = score_qo >= best_q[:, None] - 1e-15 * scale
    joules_qo = np.where(tied_qo, options.energy_qo, np.inf)
    choice_q = joules_qo.argmin(axis=1)
    rows = np.arange(len(choice_q))
    runs_q = (best_q > 0.0) & np.isfinite(joules_qo[rows, choice_q])
    quality = float(options.worth_qo[rows, choice_q][runs_q].sum())
    return _Line(price, quality, float(options.energy_qo[rows, choice_q][runs_q].sum()))


def _free_of_charge(options: Options) -> _Line:
    """The tangent far to the right: only what costs nothing runs."""
    free_qo = np.where(options.energy_qo <= 0.0, options.worth_qo, 0.0)
    return _Line(np.inf, float(free_qo.max(axis=1, initial=0.0).sum()), 0.0)
