"""ONNX files that a stranger might send: each is what it claims to be, down to the wire, and wrong in one way."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 17, 9
IMAGE = helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, 8, 8])
ANSWER = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 10])
FLAT = [helper.make_node("Flatten", ["image"], ["flat"])]
WEIGHTS = np.linspace(0.0, 1.0, 640, dtype=np.float32).reshape(64, 10)


def model(nodes: list[onnx.NodeProto], initializers: list[TensorProto], **fields: object) -> bytes:
    """A model of the digits' task."""
    graph = helper.make_graph(nodes, "g", [IMAGE], [ANSWER], initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("evil", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=IR, **fields).SerializeToString())


def linear(weights: np.ndarray | None = None, extra: list[onnx.NodeProto] | None = None) -> bytes:
    """Flatten, one matrix, softmax: good, unless the weights or what is added are not."""
    tensor = numpy_helper.from_array(WEIGHTS if weights is None else weights, "w")
    nodes = [*FLAT, helper.make_node("MatMul", ["flat", "w"], ["logits"]), *(extra or [])]
    return model([*nodes, helper.make_node("Softmax", ["logits"], ["probabilities"])], [tensor])


def outside(location: str, **entries: str) -> bytes:
    """Its matrix lies in another file."""
    tensor = numpy_helper.from_array(WEIGHTS, "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    told = {"location": location, "offset": "0", "length": str(WEIGHTS.nbytes)} | entries
    for key, value in told.items():
        tensor.external_data.add(key=key, value=value)
    nodes = [*FLAT, helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    return model([*nodes, helper.make_node("Softmax", ["logits"], ["probabilities"])], [tensor])


def outside_in_attribute(location: str) -> bytes:
    """A constant in a node lies in another file."""
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[64, 10], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    return model([constant, *FLAT, helper.make_node("MatMul", ["flat", "w"], ["probabilities"])], [])


def with_ballast(weights: np.ndarray) -> bytes:
    """A good model with a large matrix that it does not use."""
    ballast = numpy_helper.from_array(weights, "ballast")
    nodes = [*FLAT, helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    soft = helper.make_node("Softmax", ["logits"], ["probabilities"])
    return model([*nodes, soft], [numpy_helper.from_array(WEIGHTS, "w"), ballast])


def foreign_operator() -> bytes:
    """An operator of somebody's library."""
    return model([*FLAT, helper.make_node("Evil", ["flat"], ["probabilities"], domain="evil")], [])


def unknown_operator() -> bytes:
    """An operator that ONNX does not have."""
    return model([*FLAT, helper.make_node("NoSuchThing", ["flat"], ["probabilities"])], [])


def function() -> bytes:
    """A function of its own, which could call others without end."""
    inner = helper.make_node("Identity", ["a"], ["b"])
    made = helper.make_function("local", "F", ["a"], ["b"], [inner], [helper.make_opsetid("", OPSET)])
    nodes = [helper.make_node("F", ["image"], ["probabilities"], domain="local")]
    return model(nodes, [], functions=[made])


def many_nodes(count: int) -> bytes:
    """A long chain."""
    chain = [helper.make_node("Identity", ["logits" if n == 0 else f"x{n}"], [f"x{n + 1}"]) for n in range(count)]
    return linear(extra=chain)


def nested(depth: int) -> bytes:
    """Conditions in conditions."""
    out = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
    true = numpy_helper.from_array(np.array(True), "yes")
    last = [helper.make_node("Constant", [], ["r"], value_float=1.0)]
    other = helper.make_graph(last, "b", [], [out])
    inner = last
    for _ in range(depth):
        branch = helper.make_graph(inner, "b", [], [out], [true])
        inner = [helper.make_node("If", ["yes"], ["r"], then_branch=branch, else_branch=other)]
    return linear(extra=inner)


def claims(*dims: int) -> bytes:
    """A matrix that says it is larger than it is."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 4)
    return model([*FLAT, helper.make_node("MatMul", ["flat", "w"], ["probabilities"])], [tensor])


def allocates(elements: int) -> bytes:
    """Makes a tensor of zeros at run time and adds its sum."""
    size = numpy_helper.from_array(np.array([elements], np.int64), "n")
    nodes = [
        *FLAT,
        helper.make_node("MatMul", ["flat", "w"], ["product"]),
        helper.make_node("ConstantOfShape", ["n"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["product", "sum"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    return model(nodes, [numpy_helper.from_array(WEIGHTS, "w"), size])


def loops(times: int) -> bytes:
    """Adds nothing, so many times."""
    body = _body()
    constants = {"times": np.array(times, np.int64), "yes": np.array(True), "one": np.array(1.0, np.float32)}
    nodes = [
        *FLAT,
        helper.make_node("MatMul", ["flat", "w"], ["product"]),
        helper.make_node("Loop", ["times", "yes", "product"], ["logits"], body=body),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    made = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return model(nodes, [numpy_helper.from_array(WEIGHTS, "w"), *made])


def loops_on_bright() -> bytes:
    """Good, unless a picture is brighter than a picture can be: then it loops for ever."""
    body = _body()
    nodes = [
        *FLAT,
        helper.make_node("MatMul", ["flat", "w"], ["product"]),
        helper.make_node("ReduceMax", ["image"], ["brightest"], keepdims=0),
        helper.make_node("Sub", ["brightest", "one"], ["over"]),
        helper.make_node("Relu", ["over"], ["excess"]),
        helper.make_node("Mul", ["excess", "many"], ["count"]),
        helper.make_node("Cast", ["count"], ["times"], to=TensorProto.INT64),
        helper.make_node("Loop", ["times", "yes", "product"], ["logits"], body=body),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    constants = {"yes": np.array(True), "one": np.array(1.0, np.float32), "many": np.array(1e15, np.float32)}
    made = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return model(nodes, [numpy_helper.from_array(WEIGHTS, "w"), *made])


def _body() -> onnx.GraphProto:
    return helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Mul", ["state", "one"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )


def other_output() -> bytes:
    """Answers with something that the task does not want."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"])],
        "g",
        [IMAGE],
        [helper.make_tensor_value_info("flat", TensorProto.FLOAT, [None, 64])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return bytes(made.SerializeToString())


def answers_nan() -> bytes:
    """Finite weights, answers that are none."""
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    nodes = [
        *FLAT,
        helper.make_node("MatMul", ["flat", "w"], ["product"]),
        helper.make_node("Mul", ["product", "zero"], ["nothing"]),
        helper.make_node("Div", ["nothing", "nothing"], ["probabilities"]),
    ]
    return model(nodes, [numpy_helper.from_array(WEIGHTS, "w"), zero])
