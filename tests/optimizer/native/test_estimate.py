"""The compiled estimate is what heads and links say."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from optimizer.deciding.model import Links
from optimizer.heads.head import HeadBank
from optimizer.native.estimate import Estimator
from optimizer.native.library import available

pytestmark = pytest.mark.skipif(not available(), reason="not run: the compiled part is not built")


def make(seed: int, *, stages: int) -> tuple[HeadBank, Links]:
    rng = np.random.default_rng(seed)
    experts, features, routes = int(rng.integers(1, 9)), int(rng.integers(1, 70)), int(rng.integers(1, 40))
    heads = HeadBank(rng.normal(size=(experts, features)), rng.normal(size=experts))
    reach_bias_rs = rng.normal(size=(routes, stages))
    reach_bias_rs[:, 0] = np.inf
    for r, last in enumerate(rng.integers(1, stages + 1, size=routes)):
        reach_bias_rs[r, last:] = -np.inf
    weights = rng.normal(size=(routes, experts)), rng.normal(size=(routes, stages, experts))
    return heads, Links(weights[0], rng.normal(size=routes), weights[1], reach_bias_rs)


def compiled(heads: HeadBank, links: Links) -> Estimator:
    return Estimator((heads.weights_ef, heads.bias_e), links.halved, routes=len(links.quality_bias_r))


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("seed", range(12))
def test_it_is_what_numpy_says(seed: int, stages: int) -> None:
    heads, links = make(seed, stages=stages)
    estimator = compiled(heads, links)
    for x_f in np.random.default_rng(seed).normal(scale=5.0, size=(6, heads.weights_ef.shape[1])).astype(np.float32):
        expected = links.estimate(heads.log_odds(x_f))
        quality_r, reach_rs = estimator(x_f)
        np.testing.assert_allclose(quality_r, expected.quality_r, rtol=0.0, atol=1e-12)
        np.testing.assert_allclose(reach_rs, expected.reach_rs, rtol=0.0, atol=1e-12)
        assert (np.diff(reach_rs, axis=1) <= 0.0).all()


def test_what_it_gave_stays_when_it_is_asked_again() -> None:
    heads, links = make(3, stages=2)
    estimator = compiled(heads, links)
    first, _ = estimator(np.ones(heads.weights_ef.shape[1]))
    before = first.copy()
    estimator(-np.ones(heads.weights_ef.shape[1]))
    np.testing.assert_array_equal(first, before)


def test_another_number_of_features_is_refused() -> None:
    heads, links = make(4, stages=2)
    with pytest.raises(ValueError, match="features"):
        compiled(heads, links)(np.ones(heads.weights_ef.shape[1] + 1))


def test_it_travels_to_another_process() -> None:
    heads, links = make(5, stages=2)
    estimator, x_f = compiled(heads, links), np.ones(heads.weights_ef.shape[1])
    # Only what this test has just made is read.
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again(x_f)[0], estimator(x_f)[0])
