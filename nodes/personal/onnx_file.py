"""Reads a classifier's ONNX file as a chain of layers, so that any chain can be personalised as it ships.

Known are Unsqueeze, Resize, Conv, BatchNormalization, Relu, MaxPool, a mean over the whole map, Flatten, Gemm and
Softmax in the order of a plain classifier: LeNet, VGG, MobileNetV1. Every step must read what the step before it made;
batch normalisation is folded into the convolution before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal.network import Floats, Network, Stage, check
from nodes.personal.onnx_read import Node, NotPersonal, read_graph

__all__ = ["NotPersonal", "read_network"]

NORM_EPSILON = 1e-5
# Of the last two axes of four.
MAP_AXES = ({2, 3}, {-1, -2})


@dataclass
class _Chain:
    """What was read so far."""

    tensors: dict[str, NDArray[Any]]
    stages: list[Stage] = field(default_factory=list)
    weights: dict[str, Floats] = field(default_factory=dict)
    upsample: int = 1
    active: set[str] = field(default_factory=set)
    value: str = ""
    lone: bool = False


def read_network(model: bytes, side: int) -> tuple[Network, dict[str, Floats]]:
    """Layers and weights of a classifier of square pictures.

    Args:
        model: The file.
        side: Height and width of its input.

    Raises:
        NotPersonal: It is no such chain, or has no hidden convolution to change.
    """
    nodes, tensors = read_graph(model)
    chain = _Chain(tensors)
    for node in nodes:
        reader = _READERS.get(node.kind)
        if reader is None:
            raise NotPersonal(f"{node.kind} is not a layer of a plain chain")
        if node.kind != "Constant":
            _follow(chain, node)
        reader(chain, node)
    return _network(chain, side), chain.weights


def _follow(chain: _Chain, node: Node) -> None:
    if chain.value and node.inputs[0] != chain.value:
        raise NotPersonal(f"{node.kind} reads something else than the step before it made: the network has branches")
    chain.value = node.outputs[0]


def _network(chain: _Chain, side: int) -> Network:
    stages = chain.stages
    if len(stages) < 3 or not (stages[0].conv and stages[1].conv) or stages[-1].conv:
        raise NotPersonal("it needs two convolutions and a linear layer behind them")
    odd = [stage.name for stage in stages[:-1] if stage.name not in chain.active]
    if odd or stages[-1].name in chain.active:
        raise NotPersonal("it needs a ReLU behind every layer but the last")
    channels = chain.weights[stages[0].weight].shape[1]
    if (channels == 1) != chain.lone:
        raise NotPersonal("pictures of one channel must come without that axis, (b, side, side), others with it")
    network = Network(side, tuple(stages), channels=channels, upsample=chain.upsample)
    try:
        check(network, chain.weights)
    except ValueError as error:
        raise NotPersonal(str(error)) from error
    return network


def _conv(chain: _Chain, node: Node) -> None:
    pads, strides = node.attributes.get("pads", [0] * 4), node.attributes.get("strides", [1, 1])
    if len({*pads}) != 1 or len({*strides}) != 1 or {*node.attributes.get("dilations", [1])} != {1}:
        raise NotPersonal("a convolution is not the same in all directions")
    stage = Stage(
        f"layer{len(chain.stages)}",
        conv=True,
        padding=pads[0],
        stride=strides[0],
        groups=node.attributes.get("group", 1),
    )
    _add(chain, stage, node)


def _gemm(chain: _Chain, node: Node) -> None:
    if node.attributes.get("transB") != 1:
        raise NotPersonal("a linear layer is stored the other way round")
    _add(chain, Stage(f"layer{len(chain.stages)}", conv=False), node)


def _add(chain: _Chain, stage: Stage, node: Node) -> None:
    if not {*node.inputs[1:]} <= {*chain.tensors}:
        raise NotPersonal("a layer has weights that are not stored in the file")
    weight, *bias = (chain.tensors[name].astype(np.float32) for name in node.inputs[1:])
    chain.stages.append(stage)
    chain.weights[stage.weight] = weight
    chain.weights[stage.bias] = bias[0] if bias else np.zeros(len(weight), np.float32)


def _normalise(chain: _Chain, node: Node) -> None:
    if not chain.stages or not chain.stages[-1].conv or chain.stages[-1].name in chain.active:
        raise NotPersonal("a batch normalisation is not right behind a convolution")
    scale, offset, mean, variance = (chain.tensors[name].astype(np.float64) for name in node.inputs[1:5])
    factor = scale / np.sqrt(variance + node.attributes.get("epsilon", NORM_EPSILON))
    stage, weights = chain.stages[-1], chain.weights
    weights[stage.weight] = (weights[stage.weight] * factor[:, None, None, None]).astype(np.float32)
    weights[stage.bias] = ((weights[stage.bias] - mean) * factor + offset).astype(np.float32)


def _relu(chain: _Chain, node: Node) -> None:  # noqa: ARG001
    if not chain.stages or chain.stages[-1].pool > 1 or chain.stages[-1].name in chain.active:
        raise NotPersonal("a ReLU is not right behind a layer")
    chain.active.add(chain.stages[-1].name)


def _average(chain: _Chain, node: Node) -> None:
    axes = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = chain.tensors[node.inputs[1]].tolist()
    if node.kind == "ReduceMean" and {*(axes or [])} not in MAP_AXES:
        raise NotPersonal("a mean is not over the whole map")
    if not chain.stages or not chain.stages[-1].conv:
        raise NotPersonal("a mean is not behind a convolution")
    chain.stages[-1] = replace(chain.stages[-1], averaged=True)


def _unsqueeze(chain: _Chain, node: Node) -> None:
    if chain.stages or chain.tensors[node.inputs[1]].tolist() != [1]:
        raise NotPersonal("an axis is added that is not the one of a single channel")
    chain.lone = True


def _pool(chain: _Chain, node: Node) -> None:
    kernel, strides = node.attributes["kernel_shape"], node.attributes.get("strides", [1, 1])
    if (
        not chain.stages
        or chain.stages[-1].name not in chain.active
        or kernel != strides
        or len({*kernel}) != 1
        or any(node.attributes.get("pads", [0]))
    ):
        raise NotPersonal("a pooling layer overlaps, is padded or is not behind a ReLU")
    chain.stages[-1] = replace(chain.stages[-1], pool=kernel[0])


def _resize(chain: _Chain, node: Node) -> None:
    scales = chain.tensors[node.inputs[2]]
    if len(scales) != 4 or scales[2] != scales[3] or scales[2] != int(scales[2]):
        raise NotPersonal("the input is resized by no whole number")
    chain.upsample = int(scales[2])


def _constant(chain: _Chain, node: Node) -> None:
    chain.tensors[node.outputs[0]] = node.attributes["value"]


def _nothing(_chain: _Chain, _node: Node) -> None:
    return None


_READERS: Mapping[str, Callable[[_Chain, Node], None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MaxPool": _pool,
    "Resize": _resize,
    "Constant": _constant,
    "BatchNormalization": _normalise,
    "Relu": _relu,
    "GlobalAveragePool": _average,
    "ReduceMean": _average,
    "Unsqueeze": _unsqueeze,
    "Identity": _nothing,
    "Flatten": _nothing,
    "Softmax": _nothing,
}
