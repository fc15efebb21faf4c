"""Reads safetensors files that a stranger may have made; every claim of the header is checked against the bytes.

Layout: u64 length of the header, little-endian; the header, a JSON object of name -> {dtype, shape, data_offsets}; the
tensors, one after the other without a gap.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.errors import ArtifactRefused

MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_TENSORS = 100_000
MAX_DIMS = 16
METADATA = "__metadata__"
# What numpy has no type for is checked for its size and not read.
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}
FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
BFLOAT_EXPONENT = 0x7F80


def read(content: memoryview, name: str) -> dict[str, NDArray[Any]]:
    """The floating-point tensors that numpy knows, as views.

    Raises:
        ArtifactRefused: ARTIFACT_INVALID or WEIGHTS_NOT_FINITE.

    Cost: all floating-point numbers are looked at once.
    """
    header, body = _split(content, name)
    tensors: dict[str, NDArray[Any]] = {}
    end = 0
    for key, entry in sorted(_entries(header, name), key=lambda pair: _offsets(pair[1], name)):
        begin, stop = _offsets(entry, name)
        dtype, shape = _kind(entry, name)
        if begin != end or stop > len(body):
            raise _invalid(name, "its tensors overlap, leave gaps or lie outside the file")
        if stop - begin != math.prod(shape) * ITEM_BYTES[dtype]:
            raise _invalid(name, "a tensor has more or fewer bytes than its shape says")
        end = stop
        _check_finite(dtype, body[begin:stop], name)
        if dtype in FLOATS:
            tensors[key] = np.frombuffer(body[begin:stop], FLOATS[dtype]).reshape(shape)
    if end != len(body):
        raise _invalid(name, "bytes follow the last tensor")
    return tensors


def _split(content: memoryview, name: str) -> tuple[dict[str, Any], memoryview]:
    size = int.from_bytes(content[:8], "little") if len(content) >= 8 else 0
    if not 2 <= size <= MAX_HEADER_BYTES or 8 + size > len(content):
        raise _invalid(name, "the length of its header is not possible")
    try:
        header = json.loads(bytes(content[8 : 8 + size]), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise _invalid(name, "its header is not JSON, or has a name twice") from None
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise _invalid(name, f"its header is no object of at most {MAX_TENSORS} tensors")
    return header, content[8 + size :]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _entries(header: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    entries = [(key, entry) for key, entry in header.items() if key != METADATA]
    wanted = {"dtype", "shape", "data_offsets"}
    if any(not isinstance(entry, dict) or set(entry) != wanted for _, entry in entries):
        raise _invalid(name, "a tensor needs dtype, shape and data_offsets, and nothing else")
    return entries


def _offsets(entry: dict[str, Any], name: str) -> tuple[int, int]:
    match entry["data_offsets"]:
        case [int(begin), int(stop)] if 0 <= begin <= stop < 2**63:
            return begin, stop
    raise _invalid(name, "data_offsets must be two numbers, the smaller first")


def _kind(entry: dict[str, Any], name: str) -> tuple[str, tuple[int, ...]]:
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _invalid(name, "a tensor has an unknown dtype")
    sizes = isinstance(shape, list) and len(shape) <= MAX_DIMS and all(_is_size(size) for size in shape)
    if not sizes:
        raise _invalid(name, "a shape must be a list of sizes that are not negative")
    return dtype, tuple(shape)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _check_finite(dtype: str, data: memoryview, name: str) -> None:
    if dtype in FLOATS:
        finite = bool(np.isfinite(np.frombuffer(data, FLOATS[dtype])).all())
    elif dtype == "BF16":
        finite = bool((np.frombuffer(data, "<u2") & BFLOAT_EXPONENT != BFLOAT_EXPONENT).all())
    else:
        return
    if not finite:
        raise ArtifactRefused("WEIGHTS_NOT_FINITE", f"{name} holds NaN or infinite numbers.")


def _invalid(name: str, why: str) -> ArtifactRefused:
    return ArtifactRefused("ARTIFACT_INVALID", f"{name} is no safetensors file: {why}.")
