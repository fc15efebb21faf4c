"""What a request is told that no route fits: full queues are no lack of nodes, and no lack of budget."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.errors import BudgetInfeasible, EdgewiseError, Unavailable
from orchestrator.fleet.arms import ArmBoard
from orchestrator.residency import Residency
from orchestrator.routing.infeasible import kept_out_by, why_infeasible
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Decision, Wish, route
from orchestrator.types import Limits, OnInfeasible
from tests.orchestrator.builders import a_board, an_arm, limits
from tests.orchestrator.routing.models import GivenModel, cascade, one

CHEAP = an_arm("small", "n1", energy_j=0.01, p50_ms=5.0, p95_ms=6.0)
DEAR = an_arm("small", "n2", energy_j=1.0, p50_ms=5.0, p95_ms=6.0)
LARGE = an_arm("large", "n2", energy_j=1.0, p50_ms=5.0, p95_ms=6.0)


def a_house(*nodes: str, queue_limit: int = 0) -> ArmBoard:
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, margins=False)
    for node in nodes:
        arms = [arm for arm in (CHEAP, DEAR, LARGE) if arm.node == node]
        board.announce(node, arms, 1, queue_limit=queue_limit)
    return board


def fill(board: ArmBoard, node: str) -> None:
    index = next(state.index for state in board.states if state.arm.node == node)
    while not board.closed_ms_n[index]:
        board.dispatched(index)


def decided(board: ArmBoard, wanted: Limits, *, wish: Wish | None = None, model: GivenModel | None = None) -> Decision:
    plan = Plan("p", model or GivenModel({one("small"): 0.8}), None, NO_CERTIFICATE)
    table = plan.table(board.arms("digits"), board)
    return route(np.zeros(64), plan=plan, table=table, limits=wanted, wish=wish or Wish())


def reason(board: ArmBoard, wanted: Limits) -> EdgewiseError:
    decision = decided(board, wanted)
    assert decision.route is None
    return why_infeasible(decision, wanted)


def name(decision: Decision) -> str:
    return "" if decision.route is None else decision.route.name


def test_a_full_node_gives_way_to_the_next_arm() -> None:
    board = a_house("n1", "n2", queue_limit=2)
    assert name(decided(board, limits())) == "small:v1@n1"
    fill(board, "n1")
    assert name(decided(board, limits())) == "small:v1@n2"


def test_a_table_follows_a_queue_that_fills_and_empties() -> None:
    board = a_house("n1", "n2")
    plan = Plan("p", GivenModel({one("small"): 0.8}), None, NO_CERTIFICATE)
    table = plan.table(board.arms("digits"), board)

    def chosen() -> str:
        return name(route(np.zeros(64), plan=plan, table=table, limits=limits(), wish=Wish()))

    assert chosen() == "small:v1@n1"
    held_ms = board.dispatched(0)
    assert chosen() == "small:v1@n2"
    board.released(0, held_ms)
    assert chosen() == "small:v1@n1"


def test_where_all_are_full_the_request_is_shed() -> None:
    board = a_house("n1", "n2")
    fill(board, "n1")
    fill(board, "n2")
    told = reason(board, limits())
    assert isinstance(told, Unavailable)
    assert (told.reason, told.retry_after_s is not None) == ("OVERLOADED", True)


@pytest.mark.parametrize("policy", [OnInfeasible.CHEAPEST, OnInfeasible.BEST_EFFORT])
def test_best_effort_is_shed_too(policy: OnInfeasible) -> None:
    board = a_house("n1")
    fill(board, "n1")
    assert reason(board, limits(energy_j=1e-9, on_infeasible=policy)).reason == "OVERLOADED"


def test_where_what_is_free_is_too_dear_and_the_rest_is_full_the_load_is_the_reason() -> None:
    board = a_house("n1", "n2")
    assert name(decided(board, limits(energy_j=0.1))) == "small:v1@n1"
    fill(board, "n1")
    assert reason(board, limits(energy_j=0.1)).reason == "OVERLOADED"


def test_a_budget_that_no_node_could_keep_is_the_reason_also_where_all_are_full() -> None:
    board = a_house("n1")
    free = reason(board, limits(energy_j=1e-9))
    fill(board, "n1")
    told = reason(board, limits(energy_j=1e-9))
    assert isinstance(told, BudgetInfeasible)
    assert isinstance(free, BudgetInfeasible)
    assert told.metadata["minEnergyJ"] == free.metadata["minEnergyJ"]


def test_nodes_that_are_gone_are_not_full() -> None:
    board = a_house("n1")
    plan = Plan("p", GivenModel({one("small"): 0.8}), None, NO_CERTIFICATE)
    table = plan.table(board.arms("digits"), board)
    fill(board, "n1")
    board.set_routable("n1", False)
    gone = route(np.zeros(64), plan=plan, table=table, limits=limits(), wish=Wish())
    assert why_infeasible(gone, limits()).reason == "NO_NODE"


def test_a_cascade_needs_room_for_every_stage_and_its_first_arm_alone_does_not() -> None:
    board = a_house("n1", "n2")
    model = GivenModel({one("small"): 0.8, cascade("small", "large"): 0.95})
    assert name(decided(board, limits(), model=model)) == "small:v1@n1 >0.9> large:v1@n2"
    fill(board, "n2")
    assert name(decided(board, limits(), model=model)) == "small:v1@n1"


def away(state: str, progress_fraction: float | None = None) -> ArmBoard:
    """One expert that is not in memory, 5 to 6 ms of work behind a load of 300 ms."""
    residency = Residency(state, load_ms=300.0, progress_fraction=progress_fraction)
    return a_board(an_arm("small", p50_ms=5.0, p95_ms=6.0, residency=residency))


def test_an_expert_that_is_being_loaded_is_worth_waiting_for() -> None:
    told = reason(away("loading", progress_fraction=0.75), limits(latency_ms=50.0))
    assert told.reason == "EXPERT_LOADING"
    assert told.retry_after_s == pytest.approx(0.075)
    assert (told.metadata["expert"], told.metadata["progressFraction"]) == ("small", "0.750")


def test_an_expert_that_nobody_loads_needs_a_budget_for_its_load() -> None:
    """To come back later would help nobody: what is refused loads nothing."""
    board = away("unloaded")
    told = reason(board, limits(latency_ms=50.0))
    assert isinstance(told, BudgetInfeasible)
    least_ms = float(told.metadata["minLatencyMs"])
    assert least_ms > 300.0
    assert decided(board, limits(latency_ms=least_ms)).route is not None


def test_control_one_that_is_in_memory_and_busy_is_overloaded() -> None:
    board = a_board(
        an_arm("small", p50_ms=5.0, p95_ms=6.0, residency=Residency("loaded", load_ms=300.0)), concurrency=1
    )
    for _ in range(60):
        board.dispatched(0)
    assert reason(board, limits(latency_ms=50.0)).reason == "OVERLOADED"


def test_when_to_come_back_is_no_matter_of_routes_that_are_never_in_time() -> None:
    """One node's queue is long; another's is empty, but its work alone takes a little longer than there is time."""
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, margins=False)
    board.announce("n1", [an_arm("small", "n1", p50_ms=100.0, p95_ms=100.0)], 1)
    board.announce("n2", [an_arm("small", "n2", p50_ms=830.0, p95_ms=830.0)], 1)
    for _ in range(60):
        board.dispatched(0)
    told = reason(board, limits(latency_ms=810.0))
    assert isinstance(told, Unavailable)
    assert told.retry_after_s == pytest.approx(5.3, abs=0.2)


def test_what_a_load_keeps_out_no_queue_does() -> None:
    wanted = limits(latency_ms=100.0)
    for residency, kept_out in ((Residency("unloaded", load_ms=300.0), []), (None, [0])):
        board = a_board(an_arm("small", p50_ms=20.0, p95_ms=20.0, residency=residency), concurrency=1)
        for _ in range(20):
            board.dispatched(0)
        decision = decided(board, wanted)
        assert decision.route is None
        assert kept_out_by(decision, wanted).tolist() == kept_out
