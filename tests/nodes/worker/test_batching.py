from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from kernels.errors import ShapeError
from nodes.worker.batching import AnyBatch


class Bounded:
    """Doubles its input, and refuses batches outside of its bounds."""

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most, self.runs = least, most, 0

    def described(self) -> dict[str, Any]:
        return {"inputs": [{"name": "x", "type": "", "shape": ["4", "2"]}], "outputs": []}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert self.least <= len(inputs["x"]) <= self.most
        self.runs += 1
        return {"y": inputs["x"] * 2}


@pytest.mark.parametrize(("least", "most"), [(1, 1), (4, 4), (1, 16), (3, 5)])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 17])
def test_any_number_of_samples_is_answered_in_order(least: int, most: int, count: int) -> None:
    model = Bounded(least, most)
    x = np.arange(2.0 * count).reshape(count, 2)
    np.testing.assert_array_equal(AnyBatch(model, least=least, most=most).run({"x": x})["y"], x * 2)
    assert model.runs == -(-count // most)


def test_no_samples_or_unequal_ones_are_refused() -> None:
    model = AnyBatch(Bounded(1, 4), least=1, most=4)
    for inputs in ({"x": np.zeros((0, 2))}, {"x": np.zeros((1, 2)), "z": np.zeros((2, 2))}, {}):
        with pytest.raises(ShapeError):
            model.run(inputs)
    assert model.described()["inputs"][0]["shape"] == ["n", "2"]
