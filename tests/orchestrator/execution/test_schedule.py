"""Whose turn comes when: reproducible, by weight, the draws that nodes make, and what that costs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nodes.worker.text.mixing import Mixture
from nodes.worker.text.sampling import draw
from orchestrator.execution.schedule import Rates, Schedule, paid_tokens
from tests.fakes.language import FixedModel, lanes


def test_turns_are_those_that_a_mixture_in_one_process_draws() -> None:
    weights = [0.5, 0.3, 0.2]
    schedule = Schedule(weights, seed=11)
    uniforms = np.random.Generator(np.random.PCG64(11)).random(2000)[::2]
    weight_e = Mixture([FixedModel(np.ones(4) / 4)] * 3, weights).weight_e  # type: ignore[list-item]
    assert [schedule.expert(place) for place in range(1000)] == [draw(weight_e, float(u)) for u in uniforms]
    text = lanes([FixedModel(np.ones(4) / 4) for _ in range(3)], weights, seed=11)
    for place in range(50):
        ((model, row),) = text.plan()
        assert model is text._mixture.models[schedule.expert(place)]
        text.choose([model.step([row])[0]])


def test_turns_come_by_weight_and_runs_are_known_in_advance() -> None:
    schedule = Schedule([6.0, 3.0, 1.0], seed=0)
    turns = [schedule.expert(place) for place in range(20_000)]
    expected = 20_000 * np.array([0.6, 0.3, 0.1])
    assert stats.chisquare(np.bincount(turns), expected).pvalue > 0.001
    assert stats.chisquare(np.bincount(turns), 20_000 * np.array([0.57, 0.33, 0.1])).pvalue < 1e-6
    place, told = 0, []
    while place < 500:
        expert, count = schedule.run(place, 8)
        assert 1 <= count <= 8
        told += [expert] * count
        place += count
    assert told[:500] == turns[:500]


def test_who_is_left_takes_over_by_weight() -> None:
    schedule = Schedule([0.5, 0.3, 0.2], seed=3)
    assert schedule.lose(1)
    turns = np.bincount([schedule.expert(place) for place in range(20_000)], minlength=3)
    assert turns[1] == 0
    assert turns[0] / turns[2] == pytest.approx(2.5, rel=0.1)
    assert schedule.lose(0)
    assert {schedule.expert(place) for place in range(100)} == {2}
    assert not schedule.lose(2)


def test_a_text_is_as_long_as_its_joules_pay_for() -> None:
    rates = [Rates(1.0, 0.1, 0.5), Rates(2.0, 0.2, 1.0)]
    schedule = Schedule([1.0, 1.0], seed=5)

    def cost(tokens: int) -> float:
        """Token by token, as nodes would tell it."""
        joules, read = 0.0, [-1, -1]
        for place in range(tokens):
            expert = schedule.expert(place)
            joules += rates[expert].once_j if read[expert] < 0 else 0.0
            joules += rates[expert].written_j + rates[expert].heard_j * max(0, place - max(read[expert], 0) - 1)
            read[expert] = place + 1
        return joules

    for allowed_j in (0.4, 3.0, 10.0, 33.3):
        tokens = paid_tokens(schedule, rates, allowed_j=allowed_j, known=[-1, -1], most=1000)
        assert cost(tokens) <= allowed_j < cost(tokens + 1)
    assert paid_tokens(schedule, rates, allowed_j=float("inf"), known=[-1, -1], most=77) == 77
    assert paid_tokens(schedule, rates, allowed_j=0.4, known=[-1, -1], most=9) == 0
