"""A compile room of its own for each test, and models whose behaviour a test knows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from nodes.compile.bench import CPU_SERVE, GPU_SERVE, Workbench
from nodes.compile.cache import Cache
from nodes.compile.pipeline import Bounds, Pipeline, Subject

PYTHON = Path(sys.executable)


@pytest.fixture(scope="module")
def benches() -> Iterator[tuple[Workbench, Workbench]]:
    """Real worker processes, one for the CPU and one for a GPU that is not here."""
    with Workbench(PYTHON, CPU_SERVE) as cpu, Workbench(PYTHON, GPU_SERVE) as gpu:
        yield cpu, gpu


@pytest.fixture
def opened(tmp_path: Path, benches: tuple[Workbench, Workbench]) -> Pipeline:
    """A pipeline with an empty cache and the usual limit."""
    return Pipeline(Cache(tmp_path / "cache", b"k" * 32, quota_bytes=10_000_000), *benches, bounds=Bounds())


def fragile(folder: Path) -> Subject:
    """Two classes told apart by numbers that are 1/4000 of the largest: eight bits cannot tell them apart."""
    weights = np.eye(3, 2, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "fragile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    file = folder / "fragile.onnx"
    file.write_bytes(model)
    chance = np.random.default_rng(0)
    x = chance.uniform(-1, 1, (400, 3)).astype(np.float32)
    x[::50, 2] = 4000.0  # The third input counts for nothing, and sets the range.
    labels = (x[:, 1] > x[:, 0]).astype(np.uint8)
    return Subject("fragile", file, sha256(model).hexdigest(), {"x": x[:200]}, {"x": x[200:]}, labels[200:])
