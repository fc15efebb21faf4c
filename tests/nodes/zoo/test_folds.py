"""The answers of all folds that the quality benchmark reads, and the recipe that made them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nodes.zoo.arrays import read_arrays
from nodes.zoo.catalog import Catalog, ExpertCard, load_catalog

Arrays = dict[str, NDArray[Any]]
FOLDS_FILE = Path(__file__).parents[2] / "bench" / "data" / "digits_folds.npz"


@pytest.fixture(scope="module")
def folds() -> Arrays:
    return read_arrays(FOLDS_FILE)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def judged(catalog: Catalog) -> list[ExpertCard]:
    """The experts whose answers to all folds are recorded: not the self-pruning ones."""
    return [card for card in catalog.experts if card.engine == "onnx"]


def test_every_row_has_one_fold(folds: Arrays) -> None:
    assert folds["fold"].shape == folds["labels"].shape == (1797,)
    assert np.bincount(folds["fold"]).tolist() == [360, 360, 359, 359, 359]


def test_shipped_evidence_is_the_inner_answers_of_fold_0(folds: Arrays, catalog: Catalog) -> None:
    rows = folds["fold"] != 0
    np.testing.assert_array_equal(folds["labels"][rows], catalog.reference.labels_n)
    shipped = read_arrays(catalog.folder / catalog.task.evidence.file)
    for card in judged(catalog):
        np.testing.assert_array_equal(folds[f"inner_{card.name}"][0][rows], shipped[card.evidence_key])


def test_shipped_experts_are_the_outer_models_of_fold_0(folds: Arrays, catalog: Catalog) -> None:
    rows = folds["fold"] == 0
    for card in judged(catalog):
        right = folds[f"outer_{card.name}"][rows].argmax(1) == folds["labels"][rows]
        assert right.mean() == pytest.approx(card.quality.accuracy_fraction, abs=1e-12)


def test_inner_answers_exist_exactly_outside_their_outer_fold(folds: Arrays, catalog: Catalog) -> None:
    for card in judged(catalog):
        inner_knc = folds[f"inner_{card.name}"]
        assert inner_knc.shape == (5, 1797, 10)
        for outer_fold in range(5):
            answered = inner_knc[outer_fold].any(axis=1)
            np.testing.assert_array_equal(answered, folds["fold"] != outer_fold)


def test_evidence_is_as_good_as_models_trained_on_one_more_fold(folds: Arrays, catalog: Catalog) -> None:
    """On the same digits, so only the smaller training set may tell."""
    rows = folds["fold"] != 0
    labels_n = folds["labels"][rows]
    for card in judged(catalog):
        outer, inner = folds[f"outer_{card.name}"][rows], folds[f"inner_{card.name}"][0][rows]
        loss = np.mean(outer.argmax(1) == labels_n) - np.mean(inner.argmax(1) == labels_n)
        assert abs(loss) <= 0.01, card.name


def test_pair_models_answer_both_of_their_folds_differently_from_outer_models(folds: Arrays, catalog: Catalog) -> None:
    for card in judged(catalog):
        outer = folds[f"outer_{card.name}"]
        for outer_fold in range(5):
            rows = folds["fold"] != outer_fold
            assert (folds[f"inner_{card.name}"][outer_fold][rows] != outer[rows]).any()
