"""Honest costs, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nodes.pruning.cost import Layer, dense_macs, reduction, sample_macs


def chain() -> list[Layer]:
    return [
        Layer("stem", 3, 16, taps=9, pixels=100),
        Layer("a", 16, 64, taps=9, pixels=100, gated=True, predictor_macs=16 * 4),
        Layer("b", 64, 40, taps=9, pixels=25, source="a", gated=True, predictor_macs=64 * 3),
        Layer("head", 40, 10, taps=1, pixels=1, source="b"),
    ]


def masks(a: list[int], b: list[int]) -> dict[str, np.ndarray]:
    return {"a": np.array([a], dtype=bool), "b": np.array([b], dtype=bool)}


def test_a_chain() -> None:
    stem, predictors = 3 * 16 * 900, 64 + 192
    assert dense_macs(chain()) == stem + 16 * 64 * 900 + 64 * 40 * 225 + 400
    found = sample_macs(chain(), masks([1, 0, 1, 0], [0, 1, 1]), 1)[0]
    # The last group of 40 channels has 8.
    assert found == stem + 16 * 32 * 900 + 32 * 24 * 225 + 24 * 10 + predictors


def test_predictors_can_cost_more_than_masks_save() -> None:
    assert reduction(chain(), masks([1, 1, 1, 1], [1, 1, 1])) < 0


def test_an_unpruned_input_is_charged_in_full() -> None:
    layers = [
        Layer("a", 16, 32, taps=9, pixels=10, gated=True),
        # Reads a residual sum: whatever "a" left out, the sum has all channels.
        Layer("b", 32, 32, taps=9, pixels=10, gated=True),
    ]
    found = sample_macs(layers, {"a": np.array([[1, 0]]) > 0, "b": np.array([[0, 1]]) > 0}, 1)[0]
    assert found == 16 * 16 * 90 + 32 * 16 * 90


def test_depthwise_is_not_free() -> None:
    layers = [
        Layer("a", 16, 64, taps=1, pixels=50, gated=True),
        Layer("d", 64, 64, taps=9, pixels=50, source="a", depthwise=True, group=1),
    ]
    assert dense_macs(layers) == 16 * 64 * 50 + 64 * 9 * 50
    # The depthwise part filters the channels that are there, which its own outputs are too.
    found = sample_macs(layers, {"a": np.array([[1, 0, 1, 1]]) > 0}, 1)[0]
    assert found == 16 * 48 * 50 + 48 * 9 * 50


def test_samples_are_counted_one_by_one() -> None:
    two = {"a": np.array([[1, 0, 0, 0], [1, 1, 1, 1]]) > 0, "b": np.array([[1, 0, 0], [1, 1, 1]]) > 0}
    few, many = sample_macs(chain(), two, 2)
    assert few < many
    assert reduction(chain(), two) == pytest.approx(1 - (few + many) / 2 / dense_macs(chain()))
