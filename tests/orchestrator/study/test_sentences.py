"""Sentence encoders from files: what they give, and which files are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from orchestrator.errors import ExitCode
from orchestrator.study import onnx_session
from orchestrator.study.errors import StudyError
from orchestrator.study.onnx_file import has_external_data
from orchestrator.study.sentences import load_sentences
from tests.fakes.encoders import WIDTH, external_encoder, text_encoder, token_encoder, tokenizer, words

COUNT = 64


def test_both_kinds_of_encoders_say_the_same_of_single_words(tmp_path: Path) -> None:
    texts, first_q = words(COUNT)
    by_tokens = load_sentences(token_encoder(tmp_path / "a.onnx", COUNT), tokenizer(tmp_path / "t.json", COUNT))
    by_texts = load_sentences(text_encoder(tmp_path / "b.onnx", COUNT))
    found_qs = by_tokens.encode(texts)
    assert found_qs.shape == (COUNT, WIDTH)
    assert np.allclose(found_qs, by_texts.encode(texts))
    assert found_qs[first_q, 0].mean() > found_qs[~first_q, 0].mean() + 1.5
    assert (len(by_tokens.digests), len(by_texts.digests)) == (2, 1)


def test_a_mean_over_the_mask_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    encoder = load_sentences(token_encoder(tmp_path / "a.onnx", COUNT), tokenizer(tmp_path / "t.json", COUNT))
    one, two, three = words(COUNT)[0][:3]
    singly = np.vstack([encoder.encode([one]), encoder.encode([two])])
    pair = load_sentences(tmp_path / "a.onnx", tmp_path / "t.json").encode([f"{one} {two}", three, ""])
    assert np.allclose(pair[0], singly.mean(axis=0), atol=1e-6)
    assert np.allclose(pair[2], 0.0)


def test_a_pooled_output_is_taken_as_it_is(tmp_path: Path) -> None:
    pooled = load_sentences(token_encoder(tmp_path / "a.onnx", COUNT, rank=2), tokenizer(tmp_path / "t.json", COUNT))
    assert pooled.encode(words(COUNT)[0]).shape == (COUNT, WIDTH)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return token_encoder(tmp_path / "a.onnx", COUNT)


def refused(model: Path, cut: Path | None = None) -> StudyError:
    with pytest.raises(StudyError) as caught:
        load_sentences(model, cut).encode(["word"])
    return caught.value


def test_files_that_cannot_be_used_are_refused(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = tokenizer(tmp_path / "t.json", COUNT)
    assert refused(tmp_path / "none.onnx").exit_code == ExitCode.NOT_FOUND
    assert refused(small, tmp_path / "none.json").exit_code == ExitCode.NOT_FOUND
    assert refused(small).cure == "add --tokenizer tokenizer.json"
    assert refused(text_encoder(tmp_path / "b.onnx", COUNT), cut).cure == "leave --tokenizer out"
    (tmp_path / "junk.json").write_text("[]")
    assert "not a tokenizer.json" in refused(small, tmp_path / "junk.json").why
    (tmp_path / "junk.onnx").write_bytes(b"\xff" * 100)
    assert "not an ONNX file" in refused(tmp_path / "junk.onnx", cut).why
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert "does not load" in refused(tmp_path / "empty.onnx", cut).why
    monkeypatch.setattr(onnx_session, "MAX_MODEL_BYTES", 100)
    assert "larger than" in refused(small, cut).why


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    cut = tokenizer(tmp_path / "t.json", COUNT)
    integers = token_encoder(tmp_path / "i.onnx", COUNT, dtype=TensorProto.INT64)
    assert "it must give (batch, width)" in refused(integers, cut).cure
    # Ids beyond the model's table: a tokenizer of another model.
    small = token_encoder(tmp_path / "s.onnx", 8)
    with pytest.raises(StudyError) as caught:
        load_sentences(small, cut).encode(words(COUNT)[0])
    assert caught.value.exit_code == ExitCode.ENGINE_FAILED
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 3])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", 3])
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["out"])], "g", [image], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "x.onnx")
    assert "it takes image" in refused(tmp_path / "x.onnx", cut).why


def test_external_data_is_refused(tmp_path: Path) -> None:
    named = external_encoder(tmp_path / "e.onnx")
    assert "external data" in refused(named, tokenizer(tmp_path / "t.json", COUNT)).why


def test_external_data_is_found_in_hidden_places_too() -> None:
    hidden = onnx.TensorProto(data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=hidden)], "inner", [], [])
    outer = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)], "g", [], [])
    assert has_external_data(helper.make_model(outer).SerializeToString())
    hidden.data_location = TensorProto.DEFAULT
    plain = helper.make_graph([helper.make_node("Constant", [], ["c"], value=hidden)], "inner", [], [])
    assert not has_external_data(helper.make_model(plain).SerializeToString())


@pytest.mark.parametrize("data", [b"\x3a", b"\x3a\x05ab", b"\x0b", b"\xff" * 12])
def test_bytes_that_are_no_message_are_told(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut off|wire type|too long"):
        has_external_data(data)


@pytest.mark.parametrize("package", ["onnxruntime", "tokenizers"])
def test_a_missing_package_is_told_with_its_extra(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    told = refused(small, tokenizer(tmp_path / "t.json", COUNT))
    assert (told.why, told.cure) == (
        f"{'sentence ' if package == 'tokenizers' else ''}encoders need {package}",
        "pip install 'edgewise[encoder]'",
    )
