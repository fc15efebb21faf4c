"""Whether an ONNX file keeps to itself, read off its bytes: the ONNX package is not needed where models only run.

A model may name other files for its tensors (*external data*). Whoever made the model would choose which file of this
machine is read, so such models are refused before a runtime sees them.
"""

from __future__ import annotations

from collections.abc import Iterator

# Which fields of which message may hold a tensor, by field number of onnx.proto (ONNX 1.2 to IR version 13).
_HOLDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
# TensorProto.external_data and TensorProto.data_location.
_ENTRY, _LOCATION = 13, 14
_DEEPEST = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def has_external_data(model: bytes) -> bool:
    """Whether any tensor of a model lies in another file.

    Raises:
        ValueError: The bytes are not those of a message, or nest too deeply.

    Cost: proportional to the number of nodes and tensors; their contents are skipped.
    """
    return _search(memoryview(model), "model", 0)


def _search(data: memoryview, kind: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    for number, value in _fields(data):
        if kind == "tensor" and (number == _ENTRY or (number == _LOCATION and value != 0)):
            return True
        below = _HOLDS[kind].get(number)
        if below and isinstance(value, memoryview) and _search(value, below, depth + 1):
            return True
    return False


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Fields of a message: numbers as they are, everything else as its bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("cut off")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if at + place >= len(data):
            raise ValueError("cut off")
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("number too long")
