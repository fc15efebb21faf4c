"""How late a sensor is, and how power grows with what runs at once: what fits the known busy signal best.

For each lag the readings are regressed on the effort of each class within the windows shifted by it; the lag whose fit
leaves least is the one at which readings and busy signal agree, a cross-correlation in which every class has the height
that suits it. The exponent of concurrency is found the same way, in turn with the lag.

Shape letters: k observations, a classes, q knots of idle power.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nodes.energy.attribution.activity import Activity, Effort, Floats
from nodes.energy.attribution.idle import IdleLine
from nodes.energy.attribution.observe import Observations
from nodes.energy.attribution.regression import huber_loss, robust_non_negative

LAGS_S = tuple(float(lag) for lag in np.arange(0.0, 0.5001, 0.02))
EXPONENTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
ROUNDS = 2
NOISE_GUESS_FRACTION = 0.03


@dataclass(frozen=True)
class Timing:
    """What was found.

    Attributes:
        weight_w_a: Watts of each class per second of effort.
        idle_w_q: Watts at rest at each knot.
        sigma_w: Robust spread of what the fit leaves.
    """

    lag_s: float
    exponent: float
    weight_w_a: Floats
    idle_w_q: Floats
    sigma_w: float


def find_timing(
    activity: Activity,
    observed: Observations,
    idle: IdleLine,
    *,
    lags_s: Sequence[float] = LAGS_S,
    exponents: Sequence[float] = EXPONENTS,
) -> Timing:
    """The lag and exponent that fit best, and the watts that go with them.

    A grid of one value fixes what is known already. Cost: about 60 regressions of (k + q) rows on a + q columns.
    """
    lag_s, exponent = _start(lags_s), exponents[len(exponents) // 2]
    for _ in range(ROUNDS):
        effort = Effort(activity, exponent)
        lag_s = _least(lambda lag, e=effort: _loss(e, observed, idle, lag), lags_s)  # type: ignore[misc]
        exponent = _least(lambda power, lag=lag_s: _loss(Effort(activity, power), observed, idle, lag), exponents)  # type: ignore[misc]
    return fit_at(Effort(activity, exponent), observed, idle, lag_s=lag_s, exponent=exponent)


def fit_at(effort: Effort, observed: Observations, idle: IdleLine, *, lag_s: float, exponent: float) -> Timing:
    """The watts that fit best at a given lag and exponent."""
    solution, sigma_w, _ = _regress(effort, observed, idle, lag_s)
    classes = len(effort.activity.classes)
    return Timing(lag_s, exponent, solution[:classes], solution[classes:], sigma_w)


def _start(lags_s: Sequence[float]) -> float:
    return lags_s[len(lags_s) // 2]


def _loss(effort: Effort, observed: Observations, idle: IdleLine, lag_s: float) -> float:
    _, _, left_k = _regress(effort, observed, idle, lag_s)
    # One scale for all candidates, else a worse fit would be forgiven more.
    return huber_loss(left_k, NOISE_GUESS_FRACTION * float(np.mean(np.abs(observed.power_w_k))))


def _regress(effort: Effort, observed: Observations, idle: IdleLine, lag_s: float) -> tuple[Floats, float, Floats]:
    low_s_k, high_s_k = observed.window_low_s_k - lag_s, observed.window_high_s_k - lag_s
    seen_s_k = (high_s_k - low_s_k)[:, None]
    busy_ka = effort.by_class(low_s_k, high_s_k) / seen_s_k
    rest_kq = idle.basis(low_s_k, high_s_k)
    tie_qq, tie_q = idle.ties(NOISE_GUESS_FRACTION * float(np.mean(np.abs(observed.power_w_k))))
    nothing_qa = np.zeros((len(tie_q), busy_ka.shape[1]))
    design = np.block([[busy_ka, rest_kq], [nothing_qa, tie_qq]])
    solution, sigma_w = robust_non_negative(design, np.concatenate([observed.power_w_k, tie_q]))
    return solution, sigma_w, observed.power_w_k - design[: observed.size] @ solution


def _least(loss: Callable[[float], float], grid: Sequence[float]) -> float:
    """Where the loss is least: the best of the grid, then the bottom of the parabola through it and its neighbours."""
    if len(grid) == 1:
        return grid[0]
    losses = [loss(value) for value in grid]
    best = int(np.argmin(losses))
    if not 0 < best < len(grid) - 1:
        return grid[best]
    return _narrow(loss, grid[best - 1], grid[best + 1])


def _narrow(loss: Callable[[float], float], low: float, high: float) -> float:
    """Golden section: halves the bracket about every one and a half calls."""
    golden = (5**0.5 - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    for _ in range(9):
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - golden * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + golden * (high - low)
            loss_right = loss(right)
    return (low + high) / 2
