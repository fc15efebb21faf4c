"""Frames between the agent and its engine process: a JSON header and raw tensor bytes.

Layout, little-endian: u32 header length, u32 body length, header (UTF-8 JSON object), body. The header's
``tensors`` lists name, dtype and shape of each tensor; the body is their bytes, one after the other.

The worker may run under another interpreter, so this file needs Python 3.10 and numpy, and nothing else.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_TENSORS = 64
DTYPES = ("bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64")

# A dtype's own `name` is composed anew at every look.
_DTYPE_NAMES = {np.dtype(name): name for name in DTYPES}
_LENGTHS = struct.Struct("<II")

Tensors = Mapping[str, NDArray[Any]]


class FrameError(ValueError):
    """The bytes are not a frame of this protocol; the pipe cannot be trusted any more."""


@dataclass(frozen=True)
class Frame:
    """One message: `header` says what it is, `body` holds the bytes of its tensors."""

    header: Mapping[str, Any]
    body: bytes

    @property
    def op(self) -> str:
        """What the message asks for or reports."""
        return str(self.header["op"])

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors of the body, as read-only views.

        Raises:
            FrameError: if the list and the bytes do not agree.
        """
        return _unpack(self.header.get("tensors", []), self.body)


def encode(header: Mapping[str, Any], tensors: Tensors | None = None) -> bytes:
    """One frame as bytes.

    Raises:
        FrameError: if header or body are over their caps, or a dtype is not carried.
    """
    arrays = {name: _as_carried(array) for name, array in (tensors or {}).items()}
    listed = [_listing(name, array) for name, array in arrays.items()]
    head = json.dumps({**header, "tensors": listed} if listed else dict(header)).encode()
    body_bytes = sum(array.nbytes for array in arrays.values())
    _check_lengths(len(head), body_bytes)
    return b"".join([_LENGTHS.pack(len(head), body_bytes), head, *(a.tobytes() for a in arrays.values())])


class FrameDecoder:
    """Turns a stream of bytes, cut anywhere, into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete yet; 0 where the stream may end."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes in, give out every frame that they complete.

        Raises:
            FrameError: if a length is over its cap or a header is not a JSON object with an ``op``.
        """
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        if len(self._buffer) < _LENGTHS.size:
            return None
        head_bytes, body_bytes = _LENGTHS.unpack_from(self._buffer)
        _check_lengths(head_bytes, body_bytes)
        body_at = _LENGTHS.size + head_bytes
        end = body_at + body_bytes
        if len(self._buffer) < end:
            return None
        header = _parse_header(bytes(self._buffer[_LENGTHS.size : body_at]))
        body = bytes(self._buffer[body_at:end])
        del self._buffer[:end]
        return Frame(header, body)


def _check_lengths(head_bytes: int, body_bytes: int) -> None:
    if not 2 <= head_bytes <= MAX_HEADER_BYTES:
        raise FrameError(f"header of {head_bytes} bytes; allowed are 2 to {MAX_HEADER_BYTES}")
    if body_bytes > MAX_BODY_BYTES:
        raise FrameError(f"body of {body_bytes} bytes; allowed are {MAX_BODY_BYTES}")


def _parse_header(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FrameError("header is not JSON") from error
    if not isinstance(header, dict) or not isinstance(header.get("op"), str):
        raise FrameError("header is not an object with an op")
    return header


def _as_carried(array: NDArray[Any]) -> NDArray[Any]:
    # Almost always it is carried as it is: asking numpy for the other byte order costs more than looking.
    if array.dtype in _DTYPE_NAMES and sys.byteorder == "little":
        return array
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _listing(name: str, array: NDArray[Any]) -> dict[str, Any]:
    dtype = _DTYPE_NAMES.get(array.dtype)
    if dtype is None:
        raise FrameError(f"tensors of dtype {array.dtype.name} are not carried")
    return {"name": name, "dtype": dtype, "shape": array.shape}


def _unpack(listed: Any, body: bytes) -> dict[str, NDArray[Any]]:
    if not isinstance(listed, list) or len(listed) > MAX_TENSORS:
        raise FrameError(f"tensors must be a list of at most {MAX_TENSORS}")
    tensors: dict[str, NDArray[Any]] = {}
    offset = 0
    for item in listed:
        name, dtype, shape = _parse_listing(item)
        count = prod(shape)
        end = offset + count * dtype.itemsize
        if end > len(body) or name in tensors:
            raise FrameError("tensor list and body do not agree")
        tensors[name] = np.frombuffer(body, dtype=dtype, count=count, offset=offset).reshape(shape)
        offset = end
    if offset != len(body):
        raise FrameError("body is longer than its tensors")
    return tensors


def _parse_listing(item: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    try:
        name, dtype, shape = item["name"], item["dtype"], item["shape"]
    except (TypeError, KeyError) as error:
        raise FrameError("a tensor needs name, dtype and shape") from error
    sizes_are_fine = isinstance(shape, list) and len(shape) <= 32 and all(_is_size(size) for size in shape)
    if not isinstance(name, str) or dtype not in DTYPES or not sizes_are_fine:
        raise FrameError("a tensor has a bad name, dtype or shape")
    return name, np.dtype(dtype), tuple(shape)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40
