"""What a GGUF file says about itself: its metadata and the shapes of its tensors, read without loading any weight.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodes.errors import ConfigError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
PLAIN = {0: "<B", 1: "<b", 2: "<H", 3: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", 10: "<Q", 11: "<q", 12: "<d"}
# Far beyond any model; a damaged file must not keep a node busy.
MOST_ENTRIES = 65_536
MOST_ITEMS = 4_000_000
# Longer arrays (vocabularies) are stepped over; only their length is kept.
KEPT_ITEMS = 64
MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class GgufHeader:
    """The head of one file.

    Attributes:
        metadata: By key; a long array is its length.
        shapes: Of every tensor, by name, the fastest dimension first.
        file_bytes: Size of the whole file.
    """

    metadata: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    file_bytes: int

    @property
    def architecture(self) -> str:
        """Such as "llama"."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def name(self) -> str:
        """What the model is called; "" where it does not say."""
        return str(self.metadata.get("general.name", ""))

    @property
    def context_tokens(self) -> int:
        """Longest sequence that the model was made for; 0 where it does not say."""
        found = self.metadata.get(f"{self.architecture}.context_length", 0)
        return found if isinstance(found, int) else 0

    @property
    def macs_per_token(self) -> int:
        """Multiply-accumulates of one token in all matrices, attention's looks at others not counted.

        Of a mixture of experts, those that a token is routed to. An embedding that is only looked up costs nothing.
        """
        untied = "output.weight" in self.shapes
        experts = self.metadata.get(f"{self.architecture}.expert_count", 0)
        used = self.metadata.get(f"{self.architecture}.expert_used_count", 0)
        share = used / experts if experts and used else 1.0
        total = 0.0
        for name, shape in self.shapes.items():
            if len(shape) >= 2 and not (untied and name == "token_embd.weight"):
                total += math.prod(shape) * (share if len(shape) == 3 else 1.0)
        return round(total)


def read_header(path: Path) -> GgufHeader:
    """Read the head of a file. Cost: milliseconds, a tenth of a second where the vocabulary is large.

    Raises:
        ConfigError: if it is no GGUF file that can be read; the text says what to do.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(_Cursor(data), len(data))
    except OSError as error:
        raise ConfigError(f"--gguf: {path} cannot be read ({error.strerror}); name a file that is there") from error
    except (struct.error, ValueError, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise ConfigError(f"--gguf: {path} is no GGUF file, or damaged ({error}); fetch or export it again") from error


class _Cursor:
    """A place in the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def plain(self, layout: str) -> Any:
        """One number."""
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return value

    def raw(self, size: int) -> bytes:
        """Bytes.

        Raises:
            ValueError: if the file ends before.
        """
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise ValueError("it ends early")
        self._at += size
        return part

    def text(self) -> str:
        """A text with its length in front."""
        return self.raw(self.plain("<Q")).decode("utf-8", "replace")

    def skip(self, size: int) -> None:
        """Step over bytes."""
        self._at += size


def _header(cursor: _Cursor, file_bytes: int) -> GgufHeader:
    if cursor.raw(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = cursor.plain("<I")
    if version not in VERSIONS:
        raise ValueError(f"version {version}, known are 2 and 3")
    tensors, entries = cursor.plain("<Q"), cursor.plain("<Q")
    if tensors > MOST_ENTRIES or entries > MOST_ENTRIES:
        raise ValueError("it claims more entries than any model has")
    metadata = {}
    for _ in range(entries):
        key = cursor.text()
        metadata[key] = _value(cursor, cursor.plain("<I"))
    return GgufHeader(metadata, dict(_shape(cursor) for _ in range(tensors)), file_bytes)


def _value(cursor: _Cursor, kind: int) -> Any:
    if kind == STRING:
        return cursor.text()
    if kind == ARRAY:
        return _array(cursor)
    if kind not in PLAIN:
        raise ValueError(f"a value of unknown type {kind}")
    return cursor.plain(PLAIN[kind])


def _array(cursor: _Cursor) -> Any:
    kind, items = cursor.plain("<I"), cursor.plain("<Q")
    if items > MOST_ITEMS or kind == ARRAY:
        raise ValueError("an array that no model has")
    if items <= KEPT_ITEMS:
        return [_value(cursor, kind) for _ in range(items)]
    if kind == STRING:
        for _ in range(items):
            cursor.skip(cursor.plain("<Q"))
    else:
        cursor.skip(items * struct.calcsize(PLAIN[kind]))
    return items


def _shape(cursor: _Cursor) -> tuple[str, tuple[int, ...]]:
    name, dimensions = cursor.text(), cursor.plain("<I")
    if dimensions > MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {dimensions} dimensions")
    shape = tuple(cursor.plain("<Q") for _ in range(dimensions))
    cursor.plain("<I")  # How it is stored.
    cursor.plain("<Q")  # Where.
    return name, shape
