"""Dynamic pruning for runtimes that refuse a dynamic number of channels: a graph with a fixed number of groups a layer.

Where the kernels compute the groups whose logits are above zero, a bucket computes the best k: TopK, then Gather of
their weights, then a convolution of fixed shape, which TensorRT can build. A few buckets stand for the masses between.

Shape letters: k groups kept, g groups, i inputs, a active inputs, p classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kernels.chain.plan import ChainPlan, Predictor, Step, shrunk
from kernels.masked_conv.layout import GROUP
from nodes.errors import ConfigError

OPSET, IR = 17, 8
SHARES = (0.25, 0.5, 0.75)


@dataclass
class _Graph:
    """Nodes and constants as they come up."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """One node with one output; returns its name."""
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def keep(self, name: str, value: NDArray[Any]) -> str:
        """One constant; returns its name."""
        self.constants[name] = value
        return name


def groups_kept(plan: ChainPlan, share: float) -> tuple[int, ...]:
    """Groups of each step in the bucket of this share; all of a step without a predictor."""
    return tuple(step.groups if step.predictor is None else max(1, round(share * step.groups)) for step in plan.steps)


def bucket(plan: ChainPlan, share: float) -> bytes:
    """An ONNX model, batch 1, that computes this share of every gated step's groups, the best for each image.

    Input ``image`` (1, i, side, side), output ``probabilities`` (1, p).

    Raises:
        ConfigError: The plan has depthwise convolutions.
    """
    if any(step.depthwise is not None for step in plan.steps):
        raise ConfigError("--bucket: buckets of mobilenet are not written; leave --bucket out, or take vgg16 or resnet")
    graph = _Graph()
    image, active = "image", graph.keep("all_inputs", np.arange(plan.inputs))
    inputs, side, shortcut = plan.inputs, plan.side, ("", 0)
    for index, (step, kept) in enumerate(zip(plan.steps, groups_kept(plan, share), strict=True)):
        at = f"s{index}_"
        if step.keep:
            shortcut = _whole(graph, at + "kept_", (image, active, inputs), side), inputs
        image, active = _step(graph, at, step, kept, (image, active, inputs))
        inputs, side = len(step.bias_o), shrunk(step, side) // (2 if step.halve else 1)
        if step.add:
            image = _sum(graph, at, step.add, shortcut, _whole(graph, at, (image, active, inputs), side))
            active = graph.keep(at + "all", np.arange(inputs))
    _head(graph, plan, image, active)
    shape = [1, plan.inputs, plan.side, plan.side]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "bucket",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, len(plan.head_bias_p)])],
            [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="edgewise",
    )
    model.ir_version = IR
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _step(graph: _Graph, at: str, step: Step, kept: int, before: tuple[str, str, int]) -> tuple[str, str]:
    """Names of the step's image and of its active channels."""
    image, active, inputs = before
    side = step.weights_oikk.shape[2]
    by_group = step.weights_oikk.reshape(step.groups, GROUP, inputs, side, side)
    weights, bias = graph.keep(at + "w", by_group), graph.keep(at + "b", step.bias_o.reshape(step.groups, GROUP))
    groups = graph.keep(at + "groups", np.arange(step.groups))
    if step.predictor is not None:
        groups = _best(graph, at, step.predictor, kept, before)
    picked = graph.add("Gather", [weights, groups], at + "w_groups", axis=0)
    narrow = graph.add("Gather", [picked, active], at + "w_inputs", axis=2)
    flat = graph.add("Reshape", [narrow, graph.keep(at + "w_shape", _flat(kept, graph, active, side))], at + "w_flat")
    offsets = graph.add("Gather", [bias, groups], at + "b_groups", axis=0)
    offsets = graph.add("Reshape", [offsets, graph.keep(at + "b_shape", np.array([kept * GROUP]))], at + "b_flat")
    margin, stride = [side // 2] * 4, [step.stride] * 2
    found = graph.add(
        "Conv", [image, flat, offsets], at + "conv", pads=margin, strides=stride, kernel_shape=[side, side]
    )
    found = graph.add("Relu", [found], at + "relu")
    if step.halve:
        found = graph.add("MaxPool", [found], at + "pool", kernel_shape=[2, 2], strides=[2, 2])
    return found, _channels(graph, at, groups, kept)


def _whole(graph: _Graph, at: str, before: tuple[str, str, int], side: int) -> str:
    """The image with all its channels; those that were not computed are zero."""
    image, active, channels = before
    if active in graph.constants:
        return image
    silence = graph.keep(at + "whole_zeros", np.zeros((channels, side, side), dtype=np.float32))
    column, planes = graph.keep(at + "column_k1", np.array([-1, 1])), graph.keep(at + "khw", np.array([-1, side, side]))
    places = graph.add("Reshape", [active, column], at + "whole_places")
    planes = graph.add("Reshape", [image, planes], at + "whole_planes")
    spread = graph.add("ScatterND", [silence, places, planes], at + "whole_spread")
    shape = graph.keep(at + "whole_shape", np.array([1, channels, side, side]))
    return graph.add("Reshape", [spread, shape], at + "whole")


def _sum(graph: _Graph, at: str, stride: int, shortcut: tuple[str, int], image: str) -> str:
    """Both added: every `stride`th pixel of the shortcut; channels that it lacks are zero."""
    kept, channels = shortcut
    if stride == 2:
        slices = {"starts": [0, 0], "ends": [1 << 30] * 2, "axes": [2, 3], "steps": [2, 2]}
        given = [graph.keep(f"{at}pixels_{name}", np.array(pair)) for name, pair in slices.items()]
        kept = graph.add("Slice", [kept, *given], at + "fewer_pixels")
    missing = len(graph.constants[at + "b"].ravel()) - channels
    if missing:
        pads = graph.keep(at + "pads", np.array([0, 0, 0, 0, 0, missing, 0, 0]))
        kept = graph.add("Pad", [kept, pads], at + "more_channels")
    return graph.add("Add", [image, kept], at + "sum")


def _flat(kept: int, graph: _Graph, active: str, side: int) -> NDArray[np.int64]:
    count = len(graph.constants[active]) if active in graph.constants else -1
    return np.array([kept * GROUP, count, side, side], dtype=np.int64)


def _channels(graph: _Graph, at: str, groups: str, kept: int) -> str:
    """Channels of the groups, in their order."""
    first = graph.add("Mul", [groups, graph.keep(at + "sixteen", np.array(GROUP))], at + "first")
    column = graph.add("Reshape", [first, graph.keep(at + "column", np.array([kept, 1]))], at + "first_k1")
    spread = graph.add("Add", [column, graph.keep(at + "lanes", np.arange(GROUP)[None])], at + "channels_kg")
    return graph.add("Reshape", [spread, graph.keep(at + "c_shape", np.array([kept * GROUP]))], at + "channels")


def _best(graph: _Graph, at: str, predictor: Predictor, kept: int, before: tuple[str, str, int]) -> str:
    """The k groups with the largest logits, ascending."""
    image, active, inputs = before
    row = graph.keep(at + "row", np.array([1, -1]))
    # Rows, not lists: TensorRT takes a softmax over two dimensions or more.
    peak = graph.add("Reshape", [graph.add("GlobalMaxPool", [image], at + "peak"), row], at + "peak_1a")
    places = graph.add("Reshape", [active, row], at + "active_1a")
    silence = graph.keep(at + "silence", np.zeros((1, inputs), dtype=np.float32))
    full = graph.add("ScatterElements", [silence, places, peak], at + "peak_1i", axis=1)
    share = graph.add("Softmax", [full], at + "softmax", axis=1)
    share = graph.add("Mul", [share, graph.keep(at + "count", np.array([[inputs]], dtype=np.float32))], at + "share")
    if predictor.down_ri is not None:
        share = graph.add("MatMul", [share, graph.keep(at + "down", _turned(predictor.down_ri))], at + "hidden")
    logits = graph.add("MatMul", [share, graph.keep(at + "up", _turned(predictor.up_gr))], at + "up_share")
    logits = graph.add("Add", [logits, graph.keep(at + "offset", predictor.offset_g[None])], at + "logits")
    count = graph.keep(at + "k", np.array([kept]))
    graph.nodes.append(helper.make_node("TopK", [logits, count], [at + "best", at + "best_at"], axis=1))
    # Ascending, by a second TopK: sums are then made in the order of the kernels.
    at_float = graph.add("Cast", [at + "best_at"], at + "best_float", to=TensorProto.FLOAT)
    graph.nodes.append(
        helper.make_node("TopK", [at_float, count], [at + "sorted_float", at + "order"], axis=1, largest=0)
    )
    chosen = graph.add("Cast", [at + "sorted_float"], at + "chosen_1k", to=TensorProto.INT64)
    return graph.add("Reshape", [chosen, graph.keep(at + "list", np.array([-1]))], at + "chosen")


def _turned(map_or: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(map_or.T)


def _head(graph: _Graph, plan: ChainPlan, image: str, active: str) -> None:
    mean = graph.add("GlobalAveragePool", [image], "mean")
    row = graph.add("Reshape", [mean, graph.keep("row", np.array([1, -1]))], "mean_1a")
    columns = graph.add("Gather", [graph.keep("head", np.ascontiguousarray(plan.head_pc.T)), active], "head_ap", axis=0)
    logits = graph.add("MatMul", [row, columns], "head_product")
    logits = graph.add("Add", [logits, graph.keep("head_bias", plan.head_bias_p)], "logits")
    graph.add("Softmax", [logits], "probabilities", axis=1)
