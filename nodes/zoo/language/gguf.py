"""Writes a GGUF file, version 3, little-endian: metadata, then tensors. `nodes.engines.llama.header` reads it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.engines.llama.header import ARRAY, BOOL, F32, I32, MAGIC, STRING, U32

VERSION = 3
ALIGNMENT = 32
STORED_AS = {np.dtype(np.float32): 0, np.dtype(np.float16): 1}

Value = str | bool | int | float | Sequence[str] | Sequence[int]


def write_gguf(path: Path, metadata: Mapping[str, Value], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write a file.

    Args:
        metadata: Whole numbers are kept as 32 bits without sign, those in lists as 32 bits with one.
        tensors: float32 or float16, the fastest dimension last; the same tensors give the same bytes.
    """
    head = io.BytesIO()
    head.write(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        head.write(_text(key) + _typed(value))
    place = 0
    for name, array in tensors.items():
        shape = array.shape[::-1]
        head.write(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        head.write(struct.pack("<IQ", STORED_AS[array.dtype], place))
        place += _padded(array.nbytes)
    with path.open("wb") as file:
        file.write(head.getvalue().ljust(_padded(head.tell()), b"\0"))
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes().ljust(_padded(array.nbytes), b"\0"))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", BOOL, value)
        case int():
            return struct.pack("<II", U32, value)
        case float():
            return struct.pack("<If", F32, value)
        case str():
            return struct.pack("<I", STRING) + _text(value)
    texts = [item for item in value if isinstance(item, str)]
    kind = STRING if texts or not value else I32
    items = b"".join(map(_text, texts)) if kind == STRING else struct.pack(f"<{len(value)}i", *value)
    return struct.pack("<IIQ", ARRAY, kind, len(value)) + items
