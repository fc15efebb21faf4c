"""Short queues are let grow once in a while: what that costs while overload lasts, and how it ends when it is over."""

from __future__ import annotations

import heapq
import itertools

import numpy as np
import pytest

from orchestrator.fleet import shedding
from orchestrator.fleet.arms import ArmBoard
from orchestrator.routing.infeasible import kept_out_by, why_infeasible
from orchestrator.simulation.outcome import CODE
from orchestrator.simulation.run import simulate
from tests.orchestrator.builders import Clock, an_arm, limits
from tests.orchestrator.routing.test_shed import ask
from tests.orchestrator.simulation.test_overload import one_node
from tests.orchestrator.simulation.worlds import a_load

WORK_S = 0.4
PATIENT = limits(latency_ms=5_000.0)


def refused_after_a_crowd(callers: int, seconds: float) -> list[int]:
    """How often patient callers are refused, in every twenty seconds, by a node with one slot.

    Each comes back when it was answered, or when it was told to after it was refused. All of them fit into the queue;
    in the first twenty seconds a crowd that is in a hurry comes too, and does not fit.
    """
    clock, order = Clock(), itertools.count()
    clock.now_s = 0.0
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, margins=False, clock=clock)
    board.announce("n1", [an_arm("small", "n1", p50_ms=400.0, p95_ms=400.0)], 1, queue_limit=64)
    events = [(0.01 * caller, next(order), "patient") for caller in range(callers)]
    events += [(0.05 + 0.1 * number, next(order), "hurried") for number in range(200)]
    heapq.heapify(events)
    waiting: list[tuple[str, float]] = []
    refused = [0] * int(seconds / 20.0)
    while events[0][0] < seconds:
        clock.now_s, _, kind = heapq.heappop(events)
        if kind == "done":
            who, held_ms = waiting.pop(0)
            board.released(0, held_ms)
            if who == "patient":
                heapq.heappush(events, (clock.now_s + 0.01, next(order), who))
        else:
            decision = ask(board, PATIENT)
            if decision.route is None:
                board.turned_away(kept_out_by(decision, PATIENT), PATIENT.max_latency_ms / 1e3)
                error = why_infeasible(decision, PATIENT)
                if kind == "patient":
                    refused[int(clock.now_s / 20.0)] += 1
                    heapq.heappush(events, (clock.now_s + (error.retry_after_s or 0.0), next(order), kind))
                continue
            waiting.append((kind, board.dispatched(0)))
            if len(waiting) > 1:
                continue
        if waiting:
            heapq.heappush(events, (clock.now_s + WORK_S, next(order), "done"))
    return refused


def test_callers_who_fit_are_let_in_again_though_each_comes_back_when_refused() -> None:
    refused = refused_after_a_crowd(8, 200.0)
    assert refused[0] > 0
    assert refused[-4:] == [0, 0, 0, 0]


def test_control_untried_they_keep_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shedding, "FIRST_TRY_S", np.inf)
    monkeypatch.setattr(shedding, "TRY_AFTER", np.inf)
    assert min(refused_after_a_crowd(8, 200.0)) > 0


def test_while_overload_lasts_few_wait_for_it() -> None:
    """Ten times what four slots do, for ten minutes: how many wait more than a moment, early and late."""
    outcome = simulate(one_node(4), a_load(80.0, 80 * 600))
    answered_q = outcome.ends.state_q == CODE["ANSWERED"]
    long_q = outcome.ends.ms_q - outcome.ends.node_ms_q > 60.0
    early_q, late_q = (
        answered_q & (outcome.ends.at_s_q >= low) & (outcome.ends.at_s_q < low + 290) for low in (8, 300)
    )
    assert 0.0 < long_q[early_q].mean() < 0.05
    assert long_q[late_q].mean() < 0.02
    assert answered_q.sum() >= 0.93 * 600 * 8


def test_who_asks_when_an_overload_is_long_over_is_let_in_though_nothing_came_or_went() -> None:
    clock = Clock()
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, margins=False, clock=clock)
    board.announce("n1", [an_arm("small", "n1", p50_ms=400.0, p95_ms=400.0)], 4, queue_limit=64)
    held_ms = [board.dispatched(0) for _ in range(16)]
    for _ in range(6):
        clock.now_s += 1.0
        # One is done, another one takes its place, and many are refused: the queue stands.
        board.released(0, held_ms.pop())
        held_ms.append(board.dispatched(0))
        for _ in range(40):
            board.turned_away(np.array([0], dtype=np.intp), 1.0)
    while len(held_ms) > 4:
        board.released(0, held_ms.pop())
    assert ask(board).route is None
    # Long after the last refusal by those callers' measure, though not by that of one who has a minute.
    clock.now_s += 10.0
    minute = limits(latency_ms=60_000.0)
    board.turned_away(kept_out_by(ask(board, minute), minute), 60.0)
    assert ask(board, minute).route is not None
