"""The name of a set of tensors: equal content, equal name, on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def tensor_digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256, in hex, over name, type, shape and content of every tensor, in the order of names.

    Each tensor contributes ``name|dtype|d0,d1,...|`` in UTF-8 and then its bytes: row-major, little-endian.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name}|{tensor.dtype.name}|{shape}|".encode())
        digest.update(np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
