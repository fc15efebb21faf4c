"""What a peer is asked to solve, and what it answers.

Shape letters: q queries, n arms.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Instance:
    """Mode ``worst_case`` with one knapsack of integers, so that no solver's tolerance matters.

    Args:
        worth_qn: Weighted quality (best-of), or probabilities (any-right).
        weights_q: Any-right: weight of each query, adding up to 1.
        cost_n: Integers.
        limit: An integer.
        any_right: Which utility.
        time_limit_s: For all calls of the solver together.
    """

    worth_qn: Floats
    weights_q: Floats
    cost_n: NDArray[np.int64]
    limit: int
    any_right: bool
    time_limit_s: float

    def value_q(self, active: list[int]) -> Floats:
        """Any-right: probability per query."""
        return np.asarray(1.0 - (1.0 - self.worth_qn[:, active]).prod(axis=1))

    def cut(self, inside: list[int]) -> tuple[Floats, Floats]:
        """Submodular cut at a set: value_q ≤ constant_q + slope_qn @ z, equal at the set."""
        constant_q = self.value_q(inside)
        slope_qn = (1.0 - constant_q)[:, None] * self.worth_qn
        slope_qn[:, inside] = 0.0
        return constant_q, slope_qn

    def tangent(self, point_n: Floats) -> tuple[Floats, Floats]:
        """Tangent of 1 − exp(−Σ a z) at a point: constant_q + slope_qn @ z is nowhere below the value of a set."""
        steep_qn = -np.log1p(-np.minimum(self.worth_qn, 1.0 - 1e-12))
        height_q = steep_qn @ point_n
        fall_q = np.exp(-height_q)
        return 1.0 - fall_q - fall_q * height_q, fall_q[:, None] * steep_qn

    def lowest(self, point_n: Floats) -> tuple[Floats, Floats]:
        """For each query the lower of its submodular cut and its tangent at a point."""
        constant_q, slope_qn = self.cuts_at(point_n)
        other_q, steep_qn = self.tangent(point_n)
        lower_q = other_q + steep_qn @ point_n < constant_q + slope_qn @ point_n
        return np.where(lower_q, other_q, constant_q), np.where(lower_q[:, None], steep_qn, slope_qn)

    def cuts_at(self, point_n: Floats) -> tuple[Floats, Floats]:
        """For each query the lowest cut at a fractional point, among the prefixes of the arms by falling value."""
        order = [int(n) for n in np.argsort(-point_n, kind="stable") if point_n[n] > 1e-6]
        constant_q, slope_qn = self.cut([])
        height_q = constant_q + slope_qn @ point_n
        for size in range(1, len(order) + 1):
            other_q, steep_qn = self.cut(order[:size])
            lower_q = other_q + steep_qn @ point_n < height_q - 1e-12
            constant_q[lower_q], slope_qn[lower_q] = other_q[lower_q], steep_qn[lower_q]
            height_q = np.minimum(height_q, other_q + steep_qn @ point_n)
        return constant_q, slope_qn

    def greedy(self) -> list[int]:
        """A first set for the cut loops; not counted in the time."""
        active: list[int] = []
        left = self.limit
        while True:
            gain_n = self.weights_q @ self.cut(active)[1]
            gain_n[self.cost_n > left] = 0.0
            best = int((gain_n / np.maximum(self.cost_n, 1)).argmax())
            if gain_n[best] <= 0.0:
                return active
            active.append(best)
            left -= int(self.cost_n[best])


@dataclass(frozen=True)
class Answer:
    """What a peer found.

    Args:
        active: The set.
        seconds: Inside the solver's own calls.
        finished: It proved a gap of 0 within the time limit.
    """

    active: list[int]
    seconds: float
    finished: bool


class Stopwatch:
    """Adds up the time inside a solver's calls."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.seconds = 0.0

    @property
    def left_s(self) -> float:
        """What the next call may take."""
        return max(self.limit_s - self.seconds, 0.01)

    @property
    def expired(self) -> bool:
        """Whether the limit was reached."""
        return self.seconds >= self.limit_s

    def time(self, call: Any, *args: Any) -> Any:
        """Call and add up."""
        start = time.perf_counter()
        try:
            return call(*args)
        finally:
            self.seconds += time.perf_counter() - start
