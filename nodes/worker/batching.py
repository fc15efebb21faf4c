"""A model that takes some batches only, behind one that takes any: more samples are split, fewer are filled up.

Shape letters: n samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.errors import ShapeError
from nodes.worker.sessions import Model


class AnyBatch:
    """Runs a model whose batch has bounds on any number of samples.

    Args:
        least: Fewest samples of one run; the last sample is repeated up to it.
        most: Most samples of one run.
    """

    def __init__(self, model: Model, *, least: int, most: int) -> None:
        self._model = model
        self._least = least
        self._most = most

    def described(self) -> dict[str, Any]:
        """Names, dtypes and shapes of the model's inputs and outputs, the batch free."""
        found = self._model.described()
        return {side: [{**value, "shape": ["n", *value["shape"][1:]]} for value in found[side]] for side in found}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs (n, ...) for inputs (n, ...).

        Raises:
            ShapeError: The inputs differ in n, or there are none.
        """
        counts = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
        if len(counts) != 1 or 0 in counts:
            raise ShapeError("inputs must have one first dimension, the same for all, of at least 1")
        (count,) = counts
        if self._least <= count <= self._most:
            return self._model.run(inputs)
        parts = [self._part(inputs, start) for start in range(0, count, self._most)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _part(self, inputs: Mapping[str, NDArray[Any]], start: int) -> dict[str, NDArray[Any]]:
        rows = {name: array[start : start + self._most] for name, array in inputs.items()}
        count = len(next(iter(rows.values())))
        missing = max(0, self._least - count)
        filled = {name: np.concatenate([array, *[array[-1:]] * missing]) for name, array in rows.items()}
        return {name: array[:count] for name, array in self._model.run(filled).items()}
