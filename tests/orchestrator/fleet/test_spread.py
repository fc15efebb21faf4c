"""How far apart nodes are to come back."""

from __future__ import annotations

import pytest

from orchestrator.fleet.spread import MOST_S, is_stale, spread_s


@pytest.mark.parametrize(
    ("nodes", "seconds"), [(0, 0.0), (5, 0.1), (20, 0.4), (200, 4.0), (500, 10.0), (10_000, MOST_S)]
)
def test_a_small_fleet_comes_back_at_once_and_a_large_one_within_ten_seconds(nodes: int, seconds: float) -> None:
    assert spread_s(nodes) == pytest.approx(seconds)


def test_a_fleet_that_joins_node_by_node_is_told_a_few_times_and_not_for_every_node() -> None:
    told_s, count = spread_s(1), 0
    for nodes in range(1, 201):
        if is_stale(told_s, spread_s(nodes)):
            told_s, count = spread_s(nodes), count + 1
    assert 0.8 * spread_s(200) <= told_s <= spread_s(200)
    assert 5 < count < 30
