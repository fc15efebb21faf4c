"""ONNX graphs that personalising needs, written on the node from layers and weights; nothing is shipped for it.

* `plain`: the global expert, to compare with.
* `observed`: the global expert, which also tells its penultimate features and what the gate sees.
* `personal`: one pass through the first layer, then the gate, then the layers of one of the two experts. The local
  expert's deltas are folded into weights of its own: for nets that are small against the cost of a graph node.

For nets that are large against it `shared` writes one graph that all users' deltas are inputs of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal.gate import Gate
from nodes.personal.layers import behind_nodes, layer_nodes, seen_nodes, stem_nodes
from nodes.personal.network import Network, Stage, Weights
from nodes.personal.onnx_write import FEATURES, FLOAT, INPUT, LOCAL, PROBABILITIES, SEEN, model, node, subgraph

__all__ = ["FEATURES", "INPUT", "LOCAL", "PROBABILITIES", "SEEN", "observed", "personal", "plain"]


def observed(network: Network, weights: Weights) -> bytes:
    """Image (b, side, side) in; probabilities, features and what the gate sees out."""
    nodes, tensors = stem_nodes(network, weights)
    rest, held = _rest(network.stages[1:], weights, network, prefix="", told=True)
    tensors |= held
    outputs = (PROBABILITIES, FEATURES, SEEN)
    return model(network, [*nodes, *seen_nodes(network, weights), *rest], tensors, outputs, batch=True)


def plain(network: Network, weights: Weights) -> bytes:
    """The global expert as it ships: image (b, side, side) in, probabilities out."""
    nodes, tensors = stem_nodes(network, weights)
    rest, held = _rest(network.stages[1:], weights, network, prefix="")
    return model(network, [*nodes, *rest], tensors | held, (PROBABILITIES,), batch=True)


def personal(network: Network, weights: Weights, local: Weights, gate: Gate) -> bytes:
    """Image (1, side, side) in; probabilities and whether the local expert gave them out."""
    nodes, tensors = stem_nodes(network, weights)
    tensors |= {
        "gate.first": gate.first_fh,
        "gate.bias": gate.bias_h,
        "gate.second": gate.second_h.reshape(-1, 1),
        "gate.threshold": np.array([gate.threshold], np.float32),
        "gate.zero": np.zeros((1, 1), np.float32),
    }
    branches = [_branch(network, held, prefix) for held, prefix in ((local, "le."), (weights, "ge."))]
    nodes += [
        *seen_nodes(network, weights),
        node("Gemm", (SEEN, "gate.first", "gate.bias"), ("gate.hidden",)),
        node("Relu", ("gate.hidden",), ("gate.active",)),
        node("Gemm", ("gate.active", "gate.second", "gate.threshold"), ("gate.score",)),
        node("Greater", ("gate.score", "gate.zero"), (LOCAL,)),
        node("If", (LOCAL,), (PROBABILITIES,), then_branch=branches[0], else_branch=branches[1]),
    ]
    return model(network, nodes, tensors, (PROBABILITIES, LOCAL), batch=False)


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
            nodes.append(node("Flatten", (value,), (prefix + FEATURES,), axis=1))
            value, flat = prefix + FEATURES, True
        layer, made = layer_nodes(stage, value, label, weight=names[0], bias=names[1], first_linear=not flat)
        nodes += layer
        flat = flat or not stage.conv
        if last:
            nodes.append(node("Softmax", (made,), (prefix + PROBABILITIES,), axis=1))
        else:
            behind, value = behind_nodes(stage, made, label)
            nodes += behind
    return nodes, tensors


def _branch(network: Network, weights: Weights, prefix: str) -> bytes:
    nodes, tensors = _rest(network.stages[1:], weights, network, prefix=prefix)
    classes = len(weights[network.last.bias])
    return subgraph(nodes, tensors, inputs={}, outputs={prefix + PROBABILITIES: (FLOAT, (1, classes))})
