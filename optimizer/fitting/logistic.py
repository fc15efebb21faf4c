"""L2-penalised logistic regression by Newton's method.

Shape letters: q queries, f features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS = 25
_TOLERANCE = 1e-7
# Curvature of a query that the model is sure about; keeps the Newton system solvable without a penalty.
_LEAST_CURVATURE = 1e-9


def sigmoid(log_odds: NDArray[np.float64]) -> Floats:
    """Probability of log odds, of any shape; infinities give 0 and 1."""
    # tanh neither overflows nor warns, unlike 1 / (1 + exp(-z)).
    probability: Floats = 0.5 * (1.0 + np.tanh(0.5 * log_odds))
    return probability


def sigmoid_of_half(half_log_odds: Floats) -> None:
    """In place, the probability of twice the log odds given: `sigmoid` without its intermediate arrays."""
    np.tanh(half_log_odds, out=half_log_odds)
    half_log_odds += 1.0
    half_log_odds *= 0.5


def logit(probability: NDArray[np.float64] | float, *, floor: float = 1e-6) -> Floats:
    """Log odds of probabilities, which are first kept away from 0 and 1 by `floor`."""
    kept = np.clip(probability, floor, 1.0 - floor)
    log_odds: Floats = np.log(kept / (1.0 - kept))
    return log_odds


def fit_logistic(
    x_qf: Floats, target_q: NDArray[Any], *, l2: float, standing_q: Floats | None = None
) -> tuple[Floats, float]:
    """Weights and bias that minimise the cross-entropy plus l2/2 · |weights|²; the bias is not penalised.

    Args:
        x_qf: Features, of comparable scale.
        target_q: Probabilities or booleans to be predicted.
        l2: Strength of the penalty, at least 0.
        standing_q: Log odds that are known already and only added to: then the bias is penalised too.

    Cost: a handful of Newton steps of q·f² multiply-adds each.
    """
    design_qf = np.hstack([x_qf, np.ones((len(x_qf), 1))])
    target_q = np.asarray(target_q, dtype=np.float64)
    penalty_f = np.full(design_qf.shape[1], l2)
    weights_f = np.zeros(design_qf.shape[1])
    if standing_q is None:
        penalty_f[-1] = _LEAST_CURVATURE
        weights_f[-1] = float(logit(target_q.mean()))
    for _ in range(_STEPS):
        step_f = _newton_step(_Task(design_qf, target_q, penalty_f, standing_q), weights_f)
        weights_f = weights_f + step_f
        if np.abs(step_f).max() < _TOLERANCE:
            break
    return weights_f[:-1], float(weights_f[-1])


@dataclass(frozen=True)
class _Task:
    design_qf: Floats
    target_q: Floats
    penalty_f: Floats
    standing_q: Floats | None

    def log_odds(self, weights_f: Floats) -> Floats:
        fitted_q: Floats = self.design_qf @ weights_f
        return fitted_q if self.standing_q is None else fitted_q + self.standing_q

    def loss(self, log_odds_q: Floats, weights_f: Floats) -> float:
        entropy = np.logaddexp(0.0, log_odds_q).sum() - self.target_q @ log_odds_q
        return float(entropy + 0.5 * (self.penalty_f * weights_f**2).sum())


def _newton_step(task: _Task, weights_f: Floats) -> Floats:
    """One Newton step, halved until the loss does not rise (separable data overshoot otherwise)."""
    log_odds_q = task.log_odds(weights_f)
    probability_q = sigmoid(log_odds_q)
    curvature_q = np.maximum(probability_q * (1.0 - probability_q), _LEAST_CURVATURE)
    gradient_f = task.design_qf.T @ (task.target_q - probability_q) - task.penalty_f * weights_f
    hessian_ff = (task.design_qf * curvature_q[:, None]).T @ task.design_qf + np.diag(task.penalty_f)
    step_f = np.linalg.solve(hessian_ff, gradient_f)
    loss = task.loss(log_odds_q, weights_f)
    for _ in range(_STEPS):
        there_f = weights_f + step_f
        if task.loss(task.log_odds(there_f), there_f) <= loss + 1e-12:
            break
        step_f = step_f * 0.5
    return np.asarray(step_f)
