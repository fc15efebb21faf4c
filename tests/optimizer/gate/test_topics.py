"""Topics: found without labels, read alike by numpy and by the compiled code, and worth having where they tell."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.evidence.texts import TextEvidence
from optimizer.gate.gate import TextGate
from optimizer.gate.topics import Topics, fit_topics
from optimizer.heads.texts import TextFit, fit_text_heads
from tests.optimizer.gate.needed import needs_native

Floats = NDArray[np.float64]
FIELDS = {
    "cook": ("oven", "salt", "recipe", "butter", "onion", "pan"),
    "law": ("court", "judge", "clause", "appeal", "statute", "plea"),
    "sea": ("harbour", "tide", "sail", "anchor", "deck", "knot"),
    "star": ("orbit", "comet", "lens", "galaxy", "moon", "nova"),
}
URGENT = "quickly"


def prompts(count: int, seed: int = 0) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.bool_]]:
    """Texts, their fields, and which of them are urgent."""
    rng = np.random.default_rng(seed)
    field_q, urgent_q = rng.integers(0, len(FIELDS), count), rng.random(count) < 0.5
    words = [list(rng.choice(list(FIELDS.values())[field], 8)) for field in field_q]
    texts = [" ".join([*some, *([URGENT] * 3 if urgent else [])]) for some, urgent in zip(words, urgent_q, strict=True)]
    return tuple(texts), field_q, urgent_q


def evidence(count: int, *, crossed: bool, seed: int = 0) -> TextEvidence:
    """Two experts; where `crossed`, what urgency means for them depends on the field."""
    texts, field_q, urgent_q = prompts(count, seed)
    rng = np.random.default_rng(seed + 1)
    easy_q = (field_q % 2 == 0) ^ urgent_q if crossed else urgent_q
    right_q = rng.random(count) < np.where(easy_q, 0.95, 0.05)
    correct_qe = np.column_stack([right_q, ~right_q]).astype(np.float64)
    given = tuple(tuple("yes" if right else "no" for right in column) for column in correct_qe.T)
    return TextEvidence(("a", "b"), texts, correct_qe, np.full((count, 2), 0.5), given)


def accuracy(fit: TextFit, crossed: bool) -> float:
    """Share of unseen prompts that get an expert that is right."""
    unseen = evidence(600, crossed=crossed, seed=9)
    chosen_q = fit.heads.predict_many(unseen.prompts).argmax(axis=1)
    return float(unseen.correct_qe[np.arange(600), chosen_q].mean())


@needs_native
def test_topics_pay_where_a_word_means_another_thing_in_another_field() -> None:
    fit = fit_text_heads(evidence(1200, crossed=True))
    topics = fit.heads.gate.topics
    assert topics is not None
    assert len(topics.bias_k) == 12
    assert accuracy(fit, crossed=True) > 0.85
    # The control: one linear head for everything cannot say it.
    assert accuracy(fit_text_heads(evidence(150, crossed=True)), crossed=True) < 0.7


@needs_native
def test_prompts_of_one_field_are_of_the_same_topics() -> None:
    gate = fit_text_heads(evidence(1200, crossed=True)).heads.gate
    texts, field_q, _ = prompts(400, seed=5)
    assert gate.topics is not None
    topic_q = np.array(gate.topics.of(gate.encoder.encode(texts)))
    strays = sum(int((field_q[topic_q == topic] != np.bincount(field_q[topic_q == topic]).argmax()).sum())
                 for topic in set(topic_q.tolist()))  # fmt: skip
    assert strays <= 4


@needs_native
def test_compiled_and_plain_judge_alike_and_survive_storage() -> None:
    gate = fit_text_heads(evidence(1200, crossed=True)).heads.gate
    texts, _, _ = prompts(200, seed=3)
    plain_qe = gate.judge(gate.encoder.encode(texts), [""] * len(texts))
    np.testing.assert_allclose(gate.quality_many(texts, [""] * len(texts)), plain_qe, atol=1e-12)
    stored = TextGate.from_arrays(gate.to_arrays())
    np.testing.assert_array_equal(stored.quality_many(texts, [""] * len(texts)), gate.quality_many(texts, [""] * 200))
    assert np.abs(plain_qe - TextGate(gate.encoder, gate.tasks, gate.experts, gate.heads).judge(
        gate.encoder.encode(texts), [""] * len(texts))).max() > 0.1  # fmt: skip


def test_the_topic_is_that_of_the_nearest_centre() -> None:
    rng = np.random.default_rng(0)
    scale_f = np.array([1.0, 2.0, np.inf])
    centre_kf = np.column_stack([rng.normal(size=(5, 2)), np.zeros(5)])
    topics = Topics.around(centre_kf, scale_f)
    x_qf = rng.normal(size=(50, 3)) * [1.0, 2.0, 1e6]
    apart_qk = (((x_qf / scale_f)[:, None, :] - centre_kf) ** 2).sum(axis=2)
    assert topics.of(x_qf) == [topics.names[k] for k in apart_qk.argmin(axis=1)]


def test_in_a_view_prompts_are_alike_that_differ_in_what_the_view_leaves_out() -> None:
    rng = np.random.default_rng(1)
    kind_q, loud_q = rng.integers(0, 3, 300), rng.integers(0, 3, 300)
    x_qf = np.column_stack([10.0 * loud_q, 1.0 * kind_q]) + rng.normal(scale=0.05, size=(300, 2))
    seen = fit_topics(x_qf, 3, scale_f=np.ones(2), view_fv=np.array([[0.0], [1.0]])).of(x_qf)
    whole = fit_topics(x_qf, 3, scale_f=np.ones(2)).of(x_qf)
    assert len({*zip(seen, kind_q.tolist(), strict=True)}) == 3
    # The control: by all features what is loud decides.
    assert len({*zip(whole, loud_q.tolist(), strict=True)}) == 3
    assert len({*zip(whole, kind_q.tolist(), strict=True)}) == 9


def test_there_are_never_more_topics_than_different_prompts() -> None:
    x_qf = np.repeat(np.eye(3), 10, axis=0)
    topics = fit_topics(x_qf, 8, scale_f=np.ones(3))
    assert len(set(topics.of(x_qf))) == 3


@pytest.mark.parametrize(
    ("weight_kf", "bias_k"),
    [(np.zeros((2, 3)), np.zeros(3)), (np.zeros((0, 3)), np.zeros(0)), (np.full((2, 3), np.nan), np.zeros(2))],
)
def test_numbers_that_are_no_topics_are_refused(weight_kf: Floats, bias_k: Floats) -> None:
    with pytest.raises(EvidenceError):
        Topics(weight_kf, bias_k)
