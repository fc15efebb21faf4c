"""Routes bound to arms: where each may run, and what it promises there."""

from dataclasses import fields

import numpy as np
import pytest

from optimizer.deciding.promise import Offer
from optimizer.routes.route import Fusion
from orchestrator.fleet.arms import ArmBoard
from orchestrator.routing.binding import bind
from orchestrator.routing.table import RouteTable
from tests.orchestrator.builders import a_board, an_arm
from tests.orchestrator.routing.models import GivenModel, cascade, one, together

# Expert "small" on two nodes, one thrifty, one fast; "large" on the thrifty one.
THRIFTY = an_arm("small", "thrifty", energy_j=0.01, p50_ms=9.0, p95_ms=10.0)
FAST = an_arm("small", "fast", energy_j=0.05, p50_ms=1.0, p95_ms=2.0)
LARGE = an_arm("large", "thrifty", energy_j=0.1, p50_ms=19.0, p95_ms=20.0)


@pytest.fixture
def board() -> ArmBoard:
    return a_board(THRIFTY, LARGE, FAST, margins=False)


def a_table(board: ArmBoard, model: GivenModel) -> RouteTable:
    return RouteTable(bind(model.routes, board.arms("digits"), board), board)


def test_a_single_expert_is_bound_to_each_of_its_arms(board: ArmBoard) -> None:
    names = [bound.name for bound in bind([one("small")], board.arms("digits"), board)]
    assert names == ["small:v1@thrifty", "small:v1@fast"]


def test_a_longer_route_is_bound_to_the_thriftiest_and_to_the_fastest_arms(board: ArmBoard) -> None:
    bound = bind([cascade("small", "large", below=0.8)], board.arms("digits"), board)
    assert [route.name for route in bound] == [
        "small:v1@thrifty >0.8> large:v1@thrifty",
        "small:v1@fast >0.8> large:v1@thrifty",
    ]


def test_a_route_whose_expert_is_nowhere_is_left_out_and_no_binding_is_double(board: ArmBoard) -> None:
    routes = [one("large"), cascade("small", "absent"), together("large", "small")]
    bound = bind(routes, board.states[:2], board)
    assert [(route.model_index, route.arms) for route in bound] == [(0, ((1,),)), (2, ((1, 0),))]
    assert bound[1].name == "large:v1@thrifty+small:v1@thrifty (mixture)"


def test_joules_add_up_over_stages_weighed_by_their_reach_and_bounds_run_them_all(board: ArmBoard) -> None:
    route = cascade("small", "large")
    model = GivenModel({route: 0.9}, reach={route: [1.0, 0.25]})
    table = a_table(board, model)
    offer = table.offer(model.estimate(np.zeros(0)))
    assert offer.energy_r == pytest.approx([0.01 + 0.25 * 0.1, 0.05 + 0.25 * 0.1])
    assert offer.energy_bound_r == pytest.approx([0.11, 0.15])
    assert offer.latency_r == pytest.approx([10.0 + 0.25 * 20.0, 2.0 + 0.25 * 20.0])
    assert offer.latency_bound_r == pytest.approx([30.0, 22.0])


def test_side_by_side_takes_as_long_as_the_slowest_and_on_one_node_as_long_as_all(board: ArmBoard) -> None:
    model = GivenModel({together("small", "large"): 0.95})
    table = a_table(board, model)
    offer = table.offer(model.estimate(np.zeros(0)))
    assert [bound.arms for bound in table.bound] == [((0, 1),), ((2, 1),)]
    assert offer.latency_bound_r == pytest.approx([10.0 + 20.0, 20.0])
    assert offer.energy_r == pytest.approx([0.11, 0.15])


def test_shorter_routes_are_not_charged_for_the_padding(board: ArmBoard) -> None:
    model = GivenModel({one("small"): 0.8, cascade("small", "large"): 0.9, together("small", "large"): 0.95})
    table = a_table(board, model)
    offer = table.offer(model.estimate(np.zeros(0)))
    assert offer.energy_r[:2] == pytest.approx([0.01, 0.05])
    assert offer.energy_bound_r[:2] == pytest.approx([0.01, 0.05])
    assert offer.latency_bound_r[:2] == pytest.approx([10.0, 2.0])
    assert offer.quality_r.tolist() == [0.8, 0.8, 0.9, 0.9, 0.95, 0.95]


def test_waits_count_in_promises_and_not_in_what_would_be_unloaded(board: ArmBoard) -> None:
    model = GivenModel({one("small"): 0.8})
    table = a_table(board, model)
    estimate = model.estimate(np.zeros(0))
    before = table.offer(estimate).latency_bound_r.copy()
    for _ in range(4):
        board.dispatched(0)
    after = table.offer(estimate).latency_bound_r
    assert board.wait_ms_n[0] > 0
    assert after[0] == pytest.approx(before[0] + board.wait_ms_n[0])
    assert after[1] == before[1]
    assert table.unloaded_ms().tolist() == before.tolist()


def test_cached_figures_follow_the_board(board: ArmBoard) -> None:
    model = GivenModel({one("small"): 0.8, cascade("small", "large"): 0.9})
    table = a_table(board, model)
    estimate = model.estimate(np.zeros(0))
    table.offer(estimate)
    for _ in range(30):
        board.answered(0, service_ms=40.0, energy_j=0.03)
    board.set_routable("fast", False)
    fresh, cached = a_table(board, model), table.offer(estimate)
    assert cached.energy_r[0] == pytest.approx(0.03)
    assert cached.latency_bound_r[0] == pytest.approx(40.0)
    assert cached.available_r.tolist() == [True, False, True, False]
    assert fresh.offer(estimate).energy_r[0] == cached.energy_r[0]


def test_routes_of_one_arm_each_promise_what_they_promise_beside_longer_ones(board: ArmBoard) -> None:
    alone = GivenModel({one("small"): 0.8, one("large"): 0.9})
    beside = GivenModel({one("small"): 0.8, one("large"): 0.9, cascade("small", "large"): 0.9})
    tables = [(a_table(board, model), model.estimate(np.zeros(0))) for model in (alone, beside)]
    for _ in range(4):
        board.dispatched(0)
        board.answered(1, service_ms=40.0, energy_j=0.3)
    board.set_routable("fast", False)
    # Known before, told by the board since, and priced anew.
    for kept in (True, False):
        offers = [(table if kept else table.priced(board)).offer(estimate) for table, estimate in tables]
        for name in [field.name for field in fields(Offer)]:
            few, many = (getattr(offer, name) for offer in offers)
            assert few.tolist() == pytest.approx(many[: len(few)].tolist()), name
    assert offers[0].available_r.tolist() == [True, False, True]


def test_a_route_is_available_only_with_all_its_arms(board: ArmBoard) -> None:
    model = GivenModel({one("small"): 0.8, cascade("small", "large"): 0.9})
    table = a_table(board, model)
    board.set_routable("thrifty", False)
    assert table.offer(model.estimate(np.zeros(0))).available_r.tolist() == [False, True, False, False]


def test_what_routes_can_be_picked_by(board: ArmBoard) -> None:
    model = GivenModel(
        {one("small"): 0.8, one("large"): 0.9, together("small", "large", fusion=Fusion.VOTE): 0.9},
    )
    table = a_table(board, model)
    assert table.uses("small").tolist() == [True, True, False, False, False]
    assert table.uses("absent").tolist() == [False] * 5
    assert table.fused_as(Fusion.VOTE).tolist() == [False, False, False, True, True]
    assert table.avoiding(frozenset({0})).tolist() == [False, True, True, False, True]
    assert table.avoiding(frozenset()).all()
    assert table.experts_r.tolist() == [1, 1, 1, 2, 2]
    assert table.most_experts == 2
    assert table.first_of(0) == 0
    assert table.first_of(7) is None


def test_an_empty_table_offers_nothing() -> None:
    board = a_board()
    table = RouteTable([], board)
    offer = table.offer(GivenModel({one("small"): 0.5}).estimate(np.zeros(0)))
    assert offer.quality_r.size == offer.available_r.size == 0
    assert table.most_experts == 0
