"""The conformal bound: it covers, it waits for enough evidence, it follows drift."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.routing.margins import CHANCE, REFRESH_EVERY, ConformalBound

# The bound is refreshed every few observations: what came since may move it by that many ranks.
LAG = REFRESH_EVERY


def test_the_prior_holds_until_the_quantile_exists() -> None:
    bound = ConformalBound(quantile=0.9, prior=5.0)
    assert bound.bound == 5.0
    assert math.isnan(bound.typical)
    for _ in range(8):
        bound.observe(1.0)
    assert (bound.count, bound.bound, bound.typical) == (8, 5.0, 1.0)
    for _ in range(REFRESH_EVERY):
        bound.observe(1.0)
    assert bound.bound == 1.0


def test_an_observation_above_the_prior_raises_the_bound_at_once() -> None:
    bound = ConformalBound(quantile=0.99, prior=5.0)
    assert bound.observe(7.0)
    assert bound.bound == 7.0


def test_the_bound_is_the_conformal_rank() -> None:
    """With n = 99 and q = 0.9 the rank is ceil(100 * 0.9) = 90."""
    bound = ConformalBound(quantile=0.9, prior=1e9)
    for value in np.random.default_rng(3).permutation(np.arange(1.0, 97.0)):
        bound.observe(float(value))
    # 96 observations, the last refresh saw all of them (96 is a multiple of the refresh interval): ceil(97 * 0.9).
    assert bound.bound == 88.0
    assert bound.typical == 49.0


@pytest.mark.parametrize("quantile", [0.9, 0.99])
@pytest.mark.parametrize("kind", ["lognormal", "pareto", "uniform"])
def test_exchangeable_draws_are_covered(quantile: float, kind: str) -> None:
    rng = np.random.default_rng(7)
    draws = {
        "lognormal": rng.lognormal(0.0, 0.5, 6000),
        "pareto": rng.pareto(2.0, 6000),
        "uniform": rng.uniform(size=6000),
    }[kind]
    bound = ConformalBound(quantile=quantile, prior=3.0)
    covered = 0
    for n, value in enumerate(draws):
        covered += n >= 1000 and value <= bound.bound
        bound.observe(float(value))
    share = covered / (len(draws) - 1000)
    # 3 standard deviations of 5000 draws, and the ranks that the refresh lags behind.
    slack = 3.0 * math.sqrt(quantile * (1.0 - quantile) / 5000) + LAG / 1024
    assert quantile - slack <= share <= quantile + slack


def test_the_bound_follows_drift_once_the_window_has_moved() -> None:
    bound = ConformalBound(quantile=0.9, prior=1.0, window=64)
    for value in [1.0] * 64 + [10.0] * 64:
        bound.observe(value)
    assert bound.bound == bound.typical == 10.0
    for value in [1.0] * 64:
        bound.observe(value)
    assert bound.bound == bound.typical == 1.0


def test_a_value_above_the_bound_is_noticed_before_the_next_refresh() -> None:
    bound = ConformalBound(quantile=0.9, prior=1.0)
    for _ in range(16):
        bound.observe(1.0)
    assert not bound.observe(0.5)
    assert bound.observe(2.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(min_value=0.0, max_value=1e6), min_size=1, max_size=80),
    st.floats(min_value=0.5, max_value=0.999),
    st.floats(min_value=0.0, max_value=10.0),
)
def test_bound_is_never_below_the_quantile_of_what_was_seen(values: list[float], quantile: float, prior: float) -> None:
    bound = ConformalBound(quantile=quantile, prior=prior, window=128)
    for n, value in enumerate(values, start=1):
        if bound.observe(value):
            seen = np.sort(values[:n])
            rank = math.ceil((n + 1) * quantile)
            assert bound.bound == (seen[rank - 1] if rank <= n else max(prior, seen[-1]))


@pytest.mark.parametrize("window", [5, 64, 100])
def test_the_figures_are_those_of_the_newest_observations(window: int) -> None:
    """By the definitions, with everything sorted anew; also after what was seen was forgotten."""
    rng, bound = np.random.default_rng(5), ConformalBound(quantile=0.9, prior=0.0, window=window)
    seen: list[float] = []
    for n in range(3 * window):
        if n == 2 * window:
            bound.forget()
            seen.clear()
        seen.append(float(rng.integers(0, 40)))
        if not bound.observe(seen[-1]):
            continue
        held = np.sort(seen[-window:])
        rank, enough = math.ceil((held.size + 1) * 0.9), held.size - 1 - math.ceil(CHANCE * held.size * (1.0 - 0.9))
        assert bound.typical == held[held.size // 2]
        assert bound.confirmed == (held[enough] if enough >= 0 else 0.0)
        if rank <= held.size:
            assert bound.bound == held[rank - 1]


def test_what_is_no_number_counts_as_endless_until_it_leaves() -> None:
    bound = ConformalBound(quantile=0.9, prior=1.0, window=16)
    for value in [math.nan, *[1.0] * 15]:
        bound.observe(value)
    assert bound.bound == math.inf
    for _ in range(16):
        bound.observe(1.0)
    assert bound.bound == bound.typical == 1.0
