"""From scores to tokens."""

import numpy as np
import pytest

from nodes.worker.text.sampling import draw, kept, margin, probabilities


def test_probabilities_at_a_temperature() -> None:
    logits_v = np.log(np.array([0.5, 0.3, 0.2]))
    np.testing.assert_allclose(probabilities(logits_v), [0.5, 0.3, 0.2])
    cold_v = probabilities(logits_v, 0.5)
    np.testing.assert_allclose(cold_v, np.array([25, 9, 4]) / 38)


@pytest.mark.parametrize(("top_p", "expected"), [(1.0, [0.2, 0.5, 0.3]), (0.6, [0, 0.625, 0.375]), (0.0, [0, 1, 0])])
def test_top_p_keeps_the_fewest_that_make_it_up(top_p: float, expected: list[float]) -> None:
    np.testing.assert_allclose(kept(np.array([0.2, 0.5, 0.3]), top_p), expected)


def test_draw_follows_the_probabilities_and_never_leaves_the_range() -> None:
    probability_v = np.array([0.2, 0.0, 0.8])
    assert [draw(probability_v, uniform) for uniform in (0.0, 0.19, 0.21, 1.0 - 1e-16)] == [0, 0, 2, 2]


def test_margin_is_first_minus_second() -> None:
    assert margin(np.array([0.1, 0.6, 0.3])) == pytest.approx(0.3)
