"""What a run costs by its size: joules or milliseconds as a function of size and concurrency, learned while serving.

    cost = (fixed + Σ_k rate_k · size_k) · factor(concurrency)

Sizes are counts that the cost grows with (samples of a tensor; prompt and completion tokens of a text). Rates start at
what was announced or measured on purpose and follow the runs by recursive least squares in *relative* residuals (a long
run is not worth more than a short one), with forgetting, and with Huber's weights, so that single outliers hardly move
them. The factor of a level of concurrency is the median of what runs at that level took beyond the rates' word.

The interval is the conformal one of recent relative residuals: it covers the next run with the stated probability as
long as runs are exchangeable. A long row of residuals on one side says that the device has changed (drift, throttling):
then the past is forgotten.

Source: recursive least squares with a forgetting factor, Ljung, System Identification, 11.2; Huber (1964).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import OptimizerError
from optimizer.online.median import RunningMedian

Floats = NDArray[np.float64]
Sizes = tuple[float, ...]

# Weight of a run after n later ones: FORGETTING ** n; about 300 runs count.
FORGETTING = 0.997
# Relative residuals beyond this many times their typical size (median) count less and less.
HUBER = 2.5
# So many residuals in a row on one side, each beyond a tenth, are no chance (one in 500,000): the device has changed.
RUN = 20
RUN_BEYOND = 0.1
WINDOW = 256
# How far the announced rates may be off, relatively; and how much of a rate's own worth stays certain for ever.
PRIOR_SIGMA = 1.0
LEVELS = (1, 2, 4, 8, 16, 32)
LEAST_AT_LEVEL = 5


@dataclass(frozen=True)
class Forecast:
    """What a run will cost.

    Args:
        mean: Expected.
        low: Lower end of the interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


class Usage:
    """Cost of one arm in one unit.

    Args:
        rates_k: First word on (fixed, rate of each size), in units per run and per count; not negative.
        coverage: Probability of the interval, in (0, 1).
        prior_error: Relative half-width of the interval while nothing was seen.

    Raises:
        OptimizerError: Rates that are negative or not finite, all of them 0, or a coverage outside (0, 1).
    """

    def __init__(self, rates_k: Sequence[float], *, coverage: float = 0.9, prior_error: float = 1.0) -> None:
        rates = np.asarray(rates_k, dtype=np.float64)
        if rates.ndim != 1 or not np.isfinite(rates).all() or (rates < 0).any() or not rates.any():
            raise OptimizerError("rates_k must be finite numbers that are not negative, at least one above 0.")
        if not 0.0 < coverage < 1.0:
            raise OptimizerError("coverage must be above 0 and below 1.")
        self._set_rates(rates)
        # A rate of 0 was not measured, rather than known: it may still become something.
        self._scale_k = np.where(rates > 0, rates, rates[rates > 0].min() * 1e-2)
        self._coverage = coverage
        self._prior_error = prior_error
        self.changes = 0
        self._begin()

    def _begin(self) -> None:
        self._spread_kk = np.diag((PRIOR_SIGMA * self._scale_k) ** 2)
        self._residuals: deque[float] = deque(maxlen=WINDOW)
        self._sizes = RunningMedian(WINDOW)
        self._by_level: dict[int, RunningMedian] = {}
        self._run: list[tuple[Sizes, float, int]] = []
        self.count = 0

    @property
    def rates_k(self) -> Floats:
        """(fixed, rate of each size) as learned so far."""
        return self._rates_k.copy()

    @property
    def rates(self) -> tuple[float, ...]:
        """The same as plain numbers; equal as long as no run has moved them."""
        return self._rates

    def factor(self, concurrency: int) -> float:
        """Cost at a level of concurrency over that of running alone; 1 until the level was seen often enough."""
        return self._factor_at(_level(concurrency))

    def _factor_at(self, level: int) -> float:
        ratios = self._by_level.get(level)
        return ratios.value if ratios is not None and len(ratios) >= LEAST_AT_LEVEL else 1.0

    def forecast(self, sizes_k: Sequence[float], *, concurrency: int = 1) -> Forecast:
        """The cost of a run of these sizes, in the order of the rates after the fixed part."""
        mean = self._priced(sizes_k) * self.factor(concurrency)
        low, high = self._band()
        return Forecast(mean, max(0.0, mean * (1.0 + low)), mean * (1.0 + high))

    def observe(self, sizes_k: Sequence[float], cost: float, *, concurrency: int = 1) -> bool:
        """Learn from a run; true where the device turned out to have changed.

        Args:
            sizes_k: As in `forecast`.
            cost: What it took; a figure that is not finite or not positive is passed over.
            concurrency: Runs at the same time, this one included.
        """
        sizes_k = tuple(sizes_k)
        predicted = self._priced(sizes_k)
        if not (math.isfinite(cost) and cost > 0.0 and predicted > 0.0):
            return False
        level = _level(concurrency)
        factor = self._factor_at(level) if level > 1 else 1.0
        residual = cost / (predicted * factor) - 1.0
        if self._changed(sizes_k, cost, level, residual):
            self._restart()
            return True
        self._take(sizes_k, cost, level, predicted, residual)
        return False

    def _priced(self, sizes_k: Sequence[float]) -> float:
        """What the rates say of a run alone: so few numbers are sooner added up one by one than as arrays."""
        fixed, *rates = self._rates
        for rate, size in zip(rates, sizes_k, strict=True):
            fixed += rate * size
        return fixed

    def _take(self, sizes_k: Sizes, cost: float, level: int, predicted: float, residual: float) -> None:
        self.count += 1
        if level > 1:
            # How much company costs is a matter of the factor alone; the rates are those of running alone.
            ratios = self._by_level.get(level)
            if ratios is None:
                ratios = self._by_level[level] = RunningMedian(WINDOW)
            ratios.append(cost / predicted)
        else:
            self._learn(np.array((1.0, *sizes_k)) / predicted, residual)
        self._residuals.append(residual)
        self._sizes.append(abs(residual))

    def _learn(self, share_k: Floats, residual: float) -> None:
        """One step of recursive least squares; shares are counts over the prediction: the target is 1 + residual."""
        typical = self._sizes.value if len(self._sizes) >= LEAST_AT_LEVEL else 0.5
        weight = min(1.0, HUBER * max(typical, 1e-3) / max(abs(residual), 1e-12))
        noise = max(typical, 1e-3) ** 2 / weight
        gain_k = self._spread_kk @ share_k
        gain_k /= share_k @ gain_k + noise
        self._set_rates(np.maximum(0.0, self._rates_k + gain_k * residual))
        spread_kk = (self._spread_kk - np.outer(gain_k, share_k @ self._spread_kk)) / FORGETTING
        # What nothing was learned about for long does not become less certain than it was at the start.
        most_k = (PRIOR_SIGMA * np.maximum(self._scale_k, self._rates_k)) ** 2
        shrink_k = np.sqrt(np.minimum(1.0, most_k / np.maximum(np.diag(spread_kk), 1e-300)))
        self._spread_kk = spread_kk * np.outer(shrink_k, shrink_k)

    def _set_rates(self, rates_k: Floats) -> None:
        self._rates_k = rates_k
        self._rates: tuple[float, ...] = tuple(rates_k.tolist())

    def _changed(self, sizes_k: Sizes, cost: float, level: int, residual: float) -> bool:
        beyond = abs(residual) > RUN_BEYOND and self.count >= RUN
        same = beyond and (not self._run or (residual > 0) == (self._run[-1][1] > 0))
        signed = math.copysign(cost, residual)
        if not same:
            self._run = [(sizes_k, signed, level)] if beyond else []
        else:
            self._run.append((sizes_k, signed, level))
        return len(self._run) >= RUN

    def _restart(self) -> None:
        """Begin again with the row of runs that told the change."""
        run = self._run
        ratios = [abs(signed) / self._priced(sizes_k) for sizes_k, signed, _ in run]
        self._set_rates(self._rates_k * float(np.median(ratios)))
        self._scale_k = np.maximum(self._scale_k, self._rates_k)
        self._begin()
        self.changes += 1
        for sizes_k, signed, level in run:
            predicted = self._priced(sizes_k)
            self._take(sizes_k, abs(signed), level, predicted, abs(signed) / predicted - 1.0)

    def _band(self) -> tuple[float, float]:
        """Relative residuals between which the next one lies with the stated probability."""
        held = np.sort(np.asarray(self._residuals))
        tail = 0.5 * (1.0 - self._coverage)
        rank = math.ceil((held.size + 1) * (1.0 - tail))
        if rank > held.size:
            reach = max(self._prior_error, float(np.abs(held).max()) if held.size else 0.0)
            return -reach, reach
        return float(held[held.size - rank]), float(held[rank - 1])


def _level(concurrency: int) -> int:
    return LEVELS[max(0, bisect_right(LEVELS, concurrency) - 1)]
