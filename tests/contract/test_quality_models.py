"""What every `QualityModel` promises to routing; each implementation, and the fake of the tests, runs this suite."""

from collections.abc import Callable

import numpy as np
import pytest

from optimizer.learning.learn import learn
from orchestrator.routing.model import AnnouncedModel, QualityModel
from orchestrator.wire import PROFILES
from tests.optimizer.evidence_maker import make_costs, make_evidence
from tests.orchestrator.routing.models import GivenModel, cascade, one, together

FEATURES = 5


def announced() -> QualityModel:
    return AnnouncedModel({"a": 0.9, "b": 0.95, "c": 0.5}, {"a": 0.1, "b": 1.0})


def learned() -> QualityModel:
    return learn(make_evidence(), make_costs())


def given() -> QualityModel:
    return GivenModel({one("a"): 0.9, cascade("a", "b", "c"): 0.95, together("a", "b"): 0.93})


@pytest.fixture(params=[announced, learned, given], ids=lambda make: make.__name__, scope="module")
def model(request: pytest.FixtureRequest) -> QualityModel:
    make: Callable[[], QualityModel] = request.param
    return make()


def queries() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.random.default_rng(9).normal(scale=3.0, size=(50, FEATURES))


def test_estimates_have_one_row_per_route(model: QualityModel) -> None:
    stages = max(len(route.stages) for route in model.routes)
    for x_f in queries():
        estimate = model.estimate(x_f)
        assert estimate.quality_r.shape == (len(model.routes),)
        assert estimate.reach_rs.shape[0] == len(model.routes)
        assert estimate.reach_rs.shape[1] >= stages


def test_quality_is_a_probability(model: QualityModel) -> None:
    for x_f in queries():
        quality_r = model.estimate(x_f).quality_r
        assert ((quality_r >= 0.0) & (quality_r <= 1.0)).all()


def test_the_first_stage_always_runs_later_ones_no_more_often_and_none_past_the_last(model: QualityModel) -> None:
    for x_f in queries():
        reach_rs = model.estimate(x_f).reach_rs
        assert (reach_rs[:, 0] == 1.0).all()
        assert (np.diff(reach_rs, axis=1) <= 0.0).all()
        for r, route in enumerate(model.routes):
            assert (reach_rs[r, len(route.stages) :] == 0.0).all()


def test_the_same_query_gets_the_same_estimate(model: QualityModel) -> None:
    x_f = queries()[0]
    first, second = model.estimate(x_f), model.estimate(x_f.copy())
    np.testing.assert_array_equal(first.quality_r, second.quality_r)
    np.testing.assert_array_equal(first.reach_rs, second.reach_rs)


def test_every_profile_has_a_price_and_a_pinned_route_exists(model: QualityModel) -> None:
    assert set(model.prices) == set(PROFILES)
    for name, price in model.prices.items():
        assert price.profile == name
        assert 0.0 <= price.price_per_j < np.inf
        assert price.pinned is None or 0 <= price.pinned < len(model.routes)


def test_thrift_rises_from_best_to_eco(model: QualityModel) -> None:
    prices = [model.prices[profile].expected_energy_j for profile in ("eco", "balanced", "best")]
    assert prices == sorted(prices)


def test_routes_are_told_apart(model: QualityModel) -> None:
    assert len(set(model.routes)) == len(model.routes)
    assert len({route.name for route in model.routes}) == len(model.routes)
