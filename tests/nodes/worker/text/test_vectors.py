"""Vectors of texts by the experts that ship: what they are, whoever is read beside, and who makes none."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from nodes.worker.text.batcher import Batcher
from nodes.worker.text.middle import middle_of, with_output
from nodes.worker.text.mixing import Mixture
from nodes.worker.text.model import Cache, LanguageModel, Row
from nodes.worker.text.vectors import TOKENS_PER_STEP, Reading
from nodes.worker.text.writing import Order, PromptRefused
from nodes.zoo.language.catalog import load_text_catalog

CATALOG = load_text_catalog()
CARD = next(card for card in CATALOG.experts if card.name == "skills-general")
FILE = CATALOG.model_path(CARD)
SHORT, LONG = "What is 3 plus 4?", "Sort the words pear, apple, fig and grape. " * 9


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(FILE, CARD.sha256)


def read(model: LanguageModel, texts: list[str]) -> NDArray[np.float32]:
    """Their vectors, with nobody else about."""
    batcher = Batcher()
    batcher.join_reading(1, Mixture([model], [1.0]), texts)
    while batcher.busy:
        (*_, ended) = [None, *batcher.step()]
    assert ended is not None
    assert isinstance(ended.writing, Reading)
    return ended.writing.vectors_bd


def by_onnx(model: LanguageModel, text: str) -> NDArray[np.float64]:
    """The same by onnx's own classes: the tensor as an output, the whole prompt in one call."""
    graph = onnx.load(FILE)
    name = f"/blocks.{(model.sizes['layers'] + 1) // 2}/attention_norm/Mul_2_output_0"
    graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    tokens = np.array([model.tokenizer.prompt(text)])
    sizes = model.sizes
    past = np.zeros((sizes["layers"], 2, 1, sizes["kv_heads"], 0, sizes["head_width"]), np.float32)
    feed = {"tokens": tokens, "past_tokens": np.zeros(1, np.int64), "past": past}
    state_d: NDArray[np.float64] = session.run([name], feed)[0][0, -1].astype(np.float64)
    return state_d / np.linalg.norm(state_d)


def test_a_vector_is_the_middle_state_at_the_end_of_the_question(model: LanguageModel) -> None:
    vectors_bd = read(model, [SHORT, LONG])
    assert vectors_bd.shape == (2, CARD.recipe["width"])
    assert len(model.tokenizer.prompt(LONG)) > 64
    np.testing.assert_allclose(vectors_bd, [by_onnx(model, SHORT), by_onnx(model, LONG)], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors_bd, axis=1), 1.0, atol=1e-6)


def test_who_is_read_or_written_beside_changes_nothing(model: LanguageModel) -> None:
    alone_bd = np.concatenate([read(model, [text]) for text in (SHORT, LONG, SHORT)])
    mixture, batcher = Mixture([model], [1.0]), Batcher()
    batcher.join_reading(1, mixture, [SHORT, LONG, SHORT])
    batcher.join(2, mixture, Order("What is 12 plus 19?", max_tokens=4))
    said, vectors = "", None
    while batcher.busy:
        for text in batcher.step():
            if isinstance(text.writing, Reading):
                vectors = text.writing.vectors_bd
            elif text.piece is not None:
                said += text.piece.text
    assert vectors is not None
    np.testing.assert_allclose(vectors, alone_bd, atol=1e-5)
    assert said == "31"


def test_many_texts_are_read_in_several_steps_so_that_others_go_on(model: LanguageModel) -> None:
    batcher, mixture = Batcher(), Mixture([model], [1.0])
    texts = [f"What is {number} plus 4?" for number in range(64)]
    batcher.join_reading(1, mixture, texts)
    steps = 0
    while batcher.busy:
        ended = list(batcher.step())
        steps += 1
    tokens = ended[0].writing.prompt_tokens
    assert tokens == sum(len(model.tokenizer.prompt(text)) for text in texts)
    assert tokens / TOKENS_PER_STEP <= steps <= 2 + tokens / TOKENS_PER_STEP
    counts = ended[0].writing.counts
    assert counts.macs == sum(model.macs(0, len(model.tokenizer.prompt(text))) for text in texts)


def test_scores_are_the_same_bits_with_the_further_output(model: LanguageModel) -> None:
    plain: Any = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])
    tokens = model.tokenizer.prompt(SHORT)
    empty = np.ascontiguousarray(Cache(model).past)
    feed = {"tokens": np.array([tokens]), "past_tokens": np.zeros(1, np.int64), "past": empty}
    logits_v = plain.run(["logits"], feed)[0][0, -1]
    np.testing.assert_array_equal(model.step([Row(Cache(model), tokens)])[0], logits_v)


@pytest.mark.parametrize(
    ("texts", "why"), [([], "no text"), ([SHORT, "7 " * 400], "512 is the limit")], ids=["none", "too long"]
)
def test_what_cannot_be_read_is_refused(model: LanguageModel, texts: list[str], why: str) -> None:
    with pytest.raises(PromptRefused, match=why):
        Reading(Mixture([model], [1.0]), texts)


def test_a_mixture_makes_none(model: LanguageModel) -> None:
    with pytest.raises(PromptRefused, match="no embeddings"):
        Reading(Mixture([model, model], [0.5, 0.5]), [SHORT])


def test_a_file_with_other_names_makes_none_and_still_writes(tmp_path: Path, model: LanguageModel) -> None:
    content = FILE.read_bytes().replace(b"/attention_norm/Mul_2_output_0", b"/attention_norm/Mul_2_output_9")
    renamed = LanguageModel(tmp_path / "other.onnx", hashlib.sha256(content).hexdigest(), content)
    assert not renamed.makes_vectors
    with pytest.raises(PromptRefused, match="no embeddings"):
        Reading(Mixture([renamed], [1.0]), [SHORT])
    tokens = model.tokenizer.prompt(SHORT)
    ours, others = (one.step([Row(Cache(one), tokens)]) for one in (model, renamed))
    np.testing.assert_array_equal(others, ours)


def test_an_output_is_added_as_onnx_would_write_it() -> None:
    content = FILE.read_bytes()
    name = middle_of(content)
    assert name == "/blocks.3/attention_norm/Mul_2_output_0"
    found = onnx.load_from_string(with_output(content, name))
    onnx.checker.check_model(found)
    assert [output.name for output in found.graph.output] == ["logits", "present", name]
    assert found.graph.node == onnx.load_from_string(content).graph.node
    with pytest.raises(ValueError, match="one byte"):
        with_output(content, "x" * 200)
