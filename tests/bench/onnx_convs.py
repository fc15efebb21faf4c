"""ONNX Runtime's side of the pruning benchmarks: graphs made here, one thread.

Shape letters: o outputs, i inputs, k side of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kernels.chain.plan import Depthwise, Step

OPSET, IR = 17, 8
Floats = NDArray[np.float32]


def session(nodes: Sequence[Any], inputs: dict[str, Any], constants: dict[str, NDArray[Any]]) -> Any:
    """A session of one thread of what `model_of` makes."""
    return started(model_of(nodes, inputs, constants))


def model_of(nodes: Sequence[Any], inputs: dict[str, Any], constants: dict[str, NDArray[Any]]) -> bytes:
    """A model whose output is ``y``; inputs by name with shape, integers where the name ends in _i."""
    given = [
        helper.make_tensor_value_info(name, TensorProto.INT64 if name.endswith("_i") else TensorProto.FLOAT, shape)
        for name, shape in inputs.items()
    ]
    wanted = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    kept = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(list(nodes), "g", given, wanted, kept), opset_imports=[helper.make_opsetid("", OPSET)]
    )
    model.ir_version = IR
    return bytes(model.SerializeToString())


def started(model: bytes) -> Any:
    """A session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def conv(weights_oikk: Floats, bias_o: Floats, side: int) -> Any:
    """Convolution and ReLU with fixed weights; input ``x``."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["z"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    return session(nodes, {"x": [1, weights_oikk.shape[1], side, side]}, {"w": weights_oikk, "b": bias_o})


def gathered_conv(weights_oikk: Floats, bias_o: Floats, side: int) -> Any:
    """The same with the weights of listed outputs and inputs; ``x`` holds the listed inputs only, already gathered."""
    nodes = [
        helper.make_node("Gather", ["w", "out_i"], ["w1"], axis=0),
        helper.make_node("Gather", ["w1", "in_i"], ["w2"], axis=1),
        helper.make_node("Gather", ["b", "out_i"], ["b2"], axis=0),
        helper.make_node("Conv", ["x", "w2", "b2"], ["z"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    inputs: dict[str, Any] = {"x": [1, "c", side, side], "out_i": ["o"], "in_i": ["c"]}
    return session(nodes, inputs, {"w": weights_oikk, "b": bias_o})


class Stack(Protocol):
    """What a dense network is made from: a plan of the kernels, or anything of its shape."""

    @property
    def steps(self) -> tuple[Step, ...]: ...
    @property
    def head_pc(self) -> Any: ...
    @property
    def head_bias_p(self) -> Any: ...
    @property
    def side(self) -> int: ...
    @property
    def inputs(self) -> int: ...


def chain(plan: Stack) -> Any:
    """A session of `chain_model` for one image at a time."""
    return started(chain_model(plan, 1))


def chain_model(plan: Stack, batch: int | str) -> bytes:
    """The dense network: every group of every step, no predictors; images ``x`` (batch, i, side, side)."""
    nodes: list[Any] = []
    constants: dict[str, NDArray[Any]] = {"head": np.ascontiguousarray(plan.head_pc.T), "head_b": plan.head_bias_p}
    at = "x"
    for n, step in enumerate(plan.steps):
        if step.depthwise is not None:
            at = _depthwise(n, step.depthwise, at, nodes, constants)
        constants |= {f"w{n}": step.weights_oikk, f"b{n}": step.bias_o}
        margin = [step.weights_oikk.shape[2] // 2] * 4
        strides = [step.stride] * 2
        nodes.append(helper.make_node("Conv", [at, f"w{n}", f"b{n}"], [f"z{n}"], pads=margin, strides=strides))
        nodes.append(helper.make_node("Relu", [f"z{n}"], [f"a{n}"]))
        at = f"a{n}"
        if step.halve:
            nodes.append(helper.make_node("MaxPool", [at], [f"m{n}"], kernel_shape=[2, 2], strides=[2, 2]))
            at = f"m{n}"
    nodes += [
        helper.make_node("GlobalAveragePool", [at], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "head_b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]
    return model_of(nodes, {"x": [batch, plan.inputs, plan.side, plan.side]}, constants)


def _depthwise(n: int, layer: Depthwise, at: str, nodes: list[Any], constants: dict[str, NDArray[Any]]) -> str:
    constants |= {f"dw{n}": layer.weights_ikk[:, None], f"db{n}": layer.bias_i}
    inputs, strides, group = [at, f"dw{n}", f"db{n}"], [layer.stride] * 2, len(layer.bias_i)
    nodes.append(helper.make_node("Conv", inputs, [f"dz{n}"], pads=[1] * 4, strides=strides, group=group))
    nodes.append(helper.make_node("Relu", [f"dz{n}"], [f"d{n}"]))
    return f"d{n}"
