"""Costs by size, learned from runs: rates, outliers, concurrency, coverage, change."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.errors import OptimizerError
from optimizer.online.usage import FORGETTING, HUBER, LEAST_AT_LEVEL, PRIOR_SIGMA, Usage

TRUTH = np.array([0.5, 0.002, 0.03])


def runs(seed: int, count: int, *, sigma: float = 0.1, truth: np.ndarray = TRUTH) -> list[tuple[list[float], float]]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        sizes = [float(rng.integers(10, 400)), float(rng.integers(1, 80))]
        cost = float(truth @ np.array([1.0, *sizes]) * rng.lognormal(0.0, sigma))
        made.append((sizes, cost))
    return made


@pytest.mark.parametrize("start", [(1.5, 0.006, 0.01), (0.1, 0.0, 0.1)])
def test_rates_come_to_the_truth_from_a_wrong_start(start: tuple[float, float, float]) -> None:
    usage = Usage(start)
    for sizes, cost in runs(0, 600):
        usage.observe(sizes, cost)
    errors = [abs(usage.forecast(sizes).mean / (TRUTH @ np.array([1.0, *sizes])) - 1.0) for sizes, _ in runs(1, 200)]
    assert float(np.mean(errors)) < 0.04
    assert float(np.max(errors)) < 0.12


def test_outliers_hardly_move_it() -> None:
    usage = Usage((0.5, 0.002, 0.03))
    rng = np.random.default_rng(2)
    for sizes, cost in runs(3, 600):
        usage.observe(sizes, cost * (10.0 if rng.random() < 0.1 else 1.0))
    errors = [usage.forecast(sizes).mean / (TRUTH @ np.array([1.0, *sizes])) - 1.0 for sizes, _ in runs(4, 200)]
    assert abs(float(np.mean(errors))) < 0.08


def test_the_interval_covers_what_it_says() -> None:
    usage = Usage((1.0, 0.001, 0.05), coverage=0.9)
    history = runs(5, 1500, sigma=0.3)
    covered = []
    for place, (sizes, cost) in enumerate(history):
        if place >= 300:
            told = usage.forecast(sizes)
            covered.append(told.low <= cost <= told.high)
        usage.observe(sizes, cost)
    assert 0.87 <= float(np.mean(covered)) <= 0.95


def test_company_costs_more_and_does_not_spoil_the_rates() -> None:
    usage = Usage(tuple(TRUTH))
    rng = np.random.default_rng(6)
    for sizes, cost in runs(7, 600):
        together = int(rng.integers(1, 9))
        usage.observe(sizes, cost * together**0.7, concurrency=together)
    assert usage.factor(1) == 1.0
    assert usage.factor(2) == pytest.approx(2.5**0.7, rel=0.2)
    assert usage.factor(8) == pytest.approx(8**0.7, rel=0.1)
    assert usage.forecast([100.0, 20.0]).mean == pytest.approx(1.3, rel=0.06)


def test_a_change_of_the_device_is_noticed_and_followed() -> None:
    usage = Usage(tuple(TRUTH))
    for sizes, cost in runs(8, 300):
        assert not usage.observe(sizes, cost)
    noticed = [usage.observe(sizes, cost) for sizes, cost in runs(9, 60, truth=1.6 * TRUTH)]
    assert any(noticed)
    assert noticed.index(True) <= 40
    assert usage.forecast([100.0, 20.0]).mean == pytest.approx(1.6 * 1.3, rel=0.08)


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_no_change(seed: int) -> None:
    usage = Usage(tuple(TRUTH))
    for sizes, cost in runs(100 + seed, 3000, sigma=0.35):
        usage.observe(sizes, cost)
    assert usage.changes == 0


def test_nonsense_is_passed_over() -> None:
    usage = Usage(tuple(TRUTH))
    for cost in (float("nan"), float("inf"), 0.0, -1.0):
        assert not usage.observe([10.0, 1.0], cost)
    assert usage.count == 0


@pytest.mark.parametrize("rates", [(), (0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0)])
def test_rates_that_mean_nothing_are_refused(rates: tuple[float, ...]) -> None:
    with pytest.raises(OptimizerError):
        Usage(rates)


@pytest.mark.parametrize("start", [(1.5, 0.006, 0.01), (0.1, 0.0, 0.1), (2.0, 0.004)])
def test_a_step_is_that_of_recursive_least_squares(start: tuple[float, ...]) -> None:
    """The same in matrices."""
    usage, rates_k = Usage(start), np.array(start)
    scale_k = np.where(rates_k > 0, rates_k, rates_k[rates_k > 0].min() * 1e-2)
    spread_kk = np.diag((PRIOR_SIGMA * scale_k) ** 2)
    residuals: list[float] = []
    for sizes, cost in runs(10, 250, sigma=0.2):
        sizes = sizes[: len(start) - 1]
        usage.observe(sizes, cost)
        predicted = float(rates_k @ np.array([1.0, *sizes]))
        share_k, residual = np.array([1.0, *sizes]) / predicted, cost / predicted - 1.0
        typical = max(1e-3, float(np.median(residuals))) if len(residuals) >= LEAST_AT_LEVEL else 0.5
        noise = typical**2 / min(1.0, HUBER * typical / max(abs(residual), 1e-12))
        gain_k = spread_kk @ share_k / (share_k @ spread_kk @ share_k + noise)
        rates_k = np.maximum(0.0, rates_k + gain_k * residual)
        spread_kk = (spread_kk - np.outer(gain_k, share_k @ spread_kk)) / FORGETTING
        most_k = (PRIOR_SIGMA * np.maximum(scale_k, rates_k)) ** 2
        shrink_k = np.sqrt(np.minimum(1.0, most_k / np.diag(spread_kk)))
        spread_kk = spread_kk * np.outer(shrink_k, shrink_k)
        residuals.append(abs(residual))
        assert usage.changes == 0
        assert usage.rates == pytest.approx(tuple(rates_k), rel=1e-9, abs=1e-15)
