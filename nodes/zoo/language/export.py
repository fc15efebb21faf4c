"""From a trained decoder to the ONNX bytes that ship: one graph for prompts, single tokens and anything between.

The vocabulary and the sizes of the cache travel inside the file, so that an engine needs nothing else. Weights are
stored in half precision and computed with in single precision.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nodes.worker.text.tokens import Tokenizer
from nodes.zoo.language.network import Decoder
from nodes.zoo.language.settings import CONTEXT_TOKENS

OPSET = 17
INPUTS = ("tokens", "past_tokens", "past")
OUTPUTS = ("logits", "present")
TOLERANCE = 1e-3
# Smaller ones, such as those of norms, gain nothing from half precision.
MIN_HALVED = 1024


class ExportError(Exception):
    """The exported graph does not answer as the network does."""


def export_onnx(network: Decoder, tokenizer: Tokenizer, path: Path) -> float:
    """Write `network`, then check it against torch with the same halved weights; the largest difference found.

    Raises:
        ExportError: if a logit differs by more than 1e-3.
    """
    halve(network)
    path.write_bytes(_plain_bytes(network.eval(), tokenizer))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    difference = max(_difference(network, session, seed=seed) for seed in range(4))
    if not difference <= TOLERANCE:
        raise ExportError(f"{path.name} differs from torch by {difference:.2g}, allowed are {TOLERANCE:g}.")
    return difference


def halve(network: Decoder) -> None:
    """Round the matrices to half precision, in place, as the file stores them."""
    for weight in network.parameters():
        if weight.numel() >= MIN_HALVED:
            weight.data = weight.data.half().float()


def metadata(network: Decoder, tokenizer: Tokenizer) -> dict[str, str]:
    """What an engine must know about the graph."""
    shape = network.shape
    sizes = {"layers": shape.layers, "kv_heads": shape.kv_heads, "head_width": shape.head_width}
    costs = {"macs_per_token": macs_per_token(network), "macs_per_look": 2 * shape.layers * shape.width}
    return {
        "edgewise.language": json.dumps({**sizes, **costs, "context_tokens": CONTEXT_TOKENS}),
        "edgewise.words": json.dumps(tokenizer.words),
    }


def macs_per_token(network: Decoder) -> int:
    """Multiply-accumulates of one token in all matrices, reading out included, attention's looks at others not."""
    return sum(weight.numel() for weight in network.parameters() if weight.dim() == 2)


def _plain_bytes(network: Decoder, tokenizer: Tokenizer) -> bytes:
    shape, buffer = network.shape, io.BytesIO()
    past = torch.zeros(shape.layers, 2, 2, shape.kv_heads, 3, shape.head_width)
    with warnings.catch_warnings():
        # The graph-capturing exporter starts at opset 18 and writes source paths into the file; tracing warns of
        # shapes that it takes for constants, which the check below would find.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 4, dtype=torch.int64), torch.tensor([3, 1]), past),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes={
                "tokens": {0: "rows", 1: "new"},
                "past_tokens": {0: "rows"},
                "past": {2: "rows", 4: "past"},
                "logits": {0: "rows", 1: "new"},
                "present": {2: "rows", 4: "new"},
            },
        )
    model = onnx.load_from_string(buffer.getvalue())
    _store_halved(model.graph)
    model.producer_name, model.producer_version, model.doc_string = "edgewise", "", ""
    for node in model.graph.node:
        node.doc_string = ""
    helper.set_model_props(model, metadata(network, tokenizer))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _store_halved(graph: onnx.GraphProto) -> None:
    casts = []
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and np.prod(weight.dims) >= MIN_HALVED:
            name = weight.name
            half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{name}.half")
            weight.CopyFrom(half)
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _difference(network: Decoder, session: Any, *, seed: int) -> float:
    """Largest difference between ONNX with a ragged cache and torch without any, over all tokens that count."""
    generator = np.random.default_rng(seed)
    lengths_b = generator.integers(5, 30, size=3)
    rows = [generator.integers(0, network.shape.vocabulary, size=length) for length in lengths_b]
    cuts_b = [int(generator.integers(0, length)) for length in lengths_b]
    found = _cached_logits(network, session, rows, cuts_b)
    worst = 0.0
    for row, cut, logits_tv in zip(rows, cuts_b, found, strict=True):
        with torch.no_grad():
            whole_tv = network.logits(network.hidden(torch.from_numpy(row).unsqueeze(0)))[0].numpy()
        worst = max(worst, float(np.abs(whole_tv[cut:] - logits_tv).max()))
    return worst


def _cached_logits(
    network: Decoder, session: Any, rows: list[NDArray[np.int64]], cuts_b: list[int]
) -> list[NDArray[np.float32]]:
    """Each row's tokens after its cut, run over a cache of those before."""
    shape, places = network.shape, max(cuts_b)
    past = np.zeros((shape.layers, 2, len(rows), shape.kv_heads, places, shape.head_width), np.float32)
    for i, (row, cut) in enumerate(zip(rows, cuts_b, strict=True)):
        empty = past[:, :, i : i + 1, :, :0]
        past[:, :, i : i + 1, :, :cut] = session.run(["present"], _feed(row[None, :cut], [0], empty))[0]
    width = max(len(row) - cut for row, cut in zip(rows, cuts_b, strict=True))
    tokens = np.zeros((len(rows), width), np.int64)
    for i, (row, cut) in enumerate(zip(rows, cuts_b, strict=True)):
        tokens[i, : len(row) - cut] = row[cut:]
    logits = session.run(["logits"], _feed(tokens, cuts_b, past))[0]
    return [logits[i, : len(row) - cut] for i, (row, cut) in enumerate(zip(rows, cuts_b, strict=True))]


def _feed(tokens: NDArray[np.int64], past_tokens: list[int], past: NDArray[np.float32]) -> Mapping[str, Any]:
    return {"tokens": tokens, "past_tokens": np.array(past_tokens, np.int64), "past": np.ascontiguousarray(past)}
