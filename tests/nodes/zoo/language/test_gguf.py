"""GGUF files of the shipped experts, computed anew with llama.cpp's conventions and compared with the ONNX file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from nodes.engines.llama.header import GgufHeader, read_header
from nodes.worker.text.model import Cache, LanguageModel, Row
from nodes.worker.text.tokens import ANSWER, BEGIN, END
from nodes.zoo.__main__ import main
from nodes.zoo.language.catalog import load_text_catalog
from nodes.zoo.language.gguf import ALIGNMENT, Value, write_gguf
from nodes.zoo.language.gguf_export import MARK_TEXTS, NotOurs, _token_text, byte_letters, export_gguf, paired
from nodes.zoo.language.vocabulary import shipped_tokenizer

EXPERT = "skills-dates"
QUESTION = "Give the day that comes 14 days after Thursday."
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = load_text_catalog()
    card = next(card for card in catalog.experts if card.name == EXPERT)
    path = tmp_path_factory.mktemp("gguf") / f"{EXPERT}.gguf"
    export_gguf(catalog.model_path(card), path, name=EXPERT)
    return path


def tensors_of(path: Path, header: GgufHeader) -> dict[str, Floats]:
    """Matrices are stored in half precision, norms in single; one after the other, padded."""
    kinds = {name: np.dtype(np.float16 if len(shape) == 2 else np.float32) for name, shape in header.shapes.items()}
    sizes = {name: math.prod(shape) * kinds[name].itemsize for name, shape in header.shapes.items()}
    place = header.file_bytes - sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes.values())
    data, found = path.read_bytes(), {}
    assert place % ALIGNMENT == 0
    for name, shape in header.shapes.items():
        flat = np.frombuffer(data, kinds[name], math.prod(shape), place)
        found[name] = flat.reshape(shape[::-1]).astype(np.float32)
        place += -(-sizes[name] // ALIGNMENT) * ALIGNMENT
    return found


def llama(tensors: dict[str, Floats], header: GgufHeader, tokens: list[int]) -> Floats:
    """Scores (v) after the last token; neighbouring pairs are turned, as llama.cpp does for this architecture."""
    told = header.metadata
    heads, groups = told["llama.attention.head_count"], told["llama.attention.head_count_kv"]
    width = told["llama.rope.dimension_count"]
    frequency = told["llama.rope.freq_base"] ** (-np.arange(0, width, 2) / width)
    angle = np.arange(len(tokens))[:, None, None] * frequency

    def norm(x: Floats, name: str) -> Floats:
        scale = np.sqrt(np.mean(x**2, -1, keepdims=True) + told["llama.attention.layer_norm_rms_epsilon"])
        return np.asarray(x / scale * tensors[name])

    def turned(x: Floats) -> Floats:
        even, odd = x[..., ::2], x[..., 1::2]
        both = even * np.cos(angle) - odd * np.sin(angle), even * np.sin(angle) + odd * np.cos(angle)
        return np.stack(both, -1).reshape(x.shape)

    x = tensors["token_embd.weight"][tokens]
    for layer in range(told["llama.block_count"]):
        part = {name: tensors[f"blk.{layer}.{name}.weight"] for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        h = norm(x, f"blk.{layer}.attn_norm.weight")
        q = turned((h @ part["attn_q"].T).reshape(len(tokens), heads, width))
        k = turned((h @ part["attn_k"].T).reshape(len(tokens), groups, width)).repeat(heads // groups, 1)
        v = (h @ part["attn_v"].T).reshape(len(tokens), groups, width).repeat(heads // groups, 1)
        scores = np.einsum("thk,shk->hts", q, k) / math.sqrt(width)
        scores += np.triu(np.full(scores.shape[1:], -1e9), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hts,shk->thk", weights / weights.sum(-1, keepdims=True), v)
        x = x + mixed.reshape(len(tokens), -1) @ part["attn_output"].T
        h = norm(x, f"blk.{layer}.ffn_norm.weight")
        gate = h @ tensors[f"blk.{layer}.ffn_gate.weight"].T
        up = h @ tensors[f"blk.{layer}.ffn_up.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ tensors[f"blk.{layer}.ffn_down.weight"].T
    return np.asarray(norm(x, "output_norm.weight")[-1] @ tensors["token_embd.weight"].T)


def test_the_file_computes_what_the_onnx_file_computes(exported: Path) -> None:
    catalog = load_text_catalog()
    card = next(card for card in catalog.experts if card.name == EXPERT)
    model = LanguageModel(catalog.model_path(card), card.sha256)
    prompt = model.tokenizer.prompt(QUESTION)
    header = read_header(exported)
    tensors = tensors_of(exported, header)
    expected_v = model.step([Row(Cache(model), prompt)])[0]
    assert np.abs(llama(tensors, header, prompt) - expected_v).max() < 1e-3
    # The control: with rows of queries and keys as the network has them, other pairs are turned.
    for name in tensors:
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            tensors[name] = tensors[name].reshape(-1, 16, 2, 96).swapaxes(1, 2).reshape(tensors[name].shape)
    assert np.abs(llama(tensors, header, prompt) - expected_v).max() > 0.1


def test_the_head_says_what_the_card_says(exported: Path) -> None:
    header = read_header(exported)
    card = next(card for card in load_text_catalog().experts if card.name == EXPERT)
    assert (header.name, header.context_tokens, header.macs_per_token) == (EXPERT, card.context_tokens, card.macs)
    told = header.metadata
    assert (told["tokenizer.ggml.bos_token_id"], told["tokenizer.ggml.eos_token_id"]) == (BEGIN, END)
    assert told["tokenizer.ggml.tokens"] == shipped_tokenizer().size


def test_every_token_has_one_spelling_and_it_is_its_bytes() -> None:
    tokenizer, letters = shipped_tokenizer(), byte_letters()
    spelled = [_token_text(tokenizer, token) for token in range(tokenizer.size)]
    assert len(set(spelled)) == tokenizer.size
    for token, text in enumerate(spelled):
        if token not in MARK_TEXTS:
            assert bytes(letters.index(letter) for letter in text) == tokenizer.token_bytes(token)
    assert spelled[ANSWER] == "<|answer|>"


def test_pairs_become_neighbours() -> None:
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert paired(rows, 4)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_written_file_reads_back(tmp_path: Path) -> None:
    metadata: dict[str, Value] = {
        "general.architecture": "x",
        "n": 3,
        "f": 0.5,
        "yes": True,
        "list": [-1, 2],
        "texts": ["a", "é"],
    }
    write_gguf(tmp_path / "x.gguf", metadata, {"w": np.ones((2, 3), np.float32)})
    header = read_header(tmp_path / "x.gguf")
    assert header.metadata == metadata
    assert header.shapes == {"w": (3, 2)}


def test_the_files_are_what_gguf_s_own_reader_reads(exported: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="not run: the package gguf is not installed")
    reader, header = gguf.GGUFReader(exported), read_header(exported)
    ours = tensors_of(exported, header)
    assert {tensor.name for tensor in reader.tensors} == set(ours)
    for tensor in reader.tensors:
        assert np.array_equal(np.asarray(tensor.data, np.float32), ours[tensor.name])


def test_the_command_writes_all_experts_that_have_weights(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["export-gguf", "--out", str(tmp_path), "--only", "skills-arithmetic"])
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["skills-arithmetic.gguf"]
    refused = CliRunner().invoke(main, ["export-gguf", "--out", str(tmp_path), "--only", "skills-mixture"])
    assert refused.exit_code == 1
    assert "Known are: skills-dates" in refused.output


def test_another_onnx_file_is_refused(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "none", [], [])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "x.onnx"))
    with pytest.raises(NotOurs, match="does not say"):
        export_gguf(tmp_path / "x.onnx", tmp_path / "x.gguf", name="x")
