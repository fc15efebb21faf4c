"""Reads a classifier's ONNX file as a chain of layers, so that any chain can be personalised as it ships.

Known are Unsqueeze, Resize, Conv, Relu, MaxPool, Flatten, Gemm and Softmax in the order of a plain classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal import protobuf
from nodes.personal.network import Floats, Network, Stage, check

MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_INPUT, NODE_OUTPUT, NODE_TYPE, NODE_ATTRIBUTE = 1, 2, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_TENSOR, ATTRIBUTE_INTS = 1, 3, 5, 8
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
DTYPES: Mapping[int, str] = {1: "<f4", 7: "<i8"}


class NotPersonal(ValueError):
    """The file is not a chain of layers that can be personalised; the text says why."""


@dataclass(frozen=True)
class _Node:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass
class _Chain:
    """What was read so far."""

    tensors: dict[str, NDArray[Any]]
    stages: list[Stage] = field(default_factory=list)
    weights: dict[str, Floats] = field(default_factory=dict)
    upsample: int = 1


def read_network(model: bytes, side: int) -> tuple[Network, dict[str, Floats]]:
    """Layers and weights of a classifier of square one-channel pictures.

    Args:
        model: The file.
        side: Height and width of its input.

    Raises:
        NotPersonal: It is no such chain, or has no hidden convolution to change.
    """
    try:
        nodes, tensors = _graph(model)
    except protobuf.Damaged as damage:
        raise NotPersonal(f"the file cannot be read: {damage}") from damage
    chain = _Chain(tensors)
    for node in nodes:
        reader = _READERS.get(node.kind)
        if reader is None:
            raise NotPersonal(f"{node.kind} is not a layer of a plain chain")
        reader(chain, node)
    if len(chain.stages) < 3 or not (chain.stages[0].conv and chain.stages[1].conv) or chain.stages[-1].conv:
        raise NotPersonal("it needs two convolutions and a linear layer behind them")
    network = Network(side, tuple(chain.stages), upsample=chain.upsample)
    try:
        check(network, chain.weights)
    except ValueError as error:
        raise NotPersonal(str(error)) from error
    return network, chain.weights


def _conv(chain: _Chain, node: _Node) -> None:
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


def _gemm(chain: _Chain, node: _Node) -> None:
    if node.attributes.get("transB") != 1:
        raise NotPersonal("a linear layer is stored the other way round")
    _add(chain, Stage(f"layer{len(chain.stages)}", conv=False), node)


def _add(chain: _Chain, stage: Stage, node: _Node) -> None:
    if len(node.inputs) != 3 or not {*node.inputs[1:]} <= {*chain.tensors}:
        raise NotPersonal("a layer has no offsets")
    chain.stages.append(stage)
    chain.weights[stage.weight] = chain.tensors[node.inputs[1]].astype(np.float32)
    chain.weights[stage.bias] = chain.tensors[node.inputs[2]].astype(np.float32)


def _pool(chain: _Chain, node: _Node) -> None:
    kernel, strides = node.attributes["kernel_shape"], node.attributes.get("strides", [1, 1])
    if not chain.stages or kernel != strides or len({*kernel}) != 1 or any(node.attributes.get("pads", [0])):
        raise NotPersonal("a pooling layer overlaps or is padded")
    chain.stages[-1] = replace(chain.stages[-1], pool=kernel[0])


def _resize(chain: _Chain, node: _Node) -> None:
    scales = chain.tensors[node.inputs[2]]
    if len(scales) != 4 or scales[2] != scales[3] or scales[2] != int(scales[2]):
        raise NotPersonal("the input is resized by no whole number")
    chain.upsample = int(scales[2])


def _constant(chain: _Chain, node: _Node) -> None:
    chain.tensors[node.outputs[0]] = node.attributes["value"]


def _nothing(_chain: _Chain, _node: _Node) -> None:
    return None


_READERS: Mapping[str, Callable[[_Chain, _Node], None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MaxPool": _pool,
    "Resize": _resize,
    "Constant": _constant,
    "Relu": _nothing,
    "Unsqueeze": _nothing,
    "Flatten": _nothing,
    "Softmax": _nothing,
}


# ---- the file


def _graph(model: bytes) -> tuple[list[_Node], dict[str, NDArray[Any]]]:
    nodes, tensors = [], {}
    for number, graph in protobuf.fields(model):
        if number != MODEL_GRAPH or isinstance(graph, int):
            continue
        for part, value in protobuf.fields(graph):
            if part == GRAPH_NODE and not isinstance(value, int):
                nodes.append(_node(value))
            elif part == GRAPH_INITIALIZER and not isinstance(value, int):
                name, array = _tensor(value)
                tensors[name] = array
    return nodes, tensors


def _node(data: memoryview) -> _Node:
    inputs, outputs, kind, attributes = [], [], "", {}
    for number, value in protobuf.fields(data):
        if isinstance(value, int):
            continue
        if number == NODE_INPUT:
            inputs.append(bytes(value).decode())
        elif number == NODE_OUTPUT:
            outputs.append(bytes(value).decode())
        elif number == NODE_TYPE:
            kind = bytes(value).decode()
        elif number == NODE_ATTRIBUTE:
            name, held = _attribute(value)
            attributes[name] = held
    return _Node(kind, tuple(inputs), tuple(outputs), attributes)


def _attribute(data: memoryview) -> tuple[str, Any]:
    name = ""
    held: Any = None
    many: list[int] = []
    for number, value in protobuf.fields(data):
        if number == ATTRIBUTE_NAME and not isinstance(value, int):
            name = bytes(value).decode()
        elif number == ATTRIBUTE_INT and isinstance(value, int):
            held = protobuf.signed(value)
        elif number == ATTRIBUTE_TENSOR and not isinstance(value, int):
            held = _tensor(value)[1]
        elif number == ATTRIBUTE_INTS:
            many += protobuf.packed(value)
    return name, many or held


def _tensor(data: memoryview) -> tuple[str, NDArray[Any]]:
    dims: list[int] = []
    name, kind, raw = "", 0, b""
    for number, value in protobuf.fields(data):
        if number == TENSOR_DIMS:
            dims += protobuf.packed(value)
        elif number == TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == TENSOR_NAME and not isinstance(value, int):
            name = bytes(value).decode()
        elif number == TENSOR_RAW and not isinstance(value, int):
            raw = bytes(value)
    dtype = DTYPES.get(kind)
    if dtype is None:
        raise NotPersonal(f"tensor {name} is of a kind that is not read")
    array = np.frombuffer(raw, dtype)
    if array.size != int(np.prod(dims)):
        raise NotPersonal(f"tensor {name} is not stored in the file itself")
    return name, array.reshape(dims)
