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
    return Attribution(
        energy_j_n=shares.energy_j_kn.sum(axis=0),
        sigma_j_n=_sigma_j(effort, watts, shares),
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


def _sigma_j(effort: Effort, watts: Watts, shares: Shares) -> Floats:
    """The posterior's doubt of the watts, and the sensor's noise that scaling the cells lets in."""
    own_j_n = effort.whole() * watts.sigma_w_n
    noise = float(np.std(shares.scale_k))
    scaled_j_n = noise * np.sqrt(np.sum(shares.energy_j_kn**2, axis=0))
    sigma_j_n: Floats = np.sqrt(own_j_n**2 + scaled_j_n**2)
    return sigma_j_n
