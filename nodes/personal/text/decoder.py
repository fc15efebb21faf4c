"""A decoder's ONNX file as personalising needs it: its weights, and the same graph with a user's delta as an input.

A delta scales and shifts what comes out of each block and adds to the scores of the next token. It is one row per
sequence, so that one batch holds several users; a row of zeros is the global expert. Numpy only.
Shapes: l layers, d width, v vocabulary, n numbers of a delta, t tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes.personal import protobuf
from nodes.personal.network import Floats
from nodes.personal.onnx_read import GRAPH_NODE, MODEL_GRAPH, Node, NotPersonal, read_graph, read_node
from nodes.personal.onnx_write import FLOAT, node, tensor, value
from nodes.personal.protobuf import block, number
from nodes.worker.text.tokens import Tokenizer

DELTA, LOGITS = "delta", "logits"
MODEL_PROPERTY, PROPERTY_KEY, PROPERTY_VALUE = 14, 1, 2
GRAPH_INITIALIZER, GRAPH_INPUT = 5, 11
HALF = ".half"
_BLOCK_END = re.compile(r"/blocks\.(\d+)/Add(_\d+)?")
_MATRIX = re.compile(r"/blocks\.(\d+)/(query|key|value|output|feed/gate|feed/up|feed/down)/MatMul")


@dataclass(frozen=True, eq=False)
class DecoderFile:
    """What of a decoder is read.

    Attributes:
        weights: By the names of `nodes.zoo.language.network.Decoder`.
        sizes: What the file says of itself, see `nodes.worker.text.model`.
    """

    weights: Mapping[str, Floats]
    sizes: Mapping[str, int]
    tokenizer: Tokenizer

    @property
    def width(self) -> int:
        """Of a token's vector."""
        return int(self.weights["embedding.weight"].shape[1])

    @property
    def vocabulary(self) -> int:
        """Tokens that there are."""
        return int(self.weights["embedding.weight"].shape[0])

    @property
    def layers(self) -> int:
        """Blocks."""
        return self.sizes["layers"]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What a delta holds, in the order of a row: scales as differences from 1, everything else from 0."""
        blocks = [(f"{kind}.{layer}", (self.width,)) for layer in range(self.layers) for kind in ("scale", "shift")]
        return dict([*blocks, ("bias", (self.vocabulary,))])

    def row(self, arrays: Mapping[str, Floats]) -> Floats:
        """A delta as the graph takes it, (n,)."""
        return np.concatenate([arrays[name].ravel() for name in self.shapes()]).astype(np.float32)

    def seen(self, question: str) -> Floats:
        """What the gate sees of a question, (2 * d,): mean of its tokens' vectors, and of its first four."""
        vectors_td = self.weights["embedding.weight"][self.tokenizer.encode(question) or [0]]
        return np.concatenate([vectors_td.mean(axis=0), vectors_td[:4].mean(axis=0)])


def read_decoder(model: bytes) -> DecoderFile:
    """Weights and words of a decoder that ships.

    Raises:
        NotPersonal: It is no such decoder.
    """
    nodes, constants = read_graph(model)
    held = {name.removesuffix(HALF): array.astype(np.float32) for name, array in constants.items()}
    weights = {name: array for name, array in held.items() if name.endswith("norm.weight") or "embedding" in name}
    for one in nodes:
        found = _MATRIX.fullmatch(one.name)
        if found is not None and one.inputs[1] in held:
            layer, part = found.groups()
            owner = part.replace("/", ".") if part.startswith("feed") else f"attention.{part}"
            weights[f"blocks.{layer}.{owner}.weight"] = np.ascontiguousarray(held[one.inputs[1]].T)
    properties = _properties(model)
    try:
        sizes, words = json.loads(properties["edgewise.language"]), json.loads(properties["edgewise.words"])
        found_file = DecoderFile(weights, sizes, Tokenizer(words))
        complete = len(weights) == 9 * found_file.layers + 2 and found_file.vocabulary == found_file.tokenizer.size
    except (KeyError, ValueError, TypeError) as problem:
        raise NotPersonal("the file does not say what language model it is") from problem
    if not complete or sorted(_ends(nodes)) != list(range(found_file.layers)):
        raise NotPersonal("the file is no decoder of ours: blocks or weights are missing")
    return found_file


def with_delta(model: bytes) -> bytes:
    """The same decoder with ``delta`` (b, 1, n) as one more input.

    Raises:
        NotPersonal: It is no decoder of ours.
    """
    decoder = read_decoder(model)
    nodes, _ = read_graph(model)
    ends = {name: layer for layer, name in _ends(nodes).items()}
    return b"".join(
        block(MODEL_GRAPH, _changed(part, decoder, ends)) if field == MODEL_GRAPH and not isinstance(part, int)
        else _again(field, part)
        for field, part in protobuf.fields(model)
    )  # fmt: skip


def _changed(graph: memoryview, decoder: DecoderFile, ends: Mapping[str, int]) -> bytes:
    shapes = decoder.shapes()
    sizes = np.array([int(np.prod(shape)) for shape in shapes.values()], np.int64)
    factors = np.concatenate([np.full(shape, name.startswith("scale"), np.float32) for name, shape in shapes.items()])
    parts = [
        block(GRAPH_INITIALIZER, tensor("delta.sizes", sizes)),
        block(GRAPH_INITIALIZER, tensor("delta.factors", factors)),
        block(GRAPH_NODE, node("Add", (DELTA, "delta.factors"), ("delta.all",))),
        block(GRAPH_NODE, node("Split", ("delta.all", "delta.sizes"), [f"delta.{name}" for name in shapes], axis=2)),
    ]
    for field, part in protobuf.fields(graph):
        if field != GRAPH_NODE or isinstance(part, int):
            parts.append(_again(field, part))
            continue
        made = [name for name in read_node(part).outputs if name in ends or name == LOGITS]
        parts += [block(GRAPH_NODE, one) for one in ([bytes(part)] if not made else _worn(part, made[0], ends))]
    return b"".join([*parts, block(GRAPH_INPUT, value(DELTA, FLOAT, (-1, 1, int(sizes.sum()))))])


def _worn(part: memoryview, name: str, ends: Mapping[str, int]) -> list[bytes]:
    """The node under another name, and what the delta makes of its output."""
    plain, moved = f"{name}.plain", f"{name}.scaled"
    renamed = b"".join(
        block(field, plain) if field == 2 and not isinstance(held, int) and bytes(held).decode() == name
        else _again(field, held)
        for field, held in protobuf.fields(part)
    )  # fmt: skip
    if name == LOGITS:
        return [renamed, node("Add", (plain, "delta.bias"), (name,))]
    layer = ends[name]
    return [
        renamed,
        node("Mul", (plain, f"delta.scale.{layer}"), (moved,)),
        node("Add", (moved, f"delta.shift.{layer}"), (name,)),
    ]


def _ends(nodes: Sequence[Node]) -> dict[int, str]:
    """The last sum of each block: what it hands to the next."""
    found: dict[int, str] = {}
    for one in nodes:
        match = _BLOCK_END.fullmatch(one.name)
        if match is not None:
            found[int(match.group(1))] = one.outputs[0]
    return found


def _properties(model: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for field, part in protobuf.fields(model):
        if field == MODEL_PROPERTY and not isinstance(part, int):
            held = {key: bytes(text).decode() for key, text in protobuf.fields(part) if not isinstance(text, int)}
            found[held.get(PROPERTY_KEY, "")] = held.get(PROPERTY_VALUE, "")
    return found


def _again(field: int, part: int | memoryview) -> bytes:
    return number(field, part) if isinstance(part, int) else block(field, bytes(part))


def encoded(question: str) -> NDArray[np.uint8]:
    """A question as an array, which is what is kept of requests."""
    return np.frombuffer(question.encode(), np.uint8)


def decoded(kept: NDArray[np.uint8]) -> str:
    """The question again."""
    return kept.tobytes().decode("utf-8", "replace")
