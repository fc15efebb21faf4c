"""The most probable token of an average of which only the tops are known: right, or left open."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.execution.averaging import most_probable
from orchestrator.types import Delta

WEIGHTS = [0.5, 0.3, 0.2]


def distribution(rng: np.random.Generator, sharp: float) -> NDArray[np.float64]:
    return rng.dirichlet(np.full(60, sharp))


def tops(probability_v: NDArray[np.float64], count: int) -> Delta:
    best = np.argsort(-probability_v, kind="stable")[:count]
    return Delta(0, "", (), top_ids=tuple(best.tolist()), top_probabilities=probability_v[best])


@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.2, 1.0]), st.integers(1, 60))
def test_what_is_decided_is_what_whole_distributions_decide(seed: int, sharp: float, count: int) -> None:
    rng = np.random.default_rng(seed)
    probability_ev = [distribution(rng, sharp) for _ in WEIGHTS]
    averaged_v = sum(w * one for w, one in zip(WEIGHTS, probability_ev, strict=True))
    found = most_probable([tops(one, count) for one in probability_ev], WEIGHTS)
    assert found in (None, int(np.argmax(averaged_v)))
    if count == 60:
        assert found is not None
    whole = [Delta(0, "", (), top_probabilities=one) for one in probability_ev]
    assert most_probable(whole, WEIGHTS) == int(np.argmax(averaged_v))


def test_what_tops_cannot_decide_is_left_open() -> None:
    """Two experts that agree on a second choice which neither tells."""
    one, two = np.zeros(60), np.zeros(60)
    one[[0, 7]] = 0.52, 0.48
    two[[1, 7]] = 0.52, 0.48
    assert most_probable([tops(one, 1), tops(two, 1)], [0.5, 0.5]) is None
    assert most_probable([tops(one, 2), tops(two, 2)], [0.5, 0.5]) == 7
    mixed = [tops(one, 2), Delta(0, "", (), top_probabilities=two)]
    assert most_probable(mixed, [0.5, 0.5]) == 7


def test_an_expert_that_told_nothing_is_a_fault() -> None:
    with pytest.raises(ValueError, match="told nothing"):
        most_probable([Delta(0, "", ())], [1.0])
