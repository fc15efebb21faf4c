"""Milliseconds on top of what was announced: arms share them until they were observed often enough themselves."""

import numpy as np
import pytest

from orchestrator.fleet.arms import PRIOR_HOP_MS, PRIOR_LATENCY_FACTOR, ArmBoard
from tests.orchestrator.builders import a_board, an_arm

# From 400 observations on, four lie beyond the 99 % quantile: what was observed stands for itself.
ENOUGH = 400


def _observe(board: ArmBoard, index: int, service_ms: float, *, times: int) -> None:
    for _ in range(times):
        board.answered(index, service_ms=service_ms, energy_j=0.01)


@pytest.fixture
def board() -> ArmBoard:
    """`small` and `large` on n1, `small` on n2; each announces a p95 of 2 ms."""
    return a_board(an_arm(), an_arm("large"), an_arm(node="n2"), latency_quantile=0.99)


def _announced_ms(added_ms: float) -> float:
    return 2.0 * PRIOR_LATENCY_FACTOR + added_ms


def test_an_arm_that_was_never_asked_learns_from_its_node_and_from_the_fleet(board: ArmBoard) -> None:
    assert board.service_bound_ms_n[1] == _announced_ms(PRIOR_HOP_MS)
    _observe(board, 0, 4.0, times=ENOUGH)
    assert board.service_bound_ms_n == pytest.approx([4.0, _announced_ms(1.0), _announced_ms(1.0)])


def test_a_node_that_was_observed_enough_stands_for_itself(board: ArmBoard) -> None:
    _observe(board, 0, 4.0, times=ENOUGH)
    _observe(board, 2, 53.0, times=ENOUGH)
    assert board.service_bound_ms_n == pytest.approx([4.0, _announced_ms(1.0), 53.0])


def test_one_outlier_among_few_is_no_evidence_but_two_are(board: ArmBoard) -> None:
    _observe(board, 0, 4.0, times=ENOUGH)
    _observe(board, 1, 30.0, times=1)
    assert board.service_bound_ms_n[1] == pytest.approx(_announced_ms(1.0))
    assert board.service_ms_n[1] == 2.0
    _observe(board, 1, 20.0, times=1)
    assert board.service_bound_ms_n[1] >= 20.0


def test_before_anything_is_known_one_slow_answer_counts_for_all(board: ArmBoard) -> None:
    _observe(board, 0, 40.0, times=1)
    assert board.service_bound_ms_n == pytest.approx([40.0, 40.0, 40.0])


def test_a_node_that_is_slower_than_the_fleet_is_believed_before_it_is_settled(board: ArmBoard) -> None:
    _observe(board, 0, 4.0, times=ENOUGH)
    _observe(board, 2, 53.0, times=20)
    assert board.service_bound_ms_n[2] == 53.0
    assert board.service_bound_ms_n[1] == pytest.approx(_announced_ms(1.0))


def test_nobody_is_taken_for_faster_than_announced(board: ArmBoard) -> None:
    _observe(board, 0, 0.5, times=ENOUGH)
    assert board.service_bound_ms_n[1] == pytest.approx(_announced_ms(0.0))


@pytest.mark.parametrize("seed", range(5))
def test_what_is_spread_to_all_at_once_is_what_each_arm_would_be_given(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.fleet.arms.SPREAD_FRACTION", 0.0)
    rng = np.random.default_rng(seed)
    arms = {f"n{n}": [an_arm(node=f"n{n}"), an_arm("large", f"n{n}", p95_ms=float(n + 1))] for n in range(6)}
    board = a_board(*(arm for both in arms.values() for arm in both), latency_quantile=0.99)
    # Some arms are asked often, some nodes never.
    for _ in range(600):
        arm = min(int(rng.exponential(2.0)), 9)
        _observe(board, arm, float(rng.lognormal(2.0, 1.0)), times=1)
    spread = board.service_bound_ms_n.copy()
    for node, both in arms.items():
        board.announce(node, both, 1)
    assert spread.tolist() == board.service_bound_ms_n.tolist()
    assert len(set(spread.tolist())) > 4
