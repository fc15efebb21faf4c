"""The mass criterion by hand, and what must hold for any scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.pruning.mass import firing_order, group_scores, keep_by_mass, threshold_for


def test_strongest_first_until_the_mass_is_full() -> None:
    score = np.array([[1.0, 5.0, 0.0, 4.0], [2.5, 2.5, 2.5, 2.5]])
    assert keep_by_mass(score, 0.9).tolist() == [[False, True, False, True], [True, True, True, False]]
    assert keep_by_mass(score, 0.5).tolist() == [[False, True, False, False], [True, True, False, False]]


def test_mass_one_drops_only_the_silent() -> None:
    assert keep_by_mass(np.array([[1.0, 0.0, 3.0], [0.0, 0.0, 2.0]]), 1.0).tolist() == [
        [True, False, True],
        [False, False, True],
    ]


def test_an_image_for_which_nothing_fires_keeps_one_group() -> None:
    assert keep_by_mass(np.zeros((1, 4)), 0.5).sum() == 1


@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(0, 1))
def test_a_larger_mass_keeps_a_superset(seed: int, groups: int, mass: float) -> None:
    score = np.random.default_rng(seed).random((7, groups))
    less, more = keep_by_mass(score, mass / 2), keep_by_mass(score, mass)
    assert (less <= more).all()
    assert less.any(axis=1).all()
    kept = (score * more).sum(axis=1) / score.sum(axis=1)
    assert ((kept <= mass + 1e-6) | (more.sum(axis=1) == 1)).all()


def test_groups_sum_their_filters() -> None:
    assert group_scores(np.arange(40.0)[None], 16).tolist() == [[120.0, 376.0, 284.0]]


@given(st.integers(0, 10**6), st.floats(0.01, 0.99))
def test_a_threshold_keeps_the_share_that_was_asked_for(seed: int, keep: float) -> None:
    logits = np.random.default_rng(seed).standard_normal((200, 5)).astype(np.float32)
    mask = logits > threshold_for(logits, keep)
    mask[np.arange(200), logits.argmax(axis=1)] = True
    # One of five is always kept.
    assert mask.mean() == pytest.approx(max(keep, 0.2), abs=0.002)


def test_filters_that_fire_together_become_neighbours() -> None:
    chance = np.random.default_rng(0)
    wanted = chance.random((300, 1))
    kinds = chance.permutation([0] * 16 + [1] * 16)
    score = np.where(kinds == 0, wanted, 1 - wanted) + 0.05 * chance.random((300, 32))
    score = np.concatenate([score, np.zeros((300, 2))], axis=1)
    order = firing_order(score)
    assert sorted(order.tolist()) == list(range(34))
    assert len(set(kinds[order[:16]].tolist())) == 1
    assert set(order[-2:].tolist()) == {32, 33}
