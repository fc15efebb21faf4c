from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from optimizer.deciding.choose import Binding, Limits, Price, choose
from optimizer.deciding.promise import Offer

FREE = Price()


def offer() -> Offer:
    """Three routes: cheap and weak, middling, dear and strong; the last one twice as slow."""
    return Offer(
        quality_r=np.array([0.8, 0.9, 0.95]),
        energy_r=np.array([1.0, 10.0, 100.0]),
        energy_bound_r=np.array([2.0, 20.0, 200.0]),
        latency_r=np.array([1.0, 2.0, 4.0]),
        latency_bound_r=np.array([3.0, 6.0, 12.0]),
        available_r=np.array([True, True, True]),
    )


def test_without_limits_and_price_quality_wins() -> None:
    choice = choose(offer(), limits=Limits(), price=FREE)
    assert (choice.index, choice.runner_up, choice.binding) == (2, 1, Binding.NONE)
    assert choice.fallback is None


def test_joules_and_milliseconds_have_their_price() -> None:
    assert choose(offer(), limits=Limits(), price=Price(per_j=0.001)).index == 1
    assert choose(offer(), limits=Limits(), price=Price(per_j=1.0)).index == 0
    assert choose(offer(), limits=Limits(), price=Price(per_ms=0.03)).index == 1


def test_limits_are_held_against_the_bounds_and_named() -> None:
    by_energy = choose(offer(), limits=Limits(energy_j=100.0), price=FREE)
    assert (by_energy.index, by_energy.binding) == (1, Binding.ENERGY)
    by_time = choose(offer(), limits=Limits(latency_ms=11.9), price=FREE)
    assert (by_time.index, by_time.binding) == (1, Binding.LATENCY)
    assert choose(offer(), limits=Limits(200.0, 12.0), price=FREE).index == 2
    both = choose(offer(), limits=Limits(energy_j=199.0, latency_ms=6.0), price=FREE)
    assert both.binding is Binding.LATENCY


def test_a_missing_node_is_named() -> None:
    without_best = replace(offer(), available_r=np.array([True, True, False]))
    choice = choose(without_best, limits=Limits(), price=FREE)
    assert (choice.index, choice.binding) == (1, Binding.AVAILABILITY)


def test_unknown_figures_of_unavailable_routes_do_no_harm() -> None:
    unknown = replace(offer(), energy_r=np.array([1.0, 10.0, np.nan]), available_r=np.array([True, True, False]))
    assert choose(unknown, limits=Limits(), price=Price(per_j=0.001)).index == 1


def test_a_pinned_route_wins_where_it_fits_and_only_there() -> None:
    pinned = Price(pinned=1)
    free = choose(offer(), limits=Limits(), price=pinned)
    assert (free.index, free.runner_up, free.binding) == (1, 2, Binding.NONE)
    tight = choose(offer(), limits=Limits(energy_j=2.0), price=pinned)
    assert (tight.index, tight.binding) == (0, Binding.ENERGY)


def test_equal_scores_go_to_fewer_joules_then_to_the_lower_index() -> None:
    tied = replace(offer(), quality_r=np.array([0.9, 0.9, 0.9]), energy_r=np.array([5.0, 1.0, 1.0]))
    assert choose(tied, limits=Limits(), price=FREE).index == 1


def test_when_nothing_fits_the_smallest_budget_is_told_and_would_do() -> None:
    choice = choose(offer(), limits=Limits(energy_j=1.0, latency_ms=6.0), price=FREE)
    assert choice.index is None
    assert choice.runner_up is None
    fallback = choice.fallback
    assert fallback is not None
    assert (fallback.cheapest, fallback.least_overrun) == (0, 0)
    told = Limits(energy_j=fallback.min_energy_j, latency_ms=fallback.min_latency_ms)
    assert choose(offer(), limits=told, price=FREE).index == 0


def test_no_time_at_all_tells_the_fastest() -> None:
    fast_but_dear = replace(offer(), latency_bound_r=np.array([3.0, 6.0, 0.5]))
    fallback = choose(fast_but_dear, limits=Limits(latency_ms=0.0), price=FREE).fallback
    assert fallback is not None
    assert (fallback.min_energy_j, fallback.min_latency_ms) == (200.0, 0.5)


def test_least_overrun_weighs_both_limits() -> None:
    tight = replace(offer(), energy_bound_r=np.array([9.0, 3.0, 4.0]), latency_bound_r=np.array([1.0, 8.0, 3.0]))
    fallback = choose(tight, limits=Limits(energy_j=2.0, latency_ms=2.0), price=FREE).fallback
    assert fallback is not None
    assert fallback.least_overrun == 2


def test_nothing_available_is_said_as_such() -> None:
    gone = replace(offer(), available_r=np.zeros(3, dtype=bool))
    choice = choose(gone, limits=Limits(), price=FREE)
    assert (choice.index, choice.binding, choice.fallback) == (None, Binding.AVAILABILITY, None)


@pytest.mark.parametrize("seed", range(20))
def test_choose_agrees_with_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 30
    energy_r, latency_r = rng.random(n), rng.random(n)
    made = Offer(rng.random(n), energy_r, 2 * energy_r, latency_r, 2 * latency_r, rng.random(n) < 0.8)
    limits, price = Limits(energy_j=1.2, latency_ms=1.0), Price(per_j=0.3, per_ms=0.1)
    fitting = [r for r in range(n) if made.available_r[r] and 2 * energy_r[r] <= 1.2 and 2 * latency_r[r] <= 1.0]
    ranked = sorted(fitting, key=lambda r: -(made.quality_r[r] - 0.3 * energy_r[r] - 0.1 * latency_r[r]))
    choice = choose(made, limits=limits, price=price)
    assert [choice.index, choice.runner_up] == ranked[:2]
    assert np.flatnonzero(choice.feasible_r).tolist() == fitting


@pytest.mark.parametrize("seed", range(200))
def test_the_only_route_is_taken_as_beside_one_that_is_not_there(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {field.name: rng.random(2) for field in fields(Offer)}
    for name in rng.choice(list(columns), int(rng.integers(3)), replace=False):
        columns[name][0] = rng.choice([np.nan, np.inf, -np.inf])
    columns["available_r"] = np.array([rng.random() < 0.8, False])
    both, only = Offer(**columns), Offer(**{name: column[:1] for name, column in columns.items()})
    limits = Limits(*(None if rng.random() < 0.3 else float(rng.random()) for _ in range(2)))
    price = Price(0.3, float(rng.choice([0.0, 0.1])), pinned=0 if rng.random() < 0.3 else None)
    with np.errstate(invalid="ignore"):
        mine, other = (choose(made, limits=limits, price=price) for made in (only, both))
        np.testing.assert_array_equal(mine.score_r, other.score_r[:1])
    assert (mine.index, mine.runner_up) == (other.index, other.runner_up)
    # Not a number is no other number than itself.
    assert repr(mine.fallback) == repr(other.fallback)
    np.testing.assert_array_equal(mine.feasible_r, other.feasible_r[:1])
