"""Tensors of a stranger's ONNX file: sizes multiplied in Python's integers, bytes counted, numbers looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.artifacts import onnx_tables as t
from nodes.artifacts.manifest import Manifest, check_path
from nodes.errors import ArtifactRefused
from nodes.personal.protobuf import Damaged, fields, packed

MAX_DIMS = 16
MAX_ELEMENTS = 2**33
# A varint has at most ten bytes.
MAX_DIMS_BYTES = 10 * MAX_DIMS
NUMPY_FLOATS = {1: "<f4", 10: "<f2", 11: "<f8"}
BFLOAT_EXPONENT, BFLOAT_SIGN, BFLOAT_FRACTION = 0x7F80, 0x8000, 0x7F
OUTSIDE = 1


@dataclass(frozen=True)
class Outside:
    """A tensor that the model names and another of its files holds."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    offset: int
    size_bytes: int


@dataclass
class Tensor:
    """What a TensorProto says; where a field occurs more than once, every occurrence counts."""

    name: str
    dims: list[int]
    kinds: set[int]
    raw: list[memoryview]
    floats: list[memoryview]
    doubles: list[memoryview]
    varints: int
    pairs: list[tuple[str, str]]
    locations: set[int]

    @property
    def elements(self) -> int:
        """Product of the sizes."""
        return math.prod(self.dims)

    @property
    def kind(self) -> int:
        """TensorProto.DataType."""
        return max(self.kinds, default=0)


def invalid(why: str) -> ArtifactRefused:
    """The error for a file that is no ONNX model, or a damaged one."""
    return ArtifactRefused("ARTIFACT_INVALID", f"The ONNX file is not valid: {why}.")


def read_tensor(data: memoryview) -> Tensor:
    """Read a TensorProto without its numbers.

    Raises:
        ArtifactRefused: ARTIFACT_INVALID or ARTIFACT_TOO_LARGE.
    """
    tensor = Tensor("", [], set(), [], [], [], 0, [], set())
    for number, value in fields(data):
        if isinstance(value, int):
            _take_number(tensor, number, value)
        else:
            _take_bytes(tensor, number, value)
    if len(tensor.dims) > MAX_DIMS or any(size < 0 for size in tensor.dims):
        raise invalid("a tensor has a negative size, or too many dimensions")
    if tensor.elements > MAX_ELEMENTS:
        raise ArtifactRefused("ARTIFACT_TOO_LARGE", f"A tensor has more than {MAX_ELEMENTS} elements.")
    if len(tensor.kinds) != 1 or (tensor.kind not in t.BITS and tensor.kind != t.STRING_TYPE):
        raise invalid("a tensor has no type that is known")
    return tensor


def _take_number(tensor: Tensor, number: int, value: int) -> None:
    if number == t.TENSOR_DIMS:
        tensor.dims += packed(value)
    elif number == t.TENSOR_TYPE:
        tensor.kinds.add(value)
    elif number == t.TENSOR_LOCATION:
        tensor.locations.add(value)
    elif number in t.TENSOR_VARINTS:
        tensor.varints += 1
    else:
        raise invalid("a tensor has a number where something else belongs")


def _take_bytes(tensor: Tensor, number: int, value: memoryview) -> None:
    if number == t.TENSOR_DIMS:
        if len(value) > MAX_DIMS_BYTES:
            raise invalid("a tensor has too many dimensions")
        tensor.dims += packed(value)
    elif number == t.TENSOR_NAME:
        tensor.name = bytes(value).decode()
    elif number == t.TENSOR_RAW:
        tensor.raw.append(value)
    elif number == t.TENSOR_FLOATS:
        tensor.floats.append(value)
    elif number == t.TENSOR_DOUBLES:
        tensor.doubles.append(value)
    elif number in t.TENSOR_VARINTS:
        # The last byte of every number, and no other, is below 128.
        tensor.varints += int((np.frombuffer(value, np.uint8) < 0x80).sum())
    elif number == t.TENSOR_OUTSIDE:
        tensor.pairs.append(_pair(value))
    elif number in (t.TENSOR_TYPE, t.TENSOR_LOCATION):
        raise invalid("a tensor has bytes where a number belongs")


def _pair(data: memoryview) -> tuple[str, str]:
    key = value = ""
    for number, text in fields(data):
        if isinstance(text, int):
            raise invalid("a tensor has a number where a text belongs")
        if number == 1:
            key = bytes(text).decode()
        else:
            value = bytes(text).decode()
    return key, value


def check_inside(tensor: Tensor, *, weights: bool) -> None:
    """A tensor that the file itself holds: as many bytes as its shape says, and (weights) numbers that are finite.

    Raises:
        ArtifactRefused: ARTIFACT_INVALID or WEIGHTS_NOT_FINITE.
    """
    if len(tensor.raw) > 1:
        raise invalid("a tensor has its bytes twice")
    per_element = 2 if tensor.kind in (14, 15) else 1
    stored = tensor.varints + sum(map(len, tensor.floats)) // 4 + sum(map(len, tensor.doubles)) // 8
    if tensor.kind != t.STRING_TYPE and tensor.raw and len(tensor.raw[0]) != size_bytes(tensor):
        raise invalid("a tensor has more or fewer bytes than its shape says")
    if stored > tensor.elements * per_element or (tensor.raw and stored):
        raise invalid("a tensor has more numbers than its shape says")
    if weights and tensor.elements > 1:
        for data in tensor.raw:
            check_numbers(tensor.kind, data)
        for dtype, parts in ((1, tensor.floats), (11, tensor.doubles)):
            for data in parts:
                check_numbers(dtype, data)


def size_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's elements."""
    return -(-tensor.elements * t.BITS[tensor.kind] // 8)


def check_numbers(kind: int, data: memoryview) -> None:
    """Refuse NaN and infinity; minus infinity masks what must not be looked at, and may stay.

    Raises:
        ArtifactRefused: WEIGHTS_NOT_FINITE.
    """
    if kind == t.BFLOAT16 and len(data) % 2 == 0:
        bits = np.frombuffer(data, "<u2")
        special = bits & BFLOAT_EXPONENT == BFLOAT_EXPONENT
        bad = special & ((bits & BFLOAT_FRACTION != 0) | (bits & BFLOAT_SIGN == 0))
    elif kind in NUMPY_FLOATS and len(data) % np.dtype(NUMPY_FLOATS[kind]).itemsize == 0:
        numbers: NDArray[Any] = np.frombuffer(data, NUMPY_FLOATS[kind])
        bad = np.isnan(numbers) | (numbers == np.inf)
    else:
        return
    if bad.any():
        raise ArtifactRefused("WEIGHTS_NOT_FINITE", "The ONNX file holds weights that are NaN or infinite.")


def outside(tensor: Tensor, manifest: Manifest, model_path: str) -> Outside:
    """Where a tensor lies that another file holds.

    Args:
        model_path: Of the ONNX file; locations count from its folder.

    Raises:
        ArtifactRefused: ARTIFACT_PATH_ESCAPE or ARTIFACT_INVALID.
    """
    told = dict(tensor.pairs)
    if tensor.locations != {OUTSIDE} or len(told) != len(tensor.pairs) or tensor.raw or tensor.floats or tensor.doubles:
        raise invalid("a tensor is said to lie in two places")
    if not set(told) <= {"location", "offset", "length", "checksum"} or not told.get("location"):
        raise invalid("a tensor in another file needs location, offset and length")
    location = told["location"].removeprefix("./")
    try:
        check_path(location)
    except ArtifactRefused:
        text = "A tensor is said to lie in a file outside the model's folder, or in one whose name is not allowed."
        raise ArtifactRefused("ARTIFACT_PATH_ESCAPE", text) from None
    folder, slash, _ = model_path.rpartition("/")
    entry = manifest.file(f"{folder}{slash}{location}")
    if entry is None:
        raise ArtifactRefused("ARTIFACT_INVALID", "A tensor lies in a file that was not pushed with the model.")
    if tensor.kind not in t.NUMPY:
        raise invalid("a tensor in another file has a type that may not lie there")
    offset, length = _whole(told.get("offset", "0")), _whole(told.get("length", str(size_bytes(tensor))))
    if length != size_bytes(tensor) or offset + length > entry.size_bytes:
        raise invalid("a tensor in another file has other bytes than its shape says, or lies beyond its end")
    return Outside(tensor.name, t.NUMPY[tensor.kind], tuple(tensor.dims), entry.path, offset, length)


def _whole(text: str) -> int:
    # What int() takes besides digits (signs, spaces, other alphabets, underscores) is no number here.
    if not text.isascii() or not text.isdecimal() or len(text) > 20:
        raise invalid("offset and length must be whole numbers that are not negative")
    return int(text)


__all__ = ["Damaged", "Outside", "Tensor", "check_inside", "check_numbers", "invalid", "outside", "read_tensor"]
