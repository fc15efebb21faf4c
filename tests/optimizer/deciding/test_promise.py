"""What routes promise: one route's numbers are those of arrays."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.deciding.promise import Offer, OnlyOffer, Promise

QUALITY_R = np.array([0.9])
ARRAYS = "quality_r", "energy_r", "energy_bound_r", "latency_r", "latency_bound_r", "available_r"


@pytest.mark.parametrize("available", [True, False])
def test_the_only_route_is_offered_as_one_among_many(*, available: bool) -> None:
    only = OnlyOffer(QUALITY_R, Promise(1.0, np.inf, 3.0, 4.0), available=available)
    whole = Offer(
        QUALITY_R, np.array([1.0]), np.array([np.inf]), np.array([3.0]), np.array([4.0]), np.array([available])
    )
    for name in ARRAYS:
        mine, other = getattr(only, name), getattr(whole, name)
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype == other.dtype
    assert only.promise(0) == whole.promise(0)
    assert only.available(0) is whole.available(0) is available


def test_an_offer_where_other_routes_are_available_promises_the_same() -> None:
    only = OnlyOffer(QUALITY_R, Promise(1.0, 2.0, 3.0, 4.0), available=False)
    there = only.where(np.array([True]))
    assert there.available(0)
    assert not only.available(0)
    assert there.promise(0) == only.promise(0)
