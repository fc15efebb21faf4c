from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.online.margin import AdaptiveBound, Margins, Normaliser

ALPHAS = (0.01, 0.05)


def missed_fraction(scores: np.ndarray, alpha: float, *, delay: int = 0) -> float:
    """Share of scores beyond the bound that was in force `delay` scores earlier."""
    bound = AdaptiveBound(alpha=alpha, prior=10.0)
    promised = [bound.bound] * (delay + 1)
    for score in scores:
        bound.observe(float(score), bound=promised.pop(0))
        promised.append(bound.bound)
    assert bound.count == len(scores)
    return bound.misses / bound.count


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("seed", range(3))
def test_exchangeable_scores_are_covered_and_not_much_more(alpha: float, seed: int) -> None:
    missed = missed_fraction(np.random.default_rng(seed).lognormal(0.0, 0.5, 20_000), alpha)
    assert 0.5 * alpha <= missed <= 1.05 * alpha


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("seed", range(3))
def test_drifting_scores_are_covered(alpha: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = np.exp(np.cumsum(rng.normal(0.0, 0.005, 40_000)))
    assert missed_fraction(scale * rng.lognormal(0.0, 0.5, 40_000), alpha) <= 1.1 * alpha


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_jump_is_covered_in_the_long_run(alpha: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.lognormal(0.0, 0.5, 40_000) * np.where(np.arange(40_000) < 20_000, 1.0, 4.0)
    assert missed_fraction(scores, alpha, delay=20) <= 1.15 * alpha


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(ALPHAS), st.integers(1, 400))
def test_the_guarantee_holds_for_any_stream(seed: int, alpha: float, period: int) -> None:
    """Streams made to hurt: long quiet, then the worst, over and over."""
    rng = np.random.default_rng(seed)
    scores = np.where(np.arange(6000) % (2 * period) < period, rng.random(6000), 3.0 + rng.random(6000))
    # B = 4, u <= 4, v = LEAST_UNIT = 0.05, GAIN = 0.1: see the class.
    assert missed_fraction(scores, alpha) <= alpha + (4.0 + 0.4) / (0.1 * 0.05 * 6000)


def test_before_anything_is_known_the_prior_holds() -> None:
    bound = AdaptiveBound(alpha=0.01, prior=3.0)
    assert bound.bound == 3.0
    bound.observe(1.0, bound=3.0)
    assert bound.bound == 3.0
    bound.observe(5.0, bound=3.0)
    assert bound.bound >= 5.0


def test_old_scores_are_forgotten() -> None:
    bound = AdaptiveBound(alpha=0.05, prior=1.0, window=100)
    for score in [9.0] * 100 + [1.0] * 5000:
        bound.observe(score, bound=bound.bound)
    assert bound.bound == pytest.approx(1.0)


def test_scores_are_measured_in_units_of_the_load() -> None:
    normal = Normaliser(predicted_ms=100.0, spread_ms=20.0)
    assert normal.score(140.0) == 2.0
    assert normal.bound_ms(2.0) == 140.0


def test_keys_share_until_they_have_shown_enough() -> None:
    margins = Margins(alpha=0.05, prior=2.0)
    assert margins.bound("a") == 2.0
    assert math.isnan(margins.miss_fraction)
    rng = np.random.default_rng(0)
    for _ in range(200):
        margins.observe("a", float(rng.uniform(0.0, 1.0)), bound=margins.bound("a"))
    assert margins.bound("b") == pytest.approx(1.0, abs=0.1)
    for _ in range(200):
        margins.observe("b", float(rng.uniform(5.0, 6.0)), bound=margins.bound("b"))
    assert margins.bound("b") > 5.5
    assert margins.bound("a") < 1.5
    assert 0.0 < margins.miss_fraction < 0.3
