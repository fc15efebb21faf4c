"""Why there is no softmax over experts: restricted to a subset, the gate that is optimal for all is optimal no more.

arXiv 2501.09410 claims the contrary. Three experts with the distributions below over three labels, trained by
cross-entropy: the best mixture of all three, restricted to two and renormalised, is worse than the best mixture of the
two. Heads that stand alone have nothing to renormalise.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizer.gate.gate import TextGate, fit_gate
from tests.optimizer.gate.needed import needs_native

Floats = NDArray[np.float64]

P_EL = np.array([[0.80, 0.10, 0.10], [0.70, 0.20, 0.10], [0.05, 0.05, 0.90]])
SHARE_L = np.array([0.45, 0.10, 0.45])


def cross_entropy(weights_e: Floats, p_el: Floats) -> float:
    """Of a mixture of experts."""
    return float(-SHARE_L @ np.log(weights_e @ p_el))


def optimal(p_el: Floats) -> Floats:
    """Weights of the best mixture, by expectation maximisation (the problem is concave in the weights)."""
    weights_e = np.full(len(p_el), 1.0 / len(p_el))
    for _ in range(200_000):
        share_el = weights_e[:, None] * p_el
        step_e = (share_el / share_el.sum(axis=0)) @ SHARE_L
        if np.abs(step_e - weights_e).max() < 1e-15:
            break
        weights_e = step_e
    return weights_e


def test_the_naive_gate_loses_its_optimality_on_a_subset() -> None:
    whole_e = optimal(P_EL)
    assert whole_e == pytest.approx([0.344, 0.219, 0.438], abs=2e-3)
    rest = [1, 2]
    restricted_e = whole_e[rest] / whole_e[rest].sum()
    assert cross_entropy(restricted_e, P_EL[rest]) == pytest.approx(1.031, abs=1e-3)
    assert cross_entropy(optimal(P_EL[rest]), P_EL[rest]) == pytest.approx(0.955, abs=1e-3)


@pytest.mark.parametrize("rest", [[0, 1], [0, 2], [1, 2]])
def test_the_naive_gate_loses_it_on_every_pair(rest: list[int]) -> None:
    """The control of the test below: one expert alone leaves nothing to weigh, and every pair shows the loss."""
    whole_e = optimal(P_EL)
    restricted_e = whole_e[rest] / whole_e[rest].sum()
    assert cross_entropy(restricted_e, P_EL[rest]) > cross_entropy(optimal(P_EL[rest]), P_EL[rest]) + 1e-3


@needs_native
def test_our_gate_is_the_same_on_every_subset_of_them() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=400, p=SHARE_L)
    texts = [f"sign {'abc'[label]} of {q % 7}" for q, label in enumerate(labels)]
    quality_of = {name: P_EL[e, labels] for e, name in enumerate("ABC")}
    whole = fit_gate(texts, ["t"] * 400, quality_of)
    for size in (1, 2, 3):
        for subset in combinations("ABC", size):
            trained_on_it = fit_gate(texts, ["t"] * 400, {name: quality_of[name] for name in subset})
            assert _loss(whole.take(subset), texts, quality_of) == _loss(trained_on_it, texts, quality_of)


def _loss(gate: TextGate, texts: list[str], quality_of: dict[str, Floats]) -> float:
    estimated = gate.quality_many(texts, ["t"] * len(texts))
    actual = np.column_stack([quality_of[name] for name in gate.experts])
    return float(((estimated - actual) ** 2).mean())
