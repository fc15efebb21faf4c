"""A tiny ONNX model and an inventory around it: engine tests need neither training nor the shipped experts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog
from onnx import TensorProto, helper, numpy_helper

from nodes.arms import ArmSpec, Inventory, TaskSpec, Tensors, TensorSpec
from nodes.zoo.digest import tensor_digest

MACS = 640


def _tiny_model() -> bytes:
    # Ten classes out of 64 pixels: class k's score is pixel k, so that a test knows the answer.
    weights = numpy_helper.from_array(np.eye(64, 10, dtype=np.float32), "weights")
    flat = numpy_helper.from_array(np.array([-1, 64], dtype=np.int64), "flat")
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["image", "flat"], ["pixels"]),
            helper.make_node("MatMul", ["pixels", "weights"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [weights, flat],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def _slow_model() -> bytes:
    # A loop of matrix products: a run of about 0.3 s, during which tests can act.
    matrix = numpy_helper.from_array(np.eye(256, dtype=np.float32), "matrix")
    rounds = numpy_helper.from_array(np.array(1500, dtype=np.int64), "rounds")
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["x_in", "matrix"], ["x_out"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_in", TensorProto.FLOAT, [256, 256]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_out", TensorProto.FLOAT, [256, 256]),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Loop", ["rounds", "", "matrix"], ["product"], body=body),
            helper.make_node("ReduceSum", ["product"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["image"], ["ink"], keepdims=0),
            helper.make_node("Add", ["sum", "ink"], ["total"]),
        ],
        "slow",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8, 8])],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, [])],
        [matrix, rounds],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def _arm(folder: Path, expert: str, model: bytes, evidence_digest: str = "") -> ArmSpec:
    file = folder / f"{expert}.onnx"
    file.write_bytes(model)
    digest = hashlib.sha256(model).hexdigest()
    return ArmSpec(expert, "onnx-fp32", "digits", "onnx", MACS, 4096, 0.9, 100, file, digest, evidence_digest)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    # `run` points the log at stderr, which here is a file of one test.
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    """Two arms, `tiny:onnx-fp32` and `slow:onnx-fp32`, for the task digits."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    reference: Tensors = {"inputs": rng.random((5, 8, 8), dtype=np.float32), "labels": np.arange(5, dtype=np.uint8)}
    answers: Tensors = {"outputs": rng.random((5, 10), dtype=np.float32)}
    reference_digest, answers_digest = tensor_digest(reference), tensor_digest(answers)
    task = TaskSpec(
        "digits",
        TensorSpec("image", "float32", (-1, 8, 8)),
        TensorSpec("probabilities", "float32", (-1, 10)),
        tuple("0123456789"),
        reference_digest,
    )
    arms = (_arm(folder, "tiny", _tiny_model(), answers_digest), _arm(folder, "slow", _slow_model()))
    return Inventory((task,), arms, {reference_digest: reference, answers_digest: answers})


def digit(number: int) -> np.ndarray:
    """A picture (1, 8, 8) that `tiny` takes for this digit."""
    image = np.zeros((1, 8, 8), dtype=np.float32)
    image[0, number // 8, number % 8] = 5.0
    return image
