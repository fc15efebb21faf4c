"""The choice for one query: budgets, wishes, what is told when nothing fits."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.deciding.choose import Binding
from optimizer.routes.route import Fusion
from orchestrator.fleet.arms import ArmBoard
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Decision, Wish, route
from orchestrator.types import Arm, FusionChoice, Limits, OnInfeasible
from tests.orchestrator.builders import a_board, an_arm, limits
from tests.orchestrator.routing.models import GivenModel, cascade, one, together

SMALL = an_arm("small", "n1", energy_j=0.01, p50_ms=1.0, p95_ms=2.0)
LARGE = an_arm("large", "n1", energy_j=0.1, p50_ms=9.0, p95_ms=10.0)
QUICK = an_arm("large", "n2", energy_j=0.5, p50_ms=2.0, p95_ms=3.0)
MODEL = GivenModel(
    {
        one("small"): 0.80,
        one("large"): 0.90,
        cascade("small", "large"): 0.92,
        together("small", "large"): 0.95,
        together("small", "large", fusion=Fusion.VOTE): 0.85,
    }
)


def decide(
    wanted: Limits, wish: Wish | None = None, *, model: GivenModel = MODEL, board: ArmBoard | None = None
) -> Decision:
    board = board or a_board(SMALL, LARGE, QUICK, margins=False)
    plan = Plan("p", model, None, NO_CERTIFICATE)
    table = plan.table(board.arms("digits"), board)
    return route(np.zeros(64), plan=plan, table=table, limits=wanted, wish=wish or Wish())


def name(decision: Decision) -> str:
    return "" if decision.route is None else decision.route.name


def test_without_limits_the_best_quality_wins_and_fewer_joules_break_ties() -> None:
    decision = decide(limits())
    assert name(decision) == "small:v1@n1+large:v1@n1 (mixture)"
    assert decision.within
    assert decision.choice.binding is Binding.NONE


def test_joules_bind() -> None:
    decision = decide(limits(energy_j=0.105))
    assert name(decision) == "large:v1@n1"
    assert decision.choice.binding is Binding.ENERGY
    assert name(decide(limits(energy_j=0.05))) == "small:v1@n1"


def test_milliseconds_bind() -> None:
    decision = decide(limits(latency_ms=5.5))
    assert name(decision) == "small:v1@n1+large:v1@n2 (mixture)"
    decision = decide(limits(latency_ms=2.5))
    assert name(decision) == "small:v1@n1"
    assert decision.choice.binding is Binding.LATENCY


def test_a_profile_pays_for_quality_no_more_than_its_price() -> None:
    model = GivenModel({one("small"): 0.80, one("large"): 0.90}, price_per_j={"eco": 2.0, "balanced": 0.5})
    chosen = {p: name(decide(limits(profile=p), model=model)) for p in ("eco", "balanced", "best")}
    assert chosen == {"eco": "small:v1@n1", "balanced": "large:v1@n1", "best": "large:v1@n1"}


def test_a_pinned_route_is_taken_on_its_thriftiest_arms_while_it_fits() -> None:
    model = GivenModel({one("small"): 0.80, one("large"): 0.90}, pinned=1)
    assert name(decide(limits(), model=model)) == "large:v1@n1"
    assert name(decide(limits(energy_j=0.02), model=model)) == "small:v1@n1"
    pinned_small = GivenModel({one("small"): 0.80, one("large"): 0.90}, pinned=0)
    assert name(decide(limits(), model=pinned_small)) == "small:v1@n1"


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Wish(expert="small"), "small:v1@n1"),
        (Wish(expert="large"), "large:v1@n1"),
        (Wish(max_experts=1), "large:v1@n1"),
        (Wish(fusion=FusionChoice.NONE), "small:v1@n1 >0.9> large:v1@n1"),
        (Wish(fusion=FusionChoice.NONE, max_experts=1), "large:v1@n1"),
        (Wish(fusion=FusionChoice.MIXTURE), "small:v1@n1+large:v1@n1 (mixture)"),
        (Wish(fusion=FusionChoice.VOTE), "small:v1@n1+large:v1@n1 (vote)"),
        (Wish(avoid=frozenset({1})), "small:v1@n1+large:v1@n2 (mixture)"),
        (Wish(avoid=frozenset({0})), "large:v1@n1"),
        (Wish(expert="large", avoid=frozenset({1})), "large:v1@n2"),
        (Wish(max_experts=1, avoid=frozenset({1, 2})), "small:v1@n1"),
    ],
)
def test_wishes_are_kept(wish: Wish, expected: str) -> None:
    assert name(decide(limits(), wish)) == expected


@pytest.mark.parametrize("wish", [Wish(expert="absent"), Wish(avoid=frozenset({0, 1, 2}))])
def test_a_wish_that_nothing_can_keep_has_no_fallback_either(wish: Wish) -> None:
    for policy in OnInfeasible:
        decision = decide(limits(on_infeasible=policy), wish)
        assert decision.route is None
        assert decision.choice.fallback is None


def test_nothing_fits_and_the_client_wants_an_error() -> None:
    decision = decide(limits(energy_j=0.001))
    assert decision.route is None
    assert not decision.within
    fallback = decision.choice.fallback
    assert fallback is not None
    assert (fallback.min_energy_j, fallback.min_latency_ms) == (0.01, 2.0)


def test_nothing_fits_and_the_client_wants_the_cheapest() -> None:
    decision = decide(limits(energy_j=0.001, on_infeasible=OnInfeasible.CHEAPEST))
    assert name(decision) == "small:v1@n1"
    assert not decision.within


def test_nothing_fits_and_the_client_wants_the_least_overrun() -> None:
    # Small overruns its 0.5 ms by a factor of 4; every other route is slower still.
    decision = decide(limits(latency_ms=0.5, on_infeasible=OnInfeasible.BEST_EFFORT))
    assert name(decision) == "small:v1@n1"
    # Large on n2 is over 20 J by nothing and over 2.5 ms by 1.2; small by nothing at all: it fits.
    only_large = decide(limits(latency_ms=2.5, on_infeasible=OnInfeasible.BEST_EFFORT), Wish(expert="large"))
    assert name(only_large) == "large:v1@n2"
    assert not only_large.within


def test_a_suspect_arm_is_not_taken_and_said_to_bind() -> None:
    board = a_board(SMALL, LARGE, margins=False)
    plan = Plan("p", GivenModel({one("small"): 0.8, one("large"): 0.9}), None, NO_CERTIFICATE)
    table = plan.table(board.arms("digits"), board)
    board.set_routable("n1", False)
    decision = route(np.zeros(64), plan=plan, table=table, limits=limits(), wish=Wish())
    assert decision.route is None
    assert decision.choice.binding is Binding.AVAILABILITY


def test_unmeasured_joules_fit_only_where_joules_do_not_count() -> None:
    board = a_board(an_arm("small", energy_j=None))
    model = GivenModel({one("small"): 0.8})
    assert name(decide(limits(), model=model, board=board)) == "small:v1@n1"
    assert decide(limits(energy_j=1e9), model=model, board=board).route is None
    effort = decide(limits(energy_j=1.0, on_infeasible=OnInfeasible.CHEAPEST), model=model, board=board)
    assert name(effort) == "small:v1@n1"


def test_an_arm_outside_the_active_set_does_not_run_unless_nothing_else_is_left() -> None:
    board = a_board(SMALL, LARGE, margins=False)
    plan = Plan("p", GivenModel({one("small"): 0.8, one("large"): 0.9}), frozenset({SMALL.name}), NO_CERTIFICATE)
    names = [bound.name for bound in plan.table(board.arms("digits"), board).bound]
    assert names == [SMALL.name]
    rest = [state for state in board.arms("digits") if state.arm.expert == "large"]
    assert [bound.name for bound in plan.table(rest, board).bound] == [LARGE.name]


arms = st.lists(
    st.tuples(st.sampled_from("abcd"), st.floats(1e-6, 10.0), st.floats(0.1, 100.0)), min_size=1, max_size=6
)


@settings(max_examples=80, deadline=None)
@given(arms, st.floats(1e-7, 20.0), st.floats(0.05, 200.0))
def test_what_is_chosen_fits_and_what_is_refused_says_a_budget_that_does(
    figures: list[tuple[str, float, float]], energy_j: float, latency_ms: float
) -> None:
    announced = [_arm(expert, f"n{n}", energy, ms) for n, (expert, energy, ms) in enumerate(figures)]
    experts = sorted({expert for expert, _, _ in figures})
    routes: dict[Any, float] = {one(expert): 0.5 + 0.1 * n for n, expert in enumerate(experts)}
    if len(experts) > 1:
        routes[cascade(*experts[:2])] = 0.97
    model, board = GivenModel(routes), a_board(*announced)
    wanted = limits(energy_j=energy_j, latency_ms=latency_ms)
    decision = decide(wanted, model=model, board=board)
    if decision.index is not None:
        assert decision.offer.energy_bound_r[decision.index] <= energy_j
        assert decision.offer.latency_bound_r[decision.index] <= latency_ms
        return
    fallback = decision.choice.fallback
    assert fallback is not None
    assert fallback.min_energy_j > energy_j or fallback.min_latency_ms > latency_ms
    told = replace(wanted, max_energy_j=fallback.min_energy_j, max_latency_ms=fallback.min_latency_ms)
    assert decide(told, model=model, board=board).within


def _arm(expert: str, node: str, energy_j: float, ms: float) -> Arm:
    return an_arm(expert, node, energy_j=energy_j, p50_ms=ms, p95_ms=ms)


def test_infinite_joules_are_no_limit_and_no_arithmetic() -> None:
    decision = decide(Limits(math.inf, 1000.0, OnInfeasible.ERROR, "best"))
    assert decision.choice.feasible_r.all()
