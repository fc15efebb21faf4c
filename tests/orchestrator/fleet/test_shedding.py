"""When a queue stands, how long it may be, and when that is over; each with its control. Time is told."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from orchestrator.fleet.arms import ArmBoard
from orchestrator.fleet.shedding import GAP_MS, IDLE_FRACTION, MOST_SLOTS, Refused, Shedding, shortest_queue
from tests.orchestrator.builders import Clock, an_arm

WITHIN_S = 2.0


@dataclass
class Work:
    """A node's load, as told."""

    concurrency: int = 4
    pending: int = 10
    pending_ms: float = 5000.0
    sent: int = 10

    def does(self, pieces: int, *, comes: int) -> None:
        """So many pieces of 500 ms were done, and so many came."""
        self.sent += comes
        self.pending += comes - pieces
        self.pending_ms = 500.0 * self.pending


def refused_at(shedding: Shedding, load: Work, now_s: float, refused: float = 1.0) -> None:
    shedding.turned_away(load, now_s, within_s=WITHIN_S, refused=Refused(refused, refused))


def standing(load: Work, *, refused: float = 144.0) -> Shedding:
    """A queue on which requests were refused for as long as they may take, and 16 done: at ten times what it does."""
    shedding = Shedding()
    refused_at(shedding, load, 0.0)
    load.does(16, comes=16)
    shedding.follow(load, 1.0)
    refused_at(shedding, load, 2.0, refused)
    return shedding


def idle_fraction(slots: int, demand: float, waiting: int) -> float:
    """Of M/M/c/(c+k), by its chances written out."""
    offered = slots * demand
    chances = [offered**n / math.factorial(n) for n in range(slots + 1)]
    chances += [chances[slots] * demand**n for n in range(1, waiting + 1)]
    return sum((slots - n) * chances[n] for n in range(slots)) / slots / sum(chances)


@pytest.mark.parametrize("slots", [1, 2, 4, 16, 50])
@pytest.mark.parametrize("demand", [1.02, 1.1, 1.5, 2.0, 4.0, 10.0, 300.0])
def test_the_queue_is_the_shortest_that_keeps_slots_busy(slots: int, demand: float) -> None:
    waiting = int(shortest_queue(slots, demand))
    assert idle_fraction(slots, demand, waiting) <= IDLE_FRACTION + 1e-12
    assert waiting == 0 or idle_fraction(slots, demand, waiting - 1) > IDLE_FRACTION


def test_of_many_slots_none_waits_where_demand_is_far_above_what_they_do() -> None:
    assert shortest_queue(MOST_SLOTS, 1.1) <= 0.01 * MOST_SLOTS
    assert Refused(10.0, 10_000.0).share_of(4, 1.1) <= 1.0
    assert Refused(10.0, 10.0).share_of(4, 0.9) == math.inf


def test_where_no_more_comes_than_is_done_no_queue_is_too_long() -> None:
    assert shortest_queue(4, 1.0) == shortest_queue(1, 0.0) == math.inf
    assert shortest_queue(4, math.inf) == 0.0


def test_a_queue_stands_when_requests_are_refused_for_as_long_as_they_may_take() -> None:
    shedding, load = Shedding(), Work()
    refused_at(shedding, load, 0.0)
    assert shedding.room == math.inf
    assert standing(Work()).room == 0.0
    assert standing(Work(), refused=16.0).room == shortest_queue(4, 2.0) > 0.0


def test_control_a_node_that_was_not_busy_meanwhile_has_no_standing_queue() -> None:
    """A burst that was refused in part, then another one when the first had long been answered."""
    shedding, load = Shedding(), Work()
    refused_at(shedding, load, 0.0)
    load.does(10, comes=0)
    shedding.follow(load, 1.0)
    load.does(0, comes=10)
    shedding.follow(load, 1.9)
    refused_at(shedding, load, 2.0, 144.0)
    assert shedding.room == math.inf


def test_a_standing_queue_that_leaves_slots_free_stands_no_more() -> None:
    """Demand in bursts, of which a short queue would lose most."""
    load = Work()
    shedding = standing(load)
    load.does(load.pending, comes=0)
    shedding.follow(load, 2.5)
    load.does(0, comes=10)
    shedding.follow(load, 3.5)
    refused_at(shedding, load, 4.0, 50.0)
    assert shedding.room == math.inf


def test_overload_is_over_when_nobody_was_refused_for_long() -> None:
    load = Work()
    shedding = standing(load)
    shedding.follow(load, 2.0 + 2.0 * WITHIN_S)
    assert shedding.room == 0.0
    shedding.follow(load, 2.1 + 2.0 * WITHIN_S)
    assert shedding.room == math.inf
    # What was refused then says nothing about what is refused now.
    refused_at(shedding, load, 10.0, 100.0)
    assert shedding.room == math.inf


def test_slots_that_were_free_before_do_not_count_in_the_next_overload() -> None:
    load = Work()
    shedding = standing(load)
    load.does(load.pending, comes=0)
    shedding.follow(load, 7.0)
    load.does(0, comes=10)
    refused_at(shedding, load, 20.0)
    load.does(16, comes=16)
    refused_at(shedding, load, 22.0, 144.0)
    assert shedding.room == 0.0


def test_room_follows_demand() -> None:
    load = Work()
    shedding = standing(load)
    for at_s, refused, room in ((4.0, 4.0, shortest_queue(4, 1.25)), (6.0, 144.0, 0.0)):
        load.does(16, comes=16)
        refused_at(shedding, load, at_s, refused)
        assert shedding.room == room


def test_newcomers_are_let_in_when_what_is_too_much_is_done() -> None:
    """The time to come back is that of the pieces that are too many, at the pace of all slots."""
    load = Work()
    shedding = standing(load)
    assert load.pending == 10
    assert shedding.closed_ms(load) == pytest.approx(7 * 500.0 / 4)
    load.does(6, comes=0)
    assert shedding.closed_ms(load) == pytest.approx(500.0 / 4)
    load.does(1, comes=0)
    assert shedding.closed_ms(load) == 0.0


def test_pieces_that_are_done_while_an_answer_travels_may_wait() -> None:
    """Else a node of short work would be idle while its answers are on their way."""
    load = Work(pending=4, pending_ms=4 * 1.0)
    shedding = Shedding(room=0.0)
    assert shedding.closed_ms(load) == 0.0
    load.pending = 4 + int(4 * GAP_MS)
    load.pending_ms = float(load.pending)
    assert shedding.closed_ms(load) > 0.0


# ---- on the board


def a_board(*nodes: str, concurrency: int = 1) -> tuple[ArmBoard, Clock]:
    clock = Clock()
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, clock=clock)
    for node in nodes:
        arms = [an_arm("small", node, p50_ms=400.0), an_arm("large", node, p50_ms=400.0)]
        board.announce(node, arms, concurrency, queue_limit=8)
    return board, clock


def overload(board: ArmBoard, clock: Clock, *arms: int, seconds: float = WITHIN_S) -> None:
    """These nodes have four pieces of work each and do one every half second; one more comes, ten are refused."""
    for arm in arms * 4:
        board.dispatched(arm)
    for step in range(round(seconds / 0.5) + 1):
        clock.now_s += 0.5 * bool(step)
        for arm in arms * bool(step):
            board.released(arm, 400.0)
            board.dispatched(arm)
        for _ in range(10 * len(arms)):
            board.turned_away(np.array(arms), WITHIN_S)


def test_a_standing_queue_closes_all_arms_of_its_node_and_no_others() -> None:
    board, clock = a_board("n1", "n2")
    version = board.available_changes.version
    overload(board, clock, 0)
    assert (board.closed_ms_n > 0.0).tolist() == [True, True, False, False]
    assert np.isfinite(board.closed_ms_n).all()
    assert board.available_n.all()
    assert board.available_changes.version > version


def test_control_the_same_load_without_refusals_closes_nothing() -> None:
    board, clock = a_board("n1", "n2")
    for _ in range(4):
        board.dispatched(0)
    for _ in range(20):
        board.dispatched(0)
        board.released(0, 400.0)
        clock.now_s += 0.4
    assert not board.closed_ms_n.any()


def test_refusals_of_less_time_than_requests_have_close_nothing() -> None:
    board, clock = a_board("n1")
    overload(board, clock, 0, seconds=WITHIN_S - 0.5)
    assert not board.closed_ms_n.any()


def test_refused_requests_count_in_parts_where_several_nodes_might_have_served_them() -> None:
    """Twenty refusals for two nodes that do one piece each are demand for eleven on each, not for twenty-one; and what
    comes is for either, so that each needs no more than its share of what both need together."""
    board, clock = a_board("n1", "n2")
    overload(board, clock, 0, 2)
    # Five refusals at ten a time: the last comes when it is decided.
    demand = (4 + 41) / 4
    assert {load.shedding.room for load in board.nodes.values()} == {math.ceil(shortest_queue(2, demand) / 2)}
    alone, clock = a_board("n1")
    overload(alone, clock, 0)
    assert alone.nodes["n1"].shedding.room == shortest_queue(1, demand) > 0.0


def test_a_node_with_a_free_slot_is_no_cause_of_refusals() -> None:
    board, clock = a_board("n1")
    for _ in range(10):
        board.turned_away(np.array([0]), WITHIN_S)
        clock.now_s += 1.0
    assert board.nodes["n1"].shedding == Shedding()
    board.turned_away(np.array([], dtype=np.intp), WITHIN_S)


def test_after_a_pause_a_burst_is_let_in_whole() -> None:
    board, clock = a_board("n1")
    overload(board, clock, 0)
    while board.nodes["n1"].pending:
        board.released(0, 400.0)
    clock.now_s += 10.0
    for _ in range(9):
        assert not board.closed_ms_n.any()
        board.dispatched(0)
    # Now it is full, which is something else.
    assert board.closed_ms_n[0] == math.inf


def test_control_at_once_it_is_not() -> None:
    board, clock = a_board("n1")
    overload(board, clock, 0)
    while board.nodes["n1"].pending:
        board.released(0, 400.0)
    clock.now_s += 1.0
    for _ in range(4):
        board.dispatched(0)
    assert 0.0 < board.closed_ms_n[0] < math.inf


def test_a_node_that_comes_back_keeps_what_is_known_of_it() -> None:
    board, clock = a_board("n1")
    overload(board, clock, 0)
    board.announce("n1", [an_arm("small", p50_ms=400.0), an_arm("new", p50_ms=400.0)], 1, queue_limit=8)
    assert (board.closed_ms_n[[0, 2]] > 0.0).all()
    assert (board.since_s_n == board.nodes["n1"].shedding.since_s)[[0, 2]].all()
