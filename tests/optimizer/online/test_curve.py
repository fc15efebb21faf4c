from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.online.curve import SpendCurve, climb

WINDOW = 256


def spend_at(quality_qr: np.ndarray, energy_qr: np.ndarray, price: float) -> float:
    """Mean joules of the argmax at a price; equal scores go to fewer joules, as in `choose`."""
    score_qr = quality_qr - price * energy_qr
    tied_qr = score_qr >= score_qr.max(axis=1, keepdims=True) - 1e-9
    return float(np.where(tied_qr, energy_qr, np.inf).min(axis=1).mean())


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 9), st.floats(1e-3, 10.0))
def test_steps_are_what_the_argmax_climbs(seed: int, queries: int, routes: int, price: float) -> None:
    rng = np.random.default_rng(seed)
    quality_qr, energy_qr = rng.random((queries, routes)), rng.random((queries, routes)) + 0.01
    climbed = climb(quality_qr, energy_qr, np.zeros(queries))
    taken_s = climbed.slope_s > price
    spent_j = climbed.base_q.mean() + climbed.extra_s[taken_s].sum() / queries
    assert spent_j == pytest.approx(spend_at(quality_qr, energy_qr, price))


def filled(quality_qr: np.ndarray, energy_qr: np.ndarray, *, floor: float = 0.0) -> SpendCurve:
    curve = SpendCurve(window=WINDOW)
    for quality_r, energy_r in zip(quality_qr, energy_qr, strict=True):
        curve.add(quality_r, energy_r, floor)
    return curve


@given(st.integers(0, 10_000), st.lists(st.floats(0.0, 2.0), min_size=2, max_size=6))
def test_price_falls_as_the_target_rises(seed: int, targets: list[float]) -> None:
    rng = np.random.default_rng(seed)
    curve = filled(rng.random((WINDOW, 5)), rng.random((WINDOW, 5)))
    prices = [curve.read(target).price_per_j for target in sorted(targets)]
    assert prices == sorted(prices, reverse=True)
    assert curve.read(0.0).price_per_j == prices[0] or min(targets) > curve.read(0.0).base_j


def test_read_agrees_with_the_argmax() -> None:
    rng = np.random.default_rng(1)
    quality_qr, energy_qr = rng.random((WINDOW, 5)), rng.random((WINDOW, 5))
    curve = filled(quality_qr, energy_qr)
    for target_j in (0.25, 0.3, 0.4):
        reading = curve.read(target_j)
        upper, lower = (spend_at(quality_qr, energy_qr, p) for p in (reading.price_per_j, reading.lower_per_j))
        assert upper <= target_j <= lower
        assert upper + reading.lower_share * (lower - upper) == pytest.approx(target_j)
    assert reading.full_j == pytest.approx(spend_at(quality_qr, energy_qr, 0.0))
    assert reading.base_j == pytest.approx(energy_qr.min(axis=1).mean())


def test_options_that_are_out_and_queries_without_any_do_not_count() -> None:
    quality_qr = np.array([[0.5, 0.9, -np.inf], [-np.inf, -np.inf, -np.inf]] * (WINDOW // 2))
    energy_qr = np.array([[1.0, 2.0, 0.0], [7.0, 7.0, 7.0]] * (WINDOW // 2))
    reading = filled(quality_qr, energy_qr).read(1.5)
    assert (reading.base_j, reading.full_j) == (1.0, 2.0)
    assert (reading.price_per_j, reading.lower_per_j) == pytest.approx((0.408, 0.392))
    assert reading.lower_share == pytest.approx(0.5)


def test_a_window_without_any_option_is_not_ready() -> None:
    curve = filled(np.full((WINDOW, 2), -np.inf), np.ones((WINDOW, 2)))
    assert not curve.ready


def test_steps_below_a_querys_own_price_are_not_spent() -> None:
    quality_qr, energy_qr = np.array([[0.5, 0.9, 0.95]] * WINDOW), np.array([[1.0, 2.0, 3.0]] * WINDOW)
    assert filled(quality_qr, energy_qr, floor=0.1).read(9.0).full_j == 2.0
    assert filled(quality_qr, energy_qr, floor=0.01).read(9.0).full_j == 3.0


def test_the_number_of_routes_may_change() -> None:
    curve = SpendCurve(window=WINDOW)
    for q in range(WINDOW):
        wide = q % 2 == 0
        curve.add(np.array([0.5, 0.9] if wide else [0.5]), np.array([1.0, 3.0] if wide else [1.0]))
    assert curve.read(9.0).full_j == 2.0


def test_old_queries_are_forgotten() -> None:
    curve = filled(np.array([[0.5, 0.9]] * WINDOW), np.array([[1.0, 2.0]] * WINDOW))
    for _ in range(2 * WINDOW):
        curve.add(np.array([0.5, 0.9]), np.array([10.0, 20.0]))
    assert curve.read(99.0).full_j == 20.0
