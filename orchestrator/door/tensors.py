"""Tensors as the Open Inference Protocol writes them: lists in JSON, or bytes behind it. Pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from orchestrator.door.fields import Fields
from orchestrator.errors import RequestError
from orchestrator.types import Array
from orchestrator.wire import MAX_RANK

DATATYPES: dict[np.dtype[Any], str] = {
    np.dtype("bool"): "BOOL",
    np.dtype("uint8"): "UINT8",
    np.dtype("int8"): "INT8",
    np.dtype("int32"): "INT32",
    np.dtype("int64"): "INT64",
    np.dtype("float16"): "FP16",
    np.dtype("float32"): "FP32",
    np.dtype("float64"): "FP64",
}
_DTYPES = {name: dtype for dtype, name in DATATYPES.items()}


def decode_input(fields: Fields, inputs: list[Any], tail: bytes) -> tuple[str, Array]:
    """The first tensor of a request, with its name.

    Args:
        fields: The request.
        inputs: Its tensors.
        tail: Bytes behind the JSON.

    Raises:
        RequestError: FIELD_REQUIRED, FIELD_OUT_OF_RANGE, DTYPE_MISMATCH or SHAPE_MISMATCH.
    """
    if not isinstance(inputs[0], dict):
        raise fields.wrong("inputs[0]", "an object with name, shape, datatype and data")
    tensor = Fields(inputs[0], "inputs[0]")
    name = tensor.text("name", most_chars=256) or ""
    dtype = _DTYPES.get(str(tensor.value.get("datatype")))
    if dtype is None:
        text = f"inputs[0].datatype must be one of {', '.join(_DTYPES)}."
        raise RequestError("DTYPE_MISMATCH", text, field="inputs[0].datatype")
    shape = _shape(tensor)
    parameters = tensor.inner("parameters")
    size = None if parameters is None else parameters.integer("binary_data_size", 0, 2**40)
    array = _from_json(tensor, dtype) if size is None else _from_bytes(tail, size, dtype)
    elements = math.prod(shape)
    if array.size != elements:
        raise RequestError(
            "SHAPE_MISMATCH",
            f"inputs[0] declares {elements} elements; its data holds {array.size}.",
            field="inputs[0].shape",
            metadata={"expectedElements": str(elements), "gotElements": str(array.size)},
        )
    return name, array.reshape(shape)


def _shape(tensor: Fields) -> tuple[int, ...]:
    sizes = tensor.array("shape", MAX_RANK) or []
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**40 for size in sizes):
        raise RequestError(
            "SHAPE_MISMATCH", f"inputs[0].shape must be at most {MAX_RANK} whole numbers.", field="inputs[0].shape"
        )
    return tuple(sizes)


def _from_json(tensor: Fields, dtype: np.dtype[Any]) -> Array:
    data = tensor.value.get("data")
    if not isinstance(data, list):
        raise RequestError("FIELD_REQUIRED", "inputs[0].data must be a list of numbers.", field="inputs[0].data")
    try:
        array = np.asarray(data)
        if array.dtype.kind not in "biuf" or (dtype.kind in "biu" and array.dtype.kind == "f"):
            raise tensor.wrong("data", "numbers of the datatype")
        with np.errstate(over="ignore"):
            return array.reshape(-1).astype(dtype)
    except (ValueError, OverflowError):
        raise tensor.wrong("data", "numbers, in lists of equal length where they are nested") from None


def _from_bytes(tail: bytes, size: int, dtype: np.dtype[Any]) -> Array:
    if size > len(tail) or size % dtype.itemsize:
        raise RequestError(
            "SHAPE_MISMATCH", "binary_data_size is not what stands behind the JSON.", field="inputs[0].parameters"
        )
    return np.frombuffer(tail[:size], dtype.newbyteorder("<"))


def wanted_binary(fields: Fields, name: str) -> bool:
    """Whether an output is wanted as bytes."""
    parameters = fields.inner("parameters")
    wanted = parameters is not None and parameters.flag("binary_data_output")
    for number, given in enumerate(fields.array("outputs", 64) or []):
        if not isinstance(given, dict):
            raise fields.wrong(f"outputs[{number}]", "an object with a name")
        output = Fields(given, f"outputs[{number}]")
        own = output.inner("parameters")
        if output.text("name") == name and own is not None and "binary_data" in own.value:
            wanted = own.flag("binary_data")
    return wanted


def encode_output(name: str, array: Array, *, binary: bool) -> tuple[dict[str, Any], bytes]:
    """A tensor for the reply, and the bytes behind the JSON."""
    document: dict[str, Any] = {
        "name": name,
        "shape": list(array.shape),
        "datatype": DATATYPES[array.dtype.newbyteorder("=")],
    }
    if not binary:
        return document | {"data": array.reshape(-1).tolist()}, b""
    tail = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return document | {"parameters": {"binary_data_size": len(tail)}}, tail
