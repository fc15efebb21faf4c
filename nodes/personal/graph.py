"""ONNX graphs that personalising needs, written on the node from layers and weights; nothing is shipped for it.

* `plain`: the global expert, to compare with.
* `observed`: the global expert, which also tells its penultimate features and what the gate sees.
* `personal`: one pass through the first layer, then the gate, then the layers of one of the two experts. The local
  expert's deltas are folded into weights of its own: for nets that are small against the cost of a graph node.
* `with_inputs`: one copy of the weights; scales and shifts are inputs: for nets that are large against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal.gate import Gate
from nodes.personal.network import Network, Stage, Weights
from nodes.personal.protobuf import block, number, numbers, real

OPSET = 17
IR_VERSION = 8
FLOAT, INT64, BOOL = 1, 7, 9
INPUT, PROBABILITIES, FEATURES, SEEN, LOCAL = "image", "probabilities", "features", "seen", "local"

ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_TEXT, ATTRIBUTE_GRAPH, ATTRIBUTE_INTS = 1, 2, 3, 5, 7


def observed(network: Network, weights: Weights) -> bytes:
    """Image (b, side, side) in; probabilities, features and what the gate sees out."""
    nodes, tensors = _stem(network, weights)
    seen_nodes = _seen(network, weights)
    rest, held = _rest(network.stages[1:], weights, network, prefix="", told=True)
    tensors |= held
    outputs = (PROBABILITIES, FEATURES, SEEN)
    return _model(network, [*nodes, *seen_nodes, *rest], tensors, outputs, batch=True)


def plain(network: Network, weights: Weights) -> bytes:
    """The global expert as it ships: image (b, side, side) in, probabilities out."""
    nodes, tensors = _stem(network, weights)
    rest, held = _rest(network.stages[1:], weights, network, prefix="")
    return _model(network, [*nodes, *rest], tensors | held, (PROBABILITIES,), batch=True)


def personal(network: Network, weights: Weights, local: Weights, gate: Gate) -> bytes:
    """Image (1, side, side) in; probabilities and whether the local expert gave them out."""
    nodes, tensors = _stem(network, weights)
    tensors |= {
        "gate.first": gate.first_fh,
        "gate.bias": gate.bias_h,
        "gate.second": gate.second_h.reshape(-1, 1),
        "gate.threshold": np.array([gate.threshold], np.float32),
        "gate.zero": np.zeros((1, 1), np.float32),
    }
    branches = [_branch(network, held, prefix) for held, prefix in ((local, "le."), (weights, "ge."))]
    nodes += [
        *_seen(network, weights),
        _node("Gemm", (SEEN, "gate.first", "gate.bias"), ("gate.hidden",)),
        _node("Relu", ("gate.hidden",), ("gate.active",)),
        _node("Gemm", ("gate.active", "gate.second", "gate.threshold"), ("gate.score",)),
        _node("Greater", ("gate.score", "gate.zero"), (LOCAL,)),
        _node("If", (LOCAL,), (PROBABILITIES,), then_branch=branches[0], else_branch=branches[1]),
    ]
    return _model(network, nodes, tensors, (PROBABILITIES, LOCAL), batch=False)


def with_inputs(network: Network, weights: Weights) -> tuple[bytes, dict[str, tuple[int, ...]]]:
    """The global expert with every row's delta as inputs: one graph for all users, also in one batch.

    Inputs (b, ...) and their shapes for one row: ``layer.scale`` and ``layer.shift`` of the hidden layers, ``weight``
    and ``bias`` of the last one; see `delta.as_inputs`. A scale of 1 and else 0 is the global expert itself.
    """
    nodes, tensors = _stem(network, weights)
    value, flat = "stem", False
    shapes: dict[str, tuple[int, ...]] = {}
    for stage in network.hidden:
        outputs = len(weights[stage.bias])
        shape = (outputs, 1, 1) if stage.conv else (outputs,)
        tensors |= {stage.weight: weights[stage.weight], stage.bias: weights[stage.bias]}
        layer, made = _layer(stage, value, stage.name, first_linear=not stage.conv and not flat)
        scaled, moved = f"{stage.name}.scaled", f"{stage.name}.moved"
        nodes += layer
        nodes.append(_node("Mul", (made, f"{stage.name}.scale"), (scaled,)))
        nodes.append(_node("Add", (scaled, f"{stage.name}.shift"), (moved,)))
        behind, value = _behind(stage, moved, stage.name)
        nodes += behind
        flat = flat or not stage.conv
        shapes |= {f"{stage.name}.scale": shape, f"{stage.name}.shift": shape}
    last = network.last
    tensors |= {last.weight: weights[last.weight], last.bias: weights[last.bias], "end": np.array([2], np.int64)}
    own_weight, own_bias = f"own.{last.weight}", f"own.{last.bias}"
    nodes += [
        _node("Flatten", (value,), (FEATURES,), axis=1),
        _node("Gemm", (FEATURES, last.weight, last.bias), ("shared",), transB=1),
        _node("Unsqueeze", (FEATURES, "end"), ("column",)),
        _node("MatMul", (own_weight, "column"), ("own.column",)),
        _node("Squeeze", ("own.column", "end"), ("own",)),
        _node("Sum", ("shared", "own", own_bias), ("logits",)),
        _node("Softmax", ("logits",), (PROBABILITIES,), axis=1),
    ]
    shapes |= {own_weight: weights[last.weight].shape, own_bias: weights[last.bias].shape}
    inputs = {name: (FLOAT, (-1, *shape)) for name, shape in shapes.items()}
    return _model(network, nodes, tensors, (PROBABILITIES, FEATURES), batch=True, inputs=inputs), shapes


# ---- layers


def _stem(network: Network, weights: Weights) -> tuple[list[bytes], dict[str, NDArray[Any]]]:
    nodes, value = [], INPUT
    tensors: dict[str, NDArray[Any]] = {"axis": np.array([1], np.int64)}
    if network.channels == 1:
        nodes.append(_node("Unsqueeze", (value, "axis"), ("one",)))
        value = "one"
    if network.upsample > 1:
        factor = float(network.upsample)
        tensors["scales"] = np.array([1.0, 1.0, factor, factor], np.float32)
        settings = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        nodes.append(_node("Resize", (value, "", "scales"), ("large",), **settings))
        value = "large"
    first = network.first
    tensors |= {first.weight: weights[first.weight], first.bias: weights[first.bias]}
    layer, made = _layer(first, value, "first", weight=first.weight, bias=first.bias)
    behind, _ = _behind(first, made, "first", result="stem")
    return [*nodes, *layer, *behind], tensors


def _seen(network: Network, weights: Weights) -> list[bytes]:
    side = network.side * network.upsample
    first = network.first
    kernel = weights[first.weight].shape[2]
    side = ((side + 2 * first.padding - kernel) // first.stride + 1) // first.pool
    cell = side // network.gate_cells
    return [
        _node("AveragePool", ("stem",), ("seen.map",), kernel_shape=[cell, cell], strides=[cell, cell]),
        _node("Flatten", ("seen.map",), ("seen.means",), axis=1),
        _node("ReduceL2", ("stem",), ("seen.lengths",), axes=[2, 3], keepdims=0),
        _node("Concat", ("seen.means", "seen.lengths"), (SEEN,), axis=1),
    ]


def _rest(
    stages: Iterable[Stage],
    weights: Weights,
    network: Network,
    *,
    prefix: str,
    value: str = "stem",
    told: bool = False,
) -> tuple[list[bytes], dict[str, NDArray[Any]]]:
    """The layers behind `value`; `told` where the penultimate features are an output."""
    nodes: list[bytes] = []
    tensors: dict[str, NDArray[Any]] = {}
    flat = False
    for stage in stages:
        names = prefix + stage.weight, prefix + stage.bias
        tensors |= {names[0]: weights[stage.weight], names[1]: weights[stage.bias]}
        label = prefix + stage.name
        last = stage is network.last
        if last and told:
            nodes.append(_node("Flatten", (value,), (prefix + FEATURES,), axis=1))
            value, flat = prefix + FEATURES, True
        layer, made = _layer(stage, value, label, weight=names[0], bias=names[1], first_linear=not flat)
        nodes += layer
        flat = flat or not stage.conv
        if last:
            nodes.append(_node("Softmax", (made,), (prefix + PROBABILITIES,), axis=1))
        else:
            behind, value = _behind(stage, made, label)
            nodes += behind
    return nodes, tensors


def _branch(network: Network, weights: Weights, prefix: str) -> bytes:
    nodes, tensors = _rest(network.stages[1:], weights, network, prefix=prefix)
    classes = len(weights[network.last.bias])
    return _graph(nodes, tensors, inputs={}, outputs={prefix + PROBABILITIES: (FLOAT, (1, classes))})


def _layer(
    stage: Stage, value: str, label: str, *, weight: str = "", bias: str = "", first_linear: bool = False
) -> tuple[list[bytes], str]:
    inputs, made = (weight or stage.weight, bias or stage.bias), f"{label}.raw"
    if stage.conv:
        settings = {"pads": [stage.padding] * 4, "strides": [stage.stride] * 2, "group": stage.groups}
        return [_node("Conv", (value, *inputs), (made,), **settings)], made
    if not first_linear:
        return [_node("Gemm", (value, *inputs), (made,), transB=1)], made
    flat = _node("Flatten", (value,), (f"{label}.flat",), axis=1)
    return [flat, _node("Gemm", (f"{label}.flat", *inputs), (made,), transB=1)], made


def _behind(stage: Stage, made: str, label: str, *, result: str = "") -> tuple[list[bytes], str]:
    active = result if result and stage.pool == 1 else f"{label}.map" if stage.pool == 1 else f"{label}.active"
    nodes = [_node("Relu", (made,), (active,))]
    if stage.pool == 1:
        return nodes, active
    name, window = result or f"{label}.map", [stage.pool] * 2
    return [*nodes, _node("MaxPool", (active,), (name,), kernel_shape=window, strides=window)], name


# ---- ONNX messages

Values = Mapping[str, tuple[int, tuple[int, ...]]]


def _model(
    network: Network,
    nodes: list[bytes],
    tensors: Mapping[str, NDArray[Any]],
    outputs: Iterable[str],
    *,
    batch: bool,
    inputs: Values | None = None,
) -> bytes:
    rows = -1 if batch else 1
    shape = (network.side, network.side) if network.channels == 1 else (network.channels, network.side, network.side)
    given = {INPUT: (FLOAT, (rows, *shape)), **(inputs or {})}
    told = {name: (BOOL if name == LOCAL else FLOAT, (rows, -1)) for name in outputs}
    graph = _graph(nodes, tensors, inputs=given, outputs=told)
    opset = block(1, "") + number(2, OPSET)
    return number(1, IR_VERSION) + block(2, "edgewise") + block(7, graph) + block(8, opset)


def _graph(nodes: list[bytes], tensors: Mapping[str, NDArray[Any]], *, inputs: Values, outputs: Values) -> bytes:
    parts = [block(1, node) for node in nodes]
    parts.append(block(2, "personal"))
    parts += [block(5, _tensor(name, array)) for name, array in tensors.items()]
    parts += [block(11, _value(name, kind, shape)) for name, (kind, shape) in inputs.items()]
    parts += [block(12, _value(name, kind, shape)) for name, (kind, shape) in outputs.items()]
    return b"".join(parts)


def _value(name: str, kind: int, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(
        block(1, block(2, f"free{axis}") if size < 0 else number(1, size)) for axis, size in enumerate(shape)
    )
    return block(1, name) + block(2, block(1, number(1, kind) + block(2, dims)))


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    kind = INT64 if array.dtype.kind == "i" else FLOAT
    raw = array.astype("<i8" if kind == INT64 else "<f4").tobytes()
    return numbers(1, array.shape) + number(2, kind) + block(8, name) + block(9, raw)


def _node(kind: str, inputs: Iterable[str], outputs: Iterable[str], **attributes: Any) -> bytes:
    parts = [block(1, name) for name in inputs] + [block(2, name) for name in outputs]
    parts += [block(5, _attribute(name, value)) for name, value in attributes.items()]
    return b"".join(parts) + block(4, kind)


def _attribute(name: str, value: Any) -> bytes:
    head = block(1, name)
    match value:
        case bytes():
            return head + block(6, value) + number(20, ATTRIBUTE_GRAPH)
        case str():
            return head + block(4, value) + number(20, ATTRIBUTE_TEXT)
        case float():
            return head + real(2, value) + number(20, ATTRIBUTE_FLOAT)
        case int():
            return head + number(3, value) + number(20, ATTRIBUTE_INT)
        case _:
            return head + numbers(8, value) + number(20, ATTRIBUTE_INTS)
