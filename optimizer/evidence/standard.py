"""How good a policy must be beside the best single expert, and how sure one must be of it.

The cheapest of several thousand candidates that seem good enough is a lucky one. So a candidate must pass a test of
non-inferiority, not only be level on average: what differs from the best single expert on few queries passes, what
wins some and loses as many does not.

Shape letters: q queries, e experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.evidence.answers import Evidence
from optimizer.evidence.replay import Costs

Floats = NDArray[np.float64]

# One-sided 95 % quantile of the normal distribution.
_Z = 1.645
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Figures:
    """Figures of candidates beside the best single expert; every field is a number or an array of the same shape.

    Args:
        quality: Share of right answers.
        energy_j: Mean joules.
        low: One-sided 95 % lower bound of the mean quality minus the best single expert's, paired by query.
    """

    quality: Floats
    energy_j: Floats
    low: Floats


@dataclass(frozen=True)
class Standard:
    """What a policy must reach.

    Args:
        gain: Least mean of quality minus the best single expert's.
        margin: The lower bound of that difference may be this far below `gain`.
    """

    gain: float
    margin: float

    def accepts(self, figures: Figures, rival_quality: float) -> NDArray[np.bool_]:
        """Which candidates reach it."""
        level = figures.quality - rival_quality >= self.gain - _ROUNDING
        return np.asarray(level & (figures.low >= self.gain - self.margin - _ROUNDING))


def lower_bound(difference: Floats, square: Floats, queries: int) -> Floats:
    """One-sided 95 % lower bound of a mean from the mean and the mean square over the queries."""
    variance = np.maximum(square - difference**2, 0.0)
    return np.asarray(difference - _Z * np.sqrt(variance / queries))


def figures_of(correct: Floats, energy: Floats, rival_q: Floats) -> Figures:
    """Figures of policies from their outcome on each query.

    Args:
        correct: (q,) or (q, policies).
        energy: Joules, of the same shape.
        rival_q: Right answers of the best single expert.
    """
    difference = (correct.T - rival_q).T
    low = lower_bound(difference.mean(axis=0), (difference**2).mean(axis=0), len(rival_q))
    return Figures(correct.mean(axis=0), energy.mean(axis=0), low)


def best_single(evidence: Evidence, costs: Costs, *, tolerance: float) -> int:
    """Index of the cheapest expert within `tolerance` of the most accurate one's share of right answers."""
    good_e = np.flatnonzero(evidence.accuracy_e >= evidence.accuracy_e.max() - tolerance - _ROUNDING)
    return int(min(good_e.tolist(), key=lambda e: (costs.energy_e[e], -evidence.accuracy_e[e])))


@dataclass(frozen=True)
class Trial:
    """What candidates are measured on, and against whom.

    Args:
        evidence: Answers of every expert to the reference queries.
        costs: Of each expert.
        rival: Index of the best single expert.
    """

    evidence: Evidence
    costs: Costs
    rival: int

    @property
    def rival_q(self) -> Floats:
        """1 where the best single expert is right."""
        return np.asarray(self.evidence.correct_qe[:, self.rival], dtype=np.float64)

    @property
    def rival_quality(self) -> float:
        """Its share of right answers."""
        return float(self.evidence.accuracy_e[self.rival])
