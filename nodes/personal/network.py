"""What of a global expert is needed to personalise it: its layers in order and their weights. Numpy only.

A network is a chain of convolutions and linear layers with ReLU between them (LeNet, VGG, MobileNetV1; normalisation
is folded into the weights at export). Networks with branches are not described by this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]


@dataclass(frozen=True)
class Stage:
    """One layer, and what follows it: ReLU for all but the last, then max pooling, then the mean of the whole map.

    Attributes:
        name: Its weights are ``name.weight`` and ``name.bias``.
        conv: Whether it is a convolution; a linear layer flattens what comes in.
        pool: Window and stride of the max pooling behind it; 1 is none.
        averaged: Whether the mean is taken, which is what the next layer then reads.
    """

    name: str
    conv: bool
    padding: int = 0
    stride: int = 1
    groups: int = 1
    pool: int = 1
    averaged: bool = False

    @property
    def weight(self) -> str:
        """Name of its weights."""
        return f"{self.name}.weight"

    @property
    def bias(self) -> str:
        """Name of its offsets."""
        return f"{self.name}.bias"


@dataclass(frozen=True)
class Network:
    """A global expert of square pictures.

    Attributes:
        side: Height and width of its input.
        stages: Its layers; the last gives logits, what comes into it are the penultimate features.
        channels: Of the input.
        upsample: Bilinear enlargement of the input before the first layer.
        gate_cells: The gate sees the first layer's means over so many by so many cells, and its length per channel.
        shared: Local experts are inputs of one graph, so that they scale and shift and do nothing else.
    """

    side: int
    stages: tuple[Stage, ...]
    channels: int = 1
    upsample: int = 1
    gate_cells: int = 2
    shared: bool = False

    @property
    def first(self) -> Stage:
        """The layer that every user shares."""
        return self.stages[0]

    @property
    def last(self) -> Stage:
        """The layer that gives logits."""
        return self.stages[-1]

    @property
    def hidden(self) -> tuple[Stage, ...]:
        """All layers between the first and the last."""
        return self.stages[1:-1]


def parameters(network: Network, weights: Weights) -> int:
    """Trained numbers of the global expert."""
    return sum(weights[name].size for stage in network.stages for name in (stage.weight, stage.bias))


def macs(network: Network, weights: Weights) -> int:
    """Multiply-accumulates of one answer of the global expert."""
    total, side = 0, network.side * network.upsample
    for stage in network.stages:
        weight = weights[stage.weight]
        if stage.conv:
            side = (side + 2 * stage.padding - weight.shape[2]) // stage.stride + 1
            total += weight.size * side * side
            side = 1 if stage.averaged else side // stage.pool
        else:
            total += weight.size
    return total


def map_side(network: Network, weights: Weights) -> int:
    """Height and width of the map that the first linear layer reads."""
    side = network.side * network.upsample
    for stage in network.stages:
        if stage.conv:
            side = ((side + 2 * stage.padding - weights[stage.weight].shape[2]) // stage.stride + 1) // stage.pool
            side = 1 if stage.averaged else side
    return side


def check(network: Network, weights: Weights) -> None:
    """Whether the weights fit the layers.

    Raises:
        ValueError: They do not; the text names the layer.
    """
    for stage in network.stages:
        weight, bias = weights.get(stage.weight), weights.get(stage.bias)
        if weight is None or bias is None or weight.ndim != (4 if stage.conv else 2) or bias.shape != weight.shape[:1]:
            raise ValueError(f"layer {stage.name} has no fitting weights")
    for before, stage in pairwise(network.stages):
        if not before.conv and stage.conv:
            raise ValueError(f"layer {stage.name}: no convolution may follow a linear layer")
