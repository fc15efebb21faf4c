"""Reference sets and experts' answers to them, by digest: what the planner learns from.

A digest covers names, dtypes, shapes and bytes, so that what a node sends can be checked against what it announced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from orchestrator.errors import RequestError
from orchestrator.types import Array

MAX_STORE_BYTES = 256 * 1024 * 1024


def tensor_digest(tensors: Mapping[str, Array]) -> str:
    """SHA-256 (hex) over, in the order of the names, ``name|dtype|d0,d1,...|`` and the row-major bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        shape = ",".join(str(size) for size in array.shape)
        digest.update(f"{name}|{array.dtype.name}|{shape}|".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class EvidenceStore:
    """Tensors by digest, bounded in bytes; what no connected node announces is forgotten first."""

    def __init__(self, limit_bytes: int = MAX_STORE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._tensors: dict[str, dict[str, Array]] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._tensors

    def get(self, digest: str) -> Mapping[str, Array] | None:
        """The tensors of a digest, or None."""
        return self._tensors.get(digest)

    def wanted(self, digests: Iterable[str]) -> list[str]:
        """Those digests that are not here yet, each once."""
        return [digest for digest in dict.fromkeys(digests) if digest and digest not in self._tensors]

    def put(self, digest: str, tensors: Mapping[str, Array], *, in_use: frozenset[str]) -> None:
        """Keep tensors under their digest.

        Raises:
            RequestError: INPUT_INVALID when the bytes are not those of the digest or there is no room.
        """
        if tensor_digest(tensors) != digest:
            raise RequestError("INPUT_INVALID", "Evidence does not have the digest that was announced.")
        size = sum(array.nbytes for array in tensors.values())
        for stale in [known for known in self._tensors if known not in in_use]:
            if self._used() + size <= self._limit_bytes:
                break
            del self._tensors[stale]
        if self._used() + size > self._limit_bytes:
            raise RequestError("INPUT_INVALID", "There is no room for more evidence.")
        self._tensors[digest] = {name: np.array(array) for name, array in tensors.items()}

    def _used(self) -> int:
        return sum(array.nbytes for tensors in self._tensors.values() for array in tensors.values())
