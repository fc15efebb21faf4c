"""What an answer says of itself: readings count where they tell, in each topic, and nothing counts the wrong way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizer.heads.confidence import Answered, Confidence, fit_confidence

Floats = NDArray[np.float64]
RNG = np.random.default_rng(0)
RIGHT_Q = (RNG.random(600) < 0.6).astype(np.float64)
SURE_Q = np.clip(0.5 + 0.25 * (RIGHT_Q - 0.5) + RNG.normal(scale=0.15, size=600), 0.0, 1.0)
LONG_Q = np.where(RIGHT_Q > 0.5, RNG.integers(3, 9, 600), RNG.integers(3, 30, 600)).astype(np.float64)
PLAIN = Answered(RIGHT_Q, SURE_Q, None, np.zeros(600), np.zeros(600, dtype=np.int64), 1)


def loss(chance_q: Floats, right_q: Floats = RIGHT_Q) -> float:
    return float(-np.where(right_q > 0.5, np.log(chance_q), np.log(1.0 - chance_q)).mean())


def chance(one: Confidence, margin: float, tokens: float | None, foreseen: float = 0.0, topic: int = 0) -> float:
    return one.chance(margin, tokens, foreseen=foreseen, topic=topic)


def test_lengths_count_beyond_a_quantile_where_they_tell_and_brevity_makes_nobody_surer() -> None:
    fitted, unseen_q = fit_confidence(replace(PLAIN, tokens_q=LONG_Q))
    margin_alone, alone_q = fit_confidence(PLAIN)
    assert 3.0 <= fitted.usual_tokens < 20.0
    assert loss(unseen_q) < loss(alone_q) - 0.05
    usual = fitted.usual_tokens
    assert chance(fitted, 0.6, 1) == chance(fitted, 0.6, usual)
    assert chance(fitted, 0.6, usual) > chance(fitted, 0.6, usual + 5) > chance(fitted, 0.6, 60)
    assert chance(fitted, 0.6, None) == chance(fitted, 0.6, usual)
    assert chance(margin_alone, 0.6, 60) == chance(margin_alone, 0.6, None)


@pytest.mark.parametrize("tokens_q", [RNG.permutation(LONG_Q), np.full(600, 7.0), 40.0 - LONG_Q])
def test_lengths_that_tell_nothing_or_the_wrong_thing_do_not_count(tokens_q: Floats) -> None:
    fitted, unseen_q = fit_confidence(replace(PLAIN, tokens_q=tokens_q))
    assert chance(fitted, 0.6, 60) == chance(fitted, 0.6, None)
    np.testing.assert_array_equal(unseen_q, fit_confidence(PLAIN)[1])


def test_neither_a_margin_nor_what_was_foreseen_ever_counts_against_an_answer() -> None:
    fitted, _ = fit_confidence(replace(PLAIN, margin_q=1.0 - SURE_Q, foreseen_q=-RIGHT_Q))
    assert (fitted.weights_t3[:, [0, 2]] == 0.0).all()
    assert chance(fitted, 0.1, None, 3.0) == chance(fitted, 0.9, None) == pytest.approx(RIGHT_Q.mean(), abs=0.01)


def test_an_expert_that_is_sure_of_itself_where_it_is_known_to_be_bad_is_not_believed() -> None:
    rng = np.random.default_rng(1)
    good_q = rng.random(2_000) < 0.5
    right_q = (rng.random(2_000) < np.where(good_q, 0.95, 0.05)).astype(np.float64)
    sure_q = rng.uniform(0.8, 0.99, 2_000)
    foreseen_q = np.where(good_q, 2.0, -2.0) + rng.normal(scale=0.5, size=2_000)
    told = Answered(right_q, sure_q, None, foreseen_q, np.zeros(2_000, dtype=np.int64), 1)
    fitted, unseen_q = fit_confidence(told)
    assert chance(fitted, 0.9, None, -2.0) < 0.15 < 0.85 < chance(fitted, 0.9, None, 2.0)
    # The control: who was told nothing believes it.
    assert loss(unseen_q, right_q) < loss(fit_confidence(replace(told, foreseen_q=np.zeros(2_000)))[1], right_q) - 0.3


def test_a_margin_may_tell_in_one_topic_and_not_in_another_and_a_topic_with_few_answers_borrows() -> None:
    rng = np.random.default_rng(2)
    topic_q = rng.permutation(np.repeat([0, 1, 2], [1_000, 1_000, 4]))
    right_q = (rng.random(2_004) < 0.5).astype(np.float64)
    telling_q = np.clip(0.5 + 0.35 * (right_q - 0.5) + rng.normal(scale=0.1, size=2_004), 0.01, 0.99)
    margin_q = np.where(topic_q == 1, rng.permutation(telling_q), telling_q)
    told = Answered(right_q, margin_q, None, np.zeros(2_004), topic_q, 4)
    fitted, unseen_q = fit_confidence(told)
    rise_t = [chance(fitted, 0.8, None, topic=t) - chance(fitted, 0.2, None, topic=t) for t in range(4)]
    assert rise_t[0] > 0.9 > 0.3 > abs(rise_t[1])
    assert rise_t[2] > 0.5
    # A topic without any answer has the line of all.
    assert rise_t[3] > 0.5
    together_q = fit_confidence(replace(told, topic_q=np.zeros(2_004, dtype=np.int64), topics=1))[1]
    assert loss(unseen_q, right_q) < loss(together_q, right_q) - 0.05


def test_many_answers_are_judged_as_one_is() -> None:
    one = Confidence(np.array([[0.7, 2.0, 0.5], [0.1, 0.0, 1.0]]), np.array([-0.3, 0.4]), usual_tokens=6.0)
    margin_q, tokens_q = np.array([0.0, 0.4, 1.0]), np.array([3.0, 12.0, 60.0])
    foreseen_q, topic_q = np.array([-1.0, 0.0, 2.0]), np.array([0, 1, 0])
    expected = [chance(one, *answer) for answer in zip(margin_q, tokens_q, foreseen_q, topic_q, strict=True)]
    np.testing.assert_allclose(one.chances(margin_q, tokens_q, foreseen_q=foreseen_q, topic_q=topic_q), expected)
