"""Multiply-accumulates counted honestly: predictors included, unpruned inputs charged in full, depthwise counted.

Shape letters: n samples, g groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes.pruning.mass import GROUP, Bools

Masks = Mapping[str, Bools]


@dataclass(frozen=True)
class Layer:
    """One layer as far as its cost goes.

    Attributes:
        taps: Weights per input and output channel.
        pixels: Of the output.
        source: Gated layer whose mask the input wears; None where nothing of it is pruned, as on a residual path.
        gated: Whether its own output is masked.
        predictor_macs: Of its gate.
        depthwise: Every output channel reads its own input channel alone.
        group: Channels that a mask's entry stands for.
    """

    name: str
    inputs: int
    outputs: int
    taps: int
    pixels: int
    source: str | None = None
    gated: bool = False
    predictor_macs: int = 0
    depthwise: bool = False
    group: int = GROUP

    @property
    def dense_macs(self) -> int:
        """Without any mask, and without its predictor."""
        return (1 if self.depthwise else self.inputs) * self.outputs * self.taps * self.pixels


def dense_macs(layers: Sequence[Layer]) -> int:
    """Of one sample through the network as it was before pruning."""
    return sum(layer.dense_macs for layer in layers)


def sample_macs(layers: Sequence[Layer], masks: Masks, samples: int) -> NDArray[np.int64]:
    """What each of `samples` samples really takes, given the mask (n, g) of every gated layer."""
    total_n = np.zeros(samples, dtype=np.int64)
    kept = {layer.name: channels_kept(masks[layer.name], layer) for layer in layers if layer.gated}
    for layer in layers:
        in_n = kept[layer.source] if layer.source else np.full(samples, layer.inputs)
        out_n = kept[layer.name] if layer.gated else np.full(samples, layer.outputs)
        area = layer.taps * layer.pixels
        total_n += (in_n if layer.depthwise else in_n * out_n) * area + layer.predictor_macs
    return total_n


def channels_kept(mask_ng: Bools, layer: Layer) -> NDArray[np.int64]:
    """Output channels that each sample computes."""
    sizes_g = np.minimum(layer.group, layer.outputs - layer.group * np.arange(mask_ng.shape[1]))
    kept_n: NDArray[np.int64] = mask_ng.astype(np.int64) @ sizes_g
    return kept_n


def reduction(layers: Sequence[Layer], masks: Masks) -> float:
    """Share of the dense network's multiply-accumulates that is saved, on the average."""
    samples = len(next(iter(masks.values())))
    return 1.0 - float(sample_macs(layers, masks, samples).mean()) / dense_macs(layers)
