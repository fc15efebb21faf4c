"""The board: what is predicted for each arm, and how results move it."""

import math

import numpy as np
import pytest

from orchestrator.fleet.arms import PRIOR_ENERGY_FACTOR, PRIOR_HOP_MS, PRIOR_LATENCY_FACTOR, ArmBoard
from tests.orchestrator.builders import a_board, an_arm


def test_before_anything_ran_the_announcement_and_priors_hold() -> None:
    board = a_board(an_arm(energy_j=0.02, p50_ms=3.0, p95_ms=5.0))
    assert board.energy_j_n[0] == 0.02
    assert board.energy_bound_j_n[0] == pytest.approx(0.02 * PRIOR_ENERGY_FACTOR)
    assert board.service_ms_n[0] == 4.0
    assert board.service_bound_ms_n[0] == 5.0 * PRIOR_LATENCY_FACTOR + PRIOR_HOP_MS
    assert board.wait_ms_n[0] == 0.0


def test_unmeasured_joules_fit_no_finite_budget() -> None:
    board = a_board(an_arm(energy_j=None))
    assert math.isinf(board.energy_bound_j_n[0])
    board.answered(0, service_ms=1.0, energy_j=0.5)
    assert math.isinf(board.energy_bound_j_n[0])


def test_waits_begin_when_all_slots_are_taken_and_count_what_is_ahead() -> None:
    board = a_board(an_arm("small", p50_ms=4.0), an_arm("large", p50_ms=10.0), concurrency=2)
    first = board.dispatched(0)
    assert board.wait_ms_n.tolist() == [0.0, 0.0]
    second = board.dispatched(1)
    assert board.wait_ms_n.tolist() == [7.0, 7.0]
    third = board.dispatched(1)
    assert board.wait_ms_n.tolist() == [12.0, 12.0]
    board.released(1, third)
    board.released(1, second)
    assert board.wait_ms_n.tolist() == [0.0, 0.0]
    board.released(0, first)
    assert (board.nodes["n1"].pending, board.nodes["n1"].pending_ms) == (0, 0.0)


def test_nodes_do_not_wait_for_each_other() -> None:
    board = a_board(an_arm(node="n1", p50_ms=4.0), an_arm(node="n2", p50_ms=4.0), concurrency=1)
    board.dispatched(0)
    assert board.wait_ms_n.tolist() == [4.0, 0.0]


def test_unroutable_arms_are_not_offered() -> None:
    board = a_board(an_arm(node="n1"), an_arm(node="n2"))
    version = board.available_changes.version
    assert board.set_routable("n1", False)
    assert [state.arm.node for state in board.arms("digits")] == ["n2"]
    assert board.available_changes.version > version
    assert not board.set_routable("n1", False)
    assert board.set_routable("n1", True)
    assert len(board.arms("digits")) == 2


def test_an_arm_keeps_its_index_and_its_history_when_its_node_returns() -> None:
    board = a_board(an_arm("small"), an_arm("large"))
    for _ in range(20):
        board.answered(0, service_ms=9.0, energy_j=0.02)
    board.announce("n1", [an_arm("large"), an_arm("small")], 2)
    index = board.index_of("small:v1@n1")
    assert index == 0
    assert board.service_ms_n[0] == 9.0
    assert board.states[0].answered == 20


def test_what_a_node_no_longer_announces_is_gone() -> None:
    board = a_board(an_arm("small"), an_arm("large"))
    board.announce("n1", [an_arm("large")], 2)
    assert [state.arm.expert for state in board.arms("digits")] == ["large"]
    board.set_routable("n1", False)
    board.set_routable("n1", True)
    assert [state.arm.expert for state in board.arms("digits")] == ["large"]


def test_joules_are_learned_per_node_and_milliseconds_per_arm() -> None:
    board = a_board(an_arm("small", energy_j=0.01), an_arm("large", energy_j=0.1), an_arm("small", "n2"))
    for _ in range(40):
        board.answered(0, service_ms=6.0, energy_j=0.02)
    assert board.energy_j_n == pytest.approx([0.02, 0.2, 0.01])
    assert board.energy_bound_j_n[:2] == pytest.approx([0.02, 0.2])
    assert board.service_ms_n == pytest.approx([6.0, 2.0, 2.0])


def test_unknown_joules_teach_nothing() -> None:
    board = a_board(an_arm(energy_j=0.01))
    for _ in range(40):
        board.answered(0, service_ms=1.0, energy_j=math.nan)
    assert board.nodes["n1"].energy_ratio.count == 0
    assert board.energy_j_n[0] == 0.01


def test_without_margins_a_bound_is_the_prediction() -> None:
    board = a_board(an_arm(energy_j=0.01), margins=False)
    assert board.energy_bound_j_n[0] == board.energy_j_n[0]
    assert board.service_bound_ms_n[0] == board.service_ms_n[0]


def test_bounds_cover_the_share_that_was_promised() -> None:
    """Actual joules scatter around the announced ones; the bound in force covers at least the quantile."""
    rng = np.random.default_rng(11)
    board = ArmBoard(energy_quantile=0.99, latency_quantile=0.99)
    board.announce("n1", [an_arm(energy_j=0.01)], 2)
    misses = 0
    for ratio in rng.lognormal(0.0, 0.3, 4000):
        misses += 0.01 * ratio > board.energy_bound_j_n[0]
        board.answered(0, service_ms=1.0, energy_j=0.01 * float(ratio))
    assert misses / 4000 <= 0.015


def test_each_change_raises_the_version_that_readers_watch() -> None:
    board = a_board(an_arm(), concurrency=1)
    before = board.wait_changes.version
    held_ms = board.dispatched(0)
    assert board.wait_changes.version > before
    assert board.loaded
    before = board.energy_changes.version
    board.answered(0, service_ms=1.0, energy_j=0.5)
    assert board.energy_changes.version > before
    before = board.wait_changes.version
    board.released(0, held_ms)
    assert board.wait_changes.version > before
    assert not board.loaded


def test_joules_that_have_not_moved_are_told_to_nobody() -> None:
    unknown = an_arm(energy_j=None)
    board = a_board(unknown)
    assert (board.energy_j_n[0], board.energy_bound_j_n[0]) == (0.0, math.inf)
    before = board.energy_changes.version
    board.announce("n1", [unknown], 2)
    assert board.energy_changes.version == before
    board.announce("n1", [an_arm(energy_j=0.5)], 2)
    assert board.energy_changes.version > before
    assert board.energy_j_n[0] == 0.5
