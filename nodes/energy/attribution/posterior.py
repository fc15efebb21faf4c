"""Watts of every single interval: those of its class, and how far this one seems to stray from them.

A linear Gaussian model: the sensor's values are the idle line plus each interval's effort times its watts, plus noise.
Watts of an interval scatter around those of its class by a part (`spread_fraction`) that the data choose by likelihood:
near 0 where every run of an arm draws the same, large where the class says nothing; then overlap alone tells intervals
apart. The posterior's covariance is the uncertainty of each figure.

Shape letters: k observations, n intervals, a classes, q knots, u = n + q unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nodes.energy.attribution.activity import Effort, Floats, Ints
from nodes.energy.attribution.idle import IdleLine
from nodes.energy.attribution.observe import Observations
from nodes.energy.attribution.timing import Timing

SPREADS_FRACTION = (0.01, 0.03, 0.06, 0.12, 0.25, 0.5)
NOISES = (1.0, 0.5, 0.25, 0.12)
CLASS_DOUBT_FRACTION = 0.3
IDLE_LEVEL_DOUBT_FRACTION = 0.05
LEAST_NOISE_FRACTION = 0.002
# Explanations this much less likely than the best one (natural logarithm) do not widen the uncertainty.
UNLIKELY = 4.0
MOST_EXPLANATIONS = 6


@dataclass(frozen=True)
class Watts:
    """What is known of the watts after the observations.

    Attributes:
        interval_w_n: Watts of each interval per second of its effort, none below 0.
        sigma_w_n: Standard deviation of each.
        idle_w_q: Watts at rest at each knot.
        idle_sigma_w: Standard deviation of idle power, mean over the knots.
        spread_fraction: How far intervals stray from their class.
        noise_w: Standard deviation of the sensor's values around the model.
        log_likelihood: Of the observations under the best spread and noise, up to a constant.
    """

    interval_w_n: Floats
    sigma_w_n: Floats
    idle_w_q: Floats
    idle_sigma_w: float
    spread_fraction: float
    noise_w: float
    log_likelihood: float


@dataclass(frozen=True)
class _Problem:
    """Prior and design: means (u,), covariances of unknowns with observations (u, k) and of observations (k, k).

    What is shared (a class's level, the idle line) and what is an interval's own are kept apart: the spread scales the
    second alone.
    """

    mean_u: Floats
    shared_u: Floats
    own_u: Floats
    shared_uk: Floats
    own_uk: Floats
    shared_kk: Floats
    own_kk: Floats
    left_k: Floats


Explanation = tuple[float, float]


def infer_watts(
    effort: Effort,
    observed: Observations,
    idle: IdleLine,
    timing: Timing,
    *,
    explanations: Sequence[Explanation] | None = None,
) -> Watts:
    """Posterior of all watts, under the given pairs of spread and noise or the usual grid of them.

    The means are those of the likeliest spread and noise; the variances are averaged over all that are about as likely,
    for a spread that is too small to be seen is still there. Cost: O(k^3) per candidate, 24 of them, and O(k^2 u).
    """
    problem = _state(effort, observed, idle, timing)
    grid = explanations or _grid(observed, timing)
    scored = sorted(((_log_likelihood(problem, *one), *one) for one in grid), reverse=True)
    likely = [one for one in scored[:MOST_EXPLANATIONS] if one[0] > scored[0][0] - UNLIKELY]
    weights = np.exp([one[0] - scored[0][0] for one in likely])
    posteriors = [_posterior(problem, spread, noise_w) for _, spread, noise_w in likely]
    variance_u = np.average([variance_u for _, variance_u in posteriors], axis=0, weights=weights)
    return _watts(posteriors[0][0], variance_u, effort.activity.size, scored[0])


def _grid(observed: Observations, timing: Timing) -> list[Explanation]:
    least_w = LEAST_NOISE_FRACTION * float(np.mean(np.abs(observed.power_w_k))) + 1e-9
    noises_w = sorted({max(least_w, timing.sigma_w * factor) for factor in NOISES})
    return [(spread, noise_w) for spread in SPREADS_FRACTION for noise_w in noises_w]


def _watts(mean_u: Floats, variance_u: Floats, count: int, best: tuple[float, float, float]) -> Watts:
    return Watts(
        interval_w_n=np.maximum(mean_u[:count], 0.0),
        sigma_w_n=np.sqrt(variance_u[:count]),
        idle_w_q=np.maximum(mean_u[count:], 0.0),
        idle_sigma_w=float(np.sqrt(np.mean(variance_u[count:]))),
        spread_fraction=best[1],
        noise_w=best[2],
        log_likelihood=best[0],
    )


def _state(effort: Effort, observed: Observations, idle: IdleLine, timing: Timing) -> _Problem:
    late = observed.earlier(timing.lag_s)
    low_s_k, high_s_k = late.window_low_s_k, late.window_high_s_k
    busy_kn = effort.by_interval(low_s_k, high_s_k) / (high_s_k - low_s_k)[:, None]
    rest_kq = idle.basis(low_s_k, high_s_k)
    class_n, knots = effort.activity.class_n, rest_kq.shape[1]
    class_w_n = timing.weight_w_a[class_n]
    level_ka = _sum_by_class(busy_kn * class_w_n, class_n, len(timing.weight_w_a)) * CLASS_DOUBT_FRACTION
    idle_qq = idle.covariance(IDLE_LEVEL_DOUBT_FRACTION)
    idle_qk = idle_qq @ rest_kq.T
    level_nk = level_ka[:, class_n].T * class_w_n[:, None] * CLASS_DOUBT_FRACTION
    own_n = _floor(class_w_n) ** 2
    own_nk = own_n[:, None] * busy_kn.T
    none_q = np.zeros(knots)
    idle_w_q = np.full(knots, idle.about_w)
    return _Problem(
        mean_u=np.concatenate([class_w_n, idle_w_q]),
        shared_u=np.concatenate([(class_w_n * CLASS_DOUBT_FRACTION) ** 2, np.diag(idle_qq)]),
        own_u=np.concatenate([own_n, none_q]),
        shared_uk=np.concatenate([level_nk, idle_qk]),
        own_uk=np.concatenate([own_nk, np.zeros_like(idle_qk)]),
        shared_kk=level_ka @ level_ka.T + rest_kq @ idle_qk,
        own_kk=busy_kn @ own_nk,
        left_k=observed.power_w_k - busy_kn @ class_w_n - rest_kq @ idle_w_q,
    )


def _sum_by_class(value_kn: Floats, class_n: Ints, classes: int) -> Floats:
    one_hot_na = np.zeros((len(class_n), classes))
    one_hot_na[np.arange(len(class_n)), class_n] = 1.0
    summed: Floats = value_kn @ one_hot_na
    return summed


def _floor(class_w_n: Floats) -> Floats:
    """A class that seems to draw nothing may still have intervals that do."""
    return np.maximum(class_w_n, 0.05 * float(np.mean(class_w_n)) if len(class_w_n) else 0.0)


def _covariance(problem: _Problem, spread: float, noise_w: float) -> Floats:
    covariance_kk: Floats = problem.shared_kk + spread**2 * problem.own_kk
    covariance_kk[np.diag_indices_from(covariance_kk)] += noise_w**2
    return covariance_kk


def _log_likelihood(problem: _Problem, spread: float, noise_w: float) -> float:
    root_kk = np.linalg.cholesky(_covariance(problem, spread, noise_w))
    white_k = np.linalg.solve(root_kk, problem.left_k)
    return float(-0.5 * white_k @ white_k - np.sum(np.log(np.diag(root_kk))))


def _posterior(problem: _Problem, spread: float, noise_w: float) -> tuple[Floats, Floats]:
    """Means and variances (u,) of the unknowns."""
    cross_uk = problem.shared_uk + spread**2 * problem.own_uk
    gain_uk = np.linalg.solve(_covariance(problem, spread, noise_w), cross_uk.T).T
    variance_u = problem.shared_u + spread**2 * problem.own_u - np.sum(gain_uk * cross_uk, axis=1)
    return problem.mean_u + gain_uk @ problem.left_k, np.maximum(variance_u, 0.0)
