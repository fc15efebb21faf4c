"""A network's layers as ONNX nodes: the first layer, what the gate sees of it, and any layer behind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal.network import Network, Stage, Weights
from nodes.personal.onnx_write import INPUT, SEEN, node


def stem_nodes(network: Network, weights: Weights) -> tuple[list[bytes], dict[str, NDArray[Any]]]:
    """The first layer, from the image to ``stem``, and its constants."""
    nodes, value = [], INPUT
    tensors: dict[str, NDArray[Any]] = {}
    if network.channels == 1:
        tensors["axis"] = np.array([1], np.int64)
        nodes.append(node("Unsqueeze", (value, "axis"), ("one",)))
        value = "one"
    if network.upsample > 1:
        factor = float(network.upsample)
        tensors["scales"] = np.array([1.0, 1.0, factor, factor], np.float32)
        settings = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        nodes.append(node("Resize", (value, "", "scales"), ("large",), **settings))
        value = "large"
    first = network.first
    tensors |= {first.weight: weights[first.weight], first.bias: weights[first.bias]}
    layer, made = layer_nodes(first, value, "first", weight=first.weight, bias=first.bias)
    behind, _ = behind_nodes(first, made, "first", result="stem")
    return [*nodes, *layer, *behind], tensors


def seen_nodes(network: Network, weights: Weights) -> list[bytes]:
    """What the gate sees, from ``stem``."""
    side = network.side * network.upsample
    first = network.first
    kernel = weights[first.weight].shape[2]
    side = ((side + 2 * first.padding - kernel) // first.stride + 1) // first.pool
    cell = side // network.gate_cells
    return [
        node("AveragePool", ("stem",), ("seen.map",), kernel_shape=[cell, cell], strides=[cell, cell]),
        node("Flatten", ("seen.map",), ("seen.means",), axis=1),
        node("ReduceL2", ("stem",), ("seen.lengths",), axes=[2, 3], keepdims=0),
        node("Concat", ("seen.means", "seen.lengths"), (SEEN,), axis=1),
    ]


def layer_nodes(
    stage: Stage, value: str, label: str, *, weight: str = "", bias: str = "", first_linear: bool = False
) -> tuple[list[bytes], str]:
    """One layer without what is behind it, and the name of its answer."""
    inputs, made = (weight or stage.weight, bias or stage.bias), f"{label}.raw"
    if stage.conv:
        settings = {"pads": [stage.padding] * 4, "strides": [stage.stride] * 2, "group": stage.groups}
        return [node("Conv", (value, *inputs), (made,), **settings)], made
    if not first_linear:
        return [node("Gemm", (value, *inputs), (made,), transB=1)], made
    flat = node("Flatten", (value,), (f"{label}.flat",), axis=1)
    return [flat, node("Gemm", (f"{label}.flat", *inputs), (made,), transB=1)], made


def behind_nodes(stage: Stage, made: str, label: str, *, result: str = "") -> tuple[list[bytes], str]:
    """What is behind a layer, and the name of its answer."""
    result = result or f"{label}.map"
    window = [stage.pool] * 2
    steps: list[tuple[str, dict[str, Any]]] = [("Relu", {})]
    if stage.pool > 1:
        steps.append(("MaxPool", {"kernel_shape": window, "strides": window}))
    if stage.averaged:
        steps.append(("GlobalAveragePool", {}))
    nodes, value = [], made
    for position, (kind, settings) in enumerate(steps):
        name = result if position == len(steps) - 1 else f"{label}.{kind}"
        nodes.append(node(kind, (value,), (name,), **settings))
        value = name
    return nodes, value
