"""An encoder of tensors from outside: a callable from tensors to the few numbers that heads look at.

Without one, heads for tensors see a sketch (`optimizer.gate.recorded`), which tells little of a picture. What an
encoder gives may be any numbers; a head is linear in them, so an encoder does well to say outright how sure it is.

Shape letters: q queries, n numbers of a tensor, s width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError

Floats = NDArray[np.float64]

# Sums that a head needs grow with the square of the features, and their solution with the cube.
MAX_WIDTH = 256


@dataclass(frozen=True)
class TensorEncoder:
    """An encoder from outside.

    Args:
        encode: Tensors, each as its numbers in a row (q, n), to embeddings (q, s); raises `EvidenceError` for tensors
            of another size, or where it fails.
        digest: What identifies it; a gate that was trained with one takes no other.
    """

    encode: Callable[[NDArray[np.floating]], Floats]
    digest: str

    def features(self, x_qn: NDArray[np.floating]) -> Floats:
        """Embeddings of tensors, (q, s).

        Raises:
            EvidenceError: The encoder fails, or gives something else than a row of finite numbers for each.
        """
        raw_qs = np.asarray(self.encode(x_qn), dtype=np.float64)
        if raw_qs.ndim != 2 or len(raw_qs) != len(x_qn) or not 0 < raw_qs.shape[1] <= MAX_WIDTH:
            raise EvidenceError(f"An encoder of tensors must give one row of at most {MAX_WIDTH} numbers per tensor.")
        if not np.isfinite(raw_qs).all():
            raise EvidenceError("An encoder of tensors gave numbers that are not finite.")
        return raw_qs
