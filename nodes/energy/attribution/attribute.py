"""From busy intervals and a sensor's values to joules per interval, with their uncertainty.

Shape letters: n intervals, k cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nodes.energy.attribution.activity import Activity, Effort, Floats
from nodes.energy.attribution.idle import IdleLine
from nodes.energy.attribution.observe import Observations
from nodes.energy.attribution.posterior import Watts, infer_watts
from nodes.energy.attribution.shares import Shares, share_out
from nodes.energy.attribution.timing import EXPONENTS, LAGS_S, Timing, find_timing, fit_at

# An interval as wide as this many standard deviations on either side is stated to hold nine figures out of ten.
COVERAGE_SIGMAS = 2.0
# What lag, edges of windows and the law of concurrency leave of doubt even where everything seems to fit. Found by
# simulation (`tests/bench/synthetic_device.py`, seeds 100 to 107, none of which the benchmark judges).
MODEL_DOUBT_FRACTION = 0.02
# Exponents beside the best one that are weighed against it, for what they would make of each figure.
BESIDE = (-0.2, -0.1, -0.05, 0.05, 0.1, 0.2)
# From this spread on, a class says too little for its mean to tell how concurrency works.
VAGUE_SPREAD_FRACTION = 0.2


@dataclass(frozen=True)
class Attribution:
    """What a stretch of time cost, and whom.

    Attributes:
        energy_j_n: Active joules of each interval, of the part of it that the sensor's values cover.
        sigma_j_n: One standard deviation of each.
        idle_j: Joules of idle power.
        total_j: The meter's total; what `energy_j_n` and `idle_j` add up to.
    """

    energy_j_n: Floats
    sigma_j_n: Floats
    idle_j: float
    total_j: float
    timing: Timing
    watts: Watts
    shares: Shares


@dataclass(frozen=True)
class Known:
    """What need not be found again: None for what is unknown."""

    lag_s: float | None = None
    exponent: float | None = None
    idle_w: float | None = None


def attribute(activity: Activity, observed: Observations, known: Known | None = None) -> Attribution:
    """Find lag, concurrency and watts, and share the meter's joules out.

    Needs at least two observations. Cost: 0.3 to 1 s for 600 observations and 1000 intervals on one core.
    """
    known = known or Known()
    about_w = float(np.quantile(observed.power_w_k, 0.02)) if known.idle_w is None else known.idle_w
    idle = IdleLine.over(float(observed.cell_low_s_k[0]), float(observed.cell_high_s_k[-1]), about_w)
    lags_s = LAGS_S if known.lag_s is None else (known.lag_s,)
    exponents = EXPONENTS if known.exponent is None else (known.exponent,)
    if activity.most_at_once <= 1:
        exponents = (1.0,)  # Nothing ever overlapped, so nothing can be learned of overlap.
    timing = find_timing(activity, observed, idle, lags_s=lags_s, exponents=exponents)
    timing, effort, watts = _infer(activity, observed, idle, timing, exponents)
    shares = share_out(
        effort,
        observed.earlier(timing.lag_s),
        idle,
        interval_w_n=watts.interval_w_n,
        idle_w_q=watts.idle_w_q,
    )
    # Where the exponent is given, whoever gave it has looked at more than this.
    other_j_n = _exponent_doubt_j(activity, observed, idle, (timing, effort, watts)) if len(exponents) > 1 else 0.0
    return Attribution(
        energy_j_n=shares.energy_j_kn.sum(axis=0),
        sigma_j_n=_sigma_j(effort, watts, shares, other_j_n=other_j_n),
        idle_j=float(shares.idle_j_k.sum()),
        total_j=float(shares.total_j_k.sum()),
        timing=timing,
        watts=watts,
        shares=shares,
    )


def _infer(
    activity: Activity, observed: Observations, idle: IdleLine, timing: Timing, exponents: Sequence[float]
) -> tuple[Timing, Effort, Watts]:
    """Watts of every interval; where classes say little, the exponent is judged again by likelihood."""
    effort = Effort(activity, timing.exponent)
    best = timing, effort, infer_watts(effort, observed, idle, timing)
    first = best[2]
    if first.spread_fraction < VAGUE_SPREAD_FRACTION or len(exponents) == 1:
        return best
    for exponent in exponents:
        effort = Effort(activity, exponent)
        again = fit_at(effort, observed, idle, lag_s=timing.lag_s, exponent=exponent)
        same = [(first.spread_fraction, first.noise_w)]
        candidate = again, effort, infer_watts(effort, observed, idle, again, explanations=same)
        best = max(best, candidate, key=lambda one: one[2].log_likelihood)
    return best if best[2] is first else _again(best[0], best[1], observed, idle)


def _again(timing: Timing, effort: Effort, observed: Observations, idle: IdleLine) -> tuple[Timing, Effort, Watts]:
    return timing, effort, infer_watts(effort, observed, idle, timing)


def _exponent_doubt_j(
    activity: Activity, observed: Observations, idle: IdleLine, best: tuple[Timing, Effort, Watts]
) -> Floats:
    """How far figures would move under other exponents, weighed by how likely those are (standard deviation, n)."""
    timing, effort, watts = best
    same = [(watts.spread_fraction, watts.noise_w)]
    energies_j, scores = [effort.whole() * watts.interval_w_n], [watts.log_likelihood]
    for step in BESIDE:
        exponent = timing.exponent + step
        other = Effort(activity, exponent)
        again = fit_at(other, observed, idle, lag_s=timing.lag_s, exponent=exponent)
        seen = infer_watts(other, observed, idle, again, explanations=same)
        energies_j.append(other.whole() * seen.interval_w_n)
        scores.append(seen.log_likelihood)
    weights = np.exp(np.minimum(np.array(scores) - max(scores), 0.0))
    away_j = np.array(energies_j) - energies_j[0]
    doubt_j_n: Floats = np.sqrt(np.average(away_j**2, axis=0, weights=weights))
    return doubt_j_n


def _sigma_j(effort: Effort, watts: Watts, shares: Shares, *, other_j_n: Floats | float) -> Floats:
    """Doubt of the watts and of the exponent, the sensor's noise that scaling lets in, and what no term foresees."""
    own_j_n = effort.whole() * watts.sigma_w_n
    noise = float(np.std(shares.scale_k))
    scaled_j_n = noise * np.sqrt(np.sum(shares.energy_j_kn**2, axis=0))
    model_j_n = MODEL_DOUBT_FRACTION * shares.energy_j_kn.sum(axis=0)
    sigma_j_n: Floats = np.sqrt(own_j_n**2 + scaled_j_n**2 + model_j_n**2 + other_j_n**2)
    return sigma_j_n
