"""The local expert as a delta of the global one: few numbers that fold into its weights. Numpy only.

Per layer between the first and the last: small convolutions (up to 16 channels) mix their output channels, larger ones
scale them, all layers shift; the second layer also mixes what comes in. The last layer is the user's own. The user's
geometry turns the kernels of the convolutions and the map that the first linear layer reads, so that it costs nothing
when it runs. One forward pass either way.

Where local experts are inputs of one graph (`Network.shared`) all layers scale and shift, without mixing and geometry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from nodes.personal import warp
from nodes.personal.network import Floats, Network, Stage, Weights, map_side
from nodes.personal.warp import IDENTITY, Affine

MIXED_CHANNELS = 16


@dataclass(frozen=True, eq=False)
class Delta:
    """A local expert.

    Attributes:
        arrays: By ``layer.kind``: ``mix`` (o, o), ``enter`` (i, i), ``scale`` (o,) as differences from the identity,
            ``shift`` (o,), and ``weight`` and ``bias`` of the last layer as differences from the global ones.
        geometry: From an upright picture's coordinates to the user's.
    """

    arrays: Mapping[str, Floats]
    geometry: Affine

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return sum(array.size for array in self.arrays.values()) + self.geometry.size


def shapes(network: Network, weights: Weights) -> dict[str, tuple[int, ...]]:
    """What a delta of this network holds."""
    found: dict[str, tuple[int, ...]] = {}
    for position, stage in enumerate(network.hidden):
        outputs, inputs = weights[stage.weight].shape[:2]
        plain = stage.conv and stage.groups == 1 and not network.shared
        if position == 0 and plain and inputs <= MIXED_CHANNELS:
            found[f"{stage.name}.enter"] = (inputs, inputs)
        if plain and outputs <= MIXED_CHANNELS:
            found[f"{stage.name}.mix"] = (outputs, outputs)
        elif stage.conv or network.shared:
            found[f"{stage.name}.scale"] = (outputs,)
        found[f"{stage.name}.shift"] = (outputs,)
    found[network.last.weight] = weights[network.last.weight].shape
    found[network.last.bias] = weights[network.last.bias].shape
    return found


def nothing(network: Network, weights: Weights) -> Delta:
    """The delta that leaves the global expert as it is."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes(network, weights).items()}
    return Delta(MappingProxyType(arrays), IDENTITY)


def fold(network: Network, weights: Weights, delta: Delta) -> dict[str, Floats]:
    """The weights of the local expert; the first layer's are the global ones themselves."""
    folded = place(network, weights, delta.geometry)
    for stage in network.hidden:
        folded[stage.weight], folded[stage.bias] = _fold_stage(stage, folded, delta.arrays)
    for name in (network.last.weight, network.last.bias):
        folded[name] = folded[name] + delta.arrays[name]
    return folded


def place(network: Network, weights: Weights, geometry: Affine) -> dict[str, Floats]:
    """The global expert for pictures of this geometry, as well as kernels of few pixels can be turned."""
    placed = dict(weights)
    if np.array_equal(geometry, IDENTITY):
        return placed
    inverse = np.linalg.inv(geometry[:, :2])
    turned = np.column_stack([inverse, np.zeros(2)])
    for stage in network.hidden:
        weight = weights[stage.weight]
        if stage.conv and weight.shape[2] > 1:
            placed[stage.weight] = warp.apply(weight, turned) * np.float32(abs(np.linalg.det(inverse)))
    linear = next(stage for stage in network.stages if not stage.conv)
    side = map_side(network, weights)
    weight = weights[linear.weight].reshape(len(weights[linear.weight]), -1, side * side)
    placed[linear.weight] = (weight @ warp.matrix(geometry, side)).reshape(weights[linear.weight].shape)
    return placed


def _fold_stage(stage: Stage, weights: Weights, arrays: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    weight, bias = weights[stage.weight], weights[stage.bias]
    enter, mix, scale = (arrays.get(f"{stage.name}.{kind}") for kind in ("enter", "mix", "scale"))
    if enter is not None:
        weight = weight + np.einsum("oi...,ij->oj...", weight, enter)
    if mix is not None:
        weight = weight + np.einsum("po,oi...->pi...", mix, weight)
    if scale is not None:
        factor = 1.0 + scale
        weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        bias = bias * factor
    return weight.astype(np.float32), (bias + arrays[f"{stage.name}.shift"]).astype(np.float32)
