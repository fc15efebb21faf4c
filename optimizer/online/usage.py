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
from operator import mul
from statistics import median

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.online.median import RunningMedian

# As plain numbers: there are two or three of each, for which a single call of an array's costs more than all of a step.
Rates = tuple[float, ...]
# Of one run, and its sizes: what each rate is multiplied with.
Counts = tuple[float, ...]

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
# The level, by its place among them, of every concurrency up to the last one's.
_MOST = LEVELS[-1]
_LEVEL_OF = tuple(max(0, bisect_right(LEVELS, concurrency) - 1) for concurrency in range(_MOST + 1))


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
        rates = tuple(map(float, rates_k))
        if not all(0.0 <= rate < math.inf for rate in rates) or not any(rates):
            raise OptimizerError("rates_k must be finite numbers that are not negative, at least one above 0.")
        if not 0.0 < coverage < 1.0:
            raise OptimizerError("coverage must be above 0 and below 1.")
        self._rates = rates
        # A rate of 0 was not measured, rather than known: it may still become something.
        least = min(rate for rate in rates if rate) * 1e-2
        self._scale_k = [rate or least for rate in rates]
        self._coverage = coverage
        self._prior_error = prior_error
        self.changes = 0
        self._begin()

    def _begin(self) -> None:
        self._spread_kk = [[0.0] * len(self._scale_k) for _ in self._scale_k]
        for k, scale in enumerate(self._scale_k):
            self._spread_kk[k][k] = (PRIOR_SIGMA * scale) ** 2
        self._residuals: deque[float] = deque(maxlen=WINDOW)
        self._sizes = RunningMedian(WINDOW)
        # What runs in company took over the rates' word, by level; medians of those that were seen often enough.
        self._ratios: list[RunningMedian | None] = [None] * len(LEVELS)
        self._factors = [1.0] * len(LEVELS)
        self._run: list[tuple[Counts, float, int]] = []
        self.count = 0

    @property
    def rates(self) -> Rates:
        """(fixed, rate of each size) as learned so far; the same object as long as no run has moved them."""
        return self._rates

    def factor(self, concurrency: int) -> float:
        """Cost at a level of concurrency over that of running alone; 1 until the level was seen often enough."""
        return self._factors[_LEVEL_OF[concurrency if concurrency < _MOST else _MOST]]

    def forecast(self, sizes_k: Sequence[float], *, concurrency: int = 1) -> Forecast:
        """The cost of a run of these sizes, in the order of the rates after the fixed part."""
        mean = self._priced((1.0, *sizes_k)) * self.factor(concurrency)
        low, high = self._band()
        return Forecast(mean, max(0.0, mean * (1.0 + low)), mean * (1.0 + high))

    def observe(self, sizes_k: Sequence[float], cost: float, *, concurrency: int = 1) -> bool:
        """Learn from a run; true where the device turned out to have changed.

        Args:
            sizes_k: As in `forecast`.
            cost: What it took; a figure that is not finite or not positive is passed over.
            concurrency: Runs at the same time, this one included: 1 or more.
        """
        counts_k = (1.0, *sizes_k)
        predicted = self._priced(counts_k)
        # Written so that NaN fails.
        if not (0.0 < cost < math.inf and predicted > 0.0):
            return False
        level = _LEVEL_OF[concurrency if concurrency < _MOST else _MOST]
        residual = cost / (predicted * self._factors[level]) - 1.0
        if abs(residual) <= RUN_BEYOND or self.count < RUN:
            self._run.clear()
        elif self._changed(counts_k, cost, level, residual):
            self._restart()
            return True
        self._take(counts_k, cost, level, predicted, residual)
        return False

    def _priced(self, counts_k: Counts) -> float:
        """What the rates say of a run alone."""
        cost: float = sum(map(mul, self._rates, counts_k))
        return cost

    def _take(self, counts_k: Counts, cost: float, level: int, predicted: float, residual: float) -> None:
        self.count += 1
        if level:
            # How much company costs is a matter of the factor alone; the rates are those of running alone.
            ratios = self._ratios[level]
            if ratios is None:
                ratios = self._ratios[level] = RunningMedian(WINDOW)
            if ratios.append(cost / predicted) >= LEAST_AT_LEVEL:
                self._factors[level] = ratios.value
        else:
            self._learn([count / predicted for count in counts_k], residual)
        self._residuals.append(residual)
        self._sizes.append(abs(residual))

    def _learn(self, share_k: list[float], residual: float) -> None:
        """One step of recursive least squares; shares are counts over the prediction: the target is 1 + residual."""
        # The size of this run's own residual is not among them yet.
        typical = self._sizes.value if self.count > LEAST_AT_LEVEL else 0.5
        weight = min(1.0, HUBER * max(typical, 1e-3) / max(abs(residual), 1e-12))
        noise = max(typical, 1e-3) ** 2 / weight
        pushed_k = [sum(map(mul, row_k, share_k)) for row_k in self._spread_kk]
        total = sum(map(mul, share_k, pushed_k)) + noise
        rates, shrink_k = [], []
        for k, row_k in enumerate(self._spread_kk):
            gain = pushed_k[k] / total
            rates.append(max(0.0, self._rates[k] + gain * residual))
            for i, pushed in enumerate(pushed_k):
                row_k[i] = (row_k[i] - gain * pushed) / FORGETTING
            # What nothing was learned about for long does not become less certain than it was at the start.
            most = PRIOR_SIGMA * max(self._scale_k[k], rates[k])
            shrink_k.append(min(1.0, most / math.sqrt(max(row_k[k], 1e-300))))
        self._rates = tuple(rates)
        if min(shrink_k) < 1.0:
            for shrink, row_k in zip(shrink_k, self._spread_kk, strict=True):
                row_k[:] = [shrink * other * spread for other, spread in zip(shrink_k, row_k, strict=True)]

    def _changed(self, counts_k: Counts, cost: float, level: int, residual: float) -> bool:
        """Take a run that is far off; true where it is the last of a row on one side."""
        run = (counts_k, cost if residual > 0.0 else -cost, level)
        if self._run and (residual > 0) == (self._run[-1][1] > 0):
            self._run.append(run)
        else:
            self._run = [run]
        return len(self._run) >= RUN

    def _restart(self) -> None:
        """Begin again with the row of runs that told the change."""
        run = self._run
        ratios = [abs(signed) / self._priced(counts_k) for counts_k, signed, _ in run]
        ratio = median(ratios)
        self._rates = tuple([rate * ratio for rate in self._rates])
        self._scale_k = list(map(max, self._scale_k, self._rates))
        self._begin()
        self.changes += 1
        for counts_k, signed, level in run:
            predicted = self._priced(counts_k)
            self._take(counts_k, abs(signed), level, predicted, abs(signed) / predicted - 1.0)

    def _band(self) -> tuple[float, float]:
        """Relative residuals between which the next one lies with the stated probability."""
        held = np.sort(np.asarray(self._residuals))
        tail = 0.5 * (1.0 - self._coverage)
        rank = math.ceil((held.size + 1) * (1.0 - tail))
        if rank > held.size:
            reach = max(self._prior_error, float(np.abs(held).max()) if held.size else 0.0)
            return -reach, reach
        return float(held[held.size - rank]), float(held[rank - 1])
