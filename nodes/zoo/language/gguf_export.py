"""From the ONNX file of a text expert to GGUF, so that llama.cpp serves it: weights, words, how a question is put.

The network is LLaMA's, so its weights go over as they are; only the rows of query and key change places, because
llama.cpp turns neighbouring pairs (2i, 2i+1) where the network turns (i, i + k/2).

The tokenizer goes over as a byte-pair one without merges: llama.cpp then takes a word that the vocabulary has whole,
and bytes for any other. Words are cut alike wherever one follows a space, a digit or the beginning; a word right behind
another sign ("(egg") is spelled there and whole here.

Shape letters: d width, k width of a head.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from nodes.worker.text.tokens import ANSWER, BEGIN, END, Tokenizer
from nodes.zoo.language.gguf import Value, write_gguf

NORM_EPSILON = 1e-5
ROTARY_BASE = 10_000.0
PARTS = {
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "feed/gate": "ffn_gate",
    "feed/up": "ffn_up",
    "feed/down": "ffn_down",
}
TURNED = ("query", "key")
# Kinds of tokens in llama.cpp.
NORMAL, CONTROL = 1, 3
MARK_TEXTS = {BEGIN: "<|begin|>", ANSWER: "<|answer|>", END: "<|end|>"}
# The experts read the last message of the user and nothing else; llama.cpp puts the mark of the beginning before it.
CHAT_TEMPLATE = (
    "{%- set said = namespace(last='') -%}"
    "{%- for message in messages if message.role == 'user' -%}{%- set said.last = message.content -%}{%- endfor -%}"
    "{{- said.last -}}<|answer|>"
)
_MATRIX = re.compile(r"/blocks\.(\d+)/(query|key|value|output|feed/gate|feed/up|feed/down)/MatMul_output_0")

Weights = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    tensors: int
    file_bytes: int


class NotOurs(Exception):
    """The ONNX file is no text expert of this project."""


def export_gguf(source: Path, target: Path, *, name: str, single: bool = False) -> Exported:
    """Write the expert in `source` to `target`.

    Args:
        name: What the model is called.
        single: Store matrices in single precision, not in half as the ONNX file does: twice the size, the same values.

    Raises:
        NotOurs: if the file is something else.
    """
    model = onnx.load(str(source))
    found = {prop.key: prop.value for prop in model.metadata_props}
    try:
        sizes, tokenizer = json.loads(found["edgewise.language"]), Tokenizer(json.loads(found["edgewise.words"]))
    except (KeyError, ValueError) as problem:
        raise NotOurs(f"{source} does not say what language model it is") from problem
    tensors = _tensors(_by_role(model.graph), sizes, np.float32 if single else np.float16)
    write_gguf(target, {**_shape(name, sizes, tensors), **_vocabulary(tokenizer)}, tensors)
    return Exported(target, len(tensors), target.stat().st_size)


def _by_role(graph: onnx.GraphProto) -> Weights:
    """Weights as the network has them, in single precision: by "LAYER/part", and by name those that kept theirs."""
    weights = {one.name.removesuffix(".half"): numpy_helper.to_array(one) for one in graph.initializer}
    roles: Weights = {name: array for name, array in weights.items() if name.endswith("norm.weight")}
    roles["embedding"] = weights["embedding.weight"]
    for node in graph.node:
        if node.op_type == "MatMul" and (match := _MATRIX.fullmatch(node.output[0])):
            # The exporter stores a linear layer's matrix transposed.
            roles[f"{match[1]}/{match[2]}"] = weights[node.input[1]].T
    return {role: array.astype(np.float32) for role, array in roles.items()}


def _tensors(roles: Weights, sizes: dict[str, int], stored: type[np.floating[Any]]) -> Weights:
    tensors = {"token_embd.weight": roles["embedding"].astype(stored), "output_norm.weight": roles["norm.weight"]}
    for layer in range(sizes["layers"]):
        tensors[f"blk.{layer}.attn_norm.weight"] = roles[f"blocks.{layer}.attention_norm.weight"]
        tensors[f"blk.{layer}.ffn_norm.weight"] = roles[f"blocks.{layer}.feed_norm.weight"]
        for part, theirs in PARTS.items():
            matrix = roles[f"{layer}/{part}"]
            matrix = paired(matrix, sizes["head_width"]) if part in TURNED else matrix
            tensors[f"blk.{layer}.{theirs}.weight"] = matrix.astype(stored)
    return tensors


def paired(matrix: NDArray[np.float32], head_width: int) -> NDArray[np.float32]:
    """Rows of each head so that those that are turned together, i and i + k/2, are neighbours."""
    rows, columns = matrix.shape
    halves = matrix.reshape(rows // head_width, 2, head_width // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _shape(name: str, sizes: dict[str, int], tensors: Weights) -> dict[str, Value]:
    vocabulary, width = tensors["token_embd.weight"].shape
    return {
        "general.architecture": "llama",
        "general.name": name,
        "general.file_type": 1 if tensors["token_embd.weight"].dtype == np.float16 else 0,
        "llama.vocab_size": vocabulary,
        "llama.context_length": sizes["context_tokens"],
        "llama.embedding_length": width,
        "llama.block_count": sizes["layers"],
        "llama.feed_forward_length": tensors["blk.0.ffn_gate.weight"].shape[0],
        "llama.attention.head_count": width // sizes["head_width"],
        "llama.attention.head_count_kv": sizes["kv_heads"],
        "llama.attention.layer_norm_rms_epsilon": NORM_EPSILON,
        "llama.rope.dimension_count": sizes["head_width"],
        "llama.rope.freq_base": ROTARY_BASE,
    }


def _vocabulary(tokenizer: Tokenizer) -> dict[str, Value]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [_token_text(tokenizer, token) for token in range(tokenizer.size)],
        "tokenizer.ggml.token_type": [CONTROL if token in MARK_TEXTS else NORMAL for token in range(tokenizer.size)],
        "tokenizer.ggml.merges": list[str](),
        "tokenizer.ggml.bos_token_id": BEGIN,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as byte-pair vocabularies spell it: every byte is a letter that can be seen."""
    if token in MARK_TEXTS:
        return MARK_TEXTS[token]
    return "".join(_BYTE_LETTERS[byte] for byte in tokenizer.token_bytes(token))


def byte_letters() -> list[str]:
    """The letter that GPT-2 writes for each byte: itself where it can be seen, else one from U+0100 on."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) if byte in seen else chr(0x100 + hidden.index(byte)) for byte in range(256)]


_BYTE_LETTERS = byte_letters()
