"""A long table that follows what changed offers, bit for bit, what one that is made anew offers; and so do the parts
of a decision that leave routes out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.deciding.choose import Fallback, Limits, choose, narrowed
from optimizer.deciding.choose import Price as ChoicePrice
from optimizer.deciding.promise import Offer
from optimizer.online.pacing import Allowance, Pacer
from orchestrator.fleet import changes
from orchestrator.fleet.arms import ArmBoard
from orchestrator.residency import Residency
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Wish, route
from orchestrator.routing.table import LONG_ROUTES, RouteTable
from tests.orchestrator.builders import Clock, an_arm, limits
from tests.orchestrator.routing.models import GivenModel, cascade, one, together

NODES = 80
MODEL = GivenModel(
    {
        one("small"): 0.8,
        one("large"): 0.9,
        cascade("small", "large"): 0.88,
        together("small", "large"): 0.91,
    },
    reach={cascade("small", "large"): [1.0, 0.3]},
    price_per_j={"balanced": 0.2},
)
PLAN = Plan("p", MODEL, None, NO_CERTIFICATE)
# Every route is one arm and every arm one route: those tables have a way of their own.
SINGLES = GivenModel({one("small"): 0.8, one("large"): 0.9}, price_per_j={"balanced": 0.2})
LONE = Plan("p", SINGLES, None, NO_CERTIFICATE)
NOTHING = np.zeros(0)


def a_fleet(seed: int, plan: Plan = PLAN) -> tuple[ArmBoard, RouteTable]:
    rng = np.random.default_rng(seed)
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, clock=Clock())
    for n in range(NODES):
        p50_ms = float(rng.uniform(1.0, 40.0))
        arms = [
            an_arm("small", f"n{n}", energy_j=float(rng.uniform(0.01, 0.1)), p50_ms=p50_ms, p95_ms=2.0 * p50_ms),
            an_arm("large", f"n{n}", energy_j=float(rng.uniform(0.1, 1.0)), p50_ms=3.0 * p50_ms, p95_ms=5.0 * p50_ms),
        ]
        board.announce(f"n{n}", arms, int(rng.integers(1, 4)))
    return board, plan.table(board.arms("digits"), board)


def happen(board: ArmBoard, rng: np.random.Generator, held: list[tuple[int, float]]) -> None:
    """Something changes on the board."""
    arm, kind = int(rng.integers(2 * NODES)), rng.integers(7)
    if kind == 0 or not held:
        held.append((arm, board.dispatched(arm)))
    elif kind == 1:
        board.released(*held.pop(int(rng.integers(len(held)))))
    elif kind == 2:
        board.set_routable(f"n{arm // 2}", bool(rng.integers(2)))
    elif kind == 3:
        # Some of them again and again, so that what was unloaded is loaded, too.
        state = "loaded" if rng.integers(2) else "unloaded"
        load_ms, load_j = float(rng.uniform(1.0, 900.0)), float(rng.uniform(0.0, 5.0))
        board.set_residency(arm % 8, Residency(state, load_ms=load_ms, load_j=load_j))
    elif kind == 4:
        # Of as many arms as not, more than once: queues stand, and stand no more.
        board.turned_away(rng.permutation(2 * NODES)[:NODES], 0.0)
    else:
        board.answered(arm, service_ms=float(rng.uniform(1.0, 200.0)), energy_j=float(rng.uniform(0.01, 2.0)))


def same_offer(one_offer: Offer, other: Offer) -> None:
    for name in ("quality_r", "energy_r", "energy_bound_r", "latency_r", "latency_bound_r", "available_r"):
        np.testing.assert_array_equal(getattr(one_offer, name), getattr(other, name), err_msg=name)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), between=st.integers(1, 60), plan=st.sampled_from((PLAN, LONE)))
def test_following_changes_is_the_same_as_looking_at_everything(seed: int, between: int, plan: Plan) -> None:
    board, table = a_fleet(seed, plan)
    assert len(table.bound) >= LONG_ROUTES
    rng, held = np.random.default_rng((seed, 1)), list[tuple[int, float]]()
    kept: list[tuple[Offer, Offer]] = []
    for _ in range(12):
        for _ in range(between):
            happen(board, rng, held)
        fresh = RouteTable(table.bound, board)
        asked = limits(energy_j=float(rng.uniform(0.05, 3.0)), latency_ms=float(rng.uniform(5.0, 500.0)))
        mine = route(NOTHING, plan=plan, table=table, limits=asked, wish=Wish())
        other = route(NOTHING, plan=plan, table=fresh, limits=asked, wish=Wish())
        same_offer(mine.offer, other.offer)
        assert mine.index == other.index
        assert table.unloaded_ms().tolist() == fresh.unloaded_ms().tolist()
        kept.append((mine.offer, other.offer))
    # What was offered before does not change under those who keep it.
    for mine_then, other_then in kept:
        same_offer(mine_then, other_then)


def test_a_table_that_misses_changes_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: were a change forgotten, the test above would fail."""
    monkeypatch.setattr(changes.Changes, "since", lambda _self, version: None if version < 0 else set())
    board, table = a_fleet(1)
    table.offer(MODEL.estimate(NOTHING))
    for _ in range(4):
        board.dispatched(0)
    with pytest.raises(AssertionError):
        same_offer(table.offer(MODEL.estimate(NOTHING)), RouteTable(table.bound, board).offer(MODEL.estimate(NOTHING)))


def test_a_short_and_a_long_table_of_the_same_routes_offer_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    board, table = a_fleet(2)
    monkeypatch.setattr("orchestrator.routing.table.LONG_ROUTES", 10**9)
    short = RouteTable(table.bound, board)
    rng, held = np.random.default_rng(3), list[tuple[int, float]]()
    for _ in range(200):
        happen(board, rng, held)
        same_offer(table.offer(MODEL.estimate(NOTHING)), short.offer(MODEL.estimate(NOTHING)))


def test_readers_that_are_far_behind_are_told_so() -> None:
    seen = changes.Changes()
    for arm in range(changes.KEEP + 1):
        seen.note((arm,))
    assert seen.since(0) is None
    assert seen.since(1) == set(range(1, changes.KEEP + 1))
    assert seen.since(seen.version) == set()
    assert seen.since(-1) is None


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_pacing_learns_the_same_from_the_cheapest_bindings_as_from_all(seed: int) -> None:
    _, table = a_fleet(seed)
    rng = np.random.default_rng((seed, 2))
    every, cheapest = (Pacer(Allowance(per_request_j=0.3)) for _ in range(2))
    offer = table.offer(MODEL.estimate(NOTHING))
    for _ in range(300):
        allowed_r = rng.random(len(table.bound)) < rng.uniform(0.0, 1.0)
        quality_r = np.where(allowed_r, offer.quality_r, -np.inf)
        every.learn(quality_r, offer.energy_r, 0.01)
        cheapest.learn(*table.cheapest_by_model(quality_r, offer.energy_r), 0.01)
        assert every.arrive(0.0) == pytest.approx(cheapest.arrive(0.0), rel=1e-12)
        spent = float(rng.uniform(0.0, 1.0))
        for pacer in (every, cheapest):
            pacer.settle(pacer.charge(0.3, 0.5), spent)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**31), energy_j=st.floats(0.0, 5.0), pinned=st.one_of(st.none(), st.integers(0, 11)))
def test_narrowing_a_choice_is_the_same_as_choosing_anew(seed: int, energy_j: float, pinned: int | None) -> None:
    rng = np.random.default_rng(seed)
    bounds_kr = rng.integers(1, 4, (4, 12)) + 1.0
    offer = Offer(rng.random(12), bounds_kr[0], bounds_kr[1], bounds_kr[2], bounds_kr[3], rng.random(12) < 0.7)
    price = ChoicePrice(per_j=0.1, pinned=pinned)
    mine = narrowed(choose(offer, limits=Limits(None, 3.0), price=price), energy_j)
    anew = choose(offer, limits=Limits(energy_j, 3.0), price=price)
    assert (mine.index, mine.runner_up, mine.binding, mine.limits) == (
        anew.index,
        anew.runner_up,
        anew.binding,
        anew.limits,
    )
    assert mine.feasible_r.tolist() == anew.feasible_r.tolist()


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    energy_j=st.one_of(st.none(), st.floats(0.0, 1.0)),
    latency_ms=st.one_of(st.none(), st.floats(0.0, 1.0)),
)
def test_what_could_be_done_instead_is_what_going_through_all_finds(
    seed: int, energy_j: float | None, latency_ms: float | None
) -> None:
    rng = np.random.default_rng(seed)
    # Few different values, so that there are ties.
    bounds_kr = rng.integers(1, 4, (4, 12)) + 1.0
    offer = Offer(rng.random(12), bounds_kr[0], bounds_kr[1], bounds_kr[2], bounds_kr[3], rng.random(12) < 0.7)
    asked = Limits(energy_j, latency_ms)
    choice = choose(offer, limits=asked, price=ChoicePrice())
    assert choice.fallback == (by_hand(offer, asked) if choice.index is None else None)


def by_hand(offer: Offer, asked: Limits) -> Fallback | None:
    routes = [int(r) for r in np.flatnonzero(offer.available_r)]
    if not routes:
        return None

    def beyond(bound: float, limit: float | None) -> float:
        if limit is None or bound <= limit:
            return 1.0
        return bound / limit if limit > 0.0 else math.inf

    def overrun(r: int) -> tuple[float, float]:
        over_energy = beyond(float(offer.energy_bound_r[r]), asked.energy_j)
        return max(over_energy, beyond(float(offer.latency_bound_r[r]), asked.latency_ms)), float(offer.energy_r[r])

    in_time = [r for r in routes if asked.latency_ms is None or offer.latency_bound_r[r] <= asked.latency_ms]
    if in_time:
        needed = min(in_time, key=lambda r: float(offer.energy_bound_r[r]))
    else:
        needed = min(routes, key=lambda r: (float(offer.latency_bound_r[r]), float(offer.energy_bound_r[r])))
    return Fallback(
        cheapest=min(routes, key=lambda r: float(offer.energy_r[r])),
        least_overrun=min(routes, key=overrun),
        min_energy_j=float(offer.energy_bound_r[needed]),
        min_latency_ms=float(offer.latency_bound_r[needed]),
    )
