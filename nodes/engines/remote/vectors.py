"""What a server says to a request for embeddings. Pure. Shape letter: d width of a vector."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

from nodes.errors import EngineError


def told_vectors(document: dict[str, Any], texts: int) -> tuple[list[str], int]:
    """A vector for each text, as base64 of float32, and the tokens that were read.

    Raises:
        EngineError: if some are missing, of different width, or no numbers.
    """
    try:
        listed = sorted(document["data"], key=lambda one: int(one.get("index", 0)))
        vectors = [_vector(one["embedding"]) for one in listed]
        tokens = int((document.get("usage") or {}).get("prompt_tokens", 0))
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise EngineError("the server's embeddings cannot be read") from error
    if len(vectors) != texts or len({len(vector) for vector in vectors}) != 1 or not len(vectors[0]):
        raise EngineError(f"the server made {len(vectors)} embeddings of {texts} texts, or of different widths")
    if not all(np.isfinite(vector).all() for vector in vectors):
        raise EngineError("the server's embeddings are not finite")
    return [base64.b64encode(vector.tobytes()).decode() for vector in vectors], max(0, min(tokens, 2**31 - 1))


def _vector(told: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    if isinstance(told, str):
        return np.frombuffer(base64.b64decode(told, validate=True), "<f4")
    # Numbers that are too large become infinite, which is refused with all that are not finite.
    with np.errstate(over="ignore"):
        vector_d = np.asarray(told, np.float64).astype("<f4")
    if vector_d.ndim != 1:
        raise ValueError("a vector is a list of numbers")
    return vector_d
