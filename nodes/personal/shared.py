"""One graph for all users: what is theirs is a row of inputs, so that one engine serves all and a batch holds several.

A row is the user's gate and delta: scales and shifts of every layer between the first and the last, and what the last
layer is changed by. The gate lays the delta over the global expert or leaves that as it is, for each row by itself and
in the same pass. A row of zeros is the global expert alone. Numpy only.
Shapes: b rows, d numbers of a delta, g numbers that the gate sees, h its hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal.delta import Delta
from nodes.personal.gate import HIDDEN, Gate
from nodes.personal.layers import behind_nodes, layer_nodes, seen_nodes, stem_nodes
from nodes.personal.network import Floats, Network, Weights
from nodes.personal.onnx_write import FEATURES, FLOAT, LOCAL, PROBABILITIES, SEEN, model, node
from nodes.personal.warp import IDENTITY

DELTA, GATE = "delta", "gate"
Tensors = dict[str, NDArray[Any]]


class OnlyFolds(ValueError):
    """The delta changes weights in ways that only folding can."""


@dataclass(frozen=True)
class Layout:
    """Where in a row which numbers lie.

    Attributes:
        delta: Name and shape of each part, in order.
        gate: The same of the gate's.
    """

    delta: Mapping[str, tuple[int, ...]]
    gate: Mapping[str, tuple[int, ...]]

    @property
    def inputs(self) -> dict[str, int]:
        """How many numbers each input has in a row."""
        return {name: sum(map(_size, parts.values())) for name, parts in ((DELTA, self.delta), (GATE, self.gate))}


def layout(network: Network, weights: Weights) -> Layout:
    """The row of this network."""
    parts: dict[str, tuple[int, ...]] = {}
    for stage in network.hidden:
        wide = (1, 1) if stage.conv else ()
        outputs = len(weights[stage.bias])
        parts |= {f"{stage.name}.scale": (outputs, *wide), f"{stage.name}.shift": (outputs, *wide)}
    parts |= {name: weights[name].shape for name in (network.last.weight, network.last.bias)}
    seen = len(weights[network.first.bias]) * (network.gate_cells**2 + 1)
    return Layout(parts, {"first": (seen, HIDDEN), "bias": (HIDDEN,), "second": (HIDDEN,), "threshold": (1,)})


def nobody(network: Network, weights: Weights) -> dict[str, Floats]:
    """The row (1, ...) of whoever has no expert."""
    return {name: np.zeros((1, size), np.float32) for name, size in layout(network, weights).inputs.items()}


def row(network: Network, weights: Weights, delta: Delta, gate: Gate) -> dict[str, Floats]:
    """A user's row (1, ...).

    Raises:
        OnlyFolds: The delta does more than scale and shift.
    """
    parts = layout(network, weights)
    odd = sorted({*delta.arrays} - {*parts.delta})
    if odd or not np.array_equal(delta.geometry, IDENTITY):
        raise OnlyFolds(f"{', '.join(odd) or 'a geometry'} can only be folded into weights")
    numbers = [delta.arrays.get(name, np.zeros(shape, np.float32)).ravel() for name, shape in parts.delta.items()]
    threshold = np.array([gate.threshold], np.float32)
    seen = [gate.first_fh.ravel(), gate.bias_h, gate.second_h, threshold]
    return {name: np.concatenate(held)[None].astype(np.float32) for name, held in ((DELTA, numbers), (GATE, seen))}


def graph(network: Network, weights: Weights) -> bytes:
    """Image (b, ...), delta (b, d) and gate (b, ...) in; probabilities and who gave them (b, 1) out."""
    parts = layout(network, weights)
    nodes, tensors = stem_nodes(network, weights)
    nodes += seen_nodes(network, weights)
    for more, held in (_gate(parts), _delta(parts), _layers(network, weights), _last(network, weights)):
        nodes += more
        tensors |= held
    inputs = {name: (FLOAT, (-1, size)) for name, size in parts.inputs.items()}
    return model(network, nodes, tensors, (PROBABILITIES, LOCAL), batch=True, inputs=inputs)


def _gate(parts: Layout) -> tuple[list[bytes], Tensors]:
    """Per row what `gate.Gate.score` computes, down to ``who``: 1 where the local expert answers, else 0."""
    names = [f"gate.{name}" for name in parts.gate]
    tensors: Tensors = {
        "gate.axis": np.array([1], np.int64),
        "gate.sizes": np.array([_size(shape) for shape in parts.gate.values()], np.int64),
        "gate.shape": np.array([0, *parts.gate["first"]], np.int64),
        "gate.zero": np.zeros(1, np.float32),
    }
    nodes = [
        node("Split", (GATE, "gate.sizes"), names, axis=1),
        node("Reshape", ("gate.first", "gate.shape"), ("gate.matrix",)),
        node("Unsqueeze", (SEEN, "gate.axis"), ("gate.row",)),
        node("MatMul", ("gate.row", "gate.matrix"), ("gate.product",)),
        node("Squeeze", ("gate.product", "gate.axis"), ("gate.hidden",)),
        node("Add", ("gate.hidden", "gate.bias"), ("gate.moved",)),
        node("Relu", ("gate.moved",), ("gate.active",)),
        node("Mul", ("gate.active", "gate.second"), ("gate.weighed",)),
        node("ReduceSum", ("gate.weighed", "gate.axis"), ("gate.sum",), keepdims=1),
        node("Add", ("gate.sum", "gate.threshold"), ("gate.score",)),
        node("Greater", ("gate.score", "gate.zero"), (LOCAL,)),
        node("Cast", (LOCAL,), ("who",), to=FLOAT),
    ]
    return nodes, tensors


def _delta(parts: Layout) -> tuple[list[bytes], Tensors]:
    """The row where the local expert answers, nothing where it does not; scales as factors."""
    factors = [np.full(_size(shape), name.endswith(".scale"), np.float32) for name, shape in parts.delta.items()]
    tensors: Tensors = {
        "delta.sizes": np.array([_size(shape) for shape in parts.delta.values()], np.int64),
        "delta.factors": np.concatenate(factors),
    }
    nodes = [
        node("Mul", ("who", DELTA), ("delta.worn",)),
        node("Add", ("delta.worn", "delta.factors"), ("delta.all",)),
        node("Split", ("delta.all", "delta.sizes"), [f"flat.{name}" for name in parts.delta], axis=1),
    ]
    for name, shape in parts.delta.items():
        tensors[f"shape.{name}"] = np.array([0, *shape], np.int64)
        nodes.append(node("Reshape", (f"flat.{name}", f"shape.{name}"), (f"own.{name}",)))
    return nodes, tensors


def _layers(network: Network, weights: Weights) -> tuple[list[bytes], Tensors]:
    """From ``stem`` to the penultimate features."""
    nodes: list[bytes] = []
    tensors: Tensors = {}
    value, flat = "stem", False
    for stage in network.hidden:
        tensors |= {stage.weight: weights[stage.weight], stage.bias: weights[stage.bias]}
        layer, made = layer_nodes(stage, value, stage.name, first_linear=not stage.conv and not flat)
        scaled, moved = f"{stage.name}.scaled", f"{stage.name}.moved"
        nodes += [
            *layer,
            node("Mul", (made, f"own.{stage.name}.scale"), (scaled,)),
            node("Add", (scaled, f"own.{stage.name}.shift"), (moved,)),
        ]
        behind, value = behind_nodes(stage, moved, stage.name)
        nodes += behind
        flat = flat or not stage.conv
    return [*nodes, node("Flatten", (value,), (FEATURES,), axis=1)], tensors


def _last(network: Network, weights: Weights) -> tuple[list[bytes], Tensors]:
    """The last layer, once with everybody's weights and once with what each row adds to them."""
    last = network.last
    tensors: Tensors = {name: weights[name] for name in (last.weight, last.bias)} | {"end": np.array([2], np.int64)}
    nodes = [
        node("Gemm", (FEATURES, last.weight, last.bias), ("everybody",), transB=1),
        node("Unsqueeze", (FEATURES, "end"), ("column",)),
        node("MatMul", (f"own.{last.weight}", "column"), ("own.column",)),
        node("Squeeze", ("own.column", "end"), ("own.logits",)),
        node("Sum", ("everybody", "own.logits", f"own.{last.bias}"), ("logits",)),
        node("Softmax", ("logits",), (PROBABILITIES,), axis=1),
    ]
    return nodes, tensors


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))
