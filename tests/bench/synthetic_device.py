"""A device whose truth nobody but this file knows: power of each request on a grid of a millisecond.

Nothing here is shared with the estimator. Clients take turns: each asks, waits for its answer, thinks for a while,
asks again. Power of what runs together is the sum of the requests' powers times ``n ** -0.3`` (n^0.7 for equal ones),
on top of idle power that drifts. The sensor integrates the last 25 ms of every 100, shows the mean of them after a lag
of 50 to 300 ms, with noise and in steps, and is read at 10 Hz by a clock of its own.

Shape letters: n requests, t milliseconds, k readings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEP_S = 1e-3
PERIOD_S = 0.1
WINDOW_S = 0.025
CLASSES_W = (30.0, 50.0, 80.0, 110.0, 150.0)
IDLE_W = 20.0
REST_S = 3.0
EXPONENT = 0.7


@dataclass(frozen=True)
class Load:
    """What is asked of the device.

    Attributes:
        clients: Requests that run at once at most.
        recurring: True where a request's power is its arm's (and 2 % of its own); False where every request draws its
            power anew from 1x to 5x and its arm says nothing.
        saturating: False for power that goes with n^0.7; True for n / (1 + 0.12 (n - 1)), which is no power of n.
    """

    clients: int
    recurring: bool
    saturating: bool = False
    length_s: float = 60.0
    median_busy_s: float = 0.8
    mean_thinking_s: float = 0.3


@dataclass(frozen=True)
class Truth:
    """What happened, and what could be seen of it."""

    start_s_n: Floats
    end_s_n: Floats
    arm_n: Ints
    energy_j_n: Floats
    active_w_t: Floats
    idle_w_t: Floats
    read_s_k: Floats
    read_w_k: Floats
    lag_s: float


def simulate(load: Load, seed: int) -> Truth:
    """One run."""
    rng = np.random.default_rng(seed)
    start_s_n, end_s_n = _requests(load, rng)
    arm_n = rng.integers(0, len(CLASSES_W), len(start_s_n))
    alone_w_n = _powers(load, arm_n, rng)
    time_s_t = np.arange(0.0, load.length_s, STEP_S)
    count_t, sum_w_t = _together(start_s_n, end_s_n, alone_w_n, len(time_s_t))
    factor_t = _factor(count_t, load)
    spent_t = np.concatenate([[0.0], np.cumsum(factor_t) * STEP_S])
    first, last = _tick(start_s_n), _tick(end_s_n)
    energy_j_n = alone_w_n * (spent_t[last] - spent_t[first])
    idle_w_t = _idle(time_s_t, rng)
    active_w_t = sum_w_t * factor_t
    lag_s = float(rng.uniform(0.05, 0.3))
    read_s_k, read_w_k = _sense(active_w_t + idle_w_t, lag_s, rng)
    return Truth(
        np.asarray(first * STEP_S, dtype=np.float64),
        np.asarray(last * STEP_S, dtype=np.float64),
        arm_n,
        energy_j_n,
        active_w_t,
        idle_w_t,
        read_s_k,
        read_w_k,
        lag_s,
    )


def _requests(load: Load, rng: np.random.Generator) -> tuple[Floats, Floats]:
    starts: list[float] = []
    ends: list[float] = []
    for _ in range(load.clients):
        now_s = REST_S + rng.exponential(load.mean_thinking_s)
        while True:
            busy_s = load.median_busy_s * rng.lognormal(0.0, 0.6)
            if now_s + busy_s > load.length_s - 0.5:
                break
            starts.append(now_s)
            ends.append(now_s + busy_s)
            now_s += busy_s + rng.exponential(load.mean_thinking_s)
    order = np.argsort(starts)
    return np.array(starts)[order], np.array(ends)[order]


def _powers(load: Load, arm_n: Ints, rng: np.random.Generator) -> Floats:
    if load.recurring:
        return np.array(CLASSES_W)[arm_n] * rng.lognormal(0.0, 0.02, len(arm_n))
    return rng.uniform(CLASSES_W[0], CLASSES_W[-1], len(arm_n))


def _tick(time_s: Floats) -> Ints:
    return np.round(time_s / STEP_S).astype(np.int64)


def _together(start_s_n: Floats, end_s_n: Floats, alone_w_n: Floats, length: int) -> tuple[Floats, Floats]:
    """How many run at every millisecond, and the sum of their powers alone."""
    count_t, sum_w_t = np.zeros(length + 1), np.zeros(length + 1)
    np.add.at(count_t, _tick(start_s_n), 1.0)
    np.add.at(count_t, _tick(end_s_n), -1.0)
    np.add.at(sum_w_t, _tick(start_s_n), alone_w_n)
    np.add.at(sum_w_t, _tick(end_s_n), -alone_w_n)
    return np.cumsum(count_t)[:-1], np.cumsum(sum_w_t)[:-1]


def _factor(count_t: Floats, load: Load) -> Floats:
    """What is left of each request's power where so many share the device."""
    least_t = np.maximum(count_t, 1.0)
    factor_t = 1.0 / (1.0 + 0.12 * (least_t - 1.0)) if load.saturating else least_t ** (EXPONENT - 1.0)
    return np.where(count_t > 0, factor_t, 0.0)


def count(truth: Truth) -> tuple[Floats, Floats]:
    """Readings of an energy counter on the same device: ten a second, the same lag, steps of a millijoule."""
    spent_j = np.concatenate([[0.0], np.cumsum(truth.active_w_t + truth.idle_w_t) * STEP_S])
    until_s = truth.read_s_k - truth.lag_s
    energy_j = np.interp(until_s, np.arange(len(spent_j)) * STEP_S, spent_j)
    return truth.read_s_k, np.round(energy_j, 3)


def _idle(time_s_t: Floats, rng: np.random.Generator) -> Floats:
    wave = 0.1 * np.sin(2 * np.pi * (time_s_t / 47.0 + rng.random()))
    steps = rng.normal(0.0, 0.02, len(time_s_t) // 1000 + 2)
    walk = np.interp(time_s_t, np.arange(len(steps)), np.cumsum(steps) - steps[0])
    idle: Floats = IDLE_W * (1.0 + wave + walk)
    return np.maximum(idle, 5.0)


def _sense(power_w_t: Floats, lag_s: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    phase_s = rng.uniform(0.0, PERIOD_S)
    spent_j = np.concatenate([[0.0], np.cumsum(power_w_t) * STEP_S])
    until_s = np.arange(phase_s + PERIOD_S, len(power_w_t) * STEP_S, PERIOD_S)
    at = np.arange(len(spent_j)) * STEP_S
    mean_w = (np.interp(until_s, at, spent_j) - np.interp(until_s - WINDOW_S, at, spent_j)) / WINDOW_S
    shown_w = np.round(mean_w * rng.normal(1.0, 0.01, len(mean_w)), 1)
    # The reader's clock: 10 Hz, a phase of its own that keeps clear of the sensor's, a millisecond of jitter.
    offset_s = rng.uniform(0.01, 0.09)
    read_s = until_s + lag_s + offset_s + rng.normal(0.0, 1e-3, len(until_s)).clip(-5e-3, 5e-3)
    keep = read_s < len(power_w_t) * STEP_S
    return read_s[keep], shown_w[keep]
