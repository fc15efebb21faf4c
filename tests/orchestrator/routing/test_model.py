"""What is known before anything was learned."""

import numpy as np
import pytest

from orchestrator.routing.model import ANNOUNCED_SACRIFICE, AnnouncedModel


def test_every_expert_is_a_route_of_the_quality_that_it_announced() -> None:
    model = AnnouncedModel({"large": 0.95, "small": 0.9}, {"large": 1.0, "small": 0.1})
    assert [route.name for route in model.routes] == ["large", "small"]
    for query in (np.zeros(64), np.ones(64)):
        estimate = model.estimate(query)
        assert estimate.quality_r.tolist() == [0.95, 0.9]
        assert estimate.reach_rs.tolist() == [[1.0], [1.0]]


def test_prices_spread_the_sacrifice_over_the_span_of_joules() -> None:
    model = AnnouncedModel({"large": 0.95, "small": 0.9}, {"large": 1.0, "small": 0.5})
    for profile, sacrifice in ANNOUNCED_SACRIFICE.items():
        assert model.prices[profile].price_per_j == pytest.approx(sacrifice / 0.5)
    assert model.prices["best"].expected_quality == 0.95
    assert model.prices["best"].expected_energy_j == 1.0


@pytest.mark.parametrize("energies", [{}, {"small": 0.1, "large": 0.1}], ids=["unknown", "equal"])
def test_joules_that_tell_nothing_apart_cost_nothing(energies: dict[str, float]) -> None:
    model = AnnouncedModel({"large": 0.95, "small": 0.9}, energies)
    assert {price.price_per_j for price in model.prices.values()} == {0.0}
    assert {price.expected_quality for price in model.prices.values()} == {0.95}


def test_no_experts_is_no_error() -> None:
    model = AnnouncedModel({}, {})
    assert model.routes == ()
    assert model.prices["balanced"].price_per_j == 0.0
