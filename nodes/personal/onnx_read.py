"""Reads an ONNX file: its nodes in order and the constants that it holds. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal import protobuf

MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_TYPE, NODE_ATTRIBUTE = 1, 2, 3, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_TENSOR, ATTRIBUTE_INTS = 1, 2, 3, 5, 8
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
DTYPES: Mapping[int, str] = {1: "<f4", 7: "<i8", 10: "<f2"}


class NotPersonal(ValueError):
    """The file is not a network that can be personalised; the text says why."""


@dataclass(frozen=True)
class Node:
    """One step of the graph."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    name: str = ""


def read_graph(model: bytes) -> tuple[list[Node], dict[str, NDArray[Any]]]:
    """Nodes in order, and constants by name.

    Raises:
        NotPersonal: The file is damaged, or holds tensors of a kind that is not read.
    """
    try:
        return _graph(model)
    except (protobuf.Damaged, UnicodeDecodeError) as damage:
        raise NotPersonal(f"the file cannot be read: {damage}") from damage


def _graph(model: bytes) -> tuple[list[Node], dict[str, NDArray[Any]]]:
    nodes, tensors = [], {}
    for number, graph in protobuf.fields(model):
        if number != MODEL_GRAPH or isinstance(graph, int):
            continue
        for part, value in protobuf.fields(graph):
            if part == GRAPH_NODE and not isinstance(value, int):
                nodes.append(read_node(value))
            elif part == GRAPH_INITIALIZER and not isinstance(value, int):
                name, array = _tensor(value)
                tensors[name] = array
    return nodes, tensors


def read_node(data: memoryview) -> Node:
    """One node of a file."""
    inputs, outputs, kind, name, attributes = [], [], "", "", {}
    for number, value in protobuf.fields(data):
        if isinstance(value, int):
            continue
        if number == NODE_INPUT:
            inputs.append(bytes(value).decode())
        elif number == NODE_OUTPUT:
            outputs.append(bytes(value).decode())
        elif number == NODE_NAME:
            name = bytes(value).decode()
        elif number == NODE_TYPE:
            kind = bytes(value).decode()
        elif number == NODE_ATTRIBUTE:
            key, held = _attribute(value)
            attributes[key] = held
    return Node(kind, tuple(inputs), tuple(outputs), attributes, name)


def _attribute(data: memoryview) -> tuple[str, Any]:
    name = ""
    held: Any = None
    many: list[int] = []
    for number, value in protobuf.fields(data):
        if number == ATTRIBUTE_NAME and not isinstance(value, int):
            name = bytes(value).decode()
        elif number == ATTRIBUTE_INT and isinstance(value, int):
            held = protobuf.signed(value)
        elif number == ATTRIBUTE_FLOAT and not isinstance(value, int):
            held = float(np.frombuffer(value, "<f4")[0])
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
