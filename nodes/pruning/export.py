"""From a trained network to the file that a node runs: normalisation folded in, thresholds in the offsets.

Shapes: o outputs, i inputs, g groups.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kernels.chain.plan import ChainPlan, Depthwise, Predictor, Step
from nodes.errors import ConfigError
from nodes.pruning.architectures import Chain, MobileNet, Separable, Served
from nodes.pruning.gates import GatedConv, Masking
from nodes.pruning.mass import GROUP
from nodes.worker.chains import chain_arrays
from nodes.zoo.arrays import write_arrays


def parts_of(network: Served) -> dict[str, tuple[GatedConv, dict[str, Any]]]:
    """Every convolution by name, in the order in which they run, with what its step does besides."""
    if isinstance(network, Chain):
        both = zip(network.convs, network.halves, strict=True)
        return {f"convs.{i}": (conv, {"halve": halve}) for i, (conv, halve) in enumerate(both)}
    found: dict[str, tuple[GatedConv, dict[str, Any]]] = {"stem": (network.stem, {})}
    if isinstance(network, MobileNet):
        for i, block in enumerate(network.blocks):
            found[f"blocks.{i}.pointwise"] = block.pointwise, {"depthwise": _depthwise(block)}
        return found
    for i, block in enumerate(network.blocks):
        found[f"blocks.{i}.first"] = block.first, {"keep": True}
        found[f"blocks.{i}.second"] = block.second, {"add": block.stride}
    return found


def plan_of(network: Served, *, side: int) -> ChainPlan:
    """What the kernels run. A network whose gates are off becomes a plan without predictors, in whole groups of 16.

    Raises:
        ConfigError: The gates decide about other than groups of 16 filters.
    """
    steps = [replace(_step(conv), **also) for conv, also in parts_of(network).values()]
    head = _array(network.head.weight)
    if all(step.predictor is None for step in steps):
        # Filters of zeros answer zero: the answers stay. A predictor would see them, though.
        steps, head = _whole_groups(steps), _padded(head, 1)
    return ChainPlan(tuple(steps), head, _array(network.head.bias), side)


def write_chain(path: Path, plan: ChainPlan, *, input_name: str, output_name: str) -> None:
    """Write the file that the worker reads; equal plans give equal bytes."""
    write_arrays(path, chain_arrays(plan, input_name=input_name, output_name=output_name))


def _whole_groups(steps: list[Step]) -> list[Step]:
    """The same steps with filters of zeros behind, as far as groups of 16 are not full."""
    wider: list[Step] = []
    for index, step in enumerate(steps):
        weights = _padded(step.weights_oikk, 0) if index == 0 else _padded(_padded(step.weights_oikk, 0), 1)
        filters = None if step.depthwise is None else _whole_filters(step.depthwise)
        wider.append(replace(step, weights_oikk=weights, bias_o=_padded(step.bias_o, 0), depthwise=filters))
    return wider


def _whole_filters(layer: Depthwise) -> Depthwise:
    return Depthwise(_padded(layer.weights_ikk, 0), _padded(layer.bias_i, 0), layer.stride)


def _padded(array: np.ndarray, axis: int) -> np.ndarray:
    missing = [(0, -size % GROUP if place == axis else 0) for place, size in enumerate(array.shape)]
    return np.ascontiguousarray(np.pad(array, missing))


def _step(conv: GatedConv) -> Step:
    weights, bias = _folded(conv.conv, conv.norm)
    return Step(weights, bias, conv.conv.stride[0], predictor=_predictor(conv))


def _depthwise(block: Separable) -> Depthwise:
    weights, bias = _folded(block.depthwise, block.norm)
    return Depthwise(np.ascontiguousarray(weights[:, 0]), bias, block.depthwise.stride[0])


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """Weights and offsets of a convolution with its normalisation inside."""
    with torch.no_grad():
        scale_o = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weights = conv.weight * scale_o[:, None, None, None]
        bias = norm.bias - norm.running_mean * scale_o
    return _array(weights), _array(bias)


def _predictor(conv: GatedConv) -> Predictor | None:
    gate = conv.gate
    if gate is None or gate.masking is Masking.OFF:
        return None
    if gate.group != GROUP:
        raise ConfigError(f"gates over {gate.group} filters cannot be served; the kernels skip groups of {GROUP}")
    predictor = gate.predictor
    down = None if predictor.down is None else _array(predictor.down.weight)
    return Predictor(_array(predictor.up.weight), _array(predictor.up.bias - gate.threshold_g), down)


def _array(values: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().cpu().numpy(), dtype=np.float32)
