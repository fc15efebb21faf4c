"""Least squares that no outlier and no negative watt can bend.

Shape letters: k observations, a unknowns.
"""

from __future__ import annotations

import numpy as np

from nodes.energy.attribution.activity import Floats

HUBER_AT = 2.0
SWEEPS = 60
ROUNDS = 4
# Of a normal distribution: the median of absolute values is this part of the standard deviation.
MEDIAN_TO_SIGMA = 0.6745
TINY = 1e-12


def robust_non_negative(design_ka: Floats, target_k: Floats) -> tuple[Floats, float]:
    """Coefficients (a,), none below 0, with Huber's loss; and the robust spread of what they leave.

    Iterated reweighting around cyclic coordinate descent. Cost: O(k a^2) per round, `ROUNDS` rounds.
    Source: P. J. Huber, "Robust Estimation of a Location Parameter", 1964.
    """
    weight_k = np.ones(len(target_k))
    solution_a: Floats = np.zeros(design_ka.shape[1])
    sigma = 0.0
    for _ in range(ROUNDS):
        weighted_ka = design_ka * weight_k[:, None]
        solution_a = _descend(weighted_ka.T @ design_ka, weighted_ka.T @ target_k, solution_a)
        left_k = np.abs(target_k - design_ka @ solution_a)
        sigma = float(np.median(left_k)) / MEDIAN_TO_SIGMA + TINY
        weight_k = np.minimum(1.0, HUBER_AT * sigma / np.maximum(left_k, TINY))
    return solution_a, sigma


def huber_loss(left_k: Floats, sigma: float) -> float:
    """Mean loss of residuals at a given spread, in squared units of the residuals."""
    size_k = np.abs(left_k)
    edge = HUBER_AT * sigma
    return float(np.mean(np.where(size_k <= edge, 0.5 * size_k**2, edge * (size_k - 0.5 * edge))))


def _descend(gram_aa: Floats, moment_a: Floats, start_a: Floats) -> Floats:
    """Minimise a quadratic over the non-negative orthant."""
    free_a = _unconstrained(gram_aa, moment_a)
    if free_a is not None:
        return free_a
    solution_a = start_a.copy()
    diagonal_a = np.diag(gram_aa) + TINY
    for _ in range(SWEEPS):
        for a in range(len(solution_a)):
            gradient = moment_a[a] - gram_aa[a] @ solution_a
            solution_a[a] = max(0.0, solution_a[a] + gradient / diagonal_a[a])
    return solution_a


def _unconstrained(gram_aa: Floats, moment_a: Floats) -> Floats | None:
    """The plain solution, where it exists and respects the bound anyway."""
    ridge = TINY + 1e-9 * float(np.trace(gram_aa)) / max(1, len(moment_a))
    try:
        solved = np.linalg.solve(gram_aa + ridge * np.eye(len(moment_a)), moment_a)
    except np.linalg.LinAlgError:
        return None
    return np.asarray(solved, dtype=np.float64) if bool((solved >= 0.0).all()) else None
