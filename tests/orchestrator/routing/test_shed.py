"""Requests that come to standing queues: they go elsewhere, or are told when to come back; texts and tensors alike."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.errors import Unavailable
from orchestrator.fleet.arms import ArmBoard
from orchestrator.fleet.shedding import Shedding
from orchestrator.routing.figures import text_figures
from orchestrator.routing.infeasible import kept_out_by, why_infeasible
from orchestrator.routing.lone import priced
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Decision, Wish, route
from orchestrator.text_profile import TextProfile
from orchestrator.types import BudgetRequest, GenerationParameters, Limits, Message, OnInfeasible, TextQuery
from tests.orchestrator.builders import Clock, a_task, an_arm, limits
from tests.orchestrator.routing.models import GivenModel, cascade, one

TIMES = {"p50_ms": 400.0, "p95_ms": 400.0}
PATIENT = limits(latency_ms=60_000.0)
MODEL = GivenModel({one("small"): 0.8})


def a_house(*nodes: str, margins: bool = False) -> ArmBoard:
    """A cheap node and dearer ones, each with two slots."""
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, margins=margins, clock=Clock())
    for number, node in enumerate(nodes):
        arms = [an_arm(expert, node, energy_j=0.1 * 4.0**number, **TIMES) for expert in ("small", "large")]
        board.announce(node, arms, 2, queue_limit=64)
    return board


def occupy(board: ArmBoard, node: str, *, pending: int = 4, stands: bool = True) -> list[float]:
    """So much work on a node; its queue stands, and not even one piece may wait there."""
    load = board.nodes[node]
    if stands:
        load.shedding = Shedding(room=0.0, since_s=1000.0, lapses_s=math.inf)
    return [board.dispatched(load.arms[0]) for _ in range(pending)]


def ask(board: ArmBoard, wanted: Limits = PATIENT, *, wish: Wish | None = None, model: GivenModel = MODEL) -> Decision:
    plan = Plan("p", model, None, NO_CERTIFICATE)
    table = plan.table(board.arms("digits"), board)
    return route(np.zeros(64), plan=plan, table=table, limits=wanted, wish=wish or Wish())


def name(decision: Decision) -> str:
    return "" if decision.route is None else decision.route.name


def test_a_request_goes_where_no_queue_stands() -> None:
    board = a_house("n1", "n2")
    assert name(ask(board)) == "small:v1@n1"
    occupy(board, "n1")
    assert name(ask(board)) == "small:v1@n2"


def test_control_a_queue_that_does_not_stand_is_waited_in() -> None:
    board = a_house("n1", "n2")
    occupy(board, "n1", stands=False)
    assert name(ask(board)) == "small:v1@n1"


def test_where_all_queues_stand_it_is_refused_though_its_time_would_suffice() -> None:
    board = a_house("n1", "n2")
    occupy(board, "n1")
    occupy(board, "n2")
    decision = ask(board)
    assert decision.route is None
    assert (decision.offer.latency_bound_r < PATIENT.max_latency_ms).all()
    assert why_infeasible(decision, PATIENT).reason == "OVERLOADED"


@pytest.mark.parametrize("policy", [OnInfeasible.CHEAPEST, OnInfeasible.BEST_EFFORT])
def test_best_effort_is_no_way_around(policy: OnInfeasible) -> None:
    board = a_house("n1")
    occupy(board, "n1")
    wanted = replace(PATIENT, on_infeasible=policy)
    assert why_infeasible(ask(board, wanted), wanted).reason == "OVERLOADED"


def test_who_comes_back_when_told_is_let_in() -> None:
    """Of four pieces on two slots three must be done before one more runs at once."""
    board = a_house("n1")
    held_ms = occupy(board, "n1")
    told = why_infeasible(ask(board), PATIENT)
    assert isinstance(told, Unavailable)
    assert told.retry_after_s == pytest.approx(3 * 0.4 / 2)
    for done_ms in held_ms[:3]:
        assert ask(board).route is None
        board.released(0, done_ms)
    assert name(ask(board)) == "small:v1@n1"


def test_work_that_is_under_way_is_tried_again_in_a_standing_queue() -> None:
    board = a_house("n1")
    occupy(board, "n1")
    assert name(ask(board, wish=Wish(admitted=True))) == "small:v1@n1"
    assert name(ask(board, wish=Wish(admitted=False))) == ""


def test_control_not_where_the_queue_is_full() -> None:
    board = a_house("n1")
    occupy(board, "n1", pending=66)
    assert name(ask(board, wish=Wish(admitted=True))) == ""


def test_a_cascade_waits_in_no_standing_queue_of_its_stages() -> None:
    board = a_house("n1", "n2")
    model = GivenModel({one("small"): 0.8, cascade("small", "large"): 0.95})
    assert name(ask(board, model=model)) == "small:v1@n1 >0.9> large:v1@n1"
    occupy(board, "n1")
    assert name(ask(board, model=model)) == "small:v1@n2"
    occupy(board, "n2")
    assert name(ask(board, model=model)) == ""


# ---- whose refusals count


def kept_out(board: ArmBoard, wanted: Limits) -> list[int]:
    decision = ask(board, wanted)
    assert decision.route is None
    return [int(arm) for arm in kept_out_by(decision, wanted)]


def test_queues_that_kept_a_request_out_are_those_of_its_own_experts() -> None:
    board = a_house("n1", "n2")
    occupy(board, "n1", pending=20, stands=False)
    occupy(board, "n2", pending=20, stands=False)
    # Of small on both nodes; of large, which it does not ask for, on none.
    assert kept_out(board, limits(latency_ms=1000.0)) == [0, 2]
    # A node that is too dear for it did not keep it out.
    assert kept_out(board, limits(energy_j=0.2, latency_ms=1000.0)) == [0]


def test_a_closed_queue_keeps_out_too() -> None:
    board = a_house("n1")
    occupy(board, "n1")
    assert kept_out(board, PATIENT) == [0]


def test_who_has_no_time_for_any_queue_is_kept_out_by_none() -> None:
    board = a_house("n1")
    occupy(board, "n1", pending=20, stands=False)
    assert kept_out(board, limits(latency_ms=700.0)) == []
    assert kept_out(board, limits(latency_ms=810.0)) == [0]


# ---- texts


def a_text_board() -> ArmBoard:
    profile = TextProfile(400.0, 0.1, 0.1, 0.0, 0.001, 0.001, completion_tokens=5.0, completion_p95_tokens=5.0)
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, clock=Clock())
    for node in ("n1", "n2"):
        board.announce(node, [an_arm("small", node, task="chat", text=profile, **TIMES)], 2, queue_limit=64)
    return board


def ask_text(board: ArmBoard, *, admitted: bool = False) -> Decision:
    query = TextQuery(
        request_id="r",
        task=a_task("chat", text=True),
        expert=None,
        messages=(Message("user", "hello"),),
        parameters=GenerationParameters(max_tokens=5),
        budget=BudgetRequest(),
        deadline_s=60.0,
    )
    plan = Plan("p", MODEL, None, NO_CERTIFICATE)
    table = priced(plan.table(board.arms("chat"), board), text_figures(board, query))
    return route(np.zeros(0), plan=plan, table=table, limits=PATIENT, wish=Wish(texts=True, admitted=admitted))


def test_texts_are_kept_out_as_tensors_are() -> None:
    board = a_text_board()
    occupy(board, "n1")
    assert name(ask_text(board)) == "small:v1@n2"
    occupy(board, "n2")
    decision = ask_text(board)
    assert decision.route is None
    assert why_infeasible(decision, PATIENT).reason == "OVERLOADED"
    assert kept_out_by(decision, PATIENT).tolist() == [0, 1]
    assert ask_text(board, admitted=True).route is not None


def test_control_texts_wait_where_no_queue_stands() -> None:
    board = a_text_board()
    for node in ("n1", "n2"):
        occupy(board, node, stands=False)
    assert ask_text(board).route is not None


# ---- who waits of his own free will


def refused_of_patient(*, hurried: bool) -> int:
    """How often sixteen callers, each with a minute for work of 400 ms and back when answered, are refused on one
    slot within two minutes; beside them come others in a hurry, or not."""
    clock = Clock()
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, margins=False, clock=clock)
    board.announce("n1", [an_arm("small", "n1", **TIMES)], 1, queue_limit=64)
    held_ms, refused = [board.dispatched(0) for _ in range(16)], 0
    for _ in range(300):
        clock.now_s += 0.4
        if held_ms:
            board.released(0, held_ms.pop())
        if hurried:
            wanted = limits(latency_ms=1000.0)
            decision = ask(board, wanted)
            if decision.route is None:
                board.turned_away(kept_out_by(decision, wanted), 1.0)
        if ask(board).route is None:
            refused += 1
        else:
            held_ms.append(board.dispatched(0))
    return refused


def test_callers_who_all_have_time_wait() -> None:
    assert refused_of_patient(hurried=False) == 0


def test_control_not_at_the_cost_of_those_who_have_none() -> None:
    assert refused_of_patient(hurried=True) > 10
