"""The little of protobuf's wire format that reading and writing an ONNX file needs.

Nodes have no `onnx`, and its generated classes would be one more thing to install on a Jetson for three messages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Damaged(ValueError):
    """The bytes are not a protobuf message."""


def fields(data: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field: an int for varints, bytes for everything else.

    Raises:
        Damaged: The bytes end in the middle of a field, or hold a kind of field that nobody writes any more.
    """
    view, at = memoryview(data), 0
    while at < len(view):
        key, at = _varint(view, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(view, at)
            yield key >> 3, value
            continue
        if kind == BYTES:
            size, at = _varint(view, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise Damaged(f"field of kind {kind}")
        if at + size > len(view):
            raise Damaged("a field is longer than its message")
        yield key >> 3, view[at : at + size]
        at += size


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(view) and shift < 64:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Damaged("a number does not end")


def signed(value: int) -> int:
    """A varint as int64."""
    return value - (1 << 64) if value >> 63 else value


def packed(value: int | memoryview) -> list[int]:
    """The integers of a repeated field, packed or one at a time."""
    if isinstance(value, int):
        return [signed(value)]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(signed(number))
    return numbers


def number(field: int, value: int) -> bytes:
    """A varint field."""
    return _key(field, VARINT) + _encode(value & (1 << 64) - 1)


def block(field: int, value: bytes | str) -> bytes:
    """A field of bytes, text or a message."""
    raw = value.encode() if isinstance(value, str) else value
    return _key(field, BYTES) + _encode(len(raw)) + raw


def real(field: int, value: float) -> bytes:
    """A float32 field."""
    return _key(field, FIXED32) + struct.pack("<f", value)


def numbers(field: int, values: Iterable[int]) -> bytes:
    """A repeated varint field, one at a time."""
    return b"".join(number(field, value) for value in values)


def _key(field: int, kind: int) -> bytes:
    return _encode(field << 3 | kind)


def _encode(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
