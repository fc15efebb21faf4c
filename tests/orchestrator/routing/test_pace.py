"""How a long-run budget takes part in one decision."""

import math
from dataclasses import replace

import numpy as np

from optimizer.deciding.choose import Limits, Price
from optimizer.deciding.promise import Offer
from orchestrator.longrun import LongRun, PacingRecord
from orchestrator.routing.pace import Pace, choose_paced, dearer

RECORD = PacingRecord(LongRun(average_energy_j=1.0), "held", 0.0, 1.0, 0.0, 1.0, 0)
NO_LIMITS = Limits()


def pace(price_per_j: float = 0.0, headroom_j: float = 1e9) -> Pace:
    return Pace(price_per_j, headroom_j, RECORD)


def offer(**fields: object) -> Offer:
    """Three routes: cheap and weak, middling, dear and strong."""
    whole = Offer(
        quality_r=np.array([0.8, 0.9, 0.95]),
        energy_r=np.array([1.0, 10.0, 100.0]),
        energy_bound_r=np.array([2.0, 20.0, 200.0]),
        latency_r=np.array([1.0, 2.0, 4.0]),
        latency_bound_r=np.array([3.0, 6.0, 12.0]),
        available_r=np.array([True, True, True]),
    )
    return replace(whole, **fields)  # type: ignore[arg-type]


def test_the_dearer_price_wins_and_unpins() -> None:
    profile = Price(per_j=0.1, per_ms=0.2, pinned=1)
    assert dearer(profile, pace(0.05)) == profile
    assert dearer(profile, pace(0.3)) == Price(per_j=0.3, per_ms=0.2, pinned=None)


def test_within_the_headroom_nothing_changes() -> None:
    assert choose_paced(offer(), limits=NO_LIMITS, price=Price(), pace=pace()).index == 2


def test_beyond_the_headroom_the_best_within_it_is_taken() -> None:
    assert choose_paced(offer(), limits=NO_LIMITS, price=Price(), pace=pace(headroom_j=50.0)).index == 1
    assert choose_paced(offer(), limits=Limits(energy_j=2.0), price=Price(), pace=pace(headroom_j=50.0)).index == 0


def test_with_no_headroom_at_all_requests_still_flow_at_the_fewest_joules() -> None:
    assert choose_paced(offer(), limits=NO_LIMITS, price=Price(), pace=pace(headroom_j=-5.0)).index == 0


def test_the_requests_own_limits_always_hold() -> None:
    slow_is_cheap = offer(latency_bound_r=np.array([99.0, 6.0, 12.0]))
    choice = choose_paced(slow_is_cheap, limits=Limits(latency_ms=50.0), price=Price(), pace=pace(headroom_j=-5.0))
    assert choice.index == 1
    nothing = choose_paced(offer(), limits=Limits(energy_j=1.0), price=Price(), pace=pace())
    assert nothing.index is None
    assert nothing.fallback is not None


def test_unknown_joules_are_beyond_every_headroom() -> None:
    unknown = offer(energy_r=np.array([0.0, 10.0, 100.0]), energy_bound_r=np.array([math.inf, 20.0, 200.0]))
    best_unknown = replace(unknown, quality_r=np.array([0.99, 0.9, 0.95]))
    assert choose_paced(best_unknown, limits=NO_LIMITS, price=Price(), pace=pace()).index == 2
    assert choose_paced(best_unknown, limits=NO_LIMITS, price=Price(), pace=pace(headroom_j=-1.0)).index == 1
    only_unknown = replace(best_unknown, available_r=np.array([True, False, False]))
    assert choose_paced(only_unknown, limits=NO_LIMITS, price=Price(), pace=pace()).index == 0
