"""Heads stand alone: whoever else is in the gate, an expert's estimate is the same, to the last bit."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.errors import EvidenceError
from optimizer.gate import reference
from optimizer.gate.design import make_design
from optimizer.gate.encoder import Encoder, fit_encoder
from optimizer.gate.gate import TextGate, fit_gate
from optimizer.gate.head import fit_head
from tests.optimizer.gate.needed import needs_native
from tests.optimizer.gate.toy import prompts, qualities

pytestmark = needs_native

TEXTS, TASKS, KINDS = prompts(300)
QUALITY_OF = qualities(KINDS)


@pytest.fixture(scope="module")
def gate() -> TextGate:
    return fit_gate(TEXTS, TASKS, QUALITY_OF)


def test_the_gate_learns_what_only_the_text_tells(gate: TextGate) -> None:
    fresh, tasks, kinds = prompts(200, seed=9)
    quality_qe = gate.quality_many(fresh, tasks)
    best = [gate.experts[e] for e in quality_qe[:, :2].argmax(axis=1)]
    right = [{"sum": "adder", "verse": "poet"}[kind] == name for kind, name in zip(kinds, best, strict=True)]
    assert np.mean(right) > 0.97
    assert all(head.calibration_error < 0.12 for head in gate.heads)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.sampled_from(["chat", "exam", "", "never seen"]))
def test_every_subset_keeps_every_estimate(text: str, task: str) -> None:
    gate = _trained()
    whole = dict(zip(gate.experts, gate.quality(text, task).tolist(), strict=True))
    for size in range(1, len(gate.experts) + 1):
        for subset in combinations(gate.experts, size):
            assert gate.take(subset).quality(text, task).tolist() == [whole[name] for name in subset]


_GATES: list[TextGate] = []


def _trained() -> TextGate:
    if not _GATES:
        _GATES.append(fit_gate(TEXTS, TASKS, QUALITY_OF))
    return _GATES[0]


def test_training_without_the_others_gives_the_same_head(gate: TextGate) -> None:
    for name, quality_q in QUALITY_OF.items():
        alone = fit_gate(TEXTS, TASKS, {name: quality_q})
        head = gate.heads[gate.experts.index(name)]
        np.testing.assert_array_equal(alone.heads[0].weights_tf, head.weights_tf)
        np.testing.assert_array_equal(alone.heads[0].bias_t, head.bias_t)


def test_a_new_expert_joins_and_nobody_else_is_touched(gate: TextGate) -> None:
    others = gate.take(["adder", "giant"])
    head = others.learn(TEXTS, TASKS, QUALITY_OF["poet"])
    joined = others.joined("poet", head)
    assert joined.heads[:2] == others.heads
    text = "poem rhyme moon love"
    assert joined.quality(text, "chat")[:2].tolist() == others.quality(text, "chat").tolist()
    verse, sums = (next(t for t, k in zip(TEXTS, KINDS, strict=True) if k == kind) for kind in ("verse", "sum"))
    assert joined.quality(verse, "chat")[2] > 0.8 > 0.2 > joined.quality(sums, "chat")[2]


def test_one_text_is_the_reference_computed_by_hand(gate: TextGate) -> None:
    for text, task in (("What is 12 plus 7?", "exam"), ("", "chat"), ("a rhyme on the sea", "?")):
        encoder, row = gate.encoder, {"chat": 1, "exam": 2}.get(task, 0)
        raw = text.encode()
        feature_f = np.concatenate([reference.latents(raw, encoder.rows_hk, encoder.scale_k), reference.structure(raw)])
        weights_fe = np.stack([head.weights_tf[row] for head in gate.heads], axis=1)
        bias_e = np.array([head.bias_t[row] for head in gate.heads])
        assert gate.quality(text, task).tolist() == reference.quality(feature_f, weights_fe, bias_e).tolist()


def test_a_gate_survives_its_arrays_without_pickle(gate: TextGate) -> None:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **gate.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as data:
        again = TextGate.from_arrays(dict(data))
    assert again.experts == gate.experts
    assert again.tasks == gate.tasks
    assert again.quality("half a pound", "exam").tolist() == gate.quality("half a pound", "exam").tolist()


@pytest.mark.parametrize("name", ["format", "rows_hk", "scale_k", "weights_etf", "bias_et", "experts"])
def test_arrays_that_are_not_a_gates_are_refused(gate: TextGate, name: str) -> None:
    arrays = gate.to_arrays()
    for broken in ({k: v for k, v in arrays.items() if k != name}, {**arrays, name: np.zeros((3, 3, 3))}):
        with pytest.raises(EvidenceError):
            TextGate.from_arrays(broken)


def test_rows_that_could_overflow_or_be_read_past_are_refused(gate: TextGate) -> None:
    arrays = gate.encoder.to_arrays()
    for rows_hk in (arrays["rows_hk"] * 0 + 5_000, arrays["rows_hk"][:100], arrays["rows_hk"][:, :31]):
        with pytest.raises(EvidenceError):
            Encoder.from_arrays({**arrays, "rows_hk": np.asarray(rows_hk, dtype=np.int16)})


def test_qualities_may_be_fractions_and_may_be_missing() -> None:
    rng = np.random.default_rng(5)
    design = make_design(fit_encoder(TEXTS).encode(TEXTS), TASKS)
    quality_q = np.clip(0.3 + 0.4 * np.array([kind == "sum" for kind in KINDS]) + rng.normal(0, 0.05, 300), 0, 1)
    quality_q[rng.random(300) < 0.5] = np.nan
    fit = fit_head(design, quality_q)
    known = np.isfinite(quality_q)
    assert np.abs(fit.unseen_q - np.where(known, quality_q, 0.0))[known].mean() < 0.08
    assert fit.head.calibration_error < 0.08


def test_unseen_estimates_have_not_seen_their_labels() -> None:
    # Labels without any pattern: what a fit knows of them can only be what it has seen.
    rng = np.random.default_rng(6)
    design = make_design(fit_encoder(TEXTS).encode(TEXTS), TASKS)
    correlations = []
    for _ in range(20):
        labels_q = (rng.random(300) < 0.5).astype(np.float64)
        correlations.append(np.corrcoef(fit_head(design, labels_q, penalty=1.0).unseen_q, labels_q)[0, 1])
    assert np.nanmean(correlations) < 0.05


@pytest.mark.parametrize("wrong", [np.full(300, 1.5), np.full(300, -0.1), np.full(300, np.nan), np.zeros(5)])
def test_qualities_that_cannot_be_meant_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(EvidenceError):
        fit_head(make_design(fit_encoder(TEXTS).encode(TEXTS), TASKS), wrong)


@pytest.mark.parametrize("texts", [["", " ", ""], ["same"] * 3, ["one", "", "three"]])
def test_prompts_without_texts_leave_the_tasks(texts: list[str]) -> None:
    texts = texts * 20
    tasks = ["easy" if q % 2 else "hard" for q in range(60)]
    gate = fit_gate(texts, tasks, {"a": np.array([float(q % 2) for q in range(60)])})
    assert gate.quality("", "easy")[0] > 0.8 > 0.2 > gate.quality("", "hard")[0]


def test_the_order_of_training_prompts_and_the_seed_are_all_that_counts() -> None:
    again = fit_gate(TEXTS, TASKS, QUALITY_OF)
    assert again.quality("total price", "exam").tolist() == _trained().quality("total price", "exam").tolist()
