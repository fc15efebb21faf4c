"""What an answer says of itself: lengths count where they tell, and nothing counts the wrong way."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.heads.confidence import Confidence, fit_confidence

RNG = np.random.default_rng(0)
RIGHT_Q = (RNG.random(600) < 0.6).astype(np.float64)
SURE_Q = np.clip(0.5 + 0.25 * (RIGHT_Q - 0.5) + RNG.normal(scale=0.15, size=600), 0.0, 1.0)
LONG_Q = np.where(RIGHT_Q > 0.5, RNG.integers(3, 9, 600), RNG.integers(3, 30, 600)).astype(np.float64)


def loss(chance_q: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(-np.where(RIGHT_Q > 0.5, np.log(chance_q), np.log(1.0 - chance_q)).mean())


def test_lengths_count_beyond_a_quantile_where_they_tell_and_brevity_makes_nobody_surer() -> None:
    fitted, unseen_q = fit_confidence(SURE_Q, LONG_Q, RIGHT_Q)
    margin_alone, alone_q = fit_confidence(SURE_Q, None, RIGHT_Q)
    assert fitted.length > 0.0
    assert 3.0 <= fitted.usual_tokens < 20.0
    assert loss(unseen_q) < loss(alone_q) - 0.05
    usual = fitted.usual_tokens
    assert fitted.chance(0.6, 1) == fitted.chance(0.6, usual) > fitted.chance(0.6, usual + 5) > fitted.chance(0.6, 60)
    assert fitted.chance(0.6, None) == fitted.chance(0.6, usual)
    assert margin_alone.length == 0.0


@pytest.mark.parametrize("tokens_q", [RNG.permutation(LONG_Q), np.full(600, 7.0), 40.0 - LONG_Q])
def test_lengths_that_tell_nothing_or_the_wrong_thing_do_not_count(
    tokens_q: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> None:
    fitted, unseen_q = fit_confidence(SURE_Q, tokens_q, RIGHT_Q)
    assert fitted.length == 0.0
    np.testing.assert_array_equal(unseen_q, fit_confidence(SURE_Q, None, RIGHT_Q)[1])


def test_a_margin_never_counts_against_its_answer() -> None:
    fitted, _ = fit_confidence(1.0 - SURE_Q, None, RIGHT_Q)
    assert fitted.margin == 0.0
    assert fitted.chance(0.1, None) == fitted.chance(0.9, None) == pytest.approx(RIGHT_Q.mean(), abs=0.01)


def test_many_answers_are_judged_as_one_is() -> None:
    one = Confidence(margin=0.7, length=2.0, offset=-0.3, usual_tokens=6.0)
    margin_q, tokens_q = np.array([0.0, 0.4, 1.0]), np.array([3.0, 12.0, 60.0])
    expected = [one.chance(float(m), float(t)) for m, t in zip(margin_q, tokens_q, strict=True)]
    np.testing.assert_allclose(one.chances(margin_q, tokens_q), expected)
