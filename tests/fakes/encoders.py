"""Tiny sentence encoders as ONNX files, and prompts of which only they know what is meant.

Every prompt is one made-up word that occurs once, so that n-grams of other prompts tell nothing about it; the encoders
hold a table of which word belongs to which kind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WIDTH = 3


def words(count: int) -> tuple[list[str], NDArray[np.bool_]]:
    """Words, and whether each is of the first kind."""
    rng = np.random.default_rng(5)
    letters = list("bcdfghjklmnpqrstvwxz")
    found = dict.fromkeys("".join(rng.choice(letters, 9)) for _ in range(2 * count))
    return [*found][:count], rng.random(count) < 0.5


def table_rows(count: int) -> list[dict[str, Any]]:
    """Two models, each good at one kind; all prompts of one task."""
    texts, first_q = words(count)
    rng = np.random.default_rng(6)
    rows = []
    for model, good_q in (("one", first_q), ("two", ~first_q)):
        right_q = rng.random(count) < np.where(good_q, 0.95, 0.05)
        for q, text in enumerate(texts):
            rows.append({"prompt_id": f"p{q}", "prompt": text, "task": "t", "model": model, "quality": int(right_q[q])})
    return rows


def _vectors(count: int) -> NDArray[np.float32]:
    """One row per word: the kind in the first number, nothing of interest in the others, all off centre."""
    _, first_q = words(count)
    vectors = np.random.default_rng(7).normal(scale=0.3, size=(count, WIDTH)) + 2.0
    vectors[:, 0] += np.where(first_q, 1.0, -1.0)
    return vectors.astype(np.float32)


def token_encoder(path: Path, count: int, *, rank: int = 3, dtype: int = TensorProto.FLOAT) -> Path:
    """Looks ids up in a table and gives (batch, tokens, width), or (batch, width) at rank 2."""
    table = np.vstack([np.zeros((1, WIDTH), dtype=np.float32), _vectors(count)])
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["found"], axis=0)]
    nodes.append(helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]))
    nodes.append(helper.make_node("Mul", ["found", "mask3"], ["tokens" if rank == 3 else "masked"]))
    if rank == 2:
        nodes.append(helper.make_node("ReduceSum", ["masked", "middle"], ["tokens"], keepdims=0))
    nodes.append(helper.make_node("Cast", ["tokens"], ["out"], to=dtype))
    shape: list[str | int | None] = ["b", "n", WIDTH] if rank == 3 else ["b", WIDTH]
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "n"]) for name in _INPUTS]
    constants = {"table": table, "last": np.array([2]), "middle": np.array([1])}
    return _save(path, nodes, ids, helper.make_tensor_value_info("out", dtype, shape), constants)


_INPUTS = ("input_ids", "attention_mask")


def text_encoder(path: Path, count: int) -> Path:
    """Reads a string tensor (n,) by itself."""
    texts, _ = words(count)
    nodes = [
        helper.make_node("StringNormalizer", ["text"], ["lower"], case_change_action="LOWER", locale="C"),
        helper.make_node("Reshape", ["lower", "column"], ["rows"]),
        helper.make_node(
            "TfIdfVectorizer",
            ["rows"],
            ["counts"],
            mode="TF",
            min_gram_length=1,
            max_gram_length=1,
            max_skip_count=0,
            ngram_counts=[0],
            ngram_indexes=list(range(count)),
            pool_strings=texts,
        ),
        helper.make_node("MatMul", ["counts", "table"], ["out"]),
    ]
    constants = {"table": _vectors(count), "column": np.array([-1, 1])}
    text = helper.make_tensor_value_info("text", TensorProto.STRING, ["n"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", WIDTH])
    return _save(path, nodes, [text], out, constants)


def external_encoder(path: Path) -> Path:
    """A model that names another file for its tensor."""
    model = onnx.load(token_encoder(path, 64))
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def tokenizer(path: Path, count: int) -> Path:
    """A WordLevel tokenizer.json of the words."""
    texts, _ = words(count)
    vocabulary = {"[UNK]": 0, **{text: i for i, text in enumerate(texts, start=1)}}
    document: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    for name in ("truncation", "padding", "normalizer", "post_processor", "decoder"):
        document[name] = None
    path.write_text(json.dumps(document))
    return path


def sum_encoder(path: Path, *, side: int | None, scale: float = 1.0) -> Path:
    """Reads tensors (batch, side, side) and gives the sigmoid of their scaled sums; None leaves the sides free."""
    nodes = [
        helper.make_node("ReduceSum", ["tensor", "sides"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "scale"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["share"]),
        helper.make_node("Unsqueeze", ["share", "last"], ["out"]),
    ]
    sides: list[str | int | None] = ["b", side, side]
    tensor = helper.make_tensor_value_info("tensor", TensorProto.FLOAT, sides)
    constants = {"sides": np.array([1, 2]), "scale": np.array(scale, dtype=np.float32), "last": np.array([1])}
    return _save(path, nodes, [tensor], helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", 1]), constants)


def _save(path: Path, nodes: list[Any], inputs: list[Any], output: Any, constants: dict[str, Any]) -> Path:
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(nodes, "encoder", inputs, [output], [w for w in weights if w.name in used])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path
