"""Features that are written down in place of queries: enough to learn from, and not the query."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.errors import EvidenceError
from optimizer.gate.encoder import fit_encoder
from optimizer.gate.feedback import TensorGate, fit_tensor_gate, fit_text_gate
from optimizer.gate.gate import fit_gate
from optimizer.gate.recorded import SKETCH, STATISTICS, count_text, features_of, sketch_tensor
from tests.optimizer.gate.needed import needs_native
from tests.optimizer.gate.toy import prompts, qualities


@needs_native
def test_counts_give_the_features_of_the_text() -> None:
    texts = [*prompts(60)[0], "", "one", "  ", "ünïcode ✓ 42"]
    encoder = fit_encoder(texts)
    found_qf = features_of(encoder, [count_text(text) for text in texts])
    assert np.allclose(found_qf, encoder.encode(texts), atol=1e-9)


@needs_native
def test_a_gate_from_counts_is_the_gate_from_texts() -> None:
    texts, tasks, kinds = prompts(200)
    quality_of = qualities(kinds)
    by_texts = fit_gate(texts, tasks, quality_of)
    by_counts = fit_text_gate([count_text(text) for text in texts], tasks, quality_of)
    assert np.allclose(by_counts.quality_many(texts, tasks), by_texts.quality_many(texts, tasks), atol=0.02)


@needs_native
def test_heads_learn_from_their_own_queries_alone() -> None:
    texts, tasks, kinds = prompts(300)
    full = qualities(kinds)
    # Each query was answered by one expert.
    turn_q = np.arange(300) % 3
    seen = {name: np.where(turn_q == e, quality_q, np.nan) for e, (name, quality_q) in enumerate(full.items())}
    gate = fit_text_gate([count_text(text) for text in texts], tasks, seen)
    fresh, fresh_tasks, fresh_kinds = prompts(100, seed=9)
    actual = qualities(fresh_kinds, seed=10)
    predicted_qe = gate.quality_many(fresh, fresh_tasks)
    for e, name in enumerate(gate.experts[:2]):
        assert ((predicted_qe[:, e] - actual[name]) ** 2).mean() < 0.5 * actual[name].var()


def test_a_sketch_has_fewer_numbers_than_its_tensor_and_is_linear_in_it() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((8, 8)), rng.random((8, 8))
    one, other, both = (sketch_tensor(x) for x in (a, b, a + b))
    assert one is not None and other is not None and both is not None  # noqa: PT018
    assert len(one) == SKETCH + STATISTICS < a.size
    assert np.allclose(both[:SKETCH], one[:SKETCH] + other[:SKETCH])
    # Another picture with the same sums: they cannot be solved for the pixels.
    hidden = np.linalg.svd(np.stack([_sums(k) for k in range(64)]).T)[2][-1].reshape(8, 8)
    alike = sketch_tensor(a + hidden)
    assert alike is not None
    assert np.allclose(alike[:SKETCH], one[:SKETCH], atol=1e-9)
    assert np.abs(hidden).max() > 0.1


def _sums(pixel: int) -> np.ndarray:
    unit = np.zeros(64)
    unit[pixel] = 1.0
    found = sketch_tensor(unit)
    assert found is not None
    return found[:SKETCH]


def test_signs_stay_what_they_are() -> None:
    """Heads are trained on what other versions wrote down."""
    assert [round(8.0 * float(_sums(pixel)[0])) for pixel in range(8)] == GOLDEN


GOLDEN = [-1, -1, -1, 1, 1, -1, 1, 1]


def test_what_is_not_sketched() -> None:
    assert sketch_tensor(np.zeros(63)) is None
    assert sketch_tensor(np.full(64, np.nan)) is None
    large = sketch_tensor(np.random.default_rng(0).random((3, 64, 64)))
    assert large is not None
    assert np.isfinite(large).all()


def specialists(count: int, *, seed: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Sketches of pictures that are bright above or below, who answered, and how well."""
    rng = np.random.default_rng(seed)
    above_q = rng.random(count) < 0.5
    pictures = rng.random((count, 8, 8)) * 0.5
    pictures[above_q, :4] += 0.5
    pictures[~above_q, 4:] += 0.5
    experts = [str(name) for name in rng.choice(["above", "below"], count)]
    right = (np.array(experts) == "above") == above_q
    quality_q = (rng.random(count) < np.where(right, 0.95, 0.1)).astype(np.float64)
    return np.array([sketch_tensor(p) for p in pictures]), experts, quality_q


def test_heads_of_tensors_beat_the_mean_and_survive_their_arrays() -> None:
    sketch_qf, experts, quality_q = specialists(300, seed=1)
    trained = fit_tensor_gate(sketch_qf, ["t"] * 300, experts, quality_q)
    gate = TensorGate.from_arrays(trained.to_arrays())
    fresh_qf, fresh_experts, actual_q = specialists(200, seed=2)
    for name in ("above", "below"):
        own = np.array(fresh_experts) == name
        predicted_q = gate.quality(fresh_qf[own], "t", name)
        assert ((predicted_q - actual_q[own]) ** 2).mean() < 0.6 * actual_q[own].var()


def test_gates_that_do_not_fit_together_are_refused() -> None:
    trained = fit_tensor_gate(*_few()).to_arrays()
    for name in ("weights_hf", "bias_h", "tasks_h"):
        with pytest.raises(EvidenceError):
            TensorGate.from_arrays({key: value for key, value in trained.items() if key != name})
    with pytest.raises(EvidenceError):
        TensorGate.from_arrays({**trained, "weights_hf": np.zeros((2, 3))})
    with pytest.raises(EvidenceError, match="nothing to learn"):
        fit_tensor_gate(np.zeros((1, SKETCH + STATISTICS)), ["t"], ["e"], np.ones(1))
    with pytest.raises(KeyError):
        TensorGate.from_arrays(trained).quality(np.zeros((1, SKETCH + STATISTICS)), "t", "nobody")


def _few() -> tuple[np.ndarray, list[str], list[str], np.ndarray]:
    sketch_qf, experts, quality_q = specialists(30, seed=3)
    return sketch_qf, ["t"] * 30, experts, quality_q
