"""A node's queue: whether it takes more, and how long work waits there at most."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.fleet.arms import ArmBoard
from orchestrator.fleet.load import PRIOR_SPREADS, Ahead, prior_spreads
from tests.orchestrator.builders import a_board, an_arm


def a_queue(*, concurrency: int = 1, queue_limit: int | None = 2, margins: bool = True) -> ArmBoard:
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, margins=margins)
    board.announce(
        "n1", [an_arm("small", p50_ms=4.0), an_arm("large", p50_ms=4.0)], concurrency, queue_limit=queue_limit
    )
    return board


@pytest.mark.parametrize(("concurrency", "queue_limit"), [(1, 0), (1, 2), (3, 2)])
def test_a_node_is_full_when_slots_and_queue_are(concurrency: int, queue_limit: int) -> None:
    board = a_queue(concurrency=concurrency, queue_limit=queue_limit)
    held: list[float] = []
    for _ in range(concurrency + queue_limit):
        assert not board.closed_ms_n.any()
        held.append(board.dispatched(0))
    version = board.available_changes.version
    # All of a node's arms share its queue; they stay bound, they only take nothing now.
    assert (board.closed_ms_n == math.inf).all()
    assert board.available_n.all()
    assert len(board.arms("digits")) == 2
    board.released(0, held.pop())
    assert not board.closed_ms_n.any()
    assert board.available_changes.version > version


def test_a_node_without_a_limit_is_never_full() -> None:
    board = a_queue(queue_limit=None)
    for _ in range(1000):
        board.dispatched(0)
    assert not board.closed_ms_n.any()


def test_a_node_that_announces_more_room_is_open_again() -> None:
    board = a_queue(queue_limit=0)
    board.dispatched(0)
    assert (board.closed_ms_n == math.inf).all()
    board.announce("n1", [an_arm("small")], 1, queue_limit=3)
    assert not board.closed_ms_n[0]
    assert board.wait_ms_n[0] > 0.0


def test_the_bound_on_a_wait_grows_slower_than_the_wait() -> None:
    board = a_queue(queue_limit=None)
    for pending in (1, 4, 16, 64):
        while board.nodes["n1"].pending < pending:
            board.dispatched(0)
        wait_ms = 4.0 * pending
        assert board.wait_ms_n[0] == wait_ms
        assert board.wait_bound_ms_n[0] == pytest.approx(wait_ms * (1.0 + PRIOR_SPREADS[0] / math.sqrt(pending)))


def test_before_waits_were_seen_they_stray_as_the_announced_times_do() -> None:
    """2.33 standard deviations of a lognormal time whose 95 % quantile is twice its median."""
    even, uneven = an_arm(p50_ms=4.0, p95_ms=4.0), an_arm(p50_ms=4.0, p95_ms=8.0)
    assert prior_spreads([even]) == prior_spreads([]) == PRIOR_SPREADS[0]
    drawn = np.exp(np.random.default_rng(0).normal(0.0, math.log(2.0) / 1.645, 200_000))
    assert prior_spreads([even, uneven]) == pytest.approx(2.33 * drawn.std(), rel=0.02)
    assert prior_spreads([an_arm(p50_ms=1e-9, p95_ms=1e9)]) == PRIOR_SPREADS[1]


def test_the_bound_covers_sums_of_times_like_those_that_were_seen() -> None:
    """Times of a sigma of 0.6 around a median that is told too low: nine of ten waits stay below the bound."""
    rng = np.random.default_rng(5)
    board, covered = a_queue(queue_limit=None), []
    load = board.nodes["n1"]
    for seen in range(3000):
        ahead = int(rng.integers(1, 30))
        actual_ms = float(np.exp(rng.normal(math.log(5.0), 0.6, ahead)).sum())
        load.pending, load.pending_ms = ahead, 4.0 * ahead
        covered.append(actual_ms <= load.wait_bound_ms)
        board.waited(0, Ahead(ahead, 4.0 * ahead), actual_ms)
        if seen == 0:
            assert load.wait_bound_ms > load.wait_ms
    assert 0.87 <= np.mean(covered[500:]) <= 0.94


def test_what_a_node_says_of_its_queue_is_checked() -> None:
    board = a_queue()
    before = board.nodes["n1"].wait_error.count
    for told_ms in (math.nan, math.inf, -1.0):
        board.waited(0, Ahead(2, 8.0), told_ms)
    board.waited(0, Ahead(0, 0.0), 3.0)
    assert board.nodes["n1"].wait_error.count == before
    board.waited(0, Ahead(2, 8.0), 9.0)
    assert board.nodes["n1"].wait_error.count == before + 1


def test_waits_shorter_than_expected_lower_no_bound_below_what_is_expected() -> None:
    board = a_queue(queue_limit=None)
    for _ in range(200):
        board.waited(0, Ahead(4, 16.0), 1.0)
    board.dispatched(0)
    assert board.wait_bound_ms_n[0] == board.wait_ms_n[0] == 4.0


def test_without_margins_the_bound_is_the_prediction() -> None:
    board = a_queue(queue_limit=None, margins=False)
    board.waited(0, Ahead(4, 16.0), 100.0)
    board.dispatched(0)
    assert board.wait_bound_ms_n[0] == board.wait_ms_n[0] > 0.0


def test_a_device_that_changes_is_learned_anew() -> None:
    board = a_board(an_arm(p50_ms=4.0), concurrency=1)
    for _ in range(100):
        board.waited(0, Ahead(4, 16.0), 64.0)
    learned = board.nodes["n1"].wait_error.bound
    board.forget("n1")
    assert (board.nodes["n1"].wait_error.count, board.nodes["n1"].wait_error.bound) == (0, learned)
