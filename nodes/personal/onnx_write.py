"""Writes the ONNX files of personal graphs: nodes, constants, inputs and outputs as protobuf messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

from nodes.personal.network import Network
from nodes.personal.protobuf import block, number, numbers, real

OPSET = 17
IR_VERSION = 8
FLOAT, INT64, BOOL = 1, 7, 9
INPUT, PROBABILITIES, FEATURES, SEEN, LOCAL = "image", "probabilities", "features", "seen", "local"

ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_TEXT, ATTRIBUTE_GRAPH, ATTRIBUTE_INTS = 1, 2, 3, 5, 7

Values = Mapping[str, tuple[int, tuple[int, ...]]]


def model(
    network: Network,
    nodes: list[bytes],
    tensors: Mapping[str, NDArray[Any]],
    outputs: Iterable[str],
    *,
    batch: bool,
    inputs: Values | None = None,
) -> bytes:
    """A whole file: the image and what else it takes in, (rows, ...), and its outputs (rows, any)."""
    rows = -1 if batch else 1
    shape = (network.side, network.side) if network.channels == 1 else (network.channels, network.side, network.side)
    given = {INPUT: (FLOAT, (rows, *shape)), **(inputs or {})}
    told = {name: (BOOL if name == LOCAL else FLOAT, (rows, -1)) for name in outputs}
    whole = subgraph(nodes, tensors, inputs=given, outputs=told)
    opset = block(1, "") + number(2, OPSET)
    return number(1, IR_VERSION) + block(2, "edgewise") + block(7, whole) + block(8, opset)


def subgraph(nodes: list[bytes], tensors: Mapping[str, NDArray[Any]], *, inputs: Values, outputs: Values) -> bytes:
    """The nodes of a file, or of one branch of an `If`."""
    parts = [block(1, one) for one in nodes]
    parts.append(block(2, "personal"))
    parts += [block(5, tensor(name, array)) for name, array in tensors.items()]
    parts += [block(11, value(name, kind, shape)) for name, (kind, shape) in inputs.items()]
    parts += [block(12, value(name, kind, shape)) for name, (kind, shape) in outputs.items()]
    return b"".join(parts)


def value(name: str, kind: int, shape: tuple[int, ...]) -> bytes:
    """An input or output; sizes below 0 are free."""
    dims = b"".join(
        block(1, block(2, f"free{axis}") if size < 0 else number(1, size)) for axis, size in enumerate(shape)
    )
    return block(1, name) + block(2, block(1, number(1, kind) + block(2, dims)))


def tensor(name: str, array: NDArray[Any]) -> bytes:
    """A constant."""
    kind = INT64 if array.dtype.kind == "i" else FLOAT
    raw = array.astype("<i8" if kind == INT64 else "<f4").tobytes()
    return numbers(1, array.shape) + number(2, kind) + block(8, name) + block(9, raw)


def node(kind: str, inputs: Iterable[str], outputs: Iterable[str], **attributes: Any) -> bytes:
    """One node."""
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
